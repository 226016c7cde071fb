"""The timeline of an execution as a still picture: time runs to the right, at one scale, from first fact to last.

A picture has only so much room: bars in one lane that would be closer than a pixel are drawn as one that says how many
it is, and more than `MOST_LINKS` arrows are left out, which the picture says too. The page (page.py) draws from the
same lanes and shows all of them as one zooms in.
"""

import math
from collections.abc import Iterator, Sequence

import attrs

from flowkit.drawing.execution import Execution
from flowkit.drawing.lanes import Bar, Lanes, Sign, lanes_of
from flowkit.drawing.picture import frame, shortened, text, width_of

__all__ = ["MOST_LINKS", "seconds", "timeline_svg", "title_of"]

WIDTH, LANE, TOP = 1000.0, 20.0, 62.0
MOST_LINKS = 300
_WORST = ("failed", "retried", "cut", "running", "returned")


def timeline_svg(execution: Execution, *, style: bool = True) -> str:
    """The timeline as SVG."""
    lanes = lanes_of(execution)
    left = max([90.0, *(width_of(shortened(row.name, 32)) + 28 + 14 * row.depth for row in lanes.rows)])
    height = TOP + LANE * lanes.count + 26
    span = lanes.span or 1.0

    def x(time: float) -> float:
        return round(left + 6 + (WIDTH - 12) * min(1.0, max(0.0, time / span)), 2)

    def y(lane: int) -> float:
        return TOP + LANE * lane

    parts = [f'<text class="name" x="12" y="20">{text(title_of(execution))}</text>']
    parts.append(f'<text class="dim" x="12" y="38">{text(_remarks(execution, lanes))}</text>')
    for row in lanes.rows:
        shade = "row" if row.is_step and lanes.rows.index(row) % 2 else "none"
        if shade == "row":
            parts.append(
                f'<rect class="row" x="0" y="{y(row.first):g}" width="{left + WIDTH:g}" height="{LANE * row.count:g}"/>'
            )
        name = text(shortened(row.name, 32))
        parts.append(
            f'<text class="{"name" if row.is_step else "dim"}" x="{12 + 14 * row.depth:g}" y="{y(row.first) + 14:g}">'
            f"{name}</text>"
        )
    for time, label in ticks(lanes.span):
        parts.append(f'<line class="grid" x1="{x(time):g}" x2="{x(time):g}" y1="{TOP - 6:g}" y2="{height - 22:g}"/>')
        parts.append(f'<text class="dim" text-anchor="middle" x="{x(time):g}" y="{height - 8:g}">{text(label)}</text>')
    narrow = span / (WIDTH - 12)
    parts += [_bar(bar, x(bar.began), x(bar.ended), y(bar.lane)) for bar in merged(lanes.bars, narrow)]
    if len(lanes.links) <= MOST_LINKS:
        for link in lanes.links:
            parts.append(_link(x(link.time), y(link.lane), x(link.to_time), y(link.to_lane), link.event))
    for sign in _thinned(lanes.signs, narrow):
        bad = " bad" if sign.kind == "error" else ""
        at, top = x(sign.time), y(sign.lane)
        parts.append(
            f'<g class="hit"><title>{text(sign.detail)}</title><line class="mark{bad}" x1="{at:g}" x2="{at:g}" '
            f'y1="{top + 1:g}" y2="{top + LANE - 1:g}"/>'
            f'<circle class="mark{bad}" cx="{at:g}" cy="{top + 3:g}" r="2"/></g>'
        )
    return frame("".join(parts), round(left + WIDTH + 12, 1), height, title_of(execution), style=style)


def title_of(execution: Execution) -> str:
    """What a drawing of it is called."""
    took = seconds(execution.ended - execution.began)
    return f"{shortened(execution.workflow)}: {took}, {shortened(execution.outcome, 90)}"


def _remarks(execution: Execution, lanes: Lanes) -> str:
    count = len(execution.attempts)
    said = [f"run {shortened(execution.run_id)}", f"{count} attempt{'' if count == 1 else 's'}"]
    if execution.dropped:
        said.append("the oldest facts are not remembered: it begins in the middle")
    if len(lanes.links) > MOST_LINKS:
        said.append(f"{len(lanes.links)} arrows left out")
    return "; ".join(said)


def merged(bars: Sequence[Bar], narrow: float) -> Iterator[Bar]:
    """The bars, with those that are narrower than this (in seconds) and that near to each other as one."""
    run: list[Bar] = []
    for bar in bars:
        small = bar.ended - bar.began < narrow and bar.what not in ("waiting", "pause")
        if run and (not small or bar.lane != run[-1].lane or bar.began - run[0].began > 2 * narrow):
            yield _one(run)
            run = []
        if small:
            run.append(bar)
        else:
            yield bar
    if run:
        yield _one(run)


def _one(run: list[Bar]) -> Bar:
    if len(run) == 1:
        return run[0]
    what = next((one for one in _WORST if any(bar.what == one for bar in run)), run[0].what)
    said = f"{len(run)} attempts, {run[0].label} to {run[-1].label}"
    return attrs.evolve(run[0], ended=max(bar.ended for bar in run), what=what, label="", detail=said)  # type: ignore[arg-type]


def _thinned(signs: Sequence[Sign], narrow: float) -> Iterator[Sign]:
    last: dict[tuple[int, str], float] = {}
    for sign in signs:
        if sign.time - last.get((sign.lane, sign.kind), -1.0) >= narrow:
            last[sign.lane, sign.kind] = sign.time
            yield sign


def _bar(bar: Bar, left: float, right: float, top: float) -> str:
    title = f"<title>{text(bar.detail)}\n{text(f'{seconds(bar.began)} to {seconds(bar.ended)}')}</title>"
    if bar.what == "pause":
        line = f'<line class="pause" x1="{left:g}" x2="{right:g}" y1="{top + LANE / 2:g}" y2="{top + LANE / 2:g}"/>'
        return f'<g class="hit">{title}{line}</g>'
    inset = 6.0 if bar.what == "waiting" else 3.0
    width = round(max(2.0, right - left), 2)
    label = ""
    if bar.label and bar.what != "waiting" and width > width_of(bar.label, 11.0) + 6:
        label = f'<text class="dim" x="{left + 4:g}" y="{top + 14:g}" style="fill:var(--bg)">{text(bar.label)}</text>'
    return (
        f'<g class="hit">{title}<rect class="{bar.what}" x="{left:g}" y="{top + inset:g}" width="{width:g}" '
        f'height="{LANE - 2 * inset:g}" rx="2"/>{label}</g>'
    )


def _link(x: float, y: float, to_x: float, to_y: float, event: str) -> str:
    y, end = y + LANE / 2, to_y + (3.0 if to_y > y else LANE - 3.0 if to_y + LANE < y else LANE / 2)
    way = 1 if end > y else -1
    path = f"M{x:g} {y:g}C{x + 10:g} {y:g} {to_x:g} {end - 12 * way:g} {to_x:g} {end:g}"
    return (
        f'<path class="link" d="{path}"><title>{text(event)}</title></path>'
        + f'<circle class="tip" cx="{to_x:g}" cy="{end:g}" r="2.2"/>'
    )


def ticks(span: float) -> Iterator[tuple[float, str]]:
    """About ten round times."""
    if span <= 0:
        yield 0.0, "0 s"
        return
    units = [(120, 1e-9), (300, 30.0), (7200, 60.0), (18_000, 1800.0), (math.inf, 3600.0)]  # as `seconds` has them
    step = next(unit for upto, unit in units if span <= upto)
    while span / step > 10:
        found = next((factor for factor in (2, 5) if span / (step * factor) <= 10), None)
        step *= found or 10
        if found:
            break
    number = 0
    while number * step <= span * 1.0001:
        yield number * step, seconds(number * step)
        number += 1


def seconds(value: float) -> str:
    """A duration with its unit."""
    if value and abs(value) < 1e-3:
        return f"{value * 1e6:.3g} µs"
    if value and abs(value) < 1:
        return f"{value * 1e3:.4g} ms"
    return (
        f"{value:.4g} s"
        if abs(value) < 120
        else f"{value / 60:.4g} min"
        if abs(value) < 7200
        else f"{value / 3600:.4g} h"
    )
