"""Classes: enumerations, objects with fields, and what has hooks of its own.

serialization.py tells the format.
"""

import builtins
import dataclasses
import inspect
import operator
import sys
from collections.abc import Collection, Iterable, Iterator
from enum import Enum, Flag
from types import BuiltinFunctionType, MemberDescriptorType, NoneType
from typing import Any, cast, get_args

import attrs

from flowkit import errors, events, storage_errors
from flowkit.containers import CONTAINERS, Values
from flowkit.errors import SerializationError
from flowkit.evolution import Stored
from flowkit.hints import UNRESOLVED, resolve
from flowkit.leaves import (
    LEAVES,
    PLAIN_INT,
    UNSET,
    UNSET_DATA,
    Hooks,
    Misfit,
    Refusal,
    brief,
    check_depth,
    class_name,
    is_exactly,
    scalar_text,
)

__all__ = [
    "FIXED",
    "KNOWN",
    "EnumForm",
    "HookForm",
    "ObjectForm",
    "classes_in",
    "declared_fields",
    "is_taken_apart",
    "mentioned_classes",
    "unregistered",
]

# Known from the start, under short tags: those of other classes have a colon.
_OWN: list[Any] = [vars(module)[name] for module in (events, errors, storage_errors) for name in module.__all__]
_BUILTIN: list[type] = [object, NoneType, bool, *LEAVES, *CONTAINERS]
KNOWN: dict[str, type] = {
    cls.__name__: cls
    for cls in (
        *_BUILTIN,
        *(cls for cls in _OWN if isinstance(cls, type)),
        *(cls for cls in vars(builtins).values() if isinstance(cls, type) and issubclass(cls, BaseException)),
    )
}
FIXED = frozenset({NoneType, bool, *LEAVES, *CONTAINERS})
_NOT_KEPT: list[Any] = [vars(BaseException)["__suppress_context__"], vars(AttributeError)["obj"]]
_KEPT = [(BaseException, "args"), (BaseException, "__cause__"), (OSError, "characters_written")]
_UNICODE_ERRORS: dict[type, type] = {UnicodeDecodeError: bytes, UnicodeEncodeError: str, UnicodeTranslateError: str}


def declared_fields(cls: Any) -> tuple[str, ...] | None:
    """Names of the fields that instances have; ``None`` for a class whose state can't be told."""
    root = _root(cls)
    if root is tuple:
        names: Any = getattr(cls, "_fields", None)
        return names if is_exactly(names, tuple) else None
    if issubclass(root, BaseExceptionGroup):
        return ("message", "exceptions")
    if root is not object and not issubclass(root, BaseException):
        return None
    head = () if root is object else ("args",)
    if attrs.has(cls):
        return head + tuple(field.name for field in attrs.fields(cls))
    if dataclasses.is_dataclass(cls):
        return head + tuple(field.name for field in dataclasses.fields(cls))
    return head if head or issubclass(cls, events.Event) else None


def _root(cls: type) -> type:
    """The builtin base whose ``__new__`` makes instances of ``cls``: `object`, `tuple`, `OSError`, …"""
    root: Any = cls
    while not isinstance(cast(Any, vars(root)).get("__new__"), BuiltinFunctionType):
        root = root.__base__
    return cast(type, root)


def is_taken_apart(cls: type) -> bool:
    return issubclass(cls, Enum) or declared_fields(cls) is not None


def mentioned_classes(cls: type) -> Iterator[type]:
    """The classes in the annotations of ``cls`` and its bases; what can't be resolved is passed over."""
    for owner in cls.__mro__[:-1]:
        module = sys.modules.get(owner.__module__)
        scope = {**(vars(module) if module else {}), **vars(owner), owner.__name__: owner}
        yield from classes_in(list(inspect.get_annotations(owner).values()), scope)


def classes_in(hints: list[Any], scope: dict[str, Any]) -> Iterator[type]:
    seen: list[Any] = []  # type aliases may be recursive
    named: set[str] = set()  # and give another object each time they are resolved
    while hints:
        hint: Any = hints.pop()
        hint = getattr(hint, "__forward_arg__", hint)
        if isinstance(hint, str):
            if hint in named:
                continue
            named.add(hint)
            hint = resolve(hint, scope, {})
        if hint is UNRESOLVED or any(hint is other for other in seen):
            continue
        seen.append(hint)
        if is_exactly(hint, list):  # the parameters of a Callable
            hints += hint
        elif isinstance(hint, Enum):  # Literal[Color.RED]
            yield type(hint)
        elif isinstance(hint, type) and not get_args(hint):
            yield hint
        else:
            inner = ("__origin__", "__supertype__", "__bound__", "__value__")
            hints += [*get_args(hint), *(getattr(hint, name) for name in inner if hasattr(hint, name))]


def unregistered(cls: type, register: str, with_hooks: str) -> Refusal:
    """The refusal of a class; ``register`` and ``with_hooks`` are what to write, with a place for its name."""
    name = cls.__name__
    if is_taken_apart(cls):
        return Refusal(f"{class_name(cls)} isn't registered", f"write {register.format(name)}")
    module = cls.__module__
    if module.partition(".")[0] in ("builtins", "types") or (module.startswith("_") and module != "__main__"):
        return Refusal(
            f"a {name} can't be stored", "keep live objects out of events and state, let a Resource hold them"
        )
    cure = f"write {with_hooks.format(name)}, or store what it is made of"
    return Refusal(f"{class_name(cls)} isn't registered", cure)


@attrs.frozen
class EnumForm:
    """Writes and reads the members of one enum."""

    values: Values
    cls: Any
    tag: str
    kind = "$enum"
    version = 1

    def write(self, value: Any, depth: int) -> Any:
        member = value._value_ if issubclass(self.cls, Flag) else value._name_
        if self._member(member) is not value:
            raise Refusal(f"{class_name(self.cls)} has no member like this one", "don't make members by hand")
        return {self.kind: [self.tag, member]}

    def read(self, payload: list[Any], depth: int) -> Any:
        (member,) = payload
        value = self._member(member)
        if value is None:
            raise Misfit(
                f"{class_name(self.cls)} has no member {scalar_text(member)}", "keep the members that were written"
            )
        return value

    def upgrade(self, payload: list[Any], depth: int, version: int) -> Any:
        raise AssertionError("an enum has one version")

    def _member(self, member: Any) -> Any:
        if not issubclass(self.cls, Flag):
            return self.cls.__members__.get(member) if type(member) is str else None
        if type(member) is not int or abs(member) >= PLAIN_INT:  # flags take quadratic time
            return None
        try:
            value = self.cls(member)
        except ValueError:
            return None
        return value if type(value) is self.cls and value._value_ == member else None


@attrs.frozen
class HookForm:
    """Writes and reads the instances of one class by the hooks that its user gave."""

    values: Values
    cls: type
    tag: str
    hooks: Hooks
    kind = "$hook"
    version = 1

    def write(self, value: Any, depth: int) -> Any:
        check_depth(depth)
        try:
            data = self.hooks[0](value)
        except Exception as error:
            raise self._failed("unstructure", error) from error
        return {self.kind: [self.tag, self.values.write(data, depth + 1)]}

    def read(self, payload: list[Any], depth: int) -> Any:
        (data,) = payload
        data = self.values.read(data, depth + 1)
        try:
            value = self.hooks[1](data, self.cls)
        except Exception as error:
            failed = self._failed("structure", error)
            raise Misfit(failed.problem, failed.cure, *failed.trail) from error
        if type(value) is not self.cls:
            raise Misfit(
                f"the structure hook of {class_name(self.cls)} returned {class_name(type(value))}", "return the class"
            )
        return value

    def upgrade(self, payload: list[Any], depth: int, version: int) -> Any:
        raise AssertionError("what has hooks has one version")

    def _failed(self, which: str, error: Exception) -> Refusal:
        if isinstance(error, SerializationError):  # the hook used the codec itself
            return Refusal(error.problem, error.cure, error.path[1:])
        return Refusal(f"the {which} hook of {class_name(self.cls)} failed with {brief(error)}")


class ObjectForm:
    """Writes and reads the state of one class's instances: declared fields, and any other attributes."""

    kind = "$obj"

    def __init__(self, values: Values, cls: Any, tag: str, fields: tuple[str, ...], note: Stored) -> None:
        self.values, self.cls, self.tag, self.fields, self.note = values, cls, tag, fields, note
        self.version = note.version
        self.written_tag = tag if note.version == 1 else f"{tag}@{note.version}"
        self.root: Any = _root(cls)
        self.is_tuple, self.is_group = self.root is tuple, issubclass(cls, BaseExceptionGroup)
        self.has_dict = cls.__dictoffset__ != 0
        # What isn't in __dict__: slots, and what the builtin exceptions keep in C (where None means unset).
        self.slots: dict[str, Any] = {}
        self.optional: set[str] = set()
        for owner in cls.__mro__:
            for name, slot in dict[str, Any](cast(Any, vars(owner))).items():
                is_slot = isinstance(slot, MemberDescriptorType) and slot not in _NOT_KEPT
                if not is_slot and (owner, name) not in _KEPT:
                    continue
                if name in self.slots:
                    raise Refusal(f"{class_name(cls)} has two slots named {name!r}", "rename one")
                self.slots[name] = slot
                if owner.__module__ == "builtins":
                    self.optional.add(name)

    def write(self, value: Any, depth: int) -> Any:
        check_depth(depth)
        fields, others = self._state(value)
        data = [self.written_tag, self.values.write_items(fields, depth + 1)]
        if others:
            data.append(self.values.write_dict(others, depth + 1))
        return {self.kind: data}

    def _state(self, value: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """All declared fields, in the order of their declaration, and the other attributes."""
        own: dict[str, Any] = value.__dict__ if self.has_dict else {}
        if not self.slots and tuple(own) == self.fields:
            return own, {}
        outside: dict[str, Any] = {}
        for name, slot in self.slots.items():
            try:
                item = slot.__get__(value)
            except AttributeError:  # never set, or deleted
                continue
            if item is not None or name not in self.optional or _is_set_to_none(value, name):
                outside[name] = item
        if self.is_tuple:
            outside.update(zip(self.fields, cast(Any, tuple).__iter__(value), strict=True))
        elif self.is_group:
            outside.update(_group_state(value, outside.pop("args")))
        elif self.root in _UNICODE_ERRORS:
            _check_unicode_error(value)
        for name in own.keys() & outside.keys():
            raise Refusal(f"it has {name!r} twice, once in __dict__", "rename one")
        own = {**own, **outside}
        own.pop("__orig_class__", None)
        if "_attrs_cached_hash" in own:
            own["_attrs_cached_hash"] = None  # strings hash differently in every process
        return {name: own.pop(name, UNSET) for name in self.fields}, own

    def read(self, payload: list[Any], depth: int) -> Any:
        data, others = self._taken(payload)
        odd = self._odd(data, data)
        if odd:
            problem = f"the fields of {class_name(self.cls)} aren't those that were written ({odd})"
            raise Misfit(
                problem, "read it with the class as it was then, or give it a version and an upgrade: stored_as"
            )
        state = self._read_state(data, others, depth)
        return self._build(state)

    def upgrade(self, payload: list[Any], depth: int, version: int) -> Any:
        """An instance, of data that was written of an earlier version."""
        data, others = self._taken(payload)
        state = self._read_state(data, others, depth)
        unset = data.keys() - state.keys()
        free = state.keys() - data.keys()  # other attributes: they come and go unannounced
        state = self.note.upgraded(self.tag, version, state)
        odd = self._odd({*state, *unset}, state.keys() - free if self.fields != ("args",) else ())
        if odd:
            problem = f"the upgrades of {self.tag} from version {version} don't give the fields it has ({odd})"
            raise Misfit(problem, f"let them give {', '.join(self.fields) or 'none'}")
        try:
            return self._build(dict(state))
        except (AttributeError, TypeError, ValueError) as error:
            problem = f"what the upgrades of {self.tag} from version {version} give can't be its state, {brief(error)}"
            raise Misfit(problem, "give what such an object holds") from error

    def _taken(self, payload: list[Any]) -> tuple[dict[str, Any], list[Any]]:
        data, *others = payload
        if not is_exactly(data, dict) or len(others) > 1:
            raise ValueError("fields and other attributes are expected")
        return data, others

    def _odd(self, has: Collection[str], named: Iterable[str]) -> str:
        """What isn't right with these fields, in words."""
        odd = [f"{scalar_text(name)} is missing" for name in self.fields if name not in has]
        odd += [f"{scalar_text(name)} is unknown" for name in named if name not in self.fields]
        return ", ".join(odd[:5])

    def _read_state(self, data: dict[str, Any], others: list[Any], depth: int) -> dict[str, Any]:
        state = self.values.read_items({name: item for name, item in data.items() if item != UNSET_DATA}, depth + 1)
        if others:
            more = self.values.read(others[0], depth + 1)
            if not is_exactly(more, dict) or not state.keys().isdisjoint(more):
                raise ValueError("other attributes are expected")
            state.update(more)
        return state

    def _build(self, state: dict[Any, Any]) -> Any:
        new: Any = self.root.__new__
        if self.is_tuple:
            value = new(self.cls, [state.pop(name) for name in self.fields])
        elif self.is_group:
            value = new(self.cls, state.pop("message"), state.pop("exceptions"))
        else:
            value = new(self.cls)
        is_sound = "args" not in self.slots or is_exactly(state.get("args", ()), tuple)
        if not is_exactly(value, self.cls) or not is_sound:
            raise ValueError("its state doesn't fit its class")
        for name, item in state.items():
            if name in self.slots:
                self.slots[name].__set__(value, item)
            elif self.has_dict and is_exactly(name, str):
                value.__dict__[name] = item
            else:
                problem = f"it has no place for {scalar_text(name)}, being a {class_name(self.cls)}"
                raise Misfit(problem, "read it with the class as it was then")
        if self.root in _UNICODE_ERRORS:
            _check_unicode_error(value)
        return value


def _is_set_to_none(error: Any, name: str) -> bool:
    # OSError(0, None) is another text than an OSError whose errno and strerror were never set.
    return name in ("errno", "strerror") and 2 <= len(error.args) <= 5


def _group_state(group: BaseExceptionGroup[Any], args: tuple[Any, ...]) -> dict[str, Any]:
    names = ("message", "exceptions")
    message, exceptions = (vars(BaseExceptionGroup)[name].__get__(group) for name in names)
    # ``args`` has the exceptions once more: written twice at each level, nested groups grow as 2**depth.
    given = args[1] if len(args) == 2 and args[0] is message and type(args[1]) in (list, tuple) else ()
    if len(given) == len(exceptions) and all(map(operator.is_, given, exceptions)):
        return {"message": message, "exceptions": given}
    return {"message": message, "exceptions": exceptions, "args": args}


def _check_unicode_error(error: Any) -> None:
    """Refuse a state with which ``str(error)`` reads memory that isn't its own (CPython before 3.14)."""
    subject = next(subject for cls, subject in _UNICODE_ERRORS.items() if isinstance(error, cls))
    if error.object is not None and (not is_exactly(error.object, subject) or not 0 <= error.start <= error.end):
        raise Refusal(f"the attributes of this {class_name(type(error))} don't fit each other")
