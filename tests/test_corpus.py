"""What the harness finds: every planted bug, small enough to be read, and nothing in programs that are right."""

import functools
from collections.abc import Callable
from typing import Any

import pytest
from correct_programs import CORRECT, Correct
from plain_runs import run_plainly
from planted_bugs import PLANTED, Planted

from flowkit import testing
from flowkit.testing import Counterexample

BUDGET = 1_000
"""Runs: about what the default budget of two seconds is good for."""

QUICK = 40
"""Runs of each search in a correct program."""

LONG = 400
"""The same under ``-m crash``, where each program is looked at with every oracle: tens of thousands of runs in all."""

REPLAYS = 20

BEYOND = {
    "LongTransfers": "needs three deviations: delay bound 2 doesn't reach it, random schedules seldom do",
}
"""What the harness doesn't find yet, or not so small, and why."""

backends = pytest.mark.parametrize("backend", ["asyncio", "trio"])


def each(rows: dict[str, Any], expected_to_fail: dict[str, str] | None = None) -> Any:
    marks = {name: [pytest.mark.xfail(reason=why, strict=True)] for name, why in (expected_to_fail or {}).items()}
    return pytest.mark.parametrize(
        "row", [pytest.param(row, id=name, marks=marks.get(name, ())) for name, row in rows.items()]
    )


def search(row: Planted, backend: str) -> Callable[[], object]:
    """The search that is to find this bug."""
    match row.oracle:
        case "schedule":
            oracle = testing.assert_schedule_independent
        case "checkpoint":
            oracle = testing.assert_checkpoint_equivalence
        case "cancel":
            oracle = testing.assert_cancels_cleanly
        case _:
            return explored(row, backend, BUDGET, always=row.always)
    return functools.partial(oracle, row.flow, row.start, answer=row.answer, budget=BUDGET, backend=backend)


def explored(row: Planted | Correct, backend: str, budget: int, *, always: bool) -> Callable[[], object]:
    options: dict[str, Any] = {"cancel": row.cancel, "crash": row.crash, "answer": row.answer, "backend": backend}
    check = "all" if always else "results"
    return testing.explore(row.flow, row.start, budget=budget, faults=faults_of(row), check=check, **options)(row.check)


def faults_of(row: Planted | Correct) -> Any:
    return None if row.faults is None else testing.faults(**row.faults)


@each(PLANTED)
@backends
def test_a_plain_run_passes(row: Planted, backend: str) -> None:
    if row.name == "Tally":
        pytest.skip("its threads are the operating system's: it fails in most plain runs")
    for _ in range(5):
        assert run_plainly(row.flow, row.start, row.check, row.answer, backend=backend) is None


@each(PLANTED, BEYOND)
@backends
def test_a_planted_bug_is_found_and_made_small(row: Planted, backend: str) -> None:
    with pytest.raises(Counterexample) as caught:
        search(row, backend)()
    example = caught.value
    assert example.kind == row.kind
    assert example.scenario.size <= row.most
    expected = told(example.run)
    if row.kind == "not-deterministic":
        return  # that is what can't be replayed
    assert all(replayed(row, example.token) == expected for _ in range(REPLAYS))


def told(run: testing.Run) -> list[str]:
    """Everything about a run."""
    return [*map(str, run.trace), repr(run.error), repr(run.effects), repr(run.state)]


def replayed(row: Planted, token: str) -> list[str]:
    """What happens when a run is run again; its own backend is in the token."""
    try:
        return told(testing.simulate(row.flow, row.start, replay=token, answer=row.answer, faults=faults_of(row)))
    except Counterexample as again:
        return told(again.run)


@each(CORRECT)
@backends
def test_no_alarm_in_a_correct_program(row: Correct, backend: str) -> None:
    explored(row, backend, QUICK, always=True)()


@pytest.mark.crash
@each(CORRECT)
@backends
def test_no_alarm_in_a_correct_program_however_long_one_looks(row: Correct, backend: str) -> None:
    explored(row, backend, LONG, always=True)()
    options: dict[str, Any] = {"budget": LONG, "answer": row.answer, "backend": backend}
    for oracle in row.oracles:
        match oracle:
            case "schedule":
                testing.assert_schedule_independent(row.flow, row.start, **options)
            case "checkpoint":
                testing.assert_checkpoint_equivalence(row.flow, row.start, **options)
            case _:
                testing.assert_cancels_cleanly(row.flow, row.start, **options)
