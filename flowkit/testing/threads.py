"""Worker threads in a simulation, and what simulated code may not do.

**By turns.** A plain step runs in a real thread, as `anyio.from_thread` has to work in it, but never at the same time
as the loop: the loop stops until the thread has ended, or asks for something (`anyio.from_thread.run`, ``time.sleep``),
and the thread stops until it has its answer. So nothing depends on what the operating system does. Other tasks have
their turn before the thread begins, before each thing it asks for, and after its end.

**flowkit's own calls in threads** (to a store) never ask for anything, so they are made in the loop's thread: at once,
or after as long as the simulated store takes.

**While a simulation runs** (`installed`), the public functions by which code enters and leaves threads stand for this,
in the simulation's thread and in those of its plain steps; all other threads get the real ones. ``time.sleep`` in a
plain step takes virtual time. What reaches for the real world is refused where Python tells of it: sockets, processes
and signals by an audit hook, threads of the code's own by ``Thread.start``.

**A thread that blocks** for `PATIENCE` seconds of real time ends the simulation with `Blocked`, and its line. A task
that blocks the loop is interrupted by a watchman (`watched`), where the simulation runs in the main thread.
"""

import _thread
import contextlib
import contextvars
import queue
import signal
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Generator
from functools import partial
from typing import Any
from unittest.mock import patch

import anyio
import anyio.from_thread
import anyio.lowlevel
import anyio.to_thread
import attrs

from flowkit import outside
from flowkit.testing.places import line_of
from flowkit.testing.problems import Blocked, OutsideWorld
from flowkit.testing.scheduling import Scheduler

__all__ = ["PATIENCE", "Watching", "in_thread", "installed", "simulating", "watched"]

PATIENCE = 5.0
"""Real seconds that a plain step may run, or a task step may take, before the simulation is given up."""

_frames = sys._current_frames  # pyright: ignore[reportPrivateUsage] - documented, underscore and all

_state = threading.local()  # .simulates in a simulation's thread, .job in a plain step's


@attrs.define(eq=False)
class _Asked:
    """What a thread asks the loop for: to call this, and perhaps to await what it gives."""

    function: Callable[[], Any]
    shielded: bool


@attrs.define(eq=False)
class _Done:
    """How a call ended."""

    value: Any = None
    error: BaseException | None = None


@attrs.define(eq=False)
class _Job:
    """One call in a thread."""

    call: Callable[[], Any]
    to_loop: "queue.SimpleQueue[_Asked | _Done]" = attrs.field(factory=queue.SimpleQueue["_Asked | _Done"])
    to_thread: "queue.SimpleQueue[_Done]" = attrs.field(factory=queue.SimpleQueue["_Done"])
    given_up: BaseException | None = None
    """Why nobody waits for it any more."""

    def ask(self, function: Callable[[], Any], *, shielded: bool = False) -> Any:
        """From the thread: have the loop do this; what came of it."""
        if self.given_up is not None:
            raise self.given_up
        self.to_loop.put(_Asked(function, shielded))
        done = self.to_thread.get()
        if done.error is not None:
            raise done.error
        return done.value


class _Pool:
    """The threads of a simulation: as many as there are plain steps at once."""

    def __init__(self) -> None:
        self._idle: list[queue.SimpleQueue[_Job | None]] = []
        self._inboxes: list[queue.SimpleQueue[_Job | None]] = []
        self._threads: list[threading.Thread] = []

    def submit(self, job: _Job) -> "queue.SimpleQueue[_Job | None]":
        if self._idle:
            inbox = self._idle.pop()
        else:
            inbox = queue.SimpleQueue["_Job | None"]()
            thread = threading.Thread(target=_work, args=(inbox,), name="flowkit simulated thread", daemon=True)
            _start(thread)
            self._threads.append(thread)
            self._inboxes.append(inbox)
        inbox.put(job)
        return inbox

    def give_back(self, inbox: "queue.SimpleQueue[_Job | None]") -> None:
        self._idle.append(inbox)

    def close(self) -> None:
        for inbox in self._inboxes:
            inbox.put(None)  # one that is blocked ends when it isn't any more
        for thread in self._threads:
            thread.join(PATIENCE if len(self._idle) == len(self._threads) else 0)


def _work(inbox: "queue.SimpleQueue[_Job | None]") -> None:
    while (job := inbox.get()) is not None:
        _state.job = job
        try:
            done = _Done(job.call())
        except BaseException as error:  # noqa: BLE001 - it is the waiting task's
            done = _Done(error=error)
        _state.job = None
        job.to_loop.put(done)
        del job, done


async def in_thread(function: Callable[..., Any], *args: Any) -> Any:
    """Call this in a thread of the simulation. Not cancelled while it runs, as threads can't be; what it awaits by
    `anyio.from_thread.run` is.

    Raises:
        Blocked: it runs for longer than `PATIENCE` seconds of real time.
    """
    await anyio.lowlevel.checkpoint()
    owner = getattr(_undone(function), "__self__", None)
    if type(owner).__module__.startswith("flowkit.") and not type(owner).__module__.startswith("flowkit.examples."):
        slowness = getattr(outside.current(), "slowness", None)
        if slowness is not None and (seconds := slowness(owner)):
            with anyio.CancelScope(shield=True):
                await anyio.sleep(seconds)
        result = function(*args)
    else:
        result = await _by_turns(_Job(partial(contextvars.copy_context().run, function, *args)))
    await anyio.lowlevel.cancel_shielded_checkpoint()
    return result


def _undone(function: Any) -> Any:
    while isinstance(function, partial):
        function = function.func  # pyright: ignore[reportUnknownMemberType]
    return function


async def _by_turns(job: _Job) -> Any:
    pool: _Pool | None = getattr(_state, "pool", None)
    if pool is None:
        raise OutsideWorld("started a thread", cure="simulate inside flowkit.testing.threads.installed()")
    inbox = pool.submit(job)
    while True:
        try:
            message = job.to_loop.get(timeout=PATIENCE)
        except queue.Empty:
            job.given_up = blocked = Blocked(PATIENCE, "a plain step", _place_in_thread(job))
            job.to_thread.put(_Done(error=blocked))  # it may be asking at this very moment
            raise blocked from None
        if isinstance(message, _Done):
            pool.give_back(inbox)
            if message.error is not None:
                raise message.error
            return message.value
        try:
            with anyio.CancelScope(shield=True):
                await anyio.lowlevel.checkpoint()
            value: Any = None
            with anyio.CancelScope(shield=message.shielded):
                value = message.function()
                if isinstance(value, Awaitable):
                    anything: Any = value  # pyright: ignore[reportUnknownVariableType]
                    value = await anything
            answer = _Done(value)
        except BaseException as error:  # noqa: BLE001 - it is raised in the thread
            answer = _Done(error=error)
        job.to_thread.put(answer)


def _place_in_thread(job: _Job) -> str | None:
    frames = _frames()
    for thread in threading.enumerate():
        if thread.ident in frames and thread.name == "flowkit simulated thread":
            frame = frames[thread.ident]
            inner = frame
            while frame is not None:
                if frame.f_code is _work.__code__ and frame.f_locals.get("job") is job:
                    return line_of(inner)
                frame = frame.f_back  # type: ignore[assignment]
    return None


# ------------------------------------------------------------------------------------- what stands for the real thing

_start = threading.Thread.start


@contextlib.contextmanager
def installed() -> Generator[None]:
    """Have this thread simulate."""
    if hasattr(_state, "pool"):
        yield  # two simulations are open at once
        return
    _watch_outside()
    with _installing:
        _installed.append(None)
        if len(_installed) == 1:
            _install()
    pool = _state.pool = _Pool()
    try:
        yield
    finally:
        with _installing:
            _installed.pop()
            if not _installed:
                _patches.close()
        pool.close()
        del _state.pool


@contextlib.contextmanager
def simulating() -> Generator[None]:
    """What runs in here, in this thread, is simulated."""
    before = getattr(_state, "simulates", False)
    _state.simulates = True
    try:
        yield
    finally:
        _state.simulates = before


_installing = threading.Lock()
_installed: list[None] = []
_patches = contextlib.ExitStack()


def _install() -> None:
    real_to_thread, real_sleep = anyio.to_thread.run_sync, time.sleep
    real_run, real_run_sync = anyio.from_thread.run, anyio.from_thread.run_sync
    real_check = anyio.from_thread.check_cancelled

    async def to_thread(
        function: Callable[..., Any], *args: Any, limiter: anyio.CapacityLimiter | None = None, **options: Any
    ) -> Any:
        if not getattr(_state, "simulates", False):
            return await real_to_thread(function, *args, limiter=limiter, **options)
        if limiter is None:
            return await in_thread(function, *args)
        async with limiter:
            return await in_thread(function, *args)

    def run(function: Callable[..., Any], *args: Any, **options: Any) -> Any:
        job: _Job | None = getattr(_state, "job", None)
        return real_run(function, *args, **options) if job is None else job.ask(partial(function, *args))

    def run_sync(function: Callable[..., Any], *args: Any, **options: Any) -> Any:
        job: _Job | None = getattr(_state, "job", None)
        if job is None:
            return real_run_sync(function, *args, **options)
        return job.ask(lambda: _Plain(function(*args))).value

    def check_cancelled() -> None:
        job: _Job | None = getattr(_state, "job", None)
        if job is None:
            real_check()
        else:
            job.ask(anyio.lowlevel.checkpoint_if_cancelled)

    def sleep(seconds: float) -> None:
        job: _Job | None = getattr(_state, "job", None)
        if job is not None:
            job.ask(partial(anyio.sleep, seconds), shielded=True)
        elif getattr(_state, "simulates", False):
            raise OutsideWorld(f"called time.sleep({seconds!r}) in the event loop", cure="write await anyio.sleep(…)")
        else:
            real_sleep(seconds)

    def start(thread: threading.Thread) -> None:
        if getattr(_state, "simulates", False) or getattr(_state, "job", None) is not None:
            raise OutsideWorld(
                f"started a thread of its own, {thread.name!r}",
                cure="call anyio.to_thread.run_sync, or make the step a plain `def`: these are simulated",
            )
        _start(thread)

    _patches.enter_context(patch.object(anyio.to_thread, "run_sync", to_thread))
    _patches.enter_context(patch.object(anyio.from_thread, "run", run))
    _patches.enter_context(patch.object(anyio.from_thread, "run_sync", run_sync))
    _patches.enter_context(patch.object(anyio.from_thread, "check_cancelled", check_cancelled))
    _patches.enter_context(patch.object(time, "sleep", sleep))
    _patches.enter_context(patch.object(threading.Thread, "start", start))


@attrs.frozen
class _Plain:
    """A value that isn't to be awaited, whatever it is."""

    value: Any


_REFUSED = {
    "socket.connect": "opened a connection",
    "socket.bind": "opened a server",
    "socket.sendto": "wrote to a socket",
    "socket.getaddrinfo": "looked up a name in the network",
    "socket.gethostbyname": "looked up a name in the network",
    "subprocess.Popen": "started a process",
    "os.system": "started a process",
    "os.posix_spawn": "started a process",
    "os.fork": "started a process",
}


def _audit(event: str, args: Any) -> None:
    if event in _REFUSED and (getattr(_state, "simulates", False) or getattr(_state, "job", None) is not None):
        raise OutsideWorld(_REFUSED[event])


_watches = False


def _watch_outside() -> None:
    global _watches
    if not _watches:
        _watches = True
        sys.addaudithook(_audit)  # it can't be taken back, so there is one for ever


# ------------------------------------------------------------------------------------------------------ the watchman


def _interrupt() -> None:
    """Interrupt the main thread, also while it waits for a lock."""
    ident = threading.main_thread().ident
    if hasattr(signal, "pthread_kill") and ident is not None:
        signal.pthread_kill(ident, signal.SIGINT)
    else:
        _thread.interrupt_main()


class _Watchman:
    """Interrupts the main thread where its simulation hasn't made a task step for `PATIENCE` seconds."""

    def __init__(self) -> None:
        self.beat = 0
        self.scheduler: Scheduler | None = None
        self.place: str | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="flowkit watchman", daemon=True)
        _start(self._thread)

    def _watch(self) -> None:
        seen, since = (-1, -1), time.monotonic()
        while not self._over.wait(PATIENCE / 5):
            now, scheduler = time.monotonic(), self.scheduler
            beat = (self.beat, -1 if scheduler is None else scheduler.steps)
            if beat != seen or scheduler is None:
                seen, since = beat, now
            elif now - since >= PATIENCE:
                since = now
                frame = _frames().get(threading.main_thread().ident or 0)
                if frame is not None and frame.f_code is _by_turns.__code__:
                    continue  # it waits for a plain step, and will tell itself where that is
                self.place = "" if frame is None else line_of(frame)
                _interrupt()

    def close(self) -> None:
        self._over.set()
        self._thread.join()


Watching = Callable[[Scheduler], contextlib.AbstractContextManager[None]]


@contextlib.contextmanager
def watched() -> Generator[Watching]:
    """Watch simulations, each in a context that what this gives makes from its scheduler.

    Raises:
        Blocked: a task step took longer than `PATIENCE` seconds. (Only in the main thread: no other can be
            interrupted.)
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda _: contextlib.nullcontext()
        return
    watchman = _Watchman()
    before = signal.getsignal(signal.SIGINT)
    if before in (signal.SIG_IGN, signal.SIG_DFL):  # as in what a shell has started in the background
        signal.signal(signal.SIGINT, signal.default_int_handler)

    @contextlib.contextmanager
    def watching(scheduler: Scheduler) -> Generator[None]:
        watchman.beat += 1
        watchman.scheduler = scheduler
        try:
            yield
        except KeyboardInterrupt:
            if watchman.place is None:
                raise
        finally:
            watchman.scheduler = None
        # Perhaps what it interrupted has made another error of that, or it was a crashed process, which nobody heeds.
        place, watchman.place = watchman.place, None
        if place is not None:
            raise Blocked(PATIENCE, "a step that the simulation ran", place or None)

    try:
        yield watching
    finally:
        watchman.close()
        if before in (signal.SIG_IGN, signal.SIG_DFL):
            signal.signal(signal.SIGINT, before)
