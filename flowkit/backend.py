"""Everything that differs between asyncio and trio, and the only place where a task is started outside a task group.

A run whose handle is kept instead of awaited (``handler = workflow.run(…)``) needs somebody to own it: a *supervised*
task of the event loop. On asyncio that is a task with a strong reference; asyncio cancels it when the loop is closed.
On trio it is a child of one system task per trio run, which trio cancels once the main task has ended.

Whether a run is awaited at once (then it needs no task) is known only after ``run()`` has returned. So a start is put
off by one turn of the loop, and taken back where somebody has claimed the run in the meantime.

trio is imported only when it is already running.
"""

import asyncio
import contextvars
import sys
import threading
from collections.abc import Callable, Coroutine
from typing import Any, Protocol, TypeVar

import anyio

__all__ = ["Backend", "current", "escaped_cancellation", "uninterrupted"]

F = TypeVar("F", bound=Callable[..., Any])
Start = Callable[[], Coroutine[Any, Any, None]]


class Backend(Protocol):
    """What a run needs of the event loop it lives in."""

    name: str
    loop: Any  # the loop itself, to tell it from others; can be referred to weakly

    def clock(self) -> Callable[[], float]:
        """The loop's monotonic clock, in seconds."""
        ...

    def context(self) -> contextvars.Context:
        """The context variables there are now. In it AnyIO can be called from callbacks of the loop, too."""
        ...

    def supervise(self, start: Start, name: str, lost: Callable[[], None]) -> None:
        """Run ``start`` as a task of the loop, from its next turn on, with the context variables there are now.

        ``lost`` is called where the task was cancelled: perhaps before it began, and then nothing of ``start`` ran.
        """
        ...

    def postpone(self, call: Callable[..., None], *args: Any) -> Callable[[], None]:
        """Call this in the loop's next turn, with the context variables there are now; the function that takes it
        back."""
        ...

    def from_anywhere(self, call: Callable[[], None]) -> bool:
        """Call this soon, from whichever thread (a finaliser may run in any); false where the loop has ended."""
        ...


def current() -> Backend | None:
    """The running event loop's backend, ``None`` where none runs in this thread."""
    trio = sys.modules.get("trio")
    # trio first: as a guest it runs inside an asyncio loop's callbacks.
    try:
        in_trio = trio is not None and trio.lowlevel.in_trio_task()
    except AttributeError:
        in_trio = False  # another thread is just importing it
    if in_trio:
        return _trio_backend(trio)
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        return None
    return _Asyncio(loop)


_uninterrupted: list[Callable[..., Any]] = []


def uninterrupted(function: F) -> F:
    """Keep Ctrl-C from being raised inside this function, on trio: it comes at the next checkpoint instead.

    trio raises KeyboardInterrupt wherever the main thread happens to be in unprotected code; asyncio's runner cancels
    the main task instead.
    """
    _uninterrupted.append(function)
    return function


def escaped_cancellation(error: BaseException) -> bool:
    """Whether this is a cancellation error that nobody sent: no scope around the task, nor the task itself, is
    cancelled."""
    if not isinstance(error, anyio.get_cancelled_exc_class()):
        return False
    if anyio.get_current_task().has_pending_cancellation():
        return False
    task = asyncio.current_task() if isinstance(error, asyncio.CancelledError) else None
    return task is None or not task.cancelling()


def watch_this_task() -> Callable[[], bool]:
    """Whether this task has been cancelled since: to be asked from another task.

    asyncio's own ``Task.cancel()`` heeds no shield, and at the end of a loop it hits every task at once. One that must
    outlast this one asks whether it was only hit along with it. trio has nothing of the kind.
    """
    if anyio.get_cancelled_exc_class() is not asyncio.CancelledError:
        return bool
    task = asyncio.current_task()
    before = task.cancelling() if task is not None else 0
    return lambda: task is not None and task.cancelling() > before


# --------------------------------------------------------------------------------------------------------- asyncio

_strong: set["asyncio.Task[None]"] = set()

# Where there is a sniffio, AnyIO asks it which loop runs, and in a callback, where no task does, it knows only if it
# has been told: by `anyio.run`, not by `asyncio.run`.
_library: contextvars.ContextVar[str | None] | None
try:
    from sniffio import current_async_library_cvar as _library
except ImportError:  # then AnyIO finds out by itself
    _library = None


class _Asyncio:
    __slots__ = ("loop",)
    name = "asyncio"

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop

    def clock(self) -> Callable[[], float]:
        return self.loop.time

    def context(self) -> contextvars.Context:
        context = contextvars.copy_context()
        if _library is not None and _library.get(None) != "asyncio":
            context.run(_library.set, "asyncio")
        return context

    def supervise(self, start: Start, name: str, lost: Callable[[], None]) -> None:
        def ended(task: "asyncio.Task[None]") -> None:
            _strong.discard(task)
            if task.cancelled():
                lost()

        task = self.loop.create_task(start(), name=name)
        _strong.add(task)
        task.add_done_callback(ended)

    def postpone(self, call: Callable[..., None], *args: Any) -> Callable[[], None]:
        return self.loop.call_soon(call, *args, context=self.context()).cancel

    def from_anywhere(self, call: Callable[[], None]) -> bool:
        try:
            self.loop.call_soon_threadsafe(call)
        except RuntimeError:  # the loop is closed
            return False
        return True


# ------------------------------------------------------------------------------------------------------------ trio

_first_time = threading.Lock()
_supervisor: Any = None  # a trio.lowlevel.RunVar, made when trio is first seen


class _Supervisor:
    """The system task of this trio run that makes postponed calls, asleep until there are some; and the owner of its
    supervised tasks, in a task of its own. trio cancels both when the main task has ended. Calls are made until the
    last supervised task has ended, too: one that is still cleaning up may wait for what they do."""

    def __init__(self, trio: Any) -> None:
        self._trio = trio
        self._token = trio.lowlevel.current_trio_token()
        self._nursery: Any = None
        self._task: Any = None
        self._asleep = False
        self._calls: list[tuple[contextvars.Context, Callable[..., None], tuple[Any, ...]] | None] = []
        self._early: list[tuple[Start, str, contextvars.Context]] = []

    async def run(self) -> None:
        trio = self._trio
        self._task = trio.lowlevel.current_task()
        async with trio.open_nursery() as around:
            with trio.CancelScope(shield=True) as serving:
                around.start_soon(self._own, serving, name=self._task.name)
                await self._serve()

    async def _own(self, serving: Any) -> None:
        try:
            async with self._trio.open_nursery() as nursery:
                self._nursery = nursery
                while self._early:  # no loop with a name for it: asleep, this must keep no run alive
                    self._spawn_early(*self._early.pop(0))
                await self._trio.sleep_forever()
        finally:
            serving.cancel()

    async def _serve(self) -> None:
        while True:
            calls, self._calls = self._calls, []
            postponed = None
            for postponed in calls:
                if postponed is not None:
                    context, call, args = postponed
                    context.run(call, *args)
                    del context, call, args
            del calls, postponed  # asleep, it must keep no run alive
            if self._calls:
                continue
            self._asleep = True
            await self._trio.lowlevel.wait_task_rescheduled(self._abort)

    def _abort(self, _: Any) -> Any:
        self._asleep = False
        return self._trio.lowlevel.Abort.SUCCEEDED

    def supervise(self, start: Start, name: str) -> None:
        if self._nursery is None:
            self._early.append((start, name, contextvars.copy_context()))
        else:
            self._spawn(start, name)

    def _spawn_early(self, start: Start, name: str, context: contextvars.Context) -> None:
        context.run(self._spawn, start, name)

    def _spawn(self, start: Start, name: str) -> None:
        self._nursery.start_soon(start, name=name)

    def postpone(self, call: Callable[..., None], *args: Any) -> Callable[[], None]:
        calls = self._calls
        position = len(calls)
        calls.append((contextvars.copy_context(), call, args))
        if self._asleep:
            self._asleep = False
            self._trio.lowlevel.reschedule(self._task)

        def take_back() -> None:
            calls[position] = None

        return take_back

    def from_anywhere(self, call: Callable[[], None]) -> bool:
        try:
            self._token.run_sync_soon(call)
        except self._trio.RunFinishedError:
            return False
        return True


class _Trio:
    __slots__ = ("_own", "_trio", "loop")
    name = "trio"

    def __init__(self, trio: Any, own: _Supervisor) -> None:
        self._trio = trio
        self._own = own
        self.loop = trio.lowlevel.current_trio_token()

    def clock(self) -> Callable[[], float]:
        clock: Callable[[], float] = self._trio.current_time
        return clock

    def context(self) -> contextvars.Context:
        return contextvars.copy_context()

    def supervise(self, start: Start, name: str, lost: Callable[[], None]) -> None:
        self._own.supervise(start, name)  # here a task always begins

    def postpone(self, call: Callable[..., None], *args: Any) -> Callable[[], None]:
        return self._own.postpone(call, *args)

    def from_anywhere(self, call: Callable[[], None]) -> bool:
        return self._own.from_anywhere(call)


def _trio_backend(trio: Any) -> Backend:
    global _supervisor
    if _supervisor is None:
        with _first_time:
            _supervisor = _supervisor or trio.lowlevel.RunVar("flowkit supervisor", default=None)
    backend: Backend | None = _supervisor.get()
    if backend is None:
        for function in _uninterrupted:
            trio.lowlevel.enable_ki_protection(function)  # notes the code object, so it can be said late
        own = _Supervisor(trio)
        backend = _Trio(trio, own)
        _supervisor.set(backend)
        # System tasks start with trio's own context; each run brings its own.
        trio.lowlevel.spawn_system_task(own.run, name="flowkit.supervisor")
    return backend
