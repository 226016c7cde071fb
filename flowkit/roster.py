"""Which steps a workflow class has: found among its methods and in what was added to it, read, and checked together.

A class is read when it is built, and once more (``strict``) before its first run: only then must every name in its
annotations be defined.
"""

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any, get_origin

from flowkit import hints
from flowkit.errors import InvalidWorkflow, WorkflowValidationError, shown
from flowkit.events import Event
from flowkit.signature import read_step
from flowkit.steps import StepSpec, options_of, python_function, source

__all__ = ["added_to", "annotations_of", "check_is_step", "name_of", "read_steps", "undecorated"]

Steps = Mapping[str, Callable[..., Any]]


def added_to(cls: type[Any]) -> dict[str, Callable[..., Any]]:
    """The functions added to a class and to its bases."""
    return {name: one for base in reversed(cls.__mro__) for name, one in vars(base).get("__flowkit_free__", {}).items()}


def read_steps(cls: type[Any], added: Steps, *, strict: bool) -> list[StepSpec]:
    """The steps of a workflow class, and those ``added`` to it or to an instance.

    Inherited ones come first, in the order they were written. Not ``strict``: those that mention a name which isn't
    defined yet are left out.

    Raises:
        InvalidWorkflow: with all that is wrong with any of them.
    """
    specs: list[StepSpec] = []
    wrong = list(_misplaced(cls))
    places: dict[str, str | None] = {}
    named: list[tuple[str, Any, tuple[str, ...]]] = []
    entries = [(name, value, not isinstance(value, staticmethod)) for name, value in _methods(cls).items()]
    for name, value, is_method in [*entries, *((name, function, False) for name, function in added.items())]:
        function = value.__func__ if isinstance(value, staticmethod) else value
        options = options_of(function)
        assert options is not None
        spec, found = read_step(
            cls.__name__, name, function, options, is_method=is_method, local=cls.__flowkit_local__, strict=strict
        )
        wrong += found
        if spec is not None:
            specs.append(spec)
        called = options.name or name
        if called in places:
            problem = f"is the name of two steps, here and at {places[called]}"
            wrong.append(
                _fault(cls, called, function, problem, "give one of them another with @step(name=…)", "same-name")
            )
        places.setdefault(called, source(function))
        named.append((called, function, options.aliases))
    wrong += _doubled_aliases(cls, named, places)
    if wrong:
        raise InvalidWorkflow(cls.__name__, wrong)
    return specs


def _doubled_aliases(
    cls: type[Any], named: list[tuple[str, Any, tuple[str, ...]]], places: dict[str, str | None]
) -> Iterator[WorkflowValidationError]:
    """A stored run's step must be found again: an alias belongs to one step, and is no step's name."""
    owners: dict[str, str] = {}
    for called, function, aliases in named:
        for alias in aliases:
            cure = "leave it out of one of them"
            if alias in places:
                problem = f"has the alias {alias!r}, which is a step's name, at {places[alias]}"
                cure = "leave it out: a step of that name goes on with its runs"
            elif owners.get(alias) == called:
                problem = f"has the alias {alias!r} twice"
                cure = "write it once"
            elif alias in owners:
                problem = f"has the alias {alias!r}, as {owners[alias]!r} has"
            else:
                owners[alias] = called
                continue
            yield _fault(cls, called, function, problem, cure, "same-name")


def undecorated(cls: type[Any]) -> Iterator[WorkflowValidationError]:
    """Methods that look like steps and aren't: said beside other faults, whose cause they may be."""
    steps = _methods(cls)
    for base in _authored(cls):
        for name, value in vars(base).items():
            if name in steps or not inspect.isfunction(value) or vars(cls).get(name, value) is not value:
                continue
            taken = [kind.__name__ for kind in map(_resolver(cls, value), _parameters(value)) if _is_event(kind)]
            if taken:
                problem = f"takes {' and '.join(taken)} like a step, but isn't one"
                yield _fault(cls, name, value, problem, "if it should be, write @step above it", "not-decorated")


def annotations_of(cls: type[Any]) -> list[Any]:
    """What all step methods are annotated with."""
    found = [getattr(python_function(method), "__annotations__", {}) for method in _methods(cls).values()]
    return [annotation for annotations in found for annotation in annotations.values()]


def name_of(function: Any) -> str:
    """What an added step is called."""
    options = options_of(function)
    named = (options.name if options is not None else None) or getattr(function, "__name__", None)
    return str(named or type(function).__name__)


def check_is_step(cls: type[Any], function: Any) -> None:
    """Refuse to add what isn't decorated.

    Raises:
        WorkflowValidationError: it isn't.
    """
    if options_of(function) is None:
        named = getattr(function, "__qualname__", None) or shown(function)
        raise WorkflowValidationError(
            f"{cls.__name__}.add_step got {named}, which is no step",
            cure="write @step above it, or add it by @step(workflow=…)",
            where=source(function) if callable(function) else None,
            kind="not-a-step",
        )


def _authored(cls: type[Any]) -> list[type[Any]]:
    """The class and its bases, outermost first, down to `Workflow`, which isn't one of them."""
    return [base for base in reversed(cls.__mro__) if "__flowkit_workflow__" not in vars(base) and base is not object]


def _methods(cls: type[Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for base in _authored(cls):
        for name, value in vars(base).items():
            if options_of(value) is not None:
                found[name] = value
            else:
                found.pop(name, None)  # overridden by something that is no step
    return found


def _misplaced(cls: type[Any]) -> Iterator[WorkflowValidationError]:
    """Steps that aren't where they can work."""
    workflow = next(base for base in cls.__mro__ if "__flowkit_workflow__" in vars(base))
    for name, value in _methods(cls).items():
        if name in vars(workflow):
            cure = f"call the method something else (@step(name={name!r}) keeps the step's name)"
            yield _fault(cls, name, value, f"hides {workflow.__name__}.{name}", cure, "hides")
        if not hasattr(value, "__get__"):
            problem = f"is a {type(value).__name__}, which a class doesn't bind to its workflow"
            yield _fault(cls, name, value, problem, "write a method that calls it", "not-a-method")
    for base in _authored(cls):
        for name, value in vars(base).items():
            inner = next((getattr(value, one) for one in ("fget", "__func__", "func") if hasattr(value, one)), None)
            if options_of(inner) is None or options_of(value) is not None:
                continue
            problem = f"is a {type(value).__name__} around a step"
            yield _fault(cls, name, inner, problem, "take that decorator off: a step is a plain method", "not-a-method")


def _parameters(function: Any) -> list[Any]:
    return [parameter.annotation for parameter in inspect.signature(function).parameters.values()]


def _resolver(cls: type[Any], function: Any) -> Callable[[Any], Any]:
    return functools.partial(hints.resolve, module=python_function(function).__globals__, local=cls.__flowkit_local__)


def _is_event(annotation: Any) -> bool:
    kinds = [get_origin(member) or member for member in hints.members(annotation)]
    return all(isinstance(kind, type) and issubclass(kind, Event) for kind in kinds)


def _fault(cls: type[Any], step: str, function: Any, problem: str, cure: str, kind: str) -> WorkflowValidationError:
    return WorkflowValidationError(
        problem, cure=cure, workflow=cls.__name__, step=step, where=source(function), kind=kind
    )
