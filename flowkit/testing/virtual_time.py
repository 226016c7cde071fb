"""Virtual time for asyncio and trio: a sleep takes no time, and a test that could only hang fails at once.

How it works
------------
**asyncio.** `VirtualLoop` is the stock selector loop on a selector that never waits for a timer: when
nothing is ready it moves `loop.time()` to the next timer instead. Timers that are due at the same instant
run in no promised order, as on the stock loop.

**trio.** `MockClock(autojump_threshold=0)` does the same. `TrioWatch`, an instrument, adds what is missing
there.

**Worker threads hold time.** While a thread works for the loop, no timer may overtake it, or a test's
timeouts would depend on the speed of the machine. `count_threads()` wraps the two public functions through
which AnyIO enters and leaves a thread, `anyio.to_thread.run_sync` and `anyio.from_thread.run`. All counting
happens on the loop's side: a thread counts from the moment its limiter's token is taken until it is given
back, except while it waits for the loop inside `from_thread.run`. One that waits for the loop in another
way says so by `letting_time_pass()`.

**Time is held by nothing else.** A pending socket, pipe or process does not hold it: a timeout around real
I/O fires at once. Such tests belong on the real clock (`anyio.run`). `trio.to_thread.run_sync` called
directly is not counted.

**`watched()`** runs one test function and fails it when it deadlocks (nothing is ready, no timer is set,
and nobody is left to wake the loop), blocks the loop, or leaves a task or an asynchronous generator behind.
`run()` is `anyio.run()` with all of this, for plain test functions.
"""

import asyncio
import os
import selectors
import sys
import threading
import time
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping
from concurrent.futures import Executor
from contextlib import contextmanager
from contextvars import Context
from functools import partial
from importlib.util import find_spec
from math import inf, nextafter
from typing import Any, ParamSpec, TypeVar
from weakref import WeakSet

import anyio
import anyio.from_thread
import anyio.lowlevel
import anyio.to_thread
import pytest

try:
    import trio
    import trio.testing
except ImportError:
    trio = None  # type: ignore[assignment]  # the asyncio half works without it: the `bare` session has no trio

T = TypeVar("T")
P = ParamSpec("P")

BLOCKED_AFTER = 2.0
"""Seconds of real time between two looks at the selector after which a test has blocked its event loop."""
PATIENCE = 10.0
"""Seconds of real time to wait for a worker thread, or an unknown thread or file that may wake the loop."""
_RESOLUTION = time.get_clock_info("monotonic").resolution
"""Seconds; what asyncio's loops take for the resolution of their clock."""
_SETTLING_ROUNDS = 20
"""Rounds of the loop that a test's last tasks get to end in: several times what nested scopes need."""
LASTING_TASKS = {"flowkit.supervisor"}
"""Names of tasks that last as long as their loop: they are not left behind, but what they start would be. On
trio flowkit keeps one system task per loop (backend.py), which trio ends after the main task."""


class Deadlock(AssertionError):
    """Nothing can happen any more: no task is ready, no timer is set, and nobody is left to wake the loop."""


class TimeHeld(AssertionError):
    """A worker thread held virtual time for longer than `PATIENCE`."""


class LoopBlocked(AssertionError):
    """A task kept the event loop to itself for longer than `BLOCKED_AFTER`."""


class LeftBehind(AssertionError):
    """The test ended and something it started did not."""


class Watch:
    """What one event loop under virtual time knows about itself. Used on the loop's own thread only."""

    def __init__(self, backend: str, wall: Callable[[], float] = time.perf_counter) -> None:
        self.backend = backend
        self.scope: anyio.CancelScope | None = None
        self.failure: Exception | None = None
        self.wall = wall
        self.wake: Callable[[Callable[[], object]], object]
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
        self._resumed_at = self.wall()

    def paused(self) -> None:
        if self._resumed_at is None:
            return
        took, self._resumed_at = self.wall() - self._resumed_at, None
        if took > BLOCKED_AFTER:
            self.fail(LoopBlocked(f"the event loop was blocked for {took:.1f} s: nothing else could run meanwhile"))

    def deadlock(self) -> None:
        self.fail(Deadlock("no task is ready, no timer is set, and nobody is left to wake the loop"))

    def held_too_long(self) -> None:
        self.fail(
            TimeHeld(
                f"worker threads held virtual time for {PATIENCE:g} s of real time; one that waits for the "
                "loop by anything but anyio.from_thread.run says so: `with letting_time_pass():`"
            )
        )

    def fail(self, failure: Exception) -> None:
        """Cancel the watched test, which then raises `failure` with a note of where each task was.

        Raises:
            Exception: `failure` itself, on asyncio, where cancelling can't help: no test is watched, or it
                was cancelled before and waits on. trio takes no errors here: pytest's time limit ends it.
            pytest.exit.Exception: not even asyncio's own last cancellation ends the loop.
        """
        if self.scope is not None and self.failure is None:
            self.failure = failure
            self.wake(self._cancel)
        elif self._raised:
            pytest.exit(f"an event loop can't be ended, so no further test can run: {failure}", returncode=1)
        elif self.backend == "asyncio":
            self._raised = True
            raise failure

    def _cancel(self) -> None:
        if self.scope is not None and self.failure is not None:
            self.failure.add_note("\n".join(f"{name}: {_where(coro)}" for name, coro in self.live_tasks().values()))
            self.scope.cancel()

    def tasks_since(self, before: set[int]) -> list[tuple[str, object]]:
        return [
            (name, coro)
            for key, (name, coro) in self.live_tasks().items()
            if key not in before and name not in LASTING_TASKS
        ]

    def live_tasks(self) -> dict[int, tuple[str, object]]:
        """Every task of this loop that hasn't ended: its name and coroutine by its identity."""
        return _trio_tasks() if self.backend == "trio" else _asyncio_tasks()


class _Running(threading.local):
    watch: Watch | None = None


_running = _Running()


def current_watch() -> Watch:
    """Raises:
    RuntimeError: the running event loop is not under virtual time.
    """
    if _running.watch is None:
        raise RuntimeError("no event loop under virtual time runs here: start one by virtual_time.run()")
    return _running.watch


# asyncio


class _VirtualSelector(selectors.BaseSelector):
    """The platform's selector, which passes timeouts by moving the clock."""

    def __init__(self, watch: Watch) -> None:
        self.now = 0.0
        self._real = selectors.DefaultSelector()
        self._watch = watch

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self._watch.paused()
        ready = self._real.select(0)
        if not ready and timeout != 0:
            if self._watch.held:
                ready = self._real.select(PATIENCE)
                if not ready:
                    self._watch.held_too_long()
            elif timeout is None or timeout == inf:
                # One key is the loop's own self-pipe. Any other may be written to from outside.
                if len(self._real.get_map()) > 1 or self._watch.may_be_woken():
                    ready = self._real.select(PATIENCE)
                if not ready:
                    self._watch.deadlock()
            else:
                self.now += timeout
                if self.now + _RESOLUTION == self.now:
                    # The loop runs timers that are due before now + resolution. Half a year on, a float no
                    # longer tells that from now, and would never get past a timer that is due exactly now.
                    self.now = nextafter(self.now, inf)
        self._watch.resumed()
        return ready

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return self._real.register(fileobj, events, data)

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._real.unregister(fileobj)

    def modify(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return self._real.modify(fileobj, events, data)

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return self._real.get_map()

    def close(self) -> None:
        self._real.close()


class VirtualLoop(asyncio.SelectorEventLoop):
    """asyncio's selector loop under virtual time, which starts at 0.

    `wall` is the real clock that blocking is measured by.
    """

    def __init__(self, wall: Callable[[], float] = time.perf_counter) -> None:
        self.watch = Watch("asyncio", wall)
        self.watch.wake = self.call_soon
        self._clock = _VirtualSelector(self.watch)
        super().__init__(self._clock)

    def time(self) -> float:
        return self._clock.now

    def call_at(  # type: ignore[override]  # typeshed ties the types of arguments to the callback
        self, when: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        # anyio.sleep_forever() is a timer at infinity. On the heap it would hide a deadlock: the stock loop
        # wakes up once a day for it.
        if when == inf:
            return asyncio.TimerHandle(when, callback, args, self, context)
        return super().call_at(when, callback, *args, context=context)

    def run_forever(self) -> None:
        before, _running.watch = _running.watch, self.watch
        self.watch.resumed()
        try:
            super().run_forever()
        finally:
            _running.watch = before

    def run_in_executor(  # type: ignore[override]  # the same
        self, executor: Executor | None, func: Callable[..., T], *args: Any
    ) -> asyncio.Future[T]:
        future = super().run_in_executor(executor, func, *args)
        self.watch.executor_call(+1)
        future.add_done_callback(lambda _: self.watch.executor_call(-1))
        return future

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:
        # It waits for a thread of its own, which isn't counted yet, and since Python 3.12 with a timeout.
        self.watch.executor_call(+1)
        try:
            await super().shutdown_default_executor()
        finally:
            self.watch.executor_call(-1)


def _asyncio_tasks() -> dict[int, tuple[str, object]]:
    loop = asyncio.get_running_loop()
    return {id(task): (task.get_name(), task.get_coro()) for task in asyncio.all_tasks(loop)}


# trio


class TrioWatch:
    """Gives trio's `MockClock` what it lacks: threads hold time, deadlocks and blocked loops are failures.

    An instrument; trio calls its methods by their names.
    """

    def __init__(self, clock: "trio.testing.MockClock", wall: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._wall = wall
        self.watch = Watch("trio", wall)
        self._before: Watch | None = None
        self._stepped = False
        self._waiting_since = 0.0
        self._idle_since: float | None = None

    def before_run(self) -> None:
        # AnyIO's plugin runs every Hypothesis example of a test with the same instrument: start afresh.
        self.watch = Watch("trio", self._wall)
        self.watch.wake = trio.lowlevel.current_trio_token().run_sync_soon
        self._before, _running.watch = _running.watch, self.watch
        self.watch.resumed()

    def after_run(self) -> None:
        _running.watch = self._before

    def after_task_step(self, task: object) -> None:
        self._stepped = True
        threshold = PATIENCE if self.watch.held else 0.0
        if self._clock.autojump_threshold != threshold:
            self._clock.autojump_threshold = threshold

    def before_io_wait(self, timeout: float) -> None:
        self.watch.paused()
        self._waiting_since = time.perf_counter()
        # With nothing to jump to, MockClock makes trio poll: a second poll, no task step in between, is idle.
        if self._stepped or self.watch.held or self.watch.scope is None:
            self._idle_since = None
        elif self.watch.failure is None:
            self._look_for_deadlock()
        self._stepped = False

    def after_io_wait(self, timeout: float) -> None:
        if self.watch.held and timeout > 0 and time.perf_counter() - self._waiting_since >= PATIENCE:
            self.watch.held_too_long()
        self.watch.resumed()

    def _look_for_deadlock(self) -> None:
        now = trio.lowlevel.current_statistics()
        if now.tasks_runnable or now.run_sync_soon_queue_size or now.seconds_to_next_deadline != inf:
            self._idle_since = None
            return
        if self._idle_since is None:
            self._idle_since = time.perf_counter()
        # One reader is trio's own, of the pipe that wakes it. Any other may be written to from outside.
        waits_for_io = now.io_statistics.tasks_waiting_read > 1 or now.io_statistics.tasks_waiting_write
        patience = PATIENCE if waits_for_io or self.watch.may_be_woken() else 0.0
        if time.perf_counter() - self._idle_since >= patience:
            self.watch.deadlock()


def _trio_tasks() -> dict[int, tuple[str, object]]:
    found: dict[int, tuple[str, object]] = {}
    root = trio.lowlevel.current_root_task()
    unvisited = [root] if root is not None else []
    while unvisited:
        task = unvisited.pop()
        found[id(task)] = (task.name, task.coro)
        unvisited.extend(child for nursery in task.child_nurseries for child in nursery.child_tasks)
    return found


# Running under virtual time


def backend_options(backend: str, wall: Callable[[], float] = time.perf_counter) -> tuple[str, dict[str, Any]]:
    """Fresh virtual time on "asyncio" or "trio", as AnyIO's pytest plugin takes it for `anyio_backend`."""
    if backend == "asyncio":
        return backend, {"loop_factory": partial(VirtualLoop, wall)}
    clock = trio.testing.MockClock(autojump_threshold=0)
    return backend, {"clock": clock, "instruments": [TrioWatch(clock, wall)]}


def run(
    function: Callable[..., Awaitable[T]],
    *args: Any,
    backend: str = "asyncio",
    wall: Callable[[], float] = time.perf_counter,
) -> T:
    """`anyio.run()` under virtual time, watched."""
    name, options = backend_options(backend, wall)
    if name == "trio":
        # Not through anyio.run(): early versions of AnyIO 4 drop the options on trio.
        return trio.run(partial(watched, function), *args, **options)
    return anyio.run(partial(watched, function), *args, backend=name, backend_options=options)


async def watched(function: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call `function`, and see that it neither hangs nor blocks the loop nor leaves anything behind.

    Raises:
        Deadlock: nothing could ever happen any more.
        TimeHeld: a worker thread held virtual time for longer than `PATIENCE`.
        LoopBlocked: the loop was blocked for longer than `BLOCKED_AFTER`.
        LeftBehind: `function` returned; tasks or asynchronous generators that it started are still there.
    """
    watch = current_watch()
    before = set(watch.live_tasks())
    with _async_generators() as generators:
        try:
            with anyio.CancelScope() as watch.scope:
                result = await function(*args, **kwargs)
                watch.paused()
                watch.resumed()
        finally:
            watch.scope = None
            if watch.failure is not None:
                raise watch.failure
        for _ in range(_SETTLING_ROUNDS):
            if not watch.tasks_since(before):
                break
            await anyio.lowlevel.checkpoint()
        left = [f"task {name}: {_where(coro)}" for name, coro in watch.tasks_since(before)]
        left += generators.left_behind()
    if left:
        raise LeftBehind("the test ended and left behind\n" + "\n".join(left))
    return result


class _AsyncGenerators:
    def __init__(self) -> None:
        self.started: WeakSet[AsyncGenerator[Any, Any]] = WeakSet()
        self.collected: list[str] = []

    def left_behind(self) -> list[str]:
        return [
            *(f"async generator {_where(one)}" for one in self.started if _first(one, "ag_frame") is not None),
            *(f"async generator {name}, unfinished, to the garbage collector" for name in self.collected),
        ]


@contextmanager
def _async_generators() -> Iterator[_AsyncGenerators]:
    """Notice every asynchronous generator that is started inside, on top of the event loop's own hooks."""
    seen = _AsyncGenerators()
    hooks = sys.get_asyncgen_hooks()

    def started(generator: AsyncGenerator[Any, Any]) -> None:
        seen.started.add(generator)
        if hooks.firstiter is not None:
            hooks.firstiter(generator)

    def collected(generator: AsyncGenerator[Any, Any]) -> None:
        seen.collected.append(_where(generator))
        if hooks.finalizer is not None:
            hooks.finalizer(generator)

    sys.set_asyncgen_hooks(started, collected)
    try:
        yield seen
    finally:
        sys.set_asyncgen_hooks(*hooks)


_LIBRARIES = tuple(
    os.path.dirname(spec.origin) + os.sep
    for name in ("anyio", "asyncio", "trio")
    if (spec := find_spec(name)) is not None and spec.origin is not None
)


def _where(coro: object) -> str:
    """Where a suspended coroutine waits: the innermost place outside the async libraries, else its start."""
    place = ""
    while coro is not None:
        frame = _first(coro, "cr_frame", "ag_frame", "gi_frame")
        if frame is not None and not (place and frame.f_code.co_filename.startswith(_LIBRARIES)):
            place = f"{frame.f_code.co_qualname} ({frame.f_code.co_filename}:{frame.f_lineno})"
        coro = _first(coro, "cr_await", "ag_await", "gi_yieldfrom")
    return place or "ended"


def _first(owner: object, *names: str) -> Any:
    """The first of these attributes that is set: coroutines and generators name the same differently."""
    return next((value for name in names if (value := getattr(owner, name, None)) is not None), None)


# Worker threads


_enter_thread = anyio.to_thread.run_sync
_enter_loop = anyio.from_thread.run


def count_threads() -> None:
    """Have virtual time know about AnyIO's worker threads. To be called before flowkit is imported."""
    anyio.to_thread.run_sync = _counted_run_sync  # type: ignore[assignment]
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
def letting_time_pass() -> Iterator[None]:
    """In a worker thread: hold time no longer, as what this thread waits for is something the loop will do.

    Time is held again when the block ends, which may be after further timers have fired.
    """
    anyio.from_thread.run_sync(lambda: current_watch().thread_lets_time_pass(+1))
    try:
        yield
    finally:
        anyio.from_thread.run_sync(lambda: current_watch().thread_lets_time_pass(-1))


def _is_pooled(thread: threading.Thread) -> bool:
    """Whether a thread is of AnyIO's pool, or of trio's and idle: one at work there has another name."""
    return thread.name == "AnyIO worker thread" or thread.name.startswith("Trio thread ")


def threads_left_behind(before: set[threading.Thread], patience: float = 2.0) -> list[str]:
    """Names of the threads started since `before` that don't end within `patience` seconds of real time.

    AnyIO's threads end with their loop; idle ones of trio stay in the process for the next loop.
    """
    left = [thread for thread in set(threading.enumerate()) - before if not thread.name.startswith("Trio thread ")]
    for thread in left:
        thread.join(patience)
    return sorted(thread.name for thread in left if thread.is_alive())
