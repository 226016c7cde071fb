"""Stored runs that aren't measured by the step: how soon one goes on again, what one costs that waits, and whether a
long one is slower than a short one.

**Resume** is from before the runtime is opened (opening the store, its checks, finding what is unfinished) to the first
line of the step that goes on. The run is a chain that was stopped after so many facts, its last step under way.

**Waiting** runs have asked a human. Memory is what Python allocated (as in footprint.py), with few runs, since
following allocations takes time; the times are of many runs, without it. Release is from when the runtime is told that
they have rested long enough until the last has left memory and been given up in the store. Then one at a time is sent
its answer: until it is stored that the run has it (the run is found, claimed, read and replayed for it).

**Flat**: one long chain; the time of its tenth thousand steps over that of its first.
"""

import gc
import math
import os
import tracemalloc
import uuid
from pathlib import Path
from statistics import median
from time import perf_counter

import anyio
import attrs

from benchmarks.measure import WrongAnswerError
from benchmarks.workloads import settle
from flowkit import Event, HumanResponseEvent, InputRequiredEvent, StartEvent, StopEvent, Workflow, log, step
from flowkit.memory_store import MemoryStore
from flowkit.runtime import Runtime, open_runtime
from flowkit.sqlite_store import SQLiteStore
from flowkit.store import Store


class Go(StartEvent):
    n: int


class Ping(Event):
    n: int


class Pong(Event):
    n: int


class Stopping(Workflow):
    """A chain that stays in its last step until it is allowed to end, and notes when it got there."""

    def __init__(self, last: int) -> None:
        super().__init__()
        self.last = last
        self.may_end = False
        self.arrived = math.nan

    @step
    async def ping(self, ev: Go | Ping) -> Pong | StopEvent:
        if ev.n < self.last:
            return Pong(n=ev.n + 1)
        self.arrived = perf_counter()
        if not self.may_end:
            await anyio.sleep_forever()
        return StopEvent(result=ev.n)

    @step
    async def pong(self, ev: Pong) -> Ping:
        return Ping(n=ev.n + 1)


async def resume(facts: int, folder: Path, rounds: int, *, snapshots: bool) -> list[float]:
    """Milliseconds until a run of so many facts goes on."""
    usual = log.SNAPSHOT_AFTER
    samples: list[float] = []
    for number in range(rounds):
        path = folder / f"{facts}-{snapshots}-{number}.db"
        flow = Stopping(facts // 2 * 2)
        store = SQLiteStore(path, synchronous="NORMAL")  # how it came to be there isn't measured
        try:
            if not snapshots:
                log.SNAPSHOT_AFTER = 10**9
            async with open_runtime(store=store, workflows=[flow]) as runtime:
                await runtime.run(flow, run_id="long", n=0)
                await settle(lambda flow=flow: not math.isnan(flow.arrived))
        finally:
            log.SNAPSHOT_AFTER = usual
        store.close()
        flow = Stopping(facts // 2 * 2)
        flow.may_end = True
        store = SQLiteStore(path)
        gc.collect()
        gc.freeze()
        started = perf_counter()
        async with open_runtime(store=store, workflows=[flow]) as runtime:
            result = await runtime.handler("long")
        gc.unfreeze()
        store.close()
        if result != flow.last:
            raise WrongAnswerError("resume", "flowkit", result, flow.last)
        samples.append((flow.arrived - started) * 1e3)
    return samples


class Ask(Workflow):
    @step
    async def ask(self, ev: StartEvent) -> InputRequiredEvent:
        return InputRequiredEvent(prefix="Go on?")

    @step
    async def answer(self, ev: HumanResponseEvent) -> StopEvent:
        return StopEvent(result=ev.response)


@attrs.frozen
class Waiting:
    runs: int
    kept: float
    """KB of a run that is in memory."""
    released: float
    """KB that are left of it when it isn't."""
    start: float
    """Microseconds per run."""
    release: float
    """Microseconds per run, all at once."""
    back: float
    """Milliseconds for one, the median."""
    bytes: float
    """On disk, per run."""


async def waiting(runs: int, traced: int, folder: Path) -> Waiting:
    kept, released, *_ = await _wait(traced, folder / "traced.db", traced=True)
    _, _, start, release, back, size = await _wait(runs, folder / "timed.db", traced=False)
    return Waiting(runs, kept, released, start, release, back, size)


async def _wait(runs: int, path: Path, *, traced: bool) -> tuple[float, float, float, float, float, float]:
    flow, store = Ask(), SQLiteStore(path)
    async with open_runtime(store=store, workflows=[flow], release_after=1e6, lease=3600.0) as runtime:
        names = [uuid.uuid4().hex for _ in range(runs)]
        await _start(runtime, flow, [uuid.uuid4().hex])
        if traced:
            tracemalloc.start()
        try:
            empty = _allocated()
            began = perf_counter()
            await _start(runtime, flow, names)
            await runtime.join()
            start = perf_counter() - began
            full = _allocated()
            began = perf_counter()
            await _release_all(runtime)
            release = perf_counter() - began
            left = _allocated()
        finally:
            tracemalloc.stop()
        times: list[float] = []
        for name in names[:: max(1, runs // 200)]:
            began = perf_counter()
            await runtime.send_event(name, HumanResponseEvent(response=1))
            times.append(perf_counter() - began)
            result = await runtime.handler(name)
            if result != 1:
                raise WrongAnswerError("waiting", "flowkit", result, 1)
    store.close()
    return (
        (full - empty) / runs / 1024,
        (left - empty) / runs / 1024,
        start / runs * 1e6,
        release / runs * 1e6,
        median(times) * 1e3,
        os.stat(path).st_size / runs,
    )


def _allocated() -> int:
    if not tracemalloc.is_tracing():
        return 0
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


async def _start(runtime: Runtime, flow: Workflow, names: list[str]) -> None:
    todo = iter(names)

    async def some() -> None:
        for name in todo:
            await runtime.run(flow, run_id=name)

    async with anyio.create_task_group() as tasks:
        for _ in range(50):
            tasks.start_soon(some)


async def _release_all(runtime: Runtime) -> None:
    """What happens when their time is over, now. There is no public word for it: nobody but a stopwatch needs one."""
    runtime._release_after = 1e-9
    runtime._wake.set()
    while runtime._runs:  # noqa: ASYNC110 - nothing tells when the last is gone
        await anyio.sleep(0.001)
    runtime._release_after = 1e6


class Counting(Stopping):
    """Notes when each thousand steps were over."""

    def __init__(self, last: int) -> None:
        super().__init__(last)
        self.may_end = True
        self.times: list[float] = []

    @step
    async def ping(self, ev: Go | Ping) -> Pong | StopEvent:
        if ev.n % 1000 == 0:
            self.times.append(perf_counter())
        if ev.n < self.last:
            return Pong(n=ev.n + 1)
        return StopEvent(result=ev.n)


async def flatness(folder: Path, rounds: int, *, in_memory: bool) -> list[tuple[float, float]]:
    """Steps per second in the first and in the tenth thousand."""
    samples: list[tuple[float, float]] = []
    for number in range(rounds):
        flow = Counting(10_000)
        store: Store = MemoryStore() if in_memory else SQLiteStore(folder / f"flat{number}.db")
        async with open_runtime(store=store, workflows=[flow]) as runtime:
            result = await (await runtime.run(flow, n=0))
        store.close()
        if result != flow.last:
            raise WrongAnswerError("flat", "flowkit", result, flow.last)
        took = [later - sooner for sooner, later in zip(flow.times, flow.times[1:], strict=False)]
        samples.append((1000 / took[0], 1000 / took[9]))
    return samples
