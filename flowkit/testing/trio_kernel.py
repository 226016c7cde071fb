"""trio's own event loop, with virtual time, in an order that is a scheduler's.

trio runs as it is: its tasks, nurseries, cancel scopes and its loop. That loop is a generator (`unrolled_run`, made for
guest mode), and each of its passes runs the tasks that it finds in a queue. The queue here gives it one: the one that
the scheduler has picked.

- What became ready in one pass is put in the order of the tasks' numbers. trio wakes and cancels sets of tasks, in the
  order of their addresses.
- trio's own two tasks (the root of all, and the one that runs what comes from elsewhere) are no choices: they go first.
- Time is the kernel's. Where nothing is ready, it moves to the next deadline, unless somebody waits for just that.
- There is no epoll, no socket and no handler of signals. Sockets, processes and signals are refused; what would run in
  one of trio's threads runs by turns with the loop (threads.py).
- Several kernels may exist, and one may run while another is at rest: what trio keeps per thread (which loop and task
  run) is put in place when one goes on, and back as it was when it stops.

**A crash of a system task** ends everything under trio: main is cancelled, and `TrioKernel.result` raises
`trio.TrioInternalError` as ``trio.run`` does. What was raised is in `Kernel.unhandled`.

**What is trio's own business is touched in this file only.** `_check` looks at it when this module is imported, and has
two tasks run, so that another trio is refused and never misbehaves. It is:

- ``trio._core._run``: `Runner` (made here, as ``trio.run`` would open sockets for it; what is set and read of it is in
  `RUNNER`), `unrolled_run`, `GLOBAL_RUN_CONTEXT` (the loop and the task that run in this thread), ``sniffio_library``,
  the parts of a runner (`EntryQueue` with its ``wakeup``, `Instruments`, `KIManager`, ``install_hooks`` of
  `AsyncGenerators`), and ``Nursery._pending_excs``, which tells of a crashed system task.
- ``trio._threads.start_thread_soon`` and ``trio._signals._signal_handler``, replaced for good: for all but simulated
  loops they do what they did.
"""

import contextlib
import importlib
import sys
from collections import deque
from collections.abc import Callable, Iterator
from contextvars import Context, copy_context
from math import inf
from typing import Any, NoReturn

import outcome
import trio

from flowkit.testing.kernel import Alive, Kernel, Main, drop
from flowkit.testing.places import place_of
from flowkit.testing.problems import OutsideWorld, TestingError
from flowkit.testing.scheduling import Deviating, Scheduler
from flowkit.testing.threads import in_thread

__all__ = ["TrioKernel"]

TESTED = "0.29", "0.35"
"""The oldest and the newest trio that this file has been tested with."""

RUNNER = {
    *("clock", "instruments", "io_manager", "ki_manager", "strict_exception_groups", "system_context", "entry_queue"),
    *("asyncgens", "deadlines", "init_task", "main_task", "main_task_outcome", "runq", "system_nursery", "tasks"),
    *("waiting_for_idle", "reschedule", "task_exited"),
}

ENDING = 1_000
"""Passes of the loop in which trio may end a process (it closes asynchronous generators); then it is abandoned."""

SUPERVISOR = "flowkit.supervisor"
"""The name of the tasks by which flowkit lives on trio (backend.py). They live as long as the loop."""


def _changed(part: str, error: BaseException | None = None) -> NoReturn:
    raise TestingError(
        f"trio {trio.__version__} isn't one that can be simulated, as {part} has changed",
        f'install a trio from {TESTED[0]} to {TESTED[1]}, or simulate on asyncio (backend="asyncio")',
    ) from error


def _private(module: str, *names: str) -> Any:
    try:
        found: Any = importlib.import_module(module)
    except ImportError as error:
        _changed(module, error)
    for name in names:
        if not hasattr(found, name):
            _changed(f"{module}.{name}")
    return found


_run = _private(
    "trio._core._run",
    *("Runner", "unrolled_run", "GLOBAL_RUN_CONTEXT", "sniffio_library"),
    *("EntryQueue", "Instruments", "KIManager", "AsyncGenerators"),
)
_threads = _private("trio._threads", "start_thread_soon")
_signals = _private("trio._signals", "_signal_handler")
_here = _run.GLOBAL_RUN_CONTEXT
_sniffio = _run.sniffio_library
_entry_code: Any = getattr(getattr(_run.EntryQueue, "task", None), "__code__", None)
"""Of the coroutine that runs what comes from elsewhere."""

INIT, ENTRY = -2, -1
"""Stand for the numbers of trio's own tasks."""


def _number(numbered: tuple[int, Any]) -> int:
    return numbered[0]


class _Queue:
    """Stands for the queue of a runner. Each pass of trio's loop takes one task from it."""

    __slots__ = (
        *("append", "ended", "entry", "fresh", "numbers", "own", "pick", "problem"),
        *("ready", "ready_numbers", "runner", "scheduler"),
    )

    def __init__(self, scheduler: Scheduler, runner: Any) -> None:
        self.scheduler = scheduler
        self.runner = runner
        self.pick = scheduler.pick
        self.fresh: list[Any] = []  # became ready since the last pass
        self.append = self.fresh.append  # what trio calls
        self.own: deque[Any] = deque()  # trio's own tasks that are ready
        self.ready: list[Any] = []
        self.ready_numbers: list[int] = []
        self.numbers: dict[Any, int] = {}  # of the tasks that have been ready
        self.entry: Any = None  # trio's task for what comes from elsewhere
        self.problem: BaseException | None = None
        self.ended = False

    def number(self, task: Any) -> int:
        found = self.numbers.get(task)
        if found is None:
            if task is self.runner.init_task:
                found = INIT
            elif self.entry is None and task.coro.cr_code is _entry_code:
                found, self.entry = ENTRY, task
            else:
                found = self.scheduler.number()
            self.numbers[task] = found
        return found

    def settle(self) -> None:
        """Put what became ready in its place."""
        fresh = self.fresh
        if self.ended:  # only trio's own tasks are left, and what they start
            self.own.extend(fresh)
        elif len(fresh) == 1:
            self._place(self.number(fresh[0]), fresh[0])
        else:
            numbered = [(self.number(task), task) for task in fresh]
            numbered.sort(key=_number)
            for number, task in numbered:
                self._place(number, task)
        fresh.clear()

    def _place(self, number: int, task: Any) -> None:
        if number < 0:
            self.own.append(task)
        else:
            self.ready.append(task)
            self.ready_numbers.append(number)

    def __iter__(self) -> Iterator[Any]:
        """The task of this pass."""
        if self.fresh:
            self.settle()
        if self.own:
            return iter((self.own.popleft(),))
        if not self.ready:
            return iter(())
        _here.task = self.entry  # what is called before a step may use trio
        try:
            index = self.pick(self.ready_numbers)
        except BaseException as error:  # noqa: BLE001 - raised by go_on; from here it would break trio's loop
            self.problem = error
            del _here.task
            return iter(())
        del self.ready_numbers[index]
        return iter((self.ready.pop(index),))

    def clear(self) -> None:
        """What trio does once it has taken its batch: the rest stays."""

    def __bool__(self) -> bool:
        return bool(self.fresh or self.own or self.ready)  # asked in each pass, several times

    def __len__(self) -> int:
        return len(self.fresh) + len(self.own) + len(self.ready)


class _Clock(trio.abc.Clock):
    """The kernel's time."""

    def __init__(self, now: float) -> None:
        self.now = now

    def start_clock(self) -> None:
        pass

    def current_time(self) -> float:
        return self.now

    def deadline_to_sleep_time(self, deadline: float) -> float:
        return inf  # time moves between passes


def _refuse(what: str) -> Any:
    def method(self: Any, *args: Any, **named: Any) -> Any:
        raise OutsideWorld(what)

    return method


class _NoOutside:
    """Stands for what waits for the operating system."""

    def process_events(self, events: Any) -> None:
        pass

    def force_wakeup(self) -> None:
        pass

    def close(self) -> None:
        pass

    def notify_closing(self, fd: Any) -> None:
        pass  # nobody waits for it

    def statistics(self) -> Any:
        return None

    wait_readable = wait_writable = _refuse("waited for a socket, a pipe or a process")
    current_kqueue = monitor_kevent = wait_kevent = _refuse("waited for an event of the operating system")
    current_iocp = register_with_iocp = wait_overlapped = _refuse("waited for an event of the operating system")
    write_overlapped = readinto_overlapped = monitor_completion_key = _refuse("read or wrote a pipe")


class _NoInstruments(dict[str, Any]):
    """Stands for the instruments of a runner, which looks for some at each turn, until there is one."""

    def add_instrument(self, instrument: trio.abc.Instrument) -> None:
        _here.runner.instruments = _run.Instruments([instrument])

    def remove_instrument(self, instrument: trio.abc.Instrument) -> None:
        raise KeyError(instrument)


class _NoSockets(trio.abc.SocketFactory):
    socket = _refuse("opened a socket")


class _NoNames(trio.abc.HostnameResolver):
    getaddrinfo = getnameinfo = _refuse("looked up a name in the network")


_no_outside, _no_sockets, _no_names = _NoOutside(), _NoSockets(), _NoNames()


class _Wakeup:
    """Stands for the pair of sockets by which trio's loop is woken from elsewhere."""

    __slots__ = ("_runner", "_sleeping", "_woken")

    def __init__(self) -> None:
        self._runner: Any = None
        self._sleeping: Any = None
        self._woken = False

    def wakeup_on_signals(self) -> None:
        pass

    def wakeup_thread_and_signal_safe(self) -> None:
        self._woken = True
        if self._sleeping is not None:
            task, self._sleeping = self._sleeping, None
            self._runner.reschedule(task)

    async def wait_woken(self) -> None:
        if not self._woken:
            self._sleeping = trio.lowlevel.current_task()
            self._runner = _here.runner
            await trio.lowlevel.wait_task_rescheduled(self._abort)
        self._woken = False

    def _abort(self, _: Any) -> Any:
        self._sleeping = None
        return trio.lowlevel.Abort.SUCCEEDED

    def close(self) -> None:
        self._runner = self._sleeping = None


def _is_simulated() -> bool:
    """Whether a simulated loop runs in this thread."""
    return getattr(getattr(_here, "runner", None), "io_manager", None) is _no_outside


_real_thread, _real_handler = _threads.start_thread_soon, _signals._signal_handler


def _start_thread_soon(function: Callable[[], Any], deliver: Callable[[Any], object], name: str | None = None) -> None:
    if _is_simulated():
        trio.lowlevel.spawn_system_task(_by_turns, function, deliver, name=name, context=copy_context())
    else:
        _real_thread(function, deliver, name)


async def _by_turns(function: Callable[[], Any], deliver: Callable[[Any], object]) -> None:
    try:
        result: Any = outcome.Value(await in_thread(function))
    except trio.Cancelled:
        raise
    except BaseException as error:  # noqa: BLE001 - it is the waiting task's
        result = outcome.Error(error)
    deliver(result)


def _signal_handler(*args: Any, **named: Any) -> Any:
    if _is_simulated():
        raise OutsideWorld("asked for a signal")
    return _real_handler(*args, **named)


# ---------------------------------------------------------------------------------------------------------- the kernel


class TrioKernel(Kernel):
    """A simulated process under trio."""

    backend = "trio"

    def __init__(self, scheduler: Scheduler, now: float = 0.0) -> None:
        self._clock = _Clock(now)
        super().__init__(scheduler, now)
        self._calls: deque[tuple[Context, Callable[[], None]]] = deque()
        self._runner: Any = None
        self._queue: _Queue | None = None
        self._loop: Any = None
        self._hooks: Any = (None, None)
        self._outcome: Any = None

    def __del__(self) -> None:
        # trio would take a loop that is left behind apart in the middle of whichever runs then.
        with contextlib.suppress(Exception):
            self.close()

    @property
    def now(self) -> float:
        return self._clock.now

    @now.setter
    def now(self, now: float) -> None:
        self._clock.now = now

    def start(self, main: Main) -> None:
        self._runner = runner = _run.Runner(
            clock=self._clock,
            instruments=_NoInstruments(),
            io_manager=_no_outside,
            ki_manager=_run.KIManager(),
            strict_exception_groups=True,
            system_context=copy_context(),
            entry_queue=_run.EntryQueue(wakeup=_Wakeup()),
        )
        self._queue = runner.runq = _Queue(self.scheduler, runner)
        before = sys.get_asyncgen_hooks()
        runner.asyncgens.install_hooks(runner)
        self._hooks = tuple(sys.get_asyncgen_hooks())  # as it comes, the garbage collector wouldn't see into it
        sys.set_asyncgen_hooks(*before)
        self._loop = _run.unrolled_run(runner, _awaited, (main,))
        entered = self._enter()
        try:
            trio.socket.set_custom_socket_factory(_no_sockets)
            trio.socket.set_custom_hostname_resolver(_no_names)
            self._loop.send(None)
            self._loop.send(())  # the root task makes main and the entry task
            self._queue.settle()
        finally:
            self._leave(entered)

    def _enter(self) -> Any:
        """Make this process' loop the one that runs in this thread; what to give to `_leave`."""
        here = _here.__dict__
        entered = (here.copy(), _sniffio.name, sys.get_asyncgen_hooks())
        here.clear()
        here["runner"] = self._runner
        _sniffio.name = "trio"
        sys.set_asyncgen_hooks(*self._hooks)
        return entered

    def _leave(self, entered: Any) -> None:
        here = _here.__dict__
        here.clear()
        before, _sniffio.name, hooks = entered
        here.update(before)
        sys.set_asyncgen_hooks(*hooks)

    def go_on(self, until: float = inf) -> bool:
        queue, runner, calls, clock = self._queue, self._runner, self._calls, self._clock
        assert queue is not None
        fresh, own, ready = queue.fresh, queue.own, queue.ready
        step = self._loop.send
        entered = self._enter()
        try:
            while True:
                if calls:
                    self._make_calls()
                if runner.main_task_outcome is not None:
                    break
                if not ready and not fresh and not own and not runner.waiting_for_idle:
                    deadline = runner.deadlines.next_deadline()
                    if deadline > until or deadline == inf:
                        break
                    if deadline > clock.now:
                        clock.now = deadline
                        self.scheduler.progress()
                step(())
                if queue.problem is not None:
                    problem, queue.problem = queue.problem, None
                    raise problem
        except trio.TrioInternalError as error:
            if isinstance(error.__cause__, KeyboardInterrupt):  # it came while trio itself ran
                raise error.__cause__ from None
            raise
        finally:
            self._leave(entered)
        if runner.main_task_outcome is not None:
            self._end_of_main()
            return True
        if until != inf:
            clock.now = max(until, clock.now)
        return False

    def _make_calls(self) -> None:
        assert self._queue is not None
        for _ in range(len(self._calls)):
            context, function = self._calls.popleft()
            _here.task = self._queue.entry  # trio itself makes calls from elsewhere in this task
            try:
                context.run(function)
            except Exception as error:  # noqa: BLE001 - nobody waits for it
                name = getattr(function, "__qualname__", type(function).__qualname__)
                self.unhandled.append(f"Exception in callback {name}: {type(error).__name__}: {error}")
            finally:
                del _here.task

    def _end_of_main(self) -> None:
        if self._outcome is not None:
            return
        self._outcome = self._runner.main_task_outcome
        crashes: list[BaseException] = self._runner.system_nursery._pending_excs
        errors = [*crashes, self._outcome.error] if isinstance(self._outcome, outcome.Error) else crashes
        interrupts = BaseExceptionGroup("main and system tasks", errors).subgroup(KeyboardInterrupt) if errors else None
        if interrupts is not None:
            raise KeyboardInterrupt from interrupts  # else nobody stops whose step was interrupted
        if crashes:
            self.unhandled.extend(f"Exception in a system task: {type(error).__name__}: {error}" for error in crashes)
            crash = trio.TrioInternalError("a system task has crashed")
            crash.__cause__ = crashes[0] if len(crashes) == 1 else BaseExceptionGroup("in system tasks", crashes)
            self._outcome = outcome.Error(crash)

    def call(self, function: Callable[[], None]) -> None:
        self._calls.append((copy_context(), function))

    def cancel(self) -> None:
        entered = self._enter()
        try:
            self._runner.main_task.parent_nursery.cancel_scope.cancel()
        finally:
            self._leave(entered)

    def result(self) -> Any:
        if isinstance(self._outcome, outcome.Error):
            raise self._outcome.error
        return self._outcome.value

    def alive(self) -> list[Alive]:
        assert self._queue is not None
        main, tasks = self._runner.main_task, self._runner.tasks
        for task in self._queue.fresh:
            self._queue.number(task)
        return [
            Alive(number, task.name, place_of(task.coro))
            for task, number in self._queue.numbers.items()
            if number >= 0 and task in tasks and task is not main and task.name != SUPERVISOR
        ]

    def main_alive(self) -> list[Alive]:
        main = self._runner.main_task
        if main not in self._runner.tasks:
            return []
        assert self._queue is not None
        return [Alive(self._queue.number(main), "main", place_of(main.coro))]

    def current(self) -> "tuple[int, Any] | None":
        task: Any = getattr(_here, "task", None)
        number = -1 if self._queue is None else self._queue.numbers.get(task, -1)
        return None if number < 0 else (number, task.coro)

    def close(self) -> None:
        loop, self._loop = self._loop, None
        if loop is None:
            return
        entered = self._enter()
        try:
            self._drop()
            self._end(loop)
        finally:
            self._leave(entered)
            self._calls.clear()

    def _drop(self) -> None:
        """Take all tasks but trio's own out of the process, children before their parents."""
        queue, runner = self._queue, self._runner
        assert queue is not None
        queue.ended = True
        own = (runner.init_task, queue.entry)
        left = [task for task in runner.tasks if task not in own]
        left.sort(key=lambda task: queue.numbers.get(task, inf), reverse=True)
        for task in left:
            _here.task = task
            drop(task.coro)
            with contextlib.suppress(Exception):
                runner.task_exited(task, outcome.Value(None))
        _here.__dict__.pop("task", None)
        for line in (queue.ready, queue.ready_numbers):
            line.clear()
        queue.fresh[:] = [task for task in queue.fresh if task in own]

    def _end(self, loop: Any) -> None:
        """Have trio end its own tasks. It closes asynchronous generators before."""
        queue, runner, clock = self._queue, self._runner, self._clock
        assert queue is not None
        try:
            for _ in range(ENDING):
                if not queue:
                    deadline = runner.deadlines.next_deadline()
                    if deadline == inf:
                        break
                    clock.now = max(clock.now, deadline)
                loop.send(())
            loop.throw(trio.TrioInternalError("abandoned"))
        except (StopIteration, trio.TrioInternalError):
            pass
        runner.entry_queue.done = True


async def _awaited(main: Main) -> Any:
    return await main()


# ----------------------------------------------------------------------------------------------- is it the trio we know


def _check() -> None:
    """Refuse a trio whose inner parts aren't those that this file knows.

    Raises:
        TestingError: it is another trio.
    """
    runner = {field.alias for field in getattr(_run.Runner, "__attrs_attrs__", ())} | {*dir(_run.Runner)}
    queue = {field.alias for field in getattr(_run.EntryQueue, "__attrs_attrs__", ())}
    if missing := sorted(RUNNER - runner):
        _changed(f"trio._core._run.Runner ({', '.join(missing)})")
    if _entry_code is None or not {"wakeup", "done"} <= queue:
        _changed("trio._core._run.EntryQueue (task, wakeup, done)")
    try:
        order, now = _specimen()
    except Exception as error:  # noqa: BLE001 - whatever it is, it isn't as it was
        _changed("its event loop", error)
    # One pass, one step: main, then the two by turns, and the first one at its deadline.
    if (order, now) != ([0, 1, 2, 2, 1, 0], 3.0):
        _changed("the order in which its event loop runs tasks")


def _specimen() -> tuple[list[int], float]:
    async def waits(event: trio.Event) -> None:
        with trio.move_on_after(3):
            await event.wait()

    async def goes() -> None:
        await trio.lowlevel.checkpoint()

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(waits, trio.Event())
            nursery.start_soon(goes)

    kernel = TrioKernel(Scheduler(Deviating()))
    try:
        kernel.run(main)
    finally:
        kernel.close()
    return kernel.scheduler.order, kernel.now


_check()
_threads.start_thread_soon = _start_thread_soon
_signals._signal_handler = _signal_handler
