"""Virtual time is what every other test stands on, so it is tested like the engine itself."""

import asyncio
import gc
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from contextlib import aclosing
from functools import partial
from itertools import count

import anyio
import pytest
from anyio import from_thread, to_thread
from anyio.abc import TaskStatus

from flowkit import WrongCall, testing
from flowkit.testing import virtual_time, virtual_watch
from flowkit.testing.left_behind import LASTING_TASKS, threads_left_behind
from flowkit.testing.virtual_time import (
    Deadlock,
    LeftBehind,
    LoopBlocked,
    TimeHeld,
    VirtualLoop,
    letting_time_pass,
    run_virtual,
    virtual_backend,
)
from flowkit.testing.virtual_watch import current_watch

YEAR = 365 * 24 * 3600.0


class TestTimers:
    async def test_time_starts_at_zero(self) -> None:
        assert anyio.current_time() == 0

    @pytest.mark.parametrize("seconds", [1e-6, 0.1, 5, YEAR])
    async def test_a_sleep_takes_virtual_time_and_no_other(self, seconds: float) -> None:
        began = time.perf_counter()
        await anyio.sleep(seconds)
        assert anyio.current_time() == pytest.approx(seconds)
        assert time.perf_counter() - began < virtual_watch.BLOCKED_AFTER

    async def test_time_stands_still_while_anything_can_run(self) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(anyio.sleep, 1)
            for _ in range(1000):
                await anyio.lowlevel.checkpoint()
            assert anyio.current_time() == 0

    async def test_timers_fire_in_the_order_of_their_times(self) -> None:
        fired: list[tuple[float, float]] = []

        async def sleep(seconds: float) -> None:
            await anyio.sleep(seconds)
            fired.append((seconds, anyio.current_time()))

        async with anyio.create_task_group() as tasks:
            for seconds in (3, 1, 2.5, 0, 86_400 * 3, 2):
                tasks.start_soon(sleep, seconds)
        assert fired == [(s, s) for s in (0, 1, 2, 2.5, 3, 86_400 * 3)]

    async def test_timers_of_one_instant_fire_before_time_goes_on(self) -> None:
        seen: list[float] = []

        async def sleep() -> None:
            await anyio.sleep(1)
            await anyio.lowlevel.checkpoint()
            seen.append(anyio.current_time())

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(anyio.sleep, 1.5)
            for _ in range(10):
                tasks.start_soon(sleep)
        assert seen == [1] * 10

    async def test_timeouts(self) -> None:
        with anyio.move_on_after(5) as scope:
            await anyio.sleep_forever()
        assert scope.cancelled_caught
        assert anyio.current_time() == 5
        with pytest.raises(TimeoutError):
            with anyio.fail_after(2):
                await anyio.Event().wait()
        assert anyio.current_time() == 7

    async def test_a_timeout_that_is_not_reached(self) -> None:
        with anyio.fail_after(5):
            await anyio.sleep(4.999)
        assert anyio.current_time() == pytest.approx(4.999)

    async def test_a_watched_test_has_no_deadline(self) -> None:
        assert anyio.current_effective_deadline() == float("inf")


class TestThreads:
    async def test_a_thread_holds_time(self) -> None:
        async def look() -> float:
            return anyio.current_time()

        def work() -> set[float]:
            # Between two of these calls the loop is idle, and would jump to the sleeper if it could.
            return {from_thread.run_sync(anyio.current_time) for _ in range(50)} | {
                from_thread.run(look) for _ in range(50)
            }

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(anyio.sleep, 1)
            assert await to_thread.run_sync(work) == {0.0}
        assert anyio.current_time() == 1

    async def test_a_thread_that_waits_for_the_loop_lets_time_pass(self) -> None:
        def work() -> float:
            from_thread.run(anyio.sleep, 3)
            return from_thread.run_sync(anyio.current_time)

        assert await to_thread.run_sync(work) == 3

    async def test_time_is_held_again_after_such_a_wait(self) -> None:
        def work() -> set[float]:
            from_thread.run(anyio.sleep, 3)
            return {from_thread.run_sync(anyio.current_time) for _ in range(50)}

        with anyio.move_on_after(4):
            assert await to_thread.run_sync(work) == {3.0}

    async def test_one_busy_thread_holds_time_for_all(self) -> None:
        may_end = threading.Event()
        times: list[float] = []

        def waits() -> None:
            from_thread.run(anyio.sleep, 3)
            times.append(from_thread.run_sync(anyio.current_time))

        def works() -> None:
            for _ in range(50):
                times.append(from_thread.run_sync(anyio.current_time))
            assert may_end.is_set()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(to_thread.run_sync, waits)
            tasks.start_soon(to_thread.run_sync, works)
            may_end.set()
        assert times == [0.0] * 50 + [3.0]

    async def test_waiting_for_a_limiter_does_not_hold_time(self) -> None:
        limiter = anyio.CapacityLimiter(1)
        ended: list[float] = []

        def work() -> None:
            from_thread.run(anyio.sleep, 3)
            ended.append(from_thread.run_sync(anyio.current_time))

        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(lambda: to_thread.run_sync(work, limiter=limiter))
        assert ended == [3, 6, 9]

    async def test_a_thread_that_waits_by_other_means_says_so(self) -> None:
        may_end = threading.Event()

        def work() -> float:
            with letting_time_pass():
                may_end.wait()
            return from_thread.run_sync(anyio.current_time)

        async def release() -> None:
            await anyio.sleep(7)
            may_end.set()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(release)
            assert await to_thread.run_sync(work) == 7

    async def test_a_failing_thread_no_longer_holds_time(self) -> None:
        def fail() -> None:
            raise ValueError("no")

        with pytest.raises(ValueError, match="no"):
            await to_thread.run_sync(fail)
        with anyio.move_on_after(5):
            await anyio.sleep_forever()
        assert anyio.current_time() == 5
        assert not current_watch().held

    async def test_a_cancelled_thread_is_waited_for(self) -> None:
        asked = threading.Event()

        def work() -> str:
            asked.wait()
            return "done"

        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(to_thread.run_sync, work)
                await anyio.lowlevel.checkpoint()
                scope.cancel()
                asked.set()
        assert anyio.current_time() == 0

    def test_executors_of_asyncio_hold_time(self) -> None:
        async def main() -> float:
            with anyio.move_on_after(1):
                await asyncio.to_thread(sum, range(100_000))
            return anyio.current_time()

        assert run_virtual(main) == 0

    def test_a_thread_that_waits_by_other_means_and_does_not_say_so(
        self, anyio_backend_name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(virtual_watch, "PATIENCE", 0.05)
        may_end = threading.Event()

        async def release() -> None:
            try:
                await anyio.sleep(7)
            finally:
                may_end.set()

        async def main() -> None:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(release)
                await to_thread.run_sync(may_end.wait)

        with pytest.raises(TimeHeld, match="letting_time_pass"):
            run_virtual(main, backend=anyio_backend_name)


class TestHanging:
    def test_a_deadlock_fails_at_once_and_says_where(self, anyio_backend_name: str) -> None:
        async def never() -> None:
            await anyio.Event().wait()

        async def main() -> None:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(never, name="waiter")
                tasks.start_soon(never)

        with pytest.raises(Deadlock, match="nobody is left to wake the loop") as caught:
            run_virtual(main, backend=anyio_backend_name)
        assert f"waiter: {never.__qualname__} ({__file__}:" in caught.value.__notes__[0]

    def test_a_deadlock_after_virtual_time_has_passed(self, anyio_backend_name: str) -> None:
        async def main() -> None:
            await anyio.sleep(10)
            await anyio.sleep_forever()

        with pytest.raises(Deadlock):
            run_virtual(main, backend=anyio_backend_name)

    def test_a_deadlocked_test_is_cleaned_up(self, anyio_backend_name: str) -> None:
        cleaned: list[float] = []

        async def main() -> None:
            try:
                await anyio.sleep_forever()
            finally:
                with anyio.CancelScope(shield=True):
                    await anyio.sleep(5)
                    cleaned.append(anyio.current_time())

        with pytest.raises(Deadlock):
            run_virtual(main, backend=anyio_backend_name)
        assert cleaned == [5]

    def test_a_deadlock_that_ignores_cancellation(self) -> None:
        async def main() -> None:
            with anyio.CancelScope(shield=True):
                await anyio.sleep_forever()

        # Only asyncio: there the loop itself can be stopped by an error.
        with pytest.raises(Deadlock):
            run_virtual(main)

    def test_a_foreign_thread_may_still_wake_the_loop(self, anyio_backend_name: str) -> None:
        async def main() -> str:
            woken = anyio.Event()
            portal = anyio.from_thread.BlockingPortal()
            async with portal:
                thread = threading.Thread(target=lambda: portal.call(woken.set))
                thread.start()
                await woken.wait()
                await to_thread.run_sync(thread.join)
            return "woken"

        assert run_virtual(main, backend=anyio_backend_name) == "woken"

    def test_without_a_watched_test_the_loop_raises(self) -> None:
        with pytest.raises(Deadlock):
            anyio.run(anyio.sleep_forever, backend_options={"loop_factory": VirtualLoop})

    def test_blocking_the_loop(self, anyio_backend_name: str) -> None:
        now = 0.0

        async def main() -> None:
            nonlocal now
            await anyio.sleep(1)
            now += 2.5
            await anyio.sleep(1)
            pytest.fail("not reached")

        with pytest.raises(LoopBlocked, match=r"for 2\.5 s"):
            run_virtual(main, backend=anyio_backend_name, wall=lambda: now)

    def test_blocking_the_loop_in_the_last_step(self, anyio_backend_name: str) -> None:
        now = 0.0

        async def main() -> None:
            nonlocal now
            now += 2.5

        with pytest.raises(LoopBlocked):
            run_virtual(main, backend=anyio_backend_name, wall=lambda: now)

    def test_many_short_steps_do_not_block(self, anyio_backend_name: str) -> None:
        ticks = count()

        async def main() -> None:
            for _ in range(100):
                await anyio.lowlevel.checkpoint()

        run_virtual(main, backend=anyio_backend_name, wall=lambda: next(ticks) * 1.0)


async def numbers() -> AsyncGenerator[int, None]:
    for number in range(3):
        yield number


class TestLeavingThingsBehind:
    def test_a_task(self, anyio_backend_name: str) -> None:
        async def main() -> None:
            spawn(anyio.sleep_forever)
            await anyio.lowlevel.checkpoint()

        spawn = {"asyncio": spawn_on_asyncio, "trio": spawn_on_trio}[anyio_backend_name]
        with pytest.raises(LeftBehind, match=r"task .*sleep"):
            run_virtual(main, backend=anyio_backend_name)

    def test_a_task_that_lasts_as_long_as_its_loop(self, anyio_backend_name: str) -> None:
        async def main() -> None:
            spawn(anyio.sleep_forever)

        (name,) = LASTING_TASKS
        spawn = partial({"asyncio": spawn_on_asyncio, "trio": spawn_on_trio}[anyio_backend_name], name=name)
        run_virtual(main, backend=anyio_backend_name)

    def test_what_such_a_task_starts(self, anyio_backend_name: str) -> None:
        async def lasting() -> None:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(anyio.sleep_forever)
                started.set()

        async def main() -> None:
            nonlocal started
            started = anyio.Event()
            spawn(lasting)
            await started.wait()

        started: anyio.Event

        (name,) = LASTING_TASKS
        spawn = partial({"asyncio": spawn_on_asyncio, "trio": spawn_on_trio}[anyio_backend_name], name=name)
        with pytest.raises(LeftBehind, match=r"task .*sleep"):
            run_virtual(main, backend=anyio_backend_name)

    def test_a_task_that_is_about_to_end(self, anyio_backend_name: str) -> None:
        async def main() -> None:
            spawn(anyio.lowlevel.checkpoint)

        spawn = {"asyncio": spawn_on_asyncio, "trio": spawn_on_trio}[anyio_backend_name]
        run_virtual(main, backend=anyio_backend_name)

    def test_a_generator_that_is_still_referred_to(self, anyio_backend_name: str) -> None:
        kept = numbers()

        async def main() -> None:
            await anext(kept)

        with pytest.raises(LeftBehind, match="async generator numbers"):
            run_virtual(main, backend=anyio_backend_name)

    def test_a_generator_that_is_not(self) -> None:
        # Only asyncio: trio finishes it too, and warns by itself.
        async def main() -> None:
            async for _ in numbers():
                break
            gc.collect()

        with pytest.raises(LeftBehind, match=r"numbers .*garbage collector"):
            run_virtual(main)

    async def test_a_generator_that_is_used_up_or_closed(self) -> None:
        assert [number async for number in numbers()] == [0, 1, 2]
        async with aclosing(numbers()) as some:
            assert await anext(some) == 0

    def test_the_tests_own_error_comes_first(self, anyio_backend_name: str) -> None:
        async def main() -> None:
            spawn(anyio.sleep_forever)
            raise KeyError("mine")

        spawn = {"asyncio": spawn_on_asyncio, "trio": spawn_on_trio}[anyio_backend_name]
        with pytest.raises(KeyError, match="mine"):
            run_virtual(main, backend=anyio_backend_name)

    def test_a_thread(self) -> None:
        before = set(threading.enumerate())
        may_end = threading.Event()
        thread = threading.Thread(target=may_end.wait, name="forgotten")
        thread.start()
        assert threads_left_behind(before, patience=0.01) == ["forgotten"]
        may_end.set()
        assert threads_left_behind(before) == []
        thread.join()

    def test_pools_of_worker_threads_are_no_leak(self, anyio_backend_name: str) -> None:
        before = set(threading.enumerate())
        run_virtual(to_thread.run_sync, int, backend=anyio_backend_name)
        assert threads_left_behind(before) == []


def spawn_on_asyncio(function: Callable[[], Coroutine[None, None, None]], name: str = "sleeper") -> None:
    spawned.append(asyncio.get_running_loop().create_task(function(), name=name))


def spawn_on_trio(function: Callable[[], Coroutine[None, None, None]], name: str = "sleeper") -> None:
    import trio

    trio.lowlevel.spawn_system_task(function, name=name)


spawned: list[asyncio.Task[None]] = []


class TestRunning:
    def test_results_and_errors(self, anyio_backend_name: str) -> None:
        async def main(value: int) -> int:
            await anyio.sleep(1)
            return 10 // value

        assert run_virtual(main, 5, backend=anyio_backend_name) == 2
        with pytest.raises(ZeroDivisionError):
            run_virtual(main, 0, backend=anyio_backend_name)

    def test_each_run_starts_at_zero(self, anyio_backend_name: str) -> None:
        async def main() -> float:
            await anyio.sleep(1)
            return anyio.current_time()

        assert [run_virtual(main, backend=anyio_backend_name) for _ in range(2)] == [1, 1]

    def test_without_a_watch(self) -> None:
        async def main() -> float:
            await anyio.sleep(100)
            return anyio.current_time()

        name, options = testing.virtual_backend("asyncio")
        assert anyio.run(main, backend=name, backend_options=options) == 100

    def test_another_backend(self) -> None:
        with pytest.raises(WrongCall, match=r"virtual_backend\(\) takes 'asyncio' or 'trio', but got 'curio'"):
            virtual_backend("curio")

    def test_a_backend_that_is_not_installed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(virtual_time, "find_spec", lambda name: None)
        with pytest.raises(WrongCall, match=r'needs trio, which is not installed: install "flowkit\[trio\]"'):
            testing.run_virtual(anyio.sleep, 1, backend="trio")

    async def test_a_loop_inside_a_test_on_another_thread_is_on_the_real_clock(self) -> None:
        def work() -> float:
            return anyio.run(main)

        async def main() -> float:
            with pytest.raises(RuntimeError, match="no event loop under virtual time"):
                current_watch()
            await to_thread.run_sync(int)
            return anyio.current_time()

        assert await to_thread.run_sync(work) > 0
        assert anyio.current_time() == 0


@pytest.fixture
async def background() -> AsyncIterator[list[float]]:
    """Fixtures run in the test's own loop; their tasks are not the test's."""
    ticks: list[float] = []

    async def tick(*, task_status: TaskStatus[None]) -> None:
        task_status.started()
        while True:
            await anyio.sleep(1)
            ticks.append(anyio.current_time())

    async with anyio.create_task_group() as tasks:
        await tasks.start(tick)
        yield ticks
        tasks.cancel_scope.cancel()


async def test_fixtures_share_the_clock_of_their_test(background: list[float]) -> None:
    await anyio.sleep(3.5)
    assert background == [1, 2, 3]
