"""How a strategy of events is made: by going through the annotations of their fields, and of what those hold.

strategies.py tells what is drawn. For each type there is a `Plan`: a strategy, and what is known about it.

A class that holds itself is noticed on the way: it is met again while it is being made. When all such classes are
known, the strategy is made once more, with so many levels of them as the smallest event needs and `DEEPER` more. Below
the last level there is none of them, which leaves ``None`` of ``Node | None`` and ``[]`` of ``list[Node]``.
"""

import contextlib
import enum
import functools
import inspect
import math
import os
import random
import re
import sys
import types
import typing
from collections import Counter, OrderedDict, abc, defaultdict, deque
from collections.abc import Callable, Generator, Mapping, Sequence
from decimal import Decimal
from fractions import Fraction
from numbers import Complex, Integral, Number, Rational, Real
from typing import Annotated, Any, Literal, NoReturn, TypeVar, cast, get_args, get_origin

import attrs
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from flowkit import hints
from flowkit.errors import shown
from flowkit.resource import type_name
from flowkit.testing.parameters import (
    LEFT_OUT,
    MISSING,
    Made,
    Parameter,
    alias_value,
    bare,
    converter_input,
    has_parameters,
    is_event,
    items_of,
    parameters_of,
    repeats,
    subclasses_of,
)
from flowkit.testing.plain_values import PLAIN, Plan, anything, chosen, either, impossible, open_event
from flowkit.testing.refusals import Gate, Recipe, Spot, built, examine, refusal, sifted
from flowkit.testing.registered import Registered
from flowkit.testing.validators import NOTHING_ASKED, Checks, checks_of

__all__ = ["Maker"]

DEEPER = 4
"""How many levels of a class that holds itself are drawn at most, beyond those that it needs."""
LEAVES = 16
"""What is wanted on the last of these levels at most, on average. It takes levels off a class that holds itself in many
places, whose events would have thousands of parts."""
NESTED = 8
"""How often a class may be in itself with other arguments: ``Box[Box[int]]`` isn't endless, but a ``Box[T]`` that holds
a ``Box[list[T]]`` is."""


# --------------------------------------------------------------------------------------------------------- the making

_LISTS: tuple[Any, ...] = (
    *(abc.Sequence, abc.MutableSequence, abc.Iterable, abc.Collection, abc.Container, abc.Reversible, abc.Sized),
    *(list, deque),
)
_SETS: tuple[Any, ...] = (set, frozenset, abc.Set, abc.MutableSet)
_MAPPINGS: tuple[Any, ...] = (dict, abc.Mapping, abc.MutableMapping, OrderedDict, defaultdict, Counter)
_NUMBERS: dict[Any, tuple[Any, ...]] = {
    Integral: (int,),
    Rational: (int, Fraction),
    Real: (int, float, Fraction),
    Complex: (int, float, complex),
    Number: (int, float, Decimal, complex),
}
_FUNCTIONS: tuple[Any, ...] = (vars(abc)["Callable"], types.FunctionType)
_NO_DATA: frozenset[Any] = frozenset(
    {
        *(abc.Iterator, abc.Generator, abc.KeysView, abc.ItemsView, abc.ValuesView, enumerate, filter, map, reversed),
        *(zip, property, classmethod, staticmethod, super, re.Match, random.Random, type(os.environ)),
        *(typing.TextIO, typing.BinaryIO),
    }
)
"""What Hypothesis would draw, and nobody means to keep in an event."""
_ERRORS = (Exception, ValueError, RuntimeError, TimeoutError)
_HOOKS = ("__attrs_pre_init__", "__attrs_post_init__", "__post_init__")


class Maker:
    """Makes one strategy, of all that is in one or more types of event."""

    def __init__(self, around: Mapping[str, Any]) -> None:
        self.around = around
        self.registered = Registered()
        self.trail: tuple[Spot, ...] = ()
        self.endless: tuple[Spot, ...] = ()
        # Classes that hold themselves, and how many levels of them may still be entered. At first they are looked for.
        self.recursive: set[Any] = set()
        self.levels: int | None = None
        self.entered: tuple[Any, ...] = ()
        self.holds = 0.0
        self.gates: list[Gate] = []
        self.made: dict[Any, tuple[Plan, list[Gate]]] = {}

    def recipe(self, kinds: Sequence[Any], instead: Mapping[str, SearchStrategy[Any]]) -> Callable[[st.DrawFn], Any]:
        """How to draw one of these events."""

        def make() -> Plan:
            self.gates = []
            return either([self._class(kind, False, instead) for kind in kinds])

        plan = make()
        if self.recursive:
            # The smallest instance enters none twice, but for a class that holds another of itself: Box[list[T]].
            for levels in range(1, len(self.recursive) + NESTED):
                self.levels = levels
                if make().strategy is not None:
                    self.levels = levels + 1
                    make()  # tells how much a level holds of the next
                    grows = self.holds > 1 and math.log(LEAVES) / math.log(self.holds) < DEEPER
                    self.levels = levels + (max(1, int(math.log(LEAVES, self.holds))) if grows else DEEPER)
                    break
            plan = make()
        strategy = plan.strategy
        if strategy is None:
            holder = self.endless[-1]
            self.trail = self.endless
            self._refuse(f"each {type_name(holder.owner)} would hold another: let it be `| None`, or be in a list")
        examine(self.gates)
        return plan.recipe or (lambda draw: draw(strategy))

    def _refuse(self, reason: str, kind: Any = None, cause: Exception | None = None) -> NoReturn:
        raise refusal(self.trail, reason, kind) from cause

    # ---- types

    def _of(self, annotation: Any, checks: Checks = NOTHING_ASKED, hashed: bool = False) -> Plan:
        """The plan for a value of a type; ``hashed``, for one that can be a key."""
        origin, arguments = get_origin(annotation), get_args(annotation)
        if annotation is hints.UNRESOLVED:
            self._refuse("a name in its annotation isn't defined, where its class is or where events() was called")
        if origin is Annotated:
            given: list[Any] = [one for one in annotation.__metadata__ if isinstance(one, SearchStrategy)]
            return self._sifted(Plan(given[-1]), checks) if given else self._of(arguments[0], checks, hashed)
        if origin in (typing.Final, typing.Required, typing.NotRequired):
            return self._of(arguments[0], checks, hashed)
        if annotation is typing.Self:
            return self._of(self.trail[-1].owner, checks, hashed)
        if isinstance(annotation, TypeVar):
            return self._of(self._meant(annotation), checks, hashed)
        meaning = self._written(annotation) if isinstance(annotation, typing.ForwardRef) else alias_value(annotation)
        if meaning is not annotation:
            if self.registered.alias(annotation, meaning):
                return self._sifted(self._by_hypothesis(annotation), checks)
            if isinstance(annotation, typing.NewType) or checks:
                return self._of(meaning, checks, hashed)
            return self._enter((annotation, "alias", hashed), lambda: self._of(meaning, NOTHING_ASKED, hashed))
        if origin in (typing.Union, types.UnionType):
            return either([self._of(one, checks, hashed) for one in arguments])
        if annotation is None or annotation is types.NoneType:
            return chosen([None]) if checks.allow(None) else impossible("its validators refuse None")
        # Validators may allow None apart from what else they allow.
        apart = checks and (annotation is Any or annotation is object) and checks.allow(None)
        plans = [self._one(annotation, one, hashed) for one in checks.alternatives()]
        return either([chosen([None]), *plans] if apart else plans)

    def _written(self, reference: typing.ForwardRef) -> Any:
        """What is left of an alias that mentions itself: ``JSON = None | list["JSON"]``."""
        module = sys.modules.get(bare(self.trail[-1].owner).__module__)
        return hints.resolve(reference.__forward_arg__, vars(module) if module else {}, self.around)

    def _meant(self, annotation: Any) -> Any:
        """What a type variable for which nothing was put in may stand for; anything else itself."""
        if not isinstance(annotation, TypeVar):
            return annotation
        if annotation.__constraints__:
            return typing.Union[annotation.__constraints__]  # noqa: UP007 - of a tuple
        bound: Any = annotation.__bound__
        module = sys.modules.get(annotation.__module__)
        return Any if bound is None else hints.resolve(bound, vars(module) if module else {}, self.around)

    def _one(self, annotation: Any, checks: Checks, hashed: bool) -> Plan:
        """The plan for a type that is no union, nor another name of one."""
        kind: Any = bare(annotation)
        if (options := checks.options()) is not None:
            fits = [one for one in options if _fits(one, annotation) and checks.allow(one) and _can(one, hashed)]
            return chosen(fits, f"none of {shown(options)} fits")
        is_class = _is_class(kind)
        if (kinds := checks.kinds()) is not None:
            narrower = [one for one in kinds if one is not object and (not is_class or issubclass(one, kind))]
            if narrower and not (is_class and issubclass(kind, kinds)):
                return either([self._one(one, checks.copy(), hashed) for one in narrower])
        if is_class:
            checks.has(kind)
        return self._sifted(self._drawn(annotation, kind, checks, hashed), checks)

    def _sifted(self, plan: Plan, checks: Checks) -> Plan:
        if not checks or plan.strategy is None:
            return plan
        if plan.choices is not None:
            return chosen([one for one in plan.choices if checks.allow(one)], f"{checks} refuses every value")
        refused = functools.partial(refusal, self.trail, f"{checks} refuses whatever is drawn")
        self.gates.append(Gate(plan.strategy, checks.allow, refused))
        return attrs.evolve(plan, strategy=sifted(plan.strategy, checks.allow), recipe=None)

    def _drawn(self, annotation: Any, kind: Any, checks: Checks, hashed: bool) -> Plan:
        arguments: Any = get_args(annotation)
        if kind is Literal:
            return chosen(arguments)
        if kind is Any or kind is object or kind is abc.Hashable:
            found = checks.pattern()
            return anything(hashed or kind is abc.Hashable) if found is None else PLAIN[type(found[0].pattern)](checks)
        if kind is type:
            return self._classes(arguments)
        if kind in _NO_DATA:
            self._refuse("no values are known for it")
        if self.registered.instead(annotation):
            return self._by_hypothesis(annotation)
        if kind in PLAIN:
            return PLAIN[kind](checks) if kind is not bytearray or not hashed else _unhashable(kind)
        if kind in _NUMBERS:
            return either([self._one(one, checks.copy(), hashed) for one in _NUMBERS[kind]])
        if kind in _LISTS:
            return self._list(kind, arguments[0] if arguments else Any, checks, hashed)
        if kind is tuple:
            return self._tuple(annotation, arguments, checks, hashed)
        if kind in _SETS:
            return self._set(kind, arguments[0] if arguments else Any, checks, hashed)
        if kind in _MAPPINGS:
            return self._mapping(kind, arguments, checks, hashed)
        if kind in _FUNCTIONS:
            self._refuse("a function isn't data")
        if not isinstance(kind, type):
            self._refuse("no values are known for it")
        return self._instances(annotation, cast("type[Any]", kind), hashed)

    def _instances(self, annotation: Any, kind: type[Any], hashed: bool) -> Plan:
        if issubclass(kind, enum.Enum):
            members = list(kind)
            if not members:
                return impossible(f"{kind.__name__} has no members")
            return Plan(st.sampled_from(kind)) if issubclass(kind, enum.Flag) else chosen(members)
        if typing.is_typeddict(kind):
            if hashed:
                return _unhashable(dict)
            return self._enter((annotation, "items", hashed), lambda: self._typed_dict(annotation))
        if is_event(kind) or has_parameters(kind) or (inspect.isabstract(kind) and _is_own(kind)):
            return self._class(annotation, hashed)
        if issubclass(kind, BaseException):
            return self._error(kind)
        for plain in (str, int, float, bytes):
            if issubclass(kind, plain) and kind.__new__ is plain.__new__ and kind.__init__ is plain.__init__:
                return attrs.evolve(self._of(plain), strategy=_strategy(self._of(plain)).map(kind), choices=None)
        return self._refuse(f"nothing is known about {kind.__name__}", kind)

    def _by_hypothesis(self, annotation: Any) -> Plan:
        strategy: SearchStrategy[Any] = st.from_type(annotation)
        try:
            strategy.validate()
        except Exception as error:  # noqa: BLE001 - whatever is wrong with what was registered
            self._refuse(f"what Hypothesis has for it fails, {error}", bare(annotation), error)
        return Plan(strategy)

    def _error(self, kind: type[BaseException]) -> Plan:
        kinds = _ERRORS if kind in (Exception, BaseException) else (kind,)
        for arguments in ((st.text(),), ()):
            try:
                kind(*("" for _ in arguments))
            except Exception:  # noqa: BLE001 - it wants to be built otherwise
                continue
            return either([Plan(st.builds(one, *arguments)) for one in kinds])
        return self._refuse(f"{kind.__name__} isn't built from a text", kind)

    def _classes(self, arguments: Sequence[Any]) -> Plan:
        found: list[Any] = []
        for one in [member for argument in arguments for member in hints.members(self._meant(argument))]:
            one = self.trail[-1].owner if one is typing.Self else one
            if _is_class(bare(one)):
                found.append(bare(one))
                if _is_own(bare(one)):
                    found += map(bare, subclasses_of(bare(one)))
        return chosen(found or [int, str, list])

    # ---- collections

    def _list(self, kind: Any, member: Any, checks: Checks, hashed: bool) -> Plan:
        if hashed and kind in (list, deque):
            return _unhashable(kind)
        into: Any = tuple if hashed else deque if kind is deque else list
        plan = self._of(member, checks.members(), hashed)
        return _collected(plan, into, checks, _lists_as(into))

    def _set(self, kind: Any, member: Any, checks: Checks, hashed: bool) -> Plan:
        into: Any = frozenset if kind is frozenset or (kind is abc.Set and hashed) else set
        if hashed and into is set:
            return _unhashable(set)
        make = st.frozensets if into is frozenset else st.sets
        return _collected(self._of(member, checks.members(), True), into, checks, make, distinct=True)

    def _tuple(self, annotation: Any, arguments: Sequence[Any], checks: Checks, hashed: bool) -> Plan:
        asked = checks.members()
        if get_origin(annotation) is None:
            arguments = (Any, ...)
        if len(arguments) == 2 and arguments[1] is ...:
            plan = self._of(arguments[0], asked, hashed)
            return _collected(plan, tuple, checks, _lists_as(tuple))
        plans = [self._of(one, asked, hashed) for one in arguments]
        dead = [plan for plan in plans if plan.strategy is None]
        if dead:
            return min(dead, key=lambda plan: plan.recursive)
        return _whole(st.tuples(*map(_strategy, plans)) if plans else st.just(()), plans)

    def _mapping(self, kind: Any, arguments: Sequence[Any], checks: Checks, hashed: bool) -> Plan:
        if hashed:
            return _unhashable(dict)
        of_keys, of_values = checks.items()
        value = int if kind is Counter else arguments[1] if len(arguments) == 2 else Any
        keys = self._of(arguments[0] if arguments else Any, of_keys, True)
        values = self._of(value, of_values)
        dead = keys if keys.strategy is None else values
        plan = _whole(_strategy(keys), [keys, values]) if dead.strategy is not None else dead
        plan = attrs.evolve(plan, count=keys.count)
        into: Any = kind if kind in (OrderedDict, Counter, defaultdict) else dict
        convert: Any = into
        if into is defaultdict:  # an empty defaultdict[str, list[int]] makes lists
            makes = bare(value) if bare(value) in (int, float, str, list, dict, set) else None
            convert = functools.partial(cast(Any, into), makes)

        def make(one: SearchStrategy[Any], **sizes: Any) -> SearchStrategy[Any]:
            drawn = st.dictionaries(one, _strategy(values), **sizes)
            return drawn if into is dict else drawn.map(convert)

        return attrs.evolve(_collected(plan, into, checks, make, distinct=True), count=None)

    def _typed_dict(self, kind: Any) -> Plan:
        required: dict[str, SearchStrategy[Any]] = {}
        optional: dict[str, SearchStrategy[Any]] = {}
        plans: list[Plan] = []
        for parameter in items_of(kind, self.around):
            with self._at(kind, parameter):
                plan = self._of(parameter.annotation)
                if plan.strategy is not None:
                    plans.append(plan)
                    (required if parameter.default is MISSING else optional)[parameter.keyword] = plan.strategy
                elif parameter.default is MISSING:
                    return self._dead(plan)
        strategy = st.fixed_dictionaries(required, optional=optional)
        return attrs.evolve(_whole(strategy, plans), count=None)

    # ---- classes

    def _class(self, kind: Any, hashed: bool, instead: Mapping[str, SearchStrategy[Any]] | None = None) -> Plan:
        """The plan for a class and, if it is one of events or an abstract one, for its subclasses."""
        origin = bare(kind)
        if not instead and self.registered.instead(kind):
            return self._by_hypothesis(kind)
        is_abstract = inspect.isabstract(origin)
        kinds = [] if is_abstract else [kind]
        if is_abstract or (is_event(origin) and _is_own(origin)):
            kinds += [one for one in subclasses_of(kind) if not inspect.isabstract(bare(one))]
        if not kinds:
            self._refuse(f"{origin.__name__} is abstract and has no subclass", origin)

        def make(one: Any) -> Plan:
            if not is_event(bare(one)) and not has_parameters(bare(one)):
                return self._of(one, hashed=hashed)
            if not instead and self.registered.instead(one):
                return self._by_hypothesis(one)
            if instead:
                return self._instance(one, hashed, instead)
            return self._enter((one, "itself", hashed), lambda: self._instance(one, hashed, {}))

        if instead:
            return either([make(one) for one in kinds])
        return self._enter((kind, "class", hashed), lambda: either([make(one) for one in kinds]))

    def _enter(self, key: tuple[Any, str, bool], make: Callable[[], Plan]) -> Plan:
        """The plan for a class or a type alias, unless it is inside of itself, as deep as it may be."""
        origin = bare(key[0])
        try:
            hash(key)
        except TypeError:  # Literal and Annotated may hold anything
            key = (repr(key[0]), *key[1:])
        for levels in (None, self.levels):
            if (known := self.made.get((key, levels))) is not None and (
                levels == self.levels or not known[0].recursive
            ):
                self.gates += known[1]
                return known[0]
        before, levels = self.entered, self.levels
        if levels is None and (key, origin) in before:
            self.recursive.add(key)
        if levels is None and [other for _, other in before].count(origin) >= NESTED:
            self.recursive.add(origin)
        is_recursive = key in self.recursive or origin in self.recursive
        if is_recursive and not levels:
            return Plan(None, recursive=True)
        outer, self.gates = self.gates, []
        self.entered = (*before, (key, origin))
        self.levels = levels - 1 if is_recursive and levels else levels
        try:
            plan = make()
        finally:
            self.entered, self.levels = before, levels
        if key in self.recursive or origin in self.recursive:
            self.holds = max(self.holds, plan.holds)
            plan = attrs.evolve(plan, recursive=True, holds=1.0)
        self.made[key, levels] = plan, self.gates
        self.gates = outer + self.gates
        return plan

    def _instance(self, kind: Any, hashed: bool, instead: Mapping[str, SearchStrategy[Any]]) -> Plan:
        origin = bare(kind)
        if is_event(origin) and origin.__flowkit_open__:
            return open_event(origin, instead, hashed)
        if hashed and origin.__hash__ is None:
            return _unhashable(origin)
        parts: dict[str, SearchStrategy[Any]] = {}
        plans: list[Plan] = []
        tries = "__attrs_init__" in vars(origin) or any(hasattr(origin, hook) for hook in _HOOKS)
        suspects: list[Spot] = []
        parameters = parameters_of(kind, self.around)
        for parameter in parameters:
            with self._at(kind, parameter):
                given = instead.get(parameter.keyword, instead.get(parameter.name))
                plan = Plan(given) if given is not None else self._field(parameter, hashed and parameter.hashed)
                if plan.strategy is None:
                    if not _allows_default(parameter):
                        return self._dead(plan)
                    continue  # its default is all that there is
                plans.append(plan)
                parts[parameter.keyword] = plan.strategy
                if (field := parameter.field) is not None:
                    asked = field.validator is not None and (given is not None or checks_of(field).foreign)
                    if asked or field.converter is not None:
                        suspects.append(self.trail[-1])
        build: Any = origin
        if any(parameter.default is LEFT_OUT for parameter in parameters):
            build = _leaving_out(origin)
        recipe = Recipe(build, parts, tries or bool(suspects))
        if recipe.may_fail:
            trail = (*self.trail, *suspects) if len(suspects) == 1 and not tries else self.trail
            self.gates.append(recipe.gate(trail, origin, parameters[0].name if parameters else ""))
        return attrs.evolve(_whole(built(recipe), plans), recipe=recipe)

    @contextlib.contextmanager
    def _at(self, owner: Any, parameter: Parameter) -> Generator[None]:
        before = self.trail
        self.trail = (*before, Spot(owner, parameter))
        try:
            yield
        finally:
            self.trail = before

    def _dead(self, plan: Plan) -> Plan:
        """There is no value for a part that has to be there: it is refused, unless there will be one a level higher."""
        if not plan.recursive:
            self._refuse(plan.why)
        self.endless = self.trail
        return Plan(None, recursive=True)

    def _field(self, parameter: Parameter, hashed: bool) -> Plan:
        field = parameter.field
        converter: Any = field.converter if field is not None else None
        takes = converter_input(converter, self.around) if converter is not None else hints.UNRESOLVED
        if takes is not hints.UNRESOLVED:
            plan = self._of(takes)
        else:
            plan = self._of(parameter.annotation, checks_of(field), hashed)
        default = parameter.default
        if plan.strategy is None or not _allows_default(parameter) or (default is None and plan.none_first):
            return plan
        if isinstance(default, Made):
            if not repeats(default.factory):
                return plan
            return _first(st.builds(default.factory), plan)
        if default is LEFT_OUT:
            return _first(st.just(LEFT_OUT), plan)
        if plan.choices is not None:
            return chosen([default, *plan.choices])
        return _first(st.just(default), plan)


# -------------------------------------------------------------------------------------------------------- small parts


def _strategy(plan: Plan) -> SearchStrategy[Any]:
    return plan.strategy if plan.strategy is not None else st.nothing()


def _first(default: SearchStrategy[Any], plan: Plan) -> Plan:
    """A default, or what the plan gives."""
    return attrs.evolve(
        plan,
        strategy=default | _strategy(plan),
        count=plan.count and plan.count + 1,
        choices=None,
        none_first=False,
        holds=plan.holds / 2,
        recipe=None,
    )


def _whole(strategy: SearchStrategy[Any], parts: Sequence[Plan]) -> Plan:
    """The plan for what has these parts."""
    count: int | None = 1
    for part in parts:
        count = None if count is None or part.count is None else count * part.count
    return Plan(strategy, count, recursive=any(one.recursive for one in parts), holds=sum(one.holds for one in parts))


def _unhashable(kind: Any) -> Plan:
    return impossible(f"a {kind.__name__} can't be hashed, as a member of a set or a key has to be")


def _can(value: Any, hashed: bool) -> bool:
    return not hashed or hints.kind_of(value).__hash__ is not None


def _lists_as(into: Any) -> Callable[..., SearchStrategy[Any]]:
    def make(member: SearchStrategy[Any], *, min_size: int, max_size: int | None) -> SearchStrategy[Any]:
        lists = st.lists(member, min_size=min_size, max_size=max_size)
        return lists if into is list else lists.map(into)

    return make


def _collected(
    member: Plan, into: Any, checks: Checks, make: Callable[..., SearchStrategy[Any]], *, distinct: bool = False
) -> Plan:
    """The plan for a collection of these; ``make`` takes their strategy, ``min_size`` and ``max_size``."""
    checks.has(into)
    low, high = checks.sizes()
    if high is not None and low > high:
        return impossible(f"nothing has a length of at least {low} and at most {high}")
    if distinct and member.count is not None and low > member.count:
        return impossible(f"there are no {low} members that differ")
    if member.strategy is None:
        if low > 0 or not member.recursive:
            return member
        return Plan(make(st.nothing(), min_size=0, max_size=0), 1, recursive=True)
    if not member.recursive:
        count = 2**member.count if distinct and member.count is not None and member.count < 16 else None
        return Plan(make(member.strategy, min_size=low, max_size=high), count)
    # Of what holds more of itself one on average: Hypothesis' half a dozen would have no end.
    few, some = (max(low, most) if high is None else min(max(low, most), high) for most in (1, 3))
    strategy = make(member.strategy, min_size=low, max_size=few) | make(member.strategy, min_size=low, max_size=some)
    return Plan(strategy, recursive=True, holds=member.holds * (2 * low + few + some) / 4)


def _is_own(kind: Any) -> bool:
    """Whether a class is somebody's, whose subclasses are then known: Python's and open events have any number."""
    is_open = is_event(kind) and kind.__flowkit_open__
    return not is_open and kind.__module__.partition(".")[0] not in sys.stdlib_module_names


def _is_class(kind: object) -> bool:
    """Whether this is a class that says something about its instances."""
    return isinstance(kind, type) and kind is not Any and kind is not object


def _allows_default(parameter: Parameter) -> bool:
    """Whether a parameter can be left out, as far as can be told without the other fields."""
    default, field = parameter.default, parameter.field
    if isinstance(default, Made) or default is LEFT_OUT or field is None or field.converter is not None:
        return default is not MISSING
    return default is not MISSING and checks_of(field).allow(default)


def _leaving_out(kind: Any) -> Callable[..., Any]:
    def build(**given: Any) -> Any:
        return kind(**{name: value for name, value in given.items() if value is not LEFT_OUT})

    build.__name__ = kind.__name__
    return build


def _fits(value: Any, annotation: Any) -> bool:
    """Whether a value may be of this type, as far as can be told by its class."""
    if get_origin(annotation) is Literal:
        return value in get_args(annotation)
    kind = bare(annotation)
    if kind is Any or not isinstance(kind, type) or typing.is_typeddict(kind):
        return True
    if isinstance(value, bool):
        return kind in (bool, object)
    return isinstance(value, kind) or (kind is float and isinstance(value, int))
