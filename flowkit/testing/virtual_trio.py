"""Virtual time on trio: its own `MockClock`, and an instrument that adds what is missing there. Needs trio."""

import time
from collections.abc import Callable
from math import inf
from typing import Any

import trio
import trio.testing

from flowkit.testing.virtual_watch import Watch, under_watch

__all__ = ["TrioWatch", "trio_options"]


class TrioWatch(trio.abc.Instrument):
    """Has threads hold time, and makes deadlocks and blocked loops failures.

    trio calls its methods. AnyIO's plugin runs every Hypothesis example of a test with the same one.
    """

    def __init__(self, clock: trio.testing.MockClock, wall: Callable[[], float]) -> None:
        self._clock = clock
        self._wall = wall
        self._watch: Watch
        self._before: Watch | None = None
        self._stepped = False
        self._waiting_since = 0.0
        self._idle_since: float | None = None

    def before_run(self) -> None:
        # The clock would go on where it stood when the last run ended. This is the public way back to 0.
        trio.testing.MockClock.__init__(self._clock, autojump_threshold=0)
        self._watch = Watch("trio", trio.lowlevel.current_trio_token().run_sync_soon, self._wall)
        self._before = under_watch(self._watch)
        self._watch.resumed()

    def after_run(self) -> None:
        under_watch(self._before)

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        self._stepped = True
        threshold = self._watch.patience if self._watch.held else 0.0
        if self._clock.autojump_threshold != threshold:
            self._clock.autojump_threshold = threshold

    def before_io_wait(self, timeout: float) -> None:
        self._watch.paused()
        self._waiting_since = time.perf_counter()
        # With nothing to jump to, MockClock makes trio poll: a second poll, no task step in between, is idle.
        if self._stepped or self._watch.held or self._watch.scope is None:
            self._idle_since = None
        elif self._watch.failure is None:
            self._look_for_deadlock()
        self._stepped = False

    def after_io_wait(self, timeout: float) -> None:
        waited = time.perf_counter() - self._waiting_since
        if self._watch.held and timeout > 0 and waited >= self._watch.patience:
            self._watch.held_too_long()
        self._watch.resumed()

    def _look_for_deadlock(self) -> None:
        now = trio.lowlevel.current_statistics()
        if now.tasks_runnable or now.run_sync_soon_queue_size or now.seconds_to_next_deadline != inf:
            self._idle_since = None
            return
        if self._idle_since is None:
            self._idle_since = time.perf_counter()
        # One who waits is trio itself, for the pipe that wakes it. What any other waits for may come from outside.
        # The numbers' names are the platform's.
        io: Any = now.io_statistics
        names = ("tasks_waiting_read", "tasks_waiting_write", "tasks_waiting")
        waits_for_io = sum(getattr(io, name, 0) for name in names) > 1
        patience = self._watch.patience if waits_for_io or self._watch.may_be_woken() else 0.0
        if time.perf_counter() - self._idle_since >= patience:
            self._watch.deadlock()


def trio_options(wall: Callable[[], float]) -> tuple[trio.testing.MockClock, TrioWatch]:
    """A fresh virtual clock and its watch."""
    clock = trio.testing.MockClock(autojump_threshold=0)
    return clock, TrioWatch(clock, wall)
