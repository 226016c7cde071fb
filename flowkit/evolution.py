"""`stored_as`: how a class is stored, and how what was stored of an earlier version is brought up to date.

A class is written under its tag, ``module:qualname`` by default, and from version 2 on with its version,
``"shop.paid@2"``. Data of an earlier version is read as a dict of its fields, handed from one upgrade to the next, and
then checked as strictly as data of today's version.
"""

from collections.abc import Callable, Iterable, Mapping
from enum import Enum
from typing import Any, TypeVar, cast

import attrs

from flowkit.errors import SerializationError, shown
from flowkit.hints import kind_of
from flowkit.leaves import SURROGATE, Misfit, brief, is_exactly

__all__ = ["Stored", "check_tag", "default_tag", "note_of", "split_tag", "stored_as"]

T = TypeVar("T", bound=type)
Upgrade = Callable[[dict[str, Any]], dict[str, Any]]
MARK = "__flowkit_stored__"
AT = "@"
MAX_DIGITS = 9
"""Of a version. No class has more."""


@attrs.frozen
class Stored:
    """What ``@stored_as(…)`` was told."""

    tag: str | None = None
    version: int = 1
    aliases: tuple[str, ...] = ()
    upgrades: Mapping[int, Upgrade] = attrs.field(factory=dict[int, Upgrade])

    def upgraded(self, name: str, version: int, fields: dict[str, Any]) -> dict[str, Any]:
        """The fields that were written of an earlier ``version``, as today's version has them. ``name`` is for errors.

        Raises:
            Misfit: an upgrade is missing, fails, or gives no dict of fields.
        """
        while version < self.version:
            upgrade = self.upgrades.get(version)
            if upgrade is None:
                raise Misfit(
                    f"it is version {version} of {name}, and the class here is version {self.version}",
                    f"give stored_as(upgrades={{{version}: …}}), a function that takes the dict of version {version}'s "
                    f"fields and gives version {version + 1}'s",
                )
            where = f"the upgrade of {name} from version {version}"
            try:
                fields = upgrade(fields)
            except Exception as error:
                raise Misfit(f"{where} failed with {brief(error)}", "mend it, and read again") from error
            if not is_exactly(fields, dict) or not all(is_exactly(field, str) for field in fields):
                raise Misfit(f"{where} gave {shown(fields)}", f"return a dict of version {version + 1}'s fields")
            version += 1
        return fields


NOTHING = Stored()


def note_of(cls: type) -> Stored:
    """What was noted on this very class; bases don't count."""
    found = vars(cls).get(MARK)
    return found if isinstance(found, Stored) else NOTHING


def default_tag(cls: type) -> str:
    """The tag of a class that was given none."""
    return f"{cls.__module__}:{cls.__qualname__}"


def split_tag(written: str) -> tuple[str, int]:
    """Tag and version.

    Raises:
        ValueError: what follows the ``@`` is no version that would be written.
    """
    tag, _, number = written.rpartition(AT)
    if not (number.isascii() and number.isdigit() and len(number) <= MAX_DIGITS and number[0] != "0" and number != "1"):
        raise ValueError("a version is expected after the @")
    return tag, int(number)


def stored_as(
    tag: str | None = None,
    *,
    version: int = 1,
    aliases: Iterable[str] = (),
    upgrades: Mapping[int, Upgrade] | None = None,
) -> Callable[[T], T]:
    """Say how a class is stored: an event, a state, any class whose values are in one.

    It is noted on this class alone, not on what is derived from it.

    Args:
        tag: what stands for the class in the data, ``module:qualname`` by default. With one of its own a class can be
            moved and renamed freely.
        version: of its fields. Raise it when they change.
        aliases: tags that it had: they are read, never written.
        upgrades: for each earlier version n that may still be stored, a function from the dict of version n's fields to
            that of version n + 1.

    Raises:
        SerializationError: an option makes no sense, or the class can't be marked.
    """
    if isinstance(tag, type):
        name = tag.__name__
        raise _bad(tag, "it was given the class", f"call it, @stored_as() or @stored_as({name.lower()!r})")

    def note(cls: T) -> T:
        if not issubclass(kind_of(cls), type):
            raise _bad(cls, "it isn't a class", "write @stored_as(…) above a class")
        if tag is not None:
            check_tag(tag, _place(cls))
        if not _is_version(version):
            raise _bad(cls, f"it has version={shown(version)}", "give a whole number, 1 or more")
        if version > 1 and issubclass(cls, Enum):
            raise _bad(
                cls, f"it has version={version}, and an enum has no fields", "keep the members that were written"
            )
        stored = Stored(tag, version, _checked_aliases(cls, aliases), _checked_upgrades(cls, upgrades, version))
        try:
            setattr(cls, MARK, stored)
        except TypeError as error:
            raise _bad(cls, "it can't be marked", "put it into a class of your own") from error
        return cls

    return note


def check_tag(tag: Any, place: str) -> None:
    """Refuse what can't be a tag.

    Raises:
        SerializationError: it can't.
    """
    if not isinstance(tag, str) or not tag or SURROGATE.search(tag):
        raise SerializationError(f"{shown(tag)} can't be a tag", path=place, cure="give a string")
    if AT in tag:
        raise SerializationError(
            f"{shown(tag)} can't be a tag, as the version is written after an @", path=place, cure="leave the @ out"
        )


def _is_version(version: Any) -> bool:
    return type(version) is int and 1 <= version < 10**MAX_DIGITS


def _checked_aliases(cls: type, aliases: Any) -> tuple[str, ...]:
    several = isinstance(aliases, Iterable) and not isinstance(aliases, str)
    names: list[Any] = list(cast("Iterable[Any]", aliases)) if several else [aliases]
    if not several:
        raise _bad(cls, f"it has aliases={shown(aliases)}", f"give a list of tags, aliases={shown(names)}")
    for name in names:
        check_tag(name, _place(cls))
    return tuple(names)


def _checked_upgrades(cls: type, upgrades: Any, version: int) -> dict[int, Upgrade]:
    if upgrades is None:
        return {}
    if not isinstance(upgrades, Mapping):
        raise _bad(cls, f"it has upgrades={shown(upgrades)}", "give a dict, upgrades={1: from_1_to_2}")
    found: dict[Any, Any] = {**upgrades}
    for number, upgrade in found.items():
        if not _is_version(number) or number >= version:
            raise _bad(
                cls,
                f"it has an upgrade from version {shown(number)}, and is version {version}",
                f"give version={number + 1}"
                if _is_version(number)
                else "number the upgrades by what they upgrade, from 1",
            )
        if not callable(upgrade):
            raise _bad(cls, f"it has upgrades={{{number}: {shown(upgrade)}}}", "give a function of a dict of fields")
    return found


def _place(cls: Any) -> str:
    return f"stored_as({getattr(cls, '__qualname__', shown(cls))})"


def _bad(cls: Any, problem: str, cure: str) -> SerializationError:
    return SerializationError(problem, path=_place(cls), cure=cure)
