"""What an event loop under virtual time knows about itself: who holds time, and whether anything can still happen.

How it works
------------
A `Watch` belongs to one loop: virtual_time.py's for asyncio, virtual_trio.py's for trio. Both ask it before time goes
on, and tell it when the loop is idle.

**Worker threads hold time.** While a thread works for the loop, no timer may overtake it, or a test's timeouts would
depend on the speed of the machine. `count_threads` wraps the two public functions through which AnyIO enters and
leaves a thread, `anyio.to_thread.run_sync` and `anyio.from_thread.run`. All counting happens on the loop's side: a
thread counts from the moment its limiter's token is taken until it is given back, except while it waits for the loop
inside ``from_thread.run``. One that waits for the loop in another way says so by `letting_time_pass`.

**A failure** is told to the test under watch (`Watch.fail`): its scope is cancelled, so that it cleans up, and then it
raises.
"""

import sys
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from typing import Any, TypeVar

import anyio
import anyio.from_thread
import anyio.to_thread

from flowkit.testing.left_behind import live_tasks, place_of

__all__ = [
    "BLOCKED_AFTER",
    "PATIENCE",
    "Deadlock",
    "LoopBlocked",
    "TimeHeld",
    "Watch",
    "count_threads",
    "current_watch",
    "letting_time_pass",
    "under_watch",
]

T = TypeVar("T")

BLOCKED_AFTER = 2.0
"""Seconds of real time that one turn of the loop may take: more, and the test has blocked its event loop. Long enough
for a busy machine to swap, and for an import inside a test."""
PATIENCE = 10.0
"""Seconds of real time to wait for a worker thread, or for an unknown thread or file that may wake the loop."""


class Deadlock(AssertionError):
    """Nothing can happen any more: no task is ready, no timer is set, and nobody is left to wake the loop."""


class TimeHeld(AssertionError):
    """A worker thread held virtual time for longer than `PATIENCE`."""


class LoopBlocked(AssertionError):
    """A task kept the event loop to itself for longer than `BLOCKED_AFTER`."""


class Watch:
    """What one event loop under virtual time knows about itself. Used on the loop's own thread only.

    ``wall`` is the real clock that blocking is measured by; ``wake`` calls a function in the loop's next turn.
    """

    def __init__(self, backend: str, wake: Callable[[Callable[[], object]], object], wall: Callable[[], float]) -> None:
        self.backend = backend
        self.patience = PATIENCE
        self.scope: anyio.CancelScope | None = None
        self.failure: Exception | None = None
        self._wake = wake
        self._wall = wall
        self._resumed_at: float | None = None
        self._limiters: Counter[anyio.CapacityLimiter] = Counter()
        self._executor_calls = 0
        self._waiting = 0  # threads inside from_thread.run
        self._passing = 0  # threads inside letting_time_pass
        self._other_threads = set(threading.enumerate())
        self._raised = False

    # Threads

    @property
    def held(self) -> bool:
        """Whether a worker thread is at work, so that time must stand still."""
        return self._in_threads() > self._waiting + self._passing

    def may_be_woken(self) -> bool:
        """Whether a thread might still call back: a worker, or one started since the loop was made."""
        return self._in_threads() > self._waiting or any(
            not _is_pooled(thread) for thread in set(threading.enumerate()) - self._other_threads
        )

    def _in_threads(self) -> int:
        return self._executor_calls + sum(limiter.borrowed_tokens for limiter in self._limiters)

    def thread_wanted(self, limiter: anyio.CapacityLimiter) -> None:
        self._limiters[limiter] += 1

    def thread_done(self, limiter: anyio.CapacityLimiter) -> None:
        self._limiters[limiter] -= 1
        if not self._limiters[limiter]:
            del self._limiters[limiter]

    def executor_call(self, change: int) -> None:
        self._executor_calls += change

    def thread_waits(self, change: int) -> None:
        self._waiting += change

    def thread_lets_time_pass(self, change: int) -> None:
        self._passing += change

    # Failures

    def resumed(self) -> None:
        """The loop goes on: what follows until `paused` is one turn of it."""
        self._resumed_at = self._wall()

    def paused(self) -> None:
        """The loop has run all that was ready."""
        if self._resumed_at is None:
            return
        took, self._resumed_at = self._wall() - self._resumed_at, None
        if took > BLOCKED_AFTER:
            self.fail(LoopBlocked(f"the event loop was blocked for {took:.1f} s: nothing else could run meanwhile"))

    def deadlock(self) -> None:
        self.fail(Deadlock("no task is ready, no timer is set, and nobody is left to wake the loop"))

    def held_too_long(self) -> None:
        self.fail(
            TimeHeld(
                f"worker threads held virtual time for {self.patience:g} s of real time; one that waits for the "
                "loop by anything but anyio.from_thread.run says so: `with letting_time_pass():`"
            )
        )

    def fail(self, failure: Exception) -> None:
        """Cancel the watched test, which then raises ``failure`` with a note of where each task was.

        Raises:
            Exception: ``failure`` itself, on asyncio, where cancelling can't help: no test is watched, or it was
                cancelled before and waits on. trio takes no errors here: a time limit on the test ends it.
            pytest.exit.Exception: under pytest, where not even asyncio's own last cancellation ended the loop.
        """
        if self.scope is not None and self.failure is None:
            self.failure = failure
            self._wake(self._cancel)
        elif self.backend == "asyncio":
            # AnyIO's plugin keeps the loop that it couldn't end, and would run all further tests in it.
            if self._raised and (pytest := sys.modules.get("pytest")) is not None:
                pytest.exit(f"an event loop can't be ended, so no further test can run: {failure}", returncode=1)
            self._raised = True
            raise failure

    def _cancel(self) -> None:
        if self.scope is not None and self.failure is not None:
            self.failure.add_note("\n".join(f"{name}: {place_of(coro)}" for name, coro in live_tasks().values()))
            self.scope.cancel()


class _Running(threading.local):
    watch: Watch | None = None


_running = _Running()


def current_watch() -> Watch:
    """The watch of the running loop.

    Raises:
        RuntimeError: it is not under virtual time.
    """
    if _running.watch is None:
        raise RuntimeError("no event loop under virtual time runs here: start one by run_virtual()")
    return _running.watch


def under_watch(watch: Watch | None) -> Watch | None:
    """From now on the loop that runs in this thread has this watch. Returns the one before it, to be put back."""
    before, _running.watch = _running.watch, watch
    return before


def _is_pooled(thread: threading.Thread) -> bool:
    """Whether a thread is of AnyIO's pool, or of trio's and idle: one at work there has another name."""
    return thread.name == "AnyIO worker thread" or thread.name.startswith("Trio thread ")


# Worker threads

_enter_thread = anyio.to_thread.run_sync
_enter_loop = anyio.from_thread.run
_counting = False


def count_threads() -> None:
    """Have virtual time know about AnyIO's worker threads from now on. Where no virtual time is, nothing changes.

    `virtual_backend` does this. Call it earlier, before the program under test is imported, only where that takes the
    functions out of their modules: ``from anyio.to_thread import run_sync`` keeps what is there at that time.
    """
    global _counting
    if not _counting:
        _counting = True
        anyio.to_thread.run_sync = _counted_run_sync  # type: ignore[assignment]  # the same arguments, less precisely
        anyio.from_thread.run = _counted_run  # type: ignore[assignment]


async def _counted_run_sync(
    func: Callable[..., T], *args: Any, limiter: anyio.CapacityLimiter | None = None, **options: Any
) -> T:
    watch = _running.watch
    if watch is None:
        return await _enter_thread(func, *args, limiter=limiter, **options)
    if limiter is None:
        limiter = anyio.to_thread.current_default_thread_limiter()
    watch.thread_wanted(limiter)
    try:
        return await _enter_thread(func, *args, limiter=limiter, **options)
    finally:
        watch.thread_done(limiter)


def _counted_run(func: Callable[..., Awaitable[T]], *args: Any, **options: Any) -> T:
    async def call() -> T:
        watch = _running.watch
        if watch is None:
            return await func(*args)
        watch.thread_waits(+1)
        try:
            return await func(*args)
        finally:
            # Here, on the loop's side: the thread holds time again before it even wakes up.
            watch.thread_waits(-1)

    return _enter_loop(call, **options)


@contextmanager
def letting_time_pass() -> Generator[None, None, None]:
    """In a worker thread: hold time no longer, as what this thread waits for is something the loop will do.

    Time is held again when the block ends, which may be after further timers have fired.

    Raises:
        RuntimeError: this is no worker thread of AnyIO, or its loop is not under virtual time.
    """
    anyio.from_thread.run_sync(lambda: current_watch().thread_lets_time_pass(+1))
    try:
        yield
    finally:
        anyio.from_thread.run_sync(lambda: current_watch().thread_lets_time_pass(-1))
