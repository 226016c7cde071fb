"""`Frame`: what there is to see at one moment, as rows of plain values. No terminal, no colours, no widths.

Taken from a board by `frame_of`, in the thread that owns the board or with its lock; afterwards it is a value that any
thread may draw. `fitted` chooses what fits into so many rows: what is active first, in the order of the workflow all
the same; `left_out` says what is missing then.
"""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Literal

import attrs

from flowkit.live_view.board import Board, Group, LiveRun, Note, Tally
from flowkit.live_view.texts import brief, counted, harmless, lasting, said

__all__ = ["Frame", "LogRow", "NoteRow", "RunRow", "State", "StepRow", "fitted", "frame_of", "left_out", "summed"]

State = Literal["idle", "queued", "running", "waiting", "retrying", "done", "failed", "stopped"]

WAITS_SHOWN = 2
"""Of one step; the others are counted."""

FIRST, ACTIVE, DETAIL, PENDING, ENDED, IDLE = range(6)
"""Ranks of rows, the most important first."""


@attrs.frozen
class RunRow:
    """A run, or several of one workflow. ``left``: seconds until its timeout."""

    depth: int
    name: str
    state: State
    elapsed: float | None
    left: float | None
    text: str
    rank: int


@attrs.frozen
class StepRow:
    """A step. ``age`` is how long it has been at what ``state`` says, ``due`` in how many seconds it is tried again.
    ``bar``: so many done, of how many."""

    depth: int
    name: str
    state: State
    running: int
    workers: int
    waiting: int
    retrying: int
    age: float | None
    due: float | None
    queued: int
    given: int
    produced: int
    retries: int
    failed: int
    mean: float | None
    total: float
    bar: tuple[int, int] | None
    rank: int


@attrs.frozen
class NoteRow:
    """Something about the step or run above it."""

    depth: int
    kind: Literal["wait", "retry", "error"]
    text: str
    rank: int


@attrs.frozen
class LogRow:
    """One of the last things that happened. ``offset``: seconds since the outermost run began. ``tail``: where there is
    no room for ``text``, its beginning goes."""

    kind: Literal["shown", "asked", "answered", "retried", "failed", "run"]
    offset: float
    who: str
    text: str
    tail: bool = False


Row = RunRow | StepRow | NoteRow


@attrs.frozen
class Frame:
    """Everything, in order. ``has_bars``: some step has had something to count, in this frame or before."""

    rows: tuple[Row, ...]
    log: tuple[LogRow, ...]
    has_bars: bool
    is_live: bool


def frame_of(board: Board, *, notes: int = 12) -> Frame:
    """What a board shows now. ``notes``: at most so many of the last ones."""
    now = board.clock()
    rows: list[Row] = []
    # What has ended moves up, out of the way.
    for group in sorted(board.groups.values(), key=lambda each: bool(each.live)):
        _add_group(rows, group, 0, now)
    log = [_log_row(note) for note in islice(reversed(board.notes), notes)]
    return Frame(tuple(rows), tuple(reversed(log)), board.has_goals, bool(board.live))


def fitted(frame: Frame, room: int, log: int) -> Frame:
    """The frame in at most ``room`` rows, the last ``log`` lines included; a row is left free to say what is left out.

    The log gives way first, down to one line, then notes on steps, idle steps and those that are done.
    """
    of_log = min(len(frame.log), max(min(log, room - len(frame.rows)), min(2 if room >= 10 else 1, log)))
    space = room - of_log
    if len(frame.rows) > space:
        space -= 1
        order = sorted(range(len(frame.rows)), key=lambda index: frame.rows[index].rank)
        chosen = sorted(order[: max(1, space)])
        frame = attrs.evolve(frame, rows=tuple(frame.rows[index] for index in chosen))
    return attrs.evolve(frame, log=frame.log[len(frame.log) - of_log :])


def left_out(whole: Frame, part: Frame) -> str:
    """What `fitted` has left out, in words; empty where it is nothing of importance."""
    shown = set(map(id, part.rows))
    missing = [row for row in whole.rows if id(row) not in shown]
    steps = [row for row in missing if isinstance(row, StepRow)]
    if not missing:
        return ""
    if not steps:
        return f"… {counted(len(missing))} more lines"
    kinds = {"at work": 0, "done": 0, "failed": 0, "idle": 0}
    for row in steps:
        kinds[row.state if row.state in kinds else "at work"] += 1
    told = ", ".join(f"{counted(number)} {kind}" for kind, number in kinds.items() if number)
    return f"… {counted(len(steps))} more steps: {told}"


# ------------------------------------------------------------------------------------------------------------- groups


def _add_group(rows: list[Row], group: Group, depth: int, now: float) -> int:
    """Append a group's rows; the rank of the most important of them."""
    place = len(rows)
    inner: dict[str | None, list[Group]] = {}
    for each in group.inner.values():
        inner.setdefault(each.via, []).append(each)
    best = FIRST if group.live and not depth else ENDED
    for tally in group.tallies.values():
        row = _step_row(tally, depth, now, group)
        rows.append(row)
        rows.extend(_details(tally, depth, now))
        best = min(best, row.rank)
        for each in inner.get(tally.name, ()):
            best = min(best, _add_group(rows, each, depth + 1, now))
    # A group's heading is as important as what stands below it.
    rows.insert(place, _run_row(group, depth, now, rank=best))
    return best


def _run_row(group: Group, depth: int, now: float, *, rank: int) -> RunRow:
    name = harmless(group.workflow)
    ended = _ended(group)
    if group.via is not None:
        name += harmless(f" in {group.via}")
    if not group.live:
        return _ended_row(group, depth, name, ended, rank)
    oldest: LiveRun = next(iter(group.live.values()))
    run = oldest.observed
    left = None if run.deadline is None else max(0.0, run.deadline - now)
    elapsed = max(0.0, now - (now if run.began is None else run.began))
    if group.begun == 1:
        resumed = ", resumed" if run.resumed else ""
        text = harmless(f"run {run.run_id}{resumed}") if depth == 0 else ""
        return RunRow(depth, name, "running", elapsed, left, text, rank)
    text = ", ".join([f"{counted(len(group.live))} running", *ended])
    return RunRow(depth, f"{name} x{counted(group.begun)}", "running", elapsed, left, text, rank)


def _ended(group: Group) -> list[str]:
    outcomes = {
        "finished": group.finished,
        "failed": group.failed,
        "cancelled": group.cancelled,
        "suspended": group.suspended,
    }
    return [f"{counted(number)} {outcome}" for outcome, number in outcomes.items() if number]


def _ended_row(group: Group, depth: int, name: str, ended: list[str], rank: int) -> RunRow:
    state: State = "failed" if group.failed else "done" if group.finished else "stopped"
    if group.begun > 1:
        text = ", ".join(ended) + (f" ({group.error})" if group.error else "")
        return RunRow(depth, f"{name} x{counted(group.begun)}", state, None, None, text, rank)
    text = f"{group.outcome} {'in' if group.outcome == 'finished' else 'after'} {lasting(group.took)}"
    return RunRow(depth, name, state, None, None, f"{text}: {group.error}" if group.error else text, rank)


# -------------------------------------------------------------------------------------------------------------- steps


def _step_row(tally: Tally, depth: int, now: float, group: Group) -> StepRow:
    runs = len(group.live)
    was_cut_off = not runs and tally.dropped > 0 and group.outcome != "finished"
    state, age = _state(tally, now, is_live=runs > 0)
    if was_cut_off and state == "done":
        state = "stopped"
    retry = tally.next_retry
    bar: tuple[int, int] | None = None
    if tally.goal > 1 and (tally.members or not tally.is_active):
        bar = tally.reached, tally.goal
    elif tally.gathered is not None:
        bar = tally.gathered
    ranks = {"idle": IDLE, "queued": PENDING, "done": ENDED, "failed": DETAIL, "stopped": ENDED}
    return StepRow(
        depth=depth,
        name=harmless(tally.name),
        state=state,
        running=tally.running,
        workers=tally.workers * max(1, runs),  # each run has its own
        waiting=tally.waiting,
        retrying=len(tally.retrying),
        age=age,
        due=None if retry is None else max(0.0, retry.due - now),
        queued=tally.queued,
        given=tally.given,
        produced=tally.produced,
        retries=tally.retries,
        failed=tally.failed,
        mean=tally.total / tally.ended if tally.ended else None,
        total=tally.total,
        bar=bar,
        rank=ranks.get(state, ACTIVE),
    )


def _state(tally: Tally, now: float, *, is_live: bool) -> tuple[State, float | None]:
    if tally.running > 0:
        oldest = tally.oldest
        return "running", None if oldest is None else max(0.0, now - oldest)
    if tally.waiting:
        first = next(iter(tally.waits), None)
        return "waiting", None if first is None else max(0.0, now - first.opened)
    if tally.retrying:
        return "retrying", None
    if tally.queued:
        return "queued", None
    if not tally.given:
        return "idle", None
    if tally.broken:
        return "failed", None
    return ("done" if tally.done or is_live else "stopped"), None


def _details(tally: Tally, depth: int, now: float) -> Iterator[NoteRow]:
    for wait in islice(tally.waits, WAITS_SHOWN):
        text = f"waits {lasting(now - wait.opened)}"
        if wait.timeout is not None:
            text += f" ({lasting(wait.opened + wait.timeout - now)} left)"
        text += f" for {wait.event_type.__name__}"
        if wait.question is not None:
            text += f": {said(wait.question)}"
        yield NoteRow(depth, "wait", harmless(text), DETAIL)
    if len(tally.waits) > WAITS_SHOWN:
        yield NoteRow(depth, "wait", f"and {counted(len(tally.waits) - WAITS_SHOWN)} more waits", DETAIL)
    retry = tally.next_retry
    if retry is not None:
        others = f" (and {counted(len(tally.retrying) - 1)} more)" if len(tally.retrying) > 1 else ""
        text = f"attempt {retry.number + 2} in {lasting(retry.due - now)}, after {retry.error}{others}"
        yield NoteRow(depth, "retry", harmless(text), DETAIL)
    if tally.failed and tally.error and retry is None:
        times = f"failed {counted(tally.failed)} times, last: " if tally.failed > 1 else ""
        yield NoteRow(depth, "error", f"{times}{tally.error}", DETAIL)


# ---------------------------------------------------------------------------------------------------------------- log


def _log_row(note: Note) -> LogRow:
    who = note.step or note.group.workflow
    if note.group.parent is not None:
        who = f"{note.group.workflow}.{note.step}" if note.step else note.group.workflow
    text = note.text if note.event is None else brief(note.event)
    if note.event is not None and note.kind in ("asked", "answered"):
        text = f"{'asks' if note.kind == 'asked' else 'gets'} {said(note.event)}"
    if note.times > 1 and note.pieces:
        return LogRow(note.kind, note.offset, harmless(who), harmless(note.pieces), tail=True)
    if note.times > 1:
        text = (
            f"{counted(note.times)} times: {text}"
            if note.event is None
            else f"{counted(note.times)} events, last {text}"
        )
    return LogRow(note.kind, note.offset, harmless(who), harmless(text))


def summed(rows: Iterable[Row]) -> tuple[Row, ...]:
    """For the summary that stays: runs, and the steps that were given something, with what went wrong in them."""
    kept: list[Row] = []
    for row in rows:
        if isinstance(row, StepRow):
            if row.given:
                kept.append(row)
        elif isinstance(row, RunRow) or row.kind == "error":
            kept.append(row)
    return tuple(kept)
