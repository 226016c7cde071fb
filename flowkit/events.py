"""Events: the values that travel between steps.

An event class is an attrs class made by subclassing: ``class JokeEvent(Event): joke: str``. ``__init_subclass__`` hands
the class to ``attrs.define(frozen=True, slots=False)``; no metaclass, so events mix with ABCs, Protocols and generics.
``slots=False`` for two reasons: attrs then changes the class in place (a slotted class would be a copy, which
``__init_subclass__`` can't return), and building a frozen instance writes its ``__dict__`` directly, which is the
fastest there is.

attrs' ``__init__`` is wrapped once more, for the promise that a mistake fails at the line that made it: fields
annotated with plain builtin types (``str``, ``int``, ``list[...]``, ``str | None``, …) are checked, and a missing or
unknown keyword becomes an `EventError` naming event, field and cure. As in the numeric tower of PEP 484 an ``int`` is
accepted where ``float`` is declared; a ``bool`` is not accepted as ``int``.

`Event`, `StartEvent`, `StopEvent`, `InputRequiredEvent` and `HumanResponseEvent` themselves are *open*: any keyword
becomes an attribute. Their subclasses are typed and are not.
"""

import difflib
import functools
import inspect
import sys
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar, Self, dataclass_transform

import attrs

from flowkit.errors import EventError
from flowkit.hints import resolve

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
    and the extra attributes of open events alike.

    Raises:
        EventError: at construction, for a missing field, an unknown keyword (on a typed event), or a value that isn't of
            the plain builtin type its field declares.
    """

    __flowkit_open__: ClassVar[bool] = True

    def __init__(self, **fields: Any) -> None:
        self.__dict__.update(fields)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "__flowkit_open__" in cls.__dict__:
            return
        cls.__flowkit_open__ = False
        own_init = "__init__" in cls.__dict__
        attrs.define(cls, frozen=True, slots=False, eq=True, init=None if own_init else True, field_transformer=_order)
        # attrs' own guard says only "can't set attribute"; the inherited one says what to write instead.
        if "__setattr__" in cls.__dict__:
            del cls.__setattr__
        if "__delattr__" in cls.__dict__:
            del cls.__delattr__
        if not own_init:
            cls.__init__ = _checked(cls, cls.__init__)  # type: ignore[method-assign]

    # ---- the mapping face

    def get(self, name: str, default: Any = None) -> Any:
        """The field or extra attribute ``name``, or ``default`` (``None``) where there is none."""
        return self.__dict__.get(name, default)

    def __getitem__(self, name: str) -> Any:
        try:
            return self.__dict__[name]
        except KeyError:
            raise KeyError(f"{type(self).__name__} has no field {name!r}{_known(self)}") from None

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
        try:
            return attrs.evolve(self, **changes)  # type: ignore[misc]
        except TypeError as error:
            if isinstance(error, EventError):
                raise
            raise _diagnosis(type(self), (), changes, partial=True) from None

    # ---- values

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return self.__dict__ == other.__dict__

    def __hash__(self) -> int:
        return hash((type(self), *self.__dict__.items()))

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}={value!r}" for name, value in self.__dict__.items())
        return f"{type(self).__name__}({fields})"

    if not typing.TYPE_CHECKING:
        # Invisible to type checkers, so that they report a misspelt field of a typed event, read or assigned.
        def __setattr__(self, name: str, value: Any) -> None:
            raise _frozen(f"{type(self).__name__} is frozen: write ev = ev.replace({name}=…) and send that")

        def __delattr__(self, name: str) -> None:
            raise _frozen(f"{type(self).__name__} is frozen: {name!r} can't be deleted")

        def __getattr__(self, name: str) -> Any:
            if name.startswith("__"):
                raise AttributeError(name)
            raise _no_attribute(self, name)


def _frozen(text: str) -> attrs.exceptions.FrozenInstanceError:
    # By __new__, which keeps the text: from attrs 26 on __init__ takes none and puts its own in its place.
    error = attrs.exceptions.FrozenInstanceError.__new__(attrs.exceptions.FrozenInstanceError, text)
    error.msg = text
    return error


def _no_attribute(event: Event, name: str) -> AttributeError:
    return AttributeError(
        f"{type(event).__name__} has no field {name!r}{_known(event)}; ev.get({name!r}) gives None instead",
        name=name,
        obj=event,
    )


def _known(event: Event) -> str:
    names = ", ".join(event.__dict__)
    return f" (it has: {names})" if names else " (it has no fields)"


class StartEvent(Event):
    """What starts a run: ``run(topic="pirates")`` builds ``StartEvent(topic="pirates")``. Subclass it for typed input."""

    __flowkit_open__ = True

    def __init__(self, **fields: Any) -> None:
        super().__init__(**fields)

    if typing.TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...


class StopEvent(Event):
    """What ends a run. ``StopEvent(result=x)``: the run's result is ``x``; for a subclass it is the event itself."""

    __flowkit_open__ = True

    def __init__(self, result: Any = None, **fields: Any) -> None:
        self.__dict__["result"] = result
        if fields:
            self.__dict__.update(fields)

    if typing.TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...


class InputRequiredEvent(Event):
    """A question to somebody outside. Returned by a step or given as ``waiter_event``, it goes to the run's stream."""

    __flowkit_open__ = True

    def __init__(self, **fields: Any) -> None:
        super().__init__(**fields)

    if typing.TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...


class HumanResponseEvent(Event):
    """The answer to an `InputRequiredEvent`, sent from outside by ``handler.ctx.send_event``."""

    __flowkit_open__ = True

    def __init__(self, **fields: Any) -> None:
        super().__init__(**fields)

    if typing.TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...


# ------------------------------------------------------------------------------------------------ building events


def _order(cls: type, fields: list["attrs.Attribute[Any]"]) -> list["attrs.Attribute[Any]"]:
    """Make a required field that follows a default keyword-only, where attrs would refuse the class."""
    ordered: list[attrs.Attribute[Any]] = []
    seen_default = False
    for field in fields:
        if not field.kw_only and field.init:
            if field.default is not attrs.NOTHING:
                seen_default = True
            elif seen_default:
                field = field.evolve(kw_only=True)
        ordered.append(field)
    return ordered


def _checked(cls: type[Event], init: Callable[..., None]) -> Callable[..., None]:
    """Wrap attrs' ``__init__``: say what is wrong with the arguments, and check fields of plain builtin types."""
    # Annotations are looked at when the first event is built: by then every name in them is defined.
    checks: list[tuple[str, type | tuple[type, ...]]] | None = None

    @functools.wraps(init)
    def __init__(self: Event, *args: Any, **kwargs: Any) -> None:
        nonlocal checks
        try:
            init(self, *args, **kwargs)
        except TypeError as error:
            # Only a wrong call is ours to explain; a TypeError from a validator or converter is the author's own.
            if error.__traceback__ is not None and error.__traceback__.tb_next is None:
                raise _diagnosis(type(self), args, kwargs) from None
            raise
        if checks is None:
            checks = _plain_fields(cls)
        values = self.__dict__
        for name, expected in checks:
            value = values[name]
            if type(value) is not expected and not _fits(value, expected):
                raise _wrong_type(type(self), name, expected, value)

    return __init__


def _fits(value: Any, expected: type | tuple[type, ...]) -> bool:
    if isinstance(value, bool):
        return expected is bool or expected is object or (isinstance(expected, tuple) and bool in expected)
    if isinstance(value, expected):
        return True
    return isinstance(value, int) and (expected is float or (isinstance(expected, tuple) and float in expected))


_PLAIN: frozenset[Any] = frozenset(
    {str, int, float, bool, bytes, bytearray, complex, list, dict, tuple, set, frozenset, types.NoneType}
)


def _plain_fields(cls: type[Event]) -> list[tuple[str, type | tuple[type, ...]]]:
    """The fields whose annotation is a plain builtin type, or a union of such, with what ``isinstance`` takes."""
    found: list[tuple[str, type | tuple[type, ...]]] = []
    for field in attrs.fields(cls):
        if not field.init:
            continue
        plain = _plain_type(_resolved(cls, field))
        if plain is not None:
            found.append((field.name, plain))
    return found


def _resolved(cls: type[Event], field: "attrs.Attribute[Any]") -> Any:
    if not isinstance(field.type, str):
        return field.type
    # An inherited field's annotation belongs to the module of the class that declared it.
    owner = next(base for base in cls.__mro__ if field.name in inspect.get_annotations(base))
    return resolve(field.type, vars(sys.modules[owner.__module__]), {})


def _plain_type(annotation: Any) -> type | tuple[type, ...] | None:
    if annotation is None:
        return types.NoneType
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        return _plain_type(typing.get_args(annotation)[0])
    if origin in (typing.Union, types.UnionType):
        members: list[type] = []
        for argument in typing.get_args(annotation):
            plain = _plain_type(argument)
            if plain is None:
                return None
            members.extend(plain if isinstance(plain, tuple) else (plain,))
        return tuple(members)
    bare: Any = origin or annotation
    return bare if isinstance(bare, type) and bare in _PLAIN else None


def _wrong_type(cls: type[Event], name: str, expected: type | tuple[type, ...], value: Any) -> EventError:
    kinds = expected if isinstance(expected, tuple) else (expected,)
    wanted = " or ".join("None" if kind is types.NoneType else kind.__name__ for kind in kinds)
    shown = repr(value)
    if len(shown) > 80:
        shown = shown[:77] + "..."
    return EventError(
        f"{cls.__name__}.{name} takes {wanted}, but got {shown} ({type(value).__name__}).",
        event=cls.__name__,
        field=name,
    )


def _diagnosis(
    cls: type[Event], args: tuple[Any, ...], kwargs: Mapping[str, Any], *, partial: bool = False
) -> EventError:
    """Say which argument of ``cls(*args, **kwargs)`` is missing, unknown or doubled."""
    names = [(field.alias or field.name, field) for field in attrs.fields(cls) if field.init]
    known = [name for name, _ in names]
    takes = f"it takes {', '.join(known)}" if known else "it takes no fields"
    unknown = [name for name in kwargs if name not in known]
    if unknown:
        name = unknown[0]
        return EventError(
            f"{cls.__name__} has no field {name!r} (given {kwargs[name]!r}): {takes}{_suggestion(name, known)}.",
            event=cls.__name__,
            field=name,
        )
    positional = [name for name, field in names if not field.kw_only]
    if len(args) > len(positional):
        return EventError(
            f"{cls.__name__} takes {len(positional)} fields by position, but got {len(args)}: {takes}.",
            event=cls.__name__,
        )
    given = set(positional[: len(args)])
    doubled = sorted(given & set(kwargs))
    if doubled:
        return EventError(
            f"{cls.__name__} got {doubled[0]!r} twice, by position and by keyword.",
            event=cls.__name__,
            field=doubled[0],
        )
    missing = [
        name
        for name, field in names
        if field.default is attrs.NOTHING and name not in given and name not in kwargs and not partial
    ]
    if missing:
        listed = ", ".join(map(repr, missing))
        return EventError(
            f"{cls.__name__} needs {listed}: write {cls.__name__}({', '.join(f'{name}=…' for name in missing)}).",
            event=cls.__name__,
            field=missing[0],
        )
    return EventError(f"{cls.__name__} can't be built from {dict(kwargs)!r}: {takes}.", event=cls.__name__)


def _suggestion(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


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
