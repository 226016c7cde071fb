"""What a step waits for in its body, read from its code without running it: a guess, as good as it gets before a run.

A step that calls ``ctx.wait_for_event(Answer, Question(…))`` says so nowhere in its signature, but its code names the
method and the classes. They are looked up as Python would, in the step's own module, in what it closes over, and in the
methods and functions of the same module that it names. Which class is an argument of which call isn't read: a step that
waits, and mentions a question, asks it. A class that comes from elsewhere (an argument, a dictionary) isn't found.
"""

import dis
import inspect
from collections.abc import Callable, Iterator
from types import CodeType, FunctionType, ModuleType
from typing import Any

from flowkit.events import Event, HumanResponseEvent, InputRequiredEvent
from flowkit.plan import Plan
from flowkit.steps import StepSpec

__all__ = ["awaited"]


def awaited(plan: Plan, spec: StepSpec, owner: type[Any]) -> tuple[list[type[Event]], list[type[Event]]]:
    """The questions that a step asks in a wait, and the events that it waits for, as far as its code tells."""
    if spec.context_parameter is None:
        return [], []
    waits = False
    found: dict[type[Event], None] = {}
    for function in _functions(spec.function, owner):
        names, attributes = _mentioned(function.__code__)
        waits = waits or "wait_for_event" in attributes
        for value in _values(function, names, attributes):
            if isinstance(value, type) and issubclass(value, Event):
                found[value] = None
    if not waits:
        return [], []
    returned = spec.returns | spec.returns_lists
    questions: list[type[Event]] = [kind for kind in found if issubclass(kind, InputRequiredEvent)]
    others = [kind for kind in found if kind not in (*returned, *questions, *spec.accepts)]
    answers = [kind for kind in others if issubclass(kind, HumanResponseEvent) or not plan.takers(kind)]
    return [kind for kind in questions if kind not in returned], answers


def _functions(first: Callable[..., Any], owner: type[Any]) -> Iterator[FunctionType]:
    """A step's function, and those of its module or class that it names, and so on."""
    todo: list[Any] = [first]
    seen: set[Any] = set()
    for value in todo:
        function = inspect.unwrap(getattr(value, "__func__", value))
        if not isinstance(function, FunctionType) or function in seen:
            continue
        seen.add(function)
        yield function
        names, attributes = _mentioned(function.__code__)
        values = _values(function, names, attributes)
        todo += [one for one in values if isinstance(one, FunctionType) and one.__module__ == first.__module__]
        todo += [inspect.getattr_static(owner, name, None) for name in attributes]


def _mentioned(code: CodeType) -> tuple[list[str], list[str]]:
    """The variables it reads that aren't its own, and the attributes; those of functions and comprehensions inside it,
    too."""
    names: list[str] = []
    attributes: list[str] = []
    for instruction in dis.get_instructions(code):
        if instruction.opname in ("LOAD_ATTR", "LOAD_METHOD", "LOAD_SUPER_ATTR"):
            attributes.append(instruction.argval)
        elif instruction.opname in ("LOAD_GLOBAL", "LOAD_NAME", "LOAD_DEREF", "LOAD_CLASSDEREF"):
            names.append(instruction.argval)
        elif isinstance(instruction.argval, CodeType):
            for mine, inner in zip((names, attributes), _mentioned(instruction.argval), strict=True):
                mine += inner
    return names, attributes


def _values(function: FunctionType, names: list[str], attributes: list[str]) -> Iterator[Any]:
    """What these variables are, in the function's closure and its module; of modules what may be meant in them."""
    cells = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=True))
    for name in names:
        try:
            value = cells[name].cell_contents if name in cells else function.__globals__.get(name)
        except ValueError:  # not assigned yet
            continue
        yield value
        if isinstance(value, ModuleType):
            yield from (vars(value).get(attribute) for attribute in attributes)
