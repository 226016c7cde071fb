"""Whether an event is still what it was when it was sent.

Events are frozen, but what their fields refer to is shared between steps, not copied. A list that one step changes
while another reads it is a race that no type tells of. So the content of each event is noted when it is first seen, as
deep as lists, dictionaries, sets and attrs classes go, and compared at the end of the run.
"""

from collections.abc import Mapping
from typing import Any

import attrs

from flowkit.events import Event

__all__ = ["Sent"]

MOST = 5_000
"""Events that are watched in a run; later ones aren't."""

DEEPEST = 12
_SIMPLEST = {str, int, float, bytes, bool, type(None)}
_PLAIN = (str, int, float, bytes, bool, complex, type(None), type)


class Sent:
    """The events of a run that have something in them that can be changed."""

    def __init__(self) -> None:
        self._seen: dict[int, tuple[Event, Any]] = {}

    def see(self, event: Event) -> None:
        """Note an event's content, if it hasn't been."""
        for value in vars(event).values():
            if type(value) not in _SIMPLEST and not isinstance(value, _PLAIN):
                if id(event) not in self._seen and len(self._seen) < MOST:
                    self._seen[id(event)] = (event, _content(event, 0))
                return

    def changed(self) -> list[Event]:
        """Those that aren't what they were."""
        return [event for event, content in self._seen.values() if _content(event, 0) != content]


def _content(value: Any, depth: int) -> Any:
    """What a value holds, as something that can be compared later. Of what it doesn't know, only which object it is."""
    if isinstance(value, _PLAIN):
        return repr(value) if isinstance(value, float) else value  # nan isn't equal to itself
    if depth >= DEEPEST:
        return id(value)
    if isinstance(value, Event):
        return (type(value), [(key, _content(one, depth + 1)) for key, one in vars(value).items()])
    if isinstance(value, bytearray):
        return bytes(value)
    anything: Any = value
    kind: type[Any] = type(anything)  # pyright: ignore[reportUnknownVariableType]
    if isinstance(value, list | tuple):
        return (kind, [_content(one, depth + 1) for one in anything])
    if isinstance(value, Mapping):
        mapping: Mapping[Any, Any] = anything
        return (kind, [(_content(key, depth + 1), _content(one, depth + 1)) for key, one in mapping.items()])
    if isinstance(value, set | frozenset):
        return (kind, frozenset(anything))
    if attrs.has(kind):
        names = [one.name for one in attrs.fields(kind)]
        return (kind, [(name, _content(getattr(value, name, None), depth + 1)) for name in names])
    return id(value)
