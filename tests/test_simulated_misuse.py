"""What a simulation can't do: it says so at once, where, and what to write instead. It never hangs."""

import asyncio
import contextlib
import queue
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from inspect import iscoroutinefunction
from typing import Any

import anyio
import anyio.from_thread
import anyio.lowlevel
import anyio.to_thread
import pytest

from flowkit import Context, Event, StartEvent, StopEvent, Workflow, step, testing
from flowkit.retry_policy import ConstantDelayRetryPolicy
from flowkit.testing import Blocked, Livelock, OutsideWorld, scheduling, threads

each_backend = pytest.mark.parametrize("backend", ["asyncio", "trio"])

ALWAYS = ConstantDelayRetryPolicy(maximum_attempts=1_000_000, delay=1)
NOTHING = "a simulation has no network, no processes and no time but its own."
FAKE = f"give the workflow a fake that answers by itself: {NOTHING}"


class Go(StartEvent):
    n: int = 1


def flow_of(body: Callable[[Context], Any], **options: Any) -> type[Workflow]:
    """A workflow whose one step does this. It is as async as the body is."""

    class Flow(Workflow):
        if iscoroutinefunction(body):

            @step(**options)
            async def go(self, ctx: Context, ev: Go) -> StopEvent:
                return StopEvent(result=await body(ctx))

        else:

            @step(**options)
            def go(self, ctx: Context, ev: Go) -> StopEvent:
                return StopEvent(result=body(ctx))

    return Flow


def advice(kind: type[Exception], call: Callable[..., Any], *args: Any, **named: Any) -> str:
    """What this is told; HERE stands for a line of this file."""
    with pytest.raises(kind) as raised:
        call(*args, **named)
    assert type(raised.value) is kind
    return re.sub(rf"{re.escape(__name__.rpartition('.')[2])}\.py:\d+", "HERE", str(raised.value))


# --------------------------------------------------------------------------------------------------- the real world


async def connect() -> None:
    with socket.socket() as one:
        one.connect(("127.0.0.1", 9))


async def open_connection() -> None:
    await asyncio.open_connection("127.0.0.1", 9)


async def connect_tcp() -> None:
    await anyio.connect_tcp("127.0.0.1", 9)


async def look_up() -> None:
    await anyio.connect_tcp("example.org", 443)


async def serve() -> None:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))


async def listen() -> None:
    await anyio.create_tcp_listener(local_host="127.0.0.1")


async def run_process() -> None:
    await anyio.run_process(["true"])


async def run_blocking() -> None:
    subprocess.run(["true"], check=True)  # noqa: ASYNC221 - that is the misuse


async def handle_signals() -> None:
    with anyio.open_signal_receiver(signal.SIGTERM):
        pass


async def own_thread() -> None:
    threading.Thread(target=print, name="mine").start()


async def own_pool() -> None:
    with ThreadPoolExecutor() as pool:
        pool.submit(print)


def plain_connect() -> None:
    with socket.socket() as one:
        one.connect(("127.0.0.1", 9))


def plain_look_up() -> None:
    socket.create_connection(("example.org", 443))


def plain_process() -> None:
    subprocess.run(["true"], check=True)


def plain_thread() -> None:
    threading.Thread(target=print, name="mine").start()


OUTSIDE: dict[Callable[[], Any], str] = {
    connect: "opened a connection",
    open_connection: "opened a connection",
    connect_tcp: "opened a connection",
    look_up: "looked up a name in the network",
    serve: "opened a server",
    listen: "looked up a name in the network",
    run_process: "started a process",
    run_blocking: "started a process",
    handle_signals: "asked for a signal",
    own_thread: "started a thread of its own, 'mine'",
    own_pool: "started a thread of its own, 'ThreadPoolExecutor-N_0'",
    plain_connect: "opened a connection",
    plain_look_up: "looked up a name in the network",
    plain_process: "started a process",
    plain_thread: "started a thread of its own, 'mine'",
}
ON_TRIO = {connect_tcp: "opened a socket"}
THREAD = "call anyio.to_thread.run_sync, or make the step a plain `def`: these are simulated."


def told(act: Callable[[], Any], backend: str) -> str:
    what = ON_TRIO.get(act, OUTSIDE[act]) if backend == "trio" else OUTSIDE[act]
    return f"a simulated run {what}: {THREAD if 'thread' in what else FAKE} (HERE in {act.__name__})"


outside_world = pytest.mark.parametrize("act", OUTSIDE, ids=lambda act: act.__name__)


def acting(act: Callable[[], Any]) -> Callable[[Context], Any]:
    async def acts(ctx: Context) -> None:
        await act()

    return acts if iscoroutinefunction(act) else lambda ctx: act()


def catching(act: Callable[[], Any]) -> Callable[[Context], Any]:
    async def acts(ctx: Context) -> str:
        try:
            await act()
        except Exception:  # noqa: BLE001 - as many do
            await anyio.sleep(1)
        return "all is well"

    def plainly(ctx: Context) -> str:
        with contextlib.suppress(Exception):
            act()
        return "all is well"

    return acts if iscoroutinefunction(act) else plainly


def no_asyncio(act: Callable[[], Any], backend: str) -> None:
    if act is open_connection and backend == "trio":
        pytest.skip("asyncio's calls fail under trio by themselves")


@each_backend
@outside_world
@pytest.mark.parametrize("how", [acting, catching])
def test_the_real_world_is_not_there(act: Callable[[], Any], how: Any, backend: str) -> None:
    no_asyncio(act, backend)
    text = advice(OutsideWorld, testing.simulate, flow_of(how(act)), backend=backend)
    assert re.sub(r"Executor-\d+_", "Executor-N_", text) == told(act, backend)


@each_backend
@pytest.mark.parametrize("act", [connect, connect_tcp, plain_connect], ids=lambda act: act.__name__)
def test_a_step_that_tries_again_for_ever_is_told_at_once(act: Callable[[], Any], backend: str) -> None:
    flow = flow_of(acting(act), retry_policy=ALWAYS)
    assert advice(OutsideWorld, testing.simulate, flow, backend=backend) == told(act, backend)


@each_backend
def test_a_step_that_does_not_give_up_is_told_at_once(backend: str) -> None:
    async def persist(ctx: Context) -> None:
        while True:
            try:
                await connect_tcp()
            except Exception:  # noqa: BLE001 - as many do
                await anyio.sleep(60)

    assert advice(OutsideWorld, testing.simulate, flow_of(persist), backend=backend) == told(connect_tcp, backend)


@pytest.mark.parametrize("search", ["explore", "schedule", "checkpoint", "cancel"])
@each_backend
def test_searches_are_told_too(search: str, backend: str) -> None:
    flow = flow_of(acting(connect))
    calls: dict[str, Callable[[], Any]] = {
        "explore": lambda: testing.explore(flow, budget=10, backend=backend)(lambda run: None)(),
        "schedule": lambda: testing.assert_schedule_independent(flow, budget=10, backend=backend),
        "checkpoint": lambda: testing.assert_checkpoint_equivalence(flow, budget=10, backend=backend),
        "cancel": lambda: testing.assert_cancels_cleanly(flow, budget=10, backend=backend),
    }
    assert advice(OutsideWorld, calls[search]) == told(connect, backend)


def test_asyncio_s_own_threads_are_simulated() -> None:
    async def work(ctx: Context) -> Any:
        loop = asyncio.get_running_loop()
        first = await asyncio.to_thread(time.sleep, 60) or "slept"
        return [first, await loop.run_in_executor(None, lambda: 3)]

    run = testing.simulate(flow_of(work))
    assert (run.result, run.duration) == (["slept", 3], 60)


# ------------------------------------------------------------------------------------------------------- it blocks

BLOCKED = (
    " has blocked for 0.3 seconds of real time: wait for what the simulation can do: "
    "anyio's primitives in async steps, `anyio.from_thread` in plain ones. "
)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "PATIENCE", 0.3)


class Held:
    """Ways to wait for what never comes, until the test is over."""

    def __init__(self) -> None:
        self.event, self.lock = threading.Event(), threading.Lock()
        self.queue: queue.Queue[None] = queue.Queue()
        self.future: Future[None] = Future()
        self.lock.acquire()

    def ways(self) -> dict[str, Callable[[], Any]]:
        return {
            "event": self.event.wait,
            "lock": self.lock.acquire,
            "queue": self.queue.get,
            "future": self.future.result,
        }

    def release(self) -> None:
        self.event.set()
        self.lock.release()
        self.queue.put(None)
        self.future.set_result(None)
        self.join()

    def join(self) -> None:
        """Wait for the threads of plain steps, but for the one that asks."""
        for thread in threading.enumerate():
            if thread.name == "flowkit simulated thread" and thread is not threading.current_thread():
                thread.join()


@pytest.fixture
def held() -> Any:
    made = Held()
    yield made
    made.release()


each_way = pytest.mark.parametrize("way", ["event", "lock", "queue", "future"])


@pytest.mark.usefixtures("impatient")
@each_way
@each_backend
def test_a_plain_step_that_blocks(way: str, backend: str, held: Held) -> None:
    def wait(ctx: Context) -> None:
        with contextlib.suppress(Exception):
            held.ways()[way]()

    text = advice(Blocked, testing.simulate, flow_of(wait, retry_policy=ALWAYS), backend=backend)
    assert text == f"a plain step{BLOCKED}(HERE in test_a_plain_step_that_blocks.<locals>.wait)"


@pytest.mark.usefixtures("impatient")
@each_way
@each_backend
def test_an_async_step_that_blocks(way: str, backend: str, held: Held) -> None:
    async def wait(ctx: Context) -> None:
        held.ways()[way]()

    text = advice(Blocked, testing.simulate, flow_of(wait, retry_policy=ALWAYS), backend=backend)
    assert text == f"a step that the simulation ran{BLOCKED}(HERE in test_an_async_step_that_blocks.<locals>.wait)"


@pytest.mark.usefixtures("impatient")
@each_backend
def test_an_async_step_that_spins(backend: str) -> None:
    async def spin(ctx: Context) -> None:
        while True:
            pass

    text = advice(Blocked, testing.simulate, flow_of(spin), backend=backend)
    assert text == f"a step that the simulation ran{BLOCKED}(HERE in test_an_async_step_that_spins.<locals>.spin)"


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("handler", [signal.SIG_IGN, signal.SIG_DFL, signal.default_int_handler])
def test_an_async_step_that_spins_where_ctrl_c_is_ignored(handler: Any) -> None:
    async def spin(ctx: Context) -> None:
        while True:
            pass

    before = signal.signal(signal.SIGINT, handler)
    try:
        advice(Blocked, testing.simulate, flow_of(spin))
        assert signal.getsignal(signal.SIGINT) == handler
    finally:
        signal.signal(signal.SIGINT, before)


@each_backend
def test_a_thread_that_is_released_too_late_does_nothing_in_the_next_run(
    backend: str, held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    after: list[Any] = []

    def wait(ctx: Context) -> None:
        held.event.wait()
        try:
            ctx.send_event(Late())
            after.append("sent")
        except BaseException as error:
            after.append(type(error))
            raise

    def slow(ctx: Context) -> None:
        held.event.set()
        held.join()
        time.sleep(1)

    class Late(Event): ...

    with monkeypatch.context() as patch, pytest.raises(Blocked):
        patch.setattr(threads, "PATIENCE", 0.3)
        testing.simulate(flow_of(wait), backend=backend)
    assert testing.simulate(flow_of(slow), backend=backend).duration == 1
    assert after == [Blocked]


@each_backend
def test_time_sleep_in_an_async_step(backend: str) -> None:
    async def sleep(ctx: Context) -> None:
        time.sleep(1)  # noqa: ASYNC251 - that is the misuse

    assert advice(OutsideWorld, testing.simulate, flow_of(sleep), backend=backend) == (
        "a simulated run called time.sleep(1) in the event loop: write await anyio.sleep(…). "
        "(HERE in test_time_sleep_in_an_async_step.<locals>.sleep)"
    )


# --------------------------------------------------------------------------------------------------- it never ends


@each_backend
def test_a_step_that_looks_again_and_again(backend: str) -> None:
    async def look(ctx: Context) -> None:
        while not await ctx.get("done", False):
            await anyio.lowlevel.checkpoint()

    assert advice(Livelock, testing.simulate, flow_of(look), backend=backend) == (
        "a simulated run has made 10,000 task steps in which neither time moved nor anything happened: "
        "wait for an event, a condition or anyio.sleep(…) of some seconds instead of looking again and again. "
        "(HERE in test_a_step_that_looks_again_and_again.<locals>.look)"
    )


class Again(Event): ...


class Endless(Workflow):
    @step
    async def go(self, ev: Go | Again) -> Again | StopEvent:
        return Again()


class Ticking(Workflow):
    @step
    async def go(self, ev: Go | Again) -> Again | StopEvent:
        await anyio.sleep(60)
        return Again()


@each_backend
@pytest.mark.parametrize("flow", [Endless, Ticking])
def test_a_run_without_an_end(flow: Any, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduling, "LONGEST", 2_000)
    text = advice(Livelock, testing.simulate, flow, backend=backend)
    assert text.startswith("a simulated run still runs after 2,000 task steps: give it less to do, or an end.")
