"""`python -m benchmarks`: measures, prints the table, writes the JSON. Run it on an otherwise idle machine.
`python -m benchmarks durable` measures what it costs to keep runs in a store (durable.py), `python -m benchmarks races`
how soon planted races are found (races.py), `python -m benchmarks harness` what a simulated run costs (harness.py).

Each backend gets one event loop, in which each workload's contestants are measured against each other (see
measure.py); then the memory of waiting runs, whose bookkeeping would slow down everything else, and last the
imports.
"""

import argparse
import cProfile
import pstats
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from time import perf_counter

import anyio

from benchmarks import durable, floor, flowkit_rows, peers
from benchmarks.footprint import idle_memory, import_times
from benchmarks.measure import Result, measure
from benchmarks.report import Section, print_footprint, print_section, write_json
from benchmarks.workloads import FULL, IDLE_GOAL, IMPORT_GOAL, QUICK, Engine, Workload

BACKENDS = ("asyncio", "trio")
RESULTS = Path(__file__).parent / "results.json"

FLOOR = Engine("floor", floor.ROWS, imports="anyio, attrs", idle=floor.idle)
FLOWKIT = Engine("flowkit", flowkit_rows.ROWS, imports="flowkit.workflow, flowkit.steps", idle=flowkit_rows.idle)
FLOWKIT_LIST = Engine("flowkit", flowkit_rows.LIST_ROWS, variant="list")


def main(arguments: Sequence[str] | None = None) -> None:
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] == ["durable"]:
        durable.main(arguments[1:])
        return
    if arguments[:1] == ["races"]:
        from benchmarks import races

        races.main(arguments[1:])
        return
    if arguments[:1] == ["harness"]:
        from benchmarks import harness  # these two need the extra `testing`

        harness.main(arguments[1:])
        return
    options = parse(arguments)
    workloads = QUICK if options.quick else FULL
    backends = BACKENDS if options.backend == "both" else (options.backend,)
    if options.profile is not None:
        for backend in backends:
            anyio.run(profile, options.profile, workloads, backend=backend)
        return
    engines = [FLOOR, FLOWKIT, FLOWKIT_LIST, *(peers.installed() if options.peers else [])]
    rounds = options.repeat or (5 if options.quick else 7)
    sections = run(engines, [w for w in workloads if wanted(w.name, options.only)], backends, rounds)
    if wanted("idle", options.only):
        sections += run_idle(engines, backends, runs=300 if options.quick else 2_000)
    if wanted("import", options.only):
        imports = Section("import, fresh interpreter", None, import_times(engines, rounds))
        print_footprint(imports, IMPORT_GOAL)
        sections.append(imports)
    write_json(options.json, vars(options), sections)
    print(f"\nwritten to {options.json}")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    add = parser.add_argument
    add("--quick", action="store_true", help="fewer and smaller samples: for a first look")
    add("--backend", choices=(*BACKENDS, "both"), default="both")
    add("--only", action="append", metavar="NAME", help="a workload (chain, fan, 'fan 100', idle, import)")
    add("--json", type=Path, default=RESULTS, metavar="FILE", help="default: %(default)s")
    add("--peers", action=argparse.BooleanOptionalAction, default=True, help="measure those installed")
    add("--repeat", type=int, metavar="N", help="rounds (default: 7; 5 with --quick)")
    rows = sorted({workload.row for workload in FULL} | {"fan-list"})
    add("--profile", choices=rows, help="run one flowkit row under cProfile instead")
    options = parser.parse_args(arguments)

    names = [workload.name for workload in (QUICK if options.quick else FULL)] + ["idle", "import"]
    for name in options.only or ():
        if not any(wanted(workload, [name]) for workload in names):
            parser.error(f"--only {name!r}: no such workload; there are {', '.join(names)}")
    if options.repeat is not None and options.repeat < 1:
        parser.error(f"--repeat {options.repeat}: at least one round is needed")
    return options


def wanted(name: str, only: Sequence[str] | None) -> bool:
    """`--only fan` means every size of it, `--only 'fan 100'` just that."""
    return only is None or name in only or name.split()[0] in only


def run(
    engines: Sequence[Engine], workloads: Sequence[Workload], backends: Sequence[str], rounds: int
) -> list[Section]:
    sections: list[Section] = []
    for backend in backends if workloads else ():
        taking_part = on_backend(engines, backend)
        results = anyio.run(measure_all, taking_part, workloads, rounds, backend=backend)
        sections.append(Section(f"{backend}, µs", backend, results, list(workloads)))
        print_section(sections[-1])
    return sections


def on_backend(engines: Sequence[Engine], backend: str) -> list[Engine]:
    """The peers are asyncio programs: on trio there is only the floor to compare with."""
    return [engine for engine in engines if backend == "asyncio" or not engine.peer]


async def measure_all(engines: Sequence[Engine], workloads: Sequence[Workload], rounds: int) -> list[Result]:
    results: list[Result] = []
    for workload in workloads:
        started = perf_counter()
        cases = [workload.case(engine, rounds) for engine in engines]
        results += await measure([case for case in cases if case is not None])
        print(f"{workload.name}: {perf_counter() - started:.1f} s", file=sys.stderr)
    return results


def run_idle(engines: Sequence[Engine], backends: Sequence[str], runs: int) -> list[Section]:
    sections: list[Section] = []
    for backend in backends:
        able = [engine for engine in on_backend(engines, backend) if engine.idle is not None]
        results = [anyio.run(partial(idle_memory, engine, runs), backend=backend) for engine in able]
        sections.append(Section(f"idle, {backend}: {runs:,} runs waiting for a human", backend, results))
        print_footprint(sections[-1], IDLE_GOAL)
    return sections


async def profile(row: str, workloads: Sequence[Workload]) -> None:
    """The flowkit row at its largest size not over 10,000, and where the time went. The profiler multiplies
    the cost of calls, so compare its rows with each other, not with the table."""
    engine = FLOWKIT_LIST if row == "fan-list" else FLOWKIT
    sized = [w for w in workloads if w.row == row.removesuffix("-list") and w.size <= 10_000]
    case = sized[-1].case(engine, rounds=1)
    assert case is not None
    await case.warm_up()
    profiler = cProfile.Profile()
    profiler.enable()
    for _ in range(case.calls):
        await case.sample()
    profiler.disable()
    pstats.Stats(profiler).sort_stats("tottime").print_stats(30)


if __name__ == "__main__":
    main()
