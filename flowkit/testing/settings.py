"""What a whole test run asks of its property tests, whatever each of them says itself; and what a budget means.

pytest's options ``--flowkit-…`` are kept here (plugin.py), and `explore` and the oracles read them from here.
"""

import re
from collections.abc import Generator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any, Literal, TypedDict, Unpack

import attrs

from flowkit.errors import WrongCall, shown

__all__ = ["Budget", "Choice", "Defaults", "defaults", "parse_budget", "replayed", "use"]

Choice = Literal["asyncio", "trio", "both"]
"""What a test can be told to run on."""

_TIME = re.compile(r"(\d+|\d*\.\d+|\d+\.)\s*(ms|s)", re.ASCII)
_SECONDS = {"ms": 0.001, "s": 1.0}
_TOKEN = re.compile(r"fk\d+:\S+")


@attrs.frozen
class Budget:
    """How long to search for a counterexample: ``seconds`` of real time, or a number of ``runs``. The other is None."""

    seconds: float | None = None
    runs: int | None = None


def parse_budget(given: str | int, call: str = "budget") -> Budget:
    """What is meant by ``"2s"``, ``"500ms"`` (real time: how far it reaches depends on the machine) or a number of runs
    (the same ones everywhere).

    ``call`` is what an error says it was given to.

    Raises:
        WrongCall: neither is meant.
    """
    if isinstance(given, int) and not isinstance(given, bool):
        if given > 0:
            return Budget(runs=given)
        raise WrongCall(call, f"takes one run or more, but got {given}", "leave the test out to run nothing")
    if isinstance(given, str) and (match := _TIME.fullmatch(given.strip())):
        seconds = float(match[1]) * _SECONDS[match[2]]
        if seconds > 0:
            return Budget(seconds=seconds)
    raise WrongCall(call, f"takes a time or a number of runs, but got {shown(given)}", f"write {_budget_meant(given)}")


def _budget_meant(given: Any) -> str:
    number = str(given).strip()
    if re.fullmatch(r"\d+", number, re.ASCII):
        return f'{number} for runs, "{number}s" for seconds'
    if isinstance(given, float) and given > 0:
        return f'"{given:g}s" for seconds'
    return '"2s", "500ms", or 500 for so many runs'


def _check_bound(instance: "Defaults", field: "attrs.Attribute[int | None]", given: Any) -> None:
    if given is not None and (not isinstance(given, int) or isinstance(given, bool) or given < 0):
        raise WrongCall(
            field.name,
            f"takes a number of deviations from the plainest schedule, 0 or more, but got {shown(given)}",
            "write 1 or 2: each one more takes some ten times as long",
        )


def _check_budget(instance: "Defaults", field: "attrs.Attribute[str | int | None]", given: Any) -> None:
    if given is not None:
        parse_budget(given, field.name)


def _check_backend(instance: "Defaults", field: "attrs.Attribute[Choice | None]", given: Any) -> None:
    if given is None:
        return
    if given not in ("asyncio", "trio", "both"):
        raise WrongCall(field.name, f"takes 'asyncio', 'trio' or 'both', but got {shown(given)}")
    if given != "asyncio" and find_spec("trio") is None:
        raise WrongCall(field.name, f"{given!r} needs trio, which is not installed", 'install "flowkit[trio]"')


def _check_replay(instance: "Defaults", field: "attrs.Attribute[str | None]", given: Any) -> None:
    if given is not None and not (isinstance(given, str) and _TOKEN.fullmatch(given)):
        raise WrongCall(
            field.name,
            f"takes the token of a run, fk1:…, but got {shown(given)}",
            "copy it from a counterexample's report, whole",
        )


@attrs.define
class Defaults:
    """What takes the place of what a test says; ``None`` where the test's own word counts. Checked when it is set.

    Attributes:
        bound: how many deviations from the plainest schedule to try out exhaustively.
        budget: how long to search: see `parse_budget`.
        backend: what to run on.
        replay: the token of the one run that is wanted.

    Raises:
        WrongCall: one of them can't be.
    """

    bound: int | None = attrs.field(default=None, validator=_check_bound)
    budget: str | int | None = attrs.field(default=None, validator=_check_budget)
    backend: Choice | None = attrs.field(default=None, validator=_check_backend)
    replay: str | None = attrs.field(default=None, validator=_check_replay)


defaults = Defaults()
"""What is in force now, in all threads of the process."""

replayed: list[str] = []
"""The names of the tests that have run `Defaults.replay`."""


class _Changes(TypedDict, total=False):
    bound: int | None
    budget: str | int | None
    backend: Choice | None
    replay: str | None


@contextmanager
def use(**changes: Unpack[_Changes]) -> Generator[Defaults, None, None]:
    """Change `defaults` for the time of the block, in all threads; what isn't named stays as it is.

    Raises:
        WrongCall: a value can't be; nothing has been changed.
    """
    wanted = attrs.asdict(attrs.evolve(defaults, **changes))
    before = attrs.asdict(defaults)
    _set(wanted)
    try:
        yield defaults
    finally:
        _set(before)


def _set(values: dict[str, Any]) -> None:
    for name, value in values.items():
        setattr(defaults, name, value)
