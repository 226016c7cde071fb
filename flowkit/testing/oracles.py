"""Properties that need no specification: what holds of every correct workflow.

- Its result doesn't depend on the order in which its steps interleave.
- A crash at any moment, and going on from the journal, makes no difference.
- Cancelling it at any moment leaves nothing behind, and it can be run again.
"""

from collections import Counter
from collections.abc import Callable
from typing import Any, Literal

from flowkit.errors import shown
from flowkit.testing.exploring import BOUND, BUDGET, check_search, searched
from flowkit.testing.likeness import alike
from flowkit.testing.run import Run
from flowkit.testing.scenario import Backend
from flowkit.testing.search import Check, Coverage, Disturbances
from flowkit.testing.settings import defaults, parse_budget
from flowkit.testing.simulation import Answer, Problem, Simulation, Verdict

__all__ = ["assert_cancels_cleanly", "assert_checkpoint_equivalence", "assert_schedule_independent"]

Choice = Literal["asyncio", "trio", "both"]


def assert_schedule_independent(
    flow: Any,
    start: Any = None,
    *,
    bound: int = BOUND,
    budget: str | int = BUDGET,
    answer: Answer | None = None,
    backend: Choice = "asyncio",
) -> Coverage:
    """Every schedule gives the result and the final state of the first one.

    Args:
        flow, start, bound, budget, answer, backend: as for `explore`.

    Returns:
        What was looked at: exhausted and sampled schedules.

    Raises:
        Counterexample: a schedule gives something else (``kind`` is "different-result" or "different-state"), or fails
            one of the checks that every run must pass.
        TestingError: the workflow asks for what a simulation can't do.
    """
    __tracebackhide__ = True
    return _asserted(
        flow,
        start,
        lambda first, verdict: _different(first.run, verdict.run),
        Disturbances(),
        call="assert_schedule_independent()",
        bound=bound,
        budget=budget,
        answer=answer,
        backend=backend,
    )


def assert_checkpoint_equivalence(
    flow: Any,
    start: Any = None,
    *,
    bound: int = 0,
    budget: str | int = BUDGET,
    answer: Answer | None = None,
    backend: Choice = "asyncio",
) -> Coverage:
    """A run that crashes and goes on from its journal ends like one that never crashed: with its result, its final
    state, and its effects (`flowkit.testing.effect`).

    It crashes right before and right after each write of the journal and each effect. An effect that comes twice is a
    finding unless the idempotency key of its step (``ctx.idempotency_key``) is in it, by which the other side can tell.

    Args:
        flow, start, budget, answer, backend: as for `explore`.
        bound: how far schedules deviate; by default not at all. Each run is compared with the first one, so only a
            workflow that doesn't depend on its schedule can pass with more.

    Returns:
        What was looked at.

    Raises:
        Counterexample: a crash makes a difference (``kind`` is "different-result", "different-state", "lost-effect" or
            "doubled-effect"), or a run fails one of the checks that every run must pass.
        TestingError: the workflow asks for what a simulation can't do.
    """
    __tracebackhide__ = True
    return _asserted(
        flow,
        start,
        _crash_differs,
        Disturbances(crash=True),
        call="assert_checkpoint_equivalence()",
        bound=bound,
        budget=budget,
        answer=answer,
        backend=backend,
        stored=True,
    )


def assert_cancels_cleanly(
    flow: Any,
    start: Any = None,
    *,
    bound: int = BOUND,
    budget: str | int = BUDGET,
    answer: Answer | None = None,
    backend: Choice = "asyncio",
) -> Coverage:
    """Wherever the run is cancelled, nothing of it is left, and the same workflow can be run again.

    It is cancelled after each of its task steps, by the scope around it and by ``cancel_run()``, then run once more on
    the same instance, which must end well: a lock that was never released, or a place in a pool that was never given
    back, shows then.

    Args:
        flow, start, bound, budget, answer, backend: as for `explore`.

    Returns:
        What was looked at.

    Raises:
        Counterexample: a cancelled run leaves a task behind (``kind`` is "left-behind"), keeps the next run from ending
            ("deadlock"), or makes it fail ("unusable").
        TestingError: the workflow asks for what a simulation can't do.
    """
    __tracebackhide__ = True
    return _asserted(
        flow,
        start,
        _leaves_something,
        Disturbances(cancel=True),
        call="assert_cancels_cleanly()",
        bound=bound,
        budget=budget,
        answer=answer,
        backend=backend,
        again=True,
    )


def _asserted(
    flow: Any,
    start: Any,
    compare: Callable[[Verdict, Verdict], Problem | None],
    disturb: Disturbances,
    *,
    call: str,
    bound: int,
    budget: str | int,
    answer: Answer | None,
    backend: Choice,
    stored: bool = False,
    again: bool = False,
) -> Coverage:
    __tracebackhide__ = True
    check_search(call, bound, budget, backend)
    limit = parse_budget(defaults.budget if defaults.budget is not None else budget, f"{call} budget")
    chosen = defaults.backend or backend
    backends: list[Backend] = ["asyncio", "trio"] if chosen == "both" else [chosen]
    coverage = Coverage()
    for one in backends:
        simulation = Simulation(flow, start, answer=answer, backend=one, stored=stored, again=again, call=call)
        with simulation.opened():
            coverage = searched(
                simulation,
                _comparing(compare),
                budget=limit,
                bound=defaults.bound if defaults.bound is not None else bound,
                disturb=disturb,
            )
    return coverage


def _comparing(compare: Callable[[Verdict, Verdict], Problem | None]) -> Check:
    """Compare each run with the first one."""
    first: list[Verdict] = []

    def check(verdict: Verdict) -> Problem | None:
        if verdict.problem is not None:
            return verdict.problem
        if not first:
            first.append(verdict)
        return compare(first[0], verdict)

    return check


def _different(first: Run, run: Run) -> Problem | None:
    if not alike(run.value, first.value):
        text = f"the result is {shown(run.value, 300)}\nin other runs  {shown(first.value, 300)}"
        return Problem("different-result", text)
    if not alike(run.state, first.state):
        text = f"the final state is {shown(run.state, 300)}\nin other runs      {shown(first.state, 300)}"
        return Problem("different-state", text)
    return None


def _crash_differs(first: Verdict, verdict: Verdict) -> Problem | None:
    problem = _different(first.run, verdict.run)
    if problem is not None:
        return problem
    usual, had = _effects(first), _effects(verdict)
    for one, times in usual.items():
        if had[one] < times:
            comes = f"{one} comes {_often(had[one])}, in a run that never crashed {_often(times)}"
            return Problem("lost-effect", comes)
    for one, times in had.items():
        if times > usual[one]:
            return Problem(
                "doubled-effect",
                f"{one} comes {_often(times)}, in a run that never crashed {_often(usual[one])}, and has no "
                "idempotency key: give ctx.idempotency_key along, so that the other side can tell",
            )
    return None


def _often(times: int) -> str:
    return ("never", "once", "twice")[times] if times < 3 else f"{times} times"


def _effects(verdict: Verdict) -> Counter[str]:
    """How often each effect was had, by what its receiver can tell: one that came again with its idempotency key is the
    same. The keys themselves aren't compared, they are numbered in the order of the schedule."""
    keys = sorted(verdict.world.keys, key=len, reverse=True)
    found: Counter[str] = Counter()
    seen: set[str] = set()
    for effect in map(repr, verdict.run.effects):
        key = next((key for key in keys if key in effect), None)
        if key is None:
            found[effect] += 1
        elif effect not in seen:
            seen.add(effect)
            found[effect.replace(key, "(key)")] += 1
    return found


def _leaves_something(first: Verdict, verdict: Verdict) -> Problem | None:
    again = verdict.again
    if verdict.run.cancelled and again is not None and again.error is not None:
        return Problem("unusable", f"after the run was cancelled, the next one failed: {again.error}")
    return None
