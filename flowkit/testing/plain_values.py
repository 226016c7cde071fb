"""Strategies of values without fields: numbers, text, moments, paths, and of `Any`. They keep to a field's validators.

Every value equals itself (there is no NaN) and can be stored by flowkit. Floats may be infinite; decimals aren't, for
Hypothesis would show an infinite one as the simplest of all. Moments have no time zone, unless a bound has one.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from fractions import Fraction
from pathlib import Path, PurePath, PurePosixPath, PureWindowsPath
from types import NoneType
from typing import Any
from uuid import UUID

import attrs
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from flowkit.events import StopEvent
from flowkit.testing.validators import NOTHING_ASKED, Between, Checks

__all__ = ["PLAIN", "Plan", "anything", "chosen", "either", "impossible", "open_event"]

EXTRAS = ("a", "b", "c", "key", "name", "value")
"""The names of the attributes that open events are given."""


@attrs.frozen
class Plan:
    """A strategy, and what is known about it; ``strategy`` is `None` where there is no value, and ``why`` says why.

    ``choices`` are all its values where they are few, ``count`` says how many it has at most. ``recursive``: it may
    hold what it is a part of, on average ``holds`` of that; if it has no value, then only because it may be no deeper.
    ``recipe`` does what the strategy does, where that is building one class.
    """

    strategy: SearchStrategy[Any] | None
    count: int | None = None
    choices: Sequence[Any] | None = None
    recursive: bool = False
    holds: float = 0.0
    none_first: bool = False
    why: str = ""
    recipe: Callable[[st.DrawFn], Any] | None = None


def impossible(why: str) -> Plan:
    return Plan(None, why=why)


def chosen(values: Iterable[Any], why: str = "") -> Plan:
    """One of these values; shrinks to the first."""
    choices: list[Any] = []
    for value in values:
        if not any(type(value) is type(other) and value == other for other in choices):
            choices.append(value)
    if not choices:
        return impossible(why)
    strategy = st.sampled_from(choices) if len(choices) > 1 else st.just(choices[0])
    return Plan(strategy, len(choices), choices, none_first=choices[0] is None)


def either(plans: Sequence[Plan]) -> Plan:
    """One of these, shrinking to the first: `None`, then what holds nothing like itself."""
    if len(plans) == 1:
        return plans[0]
    recursive = any(plan.recursive for plan in plans)
    alive = [plan for plan in plans if plan.strategy is not None]
    if not alive:
        return Plan(None, recursive=recursive, why=next((plan.why for plan in plans if plan.why), ""))
    alive.sort(key=lambda plan: (not plan.none_first, plan.recursive))
    if all(plan.choices is not None for plan in alive):
        return attrs.evolve(chosen([one for plan in alive for one in plan.choices or ()]), recursive=recursive)
    counts = [plan.count for plan in alive]
    return Plan(
        st.one_of([plan.strategy for plan in alive if plan.strategy is not None]),
        None if None in counts else sum(count or 0 for count in counts),
        recursive=recursive,
        holds=sum(plan.holds for plan in alive) / len(alive),
        none_first=alive[0].none_first,
    )


# ---------------------------------------------------------------------------------------------------------- numbers


def _empty(asked: Between) -> Plan:
    low, high = "more than" if asked.low_open else "at least", "less than" if asked.high_open else "at most"
    return impossible(f"nothing is {low} {asked.low!r} and {high} {asked.high!r}")


def _integers(checks: Checks) -> Plan:
    asked = checks.between(int, float, Decimal, Fraction)
    low = high = None
    if asked.low is not None and asked.low != -math.inf:
        if asked.low == math.inf:
            return _empty(asked)
        low = math.floor(asked.low) + 1 if asked.low_open else math.ceil(asked.low)
    if asked.high is not None and asked.high != math.inf:
        if asked.high == -math.inf:
            return _empty(asked)
        high = math.ceil(asked.high) - 1 if asked.high_open else math.floor(asked.high)
    if low is None or high is None:
        return Plan(st.integers(low, high))
    return Plan(st.integers(low, high), high - low + 1) if low <= high else _empty(asked)


def _floats(checks: Checks) -> Plan:
    asked = checks.between(int, float, Decimal, Fraction)
    low, low_open = (asked.low, asked.low_open) if asked.low is not None else (None, False)
    high, high_open = (asked.high, asked.high_open) if asked.high is not None else (None, False)
    # The nearest floats inside of bounds that aren't floats themselves.
    if low is not None and (near := _nearest(low)) != low:
        low, low_open = near if near > low else math.nextafter(near, math.inf), False
    if high is not None and (near := _nearest(high)) != high:
        high, high_open = near if near < high else math.nextafter(near, -math.inf), False
    if low is not None and low_open:
        low = math.nextafter(low, math.inf) if low != math.inf else math.nan
    if high is not None and high_open:
        high = math.nextafter(high, -math.inf) if high != -math.inf else math.nan
    if asked.is_empty or low != low or high != high or (low is not None and high is not None and low > high):
        return _empty(asked)
    return Plan(st.floats(low, high, allow_nan=False))


def _nearest(number: Any) -> float:
    try:
        return float(number)
    except OverflowError:
        return math.inf if number > 0 else -math.inf


def _decimals(checks: Checks) -> Plan:
    asked = checks.between(int, float, Decimal, Fraction, keeps_open=False)
    bounds = [_exact(bound) for bound in (asked.low, asked.high)]
    if asked.is_empty:
        return _empty(asked)
    return Plan(st.decimals(*bounds, allow_nan=False, allow_infinity=False))


def _exact(bound: Any) -> Any:
    """A decimal, or a fraction of which there is none; Hypothesis takes either for a bound."""
    return Decimal(bound) if isinstance(bound, float | int) else bound


def _fractions(checks: Checks) -> Plan:
    asked = checks.between(int, Fraction, Decimal, keeps_open=False)
    return _empty(asked) if asked.is_empty else Plan(st.fractions(asked.low, asked.high))


def _complex(checks: Checks) -> Plan:
    return Plan(st.complex_numbers(allow_nan=False))


# ------------------------------------------------------------------------------------------------- text and bytes


def _text(checks: Checks) -> Plan:
    found = checks.pattern()
    if found is not None and isinstance(found[0].pattern, str):
        # It stays a check: `$` matches before a line's end too. And lengths are checked, not aimed for.
        return Plan(st.from_regex(found[0], fullmatch=found[1]))
    return _sized(checks, st.text)


def _binary(checks: Checks) -> Plan:
    found = checks.pattern()
    if found is not None and isinstance(found[0].pattern, bytes):
        return Plan(st.from_regex(found[0], fullmatch=found[1]))
    return _sized(checks, st.binary)


def _bytearrays(checks: Checks) -> Plan:
    def bytearrays(min_size: int, max_size: int | None) -> SearchStrategy[bytearray]:
        return st.binary(min_size=min_size, max_size=max_size).map(bytearray)

    return _sized(checks, bytearrays)


def _sized(checks: Checks, make: Callable[..., SearchStrategy[Any]]) -> Plan:
    low, high = checks.sizes()
    if high is not None and low > high:
        return impossible(f"nothing has a length of at least {low} and at most {high}")
    return Plan(make(min_size=low, max_size=high))


# ------------------------------------------------------------------------------------------------ moments and paths


def _dates(checks: Checks) -> Plan:
    return _ranged(checks, date, st.dates)


def _timedeltas(checks: Checks) -> Plan:
    return _ranged(checks, timedelta, st.timedeltas)


def _times(checks: Checks) -> Plan:
    return _ranged(checks, time, st.times)


def _ranged(checks: Checks, kind: Any, make: Callable[..., SearchStrategy[Any]]) -> Plan:
    asked = checks.between(kind, keeps_open=False)
    if asked.is_empty:
        return _empty(asked)
    limits = {"min_value": asked.low, "max_value": asked.high}
    return Plan(make(**{name: bound for name, bound in limits.items() if bound is not None}))


def _datetimes(checks: Checks) -> Plan:
    asked = checks.between(datetime, keeps_open=False)
    if asked.is_empty:
        return _empty(asked)
    limits = {"min_value": asked.low, "max_value": asked.high}
    limits = {name: bound for name, bound in limits.items() if bound is not None}
    if any(bound.tzinfo is not None for bound in limits.values()):
        # With a bound that has a time zone, only those that have one can be compared.
        naive = {name: bound.astimezone(UTC).replace(tzinfo=None) for name, bound in limits.items()}
        return Plan(st.datetimes(**naive, timezones=st.just(UTC)))
    return Plan(st.datetimes(**limits))


def _paths(kind: Any) -> Callable[[Checks], Plan]:
    name = st.text("abcdefghijklmnopqrstuvwxyz0123456789_", min_size=1, max_size=8)
    return lambda checks: Plan(st.lists(name, max_size=3).map(lambda parts: kind(*parts)))


def _uuids(checks: Checks) -> Plan:
    # Hypothesis' own are random even where everything else is as simple as can be.
    return Plan(st.integers(0, 2**128 - 1).map(_uuid))


def _uuid(number: int) -> UUID:
    return UUID(int=number)


def _nones(checks: Checks) -> Plan:
    return chosen([None])


def _booleans(checks: Checks) -> Plan:
    return Plan(st.booleans(), 2, (False, True))


PLAIN: dict[Any, Callable[[Checks], Plan]] = {
    NoneType: _nones,
    bool: _booleans,
    int: _integers,
    float: _floats,
    complex: _complex,
    str: _text,
    bytes: _binary,
    bytearray: _bytearrays,
    Decimal: _decimals,
    Fraction: _fractions,
    date: _dates,
    datetime: _datetimes,
    time: _times,
    timedelta: _timedeltas,
    UUID: _uuids,
    **{kind: _paths(kind) for kind in (Path, PurePath, PurePosixPath, PureWindowsPath)},
}
"""How the values of a type are drawn; what of the checks is kept to is taken out of them."""


# ----------------------------------------------------------------------------------------- Any, and any attributes


def anything(hashed: bool) -> Plan:
    """What may be in a field of type `Any`: what JSON has, not deep; ``hashed``, what may be a key."""
    plain = [_nones, _booleans, _integers, _floats, _text]
    single = st.one_of([strategy for make in plain if (strategy := make(NOTHING_ASKED).strategy) is not None])
    if hashed:
        return Plan(single, none_first=True)
    level = single
    for _ in range(2):
        level = single | st.lists(level, max_size=3) | st.dictionaries(st.text(max_size=5), level, max_size=3)
    return Plan(level, none_first=True)


def open_event(kind: Any, instead: Mapping[str, SearchStrategy[Any]], hashed: bool) -> Plan:
    """The plan for an event that takes any attributes: with those that are given, or with a few."""
    values = anything(hashed).strategy
    assert values is not None
    if instead:
        return Plan(st.builds(kind, **{**({"result": values} if kind is StopEvent else {}), **instead}))
    extras = st.dictionaries(st.sampled_from(EXTRAS), values, max_size=3)
    if kind is StopEvent:
        return Plan(st.tuples(values, extras).map(lambda drawn: kind(drawn[0], **drawn[1])))
    return Plan(extras.map(lambda given: kind(**given)))
