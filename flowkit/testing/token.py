"""Replay tokens: a scenario as one word, and what it was of.

A token says which workflow it is of (its name, and a digest of its plan), which start event, which backend, and under
which versions of Python, AnyIO and trio it was found. With any of them another, the same scenario might quietly be
another run: so that is an error, which says what differs.
"""

import base64
import binascii
import json
import sys
import zlib
from hashlib import blake2b
from importlib.metadata import version
from typing import Any

import attrs

from flowkit.plan import Plan
from flowkit.testing.problems import WrongToken
from flowkit.testing.scenario import Backend, Cancel, Fault, Scenario

__all__ = ["prefix_of", "read_token", "token_of"]

PREFIX = "fk1:"


def prefix_of(plan: Plan) -> str:
    """What every token of a workflow begins with: it tells the workflow, by its name and its plan."""
    steps = [
        [step.name, [kind.__qualname__ for kind in (*step.accepts, *step.returns, *step.returns_lists)]]
        for step in plan.steps
    ]
    return f"{PREFIX}{_digest([plan.name, steps])}:"


def token_of(plan: Plan, start: Any, backend: Backend, scenario: Scenario) -> str:
    """The token of a run."""
    given = {key: value for key, value in attrs.asdict(scenario).items() if value != getattr(Scenario(), key)}
    told = json.dumps([_versions(backend), _digest_of(start), given], separators=(",", ":"))
    packed = base64.urlsafe_b64encode(zlib.compress(told.encode(), 9)).decode().rstrip("=")
    return f"{prefix_of(plan)}{packed}:{_check(packed)}"


def read_token(token: str, plan: Plan, start: Any) -> tuple[Backend, Scenario]:
    """The backend and the scenario that a token tells.

    Raises:
        WrongToken: it is damaged, of another workflow or start event, or was made with other versions.
    """
    if not token.startswith(PREFIX) or token.count(":") != 3:
        raise WrongToken(f"isn't one: {token[:40]!r}", f"give what a report shows, {PREFIX}…, whole")
    _, _, packed, check = token.split(":")
    if _check(packed) != check:
        raise WrongToken("is damaged", "copy it again, whole")
    if not token.startswith(prefix_of(plan)):
        raise WrongToken(
            f"is of another workflow than {plan.name}, or of an earlier form of it",
            "run it with the code that it was found with, or let the search find a new one",
        )
    try:
        padded = packed + "=" * (-len(packed) % 4)
        versions, digest, told = json.loads(zlib.decompress(base64.urlsafe_b64decode(padded)))
    except (ValueError, binascii.Error, zlib.error) as error:
        raise WrongToken("is damaged", "copy it again, whole") from error
    backend: Backend = versions["backend"]
    for name, now in _versions(backend).items():
        if versions.get(name) != now:
            raise WrongToken(
                f"was found with {name} {versions.get(name)}, and this is {name} {now}: it may be another run here",
                "use the same version, or let the search find a new one",
            )
    if digest is not None and digest != _digest_of(start):
        raise WrongToken("is of another start event", "give the start event that the report shows")
    if told.get("cancel") is not None:
        told["cancel"] = Cancel(**told["cancel"])
    told["faults"] = tuple(Fault(**fault) for fault in told.get("faults", ()))
    told["deviations"] = tuple((at, shift) for at, shift in told.get("deviations", ()))
    told["crashes"] = tuple(told.get("crashes", ()))
    return backend, Scenario(**told)


def _versions(backend: Backend) -> dict[str, str]:
    found = {"backend": backend, "python": f"{sys.version_info[0]}.{sys.version_info[1]}"}
    found["flowkit"] = version("flowkit") if _is_installed() else "?"
    found["anyio"] = version("anyio")
    if backend == "trio":
        found["trio"] = version("trio")
    return found


def _is_installed() -> bool:
    from importlib.metadata import PackageNotFoundError

    try:
        version("flowkit")
    except PackageNotFoundError:
        return False  # run from its source
    return True


def _digest_of(start: Any) -> str | None:
    text = repr(start)
    return None if " at 0x" in text else _digest(text)


def _digest(value: Any) -> str:
    return blake2b(json.dumps(value).encode(), digest_size=4).hexdigest()


def _check(packed: str) -> str:
    return blake2b(packed.encode(), digest_size=3).hexdigest()
