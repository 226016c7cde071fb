"""What a class is built from: the parameters of its constructor, each with a type that can be looked at.

Annotations are resolved as everywhere in flowkit (hints.py), each in the module of the class that declared it, with the
classes in sight where the strategy was asked for; then what stands for a type variable in this class is put in:
``class Prices(Box[int])`` has an ``item: int`` of ``Box``'s ``item: T``.
"""

import dataclasses
import inspect
import sys
import types
import typing
from collections.abc import Iterator, Mapping
from types import FrameType
from typing import Any, cast, get_args, get_origin

import attrs

from flowkit import hints
from flowkit.events import Event

__all__ = [
    "LEFT_OUT",
    "MISSING",
    "Made",
    "Parameter",
    "alias_value",
    "bare",
    "bindings",
    "classes_around",
    "converter_input",
    "has_parameters",
    "is_event",
    "items_of",
    "parameters_of",
    "repeats",
    "subclasses_of",
]

Names: typing.TypeAlias = Mapping[str, Any]
"""Classes that local variables hold."""


class _Mark:
    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text


MISSING: Any = _Mark("<missing>")
"""Stands for the default of a parameter that has none."""
LEFT_OUT: Any = _Mark("<left out>")
"""Stands for a default that only the constructor can make, if the parameter is left out."""


@attrs.frozen
class Made:
    """Stands for a default that a factory makes."""

    factory: Any


@attrs.frozen
class Parameter:
    """One parameter of a constructor: ``keyword`` as it is given, ``name`` as the field it becomes is read."""

    keyword: str
    name: str
    annotation: Any
    written: Any
    default: Any = MISSING
    field: Any = None  # attrs' own description, if it is one of attrs' fields
    hashed: bool = True


def bare(kind: Any) -> Any:
    """The class of ``Box[int]``; a class itself."""
    return get_origin(kind) or kind


def is_event(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Event)


def has_parameters(kind: Any) -> bool:
    """Whether this is a class whose constructor takes what its fields hold."""
    return attrs.has(kind) or dataclasses.is_dataclass(kind) or hasattr(kind, "_field_defaults")  # a named tuple


def alias_value(annotation: Any) -> Any:
    """What a `NewType` or a type alias means; anything else means itself."""
    if isinstance(annotation, typing.NewType):
        return annotation.__supertype__
    origin: Any = bare(annotation)
    if type(origin).__name__ == "TypeAliasType":
        return filled(origin.__value__, dict(zip(origin.__type_params__, get_args(annotation), strict=False)))
    return annotation


def classes_around(frame: FrameType | None) -> dict[str, Any]:
    """What a postponed annotation may mention of the local variables of this frame, and of the function a class body
    in it stands in: classes, aliases and modules. No other value is kept."""
    found: dict[str, Any] = {}
    while frame is not None and frame.f_locals is not frame.f_globals:
        scope = frame.f_locals
        found = {name: value for name, value in scope.items() if _names_a_type(value)} | found
        frame = frame.f_back if "__qualname__" in scope and "__module__" in scope else None
    return found


def _names_a_type(value: Any) -> bool:
    kind = hints.kind_of(value)
    return isinstance(value, type | types.ModuleType) or get_origin(value) is not None or kind.__module__ == "typing"


# ---------------------------------------------------------------------------------------------------- type variables


def bindings(kind: Any) -> dict[Any, dict[Any, Any]]:
    """What the type variables of a class and of its bases stand for in ``kind``: ``Box[int]``, or a subclass of it."""
    found: dict[Any, dict[Any, Any]] = {}

    def visit(kind: Any) -> None:
        origin = bare(kind)
        if origin in found or not isinstance(origin, type):
            return
        found[origin] = dict(zip(_type_variables(origin), get_args(kind), strict=False))
        bases: Any = cast(Any, vars(origin)).get("__orig_bases__", origin.__bases__)
        for base in bases:
            if bare(base) not in (typing.Generic, typing.Protocol):
                visit(filled(base, found[origin]))

    visit(kind)
    return found


def _type_variables(kind: Any) -> tuple[Any, ...]:
    return getattr(kind, "__parameters__", ())


def filled(annotation: Any, given: Mapping[Any, Any]) -> Any:
    """The annotation with type variables replaced by what is given for them."""
    if not given or isinstance(annotation, type):
        return annotation
    if isinstance(annotation, typing.TypeVar):
        return given.get(annotation, annotation)
    wanted = _type_variables(annotation)
    return annotation[tuple(given.get(one, one) for one in wanted)] if wanted else annotation


def subclasses_of(kind: Any) -> Iterator[Any]:
    """The subclasses of ``kind``, theirs and so on, in the order of their definition.

    Of ``Box[int]`` those that are one: ``Prices`` and ``Crate[int]``, but no ``Names(Box[str])``.
    """
    origin, arguments = bare(kind), get_args(kind)
    todo: list[Any] = list(type.__subclasses__(origin))
    newest: dict[Any, Any] = {}
    while todo:
        one = todo.pop(0)
        todo += type.__subclasses__(one)
        # attrs and dataclasses make another class of the same name where they add slots.
        newest[one.__module__, one.__qualname__] = one
    for one in newest.values():
        solved: dict[Any, Any] = {}
        fits = True
        bound = bindings(one).get(origin, {})
        for variable, wanted in zip(_type_variables(origin), arguments, strict=False):
            has = bound.get(variable, Any)
            if has in _type_variables(one):
                solved[has] = wanted
            elif has is not Any and wanted is not Any and has != wanted:
                fits = False
        if fits:
            yield _filled_class(one, solved)


def _filled_class(kind: Any, given: Mapping[Any, Any]) -> Any:
    return kind[tuple(given.get(one, Any) for one in _type_variables(kind))] if given else kind


# -------------------------------------------------------------------------------------------------------- parameters


class _Reader:
    """Reads the annotations of one class."""

    def __init__(self, kind: Any, around: Names) -> None:
        self.kind, self.around = kind, around
        self.origin = bare(kind)
        self.bound = bindings(kind)

    def owner(self, name: str) -> Any:
        """The class that declares this field."""
        owners = (base for base in self.origin.__mro__ if name in inspect.get_annotations(base))
        return next(owners, None)

    def read(self, annotation: Any, owner: Any, module: dict[str, Any] | None = None) -> Any:
        if module is None:
            module = vars(sys.modules[owner.__module__]) if owner.__module__ in sys.modules else {}
        variables = {one.__name__: one for one in _type_variables(owner)}
        inside: dict[str, Any] = dict(cast(Any, vars(owner)))
        inner = {name: value for name, value in inside.items() if isinstance(value, type)}
        names = {**self.around, **variables, owner.__name__: owner, **inner}
        return filled(hints.resolve(annotation, module, names), self.bound.get(owner, {}))

    def of_attrs(self) -> Iterator[Parameter]:
        for field in attrs.fields(self.origin):
            if not field.init:
                continue
            owner, written = self.owner(field.name), field.type
            if written is None and owner is None:
                written = Any  # `x = attrs.field()`, which may be anything
            yield Parameter(
                keyword=field.alias or field.name,
                name=field.name,
                annotation=self.read(written, owner or self.origin),
                written=written,
                default=_default_of(field.default),
                field=field,
                hashed=bool(field.eq) if field.hash is None else field.hash,
            )

    def of_signature(self) -> Iterator[Parameter]:
        """The parameters of an ``__init__`` that its author wrote, or that dataclasses or `typing.NamedTuple` made."""
        fields = {field.name: field for field in attrs.fields(self.origin)} if attrs.has(self.origin) else {}
        made: dict[str, Any] = {}
        if dataclasses.is_dataclass(self.origin):
            made = {field.name: field for field in dataclasses.fields(self.origin)}
        init: Any = inspect.unwrap(self.origin.__init__)
        for name, parameter in inspect.signature(self.origin).parameters.items():
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                continue
            owner = self.owner(name)
            written, module = parameter.annotation, getattr(init, "__globals__", None)
            declared = inspect.get_annotations(owner)[name] if owner is not None else inspect.Parameter.empty
            if written is inspect.Parameter.empty:
                written = declared
            if written is declared:
                module = None
            annotation = hints.UNRESOLVED
            if written is not inspect.Parameter.empty:
                annotation = self.read(written, owner or self.origin, module)
            if isinstance(annotation, dataclasses.InitVar):
                annotation = cast(Any, annotation).type
            field, default = made.get(name), parameter.default
            if default is inspect.Parameter.empty:
                default = MISSING
            elif field is not None and field.default_factory is not dataclasses.MISSING:
                default = Made(field.default_factory)
            is_hashed = field is None or (field.compare if field.hash is None else field.hash)
            yield Parameter(name, name, annotation, written, default, fields.get(name), is_hashed)


def parameters_of(kind: Any, around: Names) -> list[Parameter]:
    """The parameters that an attrs class, a dataclass or a named tuple is built from."""
    reader = _Reader(kind, around)
    # attrs makes an __attrs_init__ where the author wrote an __init__.
    own_init = "__attrs_init__" in vars(reader.origin)
    return list(reader.of_attrs() if attrs.has(reader.origin) and not own_init else reader.of_signature())


def items_of(kind: Any, around: Names) -> Iterator[Parameter]:
    """The items of a `typing.TypedDict`."""
    reader = _Reader(kind, around)
    for key, written in inspect.get_annotations(reader.origin).items():
        annotation = reader.read(written, reader.origin)
        required = key in reader.origin.__required_keys__
        # In a module that postpones annotations, the class hasn't seen these.
        while get_origin(annotation) in (typing.Required, typing.NotRequired):
            required = get_origin(annotation) is typing.Required
            annotation = get_args(annotation)[0]
        written = getattr(written, "__forward_arg__", written)
        yield Parameter(key, key, annotation, written, MISSING if required else LEFT_OUT)


def _default_of(default: Any) -> Any:
    if default is attrs.NOTHING:
        return MISSING
    if not isinstance(default, attrs.Factory):  # type: ignore[arg-type]
        return default
    return LEFT_OUT if default.takes_self else Made(default.factory)


def repeats(factory: Any) -> bool:
    """Whether a factory makes the same each time. What looks like a clock's may be the same twice, and not always."""
    try:
        first = factory()
        same = bool(first == factory())
    except Exception:  # noqa: BLE001 - the author's code
        return False
    return same and not isinstance(first, float) and hints.kind_of(first).__module__ != "datetime"


def converter_input(converter: Any, around: Names) -> Any:
    """What a converter says it takes; `UNRESOLVED` where it doesn't say, or would take anything."""
    function: Any = getattr(converter, "converter", converter)
    if isinstance(function, type) and function.__module__ == "builtins":
        return hints.UNRESOLVED
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        return hints.UNRESOLVED
    if not parameters or parameters[0].annotation is inspect.Parameter.empty:
        return hints.UNRESOLVED
    made: Any = inspect.unwrap(cast(Any, function).__init__ if isinstance(function, type) else function)
    module = getattr(made, "__globals__", {})
    annotation = hints.resolve(parameters[0].annotation, module, around)
    return hints.UNRESOLVED if annotation in (Any, object) or isinstance(annotation, typing.TypeVar) else annotation
