"""``flowkit check``: a workflow's wiring, then three things that hold of every correct workflow, looked for in
simulated runs (`flowkit.testing`).

Questions of a run are answered, as far as it can be told by what: by the class that the steps take or wait for, with
the question's own fields where it has them too, and the simplest values for the others.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import attrs
import click

from flowkit.command_line.exits import CHECK_FAILED, DONE, INTERNAL, INTERRUPTED, WRONG_USE, Refused
from flowkit.command_line.flow_verb import FlowVerb
from flowkit.command_line.options import flow_argument, json_option, traceback_option, values_argument
from flowkit.command_line.output import prints_aside, prints_nowhere, say, tell, tell_json

if TYPE_CHECKING:
    from flowkit.events import Event
    from flowkit.workflow import Workflow

__all__ = ["check"]

STARTS = 3
"""Start events that are drawn where none is given."""
CHECKS = {
    "schedule": ("assert_schedule_independent", "the order of its steps makes no difference"),
    "crash": ("assert_checkpoint_equivalence", "a crash makes no difference"),
    "cancel": ("assert_cancels_cleanly", "cancelling it leaves nothing behind"),
}
FAILURES = {
    "schedule": "the order of its steps makes a difference",
    "crash": "a crash makes a difference",
    "cancel": "cancelling it does harm",
}
"""Unless a run fails by itself."""
BY_ITSELF = ("step-failed", "deadlock", "stalled")


@attrs.define
class Verdict:
    """What became of one check: "passed" with what was looked at, or "failed" with the report."""

    name: str
    verdict: str
    looked_at: list[str] = attrs.field(factory=list[str])
    kind: str | None = None
    token: str | None = None
    report: str | None = None


@click.command(
    cls=FlowVerb,
    codes={
        DONE: "no fault was found",
        CHECK_FAILED: "a fault was found",
        WRONG_USE: "wrong use, or a workflow that can't be simulated as it is",
        INTERNAL: None,
        INTERRUPTED: None,
    },
    short_help="Look for faults in a workflow: its wiring, then its runs.",
)
@flow_argument
@values_argument
@click.option(
    "--budget",
    metavar="TIME",
    help="How long each check looks, such as 500ms or 30s.  [default: 2s]",
)
@click.option("--runs", metavar="N", type=click.IntRange(min=1), help="How many runs each check makes, instead.")
@click.option(
    "--bound",
    metavar="N",
    type=click.IntRange(min=0),
    help="How far schedules deviate from the plainest to be tried for certain.  [default: 2]",
)
@click.option(
    "--backend",
    type=click.Choice(["asyncio", "trio", "both"]),
    default="asyncio",
    show_default=True,
    help="Whose scheduling is simulated.",
)
@click.option(
    "--only",
    type=click.Choice(["wiring", *CHECKS]),
    multiple=True,
    help="Check only this; several times for several. (The wiring always is.)",
)
@json_option
@traceback_option
def check(
    flow: str,
    values: tuple[str, ...],
    budget: str | None,
    runs: int | None,
    bound: int | None,
    backend: str,
    only: tuple[str, ...],
    as_json: bool,
) -> int:
    """Look for faults in a workflow.

    First in its wiring: every fault is told. Then in runs of it that are simulated, in virtual time and in an order
    that flowkit decides, for three things that hold of every correct workflow: the order of its steps makes no
    difference, nor does a crash, and cancelling it leaves nothing behind. Needs flowkit[testing].

    KEY=VALUE are the fields of the start event, as for `flowkit run`. Without any, a few are drawn from their types.

    Simulated steps get no network and no processes, but the files that they write are real: name a function that
    returns the workflow with fakes.
    """
    from flowkit.command_line.loading import load_with_maker
    from flowkit.errors import InvalidWorkflow
    from flowkit.workflow import plan_of

    if budget is not None and runs is not None:
        raise click.UsageError("--budget and --runs say the same thing: give one of them")
    with prints_aside(as_json):
        workflow, maker = load_with_maker(flow)
    plan = plan_of(workflow)
    told: dict[str, Any] = {"workflow": plan.name, "wiring": [], "checks": []}
    try:
        workflow.validate()
    except InvalidWorkflow as error:
        told["wiring"] = [_fault(one) for one in error.exceptions]
        _tell(told, [str(error)], as_json)
        return CHECK_FAILED
    lines = [f"wiring: ok ({len(plan.steps)} {'step' if len(plan.steps) == 1 else 'steps'})"]
    wanted = [name for name in CHECKS if not only or name in only]
    if not wanted:
        _tell(told, lines, as_json)
        return DONE
    if not as_json:
        tell(lines[0])
    _check_is_installed(backend)
    starts = _starts(flow, workflow, values)
    told["starts"] = starts
    if not as_json and not values:
        tell(f"start:  {' and '.join(map(_shown, starts))}")
    search = _Search(maker, starts, _answers(workflow), runs or budget or "2s", bound, backend)
    verdicts: list[Verdict] = []
    for name in wanted:
        verdict = search.check(name)
        if not as_json:
            _tell_verdict(verdict, verdicts)
        verdicts.append(verdict)
    if as_json:
        tell_json({**told, "checks": [attrs.asdict(one) for one in verdicts]})
    failed = [one for one in verdicts if one.verdict == "failed"]
    if (advice := _advice(flow, failed, values)) is not None:
        say(advice)
    return CHECK_FAILED if failed else DONE


def _tell(told: dict[str, Any], lines: Sequence[str], as_json: bool) -> None:
    if as_json:
        tell_json(told)
        return
    for line in lines:
        tell(line)


def _fault(error: Any) -> dict[str, Any]:
    return {"kind": error.kind, "step": error.step, "where": error.where, "text": str(error)}


def _shown(event: Any) -> str:
    from flowkit.errors import shown

    return shown(event, 200)


def _check_is_installed(backend: str) -> None:
    from importlib.util import find_spec

    if find_spec("hypothesis") is None:
        raise Refused(
            "the wiring is sound; checking runs needs flowkit[testing], which isn't installed: "
            'pip install "flowkit[testing]", or write --only wiring'
        )
    if backend != "asyncio" and find_spec("trio") is None:
        raise Refused('trio isn\'t installed: pip install "flowkit[trio]"')


# -------------------------------------------------------------------------------------------------------------- search


@attrs.frozen
class _Search:
    """The three checks of one workflow."""

    flow: Any
    starts: "Sequence[Event]"
    answer: "Callable[[Any], Any] | None"
    budget: str | int
    bound: int | None
    backend: str

    def check(self, name: str) -> Verdict:
        """Look for a run in which this doesn't hold.

        Raises:
            Refused: the workflow can't be simulated.
        """
        from flowkit import testing

        function = getattr(testing, CHECKS[name][0])
        verdict = Verdict(name, "passed")
        more: dict[str, Any] = {} if self.bound is None else {"bound": self.bound}
        try:
            for start in self.starts:
                with prints_nowhere():  # hundreds of runs print the same
                    coverage = function(
                        self.flow, start, budget=self._share(), answer=self.answer, backend=self.backend, **more
                    )
                verdict.looked_at.append(str(coverage))
        except testing.Counterexample as found:
            return Verdict(name, "failed", verdict.looked_at, found.kind, found.token, str(found))
        except testing.TestingError as error:
            raise Refused(str(error), cause=error) from error
        return verdict

    def _share(self) -> str | int:
        """What of the budget is for one start event."""
        from flowkit.testing.settings import parse_budget

        budget = parse_budget(self.budget, "--budget")
        if budget.runs is not None:
            return max(1, budget.runs // len(self.starts))
        return f"{(budget.seconds or 0) * 1000 / len(self.starts):g}ms"


def _tell_verdict(verdict: Verdict, before: Sequence[Verdict]) -> None:
    title = CHECKS[verdict.name][1]
    if verdict.verdict == "passed":
        tell(f"{verdict.name}: ok, {title} ({verdict.looked_at[0]})")
        for more in verdict.looked_at[1:]:
            tell(f"{' ' * len(verdict.name)}      and ({more})")
        return
    if verdict.kind in BY_ITSELF:
        why = f"a run doesn't end well ({verdict.kind})"
        if any(one.kind == verdict.kind for one in before):
            tell(f"{verdict.name}: FAILED, as above")
            return
    else:
        why = f"{FAILURES[verdict.name]} ({verdict.kind})"
    tell(f"{verdict.name}: FAILED, {why}\n\n{verdict.report}\n")


def _advice(flow: str, failed: Sequence[Verdict], values: Sequence[str]) -> str | None:
    """What may help where it isn't the workflow's fault."""
    reports = "".join(one.report or "" for one in failed)
    if not values and "UnknownField" in reports:
        return f"(Give the fields that its steps read: flowkit check {flow} key=value)"
    if not values and "step-failed" in {one.kind for one in failed}:
        return f"(The start events were made up. Give one that it is for: flowkit check {flow} key=value)"
    if "deadlock" in {one.kind for one in failed} and "waits for" in reports:
        return "(It waits for an answer that isn't known here: use testing.explore(…, answer=…) in a test.)"
    return None


# ------------------------------------------------------------------------------------------------- starts and answers


def _starts(flow: str, workflow: "Workflow", values: Sequence[str]) -> "list[Event]":
    """The start event that was given; else a few."""
    from flowkit import testing
    from flowkit.command_line.values import event_of, fields_of, fields_text
    from flowkit.workflow import plan_of

    kind = plan_of(workflow).start_type
    if values:
        return [event_of(kind, values, workflow=workflow)]
    if kind.__flowkit_open__ or not fields_of(kind):
        return [kind()]
    try:
        return _drawn(testing.events(kind), STARTS)
    except testing.TestingError as error:
        raise Refused(
            f"no {kind.__name__} can be made up ({error}); give its fields, {fields_text(kind)}: flowkit check {flow} "
            "key=value"
        ) from error


def _drawn(strategy: Any, count: int) -> list[Any]:
    """The first different examples of a strategy, the simplest first; always the same."""
    from hypothesis import HealthCheck, Phase, given, settings

    found: list[Any] = []

    @settings(
        max_examples=count * 5,
        database=None,
        derandomize=True,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
    )
    @given(strategy)
    def take(value: Any) -> None:
        if len(found) < count and value not in found:
            found.append(value)

    take()
    return found


def _answers(workflow: "Workflow") -> "Callable[[Any], Any] | None":
    """What answers the questions of a run; ``None`` where nothing is known to."""
    from flowkit import testing
    from flowkit.command_line.values import fields_of

    kinds = _awaited(workflow)
    if not kinds:
        return None
    kind = kinds[0]
    names = {field.keyword for field in fields_of(kind)}
    try:
        plainest: Event = kind(response="1") if kind.__flowkit_open__ else _drawn(testing.events(kind), 1)[0]
    except testing.TestingError:
        return None

    def answer(question: Any) -> Any:
        same = {name: value for name, value in question.items() if name in names}
        try:
            return plainest.replace(**same)
        except Exception:  # noqa: BLE001 - the author's validators: it isn't answered by this
            return None

    return answer


def _awaited(workflow: "Workflow") -> "list[type[Event]]":
    """The answers that its steps take or wait for, and those of the workflows nested in it."""
    from flowkit.drawing.mentions import awaited
    from flowkit.events import HumanResponseEvent
    from flowkit.workflow import drawn_of, plan_of

    plan = plan_of(workflow)
    found: list[type[Event]] = [kind for kind in plan.accepted if issubclass(kind, HumanResponseEvent)]
    found += [kind for spec in plan.steps for kind in awaited(plan, spec, type(workflow))[1]]
    for child in drawn_of(workflow)[1].values():
        found += _awaited(child)
    return list(dict.fromkeys(found))
