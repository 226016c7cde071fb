"""The table for people and the JSON for machines, both of the same results."""

import json
import os
import platform
import sqlite3
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import attrs

from benchmarks.measure import Result
from benchmarks.workloads import Workload

PACKAGES = ("flowkit", "anyio", "trio", "attrs", "cattrs")
PEER_PACKAGES = (
    "llama-index-workflows",
    "langgraph",
    "langgraph-checkpoint-sqlite",
    "pydantic-graph",
    "burr",
    "dbos",
)


@attrs.frozen
class Section:
    """One backend's results, or those that don't depend on a backend."""

    title: str
    backend: str | None
    results: list[Result]
    workloads: list[Workload] = attrs.field(factory=list[Workload])

    def find(self, workload: str, engine: str, variant: str = "") -> Result | None:
        for result in self.results:
            if (result.workload, result.engine, result.variant) == (workload, engine, variant):
                return result
        return None

    def variants(self, workload: str) -> list[str]:
        return sorted({result.variant for result in self.results if result.workload == workload})

    def engines(self) -> list[str]:
        return list(dict.fromkeys(result.engine for result in self.results))


def print_section(section: Section) -> None:
    peers = [name for name in section.engines() if name not in ("floor", "flowkit")]
    rows = [["", "per", "floor", "flowkit", "x floor", "by round", "goal", "", *peers]]
    for workload in section.workloads:
        for variant in section.variants(workload.name):
            rows.append(timing_row(section, workload, variant, peers))
    rows.extend(flatness_rows(section, peers))
    print_table(section.title, rows)


def timing_row(section: Section, workload: Workload, variant: str, peers: Sequence[str]) -> list[str]:
    floor = section.find(workload.name, "floor")
    own = section.find(workload.name, "flowkit", variant)
    row = [f"{workload.name} {variant}".rstrip(), workload.unit, figure(floor), figure(own)]
    if own is None or floor is None:
        row += ["", "", "", ""]
    else:
        ratio = own.ratio(floor)
        row += [f"{ratio:.2f}", f"{own.ratio_by_round(floor):.2f}", f"≤ {workload.goal:g}"]
        row.append("met" if ratio <= workload.goal else "OVER")
    for peer in peers:
        result = section.find(workload.name, peer, variant)
        cell = figure(result)
        if result is not None and floor is not None:
            cell += f" ({result.ratio(floor):.0f}x)"
        row.append(cell)
    return row


def flatness_rows(section: Section, peers: Sequence[str]) -> list[list[str]]:
    """The cost per item of the largest fan over that of the smallest: 1 is flat, and below 1 only tells of
    fixed costs."""
    fans = [workload for workload in section.workloads if workload.row == "fan"]
    if len(fans) < 2:
        return []
    small, large = fans[0], fans[-1]
    title = f"fan {large.size}/{small.size}"
    rows: list[list[str]] = []
    for variant in section.variants(small.name):
        cells: list[str] = []
        for engine in ("floor", "flowkit", *peers):
            first, last = (section.find(fan.name, engine, variant) for fan in (small, large))
            cells.append(f"{last.ratio(first):.2f}" if first is not None and last is not None else "-")
        rows.append([f"{title} {variant}".rstrip(), "ratio", *cells[:2], "", "", "", "", *cells[2:]])
    return rows


def print_footprint(section: Section, goal: float) -> None:
    """A section whose rows are contestants and whose goal is a figure, not a ratio."""
    rows = [["", section.results[0].unit, "goal", ""]]
    for result in section.results:
        own = result.engine == "flowkit"
        met = ("met" if result.median <= goal else "OVER") if own else ""
        rows.append([result.engine, figure(result), f"≤ {goal:g}" if own else "", met])
    print_table(section.title, rows)


def figure(result: Result | None) -> str:
    if result is None:
        return "-"
    return f"{result.median:.2f}" if result.median < 100 else f"{result.median:.0f}"


def print_table(title: str, rows: Sequence[Sequence[str]]) -> None:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    print(f"\n{title}")
    for first, *rest in rows:
        cells = [cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True)]
        print("  " + "  ".join([first.ljust(widths[0]), *cells]).rstrip())


def write_json(path: Path, options: dict[str, object], sections: Sequence[Section]) -> None:
    write_report(path, header(options) | {"sections": [as_json(section) for section in sections]})


def header(options: dict[str, object]) -> dict[str, object]:
    """Where and when it was measured, and how."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "implementation": sys.implementation.name,
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "sqlite": sqlite3.sqlite_version,
        "versions": versions(),
        "gc": "enabled; collected and frozen before each sample",
        "options": options,
    }


def write_report(path: Path, report: dict[str, object]) -> None:
    path.write_text(json.dumps(report, indent=1, ensure_ascii=False, default=str) + "\n")


def as_json(section: Section) -> dict[str, object]:
    rows: list[dict[str, object]] = []
    for result in section.results:
        row: dict[str, object] = attrs.asdict(result) | {"median": result.median}
        floor = section.find(result.workload, "floor")
        if floor is not None:
            row["ratio_to_floor"] = result.ratio(floor)
            row["ratio_to_floor_by_round"] = result.ratio_by_round(floor)
        rows.append(row)
    return {"title": section.title, "backend": section.backend, "results": rows}


def versions() -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for package in PACKAGES + PEER_PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found
