"""The state of a run: a dictionary, or one instance of an attrs class (``Context[MyState]``).

Every change is a write of one value at one path, so that it can be journalled as one fact and replayed. Reads give the
values themselves, not copies; a value that is changed in place is not journalled, one that is written is.
"""

import copy
from collections.abc import Mapping
from typing import Any

import attrs

from flowkit.errors import StateError, UnknownKey

__all__ = ["State"]

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
        for step in path:
            try:
                value = value[step] if isinstance(value, Mapping) else getattr(value, step)
            except (KeyError, AttributeError):
                if default is not _REQUIRED:
                    return default
                raise UnknownKey(".".join(path), _names(value)) from None
        return value

    def check(self, path: Path) -> None:
        """Refuse a write that `write` could not carry out.

        Raises:
            StateError: the typed state, or an object in it, has no such field.
        """
        value = self.root
        for step in path:
            if isinstance(value, Mapping):
                if step not in value:
                    return
                value = value[step]
            elif hasattr(value, step):
                value = getattr(value, step)
            else:
                names = ", ".join(_names(value)) or "no fields"
                raise StateError(
                    f"the state has no {'.'.join(path)!r}: {type(value).__name__} has {names}; declare the field, or use "
                    "one of these."
                )

    def write(self, path: Path, value: Any) -> None:
        """Put ``value`` at ``path``; an empty path replaces the whole. Missing dictionaries on the way are made."""
        self.root = _assign(self.root, path, value)

    def draft(self) -> Any:
        """A deep copy to edit."""
        return copy.deepcopy(self.root)

    def changes(self, draft: Any) -> list[tuple[Path, Any]]:
        """The writes that turn this state into ``draft``: one for each top-level field that differs."""
        if isinstance(self.root, dict):
            if set(self.root) - set(draft):
                return [((), draft)]
            fields: list[str] = list(draft)
        else:
            fields = _names(draft)
        return [
            ((name,), self_value)
            for name in fields
            if not _same(self.read((name,), _REQUIRED_OR_ABSENT), self_value := State(root=draft).read((name,)))
        ]


_REQUIRED_OR_ABSENT: Any = object()


def _same(old: Any, new: Any) -> bool:
    if type(old) is not type(new):
        return False
    try:
        return old is new or bool(old == new)
    except Exception:  # noqa: BLE001 - values that can't be compared (arrays, …) count as changed
        return False


def _assign(container: Any, path: Path, value: Any) -> Any:
    if not path:
        return value
    name, rest = path[0], path[1:]
    if isinstance(container, dict):
        container[name] = _assign(container.get(name, {}), rest, value) if rest else value
        return container
    inner = _assign(getattr(container, name), rest, value) if rest else value
    try:
        setattr(container, name, inner)
    except attrs.exceptions.FrozenInstanceError:
        return attrs.evolve(container, **{name: inner})
    return container


def _names(value: Any) -> list[str]:
    if isinstance(value, Mapping):
        return [str(key) for key in value]
    if attrs.has(type(value)):
        return [field.name for field in attrs.fields(type(value))]
    return list(getattr(value, "__dict__", ()))


def _initial(kind: type[Any]) -> Any:
    try:
        return kind()
    except TypeError as error:
        raise StateError(
            f"{kind.__name__} can't be the state of a new run: {error}; give every field a default, or pass "
            f"run(ctx=Context(workflow, state={kind.__name__}(…)))."
        ) from error
