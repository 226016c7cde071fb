"""`python -m benchmarks races`: how soon a planted race is found, and by what.

The races are those of tests/planted_bugs.py that need nothing but a schedule. The same workflow and the same property
go to all:

- plain asyncio and plain trio: run again and again, on the stock loop, only that its clock jumps (`flowkit.testing`'s
  virtual time): what running a test many times finds;
- simloom and simloop, where installed (both need Python 3.12): asyncio loops that run ready callbacks in an order drawn
  from a seed. simloom also by PCT, and systematically within two delays;
- flowkit: ``testing.explore`` with its default bound, on asyncio and on trio.

**Runs until found**: the median over the rounds, each with other seeds; flowkit's search and simloom's systematic one
have none, and take part in the first round only. A round in which nothing was found counts as the whole budget, and
"3/5" says how many found it where not all did. **Runs a second** is over all runs, those that found something included
(flowkit's without shrinking).

The second table is of false alarms: the same search in programs that are right (tests/correct_programs.py).

Everything is collected and frozen before each search, so that simloom, which collects garbage after each run, doesn't
pay for what others have imported.
"""

import argparse
import contextlib
import functools
import gc
import importlib
import logging
import sys
import warnings
from collections.abc import Awaitable, Callable, Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import attrs

from benchmarks.report import header, print_table, write_report

RESULTS = Path(__file__).parent / "results_races.json"
CORPUS = Path(__file__).parent.parent / "tests"

ORACLES_OWN = ("changed-event", "lost-event", "not-deterministic", "stalled")
"""Kinds of findings that a property can't make: they are flowkit's own business."""

THREADED = ("Tally", "Parsing")
"""Workflows with plain steps: in real threads nothing but the operating system decides the order."""


@attrs.frozen
class Searched:
    """One search: how many runs it took (all of the budget where nothing was found), what it found, and how long the
    runs took."""

    runs: int
    found: str | None = attrs.field(converter=lambda text: text and text.splitlines()[0][:120])
    seconds: float


@attrs.frozen
class Finder:
    """What looks for a race: ``search(row, budget, first_seed)``."""

    name: str
    search: Callable[[Any, int, int], Searched]
    seeded: bool = True
    simulates: bool = False
    """Whether it records by itself what the steps do outside."""


@attrs.define
class Cell:
    """A finder's searches for one race."""

    race: str
    finder: str
    searches: list[Searched] = attrs.field(factory=list[Searched])

    @property
    def found(self) -> int:
        return sum(one.found is not None for one in self.searches)

    @property
    def rate(self) -> float:
        return sum(one.runs for one in self.searches) / sum(one.seconds for one in self.searches)

    def __str__(self) -> str:
        if not self.searches:
            return ""
        rounds = len(self.searches)
        share = f" {self.found}/{rounds}" if 0 < self.found < rounds else ""
        runs = f"{median(one.runs for one in self.searches):,.0f}" if self.found else "-"
        return f"{runs}{share} ({self.rate:,.0f}/s)"


def main(arguments: Sequence[str]) -> None:
    options = parse(arguments)
    sys.path.insert(0, str(CORPUS))
    planted = importlib.import_module("planted_bugs").PLANTED.values()
    correct = importlib.import_module("correct_programs").CORRECT.values()
    # What the searches provoke is logged and warned of by the thousand.
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    races = [row for row in planted if is_race(row) and (not options.only or row.name in options.only)]
    taking_part = [one for one in finders() if not options.finder or one.name in options.finder]
    cells = [Cell(row.name, finder.name) for row in races for finder in taking_part]
    by_key = {(cell.race, cell.finder): cell for cell in cells}
    for nth in range(options.repeat):
        for row in races:
            for finder in rotated(taking_part, nth):
                if finder.seeded or nth == 0:
                    searched = calm(finder, row, options.budget, nth * options.budget)
                    by_key[row.name, finder.name].searches.append(searched)
            print(f"round {nth + 1}: {row.name}", file=sys.stderr)
    names = [finder.name for finder in taking_part]
    rows = [["", "depth", *names]]
    rows += [[row.bug, str(row.depth), *(str(by_key[row.name, name]) for name in names)] for row in races]
    rows.append(
        ["found", "", *(f"{sum(by_key[row.name, name].found > 0 for row in races)}/{len(races)}" for name in names)]
    )
    print_table(f"runs until found, of {options.budget:,} at most (runs a second)", rows)

    alarms: list[dict[str, Any]] = []
    if not options.only:
        alarms = false_alarms([row for row in correct if row.name not in THREADED], taking_part, options.alarms)
    report: dict[str, object] = {"races": list(map(attrs.asdict, cells)), "alarms": alarms}
    tools = {name: version(name) for name in ("simloom", "simloop") if find_spec(name)}
    write_report(options.json, header(vars(options)) | {"tools": tools} | report)
    print(f"\nwritten to {options.json}")


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks races", description=__doc__)
    add = parser.add_argument
    add("--quick", action="store_true", help="fewer rounds and runs: for a first look")
    add("--budget", type=int, metavar="N", help="runs a search may take (default: 1,000; 200 with --quick)")
    add("--alarms", type=int, metavar="N", help="the same in a correct program (default: 200; 50 with --quick)")
    add("--repeat", type=int, metavar="N", help="rounds (default: 5; 1 with --quick)")
    add("--only", action="append", metavar="WORKFLOW", help="a race, by its workflow; no false alarms then")
    add("--finder", action="append", metavar="NAME", help="e.g. 'plain trio'; may be given several times")
    add("--json", type=Path, default=RESULTS, metavar="FILE", help="default: %(default)s")
    options = parser.parse_args(arguments)
    options.budget = options.budget or (200 if options.quick else 1_000)
    options.alarms = options.alarms or (50 if options.quick else 200)
    options.repeat = options.repeat or (1 if options.quick else 5)
    return options


def is_race(row: Any) -> bool:
    """Whether a schedule is all that it takes, and a property sees it."""
    needs_more = row.faults or row.cancel or row.crash or row.oracle not in ("property", "schedule")
    return not needs_more and row.kind not in ORACLES_OWN and row.name not in THREADED


def rotated(those: Sequence[Finder], by: int) -> list[Finder]:
    by %= len(those)
    return [*those[by:], *those[:by]]


def calm(finder: Finder, row: Any, budget: int, first: int) -> Searched:
    """A search after which nothing of the one before is collected."""
    from plain_runs import recording  # type: ignore[import-not-found]  # in tests/

    gc.collect()
    gc.freeze()
    with contextlib.nullcontext() if finder.simulates else recording():
        return finder.search(row, budget, first)


def false_alarms(rows: Sequence[Any], taking_part: Sequence[Finder], budget: int) -> list[dict[str, Any]]:
    """What is found where there is nothing."""
    table = [["", "programs", "alarms", "runs", "the first"]]
    found: list[dict[str, Any]] = []
    for finder in taking_part:
        searches = {row.name: calm(finder, row, budget, 0) for row in rows}
        alarms = {name: one.found for name, one in searches.items() if one.found is not None}
        first = next((f"{name}: {what}" for name, what in alarms.items()), "")
        runs = sum(one.runs for one in searches.values())
        table.append([finder.name, str(len(rows)), str(len(alarms)), f"{runs:,}", first[:60]])
        found.append({"finder": finder.name, "programs": len(rows), "runs": runs, "alarms": alarms})
        print(f"false alarms: {finder.name}", file=sys.stderr)
    print_table(f"false alarms in correct programs, {budget:,} runs of each at most", table)
    return found


# ---------------------------------------------------------------------------------------------------------- the finders


def finders() -> list[Finder]:
    """Those that can be imported here."""
    found = [
        Finder("plain asyncio", functools.partial(plain, "asyncio")),
        Finder("plain trio", functools.partial(plain, "trio")),
    ]
    if find_spec("simloom"):
        found += [
            Finder("simloom", functools.partial(simloom, None)),
            Finder("simloom pct", functools.partial(simloom, "pct:d=3,k=300")),
            Finder("simloom systematic", simloom_systematic, seeded=False),
        ]
    if find_spec("simloop"):
        found.append(Finder("simloop", simloop))
    found += [
        Finder("flowkit, asyncio", functools.partial(flowkit, "asyncio"), seeded=False, simulates=True),
        Finder("flowkit, trio", functools.partial(flowkit, "trio"), seeded=False, simulates=True),
    ]
    return found


def plain(backend: str, row: Any, budget: int, first: int) -> Searched:
    from plain_runs import run_plainly

    began = perf_counter()
    for runs in range(1, budget + 1):
        problem = run_plainly(row.flow, row.start, row.check, row.answer, backend=backend)
        if problem is not None:
            return Searched(runs, problem, perf_counter() - began)
    return Searched(budget, None, perf_counter() - began)


def one_run(row: Any) -> Callable[[], Awaitable[None]]:
    """A run and its property, as one coroutine function: what simloom and simloop call a test."""
    from plain_runs import plain_run

    async def test() -> None:
        run = await plain_run(row.flow, row.start, row.answer)
        row.check(run, row.start)

    return test


def simloom(scheduler: str | None, row: Any, budget: int, first: int) -> Searched:
    import simloom  # type: ignore[import-not-found]

    began = perf_counter()
    found = simloom.explore(one_run(row), runs=budget, start_seed=first, scheduler=scheduler, world=False, **SPINNING)
    return Searched(found.runs, _first_failure(found.failures), perf_counter() - began)


def simloom_systematic(row: Any, budget: int, first: int) -> Searched:
    import simloom

    began = perf_counter()
    found = simloom.explore_systematic(one_run(row), max_delays=2, max_schedules=budget, world=False, **SPINNING)
    return Searched(found.schedules, _first_failure(found.failures), perf_counter() - began)


SPINNING: dict[str, Any] = {"max_steps_per_instant": 20_000}
"""simloom gives a run up as a livelock after so many callbacks in one instant, by default a million: half a minute."""


def _first_failure(failures: Sequence[Any]) -> str | None:
    return f"{failures[0].error}: {failures[0].message}" if failures else None


def simloop(row: Any, budget: int, first: int) -> Searched:
    import simloop  # type: ignore[import-not-found]

    began = perf_counter()
    found = simloop.explore(one_run(row), range(first, first + budget))
    seconds = perf_counter() - began
    if found is None:
        return Searched(budget, None, seconds)
    return Searched(found.seeds_passed + 1, f"{type(found.exception).__name__}: {found.exception}", seconds)


def flowkit(backend: str, row: Any, budget: int, first: int) -> Searched:
    """By schedules alone, as the others."""
    from flowkit import testing

    options: dict[str, Any] = {"budget": budget, "answer": row.answer, "backend": backend}
    began = perf_counter()
    try:
        testing.explore(row.flow, row.start, **options)(row.check)()
    except testing.Counterexample as found:
        share = found.runs / (found.runs + found.shrinking)
        return Searched(found.runs, f"{found.kind}", (perf_counter() - began) * share)
    return Searched(budget, None, perf_counter() - began)
