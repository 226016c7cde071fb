"""What Hypothesis has been told to draw of a type: ``st.register_type_strategy`` goes before what flowkit would draw.

Hypothesis has no call that says whether a strategy was registered. Two things that it documents do say so.

- ``from_type`` of a class that it doesn't know asks of each class that it does know whether that is a subclass; a class
  that hears itself being asked learns them all.
- A strategy's ``repr`` is the call that made it: of the types that Hypothesis knows from the start, one that reads
  otherwise was registered since.
"""

import types
import typing
from collections import Counter, OrderedDict, abc, defaultdict, deque
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from fractions import Fraction
from numbers import Complex, Integral, Number, Rational, Real
from typing import Any, cast
from uuid import UUID
from weakref import WeakKeyDictionary

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from flowkit.testing.parameters import bare

__all__ = ["FROM_THE_START", "OURS", "Registered"]

OURS: WeakKeyDictionary[SearchStrategy[Any], Any] = WeakKeyDictionary()
"""The type that each strategy made by ``events(E)`` is for. Registered for that very type, as one may do to tell
Hypothesis about it, it isn't another strategy."""

_FIRST: dict[Any, SearchStrategy[Any]] = {
    bool: st.booleans(),
    int: st.integers(),
    float: st.floats(),
    complex: st.complex_numbers(),
    str: st.text(),
    bytes: st.binary(),
    bytearray: st.binary().map(bytearray),
    types.NoneType: st.none(),
    Decimal: st.decimals(),
    Fraction: st.fractions(),
    date: st.dates(),
    datetime: st.datetimes(),
    time: st.times(),
    timedelta: st.timedeltas(),
    UUID: st.uuids(),
    tuple: st.builds(tuple),
    list: st.builds(list),
    set: st.builds(set),
    frozenset: st.builds(frozenset),
    dict: st.builds(dict),
    deque: st.builds(deque),
    defaultdict: st.builds(defaultdict),
    OrderedDict: cast(Any, st.builds(dict)).map(OrderedDict),
    Counter: st.builds(Counter),
    abc.MutableSet: st.builds(set),
    vars(abc)["Callable"]: st.functions(),
    types.FunctionType: st.functions(),
    Complex: st.complex_numbers(),
    Number: st.complex_numbers(),
    Real: st.floats(),
    Rational: st.fractions(),
    Integral: st.integers(),
}
FROM_THE_START = {kind: repr(strategy) for kind, strategy in _FIRST.items()}
"""How Hypothesis draws the types that flowkit draws otherwise."""


class Registered:
    """What Hypothesis knows at this moment."""

    def __init__(self) -> None:
        known: set[Any] = set()

        class Asked(type):
            def __subclasscheck__(cls, subclass: Any) -> bool:
                known.add(subclass)
                return False

        unknown: Any = Asked("Unknown", (), {})
        st.from_type(unknown)
        self.known = known

    def instead(self, annotation: Any) -> bool:
        """Whether a strategy was registered for this class, or for the class of ``Box[int]``."""
        kind = bare(annotation)
        if kind not in self.known:
            return False
        if kind in FROM_THE_START:
            return repr(st.from_type(kind)) != FROM_THE_START[kind]
        return bool(OURS.get(st.from_type(annotation)) != annotation)

    def alias(self, alias: Any, meaning: Any) -> bool:
        """Whether a strategy was registered for a `NewType` or a type alias, and not only for what it means.

        One that mentions itself isn't asked for: Hypothesis would go round and round.
        """
        if isinstance(alias, typing.ForwardRef) or _mentions(meaning, bare(alias)):
            return False
        text = repr(st.from_type(alias))
        return text != repr(st.from_type(meaning)) and not text.startswith("from_type(")


def _mentions(annotation: Any, alias: Any) -> bool:
    seen: list[Any] = []
    todo = [annotation]
    while todo:
        one = todo.pop()
        if bare(one) is alias:
            return True
        if not any(one is other for other in seen):
            seen.append(one)
            todo += [*typing.get_args(one), getattr(bare(one), "__value__", None)]
    return False
