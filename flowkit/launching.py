"""What a run is launched with: an id, a start event, and the run it is nested in."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import attrs

from flowkit.errors import EventError, WorkflowValidationError, WrongCall, shown
from flowkit.events import Event
from flowkit.facts import Command, Fact, StartStep
from flowkit.instruments import Installed, Instrument, ObservedRun, installed, installed_for_all
from flowkit.narrator import Narrator
from flowkit.plan import Plan
from flowkit.recent import Recent, note_nested
from flowkit.runner import Run
from flowkit.stream import Origin
from flowkit.watch import Watch, watching_for

__all__ = [
    "Keep",
    "Parent",
    "bad_option",
    "chained",
    "check_id",
    "check_timeout",
    "child_of",
    "instruments_of",
    "is_count",
    "origin_of",
    "remembered",
    "start_event_of",
    "watching",
]

Keep = Callable[[Fact, Sequence[Command]], None]


@attrs.define(eq=False)
class Parent:
    """What a child workflow that was given to a step knows of it."""

    run: Run
    step: str
    start: StartStep
    child: str
    runs: int = 0

    def next_id(self) -> str:
        """The id of the next run that the step starts: the same whenever this attempt is made again."""
        self.runs += 1
        return f"{self.run.run_id}/{self.start.invocation}.{self.start.attempt}.{self.child}.{self.runs}"


def check_id(call: str, name: str, run_id: Any, *, needed: bool = False) -> None:
    """Refuse what can't be a run's id; ``None`` where it is ``needed``, too."""
    if run_id is None and not needed:
        return
    if not isinstance(run_id, str):
        raise WrongCall(call, f"takes a string as {name}, but got {shown(run_id)}", "write str(…)")
    if not run_id:
        raise WrongCall(call, f"got {name}=''", "give a name" if needed else "give a name, or leave it out")
    try:
        _ = run_id.encode()
    except UnicodeEncodeError:
        raise WrongCall(call, f"got {name}={shown(run_id)}, which is no text", "leave surrogates out") from None


def is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def bad_option(workflow: object, problem: str, cure: str) -> WorkflowValidationError:
    name = type(workflow).__name__
    return WorkflowValidationError(f"{name} has {problem}", cure=f"give {cure}", workflow=None, kind="bad-option")


def check_timeout(workflow: str, timeout: float | None) -> None:
    """Refuse what is no number of seconds."""
    if timeout is not None and (isinstance(timeout, bool) or not isinstance(timeout, int | float) or not timeout > 0):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise WorkflowValidationError(
            f"{workflow} has timeout={timeout!r}",
            cure="give seconds, more than 0, or None for no limit",
            kind="bad-option",
        )


def remembered(before: Recent | None, run: Run, parent: Parent | None) -> Recent | None:
    """What a workflow remembers now that this run begins, instead of the run ``before``."""
    if parent is not None:
        note_nested(run, parent.run, parent.start.invocation, run.run_id, run.machine.plan)
        return before
    if before is not None:
        before.forget()
    return Recent(run, run.run_id, run.machine.plan)


def instruments_of(workflow: str, given: Iterable[Instrument], verbose: bool) -> tuple[Installed, ...]:
    """The instruments of a workflow's runs."""
    call = f"{workflow}(instruments=…)"
    if not isinstance(given, Iterable):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise WrongCall(call, f"takes a list of instruments, but got {shown(given)}", "put it into a list")
    return tuple(installed(call, one) for one in (*given, *([Narrator()] if verbose else [])))


def watching(
    own: tuple[Installed, ...], plan: Plan, run_id: str, parent: Parent | None, *, stored: bool
) -> Watch | None:
    """What tells a run's instruments of it; ``None`` where there are none."""
    above = None if parent is None else parent.run.watch
    if not own and above is None and not installed_for_all():
        return None
    instruments = watching_for(own, above)
    started_in = None if above is None or parent is None else above.attempt(parent.start.invocation)
    watch = Watch(instruments, ObservedRun(run_id, plan.name, plan, started_in, stored=stored))
    watch.called()
    return watch


def child_of(children: Mapping[str, Any], name: str, kind: type[Any]) -> Any:
    """The workflow for a step's parameter: the one of its name if that fits, else the only one of its class."""
    named = children.get(name)
    if named is not None and isinstance(named, kind):
        return named
    fitting = [child for child in children.values() if isinstance(child, kind)]
    return fitting[0] if len(fitting) == 1 else None


def origin_of(parent: Parent, workflow: str, run_id: str) -> Origin:
    above = parent.run.origin.path if parent.run.origin is not None else ()
    return Origin(workflow, run_id, (*above, parent.step))


def start_event_of(
    plan: Plan, given: Event | None, fields: dict[str, Any], *, stored: bool
) -> tuple[Event | None, EventError | None]:
    """The event to start with. ``None``, and what is missing, where none was given and the run may be a ``stored``
    one."""
    kind = plan.start_type
    if given is None:
        try:
            return kind(**fields), None
        except EventError as error:
            cure = (error.cure or "").replace(f"{kind.__name__}(", "run(")
            problem = f"{plan.name}.run(): {error.problem}"
            lacks = EventError(problem, cure=cure, event=error.event, field=error.field)
        if stored and not fields:
            return None, lacks
        raise lacks
    call = f"{plan.name}.run()"
    if fields:
        cure = f"put them into the event, start_event={kind.__name__}(…)"
        raise WrongCall(call, f"got start_event and the fields {', '.join(fields)}", cure)
    if not isinstance(given, kind):
        cure = f"build one, {kind.__name__}(…), or give its fields to run()"
        raise WrongCall(call, f"takes a {kind.__name__} as start_event, but got {shown(given)}", cure)
    return given, None


def chained(first: Keep | None, second: Keep | None) -> Keep | None:
    """Both, where there are two."""
    if first is None or second is None:
        return first or second

    def both(fact: Fact, commands: Sequence[Command]) -> None:
        first(fact, commands)
        second(fact, commands)

    return both
