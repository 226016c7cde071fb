"""Replay tokens: a scenario as one word, and what it was of.

A token says which workflow it is of (its name, and a digest of its plan), which start event, which backend, whether the
run had a store and its questions were answered, which errors its faults raise, and under which versions of Python,
AnyIO and trio it was found. With any of them another, the same scenario might quietly be another run: so that is an
error, which says what differs.

**The start event** is in the token where it was drawn, if the workflow's codec can write it: the test that has drawn it
can't tell it otherwise.
"""

import base64
import binascii
import functools
import json
import sys
import zlib
from collections.abc import Iterable
from hashlib import blake2b
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import attrs

from flowkit import __version__
from flowkit.errors import WorkflowError, shown
from flowkit.events import Event
from flowkit.plan import Plan
from flowkit.testing.problems import WrongToken
from flowkit.testing.scenario import Backend, Cancel, Fault, Scenario
from flowkit.testing.simulation import Simulation
from flowkit.workflow import records_of

__all__ = ["Told", "has_start", "is_of", "prefix_of", "read_token", "start_in", "token_of"]

PREFIX = "fk1:"

LONGEST = 2_000
"""Characters of a start event that is put into a token."""


@attrs.frozen
class Told:
    """What a token tells."""

    backend: Backend
    scenario: Scenario
    stored: bool


def prefix_of(plan: Plan) -> str:
    """What every token of a workflow begins with: it tells the workflow, by its name and its plan."""
    steps = [[step.name, *map(_names, (step.accepts, step.returns, step.returns_lists))] for step in plan.steps]
    return f"{PREFIX}{_digest([plan.name, steps])}:"


def _names(kinds: Iterable[type[Any]]) -> list[str]:
    return sorted(kind.__qualname__ for kind in kinds)  # of a set, whose order is another in each process


def token_of(simulation: Simulation, scenario: Scenario) -> str:
    """The token of a run."""
    given = {key: value for key, value in attrs.asdict(scenario).items() if value != getattr(Scenario(), key)}
    start = simulation.start
    how: dict[str, Any] = {"stored": simulation.stored, "answer": simulation.answer is not None}
    how["errors"] = [_error(simulation, fault) for fault in scenario.faults]
    how["start"] = _written(simulation) if simulation.is_drawn else None
    told = [_versions(simulation.backend), _digest_of(start), given, {key: one for key, one in how.items() if one}]
    packed = base64.urlsafe_b64encode(zlib.compress(json.dumps(told, separators=(",", ":")).encode(), 9)).decode()
    packed = packed.rstrip("=")
    return f"{prefix_of(simulation.plan)}{packed}:{_check(packed)}"


def read_token(token: str, simulation: Simulation) -> Told:
    """What a token tells, of a run of this.

    Raises:
        WrongToken: it is damaged, or of another workflow, start event, or test, or was made with other versions.
    """
    __tracebackhide__ = True
    versions, digest, given, how = _unpacked(token, simulation.plan)
    backend: Backend = versions["backend"]
    for name, now in _versions(backend).items():
        if versions.get(name) != now:
            raise WrongToken(
                f"was found with {name} {versions.get(name)}, and this is {name} {now}: it may be another run here",
                "use the same version, or let the search find a new one",
            )
    if digest is not None and digest != _digest_of(simulation.start):
        raise WrongToken("is of another start event", "give the start event that the report shows")
    answers = bool(how.get("answer"))
    if answers and simulation.answer is None:
        raise WrongToken("is of a run whose questions are answered", "pass answer=… as the test has it")
    if not answers and simulation.answer is not None:
        raise WrongToken("is of a run whose questions nobody answers", "leave answer out")
    scenario = _scenario(given)
    for fault, error in zip(scenario.faults, how.get("errors", ()), strict=False):
        if error and error != _error(simulation, fault):
            raise WrongToken(
                f"is of a run in which {fault.step} raises {error}",
                "pass faults=testing.faults(…) as the test has it",
            )
    return Told(backend, scenario, bool(how.get("stored")))


def has_start(token: str) -> bool:
    """Whether a token has its start event inside.

    Raises:
        WrongToken: it is damaged, or none.
    """
    __tracebackhide__ = True
    return "start" in _opened(token)[3]


def is_of(token: str, simulation: Simulation) -> bool:
    """Whether a token is of this workflow and this start event, which may be in it.

    Raises:
        WrongToken: it is damaged.
    """
    __tracebackhide__ = True
    if not token.startswith(prefix_of(simulation.plan)):
        return False
    _, digest, _, how = _opened(token)
    if simulation.is_drawn or "start" in how:
        return simulation.is_drawn and "start" in how
    return digest is None or digest == _digest_of(simulation.start)


def start_in(token: str, simulation: Simulation) -> Event | None:
    """The start event that a token has in it.

    Raises:
        WrongToken: it is damaged, or of another workflow.
    """
    __tracebackhide__ = True
    _, _, _, how = _unpacked(token, simulation.plan)
    if "start" not in how:
        return None
    codec = records_of(simulation.first).codec
    found = codec.loads(json.dumps(how["start"]).encode())
    return found if isinstance(found, simulation.plan.start_type) else None


def _unpacked(token: str, plan: Plan) -> "_Opened":
    __tracebackhide__ = True
    opened = _opened(token)
    if not token.startswith(prefix_of(plan)):
        raise WrongToken(
            f"is of another workflow than {plan.name}, or of an earlier form of it",
            "run it with the code that it was found with, or let the search find a new one",
        )
    return opened


_Opened = tuple[dict[str, Any], str | None, dict[str, Any], dict[str, Any]]
"""Versions, a digest of the start event, what isn't ordinary in the scenario, and how it was run."""


def _opened(token: str) -> _Opened:
    __tracebackhide__ = True
    if not isinstance(token, str) or not token.startswith(PREFIX) or token.count(":") != 3:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise WrongToken(f"isn't one: {shown(token, 40)}", f"give what a report shows, {PREFIX}…, whole")
    _, _, packed, check = token.split(":")
    if _check(packed) != check:
        raise WrongToken("is damaged", "copy it again, whole")
    try:
        padded = packed + "=" * (-len(packed) % 4)
        versions, digest, given, how = json.loads(zlib.decompress(base64.urlsafe_b64decode(padded)))
    except (ValueError, binascii.Error, zlib.error) as error:
        raise WrongToken("is damaged", "copy it again, whole") from error
    return versions, digest, given, how


def _scenario(given: dict[str, Any]) -> Scenario:
    if given.get("cancel") is not None:
        given["cancel"] = Cancel(**given["cancel"])
    given["faults"] = tuple(Fault(**fault) for fault in given.get("faults", ()))
    given["deviations"] = tuple((at, shift) for at, shift in given.get("deviations", ()))
    given["crashes"] = tuple(given.get("crashes", ()))
    return Scenario(**given)


def _error(simulation: Simulation, fault: Fault) -> str | None:
    """The name of the error that a fault raises."""
    if fault.error is None:
        return None
    errors = simulation.errors.get(fault.step, ())
    if fault.error >= len(errors):
        return None
    error = errors[fault.error]
    return (error if isinstance(error, type) else type(error)).__name__


def _written(simulation: Simulation) -> Any:
    """The start event as JSON data, ``None`` where it can't be written."""
    try:
        data = records_of(simulation.first).codec.encode(simulation.start)
    except WorkflowError:
        return None
    return data if len(json.dumps(data)) <= LONGEST else None


@functools.cache
def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "(none)"


def _versions(backend: Backend) -> dict[str, str]:
    found = {"backend": backend, "python": f"{sys.version_info[0]}.{sys.version_info[1]}", "flowkit": __version__}
    found["anyio"] = _version("anyio")
    if backend == "trio":
        found["trio"] = _version("trio")
    return found


def _digest_of(start: Any) -> str | None:
    text = repr(start)
    return None if " at 0x" in text else _digest(text)


def _digest(value: Any) -> str:
    return blake2b(json.dumps(value).encode(), digest_size=4).hexdigest()


def _check(packed: str) -> str:
    return blake2b(packed.encode(), digest_size=3).hexdigest()
