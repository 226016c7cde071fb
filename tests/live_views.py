"""What the tests of the live view share: boards in virtual time, and frames as text."""

from collections.abc import Callable

import anyio

from flowkit.instruments import ObservedRun
from flowkit.live_view.board import Board, Tally
from flowkit.live_view.frame import Frame, NoteRow, RunRow, StepRow, frame_of

__all__ = ["VirtualBoard", "balance", "rows_of", "virtual_clock"]


class VirtualBoard(Board):
    """A board that goes by the clock of the loop it is called in, as the runs do."""

    def __init__(self) -> None:
        self._epoch = 0.0
        super().__init__(lambda: anyio.current_time() + self._epoch)

    def run_started(self, run: ObservedRun) -> None:
        if not self.live:
            self._epoch = (run.began or 0.0) - anyio.current_time()
        super().run_started(run)

    def tally(self, step: str, group: int = 0) -> Tally:
        """The tally of a step of the outermost runs."""
        return list(self.groups.values())[group].tallies[step]


def virtual_clock() -> tuple[Callable[[], float], Callable[[ObservedRun], None]]:
    """A clock by the loop's, and what sets it to the time of a run that begins."""
    epoch = 0.0

    def start(run: ObservedRun) -> None:
        nonlocal epoch
        epoch = (run.began or 0.0) - anyio.current_time()

    return lambda: anyio.current_time() + epoch, start


def balance(board: Board) -> list[str]:
    """What doesn't add up in a board."""
    wrong: list[str] = []
    groups = list(board.groups.values())
    for group in groups:
        groups += group.inner.values()
        for tally in group.tallies.values():
            under_way = tally.queued + tally.running + tally.waiting + len(tally.retrying)
            if tally.given != under_way + tally.done + tally.failed + tally.dropped:
                wrong.append(f"{tally} doesn't add up")
            counts = (tally.queued, tally.running, tally.waiting, tally.done, tally.failed, tally.dropped)
            if min(counts) < 0 or tally.reached > tally.goal or tally.running > tally.workers + tally.done:
                wrong.append(f"{tally} can't be")
            if not board.live and (under_way or tally.members or tally.waits or tally.at_work):
                wrong.append(f"{tally} has something under way when no run is")
        outcomes = group.finished + group.failed + group.cancelled + group.suspended
        if group.begun != len(group.live) + outcomes:
            wrong.append(f"{group} doesn't add up")
    return wrong


def rows_of(frame_or_board: Frame | Board) -> list[str]:
    """The rows of a frame in a few words each."""
    frame = frame_of(frame_or_board) if isinstance(frame_or_board, Board) else frame_or_board
    told: list[str] = []
    for row in frame.rows:
        indent = "  " * row.depth
        match row:
            case RunRow():
                told.append(f"{indent}{row.name}: {row.state} {row.text}".rstrip())
            case NoteRow():
                told.append(f"{indent}  {row.kind}: {row.text}")
            case StepRow():
                bar = "" if row.bar is None else f" {row.bar[0]}/{row.bar[1]}"
                told.append(f"{indent}- {row.name}: {row.state}{bar}")
    return told
