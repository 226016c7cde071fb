"""Small programs on AnyIO whose results hang on no schedule: the same on a stock loop and in a simulation.

A delay of `SOON` comes before everything that waits for `LATE` or longer, in real time too.
"""

import contextvars
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any

import anyio
import anyio.lowlevel
from anyio.abc import TaskStatus

SOON = 0.002
LATE = 60.0

Program = Callable[[], Awaitable[Any]]
PROGRAMS: list[Program] = []


def program(function: Program) -> Program:
    PROGRAMS.append(function)
    return function


def shape(error: BaseException) -> Any:
    """An error without its backend: groups are sets of what is in them."""
    if isinstance(error, BaseExceptionGroup):
        return sorted((shape(one) for one in error.exceptions), key=repr)
    return f"{type(error).__name__}: {error}"


async def shape_of(function: Callable[..., Awaitable[Any]], *args: Any) -> Any:
    try:
        return await function(*args)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is the result
        return shape(error)


async def fail(text: str = "no", after: float = 0.0) -> None:
    await anyio.sleep(after)
    raise ValueError(text)


# ---------------------------------------------------------------------------------------------------------- task groups


@program
async def a_group_waits_for_its_tasks() -> Any:
    done: list[int] = []

    async def work(number: int) -> None:
        await anyio.sleep(SOON)
        done.append(number)

    async with anyio.create_task_group() as group:
        for number in range(4):
            group.start_soon(work, number)
    return sorted(done)


@program
async def tasks_start_tasks() -> Any:
    done: list[int] = []

    async def grow(depth: int, group: anyio.abc.TaskGroup) -> None:
        if depth:
            group.start_soon(grow, depth - 1, group)
            async with anyio.create_task_group() as inner:
                inner.start_soon(grow, depth - 1, inner)
        done.append(depth)

    async with anyio.create_task_group() as group:
        group.start_soon(grow, 3, group)
    return sorted(done)


@program
async def a_failing_task_cancels_the_others() -> Any:
    seen: list[str] = []

    async def wait() -> None:
        try:
            await anyio.sleep(LATE)
        except BaseException as error:
            seen.append("cancelled" if isinstance(error, anyio.get_cancelled_exc_class()) else "other")
            raise

    async def run() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(wait)
            group.start_soon(wait)
            group.start_soon(fail, "first", SOON)

    return await shape_of(run), seen


@program
async def clean_ups_may_fail_too() -> Any:
    async def wait() -> None:
        try:
            await anyio.sleep(LATE)
        finally:
            raise KeyError("second")

    async def run() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(wait)
            group.start_soon(fail, "first", SOON)

    return await shape_of(run)


@program
async def the_body_fails_along_with_a_task() -> Any:
    async def wait() -> None:
        try:
            await anyio.sleep(LATE)
        finally:
            raise KeyError("task")

    async def run() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(wait)
            await anyio.sleep(SOON)
            raise ValueError("body")

    return await shape_of(run)


@program
async def groups_split() -> Any:
    seen: list[str] = []
    try:
        async with anyio.create_task_group():
            async with anyio.create_task_group() as inner:
                inner.start_soon(fail, "inner")
    except* ValueError as group:
        seen.append(f"{len(group.exceptions)} {shape(group)}")
    except* KeyError:
        seen.append("wrong")
    return seen


@program
async def leaving_by_cancel() -> Any:
    async with anyio.create_task_group() as group:
        group.start_soon(anyio.sleep, LATE)
        group.start_soon(anyio.sleep_forever)
        group.cancel_scope.cancel()
    return group.cancel_scope.cancel_called


@program
async def start_hands_over_a_value() -> Any:
    async def serve(*, task_status: TaskStatus[int]) -> None:
        await anyio.sleep(SOON)
        task_status.started(7)
        await anyio.sleep_forever()

    async with anyio.create_task_group() as group:
        value = await group.start(serve)
        group.cancel_scope.cancel()
    return value


@program
async def start_fails_where_the_task_does() -> Any:
    async def serve(how: str, *, task_status: TaskStatus[None]) -> None:
        if how == "raises":
            await fail("early", SOON)
        if how == "late":
            task_status.started()
            await fail("late")

    async def run(how: str) -> None:
        async with anyio.create_task_group() as group:
            await group.start(serve, how)

    return [await shape_of(run, how) for how in ("raises", "late")]


@program
async def a_task_that_never_says_it_started() -> Any:
    async def serve(*, task_status: TaskStatus[None]) -> None:
        await anyio.sleep(SOON)

    async def run() -> str:
        async with anyio.create_task_group() as group:
            try:
                await group.start(serve)
            except RuntimeError:
                return "refused"
        return "wrong"

    return await run()


@program
async def start_is_cancelled() -> Any:
    seen: list[str] = []

    async def serve(*, task_status: TaskStatus[None]) -> None:
        try:
            await anyio.sleep(LATE)
        finally:
            seen.append("cleaned")

    async with anyio.create_task_group() as group:
        with anyio.move_on_after(SOON) as scope:
            await group.start(serve)
    return seen, scope.cancelled_caught


# -------------------------------------------------------------------------------------------------------- cancel scopes


@program
async def a_scope_catches_its_own_cancellation() -> Any:
    with anyio.CancelScope() as scope:
        scope.cancel()
        await anyio.sleep(LATE)
    return scope.cancel_called, scope.cancelled_caught


@program
async def no_checkpoint_no_cancellation() -> Any:
    with anyio.CancelScope() as scope:  # noqa: ASYNC100
        scope.cancel()
    return scope.cancel_called, scope.cancelled_caught


@program
async def cancelled_before_it_is_entered() -> Any:
    scope = anyio.CancelScope()
    scope.cancel()
    with scope:
        await anyio.sleep(LATE)
    return scope.cancelled_caught


@program
async def the_inner_scope_only() -> Any:
    with anyio.CancelScope() as outer:
        with anyio.CancelScope() as inner:
            inner.cancel()
            await anyio.sleep(LATE)
        await anyio.sleep(SOON)
    return outer.cancelled_caught, inner.cancelled_caught


@program
async def the_outer_scope_passes_the_inner() -> Any:
    after = False
    with anyio.CancelScope() as outer:
        with anyio.CancelScope() as inner:
            outer.cancel()
            await anyio.sleep(LATE)
        after = True
    return outer.cancelled_caught, inner.cancelled_caught, after


@program
async def both_scopes_at_once() -> Any:
    with anyio.move_on_after(SOON) as outer, anyio.move_on_after(SOON) as inner:
        outer.deadline = inner.deadline
        await anyio.sleep(LATE)
    return outer.cancel_called, inner.cancel_called


@program
async def cancellation_is_a_level() -> Any:
    count = 0
    with anyio.CancelScope() as scope:
        scope.cancel()
        for _ in range(3):
            try:
                await anyio.sleep(LATE)
            except anyio.get_cancelled_exc_class():
                count += 1
        await anyio.sleep(LATE)
    return count, scope.cancelled_caught


@program
async def a_shield_holds() -> Any:
    seen: list[str] = []
    with anyio.CancelScope() as scope:
        try:
            scope.cancel()
            await anyio.sleep(LATE)
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(SOON)
                seen.append("cleaned")
            try:
                await anyio.lowlevel.checkpoint()
            finally:
                seen.append("cancelled again")
    return seen, scope.cancelled_caught


@program
async def a_shield_is_let_down() -> Any:
    with anyio.CancelScope() as outer:
        with anyio.CancelScope(shield=True) as inner:
            outer.cancel()
            await anyio.sleep(SOON)
            inner.shield = False
            await anyio.sleep(LATE)
    return outer.cancelled_caught, inner.cancelled_caught


@program
async def a_shielded_scope_has_a_deadline() -> Any:
    with anyio.CancelScope() as outer:
        outer.cancel()
        with anyio.move_on_after(SOON, shield=True) as inner:
            await anyio.sleep(LATE)
    return outer.cancelled_caught, inner.cancelled_caught


@program
async def many_are_cancelled_at_once() -> Any:
    seen: list[int] = []

    async def wait(number: int) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(SOON)
            seen.append(number)

    with anyio.move_on_after(SOON) as scope:
        async with anyio.create_task_group() as group:
            for number in range(6):
                group.start_soon(wait, number)
    return sorted(seen), scope.cancelled_caught


@program
async def deadlines() -> Any:
    with anyio.move_on_after(LATE) as long:
        with anyio.move_on_after(SOON) as short:
            await anyio.sleep(LATE)
    try:
        with anyio.fail_after(SOON):
            await anyio.sleep(LATE)
    except TimeoutError:
        late = "late"
    with anyio.fail_after(LATE) as unused:
        await anyio.sleep(SOON)
    with anyio.move_on_after(0) as zero:
        await anyio.sleep(LATE)
    return long.cancelled_caught, short.cancelled_caught, late, unused.cancel_called, zero.cancelled_caught


@program
async def a_deadline_moves() -> Any:
    with anyio.CancelScope(deadline=anyio.current_time() + LATE) as scope:
        async with anyio.create_task_group() as group:

            async def sooner() -> None:
                await anyio.sleep(SOON)
                scope.deadline = anyio.current_time() + SOON

            group.start_soon(sooner)
            await anyio.sleep(LATE)
    with anyio.move_on_after(SOON) as later:
        later.deadline = math.inf
        await anyio.sleep(2 * SOON)
    return scope.cancelled_caught, later.cancelled_caught


@program
async def what_deadline_is_in_effect() -> Any:
    found = [anyio.current_effective_deadline()]
    with anyio.CancelScope() as scope:  # noqa: ASYNC100
        scope.cancel()
        found.append(anyio.current_effective_deadline())
        with anyio.CancelScope(shield=True):  # noqa: ASYNC100
            found.append(anyio.current_effective_deadline())
    with anyio.move_on_after(LATE) as scope, anyio.move_on_after(2 * LATE):  # noqa: ASYNC100
        found.append(anyio.current_effective_deadline() == scope.deadline)
    return found


@program
async def checkpoints_that_do_half() -> Any:
    seen: list[str] = []
    with anyio.CancelScope() as scope:
        await anyio.lowlevel.checkpoint_if_cancelled()
        seen.append("not cancelled")
        scope.cancel()
        await anyio.lowlevel.cancel_shielded_checkpoint()
        seen.append("shielded")
        await anyio.lowlevel.checkpoint_if_cancelled()
        seen.append("wrong")
    return seen


# ----------------------------------------------------------------------------------------------------- synchronisation


@program
async def an_event_wakes_all() -> Any:
    event, woken = anyio.Event(), []

    async def wait(number: int) -> None:
        await event.wait()
        woken.append(number)

    async with anyio.create_task_group() as group:
        for number in range(5):
            group.start_soon(wait, number)
        await anyio.sleep(SOON)
        waiting = event.statistics().tasks_waiting
        event.set()
    await event.wait()
    return waiting, sorted(woken), event.is_set()


@program
async def a_lock_excludes() -> Any:
    lock, inside, most = anyio.Lock(), 0, 0

    async def enter() -> None:
        nonlocal inside, most
        async with lock:
            inside += 1
            most = max(most, inside)
            await anyio.lowlevel.checkpoint()
            inside -= 1

    async with anyio.create_task_group() as group:
        for _ in range(5):
            group.start_soon(enter)
    try:
        lock.release()
    except RuntimeError:
        refused = True
    return most, lock.locked(), refused


@program
async def who_waits_for_a_lock_is_cancelled() -> Any:
    lock, got = anyio.Lock(), []

    async def enter(name: str) -> None:
        async with lock:
            got.append(name)

    async with anyio.create_task_group() as group:
        async with lock:
            group.start_soon(enter, "patient")
            with anyio.move_on_after(SOON):
                async with anyio.create_task_group() as hasty:
                    hasty.start_soon(enter, "hasty")
    return got, lock.locked()


@program
async def a_semaphore_counts() -> Any:
    semaphore, inside, most = anyio.Semaphore(2), 0, 0

    async def enter() -> None:
        nonlocal inside, most
        async with semaphore:
            inside += 1
            most = max(most, inside)
            await anyio.sleep(SOON)
            inside -= 1

    async with anyio.create_task_group() as group:
        for _ in range(5):
            group.start_soon(enter)
    return most, semaphore.value


@program
async def conditions() -> Any:
    condition, woken = anyio.Condition(), []

    async def wait(number: int) -> None:
        async with condition:
            await condition.wait()
            woken.append(number)

    async with anyio.create_task_group() as group:
        for number in range(4):
            group.start_soon(wait, number)
        await anyio.sleep(SOON)
        async with condition:
            condition.notify(1)
        await anyio.sleep(SOON)
        first = len(woken)
        with anyio.move_on_after(SOON) as scope:
            await wait(9)
        async with condition:
            condition.notify_all()
    return first, sorted(woken), scope.cancelled_caught


@program
async def a_limiter_limits() -> Any:
    limiter, inside, most = anyio.CapacityLimiter(2), 0, 0

    async def enter() -> None:
        nonlocal inside, most
        async with limiter:
            inside += 1
            most = max(most, inside)
            await anyio.sleep(SOON)
            inside -= 1

    async with anyio.create_task_group() as group:
        for _ in range(6):
            group.start_soon(enter)
        await anyio.lowlevel.checkpoint()
        limiter.total_tokens = 3
    try:
        limiter.release()
    except RuntimeError:
        refused = True
    return most, limiter.borrowed_tokens, refused


@program
async def a_guard_guards() -> Any:
    guard = anyio.ResourceGuard("reading")

    async def read() -> str:
        with guard:
            await anyio.sleep(SOON)
        return "read"

    results: list[Any] = []

    async def one() -> None:
        results.append(await shape_of(read))

    async with anyio.create_task_group() as group:
        group.start_soon(one)
        group.start_soon(one)
    return sorted(results)


# -------------------------------------------------------------------------------------------------------------- streams


@program
async def items_pass_from_hand_to_hand() -> Any:
    send, receive = anyio.create_memory_object_stream[int](0)
    found: list[int] = []

    async def produce() -> None:
        async with send:
            for number in range(5):
                await send.send(number)

    async with anyio.create_task_group() as group:
        group.start_soon(produce)
        async with receive:
            async for item in receive:
                found.append(item)
    return found


@program
async def several_consumers() -> Any:
    send, receive = anyio.create_memory_object_stream[int](2)
    found: list[int] = []

    async def consume(mine: Any) -> None:
        async with mine:
            async for item in mine:
                await anyio.lowlevel.checkpoint()
                found.append(item)

    async with anyio.create_task_group() as group:
        async with send, receive:
            for _ in range(3):
                group.start_soon(consume, receive.clone())
            for number in range(12):
                await send.send(number)
    return sorted(found)


@program
async def how_streams_end() -> Any:
    send, receive = anyio.create_memory_object_stream[int](1)
    send.send_nowait(1)
    try:
        send.send_nowait(2)
    except anyio.WouldBlock:
        full = True
    send.close()
    found = [receive.receive_nowait(), await shape_of(receive.receive)]
    receive.close()
    found.append(await shape_of(receive.receive))
    send, receive = anyio.create_memory_object_stream[int](0)
    receive.close()
    found.append(await shape_of(send.send, 1))
    send.close()
    return full, found


@program
async def a_cancelled_receiver_loses_nothing() -> Any:
    send, receive = anyio.create_memory_object_stream[int](0)
    with anyio.move_on_after(SOON) as scope:
        await receive.receive()
    found: list[int] = []

    async def take() -> None:
        found.append(await receive.receive())

    async with send, receive, anyio.create_task_group() as group:
        group.start_soon(take)
        await send.send(5)
    return scope.cancelled_caught, found


@program
async def who_sends_is_cancelled() -> Any:
    send, receive = anyio.create_memory_object_stream[int](0)
    with send, receive:
        with anyio.move_on_after(SOON) as scope:
            await send.send(1)
        try:
            receive.receive_nowait()
        except anyio.WouldBlock:
            return scope.cancelled_caught, "nothing sent"
    return "wrong"


# ------------------------------------------------------------------------------------------------------------- the rest

colour: contextvars.ContextVar[str] = contextvars.ContextVar("colour", default="none")


@program
async def context_is_inherited() -> Any:
    found: list[str] = []

    async def child() -> None:
        found.append(colour.get())
        colour.set("blue")
        await anyio.lowlevel.checkpoint()
        found.append(colour.get())

    colour.set("red")
    async with anyio.create_task_group() as group:
        group.start_soon(child)
    return found, colour.get()


@program
async def generators_clean_up() -> Any:
    seen: list[Any] = []

    async def numbers() -> AsyncIterator[int]:
        try:
            for number in range(10):
                await anyio.lowlevel.checkpoint()
                yield number
        finally:
            seen.append("closed")

    @asynccontextmanager
    async def within() -> AsyncIterator[str]:
        async with anyio.create_task_group() as group:
            group.start_soon(anyio.sleep_forever)
            yield "within"
            group.cancel_scope.cancel()

    async with within() as text, aclosing(numbers()) as source:
        seen.append(text)
        async for number in source:
            seen.append(number)
            if number == 2:
                break
    return seen


@program
async def names_of_tasks() -> Any:
    found: list[Any] = []

    async def child() -> None:
        task = anyio.get_current_task()
        found.append((task.name, task.parent_id == parent.id))

    parent = anyio.get_current_task()
    async with anyio.create_task_group() as group:
        group.start_soon(child, name="first")
        group.start_soon(child, name="second")
    return sorted(found)


@program
async def waiting_for_all_to_be_blocked() -> Any:
    seen: list[int] = []

    async def work(number: int) -> None:
        for _ in range(number):
            await anyio.lowlevel.checkpoint()
        seen.append(number)
        await anyio.sleep(LATE)

    async with anyio.create_task_group() as group:
        for number in range(4):
            group.start_soon(work, number)
        await anyio.wait_all_tasks_blocked()
        found = sorted(seen)
        group.cancel_scope.cancel()
    return found


@program
async def time_goes_on() -> Any:
    before = anyio.current_time()
    await anyio.sleep(SOON)
    await anyio.sleep_until(anyio.current_time() + SOON)
    await anyio.sleep_until(before)
    return anyio.current_time() - before >= 2 * SOON


@program
async def variables_of_the_loop() -> Any:
    var = anyio.lowlevel.RunVar[int]("number", 1)
    found = [var.get()]

    async def child() -> None:
        var.set(2)

    async with anyio.create_task_group() as group:
        group.start_soon(child)
    found.append(var.get())
    return found


@program
async def an_error_for_whoever_asked() -> Any:
    return await shape_of(fail, "to main", SOON)
