"""What a field's validators ask of its value, taken apart, so that a strategy can aim for it.

attrs' own validators are attrs classes: ``attrs.fields`` tells what each was made of, under the names its parameters
have (``bound``, ``options``, ``member_validator``), and ``type(attrs.validators.ge(0))`` is its class. A strategy asks
for what it can keep to (`Checks.between`, `Checks.sizes`, …), which takes that out of `Checks.left`; what is still left
then, such as an author's own validator, is called with each value that is drawn.

Such a call has no event to show, for the other fields aren't drawn yet. It gets a stand-in; a validator that looks at
that is one about several fields, and is left to the event's own construction.
"""

import contextlib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, cast

import attrs
from attrs import validators

from flowkit.errors import shown
from flowkit.hints import kind_of, members

__all__ = ["NOTHING_ASKED", "Between", "Checks", "Validator", "checks_of"]

# Any is the value's type, which is what a validator is there to find out.
Validator = Callable[[Any, Any, Any], Any]


def _made_by(name: str, *args: Any) -> type[Any]:
    """The class of the validators that this function of attrs makes; where there is no such function, of none."""
    make: Any = getattr(validators, name, None)
    return kind_of(make(*args)) if make is not None else _Peeked


class _Peeked(BaseException):
    """A validator has looked at the event. Not an `Exception`: `attrs.validators.or_` goes on after those."""


class _NoEventYet:
    __slots__ = ()

    def __getattr__(self, name: str) -> Any:
        raise _Peeked

    def __getitem__(self, name: Any) -> Any:
        raise _Peeked


_NO_EVENT_YET = _NoEventYet()
_AND, _OR, _NOT = _made_by("and_"), _made_by("or_"), _made_by("not_", validators.ge(0))
_OPTIONAL, _IN, _INSTANCE = _made_by("optional", validators.ge(0)), _made_by("in_", ()), _made_by("instance_of", int)
_NUMBER, _MATCHES, _CALLABLE = _made_by("ge", 0), _made_by("matches_re", ""), _made_by("is_callable")
_MIN_LEN, _MAX_LEN = _made_by("min_len", 0), _made_by("max_len", 0)
_ITERABLE, _MAPPING = (
    _made_by("deep_iterable", validators.ge(0)),
    _made_by("deep_mapping", validators.ge(0), validators.ge(0)),
)
_COMPOUND = (_AND, _OR, _NOT, _OPTIONAL, _ITERABLE, _MAPPING)
_SIMPLE = (_IN, _INSTANCE, _NUMBER, _MATCHES, _CALLABLE, _MIN_LEN, _MAX_LEN)


def _made_of(validator: Any) -> dict[str, Any]:
    """The arguments that one of attrs' validators was made of."""
    return {field.alias or field.name: getattr(validator, field.name) for field in attrs.fields(kind_of(validator))}


@attrs.frozen
class Between:
    """A range of values; a bound that is `None` isn't there, and an open one doesn't belong to it."""

    low: Any = None
    high: Any = None
    low_open: bool = False
    high_open: bool = False

    def tightened(self, operator: str, bound: Any) -> "Between":
        """The part of this range where ``value operator bound``."""
        is_open = operator in ("<", ">")
        if operator in (">", ">="):
            if self.low is None or bound > self.low or (bound == self.low and is_open):
                return attrs.evolve(self, low=bound, low_open=is_open)
        elif self.high is None or bound < self.high or (bound == self.high and is_open):
            return attrs.evolve(self, high=bound, high_open=is_open)
        return self

    @property
    def is_empty(self) -> bool:
        if self.low is None or self.high is None:
            return False
        return bool(self.low > self.high or (self.low == self.high and (self.low_open or self.high_open)))


class Checks:
    """The validators of one value, less those that a strategy has promised to keep to."""

    def __init__(self, asked: Iterable[Validator], field: Any) -> None:
        self.field = field
        self.left: list[Validator] = []
        for validator in asked:
            if isinstance(validator, _AND):
                self.left += Checks(_made_of(validator)["validators"], field).left
            else:
                self.left.append(validator)

    def __bool__(self) -> bool:
        return bool(self.left)

    def __str__(self) -> str:
        names = [getattr(one, "__name__", None) or shown(one) for one in self.left]
        return f"its {'validator' if len(names) == 1 else 'validators'} {' and '.join(names)}"

    def copy(self) -> "Checks":
        return Checks(self.left, self.field)

    def allow(self, value: Any) -> bool:
        """Whether what is left allows this value, as far as can be told without the other fields."""
        for validator in self.left:
            try:
                validator(_NO_EVENT_YET, self.field, value)
            except _Peeked:
                pass
            except Exception:  # noqa: BLE001 - however a validator refuses
                return False
        return True

    @property
    def foreign(self) -> bool:
        """Whether there are any that attrs doesn't ship, which may ask for more than one field."""
        return any(map(_is_foreign, self.left))

    def alternatives(self) -> list["Checks"]:
        """What may be asked of a value that isn't `None`: without ``optional``, and one for each branch of ``or_``."""
        for number, validator in enumerate(self.left):
            if isinstance(validator, _OPTIONAL):
                branches = [_made_of(validator)["validator"]]
            elif isinstance(validator, _OR):
                branches = _made_of(validator)["validators"]
            else:
                continue
            rest = self.left[:number] + self.left[number + 1 :]
            return [one for branch in branches for one in Checks([branch, *rest], self.field).alternatives()]
        return [Checks(self.left, self.field)]

    def _take(self, *kinds: type[Any]) -> Iterator[dict[str, Any]]:
        for validator in [one for one in self.left if isinstance(one, kinds)]:
            self.left.remove(validator)
            yield _made_of(validator)

    def between(self, *kinds: type[Any], keeps_open: bool = True) -> Between:
        """The range asked for, of the bounds that are of one of these types.

        Without ``keeps_open`` a strategy can't keep to open bounds: they stay in `left` as well.
        """
        found = Between()
        for validator in [one for one in self.left if isinstance(one, _NUMBER)]:
            made_of = _made_of(validator)
            bound, operator = made_of["bound"], made_of["compare_op"]
            if isinstance(bound, bool) or not isinstance(bound, kinds) or bound != bound:
                continue
            found = found.tightened(operator, bound)
            if keeps_open or operator in ("<=", ">="):
                self.left.remove(validator)
        return found

    def sizes(self) -> tuple[int, int | None]:
        """The least and the greatest length asked for."""
        low = max([0, *(made_of["min_length"] for made_of in self._take(_MIN_LEN))])
        return low, min((made_of["max_length"] for made_of in self._take(_MAX_LEN)), default=None)

    def pattern(self) -> tuple["re.Pattern[Any]", bool] | None:
        """A pattern to match, and whether all of the text is to; it stays in `left`."""
        for validator in self.left:
            if isinstance(validator, _MATCHES):
                made_of = _made_of(validator)
                return made_of["pattern"], made_of["match_func"].__name__ == "fullmatch"
        return None

    def options(self) -> list[Any] | None:
        """The values to choose from, where there are such; they still have to be allowed by what is left."""
        for validator in self.left:
            if isinstance(validator, _IN):
                # Where attrs has made a tuple of a set, that is in the order of this process' hashes.
                made_of = _made_of(validator)
                given: Any = made_of.get("original_options", made_of["options"])
                with contextlib.suppress(TypeError):  # nothing to iterate over: what has only a __contains__
                    return sorted(given, key=repr) if kind_of(given) in (set, frozenset) else list(given)
        return None

    def kinds(self) -> tuple[Any, ...] | None:
        """The classes of which a value has to be; they stay in `left`."""
        for validator in self.left:
            if isinstance(validator, _INSTANCE):
                kind: Any = _made_of(validator)["type"]
                kinds: Any = cast(Any, kind) if isinstance(kind, tuple) else (kind,)
                return tuple(member for one in kinds for member in members(one))
        return None

    def has(self, kind: type[Any]) -> None:
        """Take out ``instance_of`` what every ``kind`` is anyway."""
        self.left = [
            one for one in self.left if not (isinstance(one, _INSTANCE) and issubclass(kind, _made_of(one)["type"]))
        ]

    def members(self) -> "Checks":
        """What is asked of each member; what is asked of the whole moves up to `left`."""
        asked = list(self._take(_ITERABLE))
        self._ask([made_of["iterable_validator"] for made_of in asked])
        return Checks([made_of["member_validator"] for made_of in asked], self.field)

    def items(self) -> tuple["Checks", "Checks"]:
        """What is asked of each key and each value of a mapping; what is asked of the whole moves up to `left`."""
        keys, asked = self.members(), list(self._take(_MAPPING))
        self._ask([made_of["mapping_validator"] for made_of in asked])
        of_keys = [*keys.left, *(one for made_of in asked if (one := made_of["key_validator"]) is not None)]
        of_values = [one for made_of in asked if (one := made_of["value_validator"]) is not None]
        return Checks(of_keys, self.field), Checks(of_values, self.field)

    def _ask(self, more: Sequence[Validator | None]) -> None:
        self.left += Checks([one for one in more if one is not None], self.field).left


def _is_foreign(validator: Any) -> bool:
    if isinstance(validator, _SIMPLE):
        return False
    if not isinstance(validator, _COMPOUND):
        return True
    parts = [*_made_of(validator).values()]
    inner: list[Any] = []
    for part in parts:
        inner += cast(Any, part) if isinstance(part, tuple) else [part]
    return any(_is_foreign(one) for one in inner if callable(one) and not isinstance(one, type))


NOTHING_ASKED = Checks((), None)
"""Of a value that has no validators."""


def checks_of(field: Any) -> Checks:
    """The checks of one of attrs' fields, or of what is none."""
    return NOTHING_ASKED if field is None or field.validator is None else Checks([field.validator], field)
