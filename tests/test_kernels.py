"""Simulated event loops: the same answers give the same run, and AnyIO behaves on them as it does on real ones."""

import asyncio
import contextlib
import gc
import hashlib
import os
import random
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import kernel_programs
import pytest
from kernel_programs import LATE, Program

from flowkit import Context, Event, StartEvent, StopEvent, Workflow, step
from flowkit.testing import threads
from flowkit.testing.asyncio_kernel import AsyncioKernel, SimulatedLoop
from flowkit.testing.kernel import Kernel, Stuck
from flowkit.testing.problems import Livelock, OutsideWorld, TestingError
from flowkit.testing.scheduling import SPINNING, Deviating, Fifo, Pct, Policy, Pos, Scheduler, Walk

BACKENDS = ["asyncio", *(["trio"] if find_spec("trio") is not None else [])]
SEEDS = 1_000


def kernel_type(backend: str) -> type[Kernel]:
    if backend == "asyncio":
        return AsyncioKernel
    from flowkit.testing.trio_kernel import TrioKernel

    return TrioKernel


@contextlib.contextmanager
def kernel(backend: str, policy: Policy | None = None, now: float = 0.0) -> Iterator[Kernel]:
    made = kernel_type(backend)(Scheduler(policy or Deviating()), now)
    try:
        yield made
    finally:
        made.close()


def simulate(backend: str, main: Program, policy: Policy | None = None) -> Any:
    """What ``main`` returned, in a process in which nothing else was wrong."""
    with kernel(backend, policy) as process:
        result = process.run(main)
        left = process.alive()
    assert (left, process.unhandled) == ([], [])
    return result


def flat(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for one in error.exceptions for leaf in flat(one)]
    return [error]


each_backend = pytest.mark.parametrize("backend", BACKENDS)


# ------------------------------------------------------------------------------------------ same answers, same run

FAMILIES: dict[str, Callable[[int], Policy]] = {
    "block": lambda seed: Deviating(dict.fromkeys(random.Random(seed).sample(range(40), seed % 7), seed % 5 + 1)),
    "walk": Walk,
    "pos": Pos,
    "pct": lambda seed: Pct(seed, depth=1 + seed % 4, decisions=40),
}


async def busy() -> Any:
    """Something of everything: a lock, a stream, sleeps, scopes in scopes, several cancelled at once, a shield."""
    seen: list[Any] = []
    lock = anyio.Lock()
    send, receive = anyio.create_memory_object_stream[int](0)

    async def work(number: int) -> None:
        async with lock:
            seen.append(number)
            await anyio.lowlevel.checkpoint()
        with anyio.move_on_after(number):
            await send.send(number)
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.lowlevel.checkpoint()
                seen.append(-number)

    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as group:
            for number in (1, 2, 3):
                group.start_soon(work, number)
            seen.append(await receive.receive())
            await anyio.sleep(2)
            scope.cancel()
    send.close()
    receive.close()
    return seen


def trace(backend: str, policy: Policy) -> Any:
    with kernel(backend, policy) as process:
        result = process.run(busy)
        scheduler = process.scheduler
        return scheduler.order, scheduler.deviations, scheduler.widths, result, process.now, process.unhandled


@each_backend
@pytest.mark.parametrize("family", FAMILIES)
def test_the_same_answers_give_the_same_run(backend: str, family: str) -> None:
    make = FAMILIES[family]
    first = [trace(backend, make(seed)) for seed in range(SEEDS)]
    shuffled = list(range(SEEDS))
    random.Random(family).shuffle(shuffled)
    shift: list[Any] = []
    for seed in shuffled:
        assert trace(backend, make(seed)) == first[seed], seed
        shift.append(bytearray(seed))  # other addresses, and so another order of sets
    assert len({repr(one[0]) for one in first}) > SEEDS / 10


def digest() -> str:
    """Of many runs, with what depends on hashes and addresses in them, should anything."""
    runs = [
        trace(backend, make(seed)) for backend in BACKENDS for make in FAMILIES.values() for seed in range(0, SEEDS, 20)
    ]
    return hashlib.sha256(repr(runs).encode()).hexdigest()


def test_no_run_depends_on_hashes() -> None:
    here = Path(__file__).parent
    path = os.pathsep.join([str(here), str(here.parent), *filter(None, [os.environ.get("PYTHONPATH")])])

    def digest_with(seed: str) -> str:
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": path}
        program = "import test_kernels; print(test_kernels.digest())"
        return subprocess.run(
            [sys.executable, "-c", program], env=environment, check=True, capture_output=True, text=True
        ).stdout

    assert digest_with("1") == digest_with("2718") == f"{digest()}\n"


@each_backend
def test_a_run_is_replayed_by_its_deviations(backend: str) -> None:
    """Whatever policy has led it."""
    for seed in range(50):
        order, deviations, *rest = trace(backend, Walk(seed))
        again = trace(backend, Deviating(dict(deviations)))
        assert again == (order, deviations, *rest)


@each_backend
def test_tasks_that_wake_at_once_are_in_the_order_of_their_numbers(backend: str) -> None:
    async def main() -> list[int]:
        order: list[int] = []
        gate = anyio.Event()

        async def wait(number: int) -> None:
            await gate.wait()
            order.append(number)

        async with anyio.create_task_group() as group:
            for number in range(20):
                group.start_soon(wait, number)
            await anyio.sleep(1)
            gate.set()
        return order

    assert simulate(backend, main, Fifo()) == list(range(20))


@each_backend
def test_loops_of_their_own_are_no_choices(backend: str) -> None:
    """A lone task has nobody to be chosen from, whatever the loop does besides."""

    async def main() -> None:
        for _ in range(5):
            await anyio.sleep(1)
            await anyio.lowlevel.checkpoint()

    with kernel(backend) as process:
        process.run(main)
    assert process.scheduler.decisions == 0
    assert process.scheduler.numbers == 1


# --------------------------------------------------------------------------------------------- what AnyIO promises

POLICIES: list[Callable[[], Policy]] = [
    Fifo,
    Deviating,
    *(lambda seed=seed, make=make: make(seed) for make in FAMILIES.values() for seed in range(5)),
]


@each_backend
@pytest.mark.parametrize("program", kernel_programs.PROGRAMS, ids=lambda program: program.__name__)
def test_anyio_is_as_on_a_real_loop(program: Program, backend: str) -> None:
    expected = anyio.run(program, backend=backend)
    for policy in POLICIES:
        assert simulate(backend, program, policy()) == expected


# ------------------------------------------------------------------------------------------------------------- time


@each_backend
def test_time_jumps(backend: str) -> None:
    async def main() -> list[float]:
        seen: list[float] = []

        async def sleep(seconds: float) -> None:
            await anyio.sleep(seconds)
            seen.append(anyio.current_time())

        async with anyio.create_task_group() as group:
            for seconds in (3e6, 1.0, 1e6, 0.5, 2.0):
                group.start_soon(sleep, seconds)
        return seen

    with kernel(backend) as process:
        assert process.run(main) == [0.5, 1.0, 2.0, 1e6, 3e6]
        assert process.now == 3e6


@each_backend
def test_time_begins_where_one_likes(backend: str) -> None:
    async def main() -> float:
        await anyio.sleep(1)
        return anyio.current_time()

    with kernel(backend, now=100.0) as process:
        assert process.run(main) == process.now == 101.0


@each_backend
def test_time_is_true_within_a_step(backend: str) -> None:
    async def main() -> list[float]:
        await anyio.sleep(1)
        return [process.now, anyio.current_time()]

    with kernel(backend) as process:
        assert process.run(main) == [1.0, 1.0]


@each_backend
def test_going_on_until(backend: str) -> None:
    ticks: list[float] = []

    async def main() -> str:
        for _ in range(4):
            await anyio.sleep(1)
            ticks.append(anyio.current_time())
        return "done"

    with kernel(backend) as process:
        process.start(main)
        assert not process.go_on(0)
        assert (ticks, process.now) == ([], 0)
        assert not process.go_on(2)  # what is due at that very moment is done
        assert (ticks, process.now) == ([1, 2], 2)
        assert not process.go_on(2.5)
        assert (ticks, process.now) == ([1, 2], 2.5)
        assert process.go_on(100)
        assert (ticks, process.now) == ([1, 2, 3, 4], 4)
        assert process.go_on()
        assert process.result() == "done"


# ----------------------------------------------------------------------------------------------- pausing and calling


@each_backend
def test_calls_are_made_in_the_loop(backend: str) -> None:
    seen: list[Any] = []
    gate: list[anyio.Event] = []

    async def main() -> str:
        gate.append(anyio.Event())
        await gate[0].wait()
        seen.append(("woken", anyio.current_time()))
        return "done"

    def wake() -> None:
        seen.append(("called", process.now, process.current()))
        gate[0].set()

    with kernel(backend) as process:
        process.start(main)
        process.call(lambda: seen.append("before all"))
        assert seen == []
        assert not process.go_on(5)
        process.call(wake)
        process.call(lambda: seen.append("next"))
        assert seen == ["before all"]  # nothing runs before it goes on
        assert process.go_on()
        assert seen == ["before all", ("called", 5, None), "next", ("woken", 5)]
        process.call(lambda: seen.append("after all"))
        assert process.go_on()
        assert seen[-1] == "after all"


@each_backend
def test_a_call_that_fails_is_reported(backend: str) -> None:
    def fail() -> None:
        raise ValueError("no")

    def stop() -> None:
        raise SystemExit(3)

    with kernel(backend) as process:
        process.start(anyio.sleep_forever)
        process.call(fail)
        assert not process.go_on(1)
        (text,) = process.unhandled
        assert text.startswith("Exception in callback") and text.endswith("ValueError: no")
        assert "fail" in text
        process.call(stop)
        with pytest.raises(SystemExit):
            process.go_on(2)


class Answer(Event):
    text: str


class Asking(Workflow):
    @step
    async def ask(self, ev: StartEvent, ctx: Context) -> StopEvent:
        answer = await ctx.wait_for_event(Answer)
        await anyio.sleep(1)
        return StopEvent(result=answer.text)


@each_backend
def test_flowkit_is_called_from_outside(backend: str) -> None:
    handlers: list[Any] = []

    async def main() -> Any:
        handlers.append(Asking().run())
        return await handlers[0]

    async def kept() -> str:
        handlers.append(Asking().run())  # lives in a task of its own
        await anyio.sleep(20)
        return str(await handlers[0])

    for program in (main, kept):
        handlers.clear()
        with kernel(backend) as process:
            process.start(program)
            assert not process.go_on(10)
            process.call(lambda: handlers[0].send_event(Answer(text="yes")))
            assert process.go_on()
            assert process.result() == "yes"
            assert process.alive() == []


@each_backend
def test_a_run_that_is_left_is_alive(backend: str) -> None:
    """Only it: what flowkit itself keeps in the loop is no finding."""

    async def main() -> None:
        handlers.append(Asking().run())
        await anyio.sleep(1)

    handlers: list[Any] = []
    with kernel(backend) as process:
        process.run(main)
        assert process.alive() != []
        assert all(task.name != "flowkit.supervisor" for task in process.alive())


@each_backend
def test_who_is_in_a_step(backend: str) -> None:
    async def main() -> Any:
        found = process.current()
        assert found is not None
        return found[0], found[1].cr_code.co_name

    with kernel(backend) as process:
        assert process.current() is None
        number, name = process.run(main)
        assert (number, name) == (0, "_awaited")
        assert process.current() is None


@each_backend
def test_a_call_before_a_certain_step(backend: str) -> None:
    """As a fault or a cancellation is put in: it may use the loop."""
    seen: list[Any] = []

    async def main() -> str:
        with anyio.CancelScope() as scope:
            scopes.append(scope)
            for _ in range(10):
                await anyio.lowlevel.checkpoint()
                seen.append(process.scheduler.steps)
        return "cancelled" if scope.cancelled_caught else "wrong"

    scopes: list[anyio.CancelScope] = []
    with kernel(backend) as process:
        process.scheduler.at(4, lambda: process.call(lambda: scopes[0].cancel()))
        assert process.run(main) == "cancelled"
        assert max(seen) in (4, 5)


# ----------------------------------------------------------------------------------------- several, and within others


async def clicking() -> list[float]:
    found: list[float] = []
    for _ in range(3):
        await anyio.sleep(1)
        found.append(anyio.current_time())
    return found


@pytest.mark.parametrize("outer", BACKENDS)
@pytest.mark.parametrize("inner", BACKENDS)
def test_one_runs_while_another_is_paused(outer: str, inner: str) -> None:
    with kernel(outer) as first, kernel(inner, now=10) as second:
        first.start(clicking)
        second.start(clicking)
        while not (first.go_on(first.now + 1) & second.go_on(second.now + 1)):
            assert nothing_runs()
        assert (first.result(), second.result()) == ([1, 2, 3], [11, 12, 13])


@pytest.mark.parametrize("outer", BACKENDS)
def test_a_trio_process_within_a_step(outer: str) -> None:
    """No asyncio loop runs within another, but trio's do."""

    async def main() -> list[Any]:
        await anyio.sleep(1)
        inner = simulate("trio", clicking)
        await anyio.sleep(1)
        return [inner, anyio.current_time()]

    pytest.importorskip("trio")
    assert simulate(outer, main) == [[1, 2, 3], 2]
    assert anyio.run(lambda: _simulated("trio"), backend=outer) == [1, 2, 3]


async def _simulated(backend: str) -> Any:
    await anyio.lowlevel.checkpoint()
    result = simulate(backend, clicking)
    await anyio.lowlevel.checkpoint()
    return result


def nothing_runs() -> bool:
    """Whether nothing of a loop is left in this thread."""
    if sys.get_asyncgen_hooks() != (None, None) or asyncio._get_running_loop() is not None:
        return False
    if "trio" not in sys.modules:
        return True
    import trio

    return not trio.lowlevel.in_trio_run() and not trio.lowlevel.in_trio_task()


@each_backend
def test_nothing_of_it_is_left_in_the_thread(backend: str) -> None:
    process = kernel_type(backend)(Scheduler(Fifo()))
    process.start(clicking)
    assert nothing_runs()
    process.go_on(1)
    assert nothing_runs()
    process.cancel()
    assert nothing_runs()
    process.close()
    assert nothing_runs()
    process.close()


# ----------------------------------------------------------------------------------------------- how a process may end


@each_backend
def test_errors_are_main_s(backend: str) -> None:
    class Quit(BaseException):
        pass

    async def fail(error: BaseException) -> None:
        await anyio.sleep(1)
        raise error

    async def in_a_group() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(fail, Quit())
            group.start_soon(anyio.sleep_forever)

    with kernel(backend) as process, pytest.raises(ValueError, match="plain"):
        process.run(lambda: fail(ValueError("plain")))
    with kernel(backend) as process, pytest.raises(Quit):
        process.run(lambda: fail(Quit()))
    with kernel(backend) as process, pytest.raises(BaseExceptionGroup) as caught:
        process.run(in_a_group)
    assert [type(error) for error in flat(caught.value)] == [Quit]


@each_backend
def test_an_interrupt_stops_everything(backend: str) -> None:
    """Ctrl-C, wherever it comes, is no error of some task."""

    async def stop() -> None:
        await anyio.sleep(1)
        raise KeyboardInterrupt

    async def in_a_group() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(stop)
            group.start_soon(anyio.sleep_forever)

    async def elsewhere() -> None:
        spawn(backend, stop)
        await anyio.sleep_forever()

    for main in (stop, in_a_group, elsewhere):
        with kernel(backend) as process, pytest.raises(KeyboardInterrupt):
            process.run(main)


@each_backend
def test_a_deadlock_names_who_waits_where(backend: str) -> None:
    cleaned: list[str] = []

    async def eat(first: anyio.Lock, second: anyio.Lock) -> None:
        try:
            async with first:
                await anyio.sleep(1)
                async with second:
                    pass
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(1)
                cleaned.append("eat")

    async def main() -> None:
        left, right = anyio.Lock(), anyio.Lock()
        async with anyio.create_task_group() as group:
            group.start_soon(eat, left, right, name="Plato")
            group.start_soon(eat, right, left, name="Kant")

    with kernel(backend) as process, pytest.raises(Stuck, match="all tasks are blocked at 1 s") as caught:
        process.run(main)
    assert [task.name for task in caught.value.tasks] == ["main", "Plato", "Kant"]
    line = eat.__code__.co_firstlineno + 4
    assert [task.place for task in caught.value.tasks[1:]] == [f"test_kernels.py:{line} in {eat.__qualname__}"] * 2
    assert main.__qualname__ in caught.value.tasks[0].place
    assert cleaned == ["eat", "eat"]


@each_backend
def test_a_deadlock_that_nothing_ends(backend: str) -> None:
    async def main() -> None:
        with anyio.CancelScope(shield=True):
            await anyio.sleep_forever()

    with kernel(backend) as process:
        with pytest.raises(Stuck):
            process.run(main)
        # asyncio's own Task.cancel() heeds no shield; of trio's tasks there is no such way to be rid.
        assert [task.name for task in process.main_alive()] == (["main"] if backend == "trio" else [])


@each_backend
def test_an_endless_loop_is_given_up(backend: str) -> None:
    async def main() -> None:
        while True:
            await anyio.lowlevel.checkpoint()

    with kernel(backend) as process:
        with pytest.raises(Livelock, match="neither time moved nor anything happened"):
            process.run(main)
        assert SPINNING <= process.scheduler.steps <= SPINNING + 1


@each_backend
@pytest.mark.parametrize("policy", [Fifo, Deviating, lambda: Walk(1), lambda: Pos(1), lambda: Pct(1, 3, 10)])
def test_who_spins_gets_to_its_end(backend: str, policy: Callable[[], Policy]) -> None:
    """Run to block would have it spin for ever."""

    async def main() -> int:
        done = False

        async def work() -> None:
            nonlocal done
            for _ in range(3):
                await anyio.lowlevel.checkpoint()
            done = True

        turns = 0
        async with anyio.create_task_group() as group:
            group.start_soon(work)
            while not done:
                turns += 1
                await anyio.sleep(0)  # noqa: ASYNC115 - as people write it
        return turns

    assert simulate(backend, main, policy()) < 2_000


@each_backend
def test_what_is_still_there_when_main_has_returned(backend: str) -> None:
    async def linger() -> None:
        await anyio.sleep(LATE)

    async def main() -> str:
        tasks.append(spawn(backend, linger))
        await anyio.sleep(1)
        return "done"

    tasks: list[Any] = []
    with kernel(backend) as process:
        assert process.run(main) == "done"
        (left,) = process.alive()
        line = linger.__code__.co_firstlineno + 1
        assert (left.number, left.place) == (1, f"test_kernels.py:{line} in {linger.__qualname__}")
        assert str(left).endswith(f", at {left.place}")


def spawn(backend: str, function: Program) -> Any:
    """Start a task that is in no task group."""
    if backend == "asyncio":
        return asyncio.get_running_loop().create_task(function())
    import trio

    return trio.lowlevel.spawn_system_task(function)


@each_backend
def test_not_a_step_after_main(backend: str) -> None:
    steps: list[int] = []

    async def linger() -> None:
        while True:
            await anyio.lowlevel.checkpoint()
            steps.append(process.scheduler.last)

    async def main() -> None:
        spawn(backend, linger)
        for _ in range(3):
            await anyio.lowlevel.checkpoint()

    with kernel(backend, Fifo()) as process:
        process.run(main)
        order = process.scheduler.order
        assert order[-1] == 0
        process.close()
        assert process.scheduler.order == order == [*order]


@each_backend
def test_what_nobody_waits_for_is_reported(backend: str) -> None:
    async def fail() -> None:
        raise ValueError("no")

    async def main() -> str:
        spawn(backend, fail)
        await anyio.sleep(1)
        return "done"

    process = kernel_type(backend)(Scheduler(Fifo()))
    if backend == "asyncio":
        assert process.run(main) == "done"
    else:  # under trio it ends everything
        import trio

        with pytest.raises(trio.TrioInternalError) as caught:
            process.run(main)
        assert isinstance(caught.value.__cause__, ValueError)
    process.close()
    assert len(process.unhandled) == 1 and "ValueError: no" in process.unhandled[0]


@each_backend
def test_what_is_dropped_is_dropped_at_once(backend: str) -> None:
    """Not when the garbage collector finds it, in the middle of another process."""
    seen: list[str] = []

    async def wait(name: str) -> None:
        try:
            async with anyio.create_task_group() as group, lock:
                group.start_soon(anyio.sleep_forever)
                await anyio.sleep_forever()
        finally:
            seen.append(name)
            await anyio.sleep(1)
            seen.append("wrong")

    async def main() -> None:
        async with anyio.create_task_group() as group:
            for name in ("a", "b"):
                group.start_soon(wait, name)
            await anyio.sleep_forever()

    process = kernel_type(backend)(Scheduler(Deviating()))
    lock = contextlib.AsyncExitStack()
    process.start(main)
    process.go_on(1)
    assert seen == []
    process.close()
    assert sorted(seen) == ["a", "b"]
    del process
    gc.collect()
    assert sorted(seen) == ["a", "b"]


@each_backend
def test_who_comes_too_late_hears_of_it(backend: str) -> None:
    async def main() -> Any:
        if backend == "asyncio":
            return asyncio.get_running_loop().call_soon_threadsafe
        import trio

        return trio.lowlevel.current_trio_token().run_sync_soon

    with kernel(backend) as process:
        call = process.run(main)
        call(len, "in time")
    with pytest.raises(RuntimeError):
        call(len, "too late")


def test_cancelling_a_task_of_asyncio_is_no_step_of_it() -> None:
    async def wait() -> None:
        await anyio.sleep_forever()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        task = loop.create_task(wait())
        await asyncio.sleep(1)
        loop.call_soon(task.cancel)
        await asyncio.wait([task])
        order.extend(process.scheduler.order)

    order: list[int] = []
    with kernel("asyncio") as process:
        process.run(main)
    assert order == [0, 1, 0, 1, 0]


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with Python 3.12")
def test_an_eager_task_of_asyncio_has_a_number() -> None:
    async def child() -> Any:
        return process.current()

    async def main() -> Any:
        asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
        return await asyncio.create_task(child())

    with kernel("asyncio") as process:
        assert process.run(main)[0] == 1


@each_backend
def test_asynchronous_generators_are_closed_at_the_end(backend: str) -> None:
    seen: list[str] = []

    async def numbers() -> AsyncIterator[int]:
        try:
            yield 1
        finally:
            seen.append("closed")

    async def main() -> int:
        source = numbers()
        sources.append(source)
        return await anext(source)

    sources: list[Any] = []
    with kernel(backend) as process:
        assert process.run(main) == 1
        steps = process.scheduler.steps
    assert seen == ["closed"]
    assert process.scheduler.steps == steps


@each_backend
def test_a_process_that_never_began(backend: str) -> None:
    kernel_type(backend)(Scheduler(Fifo())).close()
    process = kernel_type(backend)(Scheduler(Fifo()))
    process.start(clicking)
    process.close()
    assert nothing_runs()


@each_backend
def test_a_process_that_is_left_behind_harms_no_other(backend: str) -> None:
    async def main() -> list[float]:
        left.clear()
        gc.collect()
        return await clicking()

    left = [kernel_type(backend)(Scheduler(Fifo()))]
    left[0].start(clicking)
    left[0].go_on(1)
    if backend == "asyncio":
        left[0].close()
    assert simulate(backend, main) == [1, 2, 3]
    assert nothing_runs()


async def a_background_run() -> Any:
    """On trio: with system tasks that are in the middle of something when their process ends."""

    class Flow(Workflow):
        @step
        async def begin(self, ev: StartEvent) -> StopEvent:
            return StopEvent(result=1)

    handler = Flow().run()
    await anyio.sleep(1)
    return await handler


@each_backend
def test_nothing_is_kept_of_processes_with_system_tasks(backend: str) -> None:
    for _ in range(3):
        simulate(backend, a_background_run)
    before = census()
    for _ in range(50):
        simulate(backend, a_background_run)
    after = census()
    assert {
        name: count - before.get(name, 0) for name, count in after.items() if count > before.get(name, 0) + 20
    } == {}


@each_backend
def test_nothing_is_kept_of_runs(backend: str) -> None:
    simulate(backend, busy)
    before = census()
    open_files = len(os.listdir("/dev/fd"))
    for seed in range(2_000):
        with kernel(backend, Walk(seed)) as process:
            process.run(kernel_programs.PROGRAMS[0])
        assert seed % 500 or len(os.listdir("/dev/fd")) == open_files
    del process
    after = census()
    assert {name: count - before.get(name, 0) for name, count in after.items() if count > before.get(name, 0) + 5} == {}


def census() -> dict[str, int]:
    """How many there are of each type of object that a run makes."""
    gc.collect()
    counts: dict[str, int] = {}
    for one in gc.get_objects():
        module = type(one).__module__
        if module.partition(".")[0] in ("flowkit", "asyncio", "_asyncio", "trio", "anyio"):
            counts[type(one).__qualname__] = counts.get(type(one).__qualname__, 0) + 1
    return counts


# ------------------------------------------------------------------------------------------------- the outside world


async def reads_a_socket() -> None:
    left, right = socket.socketpair()
    with left, right:
        left.setblocking(False)
        # Its name is `wait_readable` since AnyIO 4.7.
        await getattr(anyio, "wait_readable", getattr(anyio, "wait_socket_readable", None))(left)


async def receives_signals() -> None:
    with anyio.open_signal_receiver(2) as signals:
        async for _ in signals:
            pass


async def opens_a_connection() -> None:
    await asyncio.open_connection("127.0.0.1", 9)


async def starts_a_server() -> None:
    await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)


async def starts_a_process() -> None:
    await asyncio.create_subprocess_exec("true")


async def sends_datagrams() -> None:
    await asyncio.get_running_loop().create_datagram_endpoint(asyncio.DatagramProtocol, ("127.0.0.1", 0))


async def trio_opens_a_connection() -> None:
    import trio

    await trio.open_tcp_stream("127.0.0.1", 9)


async def trio_looks_up_a_name() -> None:
    import trio

    await trio.socket.getaddrinfo("localhost", 80)


async def trio_starts_a_process() -> None:
    import trio

    await trio.run_process(["true"], stdin=b"text", capture_stdout=True)


async def trio_receives_signals() -> None:
    import trio

    with trio.open_signal_receiver(2) as signals:
        async for _ in signals:
            pass


def case(name: str, function: Callable[[], Awaitable[Any]]) -> Any:
    return pytest.param(function, id=name)


ANYIO = [
    case("connect_tcp", lambda: anyio.connect_tcp("127.0.0.1", 9)),
    case("connect_tcp by name", lambda: anyio.connect_tcp("localhost", 9)),
    case("create_tcp_listener", lambda: anyio.create_tcp_listener(local_host="127.0.0.1")),
    case("create_udp_socket", lambda: anyio.create_udp_socket(local_host="127.0.0.1")),
    case("connect_unix", lambda: anyio.connect_unix("/nowhere/at/all")),
    case("getaddrinfo", lambda: anyio.getaddrinfo("localhost", 80)),
    case("run_process", lambda: anyio.run_process(["true"])),
    case("wait_readable", reads_a_socket),
    case("open_signal_receiver", receives_signals),
]
ASYNCIO = [
    case("open_connection", opens_a_connection),
    case("start_server", starts_a_server),
    case("create_subprocess_exec", starts_a_process),
    case("create_datagram_endpoint", sends_datagrams),
]
TRIO = [
    case("open_tcp_stream", trio_opens_a_connection),
    case("getaddrinfo of trio", trio_looks_up_a_name),
    case("trio.run_process", trio_starts_a_process),
    case("trio.open_signal_receiver", trio_receives_signals),
]


def refused(backend: str, function: Program) -> OutsideWorld:
    """How a process ends that reaches out."""
    with kernel(backend) as process, threads.installed(), threads.simulating():
        with pytest.raises((OutsideWorld, BaseExceptionGroup)) as caught:
            process.run(function)
        (error,) = {str(error): error for error in flat(caught.value)}.values()
    assert isinstance(error, OutsideWorld)
    return error


@each_backend
@pytest.mark.parametrize("function", ANYIO)
def test_the_outside_world_is_refused(backend: str, function: Program) -> None:
    open_files = len(os.listdir("/dev/fd"))
    refused(backend, function)
    assert len(os.listdir("/dev/fd")) == open_files


@pytest.mark.parametrize("function", ASYNCIO)
def test_asyncio_s_own_ways_out_are_refused(function: Program) -> None:
    refused("asyncio", function)


@pytest.mark.skipif("trio" not in BACKENDS, reason="trio is not installed")
@pytest.mark.parametrize("function", TRIO)
def test_trio_s_own_ways_out_are_refused(function: Program) -> None:
    refused("trio", function)


@each_backend
def test_the_loops_own_threads_run_by_turns(backend: str) -> None:
    async def main() -> Any:
        if backend == "asyncio":
            return await asyncio.get_running_loop().run_in_executor(None, sorted, [2, 1])
        import trio

        return await trio.to_thread.run_sync(sorted, [2, 1])

    async def failing() -> Any:
        if backend == "asyncio":
            return await asyncio.get_running_loop().run_in_executor(None, int, "no number")
        import trio

        return await trio.to_thread.run_sync(int, "no number")

    with threads.installed(), threads.simulating():
        assert simulate(backend, main) == [1, 2]
        with pytest.raises(ValueError, match="no number"):
            simulate(backend, failing)


# ---------------------------------------------------------------------------------------------------------- canaries


def test_asyncio_s_loops_are_driven_by_run_once() -> None:
    """`SimulatedLoop` has it in its own hands."""
    turns: list[int] = []

    class Loop(asyncio.BaseEventLoop):
        def _run_once(self) -> None:
            turns.append(1)
            if len(turns) == 3:
                self.stop()

    loop = Loop()
    loop.run_forever()
    loop.close()
    assert len(turns) == 3


def test_asyncio_s_task_steps_tell_their_task() -> None:
    """Steps and wake-ups come to ``call_soon`` as methods of their task; nothing else does."""
    owners: list[Any] = []

    class Loop(SimulatedLoop):
        def call_soon(self, callback: Any, *args: Any, context: Any = None) -> Any:
            owners.append(getattr(callback, "__self__", None))
            return super().call_soon(callback, *args, context=context)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        loop.call_soon(future.set_result, None)
        await future  # a wake-up
        await asyncio.sleep(0)  # a step

    loop = Loop(Scheduler(Fifo()), 0.0)
    task = loop.create_task(main())
    loop.run_until_complete(task)
    assert owners.count(task) == 3
    assert not [owner for owner in owners if isinstance(owner, asyncio.Task) and owner is not task]
    loop.close()


@pytest.mark.skipif("trio" not in BACKENDS, reason="trio is not installed")
def test_another_trio_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import trio

    from flowkit.testing import trio_kernel

    trio_kernel._check()
    with pytest.raises(TestingError, match=rf"trio {trio.__version__} .*_run\.Missing has changed.*asyncio"):
        trio_kernel._private("trio._core._run", "Missing")
    with pytest.raises(TestingError, match=r"trio\._gone"):
        trio_kernel._private("trio._gone")
    with monkeypatch.context() as changed:
        changed.setattr(trio_kernel, "RUNNER", {*trio_kernel.RUNNER, "gadget"})
        with pytest.raises(TestingError, match=r"Runner \(gadget\)"):
            trio_kernel._check()
    with monkeypatch.context() as changed:
        changed.setattr(trio_kernel._Queue, "__bool__", lambda self: 1 / 0)
        with pytest.raises(TestingError, match="its event loop has changed"):
            trio_kernel._check()
    with monkeypatch.context() as changed:
        changed.setattr(trio_kernel, "_specimen", lambda: ([0, 2, 1, 2, 1, 0], 3.0))
        with pytest.raises(TestingError, match="the order in which"):
            trio_kernel._check()


@pytest.mark.skipif("trio" not in BACKENDS, reason="trio is not installed")
def test_trio_s_own_loops_are_as_they_were() -> None:
    """What is replaced in trio is replaced for simulated loops only."""
    import trio

    async def main() -> Any:
        with trio.open_signal_receiver(10):
            return await trio.to_thread.run_sync(sorted, [2, 1])

    assert trio.run(main) == [1, 2]


@pytest.mark.skipif("trio" not in BACKENDS, reason="trio is not installed")
def test_trio_s_instruments_play() -> None:
    import trio

    class Counts(trio.abc.Instrument):
        steps = 0

        def before_task_step(self, task: trio.lowlevel.Task) -> None:
            self.steps += 1

    async def main() -> tuple[int, int]:
        counts = Counts()
        with pytest.raises(KeyError):
            trio.lowlevel.remove_instrument(counts)
        trio.lowlevel.add_instrument(counts)
        for _ in range(3):
            await trio.lowlevel.checkpoint()
        trio.lowlevel.remove_instrument(counts)
        await trio.lowlevel.checkpoint()
        return counts.steps, trio.lowlevel.current_statistics().tasks_runnable

    assert simulate("trio", main) == (3, 0)
