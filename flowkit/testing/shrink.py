"""Making a counterexample small: as few disturbances and deviations as still show the same kind of problem.

First the disturbances go, one by one. Then the schedule: one without any deviation is tried, then, where that isn't
enough, each with a single one, which finds the smallest there is. Only where that fails, too, the deviations of the
schedule that was found are thinned out (Zeller, Hildebrandt, *Simplifying and isolating failure-inducing input*, TSE
2002), up to three of them are tried together, and, from three on, all schedules with two.
"""

from collections.abc import Callable, Iterable
from itertools import combinations, islice

import attrs

from flowkit.testing.scenario import Scenario
from flowkit.testing.search import Found

__all__ = ["MOST", "shrunk"]

MOST = 3_000
"""Runs that shrinking may take."""


def shrunk(found: Found, look: "Callable[[Scenario], Found | None]") -> tuple[Found, int]:
    """The smallest finding of the same kind that is found, and how many runs that took."""
    shrinking = _Shrinking(found, look)
    shrinking.drop_disturbances()
    shrinking.shrink_schedule()
    shrinking.drop_disturbances()
    return shrinking.best, shrinking.runs


class _Shrinking:
    def __init__(self, found: Found, look: "Callable[[Scenario], Found | None]") -> None:
        self.best = found
        self.runs = 0
        self._look = look
        self._tried: set[Scenario] = {found.scenario}

    def _takes(self, scenario: Scenario) -> bool:
        """Whether this one shows it, too: then it is the best so far."""
        if scenario in self._tried or self.runs >= MOST:
            return False
        self._tried.add(scenario)
        self.runs += 1
        found = self._look(scenario)
        if found is None or found.problem.kind != self.best.problem.kind:
            return False
        self.best = found
        return True

    def drop_disturbances(self) -> None:
        now = self.best.scenario
        if now.cancel is not None:
            self._takes(attrs.evolve(now, cancel=None))
        for life in reversed(range(len(now.crashes))):
            now = self.best.scenario
            self._takes(attrs.evolve(now, crashes=now.crashes[:life] + now.crashes[life + 1 :]))
        for fault in now.faults:
            now = self.best.scenario
            self._takes(attrs.evolve(now, faults=tuple(one for one in now.faults if one != fault)))
        for index, fault in enumerate(self.best.scenario.faults):
            if fault.kind in ("lose", "stall"):
                simpler = attrs.evolve(fault, kind="raise" if fault.kind == "lose" else "delay")
                faults = self.best.scenario.faults
                self._takes(attrs.evolve(self.best.scenario, faults=(*faults[:index], simpler, *faults[index + 1 :])))

    def shrink_schedule(self) -> None:
        plain = attrs.evolve(self.best.scenario, policy="block", seed=0, decisions=0, deviations=())
        if self.best.scenario == plain or self._takes(plain):
            return
        if self._first(attrs.evolve(plain, deviations=((at, 1),)) for at in range(self._decisions())):
            return
        if self.best.scenario.policy != "block":
            told = tuple(self.best.verdict.world.scheduler.deviations)
            if not self._takes(attrs.evolve(plain, deviations=told)):
                return  # a policy that can't be told by its deviations: it went on unfairly for too long
        self._thin_out(plain)
        self._pick_few(plain)
        if len(self.best.scenario.deviations) > 2:
            count = self._decisions()
            pairs = (((one, 1), (other, 1)) for other in range(count) for one in range(other))
            self._first(attrs.evolve(plain, deviations=pair) for pair in pairs)
        self._shorten()

    def _decisions(self) -> int:
        return self.best.verdict.world.scheduler.decisions

    def _first(self, scenarios: Iterable[Scenario]) -> bool:
        return any(self._takes(scenario) for scenario in scenarios)

    def _pick_few(self, plain: Scenario) -> None:
        """Up to three of the deviations that are left."""
        deviations = self.best.scenario.deviations
        few = (
            attrs.evolve(plain, deviations=chosen)
            for size in range(1, min(4, len(deviations)))
            for chosen in combinations(deviations, size)
        )
        self._first(islice(few, MOST // 4))

    def _thin_out(self, plain: Scenario) -> None:
        """Delta debugging: leave out ever smaller parts."""
        parts = 2
        while (deviations := self.best.scenario.deviations) and parts <= 2 * len(deviations):
            size = max(1, len(deviations) // parts)
            kept = [deviations[:start] + deviations[start + size :] for start in range(0, len(deviations), size)]
            if self._first(attrs.evolve(plain, deviations=one) for one in kept if one):
                parts = max(2, parts - 1)
            elif size == 1:
                return
            else:
                parts *= 2

    def _shorten(self) -> None:
        """Each deviation by as few places as will do."""
        for index in range(len(self.best.scenario.deviations)):
            deviations = self.best.scenario.deviations
            at, shift = deviations[index]
            fewer = ((*deviations[:index], (at, less), *deviations[index + 1 :]) for less in range(1, shift))
            self._first(attrs.evolve(self.best.scenario, deviations=one) for one in fewer)
