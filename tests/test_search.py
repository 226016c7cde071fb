"""The search: its order, what it says it has exhausted, its budget; and how a finding is made small.

Most of it is asked of a `Program`, which stands for a simulation: it has the same decisions whatever is chosen, so what
there is to find can be counted by hand.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from itertools import product
from types import SimpleNamespace
from typing import Any

import anyio.lowlevel
import attrs
import pytest

from flowkit import Context, Event, StartEvent, StopEvent, Workflow, step, testing
from flowkit.retry_policy import ConstantDelayRetryPolicy
from flowkit.testing.scenario import STORE, Cancel, Fault, Scenario
from flowkit.testing.search import Disturbances, Found, Search
from flowkit.testing.settings import Budget
from flowkit.testing.shrink import MOST, shrunk
from flowkit.testing.simulation import Problem, Simulation

pytest.importorskip("trio")
BACKENDS = ["asyncio", *(["trio"] if find_spec("trio") is not None else [])]
each_backend = pytest.mark.parametrize("backend", BACKENDS)


class Program:
    """A simulation of something with these decisions: at each so many tasks are ready."""

    is_shared = False
    plan = SimpleNamespace(steps=())

    def __init__(self, *widths: int, steps: int = 0, points: int = 0) -> None:
        self.stored = False
        self.runs: list[Scenario] = []
        self._widths, self._steps, self._points = list(widths), steps, points

    def run(self, scenario: Scenario) -> Any:
        self.runs.append(scenario)
        for at, shift in scenario.deviations:
            assert 0 < shift < self._widths[at]
        scheduler = SimpleNamespace(
            widths=self._widths,
            decisions=len(self._widths),
            steps=self._steps,
            order=[],
            deviations=[(at, 1) for at in range(len(self._widths))],
        )
        world = SimpleNamespace(
            scheduler=scheduler,
            record=[],
            points=["point"] * self._points,
            calls=Counter[str](),
            commits=0,
            timeout=None,
        )
        return SimpleNamespace(run=SimpleNamespace(scenario=scenario), world=world)


def search(program: Any, fails: Callable[[Scenario], object] = lambda scenario: False, **options: Any) -> Search:
    def check(verdict: Any) -> Problem | None:
        return Problem("wrong", "it is") if fails(verdict.run.scenario) else None

    budget = Budget(runs=options.pop("budget", 1_000))
    return Search(program, check, budget=budget, **options)


def unmixed(one: Search) -> Search:
    """Without the random part, which uses up the budget."""
    one._mix = lambda *_: iter(())  # type: ignore[method-assign]
    return one


def schedules(program: Program) -> list[tuple[tuple[int, int], ...]]:
    return [one.deviations for one in program.runs if one == Scenario(deviations=one.deviations)]


# ------------------------------------------------------------------------------------------------------- its order


def test_all_schedules_within_a_bound_once_and_in_order() -> None:
    # Decisions with 2, 3 and 2 tasks: shifts of at most 1, 2 and 1 places. Those of bound 1 are 3, and 4 of sum 2, 3 of
    # sum 3, 1 of sum 4.
    program = Program(2, 3, 2)
    one = search(program, bound=3, budget=100)
    assert one.find() is None
    block = [(), ()]
    first = [((0, 1),), ((1, 1),), ((2, 1),)]
    second = [((0, 1), (1, 1)), ((0, 1), (2, 1)), ((1, 2),), ((1, 1), (2, 1))]
    third = [((0, 1), (1, 2)), ((0, 1), (1, 1), (2, 1)), ((1, 2), (2, 1))]
    assert schedules(program) == [*block, *first, *second, *third]
    assert program.runs[2] == Scenario(policy="fifo")
    assert one.coverage.exhausted == [
        "delay bound 1 (4 schedules)",
        "delay bound 2 (4 schedules)",
        "delay bound 3 (3 schedules)",
    ]
    assert one.coverage.runs == len(program.runs) == 100
    assert one.coverage.sampled == 100 - 13
    assert {scenario.policy for scenario in program.runs[13:]} == {"pos", "pct", "walk"}
    assert all(scenario.decisions == 3 for scenario in program.runs[13:])
    assert str(one.coverage).startswith(
        "exhausted: delay bound 1 (4 schedules), delay bound 2 (4 schedules), delay bound 3 (3 schedules); sampled: 87"
    )


@pytest.mark.parametrize("widths", [(2,), (3, 3), (2, 2, 2, 2), (4, 1 + 1, 3), (5, 5)])
@pytest.mark.parametrize("bound", [1, 2, 3, 4])
def test_the_count_is_that_of_the_shifts_that_add_up_to_no_more(widths: tuple[int, ...], bound: int) -> None:
    program = Program(*widths)
    search(program, bound=bound, budget=5_000).find()
    expected = {
        tuple((at, shift) for at, shift in enumerate(shifts) if shift)
        for shifts in product(*map(range, widths))
        if sum(shifts) <= bound
    }
    found = schedules(program)[1:]  # the plainest one comes twice
    assert len(found) == len(set(found)) and set(found) == expected


def test_a_program_without_decisions_has_one_schedule() -> None:
    program = Program()
    one = search(program, bound=3)
    one.find()
    assert program.runs == [Scenario(), Scenario(), Scenario(policy="fifo")]
    assert one.coverage.exhausted == ["delay bound 1 (1 schedule)"]
    assert (one.coverage.sampled, one.coverage.runs) == (0, 3)


def test_without_a_bound_no_schedule_is_looked_at() -> None:
    program = Program(3, 3, points=2)
    one = search(program, bound=0, disturb=Disturbances(crash=True), budget=50)
    one.find()
    assert {(scenario.policy, scenario.deviations) for scenario in program.runs} == {("block", ())}
    assert one.coverage.exhausted == ["2 crash points"]
    assert program.stored


@pytest.mark.parametrize("budget", range(1, 60))
def test_a_budget_is_kept_to_the_run(budget: int) -> None:
    program = Program(2, 3, 2, steps=3, points=2)
    one = search(program, budget=budget, bound=3, disturb=Disturbances(cancel=True, crash=True))
    assert one.find() is None
    assert one.coverage.runs == len(program.runs) == budget
    # All that is exhausted or sampled was run, beside the second plain run and that of first come, first served.
    said = sum(int(re.findall(r"(\d+) (?:schedule|canc|crash)", text)[0]) for text in one.coverage.exhausted)
    assert budget < 7 or budget - said - one.coverage.sampled == 2


def test_half_of_what_is_left_is_for_the_second_bound() -> None:
    program = Program(*[2] * 30)  # 1 + 30, then 435 of bound 2
    one = search(program, budget=433, bound=2)
    one.find()
    assert one.coverage.exhausted == ["delay bound 1 (31 schedules)"]
    assert len([one for one in schedules(program) if len(one) == 2]) in (200, 201)  # of 400
    assert one.coverage.sampled == 400
    assert one.coverage.runs == 433


def test_disturbances_come_between_the_bounds() -> None:
    program = Program(2, 2, steps=2, points=3)
    one = search(program, budget=60, bound=2, disturb=Disturbances(cancel=True, crash=True))
    one.find()
    cancels = [Scenario(cancel=Cancel(at, how)) for how in ("scope", "run") for at in range(2)]  # type: ignore[arg-type]
    crashes = [Scenario(crashes=(at,)) for at in range(3)]
    assert program.runs[5:12] == [*cancels, *crashes]
    assert program.runs[12] == Scenario(deviations=((0, 1), (1, 1)))
    assert one.coverage.exhausted == [
        "delay bound 1 (3 schedules)",
        "2 cancellation points",
        "2 cancel_run() points",
        "3 crash points",
        "delay bound 2 (1 schedule)",
    ]
    mixed = program.runs[13:]
    assert (
        {bool(scenario.cancel) for scenario in mixed} == {bool(scenario.crashes) for scenario in mixed} == {True, False}
    )
    assert max(len(scenario.crashes) for scenario in mixed) == 2


def test_a_search_is_the_same_each_time() -> None:
    programs = [Program(2, 3, 2, steps=4, points=4) for _ in range(2)]
    for program in programs:
        search(program, budget=80, disturb=Disturbances(cancel=True, crash=True)).find()
    assert programs[0].runs == programs[1].runs
    other = Program(2, 3, 2, steps=4, points=4)
    search(other, budget=80, disturb=Disturbances(cancel=True, crash=True), seed=1).find()
    assert other.runs != programs[0].runs


def test_what_was_found_before_comes_first() -> None:
    known = [Scenario(deviations=((1, 1),)), Scenario(crashes=(1,))]
    program = Program(2, 2)
    found = search(program, lambda scenario: scenario.crashes, known=known).find()
    assert found is not None and found.scenario == known[1]
    assert program.runs == known
    program = Program(2, 2)
    search(program, known=known, disturb=Disturbances(crash=True)).find()
    assert program.runs[:4] == [*known, Scenario(), Scenario()]


def test_a_workflow_that_is_shared_warms_up() -> None:
    program = Program(2, 2)
    program.is_shared = True
    search(program).find()
    assert program.runs[:4] == [Scenario(), Scenario(), Scenario(), Scenario(policy="fifo")]


# -------------------------------------------------------------------------------------------- of a workflow, all of it


class Go(StartEvent):
    n: int = 1


class Part(Event):
    n: int


class Done(Event):
    n: int


class Two(Workflow):
    @step
    async def split(self, ev: Go) -> list[Part]:
        return [Part(1), Part(2)]

    @step(timeout=5)
    async def work(self, ctx: Context, ev: Part) -> Done:
        await anyio.lowlevel.checkpoint()
        testing.effect("work", ev.n)
        return Done(ev.n)

    @step
    async def join(self, evs: list[Done]) -> StopEvent:
        return StopEvent(result=sum(ev.n for ev in evs))


@each_backend
@pytest.mark.parametrize("bound", [1, 2])
def test_the_schedules_of_a_workflow_are_all_different_and_all_there(bound: int, backend: Any) -> None:
    simulation = Simulation(Two, None, backend=backend)
    orders: dict[tuple[tuple[int, int], ...], tuple[int, ...]] = {}

    def check(verdict: Any) -> None:
        if verdict.run.scenario.policy == "block":
            orders[verdict.run.scenario.deviations] = tuple(verdict.world.scheduler.order)

    def within(deviations: tuple[tuple[int, int], ...], left: int) -> Iterator[tuple[int, ...]]:
        """By brute force: at each later decision, each other task that is at most so many places further."""
        scheduler = simulation.run(Scenario(deviations=deviations)).world.scheduler
        yield tuple(scheduler.order)
        last = deviations[-1][0] if deviations else -1
        for at in range(last + 1, len(scheduler.widths)):
            for shift in range(1, min(left, scheduler.widths[at] - 1) + 1):
                yield from within((*deviations, (at, shift)), left - shift)

    one = unmixed(Search(simulation, check, budget=Budget(runs=3_000), bound=bound))
    with simulation.opened():
        one.find()
        expected = list(within((), bound))
    assert len(expected) == len(set(expected)) == len(orders)
    assert set(orders.values()) == set(expected)
    assert (
        one.coverage.exhausted[0]
        == f"delay bound 1 ({len([d for d in orders if sum(s for _, s in d) <= 1])} schedules)"
    )
    assert sum(int(text.split("(")[1].split()[0]) for text in one.coverage.exhausted) == len(expected)


@each_backend
def test_every_fault_every_step_and_every_write_has_its_turn(backend: Any) -> None:
    given = testing.faults(
        raises={"work": [OSError, ValueError], "join": KeyError}, delays=3, timeouts=True, store=True
    )
    simulation = Simulation(Two, None, errors=given.errors, backend=backend, stored=True, again=True)
    runs: list[Scenario] = []
    base: list[Any] = []

    def check(verdict: Any) -> None:
        runs.append(verdict.run.scenario)
        base.append(verdict)

    disturb = Disturbances(given, cancel=True, crash=True)
    one = unmixed(Search(simulation, check, budget=Budget(runs=3_000), bound=0, disturb=disturb))
    with simulation.opened():
        one.find()
    world = base[0].world
    commits = world.commits
    assert (commits > 3, world.calls["work"], world.calls["split"]) == (True, 2, 1)
    faults = [
        Fault("split", 1, "delay", seconds=3),
        *(
            fault
            for call in (1, 2)
            for fault in (
                Fault("work", call, "raise", 0),
                Fault("work", call, "lose", 0),
                Fault("work", call, "raise", 1),
                Fault("work", call, "lose", 1),
                Fault("work", call, "delay", seconds=3),
                Fault("work", call, "stall", seconds=6),
            )
        ),
        *(Fault("join", 1, "raise", 0), Fault("join", 1, "lose", 0), Fault("join", 1, "delay", seconds=3)),
        *(
            fault
            for call in range(1, commits + 1)
            for fault in (Fault(STORE, call, "full"), Fault(STORE, call, "slow", seconds=10))
        ),
    ]
    assert runs[2 : 2 + len(faults)] == [Scenario(faults=(fault,)) for fault in faults]
    rest = runs[2 + len(faults) :]
    steps = world.scheduler.steps
    assert [one for one in rest if one == Scenario(cancel=one.cancel)][: 2 * steps] == [
        Scenario(cancel=Cancel(at, how))
        for how in ("scope", "run")
        for at in range(steps)  # type: ignore[arg-type]
    ]
    points = world.points
    crashes = [one.crashes[0] for one in rest if one == Scenario(crashes=one.crashes) and len(one.crashes) == 1]
    assert crashes[: len(points)] == list(range(len(points)))
    assert len([text for text in points if "write" in text]) == 2 * commits
    assert len([text for text in points if "effect" in text]) == 4
    text = ", ".join(one.coverage.exhausted)
    assert text.startswith(f"{len(faults)} faults, {steps} cancellation points, {steps} cancel_run() points, ")
    assert f"{len(points)} crash points" in text


class Retried(Workflow):
    @step(retry_policy=ConstantDelayRetryPolicy(maximum_attempts=2, delay=1))
    async def go(self, ev: Go) -> StopEvent:
        return StopEvent()


@each_backend
def test_a_fault_s_own_calls_may_fail_too(backend: Any) -> None:
    given = testing.faults(raises={"go": OSError})
    runs: list[Scenario] = []
    simulation = Simulation(Retried, None, errors=given.errors, backend=backend)
    one = Search(
        simulation,
        lambda verdict: runs.append(verdict.run.scenario) or verdict.problem,
        budget=Budget(runs=3_000),
        bound=0,
        disturb=Disturbances(given),
    )
    with simulation.opened():
        assert unmixed(one).find() is None
    first = [Fault("go", 1, kind, 0) for kind in ("raise", "lose")]  # type: ignore[arg-type]
    second = [Fault("go", 2, kind, 0) for kind in ("raise", "lose")]  # type: ignore[arg-type]
    assert [run.faults for run in runs[2:]] == [*((one,) for one in first), *product(first, second)]
    assert one.coverage.exhausted == ["2 faults", "4 faults after a fault"]


# --------------------------------------------------------------------------------------------------------- made small


def made_small(fails: Callable[[Scenario], object], scenario: Scenario, *widths: int) -> Scenario:
    program = Program(*(widths or (2, 3, 2, 2, 3)))
    one = search(program, fails)
    found = one.look(scenario)
    assert found is not None
    small, runs = shrunk(found, one.look)
    assert runs == len(program.runs) - 1 == len(set(program.runs) - {scenario})
    assert fails(small.scenario) and small.verdict.run.scenario == small.scenario
    return small.scenario


A, B, C = Fault("a", 1, "raise", 0), Fault("b", 1, "raise", 0), Fault("c", 1, "delay", seconds=10.0)
MESS = Scenario(policy="pos", seed=7, faults=(A, B, C), cancel=Cancel(4), crashes=(3, 5))


def random(scenario: Scenario) -> bool:
    return scenario.policy == "pos"


def has(scenario: Scenario, *deviations: tuple[int, int]) -> bool:
    return set(deviations) <= set(scenario.deviations)


@pytest.mark.parametrize(
    ("fails", "smallest"),
    [
        (lambda one: True, Scenario()),
        (lambda one: A in one.faults, Scenario(faults=(A,))),
        (lambda one: B in one.faults and C in one.faults, Scenario(faults=(B, C))),
        (lambda one: one.cancel, Scenario(cancel=Cancel(4))),
        (lambda one: one.crashes[:1] == (3,), Scenario(crashes=(3,))),
        (lambda one: 5 in one.crashes, Scenario(crashes=(5,))),
        (lambda one: one.crashes == (3, 5), Scenario(crashes=(3, 5))),
        (
            lambda one: one.crashes and one.cancel and A in one.faults,
            Scenario(crashes=(3,), cancel=Cancel(4), faults=(A,)),
        ),
        (lambda one: random(one) or has(one, (2, 1)), Scenario(deviations=((2, 1),))),
        (
            lambda one: (random(one) or has(one, (2, 1))) and B in one.faults,
            Scenario(deviations=((2, 1),), faults=(B,)),
        ),
        (lambda one: random(one) or has(one, (0, 1), (3, 1)), Scenario(deviations=((0, 1), (3, 1)))),
        (
            lambda one: random(one) or has(one, (0, 1), (2, 1), (4, 1)),
            Scenario(deviations=((0, 1), (2, 1), (4, 1))),
        ),
        (random, Scenario(policy="pos", seed=7)),
    ],
)
def test_what_does_not_matter_is_left_out(fails: Callable[[Scenario], object], smallest: Scenario) -> None:
    assert made_small(fails, MESS) == smallest


def test_the_same_point_in_two_lives() -> None:
    twice = Scenario(crashes=(3, 3))
    assert made_small(lambda one: one.crashes[:1] == (3,), twice) == Scenario(crashes=(3,))
    assert made_small(lambda one: one.crashes == (3, 3), twice) == twice
    assert made_small(lambda one: len(one.crashes) >= 2, Scenario(crashes=(1, 1, 1))) == Scenario(crashes=(1, 1))


def test_a_fault_gets_simpler() -> None:
    lose = Fault("a", 1, "lose", 0)
    assert made_small(lambda one: {A, lose} & {*one.faults}, Scenario(faults=(lose, C))) == Scenario(faults=(A,))
    assert made_small(lambda one: lose in one.faults, Scenario(faults=(lose,))) == Scenario(faults=(lose,))
    stall = Fault("a", 1, "stall", seconds=6.0)
    simpler = attrs.evolve(stall, kind="delay")
    assert made_small(lambda one: one.faults, Scenario(faults=(stall,))) == Scenario(faults=(simpler,))


def test_a_deviation_goes_by_as_few_places_as_will_do() -> None:
    assert made_small(lambda one: any(at == 1 for at, _ in one.deviations), Scenario(deviations=((1, 2),))) == Scenario(
        deviations=((1, 1),)
    )
    wanted = Scenario(deviations=((1, 2), (4, 1)))

    def fails(one: Scenario) -> bool:
        return has(one, (1, 2)) and any(at == 4 for at, _ in one.deviations)

    assert made_small(fails, Scenario(deviations=((0, 1), (1, 2), (3, 1), (4, 2)))) == wanted


def test_only_findings_of_the_same_kind_count() -> None:
    def check(verdict: Any) -> Problem | None:
        scenario = verdict.run.scenario
        kind = "lost" if A in scenario.faults else "other" if scenario.faults else ""
        return Problem(kind, kind) if kind else None

    one = Search(Program(2), check, budget=Budget(runs=100))  # type: ignore[arg-type]
    found = one.look(Scenario(faults=(A, B)))
    assert found is not None
    assert shrunk(found, one.look)[0].scenario == Scenario(faults=(A,))


def test_making_small_has_an_end() -> None:
    widths = [2] * 400
    deviations = tuple((at, 1) for at in range(0, 400, 2))
    one = search(Program(*widths), lambda scenario: len(scenario.deviations) >= 150)
    found = one.look(Scenario(deviations=deviations))
    assert isinstance(found, Found)
    small, runs = shrunk(found, one.look)
    assert runs <= MOST
    assert 150 <= len(small.scenario.deviations) < 200
