"""`LiveView`: runs as they go, on a terminal or line by line.

**Who does what.** Instruments are called in the event loop's thread: there the board is kept up to date, under a lock,
which all in all costs some 3 µs for an event. A thread of the view draws, ten times a second at most, and less often
where drawing takes long, so that it takes a twentieth of a processor at most, or draws every two seconds. It isn't a
task of the loop, because then the display would stand still whenever a step blocks the loop, which is when one wants to
look at it; and not the instrument's calls, because time goes by between them, too. It takes what is to be seen under
the board's lock (a fraction of a millisecond), and lays it out and writes it without: a terminal that takes nothing
(Ctrl-S) holds up nobody but the thread. Plain lines are written in the loop's thread, as ``print`` would: so none is
late.

**What steps print** is collected, and written above the display when it is drawn next: printing costs an append, and
the display isn't drawn again for each line. What is printed through the view's own rich console comes there, too.

**The end.** Leaving the block, by whatever way, joins the thread, puts ``sys.stdout``, ``sys.stderr`` and logging
handlers back, shows the cursor and leaves a summary (see screen.py for signals).
"""

import contextlib
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Generator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TextIO

from flowkit.errors import WrongCall
from flowkit.events import Event
from flowkit.instruments import (
    Instrument,
    ObservedAttempt,
    ObservedRun,
    ObservedWait,
    add_instrument,
    remove_instrument,
)
from flowkit.live_view.board import Board
from flowkit.live_view.lines import Lines
from flowkit.live_view.screen import Held, Output

if TYPE_CHECKING:
    from rich.console import Console

    from flowkit.live_view.display import Display

__all__ = ["LiveView"]

logger = logging.getLogger("flowkit")

EVERY = 0.1
"""Seconds between frames: what changes faster can't be read, and R. B. Miller's limit for what seems immediate
("Response time in man-computer conversational transactions", 1968)."""
SHARE = 20
"""A frame is followed by a pause of so many times what it took."""


class LiveView(Instrument):
    """Shows the runs of this process while it is entered: ``with LiveView(): await workflow.run()``.

    On a terminal it draws a display of the steps, below what the program prints; when it is left a summary stays. Where
    the output isn't a terminal (nor in CI, nor with ``TERM=dumb``) it writes a line for each thing that happens. Runs
    that had begun before it was entered aren't shown.

    Cancellation passes through; the terminal is put in order before it does.

    Args:
        console: the rich console to write to; by default standard error.
        live: whether to draw; by default where it is a terminal.
        quiet: show nothing.

    Raises:
        WrongCall: on entering: it is entered already, another one draws, or it is to draw and rich isn't installed.
    """

    _drawing: "LiveView | None" = None

    def __init__(self, console: "Console | None" = None, *, live: bool | None = None, quiet: bool = False) -> None:
        self._console = console
        self._wants = live
        self._quiet = quiet
        self._lock = threading.RLock()
        self._to: Board | Lines | None = None
        self._display: Display | None = None
        self._held: Held | None = None
        self._thread: threading.Thread | None = None
        self._over = threading.Event()

    # ----------------------------------------------------------------------------------------------------- the block

    def __enter__(self) -> Self:
        if self._to is not None:
            raise WrongCall("LiveView", "is shown already", "leave its block before you enter it again")
        file: Any = sys.stderr if self._console is None else self._console.file
        if self._quiet or file is None:
            return self
        clock = _clock()
        if self._wants or (self._wants is None and _can_draw(file)):
            self._draw_on(file, clock)
        else:
            self._held = Held(Output(file))
            self._to = Lines(self._held.write, clock)
        add_instrument(self)
        return self

    def _draw_on(self, file: TextIO, clock: Callable[[], float]) -> None:
        if LiveView._drawing is not None:
            raise WrongCall("LiveView", "can't be shown: another one is drawing", "enter one for all runs")
        try:
            from flowkit.live_view.display import Display
        except ModuleNotFoundError as error:
            if error.name is None or error.name.partition(".")[0] != "rich":
                raise
            cure = 'pip install "flowkit[cli]", or write LiveView(live=False) for plain lines'
            raise WrongCall("LiveView", "draws with rich, which isn't installed", cure) from None
        board = Board(clock)
        display = Display(file, self._console, board, self._lock)
        self._over.clear()
        # A daemon: where the block is never left, the interpreter can end all the same, and its end closes the display.
        thread = threading.Thread(target=self._show, args=[display], name="flowkit live view", daemon=True)
        display.open()
        try:
            thread.start()
        except BaseException:
            display.close()
            raise
        LiveView._drawing, self._to, self._display, self._thread = self, board, display, thread

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._to is None:
            return
        display, thread = self._display, self._thread
        try:
            with contextlib.suppress(WrongCall):  # it was dropped, and that was reported
                remove_instrument(self)
            self._over.set()
            if thread is not None:
                thread.join()
        finally:
            self._to = self._display = self._held = self._thread = None
            if display is not None:
                LiveView._drawing = None
                display.close()

    @contextlib.contextmanager
    def paused(self) -> Generator[None]:
        """Give the terminal to somebody else, for a question, say: no display, and what is printed is written at once.
        Blocks may be nested."""
        paused: Display | Held | None = self._display or self._held
        if paused is None:
            yield
            return
        paused.pause()
        try:
            yield
        finally:
            paused.resume()

    def refresh(self) -> None:
        """Draw now. Does nothing where nothing is drawn, or it is paused."""
        if self._display is not None:
            self._display.draw()

    def _show(self, display: "Display") -> None:
        pause = EVERY
        while not self._over.wait(pause):
            began = time.perf_counter()
            try:
                display.draw()
            except Exception as error:
                display.close()
                logger.error("the live view failed, so it is closed: runs go on", exc_info=error)  # noqa: TRY400
                return
            pause = min(max(EVERY, SHARE * (time.perf_counter() - began)), 2.0)

    # ------------------------------------------------------------------------------------------------- as instrument

    def run_started(self, run: ObservedRun) -> None:
        if self._to is not None:
            with self._lock:
                self._to.run_started(run)

    def run_ended(self, run: ObservedRun) -> None:
        if self._to is not None:
            with self._lock:
                self._to.run_ended(run)

    def attempt_queued(self, attempt: ObservedAttempt, cause: ObservedAttempt | None) -> None:
        if self._to is not None:
            with self._lock:
                self._to.attempt_queued(attempt, cause)

    def attempt_started(self, attempt: ObservedAttempt) -> None:
        if self._to is not None:
            with self._lock:
                self._to.attempt_started(attempt)

    def attempt_ended(self, attempt: ObservedAttempt) -> None:
        if self._to is not None:
            with self._lock:
                self._to.attempt_ended(attempt)

    def wait_opened(self, wait: ObservedWait) -> None:
        if self._to is not None:
            with self._lock:
                self._to.wait_opened(wait)

    def wait_ended(self, wait: ObservedWait) -> None:
        if self._to is not None:
            with self._lock:
                self._to.wait_ended(wait)

    def event_sent(self, run: ObservedRun, event: Event, sender: ObservedAttempt | None) -> None:
        if self._to is not None:
            with self._lock:
                self._to.event_sent(run, event, sender)

    def event_published(self, run: ObservedRun, event: Event, sender: ObservedAttempt | None) -> None:
        if self._to is not None:
            with self._lock:
                self._to.event_published(run, event, sender)

    def event_collected(self, attempt: ObservedAttempt, event: Event, buffer: str | None, have: int, need: int) -> None:
        if self._to is not None:
            with self._lock:
                self._to.event_collected(attempt, event, buffer, have, need)


def _can_draw(file: Any) -> bool:
    """Whether it is a terminal that can move its cursor, and somebody may be looking at it."""
    if os.environ.get("TERM", "").lower() in ("dumb", "unknown") or os.environ.get("CI", "").lower() not in _NO:
        return False
    try:
        return bool(file.isatty())
    except (AttributeError, ValueError):  # a stand-in for a file; a closed one
        return False


_NO = ("", "0", "false", "no")


def _clock() -> Callable[[], float]:
    """Seconds since the epoch, going on evenly as a run's clock does, whatever is done to that of the system."""
    zero = time.time() - time.monotonic()
    return lambda: time.monotonic() + zero
