"""What the making of a strategy refuses, and values that are drawn again because something refuses them."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import attrs
import hypothesis
from hypothesis import HealthCheck, Phase, Verbosity, settings
from hypothesis import strategies as st
from hypothesis.errors import NoSuchExample
from hypothesis.strategies import SearchStrategy

from flowkit.resource import type_name
from flowkit.testing.parameters import Parameter, bare
from flowkit.testing.problems import TestingError

__all__ = ["Gate", "NoStrategy", "Recipe", "Spot", "built", "examine", "refusal", "sifted"]

TRIES = 20
"""How often a value is drawn anew before the example is given up: a validator that takes one in ten gets one nine times
in ten. Hypothesis' own filters try three times."""
EXAMINED = 500
"""How many values are looked at, of which none passes, before it is said that there is none. Few have to be looked at
where there is one, so that it takes time (a few tenths of a second) only to say so."""
REFUSED: Any = object()
"""Stands for what couldn't be built."""


class NoStrategy(TestingError):
    """There is no strategy for a type of event.

    ``event`` names the class that it is about, ``field`` its field and ``annotation`` that field's type as it is
    written; both are `None` where it isn't about one field. ``problem`` and ``cure`` are the two halves of the message.
    """

    event: str
    field: str | None
    annotation: str | None
    problem: str
    cure: str

    def __init__(
        self, problem: str, cure: str, *, event: str, field: str | None = None, annotation: str | None = None
    ) -> None:
        super().__init__(problem, cure)
        self.event, self.field, self.annotation = event, field, annotation


@attrs.frozen
class Spot:
    """Where the making is: at a parameter of a class."""

    owner: Any
    parameter: Parameter


def refusal(trail: Sequence[Spot], reason: str, kind: Any = None, field: str = "") -> NoStrategy:
    """The error for what the last spot of the trail leads to; the first is a field of the event that was asked for.

    ``kind`` is the class for which a strategy could be registered, where there is one. Without a trail it is the event
    that was asked for, and ``field`` one of its fields, if giving those would help.
    """
    if not trail:
        name = type_name(kind)
        give = f"give fields that go together, events({bare(kind).__name__}, {field}=…), or " if field else ""
        return NoStrategy(f"{name} can't be drawn, {reason}", give + _registering(kind), event=name)
    top, spot = trail[0], trail[-1]
    event, field = type_name(top.owner), top.parameter.name
    owner, annotation = type_name(spot.owner), type_name(spot.parameter.written)
    give, where = "give it a strategy", ""
    if len(trail) > 1:
        give, where = f"give {event}.{field} a strategy", f" (in {event}.{field})"
        kind = kind if isinstance(kind, type) else bare(spot.owner)
    cure = f"{give}, events({bare(top.owner).__name__}, {field}=…)"
    if isinstance(kind, type):
        cure = f"{cure}, or {_registering(kind)}"
    problem = f"{owner}.{spot.parameter.name}: {annotation}{where} can't be drawn, {reason}"
    return NoStrategy(problem, cure, event=owner, field=spot.parameter.name, annotation=annotation)


def _registering(kind: Any) -> str:
    return f"register one, hypothesis.strategies.register_type_strategy({bare(kind).__name__}, …)"


@attrs.frozen
class Gate:
    """What not all values of a strategy pass; ``refusal`` is for the case that none does.

    Whether any does is found out once, before the first is drawn and apart from it (`examine`): Hypothesis wants the
    same choices to lead to the same end, whatever was drawn before.
    """

    strategy: SearchStrategy[Any]
    passes: Callable[[Any], bool]
    refusal: Callable[[], NoStrategy]

    def opens(self, quietly: settings) -> bool:
        try:
            hypothesis.find(self.strategy, self.passes, settings=quietly)
        except NoSuchExample:
            return False
        return True


def examine(gates: Sequence[Gate]) -> None:
    """Raise the refusal of the first gate that nothing passes."""
    if gates:
        # In a thread of its own: in this one, which is about to draw, Hypothesis would refuse to begin anew.
        with ThreadPoolExecutor(1) as thread:
            thread.submit(_examine, gates).result()


def _examine(gates: Sequence[Gate]) -> None:
    quietly = settings(
        max_examples=EXAMINED,
        phases=[Phase.generate],
        derandomize=True,
        database=None,
        deadline=None,
        verbosity=Verbosity.quiet,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
    )
    for gate in gates:
        if not gate.opens(quietly):
            raise gate.refusal()


@st.composite
def sifted(draw: st.DrawFn, strategy: SearchStrategy[Any], allow: Callable[[Any], bool]) -> Any:
    """What the strategy gives and ``allow`` takes."""
    for _ in range(TRIES):
        value = draw(strategy)
        if allow(value):
            return value
    return hypothesis.reject()


class Recipe:
    """How an instance is drawn: its parts, then the whole; that is tried again if it ``may_fail``."""

    def __init__(self, build: Callable[..., Any], parts: Mapping[str, SearchStrategy[Any]], may_fail: bool) -> None:
        self.build, self.parts, self.may_fail = build, parts, may_fail
        self.error: Exception | None = None

    def __repr__(self) -> str:
        return self.build.__name__

    def __call__(self, draw: st.DrawFn) -> Any:
        if not self.may_fail:
            return self.build(**{name: draw(part) for name, part in self.parts.items()})
        for _ in range(TRIES):
            built = self._try({name: draw(part) for name, part in self.parts.items()})
            if built is not REFUSED:
                return built
        return hypothesis.reject()

    def _try(self, parts: Mapping[str, Any]) -> Any:
        try:
            return self.build(**parts)
        except Exception as error:  # noqa: BLE001 - however its author's code refuses
            self.error = error
            return REFUSED

    def gate(self, trail: Sequence[Spot], kind: Any, field: str) -> Gate:
        def refuse() -> NoStrategy:
            error = self.error
            reason = f"each {kind.__name__} that is built fails, {type(error).__name__}: {error}"
            refused = refusal(trail, reason, kind, field)
            refused.__cause__ = error
            return refused

        return Gate(st.fixed_dictionaries(self.parts), lambda parts: self._try(parts) is not REFUSED, refuse)


@st.composite
def built(draw: st.DrawFn, recipe: Recipe) -> Any:
    """As ``st.builds``, in three quarters of its time: that keeps account of each argument."""
    return recipe(draw)
