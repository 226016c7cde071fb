"""`python -m benchmarks durable`: what it costs to keep runs in a store.

The first part is steps per second, beside SQLite's own commits (the floor, on this disk at this hour) and beside other
engines, interleaved as in measure.py: each round takes one sample of every contender, in a folder of its own, beginning
one contender further on. A step is one delivery of an event, as everywhere here; what it costs includes its record, its
commit and its share of starting the run. The ratio is to the raw commits (one per record, whoever groups them): of the
medians, and the median of each round's own. The second part is in durable_runs.py.

The disk is the noisiest part of a machine. Read the ratios, and the load that is written beside them.
"""

import argparse
import gc
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import anyio
import attrs

from benchmarks import durable_peers
from benchmarks.durable_rows import RAW, SLOW_RAW, SLOW_STORES, STORES, Contender, size
from benchmarks.durable_runs import flatness, resume, waiting
from benchmarks.measure import WrongAnswerError, rotated
from benchmarks.report import header, print_table, write_report

RESULTS = Path(__file__).parent / "results_durable.json"
BACKENDS = ("asyncio", "trio")
PARTS = ("steps", "resume", "waiting", "flat")


@attrs.frozen
class Shape:
    """So many runs at once, of so many steps each; the peers and a slow disk have fewer, where steps cost the same."""

    name: str
    runs: int
    steps: int
    few: int
    slow: bool = False
    goal: int | None = None
    """Steps per second of flowkit's first row."""


FULL = [
    Shape("1 run", 1, 4001, 201, goal=5_000),
    Shape("50 runs", 50, 201, 21, goal=10_000),
    Shape("1 run, +1 ms", 1, 401, 401, slow=True),
    Shape("50 runs, +1 ms", 50, 101, 101, slow=True, goal=5_000),
]
QUICK = [attrs.evolve(shape, steps=shape.steps // 8 * 2 + 1, few=shape.few // 8 * 2 + 1) for shape in FULL]


@attrs.define
class Row:
    """A contender's samples in one shape: steps per second, and bytes per step."""

    shape: str
    contender: str
    peer: bool
    samples: list[float] = attrs.field(factory=list[float])
    bytes: list[float] = attrs.field(factory=list[float])

    @property
    def median(self) -> float:
        return median(self.samples)

    def by_round(self, floor: "Row") -> float:
        return median(mine / theirs for mine, theirs in zip(self.samples, floor.samples, strict=False))


def main(arguments: Sequence[str]) -> None:
    options = parse(arguments)
    load = os.getloadavg()
    sections: list[dict[str, Any]] = []
    for backend in BACKENDS if options.backend == "both" else (options.backend,):
        with tempfile.TemporaryDirectory(dir=options.folder, prefix="bench") as folder:
            sections.append(anyio.run(run, options, backend, Path(folder), backend=backend))
    after = os.getloadavg()
    print(f"\nload average {load[0]:.1f} before, {after[0]:.1f} after, on {os.cpu_count()} cpus")
    write_report(options.json, header(vars(options)) | {"load": [load, after], "sections": sections})
    print(f"written to {options.json}")


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks durable", description=__doc__)
    add = parser.add_argument
    add("--quick", action="store_true", help="fewer and smaller samples: for a first look")
    add("--backend", choices=(*BACKENDS, "both"), default="both")
    add("--only", action="append", choices=PARTS, help="a part; may be given several times")
    add("--json", type=Path, default=RESULTS, metavar="FILE", help="default: %(default)s")
    add("--peers", action=argparse.BooleanOptionalAction, default=True, help="measure those installed")
    add("--repeat", type=int, metavar="N", help="rounds (default: 7; 3 with --quick)")
    add("--folder", type=Path, metavar="DIR", help="where the files go: on the disk to be measured (default: TMPDIR)")
    options = parser.parse_args(arguments)
    options.only = options.only or list(PARTS)
    options.repeat = options.repeat or (3 if options.quick else 7)
    return options


async def run(options: argparse.Namespace, backend: str, folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = {"backend": backend}
    if "steps" in options.only:
        found["steps"] = await steps(options, backend, folder)
    if "resume" in options.only:
        found["resume"] = await resumes(options, backend, folder)
    if "waiting" in options.only:
        runs = 2_000 if options.quick else 100_000
        one = await waiting(runs, min(runs, 2_000), folder)
        found["waiting"] = attrs.asdict(one)
        rows = [["in memory", "released", "start", "release", "bring back", "on disk"]]
        rows.append([
            f"{one.kept:.1f} KB", f"{one.released:.2f} KB", f"{one.start:.0f} µs", f"{one.release:.0f} µs",
            f"{one.back:.2f} ms", f"{one.bytes:.0f} bytes",
        ])  # fmt: skip
        print_table(f"{runs:,} runs waiting for a human, {backend}, each", rows)
    if "flat" in options.only:
        found["flat"] = await flat(options, backend, folder)
    return found


# -------------------------------------------------------------------------------------------------- steps per second


async def steps(options: argparse.Namespace, backend: str, folder: Path) -> list[dict[str, Any]]:
    peers = durable_peers.installed() if options.peers and backend == "asyncio" else []
    rows: list[Row] = []
    table = [["", "", "steps/s", "x raw commits", "by round", "bytes/step", "goal", ""]]
    for shape in QUICK if options.quick else FULL:
        contenders = [*SLOW_RAW, *SLOW_STORES] if shape.slow else [*RAW, *STORES, *peers]
        began = perf_counter()
        measured = await measure(shape, contenders, folder, options.repeat)
        print(f"{shape.name}: {perf_counter() - began:.1f} s", file=sys.stderr)
        rows += measured
        for row in measured:
            goal = ["", ""]
            if shape.goal is not None and row.contender == "flowkit sync":
                goal = [f"≥ {shape.goal:,}", "met" if row.median >= shape.goal else "UNDER"]
            table.append([
                shape.name, row.contender, f"{row.median:,.0f}", f"{row.median / measured[0].median:.2f}",
                f"{row.by_round(measured[0]):.2f}", f"{median(row.bytes):.0f}" if any(row.bytes) else "-", *goal,
            ])  # fmt: skip
    print_table(f"steps per second, {backend}", table)
    return [attrs.asdict(row) | {"median": row.median} for row in rows]


async def measure(shape: Shape, contenders: Sequence[Contender], folder: Path, rounds: int) -> list[Row]:
    rows = [Row(shape.name, contender.name, contender.peer) for contender in contenders]
    for number in range(rounds):
        for index in rotated(range(len(contenders)), number):
            contender = contenders[index]
            if contender.peer and number >= 3:
                continue
            with tempfile.TemporaryDirectory(dir=folder) as own:
                rate, bytes_ = await sample(shape, contender, Path(own))
            rows[index].samples.append(rate)
            rows[index].bytes.append(bytes_)
    return rows


async def sample(shape: Shape, contender: Contender, folder: Path) -> tuple[float, float]:
    """Steps per second, and bytes per step."""
    length = shape.few if contender.peer else shape.steps
    async with contender.opened(folder) as go:
        await go(1, 21)
        gc.collect()
        gc.freeze()
        try:
            started = perf_counter()
            answer = await go(shape.runs, length)
            elapsed = perf_counter() - started
        finally:
            gc.unfreeze()
    if answer != shape.runs * (length - 1):
        raise WrongAnswerError(shape.name, contender.name, answer, shape.runs * (length - 1))
    done = shape.runs * length
    return done / elapsed, size(contender, folder) / (done + 21)


# -------------------------------------------------------------------------------------------------------- the others


async def resumes(options: argparse.Namespace, backend: str, folder: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    table = [["facts", "as it is", "goal", "", "without snapshots"]]
    for facts in (100, 1_000, 10_000):
        usual = await resume(facts, folder, options.repeat, snapshots=True)
        bare = await resume(facts, folder, min(3, options.repeat), snapshots=False)
        found.append({"facts": facts, "ms": usual, "ms_without_snapshots": bare})
        goal = ["< 100 ms", "met" if median(usual) < 100 else "OVER"] if facts == 10_000 else ["", ""]
        table.append([f"{facts:,}", f"{median(usual):.1f} ms", *goal, f"{median(bare):.1f} ms"])
    print_table(f"until a run goes on, {backend}", table)
    return found


async def flat(options: argparse.Namespace, backend: str, folder: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    table = [["", "1st thousand", "10th", "by round"]]
    for name, in_memory in (("in memory", True), ("on disk", False)):
        samples = await flatness(folder, options.repeat, in_memory=in_memory)
        ratio = median(last / first for first, last in samples)
        found.append({"store": name, "steps_per_second": samples, "ratio": ratio})
        first, last = (median(one[i] for one in samples) for i in (0, 1))
        table.append([name, f"{first:,.0f}/s", f"{last:,.0f}/s", f"{ratio:.2f}"])
    print_table(f"steps per second over a run's length, {backend}", table)
    return found
