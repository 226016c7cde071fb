"""Resources: what a step needs besides its event. ``Annotated[Memory, Resource(get_memory)]``.

Here is the definition: the marker, and what a factory's signature says. Building, sharing and closing is
resource_pool.py's duty.
"""

import contextlib
import inspect
import sys
import types
import typing
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterator, Mapping
from typing import Any, Literal, get_args, get_origin

import attrs

from flowkit import hints
from flowkit.errors import WorkflowValidationError, shown
from flowkit.events import StartEvent

__all__ = ["Factory", "Resource", "may_make", "read_factory", "type_name"]

Scope = Literal["workflow", "run", "step"]
_WIDTH: dict[str, int] = {"step": 0, "run": 1, "workflow": 2}


def _function(factory: Callable[..., Any]) -> Callable[..., Any]:
    """In the body of its class a static method isn't yet the function that it will be."""
    return factory.__func__ if isinstance(factory, staticmethod) else factory


@attrs.frozen(eq=False)
class Resource:
    """Give a step what ``factory`` makes.

    The factory is a plain or async function, or a context manager or async context manager of either kind: that is
    entered before use and exited after, exactly once, in reverse order, also on error and cancellation. A generator
    function that yields once counts as one. A class can be a factory. It may take other resources, the `Context` and
    the start event, each by annotation. Resources are told apart by their factory: two steps that name the same factory
    share what it made.

    Args:
        factory: makes the value. A plain function runs in the event loop's thread: it must not block.
        cache: ``False`` makes a new one for every call of the step.
        scope: how long it is kept: ``"workflow"`` (shared by all runs of a workflow instance, until
            ``Workflow.aclose()``), ``"run"``, or ``"step"`` (as ``cache=False``). By default the widest its own needs
            allow: one that takes the `Context`, the start event or a run's resource is kept for the run.
    """

    factory: Callable[..., Any] = attrs.field(converter=_function)
    cache: bool = True
    scope: Scope | None = attrs.field(default=None, kw_only=True)

    def __attrs_post_init__(self) -> None:
        if not callable(self.factory):
            raise WorkflowValidationError(
                f"Resource({shown(self.factory)}) has no factory",
                cure="pass a function that makes the value, without calling it",
                kind="resource",
            )
        if not isinstance(self.cache, bool):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise WorkflowValidationError(
                f"Resource({self.name}) has cache={shown(self.cache)}",
                cure='write True or False; how long it is kept says scope="run"',
                kind="resource",
            )
        if self.scope not in (None, "workflow", "run", "step"):
            raise WorkflowValidationError(
                f"Resource({self.name}) has scope={self.scope!r}",
                cure='write "workflow", "run" or "step"',
                kind="resource",
            )
        if not self.cache and self.scope not in (None, "step"):
            raise WorkflowValidationError(
                f"Resource({self.name}) has cache=False and scope={self.scope!r}",
                cure='leave one of them out: cache=False means scope="step"',
                kind="resource",
            )

    @property
    def name(self) -> str:
        """The factory's name."""
        return str(getattr(self.factory, "__qualname__", None) or repr(self.factory))


@attrs.frozen(eq=False)
class Factory:
    """A factory, read from its signature. ``makes`` is what it promises, `hints.UNRESOLVED` where it doesn't say."""

    resource: Resource
    scope: Scope
    call: Callable[..., Any]
    is_async: bool
    manager: Literal["sync", "async"] | None
    makes: Any
    parameters: "dict[str, Factory | Literal['ctx'] | type[StartEvent]]"


def read_factory(resource: Resource, local: Mapping[str, Any], path: tuple[Resource, ...] = ()) -> Factory:
    """Read a resource's factory, and those it depends on. ``local`` are names to look annotations up in.

    Raises:
        WorkflowValidationError: it depends on itself, has parameters that nobody can fill, needs a resource of another
            type, or has a scope that is wider than that of something it needs.
        NameError, AttributeError: an annotation mentions a name that isn't defined (yet).
    """
    name, factory = resource.name, resource.factory
    if any(factory is seen.factory for seen in path):
        circle = " -> ".join([seen.name for seen in path] + [name])
        raise _fault(resource, f"depends on itself ({circle})", "break the circle")
    parameters: dict[str, Factory | Literal["ctx"] | type[StartEvent]] = {}
    narrowest: Scope = "workflow"
    unfilled: list[str] = []
    for parameter in _signature(factory):
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        annotation = hints.evaluate(parameter.annotation, _names(factory), local)
        role = _role(annotation)
        if role is None and parameter.default is not parameter.empty:
            continue
        if role is None or parameter.kind is parameter.POSITIONAL_ONLY:
            unfilled.append(repr(parameter.name))
            continue
        found = read_factory(role, local, (*path, resource)) if isinstance(role, Resource) else role
        if isinstance(found, Factory) and not may_make(found.makes, hints.plain(annotation)):
            raise _fault(
                resource,
                f"wants {parameter.name!r} to be {type_name(hints.plain(annotation))}, but {found.resource.name} makes "
                f"{type_name(found.makes)}",
                "make the annotation and the factory's return type agree",
            )
        parameters[parameter.name] = found
        needs: Scope = found.scope if isinstance(found, Factory) else "run"
        if _WIDTH[needs] < _WIDTH[narrowest]:
            narrowest = needs
    if unfilled:
        count, each = ("a parameter", "it") if len(unfilled) == 1 else ("parameters", "each")
        raise _fault(
            resource,
            f"has {count} {', '.join(unfilled)} that nobody can fill",
            f"annotate {each} with Context, the start event's type or Annotated[T, Resource(…)], or give {each} a "
            "default; resources are given by name",
        )
    scope: Scope = "step" if not resource.cache else resource.scope or narrowest
    if _WIDTH[scope] > _WIDTH[narrowest]:
        raise _fault(
            resource,
            f'has scope="{scope}", but what it takes lives only for a {narrowest}',
            f'write scope="{narrowest}"',
        )
    call, manager, makes = _kind(factory, local)
    return Factory(resource, scope, call, inspect.iscoroutinefunction(factory), manager, makes, parameters)


def _role(annotation: Any) -> "Resource | Literal['ctx'] | type[StartEvent] | None":
    if get_origin(annotation) is typing.Annotated:
        return next((extra for extra in get_args(annotation)[1:] if isinstance(extra, Resource)), None)
    bare = get_origin(annotation) or annotation
    if getattr(bare, "__flowkit_context__", False):
        return "ctx"
    return bare if isinstance(bare, type) and issubclass(bare, StartEvent) else None


def may_make(makes: Any, wanted: Any) -> bool:
    """Whether what a factory promises can fit. Only certain contradictions count: the value is checked later."""
    pairs = [(one, other) for one in hints.members(makes) for other in hints.members(wanted)]
    return any(_may_be(one, other) for one, other in pairs)


def _may_be(makes: Any, wanted: Any) -> bool:
    makes, wanted = get_origin(makes) or makes, get_origin(wanted) or wanted
    if not (isinstance(wanted, type) and isinstance(makes, type)) or Any in (wanted, makes):
        return (makes is None) == (wanted is None)  # (Any is a class since Python 3.11)
    if getattr(wanted, "_is_protocol", False) or getattr(makes, "_is_protocol", False):
        return makes is not types.NoneType
    try:
        return issubclass(makes, wanted) or issubclass(wanted, makes) or (wanted is float and makes is int)
    except TypeError:
        return True


def type_name(annotation: Any) -> str:
    """An annotation as its author wrote it, for an error's text."""
    if isinstance(annotation, str):
        return annotation
    if annotation is None or annotation is types.NoneType:
        return "None"
    if isinstance(annotation, Resource):
        return f"Resource({annotation.name})"
    if annotation is ...:
        return "..."
    if isinstance(annotation, list):  # the parameters of a Callable
        return f"[{', '.join(map(type_name, typing.cast(Any, annotation)))}]"
    arguments, origin = get_args(annotation), get_origin(annotation)
    if origin is typing.Annotated:
        return f"Annotated[{', '.join(map(type_name, arguments))}]"
    if origin in (typing.Union, types.UnionType):
        return " | ".join(map(type_name, arguments))
    if isinstance(origin, type) and arguments:
        return f"{origin.__name__}[{', '.join(map(type_name, arguments))}]"
    if inspect.isfunction(annotation) or isinstance(annotation, type | typing.TypeVar):
        return annotation.__name__
    return shown(annotation).removeprefix("typing.")


_YIELDS = (Iterator, Generator, contextlib.AbstractContextManager)
_YIELDS_ASYNC = (AsyncIterator, AsyncGenerator, contextlib.AbstractAsyncContextManager)


def _kind(factory: Any, local: Mapping[str, Any]) -> tuple[Callable[..., Any], Literal["sync", "async"] | None, Any]:
    """How to call a factory, which kind of context manager it gives (if any), and the type it makes."""
    function = inspect.unwrap(factory)
    annotations = getattr(function, "__annotations__", {})
    makes: Any = hints.resolve(annotations.get("return", hints.UNRESOLVED), _names(factory), local)
    if isinstance(factory, type):
        makes = factory
    origin = get_origin(makes) or makes
    arguments = get_args(makes)
    yielded = arguments[0] if arguments else hints.UNRESOLVED
    if inspect.isasyncgenfunction(function):
        call = factory if factory is not function else contextlib.asynccontextmanager(function)
        return call, "async", yielded
    if inspect.isgeneratorfunction(function):
        call = factory if factory is not function else contextlib.contextmanager(function)
        return call, "sync", yielded
    if origin in _YIELDS_ASYNC:
        return factory, "async", yielded
    if origin in _YIELDS:
        return factory, "sync", yielded
    return factory, None, makes


def _signature(factory: Any) -> list[inspect.Parameter]:
    try:
        return list(inspect.signature(factory).parameters.values())
    except ValueError:  # a builtin without a signature takes nothing from us
        return []


def _names(factory: Any) -> dict[str, Any]:
    function = inspect.unwrap(factory)
    scope = getattr(function, "__globals__", None)
    return scope if scope is not None else vars(sys.modules[getattr(function, "__module__", None) or "builtins"])


def _fault(resource: Resource, problem: str, cure: str) -> WorkflowValidationError:
    code = getattr(inspect.unwrap(resource.factory), "__code__", None)
    where = f" ({code.co_filename}:{code.co_firstlineno})" if code is not None else ""
    return WorkflowValidationError(f"resource factory {resource.name}{where} {problem}", cure=cure, kind="resource")
