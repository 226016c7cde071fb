"""Reading a step: from a function's signature to a `StepSpec`, with every fault found on the way."""

import collections.abc
import inspect
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Never, NoReturn, get_args, get_origin

import attrs

from flowkit import hints
from flowkit.errors import WorkflowValidationError, shown
from flowkit.events import Event, StepFailedEvent, StopEvent
from flowkit.resource import Factory, Resource, may_make, read_factory, type_name
from flowkit.steps import All, Collect, StepOptions, StepSpec, Take, python_function, source

__all__ = ["read_step"]

_LISTS = (list, tuple, set, frozenset)
_LISTS_ABC = (collections.abc.Iterable, collections.abc.AsyncIterable)
_DICTS = (dict, collections.abc.Mapping, collections.abc.MutableMapping)


@attrs.frozen
class _EventParameter:
    name: str
    accepts: tuple[type[Event], ...]
    erased: dict[type[Event], str]
    takes_list: bool = False
    take: int | None = None


@attrs.define
class _Reading:
    """What has been learnt of one step so far. ``unresolved``: an annotation mentions a name that isn't defined yet."""

    workflow: str
    name: str
    where: str | None
    module: dict[str, Any]
    local: Mapping[str, Any]
    strict: bool
    unresolved: bool = False
    faults: list[WorkflowValidationError] = attrs.field(factory=list[WorkflowValidationError])
    events: list[_EventParameter] = attrs.field(factory=list[_EventParameter])
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

    def postpone(self, what: str, error: Exception) -> None:
        """A name isn't defined: it may be by the first run; then it is a fault."""
        self.unresolved = True
        if self.strict:
            self.fault(
                f"can't be wired, in {what} a name isn't defined ({error})",
                "define it in the module or in the function that holds the workflow, or import it, and not only under "
                "TYPE_CHECKING",
                "unresolved",
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

    ``local`` are names to look annotations up in, besides the function's module. Not ``strict``: an annotation whose
    names aren't defined yet is no fault; then there is no step, but what else is wrong is known already.
    """
    body = python_function(function)
    module: dict[str, Any] = getattr(body, "__globals__", {})
    reading = _Reading(
        workflow, options.name or name, source(function), module, {**local, **options.local}, strict=strict
    )
    if inspect.isasyncgenfunction(body) or inspect.isgeneratorfunction(body):
        reading.fault("is a generator", "return a list of events, or call ctx.send_event for each", "generator")
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        reading.fault("has no signature to read", "write a function that calls it", "parameter")
        return None, reading.faults

    parameters = list(signature.parameters.values())
    if is_method:
        parameters = _without_self(reading, parameters)
    read = [parameter.name for parameter in parameters if _read_parameter(reading, parameter)]
    _check_event_parameter(reading, options)
    single, listed, none = _read_return(reading, signature.return_annotation)
    if reading.faults or reading.unresolved:
        return None, reading.faults

    event = reading.events[0]
    roles = {event.name: "event", **({reading.context: "ctx"} if reading.context is not None else {})}
    spec = StepSpec(
        name=reading.name,
        function=function,
        is_method=is_method,
        is_async=_is_async(function),
        where=reading.where or "",
        event_parameter=event.name,
        accepts=event.accepts,
        takes_list=event.takes_list,
        take=event.take,
        context_parameter=reading.context,
        state_type=reading.state_type,
        resources=reading.resources,
        children=reading.children,
        order=tuple(roles.get(one, one) for one in read),
        by_keyword=any(parameter.kind is parameter.KEYWORD_ONLY for parameter in parameters),
        returns=frozenset(single),
        returns_lists=frozenset(listed),
        returns_none=none,
        returns_text=_text(signature.return_annotation),
        options=options,
        erased=event.erased,
    )
    return spec, []


def _is_async(function: Any) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(python_function(function))


def _evaluated(reading: _Reading, what: str, annotation: Any) -> Any:
    """The annotation's meaning; `hints.UNRESOLVED` where it has none, which is noted."""
    try:
        return hints.evaluate(annotation, reading.module, reading.local)
    except (NameError, AttributeError) as error:
        reading.postpone(f"{what}, annotated {shown(annotation)},", error)
    except WorkflowValidationError as error:  # a Resource or a Take in it was given nonsense
        reading.fault(f"has in {what} a fault, {error.problem}", str(error.cure), error.kind)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is the annotation's fault
        reading.fault(
            f"has in {what} the annotation {shown(annotation)}, which can't be evaluated "
            f"({type(error).__name__}: {error})",
            "write a type",
            "unresolved",
        )
    return hints.UNRESOLVED


# ------------------------------------------------------------------------------------------------------ parameters


def _without_self(reading: _Reading, parameters: list[inspect.Parameter]) -> list[inspect.Parameter]:
    first = parameters[0] if parameters else None
    if first is None or first.kind is first.KEYWORD_ONLY:
        reading.fault("has no self", "give it self as its first parameter: a step in a class is a method", "no-self")
        return parameters
    if first.kind is first.VAR_POSITIONAL:
        return parameters
    annotation = hints.resolve(first.annotation, reading.module, reading.local)
    bare = get_origin(hints.plain(annotation)) or annotation
    if _event_types(annotation) or bare is list or getattr(bare, "__flowkit_context__", False):
        reading.fault(
            f"has no self, its first parameter is {first.name!r}",
            "give it self before that: a step in a class is a method",
            "no-self",
        )
        return parameters
    return parameters[1:]


def _read_parameter(reading: _Reading, parameter: inspect.Parameter) -> bool:
    """Note what the parameter is for; whether the step can be called with it."""
    name = parameter.name
    if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
        reading.fault(
            f"has a parameter {parameter}",
            "name and annotate each parameter, the wiring is read from them (if this is a decorator's wrapper: "
            "functools.wraps shows what it wraps)",
            "parameter",
        )
        return False
    if parameter.kind is parameter.POSITIONAL_ONLY:
        reading.fault(f"has a positional-only parameter {name!r}", "take the / out", "parameter")
    if parameter.annotation is parameter.empty:
        cure = f"annotate it: {name}: MyEvent, {name}: Context, or {name}: Annotated[T, Resource(factory)]"
        if name == "self":
            cure = "leave workflow= out above a method, or take self out of a free function"
        reading.fault(f"has a parameter {name!r} without annotation", cure, "parameter")
        return False
    annotation = _evaluated(reading, f"parameter {name!r}", parameter.annotation)
    if annotation is not hints.UNRESOLVED:
        _read_annotated(reading, name, annotation)
    return True


def _read_annotated(reading: _Reading, name: str, annotation: Any) -> None:
    extras = get_args(annotation)[1:] if get_origin(annotation) is typing.Annotated else ()
    bare = hints.plain(annotation)
    origin = get_origin(bare) or bare
    resources = [extra for extra in extras if isinstance(extra, Resource)]
    if resources:
        if len(resources) > 1:
            reading.fault(f"has two resources for {name!r}", "keep one", "resource")
        _read_resource(reading, name, bare, resources[0])
    elif getattr(origin, "__flowkit_context__", False):
        if reading.context is not None:
            reading.fault(f"has two Context parameters, {reading.context!r} and {name!r}", "keep one", "parameter")
        reading.context = name
        _read_state_type(reading, get_args(bare))
    elif isinstance(origin, type) and getattr(origin, "__flowkit_workflow__", False):
        reading.children[name] = origin
    else:
        _read_event(reading, name, annotation, bare, extras)


def _read_state_type(reading: _Reading, arguments: tuple[Any, ...]) -> None:
    kind = arguments[0] if arguments else Any
    if kind is Any or isinstance(kind, typing.TypeVar) or (get_origin(kind) or kind) in _DICTS:
        return
    if isinstance(kind, type) and _is_state(typing.cast("type[Any]", kind)):
        reading.state_type = typing.cast("type[Any]", kind)
        return
    reading.fault(
        f"has a Context[{_text(kind)}], and {_text(kind)} is no attrs class",
        "decorate the state's class with @attrs.define, or write Context for a dictionary",
        "state",
    )


def _is_state(kind: type[Any]) -> bool:
    return attrs.has(kind) and not issubclass(kind, Event)


def _read_event(reading: _Reading, name: str, annotation: Any, bare: Any, extras: tuple[Any, ...]) -> None:
    takes_list = get_origin(bare) is list
    accepts = _event_types(get_args(bare)[0] if takes_list else bare)
    collect = next((one for one in extras if isinstance(one, Collect)), None)
    if any(isinstance(one, All | Take) or one is All or one is Take or one is Collect for one in extras):
        reading.fault(
            f"has for {name!r} the annotation {_text(annotation)}",
            "write Annotated[list[E], Collect(Take(3))], or Collect(All())",
            "collect",
        )
    elif not accepts:
        reading.fault(
            f"has a parameter {name!r} of type {_text(annotation)}, which flowkit can't fill",
            _meant(bare, name=name)
            or "take it from the event or the context, or inject it: "
            f"{name}: Annotated[{_text(bare)}, Resource(factory)]",
            "parameter",
        )
    elif collect is not None and not takes_list:
        reading.fault(
            f"collects {name!r}, which is no list", f"write Annotated[list[{_text(bare)}], Collect(…)]", "collect"
        )
    elif any(issubclass(kind, StopEvent) for kind in accepts):
        reading.fault(
            f"takes {_text(bare)}, but a StopEvent ends the run and no step sees it",
            "take another event, and return the StopEvent from here",
            "takes-stop",
        )
    else:
        take = collect.what.n if collect is not None and isinstance(collect.what, Take) else None
        generics = [one for one in hints.members(get_args(bare)[0] if takes_list else bare) if get_args(one)]
        erased: dict[Any, str] = {get_origin(one): _text(one) for one in generics}
        reading.events.append(_EventParameter(name, accepts, erased, takes_list, take))


def _read_resource(reading: _Reading, name: str, wanted: Any, resource: Resource) -> None:
    try:
        factory = read_factory(resource, reading.local)
    except WorkflowValidationError as error:
        reading.fault(f"takes {name!r}, but {error.problem}", str(error.cure), "resource")
        return
    except (NameError, AttributeError) as error:
        reading.postpone(f"the signature of the resource factory {resource.name}", error)
        return
    if not may_make(factory.makes, wanted):
        reading.fault(
            f"wants {name!r} to be {_text(wanted)}, but {resource.name} makes {_text(factory.makes)}",
            "make the annotation and the factory's return type agree",
            "resource-type",
        )
    reading.resources[name] = (wanted, factory)


def _check_event_parameter(reading: _Reading, options: StepOptions) -> None:
    events = reading.events
    caught = [event for event in events if StepFailedEvent in event.accepts]
    if not events:
        if not (reading.faults or reading.unresolved):  # one that is at fault may be the event
            reading.fault(
                "takes no event", "give it one parameter annotated with the event class it is for", "no-event"
            )
    elif len(events) > 1:
        names = " and ".join(repr(event.name) for event in events)
        reading.fault(
            f"has {len(events)} event parameters, {names}",
            "take one: a union such as `ev: A | B` runs for each, and ctx.collect_events waits for several",
            "two-events",
        )
    elif options.catches and (events[0].accepts != (StepFailedEvent,) or events[0].takes_list):
        reading.fault(
            f"is a @catch_error step, but {events[0].name!r} is no StepFailedEvent",
            f"annotate it, {events[0].name}: StepFailedEvent",
            "catch-error",
        )
    elif caught and not options.catches:
        reading.fault("takes a StepFailedEvent", "decorate it with @catch_error instead of @step", "catch-error")


def _event_types(annotation: Any) -> tuple[type[Event], ...]:
    """The event classes a class or union stands for; none where anything in it is no event."""
    found: list[type[Event]] = []
    for member in hints.members(annotation):
        origin = get_origin(member) or member
        if not (isinstance(origin, type) and issubclass(origin, Event)):
            return ()
        found.append(origin)
    return tuple(found)


# --------------------------------------------------------------------------------------------------------- returns


def _read_return(reading: _Reading, returned: Any) -> tuple[list[type[Event]], list[type[Event]], bool]:
    single: list[type[Event]] = []
    listed: list[type[Event]] = []
    none = False
    if returned is inspect.Signature.empty:
        reading.fault(
            "has no return annotation",
            "say what it returns: -> MyEvent, -> StopEvent, -> A | B | None, or -> list[A]",
            "no-return",
        )
        return single, listed, none
    annotation = _evaluated(reading, "what it returns", returned)
    if annotation is hints.UNRESOLVED:
        return single, listed, none
    for member in hints.members(annotation):
        events = _event_types(member)
        if member in (types.NoneType, None, NoReturn, Never):
            none = True
        elif events:
            single.extend(events)
        elif member is list:
            listed.append(Event)
        elif get_origin(member) is list and _event_types(get_args(member)[0]):
            listed.extend(_event_types(get_args(member)[0]))
        else:
            reading.fault(
                f"is annotated to return {_text(annotation)}",
                _meant(member)
                or "return None, an event, or a list of events; put anything else into a field of an event, as in "
                "StopEvent(result=…)",
                "return-type",
            )
    return single, listed, none


# ----------------------------------------------------------------------------------------------------- what was meant


def _meant(annotation: Any, *, name: str | None = None) -> str | None:
    """What to write instead of an annotation that can't be, where that can be guessed. ``name``: of a parameter."""
    members = hints.members(annotation)
    rest = [member for member in members if member not in (None, types.NoneType)]
    origin, arguments = get_origin(annotation) or annotation, get_args(annotation)
    if len(rest) < len(members) and rest and name is not None:
        return f"leave None out, it is always given: {name}: {' | '.join(map(_text, rest))}"
    if len(members) > 1 and any(get_origin(member) is list for member in members):
        every = [inner for member in members for inner in (get_args(member) or (member,))]
        return f"write list[{' | '.join(map(_text, dict.fromkeys(every)))}]" if _all_events(every) else None
    if isinstance(annotation, typing.TypeVar):
        return "name the event classes, A | B: the wiring is read before any event is there"
    made_of = hints.kind_of(annotation)
    if issubclass(made_of, Event) or getattr(made_of, "__flowkit_workflow__", False):
        return f"write the class, {made_of.__name__}"
    if isinstance(annotation, Resource) or annotation is Resource:
        return f"write {name}: Annotated[T, Resource(factory)]"
    if origin is type and _all_events(arguments):
        return f"write {_text(arguments[0])}"
    if origin is list and (not arguments or _all_events([one for one in hints.members(arguments[0]) if one])):
        return "say of what, list[MyEvent]" if not arguments else "leave None out of the list"
    if isinstance(origin, type) and issubclass(origin, (*_LISTS, *_LISTS_ABC)) and not issubclass(origin, Event):
        events = [one for one in arguments if _event_types(one)]
        return f"write list[{' | '.join(map(_text, events))}]" if events else None
    if isinstance(origin, type) and issubclass(origin, collections.abc.Awaitable) and arguments:
        return f"write what awaiting it gives, {_text(arguments[-1])}"
    if isinstance(annotation, type) and annotation.__module__ not in ("builtins", "typing") and name is not None:
        injected = f"{name}: Annotated[{_text(annotation)}, Resource(factory)]"
        return f"derive {_text(annotation)} from Event if it is one, or inject it: {injected}"
    return None


def _all_events(annotations: Iterable[Any]) -> bool:
    found = [_event_types(one) for one in annotations if one is not types.NoneType]
    return bool(found) and all(found)


_text = type_name
