"""Hypothesis strategies from event types: ``events(OrderPlaced)``.

The strategy is made when it is first drawn from, by going through the annotations of the event's fields and of what
those hold (strategy_maker.py). What is made are plain strategies of Hypothesis, and classes called with what they give,
as by ``st.builds``.

- What a field's validators ask for becomes bounds of its strategy where that can be (validators.py). Other validators
  are called with what is drawn, and it is drawn again if they refuse it; what only the whole event refuses (a validator
  that looks at two fields, a converter, an ``__attrs_post_init__``) is drawn again whole.
- A default is drawn as often as any other value, and first when an example is made simpler. Of a factory it is taken
  only if two calls give the same: `uuid4` would give another whenever an example is repeated.
- A class that holds itself is drawn a few levels deep.
- An event's subclasses are events like it: ``events(Base)`` draws them too. So does a field of type ``Base``.
- Nothing is drawn that doesn't equal itself (no NaN) and nothing depends on the hashes of this process.

What can't be drawn is refused by `NoStrategy`, which says how to help: ``events(E, field=…)``, or a strategy that
Hypothesis has been given for a type (``register_type_strategy``, ``Annotated[int, st.integers(0, 9)]``), which goes
before everything said here.
"""

from collections.abc import Callable, Mapping, Sequence
from types import UnionType
from typing import Any, TypeVar, cast, overload

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from flowkit import hints
from flowkit.errors import did_you_mean, shown
from flowkit.events import Event
from flowkit.resource import type_name
from flowkit.testing.parameters import bare, classes_around, is_event, parameters_of, subclasses_of
from flowkit.testing.refusals import NoStrategy
from flowkit.testing.registered import OURS
from flowkit.testing.strategy_maker import Maker

__all__ = ["NoStrategy", "events"]

E = TypeVar("E", bound=Event)


@overload
def events(*types: type[E], **fields: Any) -> SearchStrategy[E]: ...
@overload
def events(*types: UnionType, **fields: Any) -> SearchStrategy[Any]: ...
def events(*types: Any, **fields: Any) -> SearchStrategy[Any]:
    """A strategy of events of these types, and of their subclasses.

    An example is made simpler by going to the defaults, ``0``, ``''``, ``[]`` and `None`.

    Args:
        types: event classes, ``Box[int]``, or a union of them. Of an open one (`StartEvent` itself) events with a few
            attributes are drawn, or with those that ``fields`` names.
        fields: what to draw single fields from instead: a strategy, or a constant, which each event is given. It goes
            for each of the types that has such a field, whatever strategy was registered for that type.

    Raises:
        NoStrategy: for what is no event type, or a field that none of the types has; and when the strategy is first
            drawn from, for a field of which no value can be drawn.
    """
    kinds = [member for one in types for member in hints.members(one)]
    if not kinds:
        raise NoStrategy("events() was given no type", "write events(OrderPlaced)", event="")
    for kind in kinds:
        if not is_event(bare(kind)):
            raise NoStrategy(
                f"events() takes event types, but got {shown(kind)}",
                "draw it by a strategy of Hypothesis, or put it into a field of an event",
                event=type_name(kind),
            )
    _check_names(kinds, fields)
    instead: dict[str, SearchStrategy[Any]] = {
        name: cast(Any, value) if isinstance(value, SearchStrategy) else st.just(value)
        for name, value in fields.items()
    }
    strategy = _events(_Wanted(kinds, instead, classes_around(hints.statement(globals()))))
    if len(kinds) == 1 and not instead:
        OURS[strategy] = kinds[0]
    return strategy


class _Wanted:  # no attrs class: of those, Hypothesis shows each field
    def __init__(self, kinds: Sequence[Any], instead: Mapping[str, SearchStrategy[Any]], around: Mapping[str, Any]):
        self.kinds, self.instead, self.around = kinds, instead, around
        self.recipe: Callable[[st.DrawFn], Any] | None = None

    def __repr__(self) -> str:
        return ", ".join([*map(type_name, self.kinds), *(f"{name}=…" for name in self.instead)])


def _draw(draw: st.DrawFn, of: _Wanted) -> Any:
    if of.recipe is None:
        of.recipe = Maker(of.around).recipe(of.kinds, of.instead)
    return of.recipe(draw)


_draw.__name__ = "events"  # what Hypothesis shows
# Not st.deferred, which costs as much at each event as an int to draw.
_events = st.composite(_draw)


def _check_names(kinds: Sequence[Any], fields: Mapping[str, Any]) -> None:
    every = [one for kind in kinds for one in (kind, *subclasses_of(kind))]
    if not fields or any(bare(kind).__flowkit_open__ for kind in kinds):
        return
    known = {name: None for kind in every for one in parameters_of(kind, {}) for name in (one.name, one.keyword)}
    for name in fields:
        if name not in known:
            listed = " and ".join(type_name(kind) for kind in kinds)
            takes = f"{'it takes' if len(kinds) == 1 else 'they take'} {', '.join(known) or 'no fields'}"
            raise NoStrategy(
                f"events() was given {name}={shown(fields[name])}, which {listed} can't be built with",
                (did_you_mean(name, known) or takes).removesuffix("?"),
                event=type_name(kinds[0]),
                field=name,
            )
