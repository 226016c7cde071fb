"""The floor: the workloads written by hand on AnyIO, as a competent person would without an engine.

One task group per run, one unbounded memory object stream per step, one task per worker, `async for` to
receive and `send_nowait` to send: the fewest moving parts that still have flowkit's shape (steps that don't
know each other's tasks, several workers per step, typed events). Events are attrs classes like flowkit's,
frozen and with a dict, but nothing checks their fields. There is no routing, no context, no error handling,
no log: what an engine adds is what the ratio measures.

Neither handicapped nor tuned: streams are closed by their readers, results leave through a closure, and
nobody skips AnyIO's checkpoint per receive by draining with `receive_nowait`.
"""

from collections.abc import Callable
from math import inf

import attrs
from anyio import create_memory_object_stream, create_task_group
from anyio.lowlevel import checkpoint

from benchmarks.measure import Sample
from benchmarks.workloads import STREAM_BATCH, settle


@attrs.frozen(slots=False)
class Go:
    n: int


@attrs.frozen(slots=False)
class Ping:
    n: int


@attrs.frozen(slots=False)
class Pong:
    n: int


@attrs.frozen(slots=False)
class Item:
    n: int


@attrs.frozen(slots=False)
class Done:
    n: int


@attrs.frozen(slots=False)
class Tick:
    n: int


@attrs.frozen(slots=False)
class Answer:
    n: int


async def loop(last: int) -> int:
    """Two steps that send each other `last` + 1 events, numbered from 0."""
    to_ping, ping_inbox = create_memory_object_stream[Go | Ping](inf)
    to_pong, pong_inbox = create_memory_object_stream[Pong](inf)
    result = -1

    async def ping() -> None:
        nonlocal result
        with ping_inbox:
            async for event in ping_inbox:
                if event.n >= last:
                    result = event.n
                    to_ping.close()
                    to_pong.close()
                    return
                to_pong.send_nowait(Pong(event.n + 1))

    async def pong() -> None:
        with pong_inbox:
            async for event in pong_inbox:
                to_ping.send_nowait(Ping(event.n + 1))

    async with create_task_group() as tasks:
        tasks.start_soon(ping)
        tasks.start_soon(pong)
        to_ping.send_nowait(Go(0))
    return result


def chain(iterations: int) -> Sample:
    async def sample() -> int:
        return await loop(2 * iterations)

    return sample


def hello(n: int) -> Sample:
    async def sample() -> int:
        send, inbox = create_memory_object_stream[Go](inf)
        result = -1

        async def greet() -> None:
            nonlocal result
            with inbox:
                async for event in inbox:
                    result = event.n
                    send.close()
                    return

        async with create_task_group() as tasks:
            tasks.start_soon(greet)
            send.send_nowait(Go(n))
        return result

    return sample


def fan(n: int) -> Sample:
    async def sample() -> int:
        to_work, items = create_memory_object_stream[Item](inf)
        to_gather, done = create_memory_object_stream[Done](inf)
        result = -1

        async def work() -> None:
            async for item in items:
                to_gather.send_nowait(Done(2 * item.n))

        async def gather() -> None:
            nonlocal result
            gathered: list[Done] = []
            async for event in done:
                gathered.append(event)
                if len(gathered) == n:
                    break
            to_work.close()
            result = sum(event.n for event in gathered)

        with to_work, items, to_gather, done:
            async with create_task_group() as tasks:
                for _ in range(4):
                    tasks.start_soon(work)
                tasks.start_soon(gather)
                for i in range(n):
                    to_work.send_nowait(Item(i))
        return result

    return sample


def many(runs: int) -> Sample:
    async def sample() -> int:
        results: list[int] = []

        async def one() -> None:
            results.append(await loop(6))

        async with create_task_group() as tasks:
            for _ in range(runs):
                tasks.start_soon(one)
        return sum(results)

    return sample


def stream(n: int) -> Sample:
    async def sample() -> int:
        send, receive = create_memory_object_stream[Tick](inf)
        total = 0

        async def write() -> None:
            with send:
                for i in range(n):
                    send.send_nowait(Tick(i))
                    if i % STREAM_BATCH == STREAM_BATCH - 1:
                        await checkpoint()

        with receive:
            async with create_task_group() as tasks:
                tasks.start_soon(write)
                async for event in receive:
                    total += event.n
        return total

    return sample


async def idle(runs: int, waiting: Callable[[], None]) -> int:
    """A run that waits: its task, in which a task group is open, and the stream the answer comes by. No
    worker waits beside it, since no step has anything to do. (Each of the three costs kilobytes; a second
    task would be five more.)
    """
    inboxes = [create_memory_object_stream[Answer](inf) for _ in range(runs)]
    asked = total = 0

    async def one(index: int) -> None:
        nonlocal asked, total
        send, inbox = inboxes[index]
        with send, inbox:
            async with create_task_group():
                asked += 1
                event = await inbox.receive()
                total += event.n

    async with create_task_group() as tasks:
        for index in range(runs):
            tasks.start_soon(one, index)
        await settle(lambda: asked == runs)
        waiting()
        for send, _ in inboxes:
            send.send_nowait(Answer(1))
    return total


ROWS = {"chain": chain, "hello": hello, "fan": fan, "many": many, "stream": stream}
