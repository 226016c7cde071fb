"""``@step`` and ``@catch_error``: what an author says of a step, and what flowkit makes of it.

The decorators only note the options on the function and give it back, so that a step can still be called and tested as
the function it is. Its signature is read (signature.py) when the class that holds it is built.
"""

import inspect
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, ClassVar, Protocol, TypeVar, cast, overload

import attrs

from flowkit import hints
from flowkit.errors import WorkflowValidationError
from flowkit.events import Event
from flowkit.resource import Factory
from flowkit.retry_policy import RetryPolicy

__all__ = ["All", "Collect", "StepOptions", "StepSpec", "Take", "catch_error", "options_of", "source", "step"]

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
        raise ValueError(f"Take(n) needs a whole number, 1 or more, but got {value!r}")


@attrs.frozen
class Take:
    """Collect the first ``n`` members that arrive; the others never reach the step. Fewer, if fewer ever come.

    Raises:
        ValueError: ``n`` is not a whole number of 1 or more.
    """

    n: int = attrs.field(validator=_check_count)


def _check_collected(_: object, __: object, value: Any) -> None:
    if not isinstance(value, All | Take):
        raise TypeError(f"Collect takes All() or Take(n), but got {value!r}")


@attrs.frozen
class Collect:
    """How a ``list[E]`` parameter gathers: ``Annotated[list[E], Collect(Take(3))]``."""

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
    local: dict[str, Any] = attrs.field(factory=dict[str, Any])


_SHAPES: dict[tuple[str, ...], int] = {("event",): EVENT, ("ctx", "event"): CTX_EVENT, ("event", "ctx"): EVENT_CTX}


def _shape(spec: "StepSpec") -> int:
    if not spec.is_async or spec.by_keyword or spec.options.timeout is not None:
        return GENERAL
    return _SHAPES.get(spec.order, GENERAL)


@attrs.frozen(eq=False)
class StepSpec:
    """A step, read from its signature.

    ``accepts`` are the event types its event parameter takes (of the list's members, with ``takes_list``; at most
    ``take`` of them), ``returns`` and ``returns_lists`` what it may return alone and in a list. ``order`` are its
    parameters' roles in call order: ``"event"``, ``"ctx"`` or a name in ``resources`` or ``children``.
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
        return cast(Callable[..., Any], self.function.__get__(owner)) if self.is_method else self.function


def options_of(function: Any) -> StepOptions | None:
    """The options noted on a step, ``None`` for what isn't one."""
    if isinstance(function, staticmethod):
        function = cast(Any, function).__func__
    found = getattr(function, MARK, None)
    return found if isinstance(found, StepOptions) else None


def source(function: Any) -> str | None:
    """``file:line`` of a function's definition."""
    code = getattr(inspect.unwrap(function), "__code__", None)
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

    Raises:
        WorkflowValidationError: an option makes no sense, or (with ``workflow=``) the signature doesn't.
    """

    def decorate(target: F) -> F:
        found = _function(target, "@step")
        place = source(found)
        if isinstance(num_workers, bool) or not isinstance(num_workers, int) or num_workers < 1:
            raise _bad(found, f"has num_workers={num_workers!r}", "give a whole number, 1 or more", place)
        if timeout is not None and not (isinstance(timeout, int | float) and timeout > 0):
            raise _bad(found, f"has timeout={timeout!r}", "give seconds, more than 0, or None", place)
        if retry_policy is not None and not callable(getattr(retry_policy, "next", None)):
            raise _bad(
                found,
                f"has retry_policy={retry_policy!r}, which has no method next(elapsed_time, attempts, error)",
                "give an instance of a policy, such as ConstantDelayRetryPolicy(maximum_attempts=3, delay=5)",
                place,
            )
        _note(target, StepOptions(name, num_workers, retry_policy, timeout, local=_local(found)))
        if workflow is not None:
            _attach(target, workflow)
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
) -> Callable[[F], F]: ...


def catch_error(
    function: F | None = None,
    /,
    *,
    for_steps: Iterable[str] | None = None,
    workflow: "_TakesSteps | type[_TakesSteps] | None" = None,
    num_workers: int = 4,
    name: str | None = None,
) -> F | Callable[[F], F]:
    """Make a step that receives a `StepFailedEvent` when another has failed for good, instead of the run failing.

    What it returns takes the place of what the failed step would have returned. If it fails itself, the run fails.

    Args:
        for_steps: names of the steps it covers; all that no other ``@catch_error`` names, by default.
        workflow: as for `step`.
        num_workers: as for `step`.
        name: as for `step`.

    Raises:
        WorkflowValidationError: as for `step`, or ``for_steps`` is a single string.
    """

    def decorate(target: F) -> F:
        found = _function(target, "@catch_error")
        if isinstance(for_steps, str):
            raise _bad(found, f"has for_steps={for_steps!r}", f"write for_steps=[{for_steps!r}]", source(found))
        covered = None if for_steps is None else tuple(for_steps)
        options = StepOptions(name, num_workers, catches=True, for_steps=covered, local=_local(found))
        _note(target, options)
        if workflow is not None:
            _attach(target, workflow)
        return target

    return decorate if function is None else decorate(function)


def _function(target: Any, decorator: str) -> Callable[..., Any]:
    if isinstance(target, staticmethod):
        target = cast(Any, target).__func__
    if not callable(target) or isinstance(target, type):
        raise WorkflowValidationError(
            f"{decorator} was given {target!r}",
            cure=f"write {decorator} above a function, and options as keywords: {decorator}(num_workers=2)",
            kind="not-a-function",
        )
    return cast(Callable[..., Any], target)


def _note(target: Any, options: StepOptions) -> None:
    function = cast(Any, target).__func__ if isinstance(target, staticmethod) else target
    setattr(function, MARK, options)


def _attach(function: Any, workflow: Any) -> None:
    add = getattr(workflow, "add_step", None)
    if add is None:
        raise _bad(function, f"has workflow={workflow!r}", "give a Workflow class or instance", source(function))
    add(function)


def _local(function: Any) -> dict[str, Any]:
    found = inspect.unwrap(function)
    annotations = list(getattr(found, "__annotations__", {}).values())
    # Frames: this, decorate, (step, when written without parentheses,) the class body or function. Passing through
    # flowkit's own frames is harmless: they hold none of the names.
    frame = hints.caller(1)
    while frame is not None and frame.f_globals is globals():
        frame = frame.f_back
    return hints.local_names(annotations, frame)


def _bad(function: Any, problem: str, cure: str, where: str | None) -> WorkflowValidationError:
    name = getattr(function, "__qualname__", repr(function))
    return WorkflowValidationError(f"{name} {problem}", cure=cure, where=where, kind="bad-option")
