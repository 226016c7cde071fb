"""Reading a step: from a function's signature to a `StepSpec`, with every fault found on the way."""

import inspect
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any, Never, NoReturn, get_args, get_origin

import attrs

from flowkit import hints
from flowkit.errors import WorkflowValidationError
from flowkit.events import Event, StepFailedEvent
from flowkit.resource import Factory, Resource, read_factory
from flowkit.steps import Collect, StepOptions, StepSpec, Take, source

__all__ = ["Unresolved", "read_step"]


class Unresolved(Exception):
    """An annotation mentions a name that isn't defined yet."""


@attrs.define
class _Reading:
    """What has been learnt of one step so far."""

    workflow: str
    name: str
    where: str | None
    faults: list[WorkflowValidationError] = attrs.field(factory=list[WorkflowValidationError])
    events: list[tuple[str, tuple[type[Event], ...], bool, int | None]] = attrs.field(
        factory=list[tuple[str, tuple[type[Event], ...], bool, int | None]]
    )
    context: str | None = None
    state_type: type[Any] | None = None
    resources: dict[str, tuple[Any, Factory]] = attrs.field(factory=dict[str, tuple[Any, Factory]])
    children: dict[str, type[Any]] = attrs.field(factory=dict[str, type[Any]])

    def fault(self, problem: str, cure: str, kind: str) -> None:
        self.faults.append(
            WorkflowValidationError(
                problem, cure=cure, workflow=self.workflow, step=self.name, where=self.where, kind=kind
            )
        )


def read_step(
    workflow: str,
    name: str,
    function: Callable[..., Any],
    options: StepOptions,
    *,
    is_method: bool,
    local: Mapping[str, Any],
    strict: bool = True,
) -> tuple[StepSpec | None, list[WorkflowValidationError]]:
    """The step, or what is wrong with it.

    ``local`` are names to look annotations up in, besides the function's module. Not ``strict``: raise `Unresolved` for
    an annotation whose names aren't defined yet, instead of reporting it.
    """
    body = inspect.unwrap(function)
    reading = _Reading(workflow, options.name or name, source(function))
    names: dict[str, Any] = {**local, **options.local}
    module: dict[str, Any] = getattr(body, "__globals__", {})
    if inspect.isasyncgenfunction(body) or inspect.isgeneratorfunction(body):
        reading.fault("is a generator", "return a list of events, or call ctx.send_event for each", "generator")

    parameters = list(inspect.signature(function).parameters.values())
    if is_method:
        parameters = parameters[1:]
    order: list[str] = []
    by_keyword = False
    for parameter in parameters:
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            reading.fault(
                f"has a parameter {parameter}",
                "name and annotate each parameter: the wiring is read from them",
                "parameter",
            )
            continue
        annotation = _resolved(reading, parameter.name, parameter.annotation, module, names, strict)
        if annotation is not hints.UNRESOLVED:
            _read_parameter(reading, parameter, annotation)
        by_keyword = by_keyword or parameter.kind is parameter.KEYWORD_ONLY
        order.append(parameter.name)
    _check_event_parameter(reading, options)

    returned = body.__annotations__.get("return", inspect.Parameter.empty)
    annotation = _resolved(reading, "return", returned, module, names, strict)
    single, listed, none = _read_return(reading, annotation)
    if reading.faults:
        return None, reading.faults

    event_parameter, accepts, takes_list, take = reading.events[0]
    roles = tuple("event" if one == event_parameter else "ctx" if one == reading.context else one for one in order)
    return (
        StepSpec(
            name=reading.name,
            function=function,
            is_method=is_method,
            is_async=_is_async(function),
            where=reading.where or "",
            event_parameter=event_parameter,
            accepts=accepts,
            takes_list=takes_list,
            take=take,
            context_parameter=reading.context,
            state_type=reading.state_type,
            resources=reading.resources,
            children=reading.children,
            order=roles,
            by_keyword=by_keyword,
            returns=frozenset(single),
            returns_lists=frozenset(listed),
            returns_none=none,
            returns_text=_text(returned),
            options=options,
        ),
        [],
    )


def _is_async(function: Any) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(getattr(function, "__call__", None))  # noqa: B004


def _resolved(
    reading: _Reading, where: str, annotation: Any, module: dict[str, Any], names: Mapping[str, Any], strict: bool
) -> Any:
    found = hints.resolve(annotation, module, names)
    if found is hints.UNRESOLVED:
        if not strict:
            raise Unresolved(annotation)
        what = "its return annotation" if where == "return" else f"parameter {where!r}"
        reading.fault(
            f"can't be wired, {what} is annotated {annotation!r} and a name in that isn't defined",
            "import or define it in the module (not only under TYPE_CHECKING), before the workflow first runs",
            "unresolved",
        )
    return found


# ------------------------------------------------------------------------------------------------------ parameters


def _read_parameter(reading: _Reading, parameter: inspect.Parameter, annotation: Any) -> None:
    name = parameter.name
    if annotation is inspect.Parameter.empty:
        reading.fault(
            f"has a parameter {name!r} without annotation",
            f"annotate it: {name}: MyEvent, {name}: Context, or {name}: Annotated[T, Resource(factory)]",
            "parameter",
        )
        return
    extras = get_args(annotation)[1:] if get_origin(annotation) is typing.Annotated else ()
    resource = next((extra for extra in extras if isinstance(extra, Resource)), None)
    bare = hints.plain(annotation)
    origin = get_origin(bare) or bare
    if resource is not None:
        _read_resource(reading, name, bare, resource)
    elif getattr(origin, "__flowkit_context__", False):
        if reading.context is not None:
            reading.fault(f"has two Context parameters, {reading.context!r} and {name!r}", "keep one", "parameter")
        reading.context = name
        arguments = get_args(bare)
        if arguments and arguments[0] is not Any and not isinstance(arguments[0], typing.TypeVar):
            reading.state_type = arguments[0]
    elif isinstance(origin, type) and getattr(origin, "__flowkit_workflow__", False):
        reading.children[name] = origin
    elif origin is list:
        members = _event_types(get_args(bare)[0]) if get_args(bare) else None
        collect = next((extra for extra in extras if isinstance(extra, Collect)), None)
        if members is None:
            _bad_parameter(reading, name, annotation)
        else:
            take = collect.what.n if collect is not None and isinstance(collect.what, Take) else None
            reading.events.append((name, members, True, take))
    else:
        members = _event_types(bare)
        if members is None:
            _bad_parameter(reading, name, annotation)
        else:
            reading.events.append((name, members, False, None))


def _bad_parameter(reading: _Reading, name: str, annotation: Any) -> None:
    reading.fault(
        f"has a parameter {name!r} of type {_text(annotation)}, which flowkit can't fill",
        f"take it from the event or the context, or inject it: {name}: Annotated[{_text(annotation)}, Resource(factory)]",
        "parameter",
    )


def _read_resource(reading: _Reading, name: str, wanted: Any, resource: Resource) -> None:
    try:
        factory = read_factory(resource)
    except WorkflowValidationError as error:
        reading.fault(f"takes {name!r}, but {error.problem}", str(error.cure), "resource")
        return
    if not _may_make(factory, wanted):
        reading.fault(
            f"wants {name!r} to be {_text(wanted)}, but {resource.name} makes {_text(factory.makes)}",
            "make the annotation and the factory's return type agree",
            "resource-type",
        )
    reading.resources[name] = (wanted, factory)


def _may_make(factory: Factory, wanted: Any) -> bool:
    """Whether the factory's return annotation can fit. Only certain contradictions count: the value is checked later."""
    wanted, makes = get_origin(wanted) or wanted, get_origin(factory.makes) or factory.makes
    if not (isinstance(wanted, type) and isinstance(makes, type)) or Any in (wanted, makes):
        return True  # (Any is a class since Python 3.11)
    if getattr(wanted, "_is_protocol", False) or getattr(makes, "_is_protocol", False):
        return True
    if makes is types.NoneType:
        return False
    try:
        return issubclass(makes, wanted) or issubclass(wanted, makes)
    except TypeError:
        return True


def _check_event_parameter(reading: _Reading, options: StepOptions) -> None:
    if reading.faults:
        return
    if not reading.events:
        reading.fault("takes no event", "give it one parameter annotated with the event class it is for", "no-event")
    elif len(reading.events) > 1:
        names = " and ".join(repr(name) for name, *_ in reading.events)
        reading.fault(
            f"has {len(reading.events)} event parameters, {names}",
            "take one: a union such as `ev: A | B` runs for each, and ctx.collect_events waits for several",
            "two-events",
        )
    elif options.catches and (reading.events[0][1] != (StepFailedEvent,) or reading.events[0][2]):
        reading.fault("is a @catch_error step", "take exactly one StepFailedEvent", "catch-error")


def _event_types(annotation: Any) -> tuple[type[Event], ...] | None:
    """The event classes a class or union stands for; ``None`` where anything in it is no event."""
    found: list[type[Event]] = []
    for member in hints.members(annotation):
        origin = get_origin(member) or member
        if not (isinstance(origin, type) and issubclass(origin, Event)):
            return None
        found.append(origin)
    return tuple(found)


# --------------------------------------------------------------------------------------------------------- returns


def _read_return(reading: _Reading, annotation: Any) -> tuple[list[type[Event]], list[type[Event]], bool]:
    single: list[type[Event]] = []
    listed: list[type[Event]] = []
    none = False
    if annotation is hints.UNRESOLVED:
        return single, listed, none
    if annotation is inspect.Parameter.empty:
        reading.fault(
            "has no return annotation",
            "say what it returns: -> MyEvent, -> StopEvent, -> A | B | None, or -> list[A]",
            "no-return",
        )
        return single, listed, none
    if annotation is None:
        return single, listed, True
    for member in hints.members(annotation):
        origin = get_origin(member) or member
        if member in (types.NoneType, None, NoReturn, Never):
            none = True
        elif isinstance(origin, type) and issubclass(origin, Event):
            single.append(origin)
        elif origin is list:
            arguments = get_args(member)
            events = _event_types(arguments[0]) if arguments else (Event,)
            if events is None:
                _bad_return(reading, annotation)
            else:
                listed.extend(events)
        else:
            _bad_return(reading, annotation)
    return single, listed, none


def _bad_return(reading: _Reading, annotation: Any) -> None:
    reading.fault(
        f"is annotated to return {_text(annotation)}",
        "return None, an event, or a list of events; put anything else into a field of an event",
        "return-type",
    )


def _text(annotation: Any) -> str:
    if isinstance(annotation, str):
        return annotation
    if isinstance(annotation, type) and not get_args(annotation):
        return annotation.__name__
    if get_origin(annotation) in (typing.Union, types.UnionType):
        return " | ".join(_text(argument) for argument in get_args(annotation))
    if annotation is None or annotation is types.NoneType:
        return "None"
    arguments = get_args(annotation)
    origin = get_origin(annotation)
    if isinstance(origin, type) and arguments:
        return f"{origin.__name__}[{', '.join(map(_text, arguments))}]"
    return str(annotation)
