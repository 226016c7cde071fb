"""The state of a run: a dictionary, or one instance of an attrs class (``Context[MyState]``).

Every change is a write of one value at one path, so that it can be journalled as one fact and replayed. Reads give the
values themselves, not copies; a value that is changed in place is not journalled, one that is written is.
"""

import copy
from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard, cast

import attrs

from flowkit.errors import StateError, UnknownKey, shown
from flowkit.facts import Fact, StateWritten
from flowkit.hints import kind_of

__all__ = ["State", "StateBehind"]

_REQUIRED: Any = object()
Path = tuple[str, ...]


class State:
    """Values by path. ``kind`` is the attrs class of a typed state, ``None`` for a dictionary."""

    __slots__ = ("kind", "root", "writer")

    def __init__(self, kind: type[Any] | None = None, root: Any = None) -> None:
        self.kind = kind
        self.root: Any = root if root is not None else ({} if kind is None else _initial(kind))
        self.writer: Any = None  # the lock of edit_state, made by the context that first needs it

    def read(self, path: Path, default: Any = _REQUIRED) -> Any:
        """The value at ``path``; ``default`` where there is none.

        Raises:
            UnknownKey: there is none, and no default was given.
        """
        value = self.root
        for depth, step in enumerate(path):
            try:
                value = value[step] if _maps(value) else getattr(value, step)
            except (KeyError, AttributeError, TypeError):
                _check_key(step)
                if default is not _REQUIRED:
                    return default
                raise UnknownKey(".".join(path), [".".join((*path[:depth], name)) for name in _fields(value)]) from None
        return value

    def check(self, path: Path) -> None:
        """Refuse a write that `write` could not carry out.

        Raises:
            StateError: a key is no string, or the typed state, or an object in it, has no such field.
        """
        for step in path:
            _check_key(step)
        value = self.root
        for depth, step in enumerate(path):
            if _maps(value):
                if step not in value:
                    return
                value = value[step]
            elif step in _names(value) or isinstance(getattr(kind_of(value), step, None), property):
                value = getattr(value, step)
            else:
                where = repr(".".join(path[:depth])) if depth else "the state"
                names = ", ".join(_names(value))
                raise StateError(
                    f"the state has no {'.'.join(path)!r}, {where} is of type {type(value).__name__}",
                    f"declare the field, it has {names}" if names else f"set {where} as a whole",
                )

    def write(self, path: Path, value: Any) -> None:
        """Put ``value`` at ``path``; an empty path replaces the whole. Missing dictionaries on the way are made."""
        self.root = _assign(self.root, path, value)

    def draft(self) -> Any:
        """A deep copy to edit.

        Raises:
            StateError: something in the state can't be copied.
        """
        try:
            return copy.deepcopy(self.root)
        except Exception as error:
            held = next((f"{name!r} holds {shown(one)}" for name, one in _fields(self.root).items() if _stays(one)), "")
            raise StateError(
                f"the state can't be copied for editing, {held} ({type(error).__name__}: {error})",
                "let a Resource hold what can't be copied",
            ) from error

    def changes(self, draft: Any) -> list[tuple[Path, Any]]:
        """The writes that turn this state into ``draft``: one for each top-level field that differs.

        Raises:
            StateError: one of them can't be carried out.
        """
        old, new = _fields(self.root), _fields(draft)
        if old.keys() - new.keys():
            return [((), draft)]  # writes of single keys can't delete one
        changed = {name: value for name, value in new.items() if name not in old or not _same(old[name], value)}
        for name in changed:
            self.check((name,))
        return [((name,), value) for name, value in changed.items()]


class StateBehind(State):
    """A state as an attempt of an atomic step sees it: through what it has written itself and isn't there yet.

    ``intents`` is the list of its facts, which grows as it works.
    """

    __slots__ = ("_behind", "_intents")

    def __init__(self, behind: State, intents: Sequence[Fact]) -> None:
        self._behind = behind
        self._intents = intents
        self.kind = behind.kind

    @property
    def root(self) -> Any:
        """The state itself, or where the attempt has written something, a copy with that in it."""
        written = [one for one in self._intents if isinstance(one, StateWritten)]
        if not written:
            return self._behind.root
        seen = State(self.kind, self._behind.draft())
        for one in written:
            seen.write(one.path, copy.deepcopy(one.value))
        return seen.root

    @property
    def writer(self) -> Any:
        """The lock of the state itself."""
        return self._behind.writer

    @writer.setter
    def writer(self, lock: Any) -> None:
        self._behind.writer = lock


def _maps(value: Any) -> TypeGuard[Mapping[str, Any]]:
    return isinstance(value, Mapping)


def _check_key(key: Any) -> None:
    if not (isinstance(key, str) and key):
        raise StateError(f"a key of the state is a string, but got {shown(key)}", "write str(…)")


def _fields(value: Any) -> dict[str, Any]:
    """What an object holds, by name."""
    if _maps(value):
        return dict(value)
    names = [*_names(value), *getattr(value, "__dict__", ())]
    return {name: getattr(value, name) for name in names if hasattr(value, name)}


def _names(value: Any) -> list[str]:
    """The names by which an object that is no dictionary can hold something."""
    if attrs.has(kind_of(value)):
        return [field.name for field in attrs.fields(kind_of(value))]
    return list(getattr(value, "__dict__", ()))


def _same(old: Any, new: Any) -> bool:
    if type(old) is not type(new):
        return False
    try:
        return old is new or bool(old == new)
    except Exception:  # noqa: BLE001 - values that can't be compared (arrays, …) count as changed
        return False


def _stays(value: Any) -> bool:
    try:
        copy.deepcopy(value)
    except Exception:  # noqa: BLE001 - that is the question
        return True
    return False


def _assign(container: Any, path: Path, value: Any) -> Any:
    if not path:
        return value
    name, rest = path[0], path[1:]
    if _maps(container):
        held = cast("dict[str, Any]", container)
        held[name] = _assign(held.get(name, {}), rest, value) if rest else value
        return held
    inner = _assign(getattr(container, name), rest, value) if rest else value
    try:
        setattr(container, name, inner)
    except attrs.exceptions.FrozenInstanceError:
        field = attrs.fields_dict(kind_of(container))[name]
        return attrs.evolve(container, **{field.alias or name: inner})
    return container


def _initial(kind: type[Any]) -> Any:
    try:
        return kind()
    except TypeError as error:
        raise StateError(
            f"{kind.__name__} can't be the state of a new run ({error})",
            f"give every field a default, or begin with one: run(ctx=Context(workflow, state={kind.__name__}(…)))",
        ) from error
