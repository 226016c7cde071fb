"""What is shown of a run on standard error while it goes on: `progress_for`, the one place that decides it."""

import contextlib
from collections.abc import Generator
from types import TracebackType
from typing import Self

from flowkit.events import Event
from flowkit.live_view import LiveView
from flowkit.stream import Origin

__all__ = ["Progress", "progress_for"]


class Progress:
    """Shows nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        return None

    def event(self, event: Event, origin: Origin | None) -> None:
        """The run shows an event in its stream; ``origin`` is the nested run that it is of."""

    @contextlib.contextmanager
    def paused(self) -> Generator[None]:
        """Show nothing in here: somebody is asked something."""
        yield


class Live(Progress):
    """The live view where standard error is a terminal, else a line for each thing that happens."""

    def __init__(self) -> None:
        self._view = LiveView()  # it is told by the engine of what the stream shows, and of more

    def __enter__(self) -> Self:
        self._view.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._view.__exit__(kind, error, traceback)

    @contextlib.contextmanager
    def paused(self) -> Generator[None]:
        with self._view.paused():
            yield


def progress_for(*, quiet: bool) -> Progress:
    """What shows a run here."""
    return Progress() if quiet else Live()
