"""Virtual time for asyncio and trio: a sleep takes no time, and a test that could only hang fails at once.

The code under test runs as it always does, under the real scheduler; only the clock jumps. With pytest and AnyIO's
plugin, in conftest.py::

    @pytest.fixture
    def anyio_backend(virtual_time):
        return virtual_time

and every ``async`` test under AnyIO's mark runs under virtual time, on each backend that is installed. Elsewhere::

    assert run_virtual(shop, "pen", backend="trio") == "sold"

How it works
------------
**asyncio.** `VirtualLoop` is the stock selector loop on a selector that never waits for a timer: when nothing is ready
it moves ``loop.time()`` to the next timer instead. Timers that are due at the same instant run in no promised order, as
on the stock loop.

**trio.** ``MockClock(autojump_threshold=0)`` does the same. An instrument (virtual_trio.py) adds what is missing there.

**Worker threads hold time** (virtual_watch.py): while one works for the loop, the clock stands still.

**Time is held by nothing else.** A pending socket, pipe or process does not hold it: a timeout around real I/O fires at
once. Such tests belong on the real clock (``anyio.run``). ``trio.to_thread.run_sync`` called directly is not counted.

**The watch** (`watched`) fails a test that deadlocks (nothing is ready, no timer is set, and nobody is left to wake the
loop) or blocks the loop. What it leaves behind is another matter (left_behind.py); `run_virtual` sees to both.
"""

import asyncio
import selectors
import time
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import Executor
from contextvars import Context
from functools import partial
from importlib.util import find_spec
from math import inf, nextafter
from typing import Any, ParamSpec, TypeVar

import anyio

from flowkit.errors import WrongCall, shown
from flowkit.testing.left_behind import LeftBehind, leaving_nothing
from flowkit.testing.virtual_watch import (
    Deadlock,
    LoopBlocked,
    TimeHeld,
    Watch,
    count_threads,
    current_watch,
    letting_time_pass,
    under_watch,
)

__all__ = [
    "Deadlock",
    "LeftBehind",
    "LoopBlocked",
    "TimeHeld",
    "VirtualLoop",
    "count_threads",
    "letting_time_pass",
    "run_virtual",
    "virtual_backend",
    "watched",
]

T = TypeVar("T")
P = ParamSpec("P")

_RESOLUTION = time.get_clock_info("monotonic").resolution
"""Seconds; what asyncio's loops take for the resolution of their clock."""


def virtual_backend(name: str, *, wall: Callable[[], float] = time.perf_counter) -> tuple[str, dict[str, Any]]:
    """Fresh virtual time on "asyncio" or "trio": a name and options for AnyIO's fixture ``anyio_backend``, which may
    return this, and for ``anyio.run(…, backend=name, backend_options=options)``, which early versions of AnyIO 4 ignore
    on trio.

    Time starts at 0. The options are for one loop after the other, never for two at once. What runs under them isn't
    watched by itself (`watched`).

    Args:
        name: "asyncio" or "trio".
        wall: the real clock that a blocked loop is noticed by, in seconds.

    Raises:
        WrongCall: there is no such backend, or it isn't installed.
    """
    count_threads()
    if name == "asyncio":
        return name, {"loop_factory": partial(VirtualLoop, wall)}
    if name != "trio":
        raise WrongCall("virtual_backend()", f"takes 'asyncio' or 'trio', but got {shown(name)}")
    if find_spec("trio") is None:
        raise WrongCall("virtual_backend('trio')", "needs trio, which is not installed", 'install "flowkit[trio]"')
    from flowkit.testing.virtual_trio import trio_options

    clock, instrument = trio_options(wall)
    return name, {"clock": clock, "instruments": [instrument]}


def run_virtual(
    function: Callable[..., Awaitable[T]],
    *args: Any,
    backend: str = "asyncio",
    wall: Callable[[], float] = time.perf_counter,
) -> T:
    """``anyio.run()`` under virtual time, which starts at 0; what ``function(*args)`` returned.

    It fails where it hangs, blocks the loop, or leaves anything behind in it.

    Raises:
        Deadlock, TimeHeld, LoopBlocked: see `watched`.
        LeftBehind: it returned, and tasks or asynchronous generators that it started are still there.
        WrongCall: there is no such backend, or it isn't installed.
        BaseException: what ``function`` raised.
    """
    name, options = virtual_backend(backend, wall=wall)
    main = partial(watched, partial(leaving_nothing, function))
    if name == "asyncio":
        return anyio.run(main, *args, backend=name, backend_options=options)
    # Not through anyio.run(): early versions of AnyIO 4 drop the options on trio.
    import trio

    return trio.run(main, *args, **options)


async def watched(function: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call ``function``, and see that it neither hangs nor blocks the loop, which is to be under virtual time.

    A test that fails in this way is cancelled first, so that it cleans up; the error has a note of where each task was.
    Cancellation from outside passes through.

    Raises:
        Deadlock: nothing could ever happen any more.
        TimeHeld: a worker thread held virtual time for longer than 10 s of real time.
        LoopBlocked: the loop was blocked for longer than 2 s of real time.
        RuntimeError: the running loop is not under virtual time.
    """
    __tracebackhide__ = True  # from pytest: what matters is where the test failed
    watch = current_watch()
    try:
        with anyio.CancelScope() as watch.scope:
            result = await function(*args, **kwargs)
            watch.paused()
            watch.resumed()
            return result
    finally:
        watch.scope = None
        if watch.failure is not None:
            raise watch.failure
    raise AssertionError("only a failure cancels this scope")


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
                ready = self._real.select(self._watch.patience)
                if not ready:
                    self._watch.held_too_long()
            elif timeout is None or timeout == inf:
                # One key is the loop's own self-pipe. Any other may be written to from outside.
                if len(self._real.get_map()) > 1 or self._watch.may_be_woken():
                    ready = self._real.select(self._watch.patience)
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

    ``wall`` is the real clock that blocking is measured by, in seconds.
    """

    def __init__(self, wall: Callable[[], float] = time.perf_counter) -> None:
        self._watch = Watch("asyncio", self.call_soon, wall)
        self._clock = _VirtualSelector(self._watch)
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
        before = under_watch(self._watch)
        self._watch.resumed()
        try:
            super().run_forever()
        finally:
            under_watch(before)

    def run_in_executor(  # type: ignore[override]  # the same
        self, executor: Executor | None, func: Callable[..., T], *args: Any
    ) -> asyncio.Future[T]:
        future = super().run_in_executor(executor, func, *args)
        self._watch.executor_call(+1)
        future.add_done_callback(lambda _: self._watch.executor_call(-1))
        return future

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:
        # It waits for a thread of its own, which isn't counted yet, and since Python 3.12 with a timeout.
        self._watch.executor_call(+1)
        try:
            await super().shutdown_default_executor()
        finally:
            self._watch.executor_call(-1)
