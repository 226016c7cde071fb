"""The machine: facts in, commands out. The only place where a run's next move is decided.

How it works. ``receive(fact)`` looks the fact's type up in a table of rules, changes the run's books and returns the
commands that follow. It imports no event loop, reads no clock, draws no random number and logs nothing; what user code
decided is in the fact. So a journal of facts, replayed into a fresh machine, gives the same run. It is one mutable
object and a fact costs the same however long the run is: no queue is scanned, nothing is copied.

The books:

* an `Invocation` (books.py) for each event a step is working on or will be: *queued* (all of the step's ``num_workers``
  slots are taken), *running*, *waiting* (suspended in ``wait_for_event``, without a slot), *resuming* (answered, wants
  its slot back) or *retrying* (until its timer fires). A return or a final failure removes it.
* a `Wait` for each open ``wait_for_event``, and the events that nobody accepts, kept for a wait that may still open
  (waits.py).
* `Joins` for list fan-out and fan-in (joins.py) and a `Buffer` for each ``collect_events`` (collecting.py).
* `Held` events: what a stepwise run produced and nobody has released yet.

Where an event goes: to every step that accepts its exact type, else its nearest accepted base class; and to the wait
that has been open longest of those it satisfies. A `StopEvent` ends the run, an `InputRequiredEvent` also goes to the
stream.

When nothing runs (``busy`` is 0) and no retry is due the run is *at rest*: it is waiting if something outside can move
it (an open wait, a step that takes human answers, an unanswered question), and has stalled if not.

Named rules for what a journal or a racing clock may bring:

* *stale*: after the end every fact is ignored, and so is a timer that was answered or cancelled in the meantime.
* *sent before*: what an attempt sends again (same invocation, same position, equal event) is not delivered again.
* *answered before*: a wait that an earlier attempt had answered gets its recorded answer.
* *impossible*: a fact about an invocation, wait or held event that isn't there raises `ImpossibleFact` and changes
  nothing.
"""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar

from flowkit.books import QUEUED, RESUMING, RETRYING, RUNNING, WAITING, Invocation, Timer
from flowkit.collecting import Buffer
from flowkit.dispatch import Dispatch, enqueue
from flowkit.errors import (
    ImpossibleFact,
    StepFailed,
    WorkflowCancelled,
    WorkflowCancelledByUser,
    WorkflowTimeoutError,
    WrongReturn,
)
from flowkit.events import Event, InputRequiredEvent, StepFailedEvent
from flowkit.facts import (
    AnswerWait,
    Command,
    EventCollected,
    EventPublished,
    EventSent,
    Fact,
    GiveBatch,
    Publish,
    RunCancelled,
    RunFailed,
    RunResumed,
    RunStarted,
    RunTimedOut,
    SetTimer,
    StateWritten,
    StepCommitted,
    Stepped,
    StepRaised,
    StepReturned,
    StepwiseEnded,
    TimerFired,
    WaitAbandoned,
    WaitOpened,
)
from flowkit.joins import ROOT
from flowkit.waits import Wait

__all__ = ["Machine"]

NOTHING: tuple[Command, ...] = ()


class Machine(Dispatch):
    """The books of one run. Read anything; only `receive` changes them.

    ``patient``: at rest without anything to wait for, wait all the same (``Workflow(stalled="wait")``).
    """

    __slots__ = ()

    def receive(self, fact: Fact) -> Sequence[Command]:
        """Enter a fact and say what follows.

        Raises:
            ImpossibleFact: it can't have happened in this run; nothing was changed.
        """
        if self.outcome is not None:
            return NOTHING  # stale: the run is over
        return self.RULES[type(fact)](self, fact)

    # ------------------------------------------------------------------------------------------------- questions

    def accepts(self, kind: type[Event]) -> bool:
        """Whether an event of this type would be taken now, by a step or an open wait."""
        route = self.plan.route(kind)
        return bool(route.steps) or route.stops or any(base in self.waits.open for base in kind.__mro__)

    def active_steps(self) -> list[str]:
        """Names of the steps that have an invocation running, waiting or retrying, each once, in wiring order."""
        active = {invocation.lane.spec.name for invocation in self.invocations.values() if invocation.status != QUEUED}
        return [lane.spec.name for lane in self.lanes if lane.spec.name in active]

    def expects(self, event: Event) -> bool:
        """Whether this event would be taken now: a step accepts it, or an open wait is satisfied by it."""
        return bool(self.plan.route(type(event)).steps) or self.waits.oldest(event) is not None

    def retry_info(self, invocation: int) -> tuple[int, float | None]:
        """The running attempt's number, from 0, and the time of the first failure (``None`` before it)."""
        entry = self._known(invocation)
        return entry.attempt, entry.since

    # ------------------------------------------------------------------------------------------------ rules: start

    def _started(self, fact: RunStarted) -> Sequence[Command]:
        if self.started:
            raise ImpossibleFact("a run started twice")
        self.started = True
        self.run_id = fact.run_id
        self.start_event = fact.event
        out: list[Command] = []
        if self.stepwise:
            self._hold(fact.event, "run()", None, ROOT, 0)
        else:
            self._deliver_from_outside(fact.event, "run()", None, out)
        return out

    def _resumed(self, fact: RunResumed) -> Sequence[Command]:
        self.started = True
        out: list[Command] = []
        for lane in self.lanes:
            lane.running = 0
            lane.resuming = None
        self.busy = 0
        for entry in self.invocations.values():
            if (waiting := entry.waiting) is not None:
                # Also what an attempt asked that failed, or was cancelled as the run was left: the next asks it again.
                waiting.unseen = [waiter for waiter in waiting.opened if waiter not in waiting.answers]
            if entry.status in (RUNNING, WAITING, RESUMING):
                # Its body is gone with the process. It starts again and finds its answers and sends on record.
                self._drop_waits(entry, [])
                entry.status = QUEUED
                entry.rewind()
                enqueue(entry)
        # Those who read this run's stream now haven't seen what it asked before.
        out += [Publish(question) for question in self.questions]
        out += [SetTimer(number, timer.at) for number, timer in self.timers.items()]
        for lane in self.lanes:
            if lane.queue:
                lane.queue = deque(sorted(lane.queue, key=lambda entry: entry.number))
            self._refill(lane, out)
        self._rest(out)
        return out

    # --------------------------------------------------------------------------------------------- rules: events

    def _sent(self, fact: EventSent) -> Sequence[Command]:
        if fact.step is not None and fact.step not in self.plan.index:
            raise ImpossibleFact(f"{type(fact.event).__name__} was sent to a step {fact.step!r}, which there isn't")
        out: list[Command] = []
        sender = self.invocations.get(fact.sender) if fact.sender is not None else None
        if sender is None:
            if fact.sender is not None or not self.started:
                raise ImpossibleFact(f"{type(fact.event).__name__} was sent by {fact.sender}, which isn't under way")
            who = "send_event() from outside"
            if self.stepwise:
                self._hold(fact.event, who, fact.step, ROOT, 0)
                return out
            self._deliver_from_outside(fact.event, who, fact.step, out)
            return out
        sent = sender.sent
        if sent is None:
            sent = sender.sent = []
        position = sender.at_sent
        sender.at_sent = position + 1
        if position == len(sent):
            sent.append((fact.event, fact.step))
        elif sent[position] == (fact.event, fact.step):
            return NOTHING  # sent before
        else:
            sent[position] = (fact.event, fact.step)
        self._emit(fact.event, sender, fact.step, out)
        return out

    def _published(self, fact: EventPublished) -> Sequence[Command]:
        if isinstance(fact.event, InputRequiredEvent):
            self.questions.append(fact.event)
        return (Publish(fact.event),)

    def _written(self, fact: StateWritten) -> Sequence[Command]:
        self.state.write(fact.path, fact.value)
        return NOTHING

    def _collected(self, fact: EventCollected) -> Sequence[Command]:
        entry = self._known(fact.invocation)
        key = (entry.lane.spec.name, fact.buffer)
        buffer = self.buffers.get(key)
        if buffer is None:
            buffer = self.buffers[key] = Buffer(key[0])
        if fact.expected is not None:
            buffer.expect(fact.expected)
        batches = entry.batches
        if batches is None:
            batches = entry.batches = []
        position = entry.at_batch
        entry.at_batch = position + 1
        if position < len(batches):
            batch = batches[position]  # collected before, by an earlier attempt
        else:
            buffer.add(fact.event)
            batch = buffer.take()
            batches.append(batch)
        return NOTHING if batch is None else (GiveBatch(batch),)

    # ------------------------------------------------------------------------------------------- rules: attempts

    def _returned(self, fact: StepReturned) -> Sequence[Command]:
        entry = self.invocations.get(fact.invocation)
        if entry is None or entry.status != RUNNING:
            raise ImpossibleFact(f"invocation {fact.invocation} returned, but it wasn't running")
        out: list[Command] = []
        result = fact.result
        spec = entry.lane.spec
        if result is None:
            if not spec.returns_none:
                return self._misreturned(entry, result)
        elif type(result) is list:
            events: list[Any] = fact.result
            if not spec.returns_lists or not all(spec.may_return(event.__class__, listed=True) for event in events):
                return self._misreturned(entry, result)
            self._fan_out(events, entry, out)
        elif type(result) in spec.returns or spec.may_return(fact.result.__class__):
            self._emit(result, entry, None, out)
        else:
            return self._misreturned(entry, result)
        if self.outcome is None:
            self._end(entry, out)
        return out

    def _committed(self, fact: StepCommitted) -> Sequence[Command]:
        entry = self.invocations.get(fact.invocation)
        if entry is None or entry.status != RUNNING:
            raise ImpossibleFact(f"invocation {fact.invocation} returned, but it wasn't running")
        out: list[Command] = []
        for effect in (*fact.effects, StepReturned(fact.time, fact.invocation, fact.result)):
            if self.outcome is None:
                out.extend(self.RULES[type(effect)](self, effect))
        return out

    def _raised(self, fact: StepRaised) -> Sequence[Command]:
        entry = self.invocations.get(fact.invocation)
        if entry is None or entry.status != RUNNING:
            raise ImpossibleFact(f"invocation {fact.invocation} failed, but it wasn't running")
        out: list[Command] = []
        since = fact.time if entry.since is None else entry.since
        if fact.delay is not None:
            self._drop_waits(entry, out)
            entry.since = since
            entry.attempt += 1
            entry.rewind()
            entry.status = RETRYING
            self.busy -= 1
            self.retrying += 1
            entry.lane.running -= 1
            self._set_timer(Timer(fact.time + fact.delay, entry.number, None), out)
            self._refill(entry.lane, out)
            return out
        spec = entry.lane.spec
        catcher = self.plan.catcher_of(spec.name)
        if catcher is None:
            self._finish(out, error=StepFailed(spec.name, entry.event, entry.attempt + 1, fact.error))
            return out
        failure = StepFailedEvent(
            step_name=spec.name,
            input_event=entry.event,
            exception=fact.error,
            attempts=entry.attempt + 1,
            elapsed_seconds=fact.time - since,
        )
        self._invoke(self.lane_of(catcher), failure, entry.scope, entry.place, out)
        self._end(entry, out)
        return out

    def _misreturned(self, entry: Invocation, result: Any) -> Sequence[Command]:
        spec = entry.lane.spec
        error = WrongReturn(self.plan.name, spec.name, result, spec.returns_text, spec.where)
        out: list[Command] = []
        self._finish(out, error=StepFailed(spec.name, entry.event, entry.attempt + 1, error))
        return out

    # ---------------------------------------------------------------------------------------------- rules: waits

    def _wait_opened(self, fact: WaitOpened) -> Sequence[Command]:
        entry = self._known(fact.invocation)
        waiting = entry.waits()
        if fact.waiter in waiting.open or fact.waiter in waiting.to_answer:
            raise ImpossibleFact(f"wait {fact.waiter!r} was opened twice")
        if fact.waiter in waiting.answers:
            return (AnswerWait(entry.number, fact.waiter, waiting.answers[fact.waiter]),)  # answered before
        out: list[Command] = []
        is_new = fact.waiter not in waiting.opened
        if is_new:
            waiting.opened[fact.waiter] = None if fact.timeout is None else fact.time + fact.timeout
        wait = Wait(self._number(), entry.number, fact.waiter, fact.event_type, fact.requirements)
        kept, place = self.waits.claim(wait)
        # What was asked before and has its answer now isn't asked again.
        if fact.question is not None and (is_new or (kept is None and fact.waiter in waiting.unseen)):
            out.append(Publish(fact.question))
            waiting.unseen = [waiter for waiter in waiting.unseen if waiter != fact.waiter]
        if kept is not None:
            waiting.answers[fact.waiter], waiting.places[fact.waiter] = kept, place
            out.append(AnswerWait(entry.number, fact.waiter, kept))
            return out
        waiting.open[fact.waiter] = wait
        self.waits.add(wait)
        deadline = waiting.opened[fact.waiter]
        if deadline is not None:
            wait.timer = self._set_timer(Timer(deadline, entry.number, fact.waiter), out)
        if len(waiting.open) == 1 and entry.status == RUNNING:
            entry.status = WAITING
            self.busy -= 1
            entry.lane.running -= 1
            self._refill(entry.lane, out)
            self._rest(out)
        return out

    def _wait_abandoned(self, fact: WaitAbandoned) -> Sequence[Command]:
        entry = self._known(fact.invocation)
        out: list[Command] = []
        waiting = entry.waiting
        if waiting is None or fact.waiter not in waiting.opened:
            raise ImpossibleFact(f"wait {fact.waiter!r} was given up, but never opened")
        wait = waiting.open.get(fact.waiter)
        if wait is not None:
            self._close_wait(entry, wait, out)
        if entry.status in (WAITING, RESUMING):
            # Its own scope gave up waiting: it runs again at once, for that moment beyond num_workers if need be.
            if entry.status == RESUMING:
                assert entry.lane.resuming is not None
                entry.lane.resuming.remove(entry)
            self._run(entry)
            self._give_answers(entry, out)
        unread, place = waiting.answers.pop(fact.waiter, None), waiting.places.pop(fact.waiter, None)
        if unread is not None:
            # The answer came while the scope was being cancelled: nobody has seen it, so it is the next wait's, and
            # nobody's that came later. (Of one that an earlier flowkit wrote down nothing says when it came.)
            place = self.waits.place(self.last) if place is None else place
            other = self.waits.oldest(unread)
            route = self.plan.route(type(unread))
            if other is not None:
                self._answer(other, unread, place, out)
            elif not (route.steps or route.asks):
                _ = self._number()  # it was the event's once: later numbers are in journals
                self.waits.keep(place, unread, f"a wait that step {entry.lane.spec.name!r} gave up")
        return out

    # --------------------------------------------------------------------------------------------- rules: timers

    def _timer_fired(self, fact: TimerFired) -> Sequence[Command]:
        timer = self.timers.pop(fact.timer, None)
        if timer is None:
            return NOTHING  # stale: answered or cancelled while it fired
        out: list[Command] = []
        entry = self.invocations[timer.invocation]
        if timer.waiter is None:
            entry.status = QUEUED
            self.retrying -= 1
            enqueue(entry)
            self._refill(entry.lane, out)
        else:
            wait = entry.waits().open[timer.waiter]
            wait.timer = None
            self._answer(wait, None, 0.0, out)
        return out

    # ------------------------------------------------------------------------------------------- rules: stepwise

    def _stepped(self, fact: Stepped) -> Sequence[Command]:
        out: list[Command] = []
        self._release_held(fact.chosen, out)
        self._rest(out)
        return out

    def _stepwise_ended(self, fact: StepwiseEnded) -> Sequence[Command]:
        out: list[Command] = []
        self._release_held(fact.chosen, out)
        self.stepwise = False
        self._rest(out)
        return out

    def _release_held(self, chosen: Iterable[int], out: list[Command]) -> None:
        numbers = set(chosen)
        if not numbers <= self.held.keys():
            raise ImpossibleFact(f"released events {sorted(numbers - self.held.keys())}, which aren't held")
        held, self.held = self.held, {}
        for number, entry in held.items():
            if number in numbers:
                self._deliver(
                    entry.event, entry.sender, entry.target, entry.scope, entry.place, out, published=entry.published
                )
                if self.outcome is not None:
                    return
        for entry in held.values():
            self._leave(entry.scope, out)

    # ------------------------------------------------------------------------------------------------ rules: end

    def _cancelled(self, fact: RunCancelled) -> Sequence[Command]:
        kind = WorkflowCancelledByUser if fact.by_user else WorkflowCancelled
        out: list[Command] = []
        self._finish(out, error=kind(self.plan.name, fact.reason))
        return out

    def _timed_out(self, fact: RunTimedOut) -> Sequence[Command]:
        out: list[Command] = []
        self._finish(out, error=WorkflowTimeoutError(self.plan.name, fact.timeout, self.active_steps()))
        return out

    def _failed(self, fact: RunFailed) -> Sequence[Command]:
        out: list[Command] = []
        self._finish(out, error=fact.error)
        return out

    # -------------------------------------------------------------------------------------------------- bookkeeping

    def _known(self, number: int) -> Invocation:
        entry = self.invocations.get(number)
        if entry is None or entry.status in (QUEUED, RETRYING):
            raise ImpossibleFact(f"invocation {number} is not active")
        return entry

    RULES: ClassVar[dict[type, Callable[[Any, Any], Sequence[Command]]]] = {
        RunStarted: _started,
        RunResumed: _resumed,
        EventSent: _sent,
        StepReturned: _returned,
        StepCommitted: _committed,
        StepRaised: _raised,
        EventCollected: _collected,
        WaitOpened: _wait_opened,
        WaitAbandoned: _wait_abandoned,
        TimerFired: _timer_fired,
        EventPublished: _published,
        StateWritten: _written,
        Stepped: _stepped,
        StepwiseEnded: _stepwise_ended,
        RunCancelled: _cancelled,
        RunTimedOut: _timed_out,
        RunFailed: _failed,
    }
