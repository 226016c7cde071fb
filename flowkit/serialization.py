"""Values to JSON and back, exactly or not at all.

**What comes back** is equal to what went in, of the same types all the way down. What can't be promised that
is refused by `SerializationError` when it is *written*, while the value is alive, with its path and the cure.

**Format.** What JSON can say stands for itself: null, booleans, numbers, strings, lists, and dicts whose keys
are all strings not starting with ``$``. Everything else is a dict with one key, that starts with ``$``; so a
``$`` key can't mean two things::

    {"$bytes": "AAE="}  {"$Decimal": "1.50"}  {"$float": "nan"}   leaves: a string, in its one spelling
    {"$tuple": [1, 2]}  {"$dict": [[1, 2], ["a", "b"]]}           containers; $dict: keys, then values
    {"$obj": ["shop:Order", {"id": 7}, {"note": "x"}]}            tag, declared fields, any other attributes
    {"$obj": ["shop:Order@2", {"id": 7, "sum": 1}]}               of a class that is at version 2 (evolution.py)
    {"$enum": ["shop:Color", "RED"]}  {"$type": "shop:Order"}     a member (flags: the number); a class itself
    {"$hook": ["shop:Money", ["EUR", 5]]}                         what the class's own hook made of it

**Dispatch** is by ``type(value)``, never by annotation: a field annotated ``float`` may hold an int, one
annotated ``Any`` anything. A subclass is another type: it is known by itself or refused. A value costs one
dict lookup and one call; paths cost nothing until something is refused: they are put together on the way up.

**Objects** (attrs classes, dataclasses, named tuples, events, exceptions) are rebuilt from their raw state,
without ``__init__``, converters or validators: those have run when the value was made, and one that was alive
must be neither changed nor rejected now. The data must have all declared fields and no others: where the
class has changed since, that is refused and not guessed at, unless `stored_as` says how to bring its fields up to
date. (A field never set is ``{"$unset": null}``.)

**Hostile data.** Only registered classes come back; nothing is imported or looked up by name. Readers check
shape and type, a leaf is written again and compared, and what may take more than linear time is bounded (the
constants below).

**Not kept**, by design: which parts of a value were one and the same object (and a cycle is refused); an
exception's traceback, ``__context__`` and ``AttributeError.obj`` (pickle drops them too: they lead anywhere);
attrs' cached hash and typing's ``__orig_class__``; the order of a set (it is written sorted, so that equal
sets give equal bytes).

In this file, each part knowing those before it: refusals; leaves, which are one string; containers
(`_Values`); classes (`_Enum`, `_Hook`, `_Object`); and `Codec`, which knows what is registered.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from enum import Enum
from types import UnionType
from typing import Annotated, Any, cast, get_args, get_origin

import cattrs

from flowkit.containers import Values
from flowkit.errors import SerializationError
from flowkit.events import Event
from flowkit.evolution import check_tag, default_tag, note_of, split_tag, stored_as
from flowkit.forms import (
    FIXED,
    KNOWN,
    EnumForm,
    HookForm,
    ObjectForm,
    classes_in,
    declared_fields,
    is_taken_apart,
    mentioned_classes,
    unregistered,
)
from flowkit.hints import kind_of
from flowkit.leaves import (
    MALFORMED,
    MAX_DEPTH,
    TO_JSON,
    Hooks,
    Misfit,
    Newer,
    Refusal,
    T,
    Write,
    brief,
    class_name,
    is_exactly,
    read_int,
    scalar_text,
)
from flowkit.storage_errors import StoredError

__all__ = ["MAX_DEPTH", "Codec", "parse", "stored_as"]


def _parse_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    data = dict(pairs)
    if len(data) != len(pairs):
        (key, _), *_ = Counter(key for key, _ in pairs).most_common(1)
        raise ValueError(f"the key {scalar_text(key)} occurs twice")
    return data


def _parse_constant(text: str) -> Any:
    raise ValueError(f"{text} isn't JSON")


def parse(data: bytes) -> Any:
    """JSON in UTF-8, as it is; nothing in it is taken for a value yet.

    Raises:
        SerializationError: it isn't JSON, an int in it is too long, or a key occurs twice.
    """
    try:
        return _PARSER.decode(str(data, "utf-8"))
    except (ValueError, TypeError, RecursionError) as error:
        raise SerializationError(f"it can't be parsed, {brief(error)}", cure=MALFORMED) from error


def _no_hook(*_: Any) -> Any:
    """Stands for the hook of a class that has none of its own."""


def _no_hook_for(cls: Any) -> Any:
    return _no_hook


def _always(cls: Any) -> bool:
    return True


MAX_TEXT = 2_000
"""Characters of a `StoredError`'s text."""

_PARSER = json.JSONDecoder(object_pairs_hook=_parse_object, parse_int=read_int, parse_constant=_parse_constant)


def _subclasses(cls: type[Event]) -> Iterator[type[Event]]:
    """Each once, however many of its bases are events."""
    seen: set[type[Event]] = set()
    todo = cls.__subclasses__()
    while todo:
        one = todo.pop()
        if one not in seen:
            seen.add(one)
            yield one
            todo += one.__subclasses__()


class Codec:
    """Turns values into JSON data or bytes and back, exactly or not at all. The head of this file tells how.

    Builtin and standard value types, builtin exceptions and flowkit's own events and errors are known; any
    other class is registered: here, or by `register`. ``any_event`` lets every event class through that this process
    has defined. ``register`` is what a refusal tells the reader to write, with a place for the class's name. One that
    flowkit can't take apart needs cattrs hooks: given to `register`, or registered on ``converter`` for that very
    class (not for a base or by predicate) before its first value is written or read. A hook may return any value that
    the codec knows, and gets that value back.

    Threads may share a codec once its classes are registered.
    """

    def __init__(
        self,
        types: Iterable[type] = (),
        converter: cattrs.Converter | None = None,
        *,
        any_event: bool = False,
        register: str = "codec.register({})",
        with_hooks: str = "codec.register({}, unstructure=…, structure=…)",
    ) -> None:
        self._any_event = any_event
        self._register, self._with_hooks = register, with_hooks
        self.converter = converter if converter is not None else cattrs.Converter()
        self._classes = dict(KNOWN)
        self._tags = {cls: tag for tag, cls in KNOWN.items()}
        self._implied: dict[str, type] = {}
        self._hooks: dict[type, Hooks] = {}
        self._forms: dict[type, EnumForm | HookForm | ObjectForm] = {}
        self._nearly: Codec | None = None
        self.values = Values(self._new_writer)
        self.values.readers |= {
            "$type": lambda data, depth: self._class(data),
            "$obj": lambda data, depth: self._read_form("$obj", data, depth),
            "$enum": lambda data, depth: self._read_form("$enum", data, depth),
            "$hook": lambda data, depth: self._read_form("$hook", data, depth),
        }
        for cls in types:
            self.register(cls)

    def register(
        self,
        cls: type[T],
        *,
        tag: str | None = None,
        aliases: Iterable[str] = (),
        unstructure: Callable[[T], Any] | None = None,
        structure: Callable[[Any, type[T]], T] | None = None,
    ) -> type[T]:
        """Let through values of ``cls`` and of the classes that its annotations mention. Returns ``cls``.

        ``tag`` stands for the class in the data; by default what `stored_as` says, else ``module:qualname``.
        ``aliases`` are tags that it had: they are read, never written. ``unstructure`` and ``structure`` are
        cattrs hooks, kept on ``converter``; they go before the fields, so they may leave things out.

        Raises:
            SerializationError: the tag stands for another class; only one hook was given; hooks were given for
                a class whose form is fixed (``int``, ``datetime``, …); or ``cls`` isn't a class.
        """
        bare: Any = get_origin(cls) or cls  # Box[int] is Box
        place = f"register({getattr(bare, '__qualname__', bare)})"
        if not isinstance(bare, type) or bare in (UnionType, Annotated):
            raise SerializationError("it isn't a class", path=place)
        if (unstructure is None) is not (structure is None):
            raise SerializationError("one hook was given without the other", path=place, cure="give both")
        if unstructure is not None and bare in FIXED:
            raise SerializationError("its form is fixed", path=place, cure="wrap it in a class of your own")
        is_new = bare not in self._tags
        note = note_of(bare)
        if tag is None:
            tag = (note.tag or default_tag(bare)) if is_new else self._tags[bare]
        self._claim((tag, *aliases, *note.aliases), bare, place)
        self._implied[default_tag(bare)] = bare  # so it was written before it had another tag
        self._tags[bare] = tag
        if unstructure is not None and structure is not None:
            self._hooks[bare] = unstructure, structure
            # By predicate: a hook registered by class serves its subclasses too, and resolves annotations.
            self.converter.register_unstructure_hook_func(lambda other: other is bare, unstructure)
            self.converter.register_structure_hook_func(lambda other: other is bare, structure)
        for codec in (self, self._nearly):
            if codec is not None and codec._forms.pop(bare, None) is not None:  # its tag or its hooks have changed
                codec.values.writers.pop(bare, None)
        if is_new:
            for other in (*classes_in(list(get_args(cls)), {}), *mentioned_classes(bare)):
                if other not in self._tags and is_taken_apart(other):
                    self.register(other)
        return cls

    def _claim(self, tags: tuple[str, ...], cls: type, place: str) -> None:
        for tag in tags:
            check_tag(tag, place)
            owner = self._classes.get(tag, cls)
            if owner is not cls:
                problem = f"the tag {scalar_text(tag)} already stands for another class, {class_name(owner)}"
                raise SerializationError(problem, path=place, cure="register one with another tag=…")
        self._classes.update(dict.fromkeys(tags, cls))

    def encode(self, value: object) -> Any:
        """The value as JSON data: dicts and lists, strings, ints, finite floats, booleans and ``None``.

        Raises:
            SerializationError: the value, or something in it, would not come back exactly.
        """
        try:
            return self.values.write(value, 0)
        except Refusal as refusal:
            raise refusal.located() from refusal.__cause__
        except RuntimeError as error:  # another thread changed it meanwhile, or there is too little stack
            raise SerializationError(f"it can't be written, {brief(error)}") from error

    def decode(self, data: object) -> Any:
        """The value that `encode` made this data of.

        Raises:
            SerializationError: the data isn't what `encode` makes, or a class in it isn't registered here.
        """
        try:
            return self.values.read(data, 0)
        except Refusal as refusal:
            raise refusal.located() from refusal.__cause__
        except RecursionError as error:
            raise SerializationError(f"it can't be read, {brief(error)}") from error

    def dumps(self, value: object) -> bytes:
        """`encode` as compact JSON in UTF-8.

        Raises:
            SerializationError: as `encode`.
        """
        data = self.encode(value)
        try:
            return TO_JSON.encode(data).encode()
        except RecursionError as error:
            raise SerializationError(f"it can't be written, {brief(error)}") from error

    def loads(self, data: bytes) -> Any:
        """The value that `dumps` made these bytes of.

        Raises:
            SerializationError: as `decode`, or it isn't JSON in UTF-8.
        """
        return self.decode(parse(data))

    def nearly(self) -> "Codec":
        """This codec, except that it never refuses an exception: where it should, it writes a `StoredError`."""
        if self._nearly is None:
            other = _NearlyCodec(converter=self.converter, any_event=self._any_event)
            other._register, other._with_hooks = self._register, self._with_hooks
            other._classes, other._tags, other._hooks = self._classes, self._tags, self._hooks
            other._implied = self._implied
            self._nearly = other
        return self._nearly

    # ---- classes

    def tag_of(self, cls: type) -> str:
        """What stands for a class in the data.

        Raises:
            SerializationError: it isn't registered.
        """
        data: dict[str, str] = self.encode(cls)
        return data["$type"]

    def class_of(self, tag: Any) -> type:
        """The class that a tag stands for.

        Raises:
            TypeChanged: there is none.
        """
        found: type = self.decode({"$type": tag})
        return found

    def _new_writer(self, cls: type) -> Write:
        return self._write_type if issubclass(cls, type) else self._form(cast(Any, cls)).write

    def _write_type(self, value: Any, depth: int) -> Any:
        if value not in self._tags:
            if not (self._any_event and issubclass(value, Event)):
                cure = f"write {self._register.format(value.__name__)}"
                raise Refusal(f"the class {class_name(value)} isn't registered", cure)
            self.register(value)
        return {"$type": self._tags[value]}

    def _class(self, tag: Any) -> type:
        if type(tag) is not str:
            raise ValueError("a tag is expected")
        found = self._classes.get(tag) or self._implied.get(tag)
        if found is None:
            found = self._event_class(tag)
            if found is None:
                cure = "write codec.register for it, with aliases=… if it was renamed"
                raise Misfit(f"no registered class has the tag {scalar_text(tag)}", cure)
            self.register(found)
        return found

    def _event_class(self, tag: str) -> type | None:
        """The one event class of this process that the tag stands for."""
        classes = list(_subclasses(Event)) if self._any_event else []
        notes = [(cls, note_of(cls)) for cls in classes]
        said = [cls for cls, note in notes if tag == note.tag or tag in note.aliases]
        defined = said or [cls for cls in classes if default_tag(cls) == tag]
        return defined[0] if len(defined) == 1 else None

    def _form(self, cls: type) -> "EnumForm | HookForm | ObjectForm":
        form = self._forms.get(cls)
        if form is None:
            form = self._forms[cls] = self._new_form(cls)
        return form

    def _new_form(self, cls: type) -> "EnumForm | HookForm | ObjectForm":
        tag = self._tags.get(cls)
        if tag is None:
            if not (self._any_event and issubclass(cls, Event)):
                raise unregistered(cls, self._register, self._with_hooks)
            tag = self._tags[self.register(cls)]
        hooks = self._hooks.get(cls) or (self._converter_hooks(cls) if cls not in FIXED else None)
        note = note_of(cls)
        if hooks is not None and note.version > 1:
            problem = f"{class_name(cls)} has hooks of its own and is version {note.version}"
            raise Refusal(problem, "leave its version to the hooks: let them write it, and read each")
        if hooks is not None:
            return HookForm(self.values, cls, tag, hooks)
        if issubclass(cls, Enum):
            return EnumForm(self.values, cls, tag)
        fields = declared_fields(cls)
        if fields is None:
            cure = f"write {self._with_hooks.format(cls.__name__)}"
            raise Refusal(f"{class_name(cls)} is registered, but what it consists of can't be told", cure)
        return ObjectForm(self.values, cls, tag, fields, note)

    def _converter_hooks(self, cls: type) -> Hooks | None:
        """The hooks the converter has for this very class: neither a predicate's nor a base's."""
        probe = self.converter.copy()
        probe.register_unstructure_hook_factory(_always, _no_hook_for)
        probe.register_structure_hook_factory(_always, _no_hook_for)
        found: list[Any] = []
        for get in (probe.get_unstructure_hook, probe.get_structure_hook):
            hook: Any = get(cls)
            if hook is not _no_hook and all(hook is not get(base) for base in cls.__mro__[1:]):
                found.append(hook)
        if len(found) == 1:
            raise Refusal(f"the converter has only one hook for {class_name(cls)}", "register both")
        return (found[0], found[1]) if found else None

    def _read_form(self, kind: str, data: Any, depth: int) -> Any:
        tag: Any
        tag, *payload = data if is_exactly(data, list) else [None]
        version = 1
        if is_exactly(tag, str) and "@" in tag:
            tag, version = split_tag(tag)
        form = self._form(self._class(tag))
        if form.kind != kind:
            problem = f"{class_name(form.cls)} was written as {kind}, but is read as {form.kind}"
            raise Misfit(problem, "register it as it was then, with or without hooks")
        if version > form.version:
            raise Newer(form.tag, version, form.version)
        return form.read(payload, depth) if version == form.version else form.upgrade(payload, depth, version)


class _NearlyCodec(Codec):
    def _new_writer(self, cls: type) -> Write:
        kind: Any = cls
        if not issubclass(kind, BaseException) or issubclass(kind, StoredError):
            return super()._new_writer(cls)

        def write(value: Any, depth: int) -> Any:
            try:
                return self._form(cls).write(value, depth)
            except (Refusal, RuntimeError):
                return self._form(StoredError).write(_stand_in(value), depth)

        return write


def _stand_in(error: Any) -> StoredError:
    cls = kind_of(error)
    inner: list[Any] = list(error.exceptions[:3]) if issubclass(cls, BaseExceptionGroup) else []
    text = "; ".join([_said(error), *(f"{kind_of(one).__name__}: {_said(one)}" for one in inner)])
    return StoredError(class_name(cls), text[:MAX_TEXT])


def _said(error: Any) -> str:
    try:
        return str(error)
    except Exception:  # noqa: BLE001 - it is the user's code
        return "its text can't be told"
