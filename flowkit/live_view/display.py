"""A board on a terminal: draws it, takes what is printed meanwhile, and leaves a summary."""

import threading
from collections import deque
from collections.abc import Sequence
from typing import TextIO

from rich.color import ColorSystem
from rich.console import Console, ConsoleRenderable, RenderHook
from rich.segment import Segment
from rich.text import Text

from flowkit.live_view.board import Board
from flowkit.live_view.diversion import Diversion
from flowkit.live_view.frame import frame_of
from flowkit.live_view.layout import Signs, laid_out, summary_of
from flowkit.live_view.screen import Guard, Output, Region

__all__ = ["Display"]

MOST_PENDING = 1000
"""Pieces of text that are kept until the next frame. Whoever prints more draws it himself, and so is slowed down where
the terminal is."""


class Display(RenderHook):
    """Its methods may be called in any thread. ``lock`` is the board's."""

    def __init__(self, file: TextIO, console: Console | None, board: Board, lock: "threading.RLock") -> None:
        # Not the caller's file: standard output is replaced, and a console that follows it would write to us.
        self._console = console or Console(file=file)
        self._hooked = console
        self._output = Output(file)
        self._region = Region(self._output)
        self._board = board
        self._lock = lock
        self._drawing = threading.RLock()
        self._above: deque[str] = deque()
        self._most = MOST_PENDING
        self._diversion = Diversion(self._hand_on)
        self._guard = Guard(self._release, self._retake)
        self._pauses = 0
        self._is_open = False
        self._signs = Signs.of(self._output.encoding)
        name = self._console.color_system
        self._colours = None if name is None else _SYSTEMS.get(name, ColorSystem.STANDARD)

    # ----------------------------------------------------------------------------------------------- open and closed

    def open(self) -> None:
        """Begin; nothing is drawn yet."""
        with self._drawing:
            self._is_open = True
            self._guard.__enter__()
            self._take()

    def close(self) -> None:
        """Take the display away and leave a summary, once."""
        with self._drawing:
            if not self._is_open:
                return
            self._is_open = False
            try:
                if not self._pauses:
                    self._give(self._summary())
                else:
                    self._output.write(self._summary())
            finally:
                self._guard.__exit__()

    def pause(self) -> None:
        """Give the terminal away."""
        with self._drawing:
            self._pauses += 1
            if self._pauses == 1 and self._is_open:
                self._give()

    def resume(self) -> None:
        """Take it back."""
        with self._drawing:
            self._pauses -= 1
            if not self._pauses and self._is_open:
                self._take()

    def _take(self) -> None:
        self._diversion.start()
        if self._hooked is not None:
            self._hooked.push_render_hook(self)

    def _give(self, then: str = "") -> None:
        if self._hooked is not None:
            self._hooked.pop_render_hook()
        self._above.extend(self._diversion.stop())
        self._region.erase(self._pending() + then)

    def _release(self) -> None:
        """The process is about to stop or to end, or goes on after that: in a signal's handler."""
        # Where the thread is stuck in a terminal that takes nothing, what would be written here would be, too.
        if self._drawing.acquire(timeout=1.0):
            try:
                self.pause()
            finally:
                self._drawing.release()

    def _retake(self) -> None:
        self.resume()

    # ------------------------------------------------------------------------------------------------------- drawing

    def draw(self) -> None:
        """Draw what the board shows now."""
        with self._drawing:
            if self._pauses or not self._is_open:
                self._output.write(self._pending())  # from a thread that was printing as the terminal was given away
                return
            if self._output.gone:
                self._above.clear()
                return
            width, height = self._console.size
            with self._lock:
                frame = frame_of(self._board)
            lines = laid_out(frame, width - 1, height - 1, self._signs) if frame.rows else []
            above = self._pending()
            if lines or above or self._region.height:
                self._region.draw(
                    [self._coded(line) for line in lines], [line.cell_len for line in lines], width, above
                )

    def _summary(self) -> str:
        with self._lock:
            frame = frame_of(self._board)
        lines = summary_of(frame, self._console.size.width - 1, self._signs) if frame.rows else []
        return "".join(f"{self._coded(line)}\n" for line in lines)

    def _coded(self, line: Text) -> str:
        """A line with the escape sequences for its colours, where the console has some."""
        parts: list[str] = []
        for text, style, _ in line.render(self._console):
            if style is None or self._colours is None:
                parts.append(text)
            else:
                wanted = style.without_color if self._console.no_color else style
                parts.append(wanted.render(text, color_system=self._colours))
        return "".join(parts)

    # ----------------------------------------------------------------------------------------- what is printed above

    def _hand_on(self, text: str) -> None:
        self._above.append(text)
        if not self._pauses and self._is_open and len(self._above) <= self._most:
            return
        # Not for ever: it may be printed by an error's __str__, which is called while the board's lock is held.
        if self._drawing.acquire(timeout=0.1):
            try:
                self.draw()
            finally:
                self._drawing.release()
        else:
            self._most += MOST_PENDING

    def _pending(self) -> str:
        """What has been printed since the last frame, as whole lines."""
        pieces: list[str] = []
        while self._above:
            pieces.append(self._above.popleft())
        self._most = MOST_PENDING
        text = "".join(pieces)
        return text if not text or text.endswith("\n") else text + "\n"

    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        """What is printed through the console itself."""
        options = self._console.options
        for renderable in renderables:
            segments = list(self._console.render(renderable, options))
            self._hand_on(self._text_of(segments))
        return []

    def _text_of(self, segments: Sequence[Segment]) -> str:
        parts: list[str] = []
        for text, style, control in segments:
            if control:
                continue
            if style is None or self._colours is None:
                parts.append(text)
            else:
                wanted = style.without_color if self._console.no_color else style
                parts.append(wanted.render(text, color_system=self._colours))
        return "".join(parts)


_SYSTEMS = {
    "standard": ColorSystem.STANDARD,
    "256": ColorSystem.EIGHT_BIT,
    "truecolor": ColorSystem.TRUECOLOR,
    "windows": ColorSystem.WINDOWS,
}
