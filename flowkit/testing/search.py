"""Looking for a run in which something is wrong.

**The order**: run to block (twice: the same scenario must give the same run: determinism.py), then first come first
served; every schedule that deviates once; every single fault, cancellation and crash; every schedule that deviates
twice (as far as the bound says, and half the remaining budget lasts), and then a mix of random schedules and
disturbances until the budget is used up. The first are few and find most; no random policy is the best everywhere, so
they take turns.

**Deviating.** Schedules within a bound are told by their deviations from run to block (scheduling.py): at one decision
the task that is next in line goes on instead. A deviation by two places, or two deviations, are of bound 2.

**What has been looked at** is said by `Coverage`: what was exhausted, so that there is nothing left in it, and how much
was only sampled.
"""

import time
from collections.abc import Callable, Generator, Iterator
from random import Random

import attrs

from flowkit.testing.determinism import NOT_DETERMINISTIC, difference, not_again
from flowkit.testing.mishaps import Faults
from flowkit.testing.scenario import Backend, Cancel, Fault, PolicyName, Scenario
from flowkit.testing.settings import Budget
from flowkit.testing.simulation import Problem, Simulation, Verdict

__all__ = ["Check", "Coverage", "Disturbances", "Found", "Search", "counted"]

Check = Callable[[Verdict], "Problem | None"]
"""What is wrong with a run."""


@attrs.frozen
class Disturbances:
    """What is done to runs besides scheduling them."""

    faults: Faults | None = None
    cancel: bool = False
    crash: bool = False

    def sites(self, simulation: Simulation, base: Verdict) -> list[tuple[str, list[Scenario]]]:
        """Each single disturbance of a run like this one, by what is exhausted with them."""
        found: list[tuple[str, list[Scenario]]] = []
        if self.faults is not None:
            sites = self.faults.sites(simulation.plan, base.world)
            found.append(("fault", [Scenario(faults=(one,)) for one in sites]))
        if self.cancel:
            steps = range(base.world.scheduler.steps)
            found.append(("cancellation point", [Scenario(cancel=Cancel(step)) for step in steps]))
            found.append(("cancel_run() point", [Scenario(cancel=Cancel(step, "run")) for step in steps]))
        if self.crash:
            found.append(("crash point", [Scenario(crashes=(one,)) for one in range(len(base.world.points))]))
        return found

    def following(self, simulation: Simulation, base: Verdict, verdict: Verdict) -> list[Scenario]:
        """A fault brings calls that there were none of before, of a fallback or a further attempt: each of them may be
        spoiled, too."""
        if self.faults is None:
            return []
        before = {(one.step, one.call) for one in self.faults.sites(simulation.plan, base.world)}
        now = self.faults.sites(simulation.plan, verdict.world)
        first = verdict.run.scenario.faults
        return [Scenario(faults=(*first, one)) for one in now if (one.step, one.call) not in before]


@attrs.define
class Coverage:
    """What has been looked at."""

    exhausted: list[str] = attrs.field(factory=list[str])
    sampled: int = 0
    runs: int = 0
    seconds: float = 0.0

    def __str__(self) -> str:
        exhausted = ", ".join(self.exhausted) or "nothing"
        rate = f", {self.runs / self.seconds:,.0f} runs a second" if self.seconds > 0.05 else ""
        return f"exhausted: {exhausted}; sampled: {self.sampled:,}{rate}"


@attrs.frozen
class Found:
    """A run that something is wrong with."""

    scenario: Scenario
    verdict: Verdict
    problem: Problem


class Search:
    """A search in the runs of one workflow with one start event.

    Args:
        known: scenarios that were findings with other start events: they are tried first.
    """

    def __init__(
        self,
        simulation: Simulation,
        check: Check,
        *,
        budget: Budget,
        bound: int = 2,
        disturb: Disturbances | None = None,
        known: list[Scenario] | None = None,
        seed: int = 0,
    ) -> None:
        self.simulation = simulation
        self.coverage = Coverage()
        self.base: Verdict | None = None
        self._check = check
        self._budget = budget
        self._bound = bound
        self._disturb = disturb or Disturbances()
        self._known = known or []
        self._seed = seed
        self._like: Verdict | None = None
        self._began = time.perf_counter()

    def on(self, backend: Backend, budget: Budget) -> "Search":
        """The same search on another backend."""
        simulation = self.simulation.on(backend)
        return Search(simulation, self._check, budget=budget, bound=self._bound, disturb=self._disturb, seed=self._seed)

    def find(self) -> Found | None:
        """The first finding, ``None`` where the budget is used up without one. Only inside `Simulation.opened`."""
        __tracebackhide__ = True
        try:
            for scenario in self._scenarios():
                if self.coverage.runs and not self._left:
                    return None
                found = self.look(scenario)
                self.coverage.runs += 1
                if found is not None:
                    return found
        finally:
            self.coverage.seconds = time.perf_counter() - self._began
        return None

    def look(self, scenario: Scenario) -> Found | None:
        """Run this; what is wrong with it."""
        __tracebackhide__ = True
        verdict = self.last = self.simulation.run(scenario)
        like, self._like = self._like, None
        problem = None if like is None else difference(self.simulation, like, verdict)
        problem = problem or self._check(verdict)
        return None if problem is None else Found(scenario, verdict, problem)

    def look_again(self, found: Found) -> Found:
        """The same finding, or that it isn't one that can be made again. A workflow that all runs share isn't asked: it
        may be another one by now."""
        if self.simulation.is_shared or found.problem.kind == NOT_DETERMINISTIC:
            return found
        self._like = found.verdict
        again = self.look(found.scenario)
        return again or attrs.evolve(found, problem=not_again(found.problem))

    @property
    def _left(self) -> float:
        """How much of the budget is left, from 1 to 0."""
        left = 1.0
        if self._budget.runs is not None:
            left = min(left, 1 - self.coverage.runs / self._budget.runs)
        if self._budget.seconds is not None:
            left = min(left, 1 - (time.perf_counter() - self._began) / self._budget.seconds)
        return max(0.0, left)

    # --------------------------------------------------------------------------------------------------- the order

    def _scenarios(self) -> Iterator[Scenario]:
        self.simulation.stored = self.simulation.stored or self._disturb.crash
        yield from self._known
        yield Scenario()
        base = self.base = self.last
        if self.simulation.is_shared:
            yield Scenario()  # the first run may have opened what the others find open
        self._like = self.last
        yield Scenario()
        first: list[tuple[Scenario, list[int]]] = []
        if self._bound:
            yield Scenario(policy="fifo")
            first = yield from self._deviating([(Scenario(), base.world.scheduler.widths)], 1, 0.0)
        sites = self._disturb.sites(self.simulation, base)
        following: list[Scenario] = []
        sites.append(("fault after a fault", following))
        for name, scenarios in sites:
            for number, scenario in enumerate(scenarios):
                if not self._left:
                    self.coverage.sampled += number
                    return
                yield scenario
                if name == "fault":
                    following += self._disturb.following(self.simulation, base, self.last)
            if scenarios:
                self.coverage.exhausted.append(counted(len(scenarios), name))
        for bound in range(2, self._bound + 1):
            first = yield from self._deviating(first, bound, self._left / 2)
            if not first:
                break
        yield from self._mix(base, [one for _, scenarios in sites for one in scenarios])

    def _deviating(
        self, shorter: list[tuple[Scenario, list[int]]], bound: int, floor: float
    ) -> Generator[Scenario, None, list[tuple[Scenario, list[int]]]]:
        """The schedules of this bound, from those of the bound below; gives them back with their widths, none where the
        budget didn't reach."""
        found: list[tuple[Scenario, list[int]]] = []
        count = 0
        for below, widths in shorter:
            last, shift = below.deviations[-1] if below.deviations else (-1, 0)
            longer = [(*below.deviations[:-1], (last, shift + 1))] if last >= 0 and shift + 1 < widths[last] else []
            longer += [(*below.deviations, (decision, 1)) for decision in range(last + 1, len(widths))]
            for deviations in longer:
                if self._left <= floor:
                    self.coverage.sampled += count
                    return []
                scenario = Scenario(deviations=deviations)
                yield scenario
                count += 1
                found.append((scenario, self.last.world.scheduler.widths))
        if count or bound == 1:  # else there was nothing left to exhaust
            self.coverage.exhausted.append(f"delay bound {bound} ({counted(count + (bound == 1), 'schedule')})")
        return found

    def _mix(self, base: Verdict, sites: list[Scenario]) -> Iterator[Scenario]:
        draw = Random(self._seed)
        decisions = max(1, base.world.scheduler.decisions)
        policies: list[PolicyName] = ["pos", "pct", "pos", "walk"]  # in the planted races `pos` finds most
        faults = [fault for scenario in sites for fault in scenario.faults]
        has_choice = bool(self._bound and base.world.scheduler.decisions)
        if not has_choice and len(sites) < 2:
            return  # there is nothing more to choose
        while self._left:
            scenario = Scenario()
            if has_choice:
                policy = policies[self.coverage.sampled % 4]
                scenario = Scenario(policy=policy, seed=draw.getrandbits(32), decisions=decisions)
            if sites and (not has_choice or draw.random() < 0.7):
                site = draw.choice(sites)
                several = tuple(draw.choice(faults) for _ in range(draw.randrange(3))) if faults else ()
                more = _distinct((*site.faults, *several))
                again = draw.choice(sites).crashes
                is_twice = site.crashes and (not has_choice or draw.random() < 0.5)  # each single one has had its turn
                crashes = (*site.crashes, *again) if is_twice else site.crashes
                scenario = attrs.evolve(scenario, cancel=site.cancel, crashes=crashes, faults=more)
            yield scenario
            self.coverage.sampled += 1


def counted(number: int, what: str) -> str:
    """So many of these; its first noun takes an s where there are several."""
    noun, gap, rest = what.partition(" after ")
    return f"{number:,} {noun}{'' if number == 1 else 's'}{gap}{rest}"


def _distinct(faults: tuple[Fault, ...]) -> tuple[Fault, ...]:
    return tuple({(one.step, one.call): one for one in faults}.values())
