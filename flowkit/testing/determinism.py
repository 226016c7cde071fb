"""Whether the same scenario gives the same run: what a simulation can't promise for what it doesn't rule.

A workflow that takes the time from the wall clock, makes up ids, or goes by addresses and hashes is another one in each
run. Whatever is found in it can't be shown again, and can't be made small. So the plainest run is made twice before
anything is searched, and what was found is run once more. The two are compared by all that happened in them, in order,
as it is shown; addresses aside, as they are in every object's `repr`.
"""

import os
from typing import Any

from flowkit.testing.likeness import steady
from flowkit.testing.scenario import STORE
from flowkit.testing.simulation import Problem, Simulation, Verdict
from flowkit.testing.trace import TracingScheduler, told

__all__ = ["NOT_DETERMINISTIC", "difference", "not_again"]

NOT_DETERMINISTIC = "not-deterministic"
"""The kind of a problem of this sort."""

CURE = """\
Take the time from ctx.now(), ids from ctx.uuid() and random numbers from ctx.random(): the wall clock, uuid4() and
secrets differ in each run. Choose nothing by id(), hash() or the order of a set, and keep nothing from one run for the
next."""


def difference(simulation: Simulation, first: Verdict, then: Verdict) -> Problem | None:
    """The first thing that differs in two runs of the same scenario. Only inside ``simulation.opened()``."""
    happened = [_happened(verdict) for verdict in (first, then)]
    at = _first_difference(*happened)
    if at is None:
        orders = [verdict.world.scheduler.order for verdict in (first, then)]
        step = _first_difference(*orders)
        if step is None:
            return None
        things = [_task(order, step) for order in orders]
        return _problem(things, "")
    things = [_thing(verdict, at) for verdict in (first, then)]
    if things[0] == things[1]:  # they differ further on in a long text, or in nothing but their place in the schedule
        things = [_apart(verdict, at, happened) for verdict in (first, then)]
    return _problem(things, _place(simulation, first if at < len(happened[0]) else then, at))


def not_again(problem: Problem) -> Problem:
    """The same run happened again, but what was wrong with it didn't."""
    text = (
        "the same run passed when it was looked at again: the property depends on more than the run\n"
        f"  first   {_line(problem.text)}\n"
        "  then    nothing was wrong\n"
        "Have it look at nothing but `run` and `start`, and keep nothing from one run for the next."
    )
    return Problem(NOT_DETERMINISTIC, text)


def _problem(things: list[str], place: str) -> Problem:
    where = f" ({place})" if place else ""
    text = f"two runs of the same schedule differ{where}\n  first   {things[0]}\n  then    {things[1]}\n{CURE}"
    return Problem(NOT_DETERMINISTIC, text)


def _happened(verdict: Verdict) -> list[tuple[Any, ...]]:
    return [(time, step, task, kind, steady(detail)) for time, step, task, kind, detail in verdict.world.record]


def _first_difference(one: list[Any], other: list[Any]) -> int | None:
    for at, (this, that) in enumerate(zip(one, other, strict=False)):
        if this != that:
            return at
    return None if len(one) == len(other) else min(len(one), len(other))


def _thing(verdict: Verdict, at: int) -> str:
    record = verdict.world.record
    if at >= len(record):
        return "nothing more"
    time, _, _, kind, detail = record[at]
    call = _call(verdict, at)
    return f"{time:g} s, {f'{call[1]} #{call[2]}' if call else 'the run'}: {told(kind, detail) or kind}"


def _apart(verdict: Verdict, at: int, happened: list[list[tuple[Any, ...]]]) -> str:
    """What happened, with that part of it in which the two differ."""
    texts = [one[at][-1] for one in happened]
    _, step, task, _, detail = verdict.world.record[at]
    if texts[0] == texts[1]:
        return f"{_thing(verdict, at)} (task {task}, in task step {step})"
    begin = max(0, (_first_difference(*map(list, texts)) or 0) - 30)
    return f"{_thing(verdict, at)} (…{steady(detail)[begin : begin + 70]}…)"


def _task(order: list[int], step: int) -> str:
    return f"task step {step + 1} is of task {order[step]}" if step < len(order) else f"there are {step} task steps"


def _call(verdict: Verdict, at: int) -> tuple[int, str, int] | None:
    """The task step in which the call began that the task worked for when this happened, its step, and its number."""
    record = verdict.world.record
    task = record[at][2]
    for _, began, one, kind, detail in reversed(record[: at + 1]):
        if one == task and kind == "call" and detail[0] != STORE:
            return began, *detail
    return None


def _place(simulation: Simulation, verdict: Verdict, at: int) -> str:
    """The author's line that the task had come to before this happened, else the step that it worked for."""
    _, step, task, _, _ = verdict.world.record[at]
    scheduler = TracingScheduler(verdict.run.scenario.make_policy())
    simulation.run(verdict.run.scenario, scheduler)
    began, name, _ = _call(verdict, at) or (0, "", 0)
    places = [row.place for row in scheduler.rows if row.task == task and began <= row.step <= step]
    own = [place for place in places if place and not place.startswith("(")]
    if own:
        return own[-1]
    spec = simulation.plan.step(name)
    if spec is None:
        return ""
    return f"{os.path.basename(spec.where)} in {simulation.plan.name}.{spec.name}"


def _line(text: str) -> str:
    return text.strip().splitlines()[0] if text.strip() else ""
