"""What the making of a strategy refuses, and values that are drawn again because something refuses them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

import attrs
import hypothesis
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from flowkit.resource import type_name
from flowkit.testing.parameters import Parameter, bare
from flowkit.testing.problems import TestingError

__all__ = ["Gate", "NoStrategy", "Recipe", "Spot", "built", "refusal", "sifted"]

TRIES = 20
"""How often a value is drawn anew before the example is given up: a validator that takes one in ten gets one nine times
in ten. Hypothesis' own filters try three times."""
GIVE_UP = 400
"""After how many values of which none was taken there is thought to be none: 20 examples. Hypothesis would say that too
much is filtered out, without saying where, after 50."""


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


class Gate:
    """Counts what is refused, until something passes."""

    def __init__(self, trail: Sequence[Spot], reason: str, kind: Any = None, field: str = "") -> None:
        self.trail, self.reason, self.kind, self.field = tuple(trail), reason, kind, field
        self.refused, self.passed = 0, False
        self.error: Exception | None = None

    def __repr__(self) -> str:
        return "…"  # the argument of a strategy, which Hypothesis may show

    def refuse(self, error: Exception | None = None) -> None:
        self.refused += 1
        self.error = error

    def give_up(self, draw: st.DrawFn) -> NoReturn:
        """End this example, or all: for the same choices at the same place in any case, as Hypothesis wants it."""
        # Where nothing else is drawn, this makes different examples, or the first would be the last.
        draw(st.integers())
        if self.refused >= GIVE_UP and not self.passed:
            reason = self.reason if self.error is None else f"{self.reason}, {type(self.error).__name__}: {self.error}"
            raise refusal(self.trail, reason, self.kind, self.field) from self.error
        hypothesis.reject()


@st.composite
def sifted(draw: st.DrawFn, strategy: SearchStrategy[Any], allow: Callable[[Any], bool], gate: Gate) -> Any:
    """What the strategy gives and ``allow`` takes."""
    for _ in range(TRIES):
        value = draw(strategy)
        if allow(value):
            gate.passed = True
            return value
        gate.refuse()
    return gate.give_up(draw)


@attrs.frozen(repr=False)
class Recipe:
    """How an instance is drawn: its parts, then the whole; if that may fail there is a gate, and other parts are drawn."""

    build: Callable[..., Any]
    parts: Mapping[str, SearchStrategy[Any]]
    gate: Gate | None

    def __repr__(self) -> str:
        return self.build.__name__

    def __call__(self, draw: st.DrawFn) -> Any:
        gate = self.gate
        if gate is None:
            return self.build(**{name: draw(part) for name, part in self.parts.items()})
        for _ in range(TRIES):
            drawn = {name: draw(part) for name, part in self.parts.items()}
            try:
                built = self.build(**drawn)
            except Exception as error:  # noqa: BLE001 - however its author's code refuses
                gate.refuse(error)
            else:
                gate.passed = True
                return built
        return gate.give_up(draw)


@st.composite
def built(draw: st.DrawFn, recipe: Recipe) -> Any:
    """As ``st.builds``, in three quarters of its time: that keeps account of each argument."""
    return recipe(draw)
