"""An asyncio event loop whose time is virtual and whose order is a scheduler's.

**Only task steps are choices.** Every other callback (of futures, of timers, AnyIO's own) runs first in, first out,
before the next task step: asyncio documents that order, and AnyIO relies on it. They run in rounds, because one may ask
to be called again for ever (AnyIO delivers a cancellation so): a task step is taken after each round.

**What became ready in one task step is put in the order of the tasks' numbers.** asyncio and AnyIO wake and cancel sets
of tasks, in the order of their addresses; without this hardly a run is like another.

**No selector, no thread.** The loop is a `BaseEventLoop` with the few methods of its own that every such loop has to
have (``_run_once`` above all, which tests/test_kernels.py has a canary for); whatever reaches for a socket, a pipe, a
process or a signal is refused.
"""

import asyncio
import heapq
from asyncio import base_events, events
from collections import deque
from collections.abc import Callable
from contextvars import Context
from math import inf
from typing import Any

from flowkit.testing.kernel import Alive, Kernel, Main, drop
from flowkit.testing.places import place_of
from flowkit.testing.problems import OutsideWorld
from flowkit.testing.scheduling import Fifo, Scheduler

__all__ = ["AsyncioKernel"]

SETTLING = 20
"""Rounds of callbacks, none of which made a task ready, after which time moves on, or the loop is at rest."""


def _refuse(what: str) -> Any:
    def method(self: Any, *args: Any, **named: Any) -> Any:
        raise OutsideWorld(what)

    return method


class SimulatedLoop(base_events.BaseEventLoop):
    """The loop. `AsyncioKernel` drives it."""

    def __init__(self, scheduler: Scheduler, now: float) -> None:
        super().__init__()
        self.now = now
        self.until = inf
        self.scheduler = scheduler
        self.numbers: dict[Any, int] = {}  # of the tasks that have been ready
        self.wakeups: Callable[[Any], None] | None = None
        self._fresh: list[tuple[int, events.Handle]] = []  # became ready since the last task step
        self._able: list[events.Handle] = []  # the steps of the tasks that are ready, in their order
        self._able_numbers: list[int] = []
        self._callbacks: deque[events.Handle] = deque()
        self._timers: list[tuple[float, int, events.TimerHandle]] = []
        self._timers_set = 0

    # -------------------------------------------------------------------------------------------------- its queues

    def time(self) -> float:
        return self.now

    # typeshed ties the types of arguments to the callback's.
    def call_soon(  # type: ignore[override]
        self, callback: Any, *args: Any, context: Context | None = None
    ) -> events.Handle:
        handle = events.Handle(callback, args, self, context)
        task = getattr(callback, "__self__", None)
        if isinstance(task, asyncio.Task) and getattr(callback, "__name__", "") != "cancel":
            number = self.numbers.get(task)
            if number is None:
                number = self.numbers[task] = self.scheduler.number()
            self._fresh.append((number, handle))
        else:
            self._callbacks.append(handle)
        return handle

    def call_soon_threadsafe(  # type: ignore[override]
        self, callback: Any, *args: Any, context: Context | None = None
    ) -> events.Handle:
        """The same: threads of the simulation run by turns with the loop (threads.py).

        Raises:
            RuntimeError: the loop is closed.
        """
        self._check_closed()  # type: ignore[attr-defined]
        return self.call_soon(callback, *args, context=context)

    def call_at(  # type: ignore[override]
        self, when: float, callback: Any, *args: Any, context: Context | None = None
    ) -> events.TimerHandle:
        handle = events.TimerHandle(when, callback, args, self, context)
        if when != inf:  # else it is never due, and must not keep a loop that is at rest alive
            self._timers_set += 1
            heapq.heappush(self._timers, (when, self._timers_set, handle))
        return handle

    def call_later(  # type: ignore[override]
        self, delay: float, callback: Any, *args: Any, context: Context | None = None
    ) -> events.TimerHandle:
        return self.call_at(self.now + delay, callback, *args, context=context)

    def _timer_handle_cancelled(self, handle: events.TimerHandle) -> None:
        pass  # it is skipped when its time comes

    def _tick(self) -> bool:
        """Move time to the next timer, if that is not after ``until``; whether there was one."""
        timers = self._timers
        while timers and timers[0][2].cancelled():
            heapq.heappop(timers)
        if not timers or timers[0][0] > self.until or timers[0][0] == inf:  # anyio.sleep_forever() is a timer
            return False
        if timers[0][0] > self.now:
            self.now = timers[0][0]
            self.scheduler.progress()
        while timers and timers[0][0] <= self.now:
            _, _, handle = heapq.heappop(timers)
            if not handle.cancelled():
                self._callbacks.append(handle)
        return True

    def _run_once(self) -> None:
        """Run until all is blocked, then stop the loop."""
        callbacks, able, numbers, fresh = self._callbacks, self._able, self._able_numbers, self._fresh
        pick = self.scheduler.pick
        idle = 0
        while not self._stopping:  # type: ignore[attr-defined]
            for _ in range(len(callbacks)):
                handle = callbacks.popleft()
                if not handle.cancelled():
                    handle._run()
            if self._stopping:  # type: ignore[attr-defined]  # main has returned
                break
            if fresh:
                if len(fresh) > 1:
                    fresh.sort(key=_number)
                for number, handle in fresh:
                    able.append(handle)
                    numbers.append(number)
                fresh.clear()
            if not able:
                if callbacks and idle < SETTLING:
                    idle += 1
                    continue
                idle = 0
                if not self._tick():
                    self.stop()
                continue
            idle = 0
            index = pick(numbers)
            del numbers[index]
            handle = able.pop(index)
            if not handle.cancelled():
                handle._run()

    def end(self) -> None:
        """Close the asynchronous generators that are left. Nothing else runs any more, and no scheduler is asked."""
        for queue in (self._fresh, self._able, self._able_numbers, self._callbacks, self._timers):
            queue.clear()
        if self._asyncgens:  # type: ignore[attr-defined]
            self.until = inf
            self.scheduler = Scheduler(Fifo())
            self.run_until_complete(self.shutdown_asyncgens())

    # ------------------------------------------------------------------------------------------- the outside world

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> Any:  # type: ignore[override]
        from flowkit.testing.threads import in_thread

        return self.create_task(in_thread(func, *args))

    def _process_events(self, event_list: Any) -> None:
        raise AssertionError("there is no selector")

    def _write_to_self(self) -> None:
        raise AssertionError("there is no selector to wake")

    getaddrinfo = getnameinfo = _refuse("looked up a name in the network")
    create_connection = sock_connect = create_unix_connection = _refuse("opened a connection")
    create_server = create_unix_server = sock_accept = _refuse("opened a server")
    connect_accepted_socket = create_datagram_endpoint = _refuse("opened a socket")
    sock_recv = sock_recv_into = sock_recvfrom = sock_recvfrom_into = _refuse("read from a socket")
    sock_sendall = sock_sendto = sock_sendfile = sendfile = start_tls = _refuse("wrote to a socket")
    subprocess_exec = subprocess_shell = _refuse("started a process")
    connect_read_pipe = connect_write_pipe = _refuse("opened a pipe")
    add_reader = add_writer = remove_reader = remove_writer = _refuse("waited for a socket")
    add_signal_handler = remove_signal_handler = _refuse("asked for a signal")


def _number(fresh: tuple[int, events.Handle]) -> int:
    return fresh[0]


class AsyncioKernel(Kernel):
    """A simulated process under asyncio."""

    backend = "asyncio"

    def __init__(self, scheduler: Scheduler, now: float = 0.0) -> None:
        self._loop = SimulatedLoop(scheduler, now)
        super().__init__(scheduler, now)
        self._loop.set_exception_handler(self._unhandled)
        self._main: asyncio.Task[Any] | None = None
        self._number = -1

    @property
    def now(self) -> float:
        return self._loop.now

    @now.setter
    def now(self, now: float) -> None:
        self._loop.now = now

    def start(self, main: Main) -> None:
        self._main = self._loop.create_task(_awaited(main), name="main")
        self._number = self._loop.numbers[self._main]

    def go_on(self, until: float = inf) -> bool:
        assert self._main is not None
        loop = self._loop
        loop.until = until
        self._main.add_done_callback(_stop)
        try:
            loop.run_forever()
        finally:
            self._main.remove_done_callback(_stop)
        if self._main.done():
            return True
        if until != inf:
            loop.now = max(until, loop.now)
        return False

    def call(self, function: Callable[[], None]) -> None:
        self._loop.call_soon(function)

    def cancel(self) -> None:
        assert self._main is not None
        self._main.cancel()

    def result(self) -> Any:
        assert self._main is not None
        return self._main.result()

    def alive(self) -> list[Alive]:
        return [
            Alive(number, task.get_name(), place_of(task.get_coro()))
            for task, number in self._loop.numbers.items()
            if task is not self._main and not task.done()
        ]

    def main_alive(self) -> list[Alive]:
        assert self._main is not None
        return [] if self._main.done() else [Alive(self._number, "main", place_of(self._main.get_coro()))]

    def current(self) -> "tuple[int, Any] | None":
        task = asyncio.current_task(self._loop)
        if task is None:
            return None
        number = self._loop.numbers.get(task)
        if number is None:  # it is eager: it runs before it has been ready
            number = self._loop.numbers[task] = self.scheduler.number()
        return number, task.get_coro()

    def close(self) -> None:
        loop, main = self._loop, self._main
        if loop.is_closed():
            return
        for task in reversed(loop.numbers):  # children before their parents
            if not task.done():
                task._log_destroy_pending = False
                drop(task.get_coro())
        loop.end()
        if main is not None and main.done() and not main.cancelled():
            main.exception()  # whoever asked for the result has heard of it
        self._main = None
        loop.numbers.clear()  # the last to hold ended tasks: an exception that nobody fetched is reported now
        del main
        loop.close()

    def _unhandled(self, loop: Any, context: dict[str, Any]) -> None:
        error = context.get("exception")
        text = context.get("message", "an error in a callback")
        self.unhandled.append(text if error is None else f"{text}: {type(error).__name__}: {error}")


async def _awaited(main: Main) -> Any:
    return await main()


def _stop(main: "asyncio.Task[Any]") -> None:
    main.get_loop().stop()
