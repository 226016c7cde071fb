"""``@step`` and ``@catch_error``: what an author says of a step, and what flowkit makes of it.

The decorators only note the options on the function and give it back, so that a step can still be called and tested as
the function it is. Its signature is read (signature.py) when the class that holds it is built.
"""

import functools
import inspect
from collections.abc import Awaitable, Callable, Iterable, Sequence
from types import MethodType
from typing import Any, ClassVar, Protocol, TypeVar, cast, overload

import attrs

from flowkit import hints
from flowkit.errors import WorkflowValidationError, shown
from flowkit.events import Event
from flowkit.resource import Factory
from flowkit.retry_policy import RetryPolicy

__all__ = [
    "All",
    "Collect",
    "StepOptions",
    "StepSpec",
    "Take",
    "catch_error",
    "options_of",
    "python_function",
    "source",
    "step",
]

# What a step may return, for type checkers: a Sequence, since a list[A] is no list[Event]. That it is a list is checked
# when the class is built.
_Result = Event | Sequence[Event] | None
F = TypeVar("F", bound=Callable[..., _Result | Awaitable[_Result]])
MARK = "__flowkit_step__"
EVENT, CTX_EVENT, EVENT_CTX, GENERAL = range(4)


class _TakesSteps(Protocol):
    """A workflow, as far as a decorator needs to know it. What it needs is ``add_step``, a descriptor on `Workflow`,
    which pyright doesn't take for a method: so it is known by its mark.
    """

    __flowkit_workflow__: ClassVar[bool]


# -------------------------------------------------------------------------------------------------------- fan-in


@attrs.frozen
class All:
    """Collect every member of the fan-out (the default)."""


def _check_count(_: object, __: object, value: Any) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise WorkflowValidationError(
            f"Take(n) got n={shown(value)}", cure="give a whole number, 1 or more", kind="collect"
        )


@attrs.frozen
class Take:
    """Collect the first ``n`` members that arrive; the others never reach the step. Fewer, if fewer ever come.

    Raises:
        WorkflowValidationError: ``n`` is not a whole number of 1 or more.
    """

    n: int = attrs.field(validator=_check_count)


def _check_collected(_: object, __: object, value: Any) -> None:
    if not isinstance(value, All | Take):
        raise WorkflowValidationError(
            f"Collect got {shown(value)}", cure="give All() or Take(n), as in Collect(Take(3))", kind="collect"
        )


@attrs.frozen
class Collect:
    """How a ``list[E]`` parameter gathers: ``Annotated[list[E], Collect(Take(3))]``.

    Raises:
        WorkflowValidationError: it is given something else than `All` or `Take`.
    """

    what: All | Take = attrs.field(factory=All, validator=_check_collected)


# ---------------------------------------------------------------------------------------------------- the options


@attrs.frozen
class StepOptions:
    """What ``@step(…)`` was told. ``local`` holds the local names its postponed annotations mention."""

    name: str | None = None
    num_workers: int = 4
    retry_policy: RetryPolicy | None = None
    timeout: float | None = None
    catches: bool = False
    for_steps: tuple[str, ...] | None = None
    atomic: bool = False
    aliases: tuple[str, ...] = ()
    local: dict[str, Any] = attrs.field(factory=dict[str, Any])


_SHAPES: dict[tuple[str, ...], int] = {("event",): EVENT, ("ctx", "event"): CTX_EVENT, ("event", "ctx"): EVENT_CTX}


def _shape(spec: "StepSpec") -> int:
    options = spec.options
    if not spec.is_async or spec.by_keyword or options.timeout is not None or options.atomic:
        return GENERAL
    return _SHAPES.get(spec.order, GENERAL)


@attrs.frozen(eq=False)
class StepSpec:
    """A step, read from its signature.

    ``accepts`` are the event types its event parameter takes (of the list's members, with ``takes_list``; at most
    ``take`` of them), ``returns`` and ``returns_lists`` what it may return alone and in a list. ``order`` are its
    parameters' roles in call order: ``"event"``, ``"ctx"`` or a name in ``resources`` or ``children``. ``erased`` are
    the generic event classes among ``accepts``, with what the annotation says of them (``Box[int]``).
    """

    name: str
    function: Callable[..., Any]
    is_method: bool
    is_async: bool
    where: str
    event_parameter: str
    accepts: tuple[type[Event], ...]
    takes_list: bool
    take: int | None
    context_parameter: str | None
    state_type: type[Any] | None
    resources: dict[str, tuple[Any, Factory]]
    children: dict[str, type[Any]]
    order: tuple[str, ...]
    by_keyword: bool
    returns: frozenset[type[Event]]
    returns_lists: frozenset[type[Event]]
    returns_none: bool
    returns_text: str
    options: StepOptions
    erased: dict[type[Event], str] = attrs.field(factory=dict[type[Event], str])
    index: int = -1
    shape: int = attrs.field(init=False, default=attrs.Factory(_shape, takes_self=True))
    """Which of the commonest signatures it has: those are called directly, without building arguments by name."""

    @property
    def num_workers(self) -> int:
        """How many invocations may run at once within one run."""
        return self.options.num_workers

    def may_return(self, kind: type, *, listed: bool = False) -> bool:
        """Whether the annotation allows an event of this type, alone or as a member of a list."""
        return issubclass(kind, tuple(self.returns_lists if listed else self.returns))

    def bind(self, owner: Any) -> Callable[..., Any]:
        """The function to call: a method bound to its workflow, or the free function itself."""
        return cast("Callable[..., Any]", self.function.__get__(owner)) if self.is_method else self.function


def options_of(function: Any) -> StepOptions | None:
    """The options noted on a step, ``None`` for what isn't one."""
    found = getattr(_marked(function), MARK, None)
    return found if isinstance(found, StepOptions) else None


def _marked(function: Any) -> Any:
    """The object that bears a function's options: neither static nor bound methods have attributes of their own."""
    return function.__func__ if isinstance(function, staticmethod | MethodType) else function


def python_function(function: Any) -> Any:
    """What a step was written as: the function under decorators, ``partial`` and bound methods, or in a callable."""
    function = inspect.unwrap(_marked(function))
    while isinstance(function, functools.partial):
        function = inspect.unwrap(_marked(cast(Any, function).func))
    if hasattr(function, "__code__"):
        return function
    kind = hints.kind_of(function)
    return inspect.unwrap(vars(kind).get("__call__", function))


def source(function: Any) -> str | None:
    """``file:line`` of a function's definition."""
    code = getattr(python_function(function), "__code__", None)
    return f"{code.co_filename}:{code.co_firstlineno}" if code is not None else None


# -------------------------------------------------------------------------------------------------- the decorators


@overload
def step(function: F, /) -> F: ...


@overload
def step(
    *,
    workflow: "_TakesSteps | type[_TakesSteps] | None" = None,
    num_workers: int = 4,
    retry_policy: RetryPolicy | None = None,
    timeout: float | None = None,
    name: str | None = None,
    atomic: bool = False,
    aliases: Iterable[str] = (),
) -> Callable[[F], F]: ...


def step(
    function: F | None = None,
    /,
    *,
    workflow: "_TakesSteps | type[_TakesSteps] | None" = None,
    num_workers: int = 4,
    retry_policy: RetryPolicy | None = None,
    timeout: float | None = None,
    name: str | None = None,
    atomic: bool = False,
    aliases: Iterable[str] = (),
) -> F | Callable[[F], F]:
    """Make a function or method a step of a workflow.

    The event type of its one event parameter says what it takes, its return annotation what it makes. A plain ``def``
    runs in a worker thread.

    Args:
        workflow: for a function outside a class: the `Workflow` class or instance it belongs to.
        num_workers: how many events the step may work on at once within one run; 1 or more.
        retry_policy: decides after each failure whether and when to try again (see `flowkit.retry_policy`).
        timeout: seconds one attempt may take; then it is cancelled and fails with `TimeoutError`.
        name: what the step is called; the function's name by default.
        atomic: what an attempt writes to the state, sends and streams takes effect together with its return, or not
            at all: neither a retry nor a crash counts double or sends half. Waits and ``collect_events`` take effect
            at once, as ever.
        aliases: names that the step had: runs stored under them go on with it.

    Raises:
        WorkflowValidationError: an option makes no sense, or (with ``workflow=``) the signature doesn't.
    """

    def decorate(target: F) -> F:
        _check_target(target, "@step")
        _check_options(target, name, num_workers)
        if timeout is not None and not _is_seconds(timeout):
            raise _bad(target, f"has timeout={shown(timeout)}", "give seconds, more than 0, or None")
        if isinstance(retry_policy, type) or not (retry_policy is None or hasattr(retry_policy, "next")):
            raise _bad(
                target,
                f"has retry_policy={shown(retry_policy)}, which is no policy",
                "give an object with next(elapsed_time, attempts, error), such as "
                "ConstantDelayRetryPolicy(maximum_attempts=3, delay=5)",
            )
        if not isinstance(atomic, bool):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise _bad(target, f"has atomic={shown(atomic)}", "give True or False")
        options = StepOptions(
            name,
            num_workers,
            retry_policy,
            timeout,
            atomic=atomic,
            aliases=_aliases(target, aliases),
            local=_local(target),
        )
        _note(target, options, workflow)
        return target

    return decorate if function is None else decorate(function)


@overload
def catch_error(function: F, /) -> F: ...


@overload
def catch_error(
    *,
    for_steps: Iterable[str] | None = None,
    workflow: "_TakesSteps | type[_TakesSteps] | None" = None,
    num_workers: int = 4,
    name: str | None = None,
    aliases: Iterable[str] = (),
) -> Callable[[F], F]: ...


def catch_error(
    function: F | None = None,
    /,
    *,
    for_steps: Iterable[str] | None = None,
    workflow: "_TakesSteps | type[_TakesSteps] | None" = None,
    num_workers: int = 4,
    name: str | None = None,
    aliases: Iterable[str] = (),
) -> F | Callable[[F], F]:
    """Make a step that receives a `StepFailedEvent` when another has failed for good, instead of the run failing.

    What it returns takes the place of what the failed step would have returned. If it fails itself, the run fails.

    Args:
        for_steps: names of the steps it covers; all that no other ``@catch_error`` names, by default.
        workflow: as for `step`.
        num_workers: as for `step`.
        name: as for `step`.
        aliases: as for `step`.

    Raises:
        WorkflowValidationError: as for `step`, or ``for_steps`` is no list of names.
    """

    def decorate(target: F) -> F:
        _check_target(target, "@catch_error")
        _check_options(target, name, num_workers)
        covered = None if for_steps is None else _step_names(target, for_steps)
        options = StepOptions(
            name,
            num_workers,
            catches=True,
            for_steps=covered,
            aliases=_aliases(target, aliases),
            local=_local(target),
        )
        _note(target, options, workflow)
        return target

    return decorate if function is None else decorate(function)


# ----------------------------------------------------------------------------------------------- what they check


def _check_target(target: Any, decorator: str) -> None:
    kind = hints.kind_of(target)
    if issubclass(kind, property | classmethod | functools.cached_property):
        given, cure = f"a {kind.__name__}", "a step is a plain method: take the other decorator off"
    elif getattr(target, "__flowkit_workflow__", False):
        name = getattr(target, "__name__", kind.__name__)
        given, cure = (
            f"the workflow {name}",
            f"decorate its methods, or write {decorator}(workflow={name}) above a function",
        )
    elif isinstance(target, type):
        given, cure = f"the class {target.__name__}", "decorate the methods of a Workflow subclass"
    elif not callable(target if not isinstance(target, staticmethod) else target.__func__):
        given = shown(target)
        cure = f"write {decorator} above a function, and options by name, as in {decorator}(num_workers=2)"
    else:
        return
    where = hints.place(hints.statement(globals()))
    raise WorkflowValidationError(f"{decorator} was given {given}", cure=cure, where=where, kind="not-a-function")


def _check_options(target: Any, name: Any, num_workers: Any) -> None:
    if name is not None and not (isinstance(name, str) and name):
        raise _bad(target, f"has name={shown(name)}", "give a string, or leave it out: the function's name is used")
    if isinstance(num_workers, bool) or not isinstance(num_workers, int) or num_workers < 1:
        raise _bad(target, f"has num_workers={shown(num_workers)}", "give a whole number, 1 or more")


def _is_seconds(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value > 0


def _step_names(target: Any, for_steps: Any) -> tuple[str, ...]:
    names = _names(target, "for_steps", for_steps)
    if not names:
        raise _bad(target, "has for_steps=[], so it covers no step", "name some, or leave for_steps out to cover all")
    return names


def _aliases(target: Any, aliases: Any) -> tuple[str, ...]:
    names = _names(target, "aliases", aliases)
    if "" in names:
        raise _bad(target, f"has aliases={shown(aliases)}", "leave the empty name out")
    return names


def _names(target: Any, option: str, given: Any) -> tuple[str, ...]:
    several = isinstance(given, Iterable) and not isinstance(given, str)
    names: list[Any] = list(cast("Iterable[Any]", given)) if several else [given]
    right = [name if isinstance(name, str) else getattr(name, "__name__", "name") for name in names]
    if not several or right != names:
        raise _bad(target, f"has {option}={shown(given)}", f"give a list of step names, {option}={right}")
    return tuple(right)


def _note(target: Any, options: StepOptions, workflow: Any) -> None:
    function, known = _marked(target), options_of(target)
    if known is not None and workflow is None:
        raise _bad(target, "is decorated as a step twice", "keep one decorator, with all options")
    if known is not None and attrs.evolve(options, local=known.local) != known:
        raise _bad(target, "is a step already, with other options", "define a function for each, or keep the options")
    add = getattr(workflow, "add_step", None)
    if workflow is not None and add is None:
        raise _bad(target, f"has workflow={shown(workflow)}", "give a Workflow class or instance")
    try:
        setattr(function, MARK, options)
    except AttributeError:
        raise _bad(target, "can't be marked as a step", "write a function that calls it") from None
    if add is not None:
        add(target)


def _local(function: Any) -> dict[str, Any]:
    found = python_function(function)
    return hints.local_names(list(getattr(found, "__annotations__", {}).values()), hints.statement(globals()))


def _bad(target: Any, problem: str, cure: str) -> WorkflowValidationError:
    qualified = getattr(_marked(target), "__qualname__", None) or shown(target)
    owner, _, name = qualified.rpartition("<locals>.")[2].rpartition(".")
    return WorkflowValidationError(
        problem, cure=cure, workflow=owner or None, step=name, where=source(target), kind="bad-option"
    )
