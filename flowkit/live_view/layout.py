"""A frame as lines of coloured text, for a terminal of a given width.

The columns are laid out by hand: their widths depend on the terminal and the steps' names only, so nothing jumps while
numbers grow, and laying out a frame costs a fraction of what a table would that measures each cell. Which columns there
are depends on the width; the state, the name and the progress are always there.

No text is read as markup, and colours are the terminal's own sixteen, so they suit a light and a dark one. What a
colour says a word or a sign says, too.
"""

from collections.abc import Sequence

import attrs
from rich.cells import cell_len, set_cell_size
from rich.style import Style
from rich.text import Text

from flowkit.live_view.frame import Frame, LogRow, NoteRow, Row, RunRow, State, StepRow, fitted, left_out, summed
from flowkit.live_view.texts import counted, lasting, roughly

__all__ = ["Signs", "laid_out", "summary_of"]

NARROWEST, WIDEST = 20, 160
"""Terminals narrower than that are treated as being so wide; wider ones aren't filled."""
LONGEST_NAME = 36
LOG = 6
"""Lines of it at most."""

PLAIN, DIM, BOLD = Style(), Style(dim=True), Style(bold=True)
GREEN, RED, YELLOW, CYAN = Style(color="green"), Style(color="red"), Style(color="yellow"), Style(color="cyan")


@attrs.frozen
class Signs:
    """The signs for states, and what bars are made of."""

    states: dict[State, str]
    log: dict[str, str]
    full: str
    empty: str
    more: str
    note: str

    @classmethod
    def of(cls, encoding: str) -> "Signs":
        """Those that an encoding can show."""
        return _UNICODE if encoding.lower().replace("-", "").startswith("utf") else _ASCII


_UNICODE = Signs(
    states={
        "idle": "·",
        "queued": "·",
        "running": "●",
        "waiting": "?",
        "retrying": "↻",
        "done": "✓",
        "failed": "✗",
        "stopped": "-",
    },
    log={"shown": " ", "asked": "?", "answered": "✓", "retried": "↻", "failed": "✗", "run": " "},
    full="━",
    empty="─",
    more="…",
    note="└ ",
)
_ASCII = Signs(
    states={
        "idle": ".",
        "queued": ".",
        "running": "*",
        "waiting": "?",
        "retrying": "~",
        "done": "+",
        "failed": "x",
        "stopped": "-",
    },
    log={"shown": " ", "asked": "?", "answered": "+", "retried": "~", "failed": "x", "run": " "},
    full="#",
    empty="-",
    more=">",
    note="` ",
)

_COLOURS: dict[State, Style] = {
    "idle": DIM,
    "queued": DIM,
    "running": CYAN,
    "waiting": YELLOW,
    "retrying": YELLOW,
    "done": GREEN,
    "failed": RED,
    "stopped": DIM,
}
_KINDS = {"wait": YELLOW, "retry": YELLOW, "error": RED}
_LOG_COLOURS = {"asked": YELLOW, "retried": YELLOW, "failed": RED, "answered": GREEN}


def laid_out(frame: Frame, width: int, height: int, signs: Signs) -> list[Text]:
    """The lines of a display of at most ``height`` lines."""
    width = min(max(width, NARROWEST), WIDEST)
    columns = Columns.of(frame, width)
    heading = columns.heading() if height >= 8 else None
    room = max(1, height - (heading is not None) - (1 if frame.log else 0))
    part = fitted(frame, room, LOG)
    lines = [_line(row, columns, width, signs) for row in part.rows]
    if heading is not None and lines:
        lines.insert(1 if isinstance(part.rows[0], RunRow) else 0, heading)
    missing = left_out(frame, part)
    if missing:
        lines.append(_cut(Text(f"  {missing}", DIM), width, signs))
    if part.log and len(lines) + len(part.log) < height:
        lines.append(Text(""))
    lines.extend(_log_line(row, width, signs) for row in part.log)
    return lines[-max(1, height) :] if len(lines) > height else lines


def summary_of(frame: Frame, width: int, signs: Signs) -> list[Text]:
    """The lines that stay when all is over: how runs ended, and the steps' totals."""
    width = min(max(width, NARROWEST), WIDEST)
    rows = summed(frame.rows)
    columns = Columns.of(attrs.evolve(frame, rows=rows, has_bars=False), width, totals=True)
    lines: list[Text] = []
    headed = False
    for row in rows:
        if not headed and isinstance(row, StepRow):
            lines.append(columns.heading())
            headed = True
        lines.append(_line(row, columns, width, signs))
    return lines


# ------------------------------------------------------------------------------------------------------------ columns


@attrs.frozen
class Columns:
    """What is shown of a step, in cells; 0: it isn't. ``state``: words where there is room, else numbers."""

    name: int
    state: int
    numbers: tuple[tuple[str, int], ...]
    text: int
    bar: int

    @classmethod
    def of(cls, frame: Frame, width: int, *, totals: bool = False) -> "Columns":
        """The columns for a width. Numbers are taken in the order of their importance while there is room for them."""
        steps = [row for row in frame.rows if isinstance(row, StepRow)]
        longest = max((cell_len(row.name) + 2 * row.depth for row in steps), default=4)
        name = min(max(longest, 4), LONGEST_NAME, max(8, width * 3 // 10))
        state = 0 if totals else 22 if width >= 90 else 11
        text = 11 if frame.has_bars and not totals else 0
        left = width - 2 - name - (state + 1 if state else 0) - (text + 1 if text else 0)
        bar = 10 if text and left >= 30 else 0
        left -= bar + 1 if bar else 0
        if totals:
            wanted = [("in", 5), ("total", 7), ("failed", 6), ("mean", 7), ("out", 5), ("retries", 7)]
        else:
            wanted = [("queue", 5), ("mean", 7), ("out", 5), ("in", 5), ("retries", 7), ("total", 7)]
        chosen: dict[str, int] = {}
        for heading, size in wanted:
            if left >= size + 1:
                chosen[heading] = size
                left -= size + 1
        more = min(left, longest - name)
        name, left = name + more, left - more
        bar += min(left, 20) if bar else 0
        order = ("queue", "in", "out", "failed", "retries", "mean", "total")
        numbers = tuple((heading, chosen[heading]) for heading in order if heading in chosen)
        return cls(name, state, numbers, text, bar)

    def heading(self) -> Text:
        line = f"  {_padded('step', self.name)}"
        if self.state:
            line += f" {_padded('state', self.state)}"
        for heading, size in self.numbers:
            line += f" {heading:>{size}}"
        return Text(line, DIM)

    def step(self, row: StepRow, width: int, signs: Signs) -> Text:
        line = Text(no_wrap=True, end="")
        quiet = row.state in ("idle", "stopped")
        indent = min(2 * row.depth, self.name // 2)
        line.append(f"{' ' * indent}{signs.states[row.state]} ", _COLOURS[row.state])
        size = self.name - indent
        line.append(_padded(_shortened(row.name, size, signs), size), DIM if quiet else PLAIN)
        if self.state:
            words = _words(row, long=self.state > 11)
            colour = _COLOURS[row.state] if row.state not in ("done", "running") else PLAIN
            line.append(" " + _padded(_shortened(words, self.state, signs), self.state), colour)
        for heading, size in self.numbers:
            text, style = _number(row, heading)
            line.append(f" {text:>{size}}", style)
        if row.bar is not None and self.text:
            done, goal = row.bar
            line.append(" ")
            if self.bar:
                filled = min(self.bar, done * self.bar // goal)
                line.append(signs.full * filled, GREEN if done >= goal else CYAN)
                line.append(signs.empty * (self.bar - filled), DIM)
                line.append(" ")
            line.append(f"{counted(done)}/{counted(goal)}")
        return _cut(line, width, signs)


def _number(row: StepRow, heading: str) -> tuple[str, Style]:
    match heading:
        case "queue":
            return (counted(row.queued) if row.queued else ""), PLAIN
        case "in":
            return (counted(row.given) if row.given else ""), DIM
        case "out":
            return (counted(row.produced) if row.produced else ""), DIM
        case "failed":
            return (counted(row.failed) if row.failed else ""), RED
        case "retries":
            return (counted(row.retries) if row.retries else ""), YELLOW
        case "mean":
            return ("" if row.mean is None else lasting(row.mean)), DIM
        case _:
            return ("" if row.mean is None else lasting(row.total)), DIM


def _words(row: StepRow, *, long: bool) -> str:
    age = "" if row.age is None else roughly(row.age)
    match row.state:
        case "running" if long:
            return f"running {row.running} of {row.workers}  {age}"
        case "running":
            return f"{row.running}/{row.workers} {age}"
        case "waiting":
            several = "" if row.waiting < 2 else f"{counted(row.waiting)} "
            return f"{several}waiting {age}" if long else f"waits {age}" if row.waiting < 2 else f"{several}wait"
        case "retrying":
            due = "" if row.due is None else roughly(row.due)
            return f"retry in {due}" if long else f"retry {due}"
        case "done" if row.failed:
            return f"done, {counted(row.failed)} failed" if long else "done"
        case _:
            return row.state


# -------------------------------------------------------------------------------------------------------------- lines


def _line(row: Row, columns: Columns, width: int, signs: Signs) -> Text:
    match row:
        case StepRow():
            return columns.step(row, width, signs)
        case RunRow():
            return _run_line(row, width, signs)
        case NoteRow():
            line = Text("  " * row.depth + "  ", no_wrap=True, end="")
            line.append(signs.note, DIM)
            line.append(row.text, _KINDS[row.kind])
            return _cut(line, width, signs)


def _run_line(row: RunRow, width: int, signs: Signs) -> Text:
    line = Text("  " * row.depth, no_wrap=True, end="")
    line.append(f"{signs.states[row.state]} ", _COLOURS[row.state])
    line.append(_shortened(row.name, max(12, width // 2), signs), BOLD)
    if row.elapsed is not None:
        line.append(f"  {lasting(row.elapsed)}")
    if row.left is not None:
        line.append(f"  {lasting(row.left)} left", YELLOW if row.left < 10 else DIM)
    if row.text:
        line.append(f"  {row.text}", RED if row.state == "failed" else DIM)
    return _cut(line, width, signs)


def _log_line(row: LogRow, width: int, signs: Signs) -> Text:
    line = Text(no_wrap=True, end="")
    line.append(f"{row.offset:>8.1f} ", DIM)
    line.append(f"{signs.log[row.kind]} ", _LOG_COLOURS.get(row.kind, PLAIN))
    line.append(_shortened(row.who, max(8, width // 4), signs), BOLD if row.kind == "asked" else CYAN)
    text = row.text
    if row.tail and line.cell_len + 1 + cell_len(text) > width:
        room = width - line.cell_len - 2
        while text and cell_len(text) > room:
            text = text[max(1, (cell_len(text) - room) // 2) :]
        text = signs.more + text
    line.append(f" {text}", RED if row.kind == "failed" else PLAIN)
    return _cut(line, width, signs)


def _padded(text: str, size: int) -> str:
    return text + " " * max(0, size - cell_len(text))


def _shortened(text: str, size: int, signs: Signs) -> str:
    """``text`` in at most ``size`` cells; the middle goes, as long names often differ at their end."""
    if cell_len(text) <= size:
        return text
    if size < 8:
        return set_cell_size(text, size - 1) + signs.more
    tail = ""
    for each in reversed(text):
        if cell_len(each + tail) > size // 3:
            break
        tail = each + tail
    return set_cell_size(text, size - 1 - cell_len(tail)) + signs.more + tail


def _cut(line: Text, width: int, signs: Signs) -> Text:
    if line.cell_len > width:
        line.truncate(width - 1, overflow="crop")
        line.append(signs.more, DIM)
    return line


def plain(lines: Sequence[Text]) -> str:
    """The lines without colours."""
    return "\n".join(line.plain.rstrip() for line in lines)
