"""A counterexample as a person reads it: what is wrong, with what, when; what would have been right; how to see it
again."""

import textwrap
import traceback
from collections.abc import Sequence

import attrs

from flowkit.errors import shown
from flowkit.testing.scenario import Scenario
from flowkit.testing.search import Coverage, Found, counted
from flowkit.testing.simulation import Problem, Simulation
from flowkit.testing.trace import Row, TracingScheduler, rows_of

__all__ = ["described", "report"]

WIDEST = 110
LONGEST = 60
"""Lines of a timeline; of a longer one the middle is left out."""


def report(
    simulation: Simulation,
    found: Found,
    coverage: Coverage,
    *,
    shrinking: int,
    passing: Scenario | None,
    elsewhere: str,
    token: str,
) -> str:
    """The report on a finding, after it was shrunk."""
    scenario = found.scenario
    traced = TracingScheduler(scenario.make_policy())
    world = simulation.run(scenario, traced).world
    name = simulation.plan.name
    lines = [f"{name}: {_headline(found.problem)}", ""]
    lines += [f"  start     {shown(simulation.start, 400)}"]
    lines += [f"  schedule  {_schedule(scenario)}"]
    lines += [f"  fault     {fault}" for fault in scenario.faults]
    lines += [f"  cancel    {scenario.cancel}"] if scenario.cancel is not None else []
    lines += [f"  crash     {label}" for label in _crashes(world.record)]
    lines += ["", *_timeline(list(rows_of(world, traced)))]
    lines += ["", *_indented(found.problem.text)]
    if passing is not None:
        lines += ["", f"  It passes {_contrast(scenario, passing)}."]
    lines += [
        "",
        f"  found on {simulation.backend} after {counted(coverage.runs, 'run')}, made small in {shrinking:,} more"
        + (f"; {elsewhere}" if elsewhere else ""),
        *([f"  exhausted before: {', '.join(coverage.exhausted)}"] if coverage.exhausted else []),
        "  see it again: pytest --flowkit-replay=TOKEN, or testing.simulate(flow, start, replay=TOKEN); the token is",
        f"  {token}",
    ]
    return "\n".join(line.rstrip() for line in lines)


def described(scenario: Scenario) -> str:
    """A scenario in a few words."""
    parts = [_schedule(scenario), *(str(fault) for fault in scenario.faults)]
    parts += [str(scenario.cancel)] if scenario.cancel is not None else []
    parts += [f"a crash at point {point}" for point in scenario.crashes]
    return ", ".join(parts)


def _headline(problem: Problem) -> str:
    first = problem.text.strip().splitlines()[0] if problem.text.strip() else ""
    return f"{problem.kind}: {shown_line(first)}"


def shown_line(text: str) -> str:
    """A text in one line that fits."""
    return text if len(text) <= WIDEST else text[: WIDEST - 1] + "…"


def _schedule(scenario: Scenario) -> str:
    match scenario.policy:
        case "block":
            count = len(scenario.deviations)
            if not count:
                return "each task runs until it has to wait, the one that has been ready for longest next"
            switches = "one switch" if count == 1 else f"{count} switches"
            return f"each task runs until it has to wait, but for {switches} (⇄)"
        case "fifo":
            return "first come, first served"
        case policy:
            return f"random ({policy}, seed {scenario.seed})"


def _crashes(record: Sequence[tuple[float, int, int, str, object]]) -> list[str]:
    return [f"{time:g} s: {detail}" for time, _, _, kind, detail in record if kind == "crash"]


def _timeline(rows: Sequence[tuple[Row, str, list[str]]]) -> list[str]:
    width = max([8, *(len(row.place) for row, _, _ in rows)])
    lines = [f"  time       {'task':<16}  {'then waits at':<{width}}  what it did"]
    shown_rows: list[str] = []
    for row, name, did in rows:
        mark = "⇄" if row.instead_of is not None else " "
        first, *more = textwrap.wrap("; ".join(did), 60) or [""]
        shown_rows.append(f"  {row.time:<8g} {mark} {name:<16.16}  {row.place:<{width}}  {first}")
        shown_rows += [f"{'':33}{'':{width}}{line}" for line in more]
    if len(shown_rows) > LONGEST:
        left_out = len(shown_rows) - LONGEST
        shown_rows = [*shown_rows[: LONGEST // 2], f"  … {left_out} lines …", *shown_rows[-LONGEST // 2 :]]
    return lines + shown_rows


def _contrast(scenario: Scenario, passing: Scenario) -> str:
    if passing.deviations != scenario.deviations:
        if not passing.deviations and len(scenario.deviations) == 1:
            return "without the switch"
        return f"with {len(passing.deviations)} of the switches"
    if passing.policy != scenario.policy:
        return "where each task runs until it has to wait"
    if passing.faults != scenario.faults:
        return "without " + ("the fault" if len(scenario.faults) == 1 else "one of the faults")
    if passing.crashes != scenario.crashes:
        return "without the crash"
    return "when it isn't cancelled"


def neighbours(scenario: Scenario) -> list[Scenario]:
    """Scenarios that differ in one thing less."""
    found: list[Scenario] = []
    deviations = scenario.deviations
    found += [
        attrs.evolve(scenario, deviations=deviations[:index] + deviations[index + 1 :])
        for index in reversed(range(len(deviations)))
    ]
    if scenario.policy != "block":
        found.append(attrs.evolve(scenario, policy="block", seed=0, decisions=0))
    faults = scenario.faults
    found += [attrs.evolve(scenario, faults=faults[:index] + faults[index + 1 :]) for index in range(len(faults))]
    if scenario.crashes:
        found.append(attrs.evolve(scenario, crashes=()))
    if scenario.cancel is not None:
        found.append(attrs.evolve(scenario, cancel=None))
    return found


def _indented(text: str) -> list[str]:
    return ["  " + line for line in text.strip().splitlines()]


def failure_text(error: BaseException) -> str:
    """A property's failure, with the author's lines that led to it."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [f"{type(error).__name__}: {error}".rstrip(": ")]
    if frames:
        last = frames[-1]
        lines += [f"{last.filename.rpartition('/')[2]}:{last.lineno} in {last.name}:  {last.line}"]
    return "\n".join(lines)
