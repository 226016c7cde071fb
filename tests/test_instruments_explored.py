"""On every schedule, and wherever a run is cancelled, crashes or is spoiled, instruments are told all of it, once."""

import gc
from collections.abc import Callable
from typing import Any

import pytest
from watched_flows import Approved, Checked, Question, Shop, make_shop

from flowkit.testing.mishaps import faults
from flowkit.testing.search import Disturbances, Search
from flowkit.testing.settings import Budget
from flowkit.testing.simulation import Problem, Simulation, Verdict

RUNS = 250


def searched(make: Callable[[], Shop], amiss: Callable[[Verdict], list[str]], backend: Any, **disturb: Any) -> Search:
    """A search through the runs of the shop; what was amiss in one is a finding, as is what they leave behind."""

    def check(verdict: Verdict) -> Problem | None:
        wrong = amiss(verdict)
        if wrong:
            return Problem("told wrong", "\n".join(wrong))
        is_ours = verdict.problem is not None and verdict.problem.kind in ("deadlock", "left-behind", "unhandled")
        return verdict.problem if is_ours else None  # what becomes of the shop's runs is its own concern

    def answer(question: Any) -> Approved | None:
        return Approved(question.n) if isinstance(question, Question) else None

    simulation = Simulation(make, {}, answer=answer, backend=backend)
    with simulation.opened():
        search = Search(simulation, check, budget=Budget(runs=RUNS), bound=1, disturb=Disturbances(**disturb))
        found = search.find()
    assert found is None or (found.scenario, found.problem.text) == (None, "")
    return search


@pytest.mark.parametrize("disturb", ["nothing", "cancel", "crash", "faults"])
def test_each_thing_is_told_once_and_in_order_whatever_happens(disturb: str, anyio_backend_name: str) -> None:
    made: list[Checked] = []
    complete = 0

    def make() -> Shop:
        made.append(Checked())
        return make_shop(made[-1])

    def amiss(verdict: Verdict) -> list[str]:
        nonlocal complete
        told, made[:] = made[:], []
        # What a process that has crashed tells in its clean-ups nobody could have been told; but nothing twice.
        wrong = [what for one in told[:-1] for what in one.wrong if "twice" in what]
        if told:
            wrong += told[-1].amiss()
            complete += bool(told[-1].told)
        return wrong

    options: dict[str, Any] = {disturb: True} if disturb in ("cancel", "crash") else {}
    if disturb == "faults":
        options["faults"] = faults(raises={"work": ValueError("spoiled"), "gather": ValueError("spoiled")}, delays=True)
    search = searched(make, amiss, anyio_backend_name, **options)
    assert search.coverage.runs > 50 and complete > 50
    gc.collect()
