"""A search through the runs of watched_flows' shop, for a run in which something was amiss."""

from collections.abc import Callable
from typing import Any

from watched_flows import Approved, Question, Shop

from flowkit.testing.search import Disturbances, Search
from flowkit.testing.settings import Budget
from flowkit.testing.simulation import Problem, Simulation, Verdict

__all__ = ["searched"]

RUNS = 160


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
    assert found is None, f"{found.problem.kind}: {found.problem.text}, in {found.scenario}"
    return search
