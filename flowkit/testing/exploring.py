"""Searching the runs of a workflow for one that breaks a property: the calls that authors make.

Hypothesis draws the start event, never the schedule: for it, a test is "every run within the bound passes", whose
smallest failing start event it finds by itself. Drawing schedules as data costs several times as much and shrinks
badly. What was a finding with one start event is tried first with the next.

The free checks of simulation.py hold for each run; a property is asked about those that have a result.
"""

import functools
import sys
from collections.abc import Callable, Sequence
from typing import Any, Literal
from unittest import SkipTest

import attrs
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from flowkit.errors import WrongCall, shown
from flowkit.testing.counterexample import Counterexample
from flowkit.testing.determinism import NOT_DETERMINISTIC
from flowkit.testing.mishaps import Faults
from flowkit.testing.problems import TestingError
from flowkit.testing.properties import as_test, asking, check_is_above_no_property, check_property, judged
from flowkit.testing.report import neighbours, report
from flowkit.testing.run import Run
from flowkit.testing.scenario import Backend, Scenario
from flowkit.testing.search import Check, Coverage, Disturbances, Found, Search, counted
from flowkit.testing.settings import Budget, defaults, parse_budget, replayed
from flowkit.testing.shrink import shrunk
from flowkit.testing.simulation import Answer, Simulation, Verdict, check_answer, maker_of, start_of
from flowkit.testing.token import has_start, is_of, read_token, start_in, token_of
from flowkit.testing.trace import happenings

__all__ = ["BOUND", "BUDGET", "explore", "searched", "simulate"]

BOUND = 2
BUDGET = "2s"
EXAMPLES = 20
"""Start events that are drawn, at most."""

ELSEWHERE = 200
"""Runs in which a finding is looked for on the other backend."""

_ALWAYS_ERRORS = ("return_value", "not_a_test_method")
"""Names of health checks that can't be suppressed any more, which Hypothesis keeps."""


def simulate(
    flow: Any,
    start: Any = None,
    *,
    replay: str | None = None,
    backend: Backend = "asyncio",
    seed: int | None = None,
    answer: Answer | None = None,
    faults: Faults | None = None,
    stored: bool = False,
) -> Run:
    """Run a workflow once, deterministically, in virtual time: the same call, the same run.

    Args:
        flow: the workflow's class, an instance, or a function that makes one.
        start: the start event, or a dict of its fields. A token of a drawn start event has it inside.
        replay: a token from a report: that run again. ``answer`` and ``faults`` must be as they were there; the token
            says whether the run has a store.
        backend: "asyncio" or "trio". A token says its own.
        seed: a random schedule; by default each task runs until it has to wait.
        answer: what to answer to a question that the run shows; ``None`` is no answer.
        faults: which errors the token's faults raise.
        stored: keep the run in a store (in memory).

    Returns:
        The finished run; its ``error`` where it failed. This raises no error of the run's.

    Raises:
        WrongToken: the token is damaged, or of something else.
        Counterexample: the run hung, or left something behind.
        TestingError: the workflow asks for what a simulation can't do.
        WrongCall: an argument is of the wrong type.
    """
    __tracebackhide__ = True
    check_choice("simulate()", "backend", backend, ("asyncio", "trio"))
    _check_faults("simulate()", faults)
    if seed is not None and (not isinstance(seed, int) or isinstance(seed, bool)):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise WrongCall("simulate()", f"takes a number as seed, but got {shown(seed)}", "give a whole number, or none")
    errors = {} if faults is None else faults.errors
    late = start is None and replay is not None and has_start(replay)
    simulation = Simulation(flow, start, answer=answer, errors=errors, backend=backend, stored=stored, late=late)
    scenario = Scenario() if seed is None else Scenario(policy="walk", seed=seed)
    if replay is not None:
        simulation, scenario = _told(simulation, replay)
    with simulation.opened():
        verdict = simulation.run(scenario)
        if verdict.problem is not None and verdict.problem.kind in ("deadlock", "left-behind", "unhandled"):
            found = Found(scenario, verdict, verdict.problem)
            raise _counterexample(simulation, found, Coverage(runs=1))
    return finished(simulation, verdict)


def finished(simulation: Simulation, verdict: Verdict) -> Run:
    """The run of a verdict, whole."""
    run = verdict.run
    run.token = token_of(simulation, run.scenario)
    run.trace = happenings(verdict.world)
    return run


def searched(
    simulation: Simulation, check: Check, *, budget: Budget, bound: int, disturb: Disturbances | None = None
) -> Coverage:
    """Search; what has been looked at where nothing was found. Only inside ``simulation.opened()``.

    Raises:
        Counterexample: something was found.
        TestingError: the workflow asks for what a simulation can't do.
    """
    __tracebackhide__ = True
    search = Search(simulation, check, budget=budget, bound=bound, disturb=disturb)
    found = search.find()
    if found is None:
        return search.coverage
    raise _made_small(search, found, check)


def _made_small(search: Search, found: Found, check: Check) -> Counterexample:
    """What was found, made small, beside what passes, and tried on the other backend."""
    simulation = search.simulation
    found = search.look_again(found)
    if found.problem.kind == NOT_DETERMINISTIC:
        return _counterexample(simulation, found, search.coverage)
    small, shrinking = shrunk(found, search.look)
    passing = next((one for one in neighbours(small.scenario) if check(simulation.run(one)) is None), None)
    elsewhere = _elsewhere(search, small.problem.kind, check)
    return _counterexample(simulation, small, search.coverage, shrinking, passing, elsewhere)


def _elsewhere(search: Search, kind: str, check: Check) -> str:
    """Whether the other backend shows it, too. A schedule of one is none of the other's, so it is searched anew."""
    backend: Backend = "trio" if search.simulation.backend == "asyncio" else "asyncio"
    try:
        there = search.on(backend, Budget(runs=ELSEWHERE))
        with there.simulation.opened():
            found = there.find()
    except TestingError:  # there is no trio here, or none that can be simulated
        return ""
    if found is None:
        return f"not found on {backend} in {counted(there.coverage.runs, 'run')}"
    after = counted(there.coverage.runs, "run")
    return f"on {backend}{', too,' if found.problem.kind == kind else f' {found.problem.kind}'} after {after}"


def _counterexample(
    simulation: Simulation,
    found: Found,
    coverage: Coverage,
    shrinking: int = 0,
    passing: Scenario | None = None,
    elsewhere: str = "",
) -> Counterexample:
    run = finished(simulation, found.verdict)
    text = report(
        simulation, found, coverage, shrinking=shrinking, passing=passing, elsewhere=elsewhere, token=run.token
    )
    return Counterexample(
        text, kind=found.problem.kind, run=run, scenario=found.scenario, runs=coverage.runs, shrinking=shrinking
    )


def explore(
    flow: Any,
    start: Any = None,
    *,
    bound: int = BOUND,
    budget: str | int = BUDGET,
    faults: Faults | None = None,
    cancel: Literal["every-step"] | None = None,
    crash: Literal["every-write"] | None = None,
    answer: Answer | None = None,
    backend: Literal["asyncio", "trio", "both"] = "asyncio",
    check: Literal["results", "all"] = "results",
    examples: int = EXAMPLES,
) -> Callable[[Callable[..., object]], Callable[..., None]]:
    """Make a property of a finished run a test that searches for a run which breaks it.

    The property is a plain function of ``run`` (`flowkit.testing.Run`) and, if it likes, ``start`` (the start event);
    what else it takes are pytest's fixtures. Whatever it raises is a finding. It is asked about the runs that have a
    result. A run that ends with an error is a finding by itself, unless the error was given to it by ``faults``,
    ``cancel`` or ``crash``.

    Args:
        flow: the workflow's class, a function that makes one (either is made anew for each run), or an instance.
        start: the start event, a dict of its fields, or a Hypothesis strategy of either.
        bound: by how many places schedules may deviate from run-to-block to be tried for certain.
        budget: how long to search for each start event: wall-clock time ("2s", "500ms"; a strategy's start events
            share it), or a number of runs.
        faults: what may go wrong in a run.
        cancel: ``"every-step"``: also cancel runs, after each task step.
        crash: ``"every-write"``: also crash runs, before and after each write of the journal and each effect.
        answer: what to answer to a question that a run shows; ``None`` is no answer.
        backend: where to search. A finding on asyncio is tried on trio, too, where "both".
        check: "all" asks the property also about runs that failed or were cancelled.
        examples: how many start events of a strategy are tried.

    Raises (the test):
        Counterexample: a run breaks the property, or one of the checks that every run must pass.
        TestingError: the workflow asks for what a simulation can't do.
    """
    check_is_above_no_property(flow)
    maker_of(flow, "explore()")
    check_search("explore()", bound, budget, backend)
    check_choice("explore()", "cancel", cancel, (None, "every-step"))
    check_choice("explore()", "crash", crash, (None, "every-write"))
    check_choice("explore()", "check", check, ("results", "all"))
    check_answer("explore()", answer)
    _check_faults("explore()", faults)
    if not isinstance(examples, int) or isinstance(examples, bool) or examples < 1:  # pyright: ignore[reportUnnecessaryIsInstance]
        problem = f"takes a number of start events as examples, but got {shown(examples)}"
        raise WrongCall("explore()", problem, "give 1 or more")
    is_drawn = isinstance(start, st.SearchStrategy)
    disturb = Disturbances(faults, cancel is not None, crash is not None)

    def make(backend: Backend) -> Simulation:
        return Simulation(
            flow,
            None if is_drawn else start,
            answer=answer,
            errors=None if faults is None else faults.errors,
            backend=backend,
            stored=faults is not None and faults.store,
            again=cancel is not None,
            call="explore()",
            late=is_drawn,
        )

    def decorate(function: Callable[..., object]) -> Callable[..., None]:
        check_property(function)

        def test(*bound_to: Any, **fixtures: Any) -> None:
            __tracebackhide__ = True
            ask = functools.partial(judged, asking(function, bound_to, fixtures), check == "all")
            if defaults.replay is not None:
                _replay(make("asyncio"), ask, defaults.replay, getattr(function, "__name__", ""))
                return
            limit = parse_budget(defaults.budget if defaults.budget is not None else budget)
            chosen = defaults.backend or backend
            backends: Sequence[Backend] = ("asyncio", "trio") if chosen == "both" else (chosen,)
            for one in backends:
                simulation = make(one)
                options: dict[str, Any] = {
                    "bound": defaults.bound if defaults.bound is not None else bound,
                    "disturb": disturb,
                }
                with simulation.opened():
                    if is_drawn:
                        _drawn(simulation, start, ask, limit, examples, options)
                    else:
                        searched(simulation, ask, budget=limit, **options)

        return as_test(test, function)

    return decorate


def _replay(simulation: Simulation, check: Check, token: str, name: str) -> None:
    """Run the one run that is wanted, if it is one of this test's.

    Raises:
        SkipTest: it isn't.
    """
    __tracebackhide__ = True
    replayed.append(name)
    if not is_of(token, simulation):
        replayed.pop()
        reason = f"the run to replay is of another workflow or start event than {simulation.plan.name}'s here"
        pytest: Any = sys.modules.get("pytest")  # whose option this is, and who doesn't take a SkipTest in each version
        raise SkipTest(reason) if pytest is None else pytest.skip.Exception(reason)
    simulation, scenario = _told(simulation, token)
    with simulation.opened():
        verdict = simulation.run(scenario)
        problem = check(verdict)
        if problem is not None:
            raise _counterexample(simulation, Found(scenario, verdict, problem), Coverage(runs=1))


def _told(simulation: Simulation, token: str) -> tuple[Simulation, Scenario]:
    """The simulation as a token tells it, with the start event that is in it, and its scenario."""
    __tracebackhide__ = True
    start = start_in(token, simulation) if simulation.is_drawn else None
    if start is not None:
        simulation = simulation.with_start(start)
    told = read_token(token, simulation)
    simulation.backend, simulation.stored = told.backend, told.stored
    simulation.again = told.scenario.cancel is not None
    return simulation, told.scenario


def _drawn(
    simulation: Simulation,
    start: "st.SearchStrategy[Any]",
    check: Check,
    budget: Budget,
    examples: int,
    options: dict[str, Any],
) -> None:
    """Search with start events that Hypothesis draws, each with its share of the budget."""
    __tracebackhide__ = True
    share = attrs.evolve(budget, seconds=None if budget.seconds is None else budget.seconds / examples)
    known: list[Scenario] = []
    kind = simulation.plan.start_type
    failed: list[tuple[Search, Found]] = []

    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=[one for name, one in HealthCheck.__members__.items() if name not in _ALWAYS_ERRORS],
        phases=[Phase.explicit, Phase.generate, Phase.shrink],
        report_multiple_bugs=False,
        print_blob=False,
    )
    @given(event=start)
    def each(event: Any) -> None:
        __tracebackhide__ = True
        here = simulation.with_start(start_of(kind, event, "explore()"))
        search = Search(here, check, budget=share, known=known, **options)
        found = search.find()
        if found is None:
            return
        if found.scenario not in known:
            known.insert(0, shrunk(found, search.look)[0].scenario)
        failed.append((search, found))
        raise AssertionError

    try:
        each()
    except TestingError as error:
        raise error.with_traceback(None)  # noqa: B904 - without the way through Hypothesis
    except KeyboardInterrupt:
        raise
    except BaseException:
        if not failed:
            raise
        raise _made_small(*failed[-1], check) from None


def check_search(call: str, bound: Any, budget: Any, backend: Any) -> None:
    """See that these are what a search takes.

    Raises:
        WrongCall: one of them isn't.
    """
    parse_budget(budget, f"{call} budget")
    if not isinstance(bound, int) or isinstance(bound, bool) or bound < 0:
        problem = f"takes a number of deviations from the plainest schedule as bound, but got {shown(bound)}"
        cure = "write 1 or 2: each one more takes some ten times as long; 0 searches no schedules"
        raise WrongCall(call, problem, cure)
    check_choice(call, "backend", backend, ("asyncio", "trio", "both"))


def _check_faults(call: str, faults: Any) -> None:
    if faults is not None and not isinstance(faults, Faults):
        raise WrongCall(call, f"takes faults(…) as faults, but got {shown(faults)}", "write testing.faults(…)")


def check_choice(call: str, name: str, given: Any, choices: Sequence[Any]) -> None:
    """See that this is one of the choices; ``None`` among them is not to be named.

    Raises:
        WrongCall: it isn't.
    """
    if given not in choices:
        *several, last = [repr(one) for one in choices if one is not None]
        others = f"{', '.join(several)} or " if several else ""
        raise WrongCall(call, f"got {name}={shown(given)}", f"give {others}{last}")
