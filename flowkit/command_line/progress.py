"""What is shown of a run on standard error while it goes on: `progress_for`, the one place that decides it."""

import contextlib
from collections.abc import Generator
from types import TracebackType
from typing import Self

from flowkit.command_line.output import say
from flowkit.errors import shown
from flowkit.events import Event
from flowkit.stream import Origin

__all__ = ["Progress", "progress_for"]

LONGEST = 500
"""Characters of an event that are shown."""


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


class Lines(Progress):
    """A line for each event of the stream."""

    def __init__(self) -> None:
        self._held: list[str] | None = None

    def event(self, event: Event, origin: Origin | None) -> None:
        of = "" if origin is None else f"{' > '.join((*origin.path, origin.workflow))}: "
        line = f"  {of}{shown(event, LONGEST)}"
        if self._held is None:
            say(line)
        else:
            self._held.append(line)

    @contextlib.contextmanager
    def paused(self) -> Generator[None]:
        held = self._held = []
        try:
            yield
        finally:
            self._held = None
            for line in held:
                say(line)


def progress_for(*, quiet: bool) -> Progress:
    """What shows a run here."""
    return Progress() if quiet else Lines()
