"""``key=value …`` to the fields of an event: `event_of`; and what fields there are, in words.

    key=value       by the field's annotation (typed.py)
    key=@file       what is in the file, without its last end of line; key=@- is standard input; key=@@x is "@x"
    key:=json       JSON, read by the field's annotation
    key:=@file      JSON that is in the file

An event without declared fields (`StartEvent` itself) takes any names, and reads values as JSON where they look so:
``n=5`` is a number, ``name=Ada`` a text, ``n:='"5"'`` the text "5".
"""

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from enum import Enum
from pathlib import Path, PurePath
from typing import Any, cast

import attrs

from flowkit.command_line.exits import Refused
from flowkit.command_line.typed import Convert, Wrong, expected, from_json, from_text, type_text
from flowkit.errors import EventError, did_you_mean, shown
from flowkit.events import Event, StartEvent, StopEvent
from flowkit.testing.parameters import MISSING, Made, Parameter, parameters_of
from flowkit.workflow import Workflow, plan_of

__all__ = [
    "Given",
    "answer_of",
    "converter_of",
    "default_text",
    "event_named",
    "event_of",
    "field_text",
    "fields_of",
    "fields_text",
    "given",
]

ANNOUNCED = 12
"""Fields told of an event."""


@attrs.frozen
class Given:
    """One ``key=value``: what was written, and whether it is JSON."""

    name: str
    text: str
    is_json: bool = False


def fields_of(kind: type[Event]) -> list[Parameter]:
    """The fields that an event is built from; none of an open one."""
    if kind.__flowkit_open__:
        return []
    return [one for one in parameters_of(kind, {}) if one.name != "self"]


def fields_text(kind: type[Event]) -> str:
    """The fields of an event in a line: ``question: str, limit: int = 5``."""
    if kind.__flowkit_open__:
        return "any"
    fields = fields_of(kind)
    told = ", ".join(map(field_text, fields[:ANNOUNCED]))
    return (told + (", …" if len(fields) > ANNOUNCED else "")) or "none"


def field_text(field: Parameter) -> str:
    """``limit: int = 5``."""
    told = f"{field.keyword}: {type_text(field.annotation)}"
    if field.default is MISSING:
        return told
    return f"{told} = {default_text(field)}"


def default_text(field: Parameter) -> str:
    """A field's default, as one would write it."""
    default = field.default
    if _is_made(default):
        return "…"
    if isinstance(default, Enum):
        return default.name
    return str(default) if isinstance(default, PurePath | timedelta) else shown(default, 30)


def _is_made(default: Any) -> bool:
    return isinstance(default, Made) or type(default).__name__ == "_Mark"


def converter_of(workflow: Workflow) -> Convert | None:
    """The ``structure`` of the converter that the workflow's author has given it."""
    record: Any = vars(workflow).get("_flowkit_record")
    converter = None if record is None else record.settings.converter
    return None if converter is None else converter.structure


# ----------------------------------------------------------------------------------------------------------- arguments


def given(arguments: Sequence[str]) -> list[Given]:
    """What was written, taken apart; files are read.

    Raises:
        Refused: one isn't ``key=value``, comes twice, or names a file that can't be read.
    """
    found: dict[str, Given] = {}
    for argument in arguments:
        one = _taken_apart(argument)
        if one.name in found:
            raise Refused(f"{one.name} is given twice, as {shown(found[one.name].text)} and as {shown(one.text)}")
        found[one.name] = one
    return list(found.values())


def _taken_apart(argument: str) -> Given:
    name, equals, text = argument.partition("=")
    is_json = name.endswith(":")
    name = name.removesuffix(":")
    if not equals or not name.isidentifier():
        if argument.startswith("--"):
            raise Refused(f"{argument!r} is no value for a field: options stand before `--`")
        cure = "write key=value, such as topic=pirates"
        if equals and name.replace("-", "_").isidentifier():
            cure = f"write {name.replace('-', '_')}=…"
        elif equals and not name:
            cure = "write the field's name before ="
        raise Refused(f"{argument!r} is no value for a field: {cure}")
    if text.startswith("@@"):
        text = text[1:]
    elif text.startswith("@"):
        text = _read(name, text[1:])
    return Given(name, text, is_json)


def _read(name: str, file: str) -> str:
    try:
        if file == "-":
            text = sys.stdin.read() if sys.stdin is not None else ""  # pyright: ignore[reportUnnecessaryComparison]
        else:
            text = Path(file).read_text(encoding="utf-8")
    except OSError as error:
        cure = f"write {name}=@@{file} for a text that begins with @"
        raise Refused(f"{name}=@{file}: the file can't be read ({error.strerror}): {cure}") from None
    except UnicodeDecodeError:
        raise Refused(f"{name}=@{file}: the file isn't UTF-8") from None
    return text.removesuffix("\n").removesuffix("\r")


# -------------------------------------------------------------------------------------------------------------- events


def event_of(
    kind: type[Event], arguments: Sequence[str], *, workflow: Workflow | None = None, said: str | None = None
) -> Event:
    """The event that ``key=value …`` describe.

    Args:
        workflow: whose converter reads what flowkit can't.
        said: what the event is called in messages, by default its class's name.

    Raises:
        Refused: the fields don't make one; with all that is wrong.
    """
    name = said or kind.__name__
    convert = None if workflow is None else converter_of(workflow)
    wanted = {field.keyword: field for field in fields_of(kind)}
    values: dict[str, Any] = {}
    faults: list[str] = []
    for one in given(arguments):
        field = wanted.get(one.name)
        if field is None and not kind.__flowkit_open__:
            takes = f"it takes {fields_text(kind)}" if wanted else "it has no fields"
            faults.append(f"{name} has no field {one.name!r}: {did_you_mean(one.name, wanted) or takes}")
            continue
        try:
            values[one.name] = _value(one, Any if field is None else field.annotation, convert)
        except Wrong as error:
            annotated = "" if field is None else f" ({type_text(field.annotation)})"
            inside = f" at {error.path.removeprefix('.')}" if error.path else ""
            advice = f": {error.advice}" if error.advice else ""
            faults.append(f"{name}.{one.name}{annotated}{inside} takes {error.wanted}, but got {error.given}{advice}")
    missing = [field for field in wanted.values() if field.default is MISSING and not _is_given(field, arguments)]
    if missing:
        listed = " ".join(f"{field.keyword}=…" for field in missing)
        told = ", ".join(field_text(field) for field in missing)
        faults.append(f"{name} needs {told}: add {listed}")
    if faults:
        raise Refused("\n  ".join(faults) if len(faults) == 1 else _several(name, faults))
    try:
        return kind(**values)
    except EventError as error:
        raise Refused(str(error), cause=error) from error
    except Exception as error:
        from flowkit.command_line.exits import line_of

        raise Refused(f"{name} refuses these values: {line_of(error)}", cause=error) from error


def _is_given(field: Parameter, arguments: Iterable[str]) -> bool:
    return any(argument.partition("=")[0].removesuffix(":") == field.keyword for argument in arguments)


def _several(name: str, faults: list[str]) -> str:
    return f"{name} can't be built, {len(faults)} values are wrong:" + "".join(f"\n  {fault}" for fault in faults)


def _value(one: Given, annotation: Any, convert: Convert | None) -> Any:
    if not one.is_json:
        return from_text(one.text, annotation, convert)
    try:
        data = json.loads(one.text)
    except (ValueError, RecursionError) as error:
        advice = "text needs double quotes in JSON" if one.text[:1] not in ("[", "{", '"') else None
        raise Wrong(f"{expected(annotation)}, as JSON", f"{shown(one.text)} ({error})", "", advice) from None
    return from_json(data, annotation, convert)


def answer_of(
    kind: type[Event], line: str, convert: Convert | None = None, fixed: Mapping[str, Any] | None = None
) -> Event:
    """The event that one line of input describes: a JSON object of its fields, or the value of the only one that has to
    be given. ``fixed`` fields needn't be.

    Raises:
        Wrong: it describes none.
    """
    have = dict(fixed or {})
    fields = fields_of(kind)
    if line.lstrip().startswith("{"):
        try:
            data: Any = json.loads(line)
        except (ValueError, RecursionError):
            data = None
        if isinstance(data, dict):
            return _answer_in(cast("dict[str, Any]", data), kind, fields, have, convert)
    if kind.__flowkit_open__:
        return kind(**{"response": line, **have})
    asked = [field for field in fields if field.keyword not in have]
    needed = [field for field in asked if field.default is MISSING] or asked
    if not asked and not line.strip():
        return kind(**have)
    if len(needed) != 1:
        example = ", ".join(f'"{field.keyword}": …' for field in needed)
        raise Wrong(f"a line of JSON with {fields_text(kind)}", shown(line), "", f"write {{{example}}}")
    have[needed[0].keyword] = from_text(line, needed[0].annotation, convert)
    return built(kind, have)


def _answer_in(
    data: dict[str, Any], kind: type[Event], fields: list[Parameter], have: dict[str, Any], convert: Convert | None
) -> Event:
    if kind.__flowkit_open__:
        return kind(**{**have, **data})
    known = {field.keyword: field for field in fields}
    for name, value in data.items():
        if name not in known:
            advice = did_you_mean(name, known) or (f"it has {', '.join(known)}" if known else "it has no fields")
            raise Wrong(f"the fields of {kind.__name__}", repr(name), "", advice)
        have[name] = from_json(value, known[name].annotation, convert, f".{name}")
    if missing := [field for field in fields if field.default is MISSING and field.keyword not in have]:
        raise Wrong(f"all fields of {kind.__name__}", f"none for {', '.join(map(field_text, missing))}")
    return built(kind, have)


def built(kind: type[Event], values: Mapping[str, Any]) -> Event:
    """An event with these fields.

    Raises:
        EventError, Wrong: it refuses them.
    """
    try:
        return kind(**values)
    except EventError:
        raise
    except Exception as error:  # the author's validators
        raise Wrong(f"a valid {kind.__name__}", f"{type(error).__name__}: {error}") from error


# -------------------------------------------------------------------------------------------------------- event classes


def event_classes(workflow: Workflow) -> dict[str, type[Event]]:
    """The event classes that one may send to a run of a workflow, by name: those its steps take, and those in sight of
    its class (a `wait_for_event` takes what no annotation tells)."""
    import flowkit.events

    plan = plan_of(workflow)
    found: dict[str, type[Event]] = {kind.__name__: kind for kind in plan.accepted if not issubclass(kind, StartEvent)}
    modules = [sys.modules.get(cls.__module__) for cls in type(workflow).__mro__ if cls.__module__ != "builtins"]
    modules.append(flowkit.events)
    for module in modules:
        for name, value in vars(module).items() if module is not None else ():
            if isinstance(value, type) and issubclass(value, Event) and not issubclass(value, StartEvent | StopEvent):
                found.setdefault(name, value)
    for child in getattr(vars(workflow).get("_flowkit_record"), "children", {}).values():
        found = {**event_classes(child), **found}
    return found


def event_named(workflow: Workflow, name: str) -> type[Event]:
    """The event class of this name (``package.module:Name`` finds any).

    Raises:
        Refused: there is none.
    """
    classes = event_classes(workflow)
    if name in classes:
        return classes[name]
    module, colon, attribute = name.rpartition(":")
    if colon:
        found = getattr(sys.modules.get(module), attribute, None)
        if isinstance(found, type) and issubclass(found, Event):
            return found
    of = plan_of(workflow).name
    listed = ", ".join(one for one, kind in classes.items() if kind.__module__ != "flowkit.events") or "none of its own"
    raise Refused(f"{of} has no event {name!r} in sight: {did_you_mean(name, classes) or f'it has {listed}'}")
