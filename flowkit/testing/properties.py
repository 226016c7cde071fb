"""A property: the author's plain function of a finished run, as the search asks it, and as pytest sees it."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

from hypothesis.errors import UnsatisfiedAssumption

from flowkit.errors import WrongCall, shown
from flowkit.events import Event
from flowkit.testing.problems import TestingError
from flowkit.testing.report import failure_text
from flowkit.testing.run import Run
from flowkit.testing.simulation import Problem, Verdict

__all__ = ["Property", "as_test", "asking", "check_is_above_no_property", "check_property", "judged"]

Property = Callable[[Run, Event], None]
"""A property with its fixtures: it raises where it doesn't hold."""

_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
_OURS = ("run", "start")


def check_property(function: Any) -> None:
    """See that a property is one.

    Raises:
        WrongCall: it isn't a plain function, or doesn't take ``run``.
    """
    if not callable(function) or isinstance(function, type):
        problem = f"was put above {shown(function)}, which is no function"
        raise WrongCall("explore()", problem, "put it above a plain function of a run: def test_it(run): …")
    name = getattr(function, "__name__", shown(function))
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        problem = f"was put above {name}, which is async: a property is asked about a run that is over"
        raise WrongCall("explore()", problem, f"write a plain function, def {name}(run): …")
    if inspect.isgeneratorfunction(function):
        problem = f"was put above {name}, which yields: nothing in it would be run"
        raise WrongCall("explore()", problem, f"write a plain function, def {name}(run): …")
    parameters = inspect.signature(function).parameters
    run, start = parameters.get("run"), parameters.get("start")
    if run is None or run.kind not in _NAMED:
        problem = f"was put above {name}, which has no parameter run"
        raise WrongCall("explore()", problem, f"write def {name}(run): …, or (run, start)")
    if start is not None and start.kind not in _NAMED:
        problem = f"was put above {name}, whose start can't be given by its name"
        raise WrongCall("explore()", problem, f"write def {name}(run, start): …")


def check_is_above_no_property(flow: Any) -> None:
    """See that `explore` was called, and not put above a property as it is.

    Raises:
        WrongCall: it was.
    """
    if inspect.isfunction(flow) and "run" in inspect.signature(flow).parameters:
        problem = f"was put above {flow.__name__} without a workflow"
        raise WrongCall("explore()", problem, "write @testing.explore(YourFlow, start=…)")


def asking(function: Callable[..., object], bound: tuple[Any, ...], fixtures: dict[str, Any]) -> Property:
    """The property, with or without ``start``; of a class of tests, ``bound`` is its instance.

    Raises:
        TypeError: a fixture is missing.
        TestingError: it returned something (when it is asked).
    """
    signature = inspect.signature(function)
    takes_start = "start" in signature.parameters
    signature.bind(*bound, run=None, **({"start": None} if takes_start else {}), **fixtures)

    def ask(run: Run, start: Event) -> None:
        __tracebackhide__ = True
        ours = {"run": run, "start": start} if takes_start else {"run": run}
        value: Any = function(*bound, **ours, **fixtures)
        if value is None:
            return
        if inspect.iscoroutine(value):
            value.close()
        problem = f"a property returned {shown(value)}, and only what it raises counts"
        raise TestingError(problem, "write `assert` before what has to hold")

    return ask


def judged(ask: Property, always: bool, verdict: Verdict) -> Problem | None:
    """What is wrong with a run: by itself, or by the property."""
    __tracebackhide__ = True
    if verdict.problem is not None:
        return verdict.problem
    run = verdict.run
    if run.cancelled and verdict.again is not None and verdict.again.error is not None:
        return Problem("unusable", f"after a run was cancelled, the next one failed: {verdict.again.error}")
    if not (always or run.has_result):
        return None
    try:
        ask(run, verdict.start)
    except UnsatisfiedAssumption:  # `hypothesis.assume`: it isn't about this run
        return None
    except TestingError:
        raise
    except Exception as error:  # noqa: BLE001 - whatever else a property raises is a finding
        return Problem("property", failure_text(error))
    return None


def as_test(test: Callable[..., None], function: Callable[..., object]) -> Callable[..., None]:
    """With the property's name, and its parameters that are fixtures."""
    functools.update_wrapper(test, function)
    del test.__wrapped__  # type: ignore[attr-defined]  # pytest would look through it at the parameters
    parameters = list(inspect.signature(function).parameters.values())
    kept = [one for one in parameters if one.name not in _OURS]
    test.__signature__ = inspect.Signature(kept)  # type: ignore[attr-defined]
    test.__flowkit_explored__ = True  # type: ignore[attr-defined]
    return test
