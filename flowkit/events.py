"""Events: the values that travel between steps.

An event class is an attrs class made by subclassing: ``class JokeEvent(Event): joke: str``. ``__init_subclass__`` hands
the class to ``attrs.define(frozen=True, slots=False)``; no metaclass, so events mix with ABCs, Protocols and generics.
``slots=False`` for two reasons: attrs then changes the class in place (a slotted class would be a copy, which
``__init_subclass__`` can't return), and building a frozen instance writes its ``__dict__`` directly, which is the
fastest there is.

A mistake fails at the line that made it: fields annotated with plain builtin types are checked when an event is built,
and a missing, misspelt or unknown field becomes an `EventError` naming event, field and cure (fields.py).

`Event`, `StartEvent`, `StopEvent`, `InputRequiredEvent` and `HumanResponseEvent` themselves are *open*: any keyword
becomes an attribute. Their subclasses are typed and are not.
"""

import typing
from collections.abc import Iterator
from typing import Any, ClassVar, Self, dataclass_transform

import attrs

from flowkit.errors import EventError, FrozenEvent, UnknownField, shown
from flowkit.fields import declare
from flowkit.hints import place, statement

__all__ = [
    "Event",
    "HumanResponseEvent",
    "InputRequiredEvent",
    "StartEvent",
    "StepFailedEvent",
    "StopEvent",
]


@dataclass_transform(frozen_default=True, field_specifiers=(attrs.field,))
class Event:
    """Data between steps: subclass it and annotate fields.

    Frozen, comparable by value, built by keyword or position. Defaults, validators and converters by ``attrs.field``.
    The mapping face (``ev["k"]``, ``ev.get("k", default)``, ``"k" in ev``, iteration over names) sees declared fields
    and the extra attributes of open events alike. A field may bear the name of a method (``items``): then ``ev.items``
    is the field.

    Raises:
        EventError: at construction, for a missing field, an unknown keyword (on a typed event), or a value that isn't
            of the plain builtin type its field declares; at the class's definition, for a default that can't be right.
    """

    __flowkit_open__: ClassVar[bool] = True

    if typing.TYPE_CHECKING:

        def __init__(self, **fields: Any) -> None: ...

    else:

        def __init__(self, /, *args: Any, **fields: Any) -> None:
            if args:
                raise _by_position(self, args[0])
            self.__dict__.update(fields)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        try:
            super().__init_subclass__(**kwargs)
        except TypeError as error:
            given = ", ".join(f"{name}={shown(value)}" for name, value in kwargs.items())
            raise EventError(
                f"{cls.__name__} is declared with {given}",
                cure="leave it out: an event is a frozen attrs class, and what it has are fields",
                event=cls.__name__,
                where=place(statement(globals())),
            ) from error
        if "__flowkit_open__" not in cls.__dict__:
            cls.__flowkit_open__ = False
            declare(cls)

    # ---- the mapping face

    def get(self, name: str, default: Any = None) -> Any:
        """The field or extra attribute ``name``, or ``default`` (``None``) where there is none."""
        return self.__dict__.get(name, default)

    def __getitem__(self, name: str) -> Any:
        try:
            return self.__dict__[name]
        except KeyError:
            raise UnknownField(type(self).__name__, name, self.__dict__) from None

    def __contains__(self, name: object) -> bool:
        return name in self.__dict__

    def __iter__(self) -> Iterator[str]:
        return iter(self.__dict__)

    def __len__(self) -> int:
        return len(self.__dict__)

    def __bool__(self) -> bool:
        # With a __len__, an event without fields would be false, and `while ev := …` would end on it.
        return True

    def keys(self) -> list[str]:
        """Names of all fields and extra attributes, in the order they were declared or given."""
        return list(self.__dict__)

    def values(self) -> list[Any]:
        """Values of all fields and extra attributes, in the order of `keys`."""
        return list(self.__dict__.values())

    def items(self) -> list[tuple[str, Any]]:
        """Pairs of `keys` and `values`."""
        return list(self.__dict__.items())

    def to_dict(self) -> dict[str, Any]:
        """A new dict of all fields and extra attributes; values are not copied."""
        return dict(self.__dict__)

    def replace(self, **changes: Any) -> Self:
        """A copy with some fields changed; validated like a new event.

        Raises:
            EventError: for an unknown field of a typed event, or a value of the wrong type.
        """
        if type(self).__flowkit_open__:
            return type(self)(**{**self.__dict__, **changes})
        return attrs.evolve(self, **changes)  # type: ignore[misc]

    # ---- values

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return self.__dict__ == other.__dict__

    def __hash__(self) -> int:
        # Of open events: those with the same fields are equal in whatever order they were given.
        return hash((type(self), frozenset(self.__dict__.items())))

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}={value!r}" for name, value in self.__dict__.items())
        return f"{type(self).__name__}({fields})"

    if not typing.TYPE_CHECKING:
        # Invisible to type checkers, so that they report a misspelt field of a typed event, read or assigned.
        def __setattr__(self, name: str, value: Any) -> None:
            raise _frozen(self, name)

        def __delattr__(self, name: str) -> None:
            raise _frozen(self, name)

        def __setitem__(self, name: str, value: Any) -> None:
            raise _frozen(self, name)

        def __delitem__(self, name: str) -> None:
            raise _frozen(self, name)

        def __getattr__(self, name: str) -> Any:
            if name.startswith("__"):
                raise AttributeError(name)
            if hasattr(type(self), name):
                return object.__getattribute__(self, name)  # a property raised AttributeError: once more, for its own
            raise UnknownField(type(self).__name__, name, self.__dict__)


def _frozen(event: Event, name: str) -> FrozenEvent:
    kind = type(event)
    is_open = kind.__flowkit_open__
    unset = attrs.has(kind) and name not in event.__dict__ and name in attrs.fields_dict(kind)
    cure = f"write ev = ev.replace({name}=…) and send that"
    if unset:
        cure = f"in its own __init__, call self.__attrs_init__({name}=…)"
    elif name not in event.__dict__ and not is_open:
        cure = f"declare {name!r} in the class and give it when you build the event, or keep it in the context"
    return FrozenEvent(
        f"{kind.__name__} is frozen, {name!r} can't be changed", cure=cure, event=kind.__name__, field=name
    )


def _by_position(event: Event, value: Any) -> EventError:
    name = type(event).__name__
    return EventError(
        f"{name} got {shown(value)} by position",
        cure=f"give its fields by name, {name}(key=…); a `class Mine({name}): key: str` takes them by position too",
        event=name,
    )


class StartEvent(Event):
    """What starts a run: ``run(topic="pirates")`` builds ``StartEvent(topic="pirates")``. Subclassed, it is typed."""

    __flowkit_open__ = True

    if typing.TYPE_CHECKING:

        def __init__(self, **fields: Any) -> None: ...

        def __getattr__(self, name: str) -> Any: ...


class StopEvent(Event):
    """What ends a run. ``StopEvent(result=x)``: the run's result is ``x``; for a subclass it is the event itself."""

    __flowkit_open__ = True

    if typing.TYPE_CHECKING:

        def __init__(self, result: Any = None, **fields: Any) -> None: ...

        def __getattr__(self, name: str) -> Any: ...

    else:

        def __init__(self, /, result: Any = None, *args: Any, **fields: Any) -> None:
            if args:
                raise _by_position(self, args[0])
            self.__dict__["result"] = result
            if fields:
                self.__dict__.update(fields)


class InputRequiredEvent(Event):
    """A question to somebody outside. Returned by a step or given as ``waiter_event``, it goes to the run's stream."""

    __flowkit_open__ = True

    if typing.TYPE_CHECKING:

        def __init__(self, **fields: Any) -> None: ...

        def __getattr__(self, name: str) -> Any: ...


class HumanResponseEvent(Event):
    """The answer to an `InputRequiredEvent`, sent from outside by ``handler.ctx.send_event``."""

    __flowkit_open__ = True

    if typing.TYPE_CHECKING:

        def __init__(self, **fields: Any) -> None: ...

        def __getattr__(self, name: str) -> Any: ...


class StepFailedEvent(Event):
    """What a ``@catch_error`` step receives instead of the run failing.

    ``attempts`` counts how often the step was started (at least 1), ``elapsed_seconds`` runs from its first failure to
    its last.
    """

    step_name: str
    input_event: Any
    exception: BaseException
    attempts: int
    elapsed_seconds: float
