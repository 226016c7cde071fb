"""The events a run shows to the outside: one bounded log, any number of readers.

A reader is a place in the log, not a task and not a generator: it can stop at any event, be dropped, or go on later.

**Bounds.** The log keeps at least the last ``capacity`` events (`DEFAULT_CAPACITY` unless the workflow says otherwise)
and at most twice as many, so a run's memory doesn't grow with its length. A reader that falls further behind than that
is told: the next thing it gets is a `StreamGap` with the number of events it missed, then the oldest that is still
there.
"""

from typing import Any

import anyio
import anyio.lowlevel
import attrs

from flowkit.events import Event

__all__ = ["BURST", "DEFAULT_CAPACITY", "Origin", "Reader", "Stream", "StreamGap"]

DEFAULT_CAPACITY = 4096
"""Events a run's stream keeps. At 1 KB each that is 4 MB; a page of progress, or a long answer token by token, fits."""


BURST = 64
"""Events a reader takes before it lets other tasks run: yielding for each would cost more than reading it."""


class StreamGap(Event):
    """In a stream: this many events were dropped before this reader came for them."""

    missed: int


@attrs.frozen
class Origin:
    """The nested run an event came from: its workflow's name, its run id, and the steps it is nested in, outermost
    first."""

    workflow: str
    run_id: str
    path: tuple[str, ...]


class Stream:
    """A run's log. ``end`` is the number of events ever written."""

    __slots__ = ("_closed", "_log", "_waiting", "capacity", "end", "furthest")

    def __init__(self, capacity: int = DEFAULT_CAPACITY) -> None:
        self.capacity = capacity
        self.end = 0
        self.furthest = 0  # how far any reader has come: where the next one begins
        self._log: list[tuple[Event, Origin | None]] = []
        self._waiting: list[anyio.Event] | None = None
        self._closed = False

    def write(self, event: Event, origin: Origin | None = None) -> None:
        """Append an event and wake the readers that wait for it."""
        log = self._log
        log.append((event, origin))
        self.end += 1
        if len(log) > 2 * self.capacity:
            del log[: -self.capacity]  # rarely, and many at once: each event is moved at most once on average
        if self._waiting:
            self._wake()

    def close(self) -> None:
        """Nothing will be written any more."""
        self._closed = True
        self._wake()

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, None
        for one in waiting or ():
            one.set()

    def read(self, position: int) -> tuple[tuple[Event, Origin | None] | None, int]:
        """What is at ``position`` (or the gap there) and the next position; ``None`` where nothing is there yet."""
        log = self._log
        behind = self.end - position
        if behind <= 0:
            return None, position
        lost = behind - len(log)
        if lost > 0:
            return (StreamGap(missed=lost), None), position + lost
        return log[-behind], position + 1

    async def wait(self) -> bool:
        """Wait until something is written; false where nothing ever will be. Cancelling it loses nothing."""
        if self._closed:
            await anyio.lowlevel.checkpoint()
            return False
        woken = anyio.Event()
        if self._waiting is None:
            self._waiting = []
        self._waiting.append(woken)
        try:
            await woken.wait()
        finally:
            if self._waiting and woken in self._waiting:
                self._waiting.remove(woken)
        return True


class Reader:
    """An iterator over a stream, from ``position`` on.

    It lets other tasks run before it waits and at least every `BURST` events. ``keep`` is held as long as the reader
    is, so that a handle that is only being read from isn't dropped.

    ``origin`` says which nested run the last event came from, ``None`` for the run itself.
    """

    __slots__ = ("_burst", "_keep", "_position", "_stream", "origin")

    def __init__(self, stream: Stream, position: int, keep: Any) -> None:
        self._stream = stream
        self._position = position
        self._burst = 0
        self._keep = keep
        self.origin: Origin | None = None

    def __aiter__(self) -> "Reader":
        return self

    async def __anext__(self) -> Event:
        stream = self._stream
        self._burst += 1
        if self._burst >= BURST:
            self._burst = 0
            await anyio.lowlevel.checkpoint()
        entry, self._position = stream.read(self._position)
        while entry is None:
            self._burst = 0
            if not await stream.wait():
                raise StopAsyncIteration
            entry, self._position = stream.read(self._position)
        stream.furthest = max(stream.furthest, self._position)
        event, self.origin = entry
        return event
