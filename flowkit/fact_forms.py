"""Facts as JSON data: a list of the fact's code, its time and its fields.

`Facts` writes and reads them with one codec. Values are written as serialization.py says; everything else is of a fixed
type and checked on reading. An event class is its tag.
"""

from collections.abc import Callable, Sequence
from typing import Any, cast

from flowkit import facts
from flowkit.events import Event
from flowkit.facts import EventPublished, EventSent, StateWritten
from flowkit.leaves import LEAF_WRITERS, Refusal, class_name, is_exactly, path_step, write_str
from flowkit.serialization import Codec

__all__ = ["Facts", "read_list", "read_whole"]

Codable = Callable[[Any], Any]
FAR = 1e300
"""No time or delay, in seconds."""


class _Fields:
    """How the fields of facts are written and read. What isn't a value of the user's is checked on reading."""

    def __init__(self, codec: Codec) -> None:
        self.codec = codec
        self.values = codec.values
        self.value: tuple[Codable, Codable] = (
            lambda value: codec.values.write(value, 0),
            lambda data: codec.values.read(data, 0),
        )
        self.number = (_write_number, self._number)
        self.number_or_none = (_or_none(_write_number), _or_none(self._number))
        self.whole = (_same, read_whole)
        self.whole_or_none = (_same, _or_none(read_whole))
        self.truth = (_same, _truth)
        self.numbers: tuple[Codable, Codable] = (list, lambda data: tuple(map(read_whole, read_list(data))))
        self.text: tuple[Codable, Codable] = (lambda value: write_str(value, 0), self._text)
        self.text_or_none = (self._write_text_or_none, _or_none(self._text))
        self.path: tuple[Codable, Codable] = (
            lambda path: [write_str(step, 0) for step in path],
            lambda data: tuple(map(self._text, read_list(data))),
        )
        self.event = (self.value[0], self._of(Event))
        self.event_or_none = (self.value[0], _or_none(self._of(Event)))
        self.error = (self.value[0], self._of(BaseException))
        self.fields = (self.value[0], self._of(dict))
        self.event_type: tuple[Codable, Codable] = (self._write_type, self._event_type)
        self.types: tuple[Codable, Codable] = (
            lambda kinds: None if kinds is None else list(map(self._write_type, kinds)),
            lambda data: None if data is None else tuple(map(self._event_type, read_list(data))),
        )

    def _write_text_or_none(self, value: str | None) -> Any:
        return None if value is None else write_str(value, 0)

    def _number(self, data: Any) -> float:
        value = data if type(data) is not dict else self.values.read(data, 0)  # an infinite one
        if (type(value) is not float and type(value) is not int) or value != value:
            raise ValueError("a number is expected")
        return value

    def _text(self, data: Any) -> str:
        value = data if type(data) is str else self.values.read(data, 0)
        if type(value) is not str:
            raise ValueError("a string is expected")
        return value

    def _of(self, kind: type) -> Codable:
        def read(data: Any) -> Any:
            value = self.values.read(data, 0)
            if isinstance(value, kind):
                return value
            raise ValueError(f"{'an' if kind is Event else 'a'} {kind.__name__} is expected")

        return read

    def _write_type(self, kind: type) -> str:
        return str(self.values.write(kind, 0)["$type"])

    def _event_type(self, tag: Any) -> type[Event]:
        kind: type[Any] = self.values.read({"$type": tag}, 0)
        if issubclass(kind, Event):
            return kind
        raise ValueError("the tag of an event class is expected")


def _same(value: Any) -> Any:
    return value


def _write_number(value: Any) -> Any:
    """Seconds, of whatever type the caller had them in."""
    if (type(value) is float or type(value) is int) and -FAR < value < FAR:
        return value
    try:
        seconds = float(value)
        if seconds == seconds:
            return LEAF_WRITERS[float](seconds, 0)
        raise Refusal("a number of seconds can't be nan", "give an int or a float")
    except (TypeError, ValueError, OverflowError) as error:
        raise Refusal(f"a number of seconds can't be a {class_name(type(value))}", "give an int or a float") from error


def _time(data: Any) -> float:
    if (type(data) is not float and type(data) is not int) or not -FAR < data < FAR:
        raise ValueError("a time is expected")
    return data


def read_whole(data: Any) -> int:
    if type(data) is not int:
        raise ValueError("a whole number is expected")
    return data


def _truth(data: Any) -> bool:
    if type(data) is not bool:
        raise ValueError("true or false is expected")
    return data


def read_list(data: Any) -> list[Any]:
    if not is_exactly(data, list):
        raise ValueError("a list is expected")
    return cast("list[Any]", data)


def _or_none(read: Codable) -> Codable:
    return lambda data: None if data is None else read(data)


_FIELDS: dict[type, tuple[str, dict[str, str]]] = {
    facts.RunStarted: ("started", {"run_id": "text", "event": "event"}),
    facts.RunResumed: ("resumed", {}),
    facts.EventSent: ("sent", {"sender": "whole_or_none", "event": "event", "step": "text_or_none"}),
    facts.StepReturned: ("returned", {"invocation": "whole", "result": "value"}),
    facts.StepCommitted: ("committed", {"invocation": "whole", "effects": "effects", "result": "value"}),
    facts.StepRaised: ("raised", {"invocation": "whole", "error": "error", "delay": "number_or_none"}),
    facts.EventCollected: (
        "collected",
        {"invocation": "whole", "buffer": "text_or_none", "event": "event", "expected": "types"},
    ),
    facts.WaitOpened: (
        "wait",
        {
            "invocation": "whole",
            "waiter": "text",
            "event_type": "event_type",
            "requirements": "fields",
            "timeout": "number_or_none",
            "question": "event_or_none",
        },
    ),
    facts.WaitAbandoned: ("abandoned", {"invocation": "whole", "waiter": "text"}),
    facts.TimerFired: ("timer", {"timer": "whole"}),
    facts.EventPublished: ("published", {"invocation": "whole_or_none", "event": "event"}),
    facts.StateWritten: ("state", {"path": "path", "value": "value"}),
    facts.Stepped: ("stepped", {"chosen": "numbers"}),
    facts.StepwiseEnded: ("freed", {"chosen": "numbers"}),
    facts.RunCancelled: ("cancelled", {"reason": "text", "by_user": "truth"}),
    facts.RunTimedOut: ("timeout", {"timeout": "number"}),
    facts.RunFailed: ("failed", {"error": "error"}),
}
"""Each fact's code, and its fields after its time."""
_EFFECTS = (EventSent, EventPublished, StateWritten)


class Facts:
    """Facts to JSON data and back, with one codec."""

    def __init__(self, codec: Codec) -> None:
        kinds = _Fields(codec)
        coders: dict[str, tuple[Codable, Codable]] = {**vars(kinds), "effects": (self._write_effects, self._effects)}
        self._writers = {
            kind: (code, [(name, coders[coder][0]) for name, coder in fields.items()])
            for kind, (code, fields) in _FIELDS.items()
        }
        self._readers = {
            code: (kind, [(name, coders[coder][1]) for name, coder in fields.items()])
            for kind, (code, fields) in _FIELDS.items()
        }

    def write(self, fact: Any) -> list[Any]:
        code, fields = self._writers[type(fact)]
        data = [code, fact.time]
        for name, write in fields:
            try:
                data.append(write(getattr(fact, name)))
            except Refusal as refusal:
                refusal.trail.append(path_step(name))
                raise
        return data

    def read(self, data: Any) -> Any:
        if not is_exactly(data, list) or not data or not is_exactly(data[0], str) or data[0] not in self._readers:
            raise Refusal("it is no fact")
        kind, fields = self._readers[data[0]]
        if len(data) != len(fields) + 2:
            raise Refusal(f"a fact of this kind has {len(fields) + 2} items, and there are {len(data)}")
        name = "time"
        try:
            values = [_time(data[1])]
            for (name, read), item in zip(fields, data[2:], strict=True):  # noqa: B007 - told in the handlers
                values.append(read(item))
        except Refusal as refusal:
            refusal.trail.append(path_step(name))
            raise
        except ValueError as error:
            raise Refusal(str(error), "", path_step(name)) from error
        return kind(*values)

    def _write_effects(self, effects: Sequence[Any]) -> list[Any]:
        return _each(effects, self.write)

    def _effects(self, data: Any) -> tuple[Any, ...]:
        effects = tuple(_each(read_list(data), self.read))
        if not all(isinstance(effect, _EFFECTS) for effect in effects):
            raise ValueError("what an atomic step can do is expected")
        return effects


def _each(items: Sequence[Any], do: Codable) -> list[Any]:
    done: list[Any] = []
    for item in items:
        try:
            done.append(do(item))
        except Refusal as refusal:
            refusal.trail.append(f"[{len(done)}]")
            raise
    return done
