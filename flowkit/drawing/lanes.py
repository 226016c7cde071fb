"""An execution as lanes: a row for each step, more where it worked on several events at once, and what is in them.

An invocation keeps one lane from its first attempt to its last, retry waits included, and takes the first that is free
(which is the fewest possible: the greedy colouring of an interval graph). Runs nested in a step have rows of their own
below it, together for all of one workflow.
"""

import heapq
from typing import Literal

import attrs

from flowkit.drawing.execution import Attempt, Execution

__all__ = ["MOST_LANES", "Bar", "Lanes", "Link", "Row", "Sign", "lanes_of"]

MOST_LANES = 64
"""Of one step. What is more at once is drawn on the last of them."""
Path = tuple[str, ...]
UNKNOWN = "(a step that is not remembered)"
What = Literal["returned", "failed", "retried", "cut", "running", "waiting", "pause"]


@attrs.frozen
class Row:
    """A step's lanes: from ``first`` on, ``count`` of them. ``depth`` is how deep its run is nested."""

    name: str
    depth: int
    first: int
    count: int
    is_step: bool = True


@attrs.frozen
class Bar:
    """What fills a lane for a while, in seconds since the drawing's begin."""

    lane: int
    began: float
    ended: float
    what: What
    label: str
    detail: str


@attrs.frozen
class Sign:
    """A moment."""

    lane: int
    time: float
    kind: str
    detail: str


@attrs.frozen
class Link:
    """From where an event was made to where work on it began."""

    lane: int
    time: float
    to_lane: int
    to_time: float
    event: str


@attrs.frozen
class Lanes:
    """All of it. Lane 0 is what is outside any step."""

    rows: tuple[Row, ...]
    bars: tuple[Bar, ...]
    signs: tuple[Sign, ...]
    links: tuple[Link, ...]
    count: int
    span: float


@attrs.define(eq=False)
class _Run:
    path: Path
    key: int
    execution: Execution
    parent: "tuple[int, int] | None" = None  # the run and the invocation that it was started in


def lanes_of(execution: Execution) -> Lanes:
    """Give everything in an execution its lane."""
    runs: list[_Run] = []
    order: list[tuple[Path, int, bool]] = []
    _collect(execution, (), runs, order)
    spans = _spans(runs)
    rows, first, lane_of = [Row("outside", 0, 0, 1)], 1, dict[tuple[int, int], int]()
    for path, depth, is_step in order:
        if not is_step:
            rows.append(Row(path[-1], depth, first, 1, is_step=False))
            first += 1
            continue
        count = _assign(sorted(spans.get(path, ())), first, lane_of)
        rows.append(Row(path[-1], depth, first, count))
        first += count
    bars: list[Bar] = []
    signs: list[Sign] = []
    links: list[Link] = []
    for run in runs:
        _fill(run, execution.began, lane_of, bars, signs, links)
    bars.sort(key=lambda bar: (bar.lane, bar.began, bar.ended))
    ends = [bar.ended for bar in bars]
    return Lanes(
        tuple(rows), tuple(bars), tuple(signs), tuple(links), first, max([execution.ended - execution.began, *ends])
    )


def _collect(execution: Execution, above: Path, runs: list[_Run], order: list[tuple[Path, int, bool]]) -> None:
    """The runs, outer ones first, and the rows in the order of the wiring, those of nested runs below their step."""
    _rows([execution], above, 0, order)
    runs.append(_Run(above, 0, execution))
    for run in runs:
        for invocation, inner in run.execution.nested:
            path = _place_of(run.execution, run.path, invocation, inner)
            runs.append(_Run(path, len(runs), inner, (run.key, invocation)))


def _rows(several: list[Execution], path: Path, depth: int, order: list[tuple[Path, int, bool]]) -> None:
    children = _children(several, path)
    known = [attempt.step for one in several for attempt in one.attempts]
    known += [child[-2] for child in children]
    for step in dict.fromkeys([*(step for one in several for step in one.steps), *known]):
        order.append(((*path, step), depth, True))
        for child, group in children.items():
            if child[:-1] == (*path, step):
                order.append((child, depth + 1, False))
                _rows(group, child, depth + 1, order)


def _children(several: list[Execution], path: Path) -> dict[Path, list[Execution]]:
    """The runs nested in these, together where they are of one workflow and in one step."""
    found: dict[Path, list[Execution]] = {}
    for one in several:
        for invocation, inner in one.nested:
            found.setdefault(_place_of(one, path, invocation, inner), []).append(inner)
    return found


def _place_of(outer: Execution, path: Path, invocation: int, inner: Execution) -> Path:
    step = outer.step_of(invocation) or UNKNOWN
    return (*path, step, f"▣ {inner.workflow}")


def _spans(runs: list[_Run]) -> dict[Path, list[tuple[float, float, int, int]]]:
    """From when to when each invocation lasted, by row."""
    found: dict[Path, list[tuple[float, float, int, int]]] = {}
    for run in runs:
        spans: dict[int, tuple[str, float, float]] = {}
        for attempt in run.execution.attempts:
            ended = _end(attempt, run.execution)
            _, began, until = spans.get(attempt.invocation, ("", attempt.began, ended))
            spans[attempt.invocation] = attempt.step, min(began, attempt.began), max(until, ended)
        for invocation, (step, began, ended) in spans.items():
            found.setdefault((*run.path, step), []).append((began, ended, run.key, invocation))
    return found


def _end(attempt: Attempt, execution: Execution) -> float:
    ended = execution.ended if attempt.ended is None else attempt.ended
    return ended if attempt.retry_at is None else max(ended, min(attempt.retry_at, execution.ended))


def _assign(spans: list[tuple[float, float, int, int]], first: int, lane_of: dict[tuple[int, int], int]) -> int:
    """Give each the first lane that is free; how many that makes."""
    free, busy, count = list[int](), list[tuple[float, int]](), 0
    for began, ended, run, invocation in spans:
        while busy and busy[0][0] <= began:
            heapq.heappush(free, heapq.heappop(busy)[1])
        if free:
            lane = heapq.heappop(free)
        else:
            lane, count = count, count + 1
        heapq.heappush(busy, (ended, lane))
        lane_of[run, invocation] = first + min(lane, MOST_LANES - 1)
    return max(1, min(count, MOST_LANES))


def _fill(
    run: _Run,
    zero: float,
    lane_of: dict[tuple[int, int], int],
    bars: list[Bar],
    signs: list[Sign],
    links: list[Link],
) -> None:
    execution = run.execution
    home = 0 if run.parent is None else lane_of.get(run.parent, 0)
    for attempt in execution.attempts:
        lane = lane_of[run.key, attempt.invocation]
        ended = execution.ended if attempt.ended is None else attempt.ended
        what: What = "cut" if attempt.outcome == "cut off" else attempt.outcome
        bars.append(Bar(lane, attempt.began - zero, ended - zero, what, attempt.event or attempt.step, _said(attempt)))
        if attempt.retry_at is not None:
            until = max(ended, min(attempt.retry_at, execution.ended))
            said = f"{attempt.step} waits {attempt.retry_at - ended:g} s to be tried again"
            bars.append(Bar(lane, ended - zero, until - zero, "pause", "", said))
    for wait in execution.waits:
        lane = lane_of.get((run.key, wait.invocation), 0)
        closed = execution.ended if wait.closed is None else wait.closed
        asked = f"\nasked: {wait.question}" if wait.question else ""
        said = f"{wait.step} waits for {wait.event}: {wait.outcome}{asked}"
        bars.append(Bar(lane, wait.opened - zero, closed - zero, "waiting", f"waits for {wait.event}", said))
    for mark in execution.marks:
        lane = home if mark.invocation is None else lane_of.get((run.key, mark.invocation), 0)
        signs.append(Sign(lane, mark.time - zero, mark.kind, f"{mark.kind}: {mark.text}"))
    for cause in execution.causes:
        lane = home if cause.source is None else lane_of.get((run.key, cause.source), 0)
        target = lane_of.get((run.key, cause.target), 0)
        links.append(Link(lane, cause.made - zero, target, cause.began - zero, cause.event))


def _said(attempt: Attempt) -> str:
    again = f", attempt {attempt.number}" if attempt.number > 1 else ""
    lines = [f"{attempt.step}{again}: {attempt.outcome}", f"on {attempt.text}"]
    if attempt.made:
        lines.append(f"made {attempt.made}")
    if attempt.error:
        lines.append(attempt.error)
    return "\n".join(lines)
