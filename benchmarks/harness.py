"""`python -m benchmarks harness`: what a simulated run costs, against the goals of the harness.

Everything is measured in one process, in turn (see measure.py for why), and told as medians and ratios. What is
compared:

- *program*: a task group of five tasks that sleep, wait and set events. Under the kernels, set-up and tear-down
  included, against ``trio.run`` with its `MockClock` and ``asyncio.run``.
- *workflow*: a run of five steps with a fan-out: by itself in a kernel, and in a whole simulation (its world, its
  record, the free checks), the difference being what the harness adds.
- *search*: how many runs a second `assert_schedule_independent` makes of that workflow.
- *bound 1*: the time to exhaust delay bound 1 of a workflow with about 40 decisions.
- *same choices, same run*: random schedules run twice; how many gave the same trace.
"""

import argparse
import asyncio
import json
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import anyio
import trio
import trio.testing

from flowkit import Event, StartEvent, StopEvent, Workflow, step
from flowkit.testing import assert_schedule_independent
from flowkit.testing.asyncio_kernel import AsyncioKernel
from flowkit.testing.kernel import Kernel
from flowkit.testing.scenario import Backend, Scenario
from flowkit.testing.scheduling import Fifo, Scheduler
from flowkit.testing.search import Search
from flowkit.testing.settings import Budget
from flowkit.testing.simulation import Simulation
from flowkit.testing.trio_kernel import TrioKernel

RESULTS = Path(__file__).parent / "results_harness.json"
KERNELS: dict[Backend, type[Kernel]] = {"asyncio": AsyncioKernel, "trio": TrioKernel}


async def program() -> int:
    event = anyio.Event()

    async def task(number: int) -> None:
        await anyio.lowlevel.checkpoint()
        await anyio.sleep(number)
        if number == 3:
            event.set()
        await event.wait()

    async with anyio.create_task_group() as group:
        for number in range(5):
            group.start_soon(task, number)
    return 7


class Part(Event):
    number: int


class Done(Event):
    number: int


class Fan(Workflow):
    width = 3

    @step
    async def begin(self, ev: StartEvent) -> list[Part]:
        return [Part(number=number) for number in range(self.width)]

    @step
    async def work(self, ev: Part) -> Done:
        await anyio.lowlevel.checkpoint()
        return Done(number=ev.number * 2)

    @step
    async def end(self, evs: list[Done]) -> StopEvent:
        return StopEvent(result=sum(ev.number for ev in evs))


class Wide(Fan):
    """About forty decisions."""

    width = 22


def in_kernel(backend: Backend, main: Callable[[], Any]) -> Any:
    kernel = KERNELS[backend](Scheduler(Fifo()))
    try:
        return kernel.run(main)
    finally:
        kernel.close()


def bare_trio(main: Callable[[], Any]) -> Any:
    return trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


async def fan() -> Any:
    return await Fan().run()


def seconds(call: Callable[[], Any], times: int) -> float:
    began = perf_counter()
    for _ in range(times):
        call()
    return (perf_counter() - began) / times


def compared(calls: dict[str, Callable[[], Any]], times: int, rounds: int) -> dict[str, float]:
    """Median seconds of a call of each, measured in turn."""
    samples: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        _ = seconds(call, 3)
    for number in range(rounds):
        names = list(calls)
        for name in names[number % len(names) :] + names[: number % len(names)]:
            samples[name].append(seconds(calls[name], times))
    return {name: median(taken) for name, taken in samples.items()}


def exhausting(backend: Backend, rounds: int) -> tuple[float, int]:
    """Seconds to exhaust delay bound 1 of a workflow of about 40 decisions, and how many it has."""
    taken: list[float] = []
    simulation = Simulation(Wide, {}, backend=backend)
    with simulation.opened():
        decisions = simulation.run(Scenario()).world.scheduler.decisions
        for _ in range(rounds):
            budget = Budget(runs=decisions + 3)  # and run-to-block, twice, and first come first served
            search = Search(simulation, lambda verdict: verdict.problem, budget=budget, bound=1)
            assert search.find() is None
            assert any(one.startswith("delay bound 1") for one in search.coverage.exhausted), search.coverage
            taken.append(search.coverage.seconds)
    return median(taken), decisions


def repeated(backend: Backend, seeds: int) -> int:
    """How many of so many random schedules gave the same run twice."""
    simulation = Simulation(Fan, {}, backend=backend)
    same = 0
    with simulation.opened():
        for seed in range(seeds):
            first, second = (simulation.run(Scenario(policy="walk", seed=seed)).world for _ in range(2))
            same += repr(first.record) == repr(second.record) and first.scheduler.order == second.scheduler.order
    return same


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks harness", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer samples")
    parser.add_argument("--json", type=Path, default=RESULTS, metavar="FILE", help="default: %(default)s")
    options = parser.parse_args(sys.argv[2:] if arguments is None else arguments)
    times, rounds, seeds = (20, 5, 200) if options.quick else (100, 11, 1_000)

    simulations = {backend: Simulation(Fan, {}, backend=backend) for backend in KERNELS}
    with simulations["asyncio"].opened(), simulations["trio"].opened():
        took = compared(
            {
                "program, trio.run": partial(bare_trio, program),
                "program, asyncio.run": lambda: asyncio.run(no_sleep()),
                "program, trio kernel": partial(in_kernel, "trio", program),
                "program, asyncio kernel": partial(in_kernel, "asyncio", program),
                "workflow, trio.run": partial(bare_trio, fan),
                "workflow, asyncio.run": lambda: asyncio.run(fan()),
                "workflow, trio kernel": partial(in_kernel, "trio", fan),
                "workflow, asyncio kernel": partial(in_kernel, "asyncio", fan),
                "workflow, trio simulation": partial(simulations["trio"].run, Scenario(policy="fifo")),
                "workflow, asyncio simulation": partial(simulations["asyncio"].run, Scenario(policy="fifo")),
            },
            times,
            rounds,
        )
    rows: list[tuple[str, str, str]] = [(f"{name}, µs", f"{one * 1e6:.0f}", "") for name, one in took.items()]

    def ratio(name: str, one: str, other: str, goal: str) -> None:
        rows.append((name, f"{took[one] / took[other]:.2f}", goal))

    ratio("asyncio kernel / bare trio", "program, asyncio kernel", "program, trio.run", "≤ 0.65")
    ratio("trio kernel / bare trio", "program, trio kernel", "program, trio.run", "≤ 1.25")
    ratio("simulation / kernel, asyncio", "workflow, asyncio simulation", "workflow, asyncio kernel", "≤ 1.10")
    ratio("simulation / kernel, trio", "workflow, trio simulation", "workflow, trio kernel", "≤ 1.10")
    for backend in KERNELS:
        searches = [assert_schedule_independent(Fan, {}, budget=10 * times, backend=backend) for _ in range(rounds)]
        rate = median(coverage.runs / coverage.seconds for coverage in searches)
        rows.append((f"runs a second in a search, {backend}", f"{rate:.0f}", "≥ 1,000"))
        exhausted, decisions = exhausting(backend, rounds)
        rows.append((f"bound 1 of {decisions} decisions, {backend}, ms", f"{exhausted * 1e3:.0f}", "≤ 50"))
        rows.append((f"same run twice, {backend}", f"{repeated(backend, seeds)} of {seeds}", "all"))
    for name, value, goal in rows:
        print(f"{name:45} {value:>14}   {goal}")
    options.json.write_text(json.dumps([list(row) for row in rows], indent=1, ensure_ascii=False) + "\n")
    print(f"\nwritten to {options.json}")


async def no_sleep() -> int:
    """The program without its sleeps, which are real here."""
    event = anyio.Event()

    async def task(number: int) -> None:
        await anyio.lowlevel.checkpoint()
        await anyio.lowlevel.checkpoint()
        if number == 3:
            event.set()
        await event.wait()

    async with anyio.create_task_group() as group:
        for number in range(5):
            group.start_soon(task, number)
    return 7
