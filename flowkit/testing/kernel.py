"""A simulated process, as the rest of the harness sees it: an event loop that is driven from outside.

A `Kernel` is an event loop of asyncio or trio whose time is virtual and whose order is a `Scheduler`'s. It does nothing
by itself: `Kernel.go_on` runs task steps until all tasks are blocked and no timer is due any more, then returns. So the
process can be looked at, and told things (`Kernel.call`), between any two instants of its time.

**Time** moves only when nothing is ready: then it jumps to the next timer.

**The outside world** isn't there: sockets, processes and threads are refused as `OutsideWorld` (threads.py has what
takes the place of worker threads).

**The end.** `Kernel.run` is a whole life: to the end of the main function, then of everything else. What was still
alive when main had returned is reported. Where all are blocked before main has returned, main is cancelled, so that
clean-ups run, and `Stuck` says who waited for what.
"""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from math import inf
from typing import Any

import attrs

from flowkit.testing.scheduling import Scheduler

__all__ = ["Alive", "Kernel", "Main", "Stuck", "drop"]

Main = Callable[[], Awaitable[Any]]

CLEANING = 3
"""How often a cancelled main task that is blocked again is cancelled once more before its process is abandoned."""


@attrs.frozen
class Alive:
    """A task that hasn't ended: its ``number`` (see scheduling.py), its name, and where it stands."""

    number: int
    name: str
    place: str

    def __str__(self) -> str:
        return f"{self.name}, at {self.place}"


class Stuck(Exception):
    """All tasks are blocked, and no timer is set: nothing can ever happen any more. ``tasks`` says who waits where."""

    def __init__(self, now: float, tasks: list[Alive]) -> None:
        super().__init__(f"all tasks are blocked at {now:g} s")
        self.now = now
        self.tasks = tasks


class Kernel(ABC):
    """One simulated process. Its loop ends with `close`; nothing of it runs outside `go_on`, `call` and `close`."""

    backend: str

    def __init__(self, scheduler: Scheduler, now: float = 0.0) -> None:
        self.scheduler = scheduler
        self.now = now
        """Virtual seconds, true at every moment of a step too. A kernel may begin where another has ended."""
        self.stuck = False
        """Whether all tasks were blocked before main had returned: what happens now is only clean-up."""
        self.unhandled: list[str] = []
        """What tasks and callbacks raised and nobody heard of."""

    # ------------------------------------------------------------------------------------------------ what differs

    @abstractmethod
    def start(self, main: Main) -> None:
        """Make ``main`` the process' main task. Nothing runs yet."""

    @abstractmethod
    def go_on(self, until: float = inf) -> bool:
        """Run all that is ready, and what becomes ready up to the time ``until``; whether main has returned.

        Time is at ``until`` then, unless that is infinite or main has returned.

        Raises:
            BaseException: what a callback raised that isn't an `Exception`, and `Livelock`; the process is unusable
                then, but for `close`.
        """

    @abstractmethod
    def call(self, function: Callable[[], None]) -> None:
        """Have this called in the loop, in no task, when it goes on: before any task step."""

    @abstractmethod
    def cancel(self) -> None:
        """Cancel main, from outside `go_on`."""

    @abstractmethod
    def result(self) -> Any:
        """What main returned.

        Raises:
            BaseException: what main raised.
        """

    @abstractmethod
    def alive(self) -> list[Alive]:
        """The tasks that haven't ended, by number; the loop's own and main aside."""

    @abstractmethod
    def current(self) -> "tuple[int, Any] | None":
        """Number and coroutine of the task that is in the middle of a step; ``None`` in a callback."""

    @abstractmethod
    def close(self) -> None:
        """End the process: its loop runs nothing any more. Tasks that are still there are dropped as they stand."""

    # ------------------------------------------------------------------------------------------------- a whole life

    def run(self, main: Main) -> Any:
        """``main`` from begin to end; what it returned.

        Raises:
            Stuck: all tasks were blocked; main has been cancelled, and has cleaned up.
            BaseException: what main raised.
        """
        self.start(main)
        if not self.go_on():
            stuck = Stuck(self.now, [*self.main_alive(), *self.alive()])
            self.stuck = True
            for _ in range(CLEANING):
                self.cancel()
                if self.go_on():
                    break
            raise stuck
        return self.result()

    @abstractmethod
    def main_alive(self) -> list[Alive]:
        """The main task, where it hasn't ended."""


class Dropped(BaseException):
    """Thrown into what is still there when its process ends."""


DROPPING = 10
"""How often it is thrown into a coroutine that awaits something in its clean-up."""


def drop(coro: Any) -> None:
    """End a suspended coroutine, whatever it does about it.

    Left to the garbage collector its clean-ups would run some time later, in the middle of another process, and what
    they raise would be reported there. (``close()`` isn't enough: a coroutine that awaits something in its clean-up
    would survive it, out of reach, if another awaits it.)
    """
    frame = getattr(coro, "cr_frame", None)
    if frame is not None and inspect.getcoroutinestate(coro) == inspect.CORO_CREATED:
        for given in frame.f_locals.values():  # AnyIO's tasks are given what they are to await
            inner = getattr(given, "_coro", given)  # newer ones in a `TaskHandle`
            if inspect.iscoroutine(inner):
                inner.close()
    for _ in range(DROPPING):
        try:
            coro.throw(Dropped())
        except KeyboardInterrupt:
            raise
        except BaseException:  # noqa: BLE001 - it has ended
            return
