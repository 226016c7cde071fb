"""`Board`: what is going on in the runs that are watched, as numbers.

It is an `Instrument`, and knows neither a terminal nor a clock but those that it is given. Each call costs the same
however long the runs are and however many there were, and what is kept doesn't grow with them:

* Runs of the same workflow, started in the same step of the same parent, are one **group**: a fan-out whose 500 members
  each start a nested run makes one group of 500 runs. A workflow that is nested in itself is in the group of its
  outermost run. So there are as many groups as a program has workflows and places that start them.
* A group has a **tally** for each of its steps. Only what is under way is kept one by one: attempts, waits, retries.
  Errors are kept as texts, made when they are told: their ``__str__`` may be anybody's.
* The **notes** are the last things worth a line. Many events of one type that a step shows in quick succession (a
  text, token by token) share one.

**The books balance.** Of everything a step was given, `Tally.given`, each is in one of the other columns:
``queued + running + waiting + retrying + done + failed + dropped``. When all runs have ended the first four are zero.
"""

from collections import deque
from collections.abc import Callable
from itertools import islice
from typing import Any, Literal

import attrs

from flowkit.events import Event, InputRequiredEvent
from flowkit.instruments import Instrument, ObservedAttempt, ObservedRun, ObservedWait
from flowkit.live_view.texts import LONGEST, error_text

__all__ = ["Board", "Group", "LiveRun", "Note", "Retry", "Tally"]

NOTES = 60
"""More than fit on a terminal."""
QUICK = 0.5
"""Seconds between events of one type that share a note: what comes faster than that nobody reads one by one."""


@attrs.define(eq=False)
class Retry:
    """A failed attempt that will be made again. ``number`` counts attempts from 0; ``due`` is in the run's time."""

    number: int
    due: float
    error: str


@attrs.define(eq=False)
class _Work:
    """An attempt that has waited: ``waits`` are open, the first since ``since``; ``waited`` seconds before that."""

    waits: int = 0
    since: float = 0.0
    waited: float = 0.0


@attrs.define(eq=False)
class Tally:
    """One step of a group. ``produced`` counts events that it returned or sent.

    ``last``, ``total``: seconds at work in attempts that have ended, without what they waited for somebody. ``goal``:
    so many events it got from the fan-outs (returned lists) it is working on, of which ``reached`` are done.
    ``gathered``: what its ``collect_events`` last had, of how many.
    """

    name: str
    where: str
    workers: int
    given: int = 0
    queued: int = 0
    waiting: int = 0
    done: int = 0
    failed: int = 0
    dropped: int = 0
    retries: int = 0
    produced: int = 0
    ended: int = 0
    last: float = 0.0
    total: float = 0.0
    goal: int = 0
    reached: int = 0
    gathered: tuple[int, int] | None = None
    error: str = ""
    broken: bool = False
    """Whether what ended last in it had failed for good."""
    at_work: dict[ObservedAttempt, _Work | None] = attrs.field(factory=dict[ObservedAttempt, Any], repr=False)
    """Attempts that have begun, oldest first."""
    waits: dict[ObservedWait, None] = attrs.field(factory=dict[ObservedWait, None], repr=False)
    retrying: dict[tuple[ObservedRun, int], Retry] = attrs.field(
        factory=dict[tuple[ObservedRun, int], Retry], repr=False
    )
    members: set[tuple[ObservedRun, int]] = attrs.field(factory=set[tuple[ObservedRun, int]], repr=False)
    """What is left of the goal, by run and invocation."""

    @property
    def running(self) -> int:
        return len(self.at_work) - self.waiting

    @property
    def is_active(self) -> bool:
        return bool(self.queued or self.at_work or self.retrying)

    @property
    def oldest(self) -> float | None:
        """When the attempt began that has been at work for longest, without those that wait (of the first 100)."""
        at_work = islice(self.at_work.items(), 100)
        return next((each.began for each, work in at_work if work is None or not work.waits), None)

    @property
    def next_retry(self) -> Retry | None:
        """The one that is due first (of the first 100)."""
        return min(islice(self.retrying.values(), 100), key=lambda each: each.due, default=None)


@attrs.define(eq=False)
class Group:
    """The runs of one workflow, started in one place: a step of a parent group, or outside (``via`` is ``None``)."""

    workflow: str
    parent: "Group | None"
    via: str | None
    tallies: dict[str, Tally]
    inner: "dict[tuple[str, ...], Group]" = attrs.field(factory=dict[tuple[str, ...], "Group"])
    live: "dict[ObservedRun, LiveRun]" = attrs.field(factory=dict[ObservedRun, "LiveRun"], repr=False)
    begun: int = 0
    finished: int = 0
    failed: int = 0
    cancelled: int = 0
    suspended: int = 0
    outcome: str = ""
    """How the run ended that ended last; ``took``: seconds from its beginning."""
    took: float = 0.0
    error: str = ""
    """Of the run that failed last."""

    @property
    def label(self) -> str:
        return self.workflow if self.parent is None else f"{self.parent.label}/{self.workflow}"


@attrs.define(eq=False)
class LiveRun:
    """A run that is under way. ``zero`` is when the outermost run it is nested in began."""

    observed: ObservedRun
    group: Group
    zero: float
    retrying: dict[int, Tally] = attrs.field(factory=dict[int, Tally])


@attrs.define(eq=False)
class Note:
    """Something worth a line: an ``event`` shown, or a ``text``. ``offset``: seconds since the outermost run began.

    ``pieces``: the end of the text that several events made together, whose only field is a text each.
    """

    kind: Literal["shown", "asked", "answered", "retried", "failed", "run"]
    offset: float
    group: Group
    step: str | None
    event: Event | None = None
    text: str = ""
    times: int = 1
    pieces: str = ""


class Board(Instrument):
    """The model. ``clock`` gives seconds since the epoch, by the runs' own clock. Not safe to call from two threads."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.groups: dict[tuple[str, ...], Group] = {}
        self.live: dict[ObservedRun, LiveRun] = {}
        self.notes: deque[Note] = deque(maxlen=NOTES)
        self.has_goals = False

    # ------------------------------------------------------------------------------------------------------------ runs

    def run_started(self, run: ObservedRun) -> None:
        above = None if run.parent is None else self.live.get(run.parent.run)
        group = self._group(run, above)
        group.begun += 1
        began = self.clock() if run.began is None else run.began
        live = LiveRun(run, group, began if above is None else above.zero)
        self.live[run] = group.live[run] = live

    def _group(self, run: ObservedRun, above: LiveRun | None) -> Group:
        shape = (run.workflow, *(spec.name for spec in run.plan.steps))
        if above is None or run.parent is None:
            parent, via, groups, key = None, None, self.groups, shape
        else:
            around: Group | None = above.group
            while around is not None:
                if around.workflow == run.workflow and tuple(around.tallies) == shape[1:]:
                    return around  # nested in itself
                around = around.parent
            parent, via = above.group, run.parent.step
            groups, key = parent.inner, (via, *shape)
        group = groups.get(key)
        if group is None:
            tallies = {spec.name: Tally(spec.name, spec.where, spec.num_workers) for spec in run.plan.steps}
            group = groups[key] = Group(run.workflow, parent, via, tallies)
        return group

    def run_ended(self, run: ObservedRun) -> None:
        live = self.live.pop(run, None)
        if live is None:
            return
        group = live.group
        del group.live[run]
        for invocation, tally in live.retrying.items():
            del tally.retrying[run, invocation]
            tally.members.discard((run, invocation))
            tally.dropped += 1
        match run.outcome:
            case "finished":
                group.finished += 1
            case "failed":
                group.failed += 1
            case "cancelled":
                group.cancelled += 1
            case _:
                group.suspended += 1
        group.outcome = run.outcome or ""
        group.took = max(0.0, (run.ended or 0.0) - (run.began or 0.0))
        if run.outcome == "failed":
            group.error = error_text(run.error)
            if group.parent is not None:
                self._note(live, "failed", None, text=f"{run.workflow} failed: {group.error}")

    # -------------------------------------------------------------------------------------------------------- attempts

    def attempt_queued(self, attempt: ObservedAttempt, cause: ObservedAttempt | None) -> None:
        live = self.live.get(attempt.run)
        if live is None:
            return
        tally = live.group.tallies[attempt.step]
        tally.queued += 1
        key = attempt.run, attempt.invocation
        if tally.retrying and tally.retrying.pop(key, None) is not None:
            del live.retrying[attempt.invocation]
            tally.retries += 1
            return
        tally.given += 1
        # One of a fan-out's events; a list is what closes one.
        if cause is not None and _size(cause.result) > 1 and type(attempt.event) is not list:
            if not tally.members:
                tally.goal = tally.reached = 0
            tally.goal += 1
            tally.members.add(key)
            self.has_goals = True

    def attempt_started(self, attempt: ObservedAttempt) -> None:
        live = self.live.get(attempt.run)
        if live is not None:
            tally = live.group.tallies[attempt.step]
            tally.queued -= 1
            tally.at_work[attempt] = None

    def attempt_ended(self, attempt: ObservedAttempt) -> None:
        live = self.live.get(attempt.run)
        if live is None:
            return
        tally = live.group.tallies[attempt.step]
        if attempt not in tally.at_work:
            tally.queued -= 1
        else:
            work = tally.at_work.pop(attempt)
            ended = attempt.ended or 0.0
            waited = 0.0 if work is None else work.waited  # its waits have ended before it
            tally.last = max(0.0, ended - (attempt.began or ended) - waited)
            tally.total += tally.last
            tally.ended += 1
        if attempt.outcome == "returned":
            tally.done += 1
            tally.broken = False
            tally.produced += _size(attempt.result)
            for one in _questions(attempt.result):
                self._note(live, "asked", attempt.step, event=one)
        elif attempt.outcome == "raised":
            tally.error = error_text(attempt.error)
            if attempt.delay is not None:
                due = (attempt.ended or 0.0) + attempt.delay
                tally.retrying[attempt.run, attempt.invocation] = Retry(attempt.number, due, tally.error)
                live.retrying[attempt.invocation] = tally
                text = f"attempt {attempt.number + 1} failed: {tally.error}"
                self._note(live, "retried", attempt.step, text=text)
                return
            tally.failed += 1
            tally.broken = True
            self._note(live, "failed", attempt.step, text=f"failed: {tally.error}")
        else:
            tally.dropped += 1
        if tally.members:
            key = attempt.run, attempt.invocation
            if key in tally.members:
                tally.members.discard(key)
                tally.reached += attempt.outcome != "cancelled"

    # ---------------------------------------------------------------------------------------------------------- waits

    def wait_opened(self, wait: ObservedWait) -> None:
        attempt = wait.attempt
        live = self.live.get(attempt.run)
        if live is None:
            return
        tally = live.group.tallies[attempt.step]
        tally.waits[wait] = None
        if attempt in tally.at_work:
            work = tally.at_work[attempt]
            if work is None:
                work = tally.at_work[attempt] = _Work()
            if not work.waits:
                tally.waiting += 1
                work.since = max(wait.opened, attempt.began or wait.opened)
            work.waits += 1
        if wait.question is not None:
            self._note(live, "asked", attempt.step, event=wait.question)

    def wait_ended(self, wait: ObservedWait) -> None:
        attempt = wait.attempt
        live = self.live.get(attempt.run)
        if live is None:
            return
        tally = live.group.tallies[attempt.step]
        if wait not in tally.waits:
            return
        del tally.waits[wait]
        work = tally.at_work.get(attempt)
        if work is not None and work.waits:
            work.waits -= 1
            if not work.waits:
                tally.waiting -= 1
                work.waited += max(0.0, (wait.ended or work.since) - work.since)
        if wait.outcome == "answered":
            self._note(live, "answered", attempt.step, event=wait.answer)
        elif wait.outcome == "timed out":
            self._note(live, "answered", attempt.step, text=f"no {wait.event_type.__name__} came in time")

    # ---------------------------------------------------------------------------------------------------------- events

    def event_sent(self, run: ObservedRun, event: Event, sender: ObservedAttempt | None) -> None:
        live = self.live.get(run)
        if live is not None and sender is not None:
            live.group.tallies[sender.step].produced += 1

    def event_published(self, run: ObservedRun, event: Event, sender: ObservedAttempt | None) -> None:
        live = self.live.get(run)
        if live is not None:
            self._note(live, "shown", None if sender is None else sender.step, event=event)

    def event_collected(self, attempt: ObservedAttempt, event: Event, buffer: str | None, have: int, need: int) -> None:
        live = self.live.get(attempt.run)
        if live is not None and need > 1:
            live.group.tallies[attempt.step].gathered = have, need
            self.has_goals = True

    # ----------------------------------------------------------------------------------------------------------- notes

    def _note(
        self,
        live: LiveRun,
        kind: Literal["shown", "asked", "answered", "retried", "failed", "run"],
        step: str | None,
        *,
        event: Event | None = None,
        text: str = "",
    ) -> None:
        offset = max(0.0, self.clock() - live.zero)
        piece = _piece(event)
        like = [
            note
            for note in islice(reversed(self.notes), 4)
            if note.kind == kind
            and note.step == step
            and note.group is live.group
            and type(note.event) is type(event)
            and note.text == text
            and offset - note.offset < QUICK
            and kind in ("shown", "retried", "failed")
        ]
        # Two or three different events have a line each; when they come in a stream the last line is theirs.
        if like and (len(like) > 2 or like[0].times > 1 or piece or kind != "shown"):
            note = like[0]
            self.notes.remove(note)
            note.event, note.offset = event, offset
            note.times += 1
            note.pieces = (note.pieces + piece)[-LONGEST:]
            self.notes.append(note)
        else:
            self.notes.append(Note(kind, offset, live.group, step, event, text, pieces=piece))


def _piece(event: Event | None) -> str:
    """The text that an event is, if it is nothing else."""
    fields = () if event is None else tuple(vars(event).values())
    return fields[0] if len(fields) == 1 and type(fields[0]) is str else ""


def _questions(result: Any) -> list[InputRequiredEvent]:
    """What a step has asked by returning it."""
    events: list[Any] = result if type(result) is list else [result]  # pyright: ignore[reportUnknownVariableType]
    return [event for event in events if isinstance(event, InputRequiredEvent)]


def _size(result: Any) -> int:
    """How many events a step has returned."""
    if type(result) is list:
        return len(result)  # pyright: ignore[reportUnknownArgumentType]
    return 0 if result is None else 1
