"""`Workflow`: a class of steps, and the door to its runs.

Steps are read when the class is built (signature faults are raised there), the wiring is checked before the first run
(wiring faults, all at once). What an instance needs besides its author's attributes is kept in one private record, made
when it is first asked for: a subclass whose ``__init__`` doesn't call ours works all the same.

What keeps runs (serialization, logs) is imported when it is first needed: it takes as long as a third of the rest.
"""

import copy
import functools
import math
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, cast
from weakref import WeakKeyDictionary

import anyio
import attrs

from flowkit import backend, hints, outside
from flowkit.context import Context
from flowkit.errors import (
    ContextInUse,
    InvalidWorkflow,
    NoEventLoop,
    StateError,
    WorkflowValidationError,
    WrongCall,
    shown,
)
from flowkit.events import Event
from flowkit.facts import StartStep
from flowkit.handler import Handler
from flowkit.instruments import Installed, Instrument
from flowkit.launching import (
    Keep,
    Parent,
    bad_option,
    chained,
    check_id,
    check_timeout,
    child_of,
    instruments_of,
    is_count,
    origin_of,
    remembered,
    start_event_of,
    watching,
)
from flowkit.machine import Machine
from flowkit.notebooks import InNotebooks
from flowkit.plan import Plan
from flowkit.recent import Recent
from flowkit.resource_host import Host
from flowkit.resource_pool import Pool
from flowkit.roster import added_to, annotations_of, check_is_step, name_of, read_steps, undecorated
from flowkit.runner import Run
from flowkit.state import State
from flowkit.steps import StepSpec
from flowkit.stream import DEFAULT_CAPACITY, Stream
from flowkit.turns import Turns, turn_in
from flowkit.wiring import faults

if TYPE_CHECKING:
    import cattrs

    from flowkit.journal import Journal
    from flowkit.kept import Kept
    from flowkit.log import Durability
    from flowkit.records import Records
    from flowkit.snapshot import Snapshots
    from flowkit.store import Store
    from flowkit.tenant import Tenant

__all__ = ["Workflow", "check_wiring", "drawn_of", "plan_of", "records_of", "run_hosted"]

_UNSET: Any = object()


@attrs.define(eq=False)
class _Settings:
    timeout: float | None = None
    instruments: tuple[Installed, ...] = ()
    validate: bool = True
    patient: bool = False
    stream_buffer: int = DEFAULT_CAPACITY
    types: tuple[type, ...] = ()
    converter: "cattrs.Converter | None" = None


@attrs.define(eq=False)
class _Record:
    """What flowkit keeps of a workflow instance."""

    settings: _Settings = attrs.field(factory=_Settings)
    limit: int | None = None  # of runs at once
    turns: WeakKeyDictionary[Any, Turns] = attrs.field(factory=WeakKeyDictionary[Any, Turns])
    steps: dict[str, Callable[..., Any]] = attrs.field(factory=dict[str, Callable[..., Any]])
    children: "dict[str, Workflow]" = attrs.field(factory=lambda: dict[str, Workflow]())
    plan: Plan | None = None
    checked: bool = False
    pool: Pool | None = None
    host: Host | None = None
    snapshots: "Snapshots | None" = None
    records: "Records | None" = None
    recent: Recent | None = None


class _AddStep:
    """``Workflow.add_step``: which steps it adds to depends on what it is called on."""

    def __get__(self, workflow: "Workflow | None", cls: "type[Workflow]") -> Callable[[Callable[..., Any]], None]:
        if workflow is None:
            return functools.partial(_add_to_class, cls)
        return functools.partial(_add_to_instance, _record(workflow), cls)


class Workflow(InNotebooks):
    """A workflow: subclass it and decorate methods with `step`, or make one and attach functions with
    ``@step(workflow=w)``.

    Args:
        timeout: seconds a run may take; ``None`` (the default) sets no limit: deadlines belong to the caller.
        verbose: print a line when a step starts and ends.
        instruments: what is told of this instance's runs, and of those nested in them (`Instrument`).
        disable_validation: run without checking the wiring.
        num_concurrent_runs: how many runs of this instance may be under way at once; more wait their turn, which
            doesn't count towards their timeout. ``None``: any number.
        stalled: what a run does that comes to rest and could never end by itself: ``"fail"`` at once with
            `WorkflowStalled`, or ``"wait"`` because it is driven from outside by ``handler.send_event``.
        stream_buffer: how many events a run's stream keeps for readers that are behind.
        types: classes of values in the state or in events that stores, checkpoints and `Context.to_dict` are to bring
            back, besides events and what their annotations mention.
        converter: a cattrs converter with hooks for classes that flowkit can't take apart (give those in ``types``
            too).

    Raises:
        WorkflowValidationError: an argument makes no sense.
    """

    __flowkit_workflow__: ClassVar[bool] = True
    __flowkit_free__: ClassVar[dict[str, Callable[..., Any]]] = {}
    __flowkit_local__: ClassVar[dict[str, Any]] = {}
    __flowkit_where__: ClassVar[str | None] = None

    def __init__(
        self,
        *,
        timeout: float | None = None,
        verbose: bool = False,
        disable_validation: bool = False,
        num_concurrent_runs: int | None = None,
        stalled: Literal["fail", "wait"] = "fail",
        stream_buffer: int = DEFAULT_CAPACITY,
        types: Iterable[type] = (),
        converter: "cattrs.Converter | None" = None,
        instruments: Iterable[Instrument] = (),
    ) -> None:
        check_timeout(type(self).__name__, timeout)
        if num_concurrent_runs is not None and not (is_count(num_concurrent_runs) and num_concurrent_runs >= 1):
            raise bad_option(self, f"num_concurrent_runs={num_concurrent_runs!r}", "a whole number, 1 or more, or None")
        if stalled not in ("fail", "wait"):
            raise bad_option(self, f"stalled={stalled!r}", '"fail" or "wait"')
        if not (is_count(stream_buffer) and stream_buffer >= 1):
            raise bad_option(self, f"stream_buffer={stream_buffer!r}", "a whole number of events, 1 or more")
        record = _record(self)
        record.settings = _Settings(
            timeout,
            instruments_of(type(self).__name__, instruments, verbose),
            not disable_validation,
            stalled == "wait",
            stream_buffer,
            tuple(types),
            converter,
        )
        record.limit = num_concurrent_runs

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.__flowkit_free__ = {}
        frame = hints.statement(globals())
        cls.__flowkit_where__ = hints.place(frame)
        cls.__flowkit_local__ = {**cls.__flowkit_local__, **hints.local_names(annotations_of(cls), frame)}
        read_steps(cls, added_to(cls), strict=False)

    # ------------------------------------------------------------------------------------------------------- wiring

    add_step: ClassVar[_AddStep] = _AddStep()
    """Add a function as a step: to a class and its subclasses, or (called on an instance) to that instance only.

    ``@step(workflow=…)`` does this.
    """

    def step_names(self) -> tuple[str, ...]:
        """The names of this workflow's steps, in wiring order."""
        return tuple(spec.name for spec in self._plan().steps)

    def add_workflows(self, **children: "Workflow") -> None:
        """Give steps that have a parameter of a child's class that child, to run inside the step.

        Raises:
            WorkflowValidationError: something given is no workflow instance.
        """
        for name, child in children.items():
            if not isinstance(child, Workflow):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise bad_option(self, f"{name}={shown(child)} in add_workflows", "a workflow instance")
            _record(self).children[name] = child

    def validate(self) -> None:
        """Check the wiring without running it.

        Raises:
            InvalidWorkflow: with every fault there is.
        """
        record = _record(self)
        plan = self._plan()
        found = faults(plan, driven_outside=record.settings.patient)
        for spec in plan.steps:
            for name, kind in spec.children.items():
                if child_of(record.children, name, kind) is None:
                    several = any(isinstance(child, kind) for child in record.children.values())
                    added = f"several were added and none is called {name!r}" if several else "none was added"
                    found.append(
                        WorkflowValidationError(
                            f"takes {name!r}, a {kind.__name__}, but {added}",
                            cure=f"call workflow.add_workflows({name}={kind.__name__}(…)) before the run",
                            workflow=plan.name,
                            step=spec.name,
                            where=spec.where,
                            kind="no-child",
                        )
                    )
        if found:
            raise InvalidWorkflow(plan.name, [*found, *undecorated(type(self))])
        record.checked = True

    def _plan(self) -> Plan:
        record = _record(self)
        if record.steps:
            if record.plan is None:
                specs = read_steps(type(self), {**added_to(type(self)), **record.steps}, strict=True)
                record.plan = Plan.of(type(self).__name__, specs, where=type(self).__flowkit_where__)
            return record.plan
        cls = type(self)
        plan: Plan | None = cls.__dict__.get("__flowkit_plan__")
        if plan is None:
            plan = Plan.of(cls.__name__, read_steps(cls, added_to(cls), strict=True), where=cls.__flowkit_where__)
            cls.__flowkit_plan__ = plan  # type: ignore[attr-defined]
        return plan

    # --------------------------------------------------------------------------------------------------------- runs

    def run(
        self,
        ctx: Context[Any] | None = None,
        stepwise: bool = False,
        start_event: Event | None = None,
        *,
        timeout: float | None = _UNSET,
        run_id: str | None = None,
        store: "Store | None" = None,
        durability: "Durability" = "sync",
        **fields: Any,
    ) -> Handler:
        """Start a run. Await the handler for the result, use it in ``async with``, or keep it (see `Handler`).

        Args:
            ctx: a context to go on from: of a run that has ended, of `Context.from_dict`, or one made by hand.
            stepwise: let ``handler.run_step()`` drive the run.
            start_event: the event to start with, instead of building it from ``fields``.
            timeout: seconds, instead of the workflow's own; ``None`` for no limit.
            run_id: the run's id; made up by default.
            store: where to keep the run, such as ``SQLiteStore("runs.db")``: it survives the end of the process. With
                the ``run_id`` of a run that is there already this is that run: it goes on, or its result is given, and
                the fields aren't needed. Whoever has many runs opens a runtime instead (`open_runtime`).
            durability: ``"sync"``: nothing is done before what led to it is on disk. ``"async"``: it is done at once,
                and is on disk some milliseconds later; a crash may undo what was done last.
            **fields: fields of the start event.

        Raises:
            InvalidWorkflow: the wiring is faulty.
            EventError: the fields don't make a start event.
            ContextInUse: the context drives another run.
            NoEventLoop: no event loop is running.
            WrongCall: an argument is of the wrong type, or some don't go together.

        With a store, awaiting the handler may raise what storage_errors.py lists, too. A run whose owner goes away is
        not cancelled then but suspended: it raises `RunSuspended`, and the same call goes on with it.
        """
        kept = None
        if store is not None:
            from flowkit.kept import Kept

            kept = Kept(store, None, durability)
        elif durability != "sync":
            call = f"{type(self).__name__}.run()"
            raise WrongCall(call, f"got durability={shown(durability)} without a store", "give store=, or leave it out")
        return self._run(ctx, stepwise, start_event, fields, timeout, run_id, None, kept)

    def _run(
        self,
        ctx: Context[Any] | None,
        stepwise: bool,
        start_event: Event | None,
        fields: dict[str, Any],
        timeout: float | None,
        run_id: str | None,
        keep: Keep | None,
        kept: "Kept | None" = None,
    ) -> Handler:
        record = _record(self)
        settings = record.settings
        if timeout is _UNSET:
            timeout = settings.timeout
        else:
            check_timeout(type(self).__name__, timeout)
        if settings.validate and not record.checked:
            check_wiring(self)
        plan = self._plan()
        if (loop := backend.current()) is None:
            raise NoEventLoop(plan.name)
        call = f"{plan.name}.run()"
        if run_id is not None:
            check_id(call, "run_id", run_id)
        machine: Machine | None = None
        if ctx is not None:
            self._check_context(ctx, plan, call)
            machine = ctx._resume  # pyright: ignore[reportPrivateUsage] - contexts and workflows are one unit
        resumed = machine is not None
        if machine is None:
            state = State(plan.state_type) if ctx is None else ctx._state  # pyright: ignore[reportPrivateUsage]
            machine = Machine(plan, state, stepwise=stepwise, patient=settings.patient)
        elif start_event is not None or fields:
            raise WrongCall(
                call,
                "got a context that goes on with an unfinished run, which has had its start event",
                "leave the other arguments out",
            )
        if kept is not None:
            kept.check(call)
        start, lacks = None, None
        if not resumed and not (kept is not None and kept.goes_on):
            start, lacks = start_event_of(plan, start_event, fields, stored=kept is not None)
        parent: Parent | None = self.__dict__.get("_flowkit_parent")
        if kept is None and parent is not None and parent.run.log is not None:
            from flowkit.kept import kept_with

            kept = kept_with(parent.run.log)
            run_id = run_id or parent.next_id()
        identity = run_id or outside.current().new_id()
        watch = watching(settings.instruments, plan, identity, parent, stored=kept is not None)
        run: Run = (outside.current().run_type or Run)(
            machine,
            _Owner(self),  # made anew: kept in the record it would keep the workflow alive
            loop,
            Stream(settings.stream_buffer),
            run_id=identity,
            timeout=timeout,
            parent=parent.run if parent is not None else None,
            origin=None if parent is None else origin_of(parent, plan.name, identity),
            keep=chained(keep, watch),
        )
        run.watch = watch
        if kept is not None:
            run.told, run.lacks = start_event is not None or bool(fields), lacks
            kept.take(run, records_of(self), loop)
        record.recent = remembered(record.recent, run, parent)
        run.deadline = math.inf if run.hosted else anyio.current_effective_deadline()
        if ctx is not None:
            ctx._resume = None  # pyright: ignore[reportPrivateUsage]
            ctx._run = run  # pyright: ignore[reportPrivateUsage]
            ctx._workflow = self  # pyright: ignore[reportPrivateUsage]
        run.turn = turn_in(loop.loop, record.turns, record.limit)
        return Handler(run, start, ctx, loop, self)

    def _check_context(self, ctx: Context[Any], plan: Plan, call: str) -> None:
        if not isinstance(ctx, Context):  # pyright: ignore[reportUnnecessaryIsInstance]
            cure = "make one, Context(workflow)"
            if isinstance(ctx, Event):
                cure = "give the event by name, run(start_event=…)"
            elif isinstance(ctx, Handler):
                cure = "give its context, run(ctx=handler.ctx)"
            raise WrongCall(call, f"takes a Context as ctx, but got {shown(ctx)}", cure)
        run, state, owner = ctx._run, ctx._state, ctx._workflow  # pyright: ignore[reportPrivateUsage]
        if run is not None and not cast(Run, run).settled:
            raise ContextInUse(plan.name)
        resume = ctx._resume  # pyright: ignore[reportPrivateUsage]
        if resume is not None and cast(Machine, resume).plan is not plan and type(owner) is not type(self):
            other = type(owner).__name__
            raise WrongCall(call, f"got the context of an unfinished run of {other}", f"run it with a {other}")
        if state.kind is not plan.state_type:
            has = "a dictionary" if state.kind is None else f"a {state.kind.__name__}"
            wants = "a dictionary" if plan.state_type is None else f"a {plan.state_type.__name__}"
            raise WrongCall(
                call, f"got a context whose state is {has}, but its steps take {wants}", "make one of its own"
            )

    def run_kept(self, keep: Keep, *, run_id: str, **arguments: Any) -> Handler:
        """`run`, with each fact handed to ``keep`` before it takes effect. For checkpoints."""
        ctx: Context[Any] | None = arguments.pop("ctx", None)
        stepwise: bool = arguments.pop("stepwise", False)
        start_event: Event | None = arguments.pop("start_event", None)
        timeout: float | None = arguments.pop("timeout", _UNSET)
        return self._run(ctx, stepwise, start_event, arguments, timeout, run_id, keep)

    def begin_journal(self, ctx: Context[Any]) -> "tuple[Journal, Machine | None]":
        """An empty journal for a run with this context, and the unfinished run it goes on with, if there is one."""
        snapshots = self._snapshots()
        resumed: Machine | None = ctx._resume  # pyright: ignore[reportPrivateUsage]
        state: State = ctx._state  # pyright: ignore[reportPrivateUsage]
        began = snapshots.dump_state(state) if resumed is None else snapshots.dump(resumed, ended=True)
        from flowkit.journal import Journal

        return Journal(snapshots, began, _record(self).settings.patient), resumed

    # ---------------------------------------------------------------------------------------------------- resources

    async def aclose(self) -> None:
        """Close the resources this instance holds, last built first. A later run builds them anew.

        Raises:
            Exception: what a clean-up raised, after all others were closed.
        """
        record = _record(self)
        pool, record.pool = record.pool, None
        host, record.host = record.host, None
        if host is not None:
            await host.close()
        elif pool is not None:
            await pool.unwind()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    def _pool(self) -> Pool:
        record = _record(self)
        if record.pool is None:
            record.pool = Pool(functools.partial(_start_host, record))
        return record.pool

    # ------------------------------------------------------------------------------------- what a context asks of us

    def state_for(self, state: Any) -> State:
        """A state for a new context: ``state``, or an empty one.

        Raises:
            StateError: it isn't of the class that the steps declare.
        """
        kind = self._plan().state_type
        if state is not None and not isinstance(state, kind or dict):
            wanted = "a dict, as no step declares Context[…]" if kind is None else kind.__name__
            raise StateError(
                f"the state of {type(self).__name__} is {wanted}, but got {shown(state)}",
                "give Context(workflow, state=…) one",
            )
        return State(kind, state)

    def dump_state(self, state: State) -> dict[str, Any]:
        """A state without a run, as plain data."""
        return self._snapshots().dump_state(state)

    def dump_machine(self, machine: Machine) -> dict[str, Any]:
        """State and run, as plain data; of a run that ended its result."""
        return self._snapshots().dump(machine, ended=True)

    def load_context(self, data: dict[str, Any]) -> tuple[State, Machine | None]:
        """State, and the unfinished run if there is one, from what ``to_dict`` gave."""
        return self._snapshots().load(data, patient=_record(self).settings.patient)

    def _snapshots(self) -> "Snapshots":
        record = _record(self)
        if record.snapshots is None:
            from flowkit.snapshot import Snapshots

            record.snapshots = Snapshots(self._plan(), record.settings.types, record.settings.converter)
        return record.snapshots


@attrs.define(eq=False)
class _Owner:
    """What a run needs of its workflow (the runner's `Owner`)."""

    workflow: Workflow

    def bind(self, spec: StepSpec) -> Callable[..., Any]:
        return spec.bind(self.workflow)

    def child_for(self, name: str, kind: type[Any], run: Run, start: StartStep) -> Any:
        if (child := child_of(_record(self.workflow).children, name, kind)) is None:
            raise WrongCall(
                f"step {self.workflow._plan().steps[start.step].name!r}",  # pyright: ignore[reportPrivateUsage]
                f"takes {name!r}, a {kind.__name__}, but none was added",
                f"call add_workflows({name}=…)",
            )
        # A copy that knows its parent and shares everything else: one child may run in several parents at once.
        bound = copy.copy(child)
        bound.__dict__["_flowkit_parent"] = Parent(run, self.workflow._plan().steps[start.step].name, start, name)  # pyright: ignore[reportPrivateUsage]
        return bound

    def dump_run(self, machine: Machine) -> dict[str, Any]:
        return self.workflow._snapshots().dump(machine)  # pyright: ignore[reportPrivateUsage]

    @property
    def pool(self) -> Pool:
        return self.workflow._pool()  # pyright: ignore[reportPrivateUsage]


# -------------------------------------------------------------------------------------------------------- the pieces


def plan_of(workflow: Workflow) -> Plan:
    """A workflow's plan."""
    return workflow._plan()  # pyright: ignore[reportPrivateUsage]


def drawn_of(workflow: Workflow) -> "tuple[Recent | None, dict[str, Workflow]]":
    """What is remembered of the run that this instance began last, and the workflows added to it."""
    return (record := _record(workflow)).recent, record.children


def records_of(workflow: Workflow) -> "Records":
    """How runs of a workflow are written to a store."""
    record = _record(workflow)
    if record.records is None:
        from flowkit.records import Records

        record.records = Records(plan_of(workflow), workflow._snapshots().codec)  # pyright: ignore[reportPrivateUsage]
    return record.records


def share_records(workflow: Workflow, other: Workflow) -> None:
    """Have what another instance has built to write its runs with, where the two have one plan."""
    mine, theirs = _record(workflow), _record(other)
    same = mine.settings.types == theirs.settings.types and mine.settings.converter is theirs.settings.converter
    if same and plan_of(workflow) is plan_of(other):
        mine.records, mine.snapshots = records_of(other), theirs.snapshots


def check_wiring(workflow: Workflow) -> None:
    """`Workflow.validate`, once, and not where it was to be left out."""
    record = _record(workflow)
    if record.settings.validate and not record.checked:
        workflow.validate()


def run_hosted(
    workflow: Workflow,
    tenant: "Tenant",
    durability: "Durability",
    run_id: str,
    *,
    go_on: bool = False,
    **arguments: Any,
) -> Handler:
    """``workflow.run(…)`` for a runtime, which drives it; ``go_on``: the run is in the store already."""
    stepwise: bool = arguments.pop("stepwise", False)
    start_event: Event | None = arguments.pop("start_event", None)
    timeout: float | None = arguments.pop("timeout", _UNSET)
    ctx: Context[Any] | None = arguments.pop("ctx", None)
    from flowkit.kept import Kept

    kept = Kept(tenant.store, tenant, durability, hosted=True, goes_on=go_on)
    return workflow._run(ctx, stepwise, start_event, arguments, timeout, run_id, None, kept)  # pyright: ignore[reportPrivateUsage]


def _record(workflow: Workflow) -> _Record:
    record: _Record | None = workflow.__dict__.get("_flowkit_record")
    if record is None:
        record = workflow.__dict__["_flowkit_record"] = _Record()
    return record


def _add_to_class(cls: type[Workflow], function: Callable[..., Any]) -> None:
    check_is_step(cls, function)
    if cls is Workflow:
        raise WorkflowValidationError(
            f"{name_of(function)} was to be a step of Workflow itself, and so of every workflow",
            cure="add it to a subclass, or to an instance, w = Workflow()",
            kind="bad-option",
        )
    read_steps(cls, {**added_to(cls), name_of(function): function}, strict=False)
    cls.__flowkit_free__ = {**cls.__flowkit_free__, name_of(function): function}
    _forget_plans(cls)


def _forget_plans(cls: type[Workflow]) -> None:
    if "__flowkit_plan__" in cls.__dict__:
        del cls.__flowkit_plan__  # type: ignore[attr-defined]
    for subclass in cls.__subclasses__():
        _forget_plans(subclass)


def _add_to_instance(record: _Record, cls: type[Workflow], function: Callable[..., Any]) -> None:
    check_is_step(cls, function)
    steps = {**record.steps, name_of(function): function}
    read_steps(cls, {**added_to(cls), **steps}, strict=False)
    record.steps = steps
    record.plan = None
    record.checked = False
    record.snapshots = record.records = None


def _start_host(record: _Record) -> None:
    loop = backend.current()
    assert loop is not None and record.pool is not None

    def ended(host: Host) -> None:
        if record.host is host:
            record.host = record.pool = None  # a run in another loop builds anew

    host = record.host = Host(record.pool, loop.loop, ended)
    loop.supervise(host.run, "flowkit resources", host.lost)
