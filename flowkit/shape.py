"""A plan's shape: what replaying a run needs of the wiring, as plain data.

It is written into a run's first record and into each books record, with a fingerprint of it. Where that isn't the
current plan's, the run's facts are replayed under the plan that `plan_from` makes of the stored shape, so that its
history means what it meant; then `fit` moves what is left of it (an unfinished run's books) over to the current plan.

A shape is a list::

    ["Flow", "shop:State", types, steps]

``types`` has a list for each class of the wiring: its tag, then the indexes of those of its bases that are in
``types`` too (that decides which step takes it). A class that is gone stands in the way only where the run needs it.
``steps`` has a list for each step: its name, the indexes of what it accepts, returns, and returns in lists, and a dict
of what isn't as usual (`_options`).
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from hashlib import blake2b
from typing import Any, cast

from flowkit.events import Event, HumanResponseEvent, InputRequiredEvent, StartEvent, StopEvent
from flowkit.joins import ROOT
from flowkit.leaves import TO_JSON, is_exactly
from flowkit.plan import Plan
from flowkit.serialization import Codec
from flowkit.steps import StepOptions, StepSpec
from flowkit.storage_errors import CodeChanged, TypeChanged

__all__ = ["fingerprint", "fit", "plan_from", "shape_of"]

_MARKS: tuple[type[Event], ...] = (StartEvent, StopEvent, InputRequiredEvent, HumanResponseEvent)


def shape_of(plan: Plan, codec: Codec) -> list[Any]:
    """The shape of a plan.

    Raises:
        SerializationError: a class of its wiring can't be registered.
    """
    types = list(dict.fromkeys(_mentioned(plan)))
    types += [mark for mark in _MARKS if mark not in types and any(issubclass(kind, mark) for kind in types)]
    index = {kind: number for number, kind in enumerate(types)}
    return [
        plan.name,
        None if plan.state_type is None else codec.tag_of(plan.state_type),
        [[codec.tag_of(kind), *_bases(kind, index)] for kind in types],
        [
            [
                spec.name,
                [index[kind] for kind in spec.accepts],
                sorted(index[kind] for kind in spec.returns),
                sorted(index[kind] for kind in spec.returns_lists),
                _options(spec),
            ]
            for spec in plan.steps
        ],
    ]


def fingerprint(shape: list[Any]) -> str:
    """16 hexadecimal digits that no other shape has."""
    return blake2b(TO_JSON.encode(shape).encode(), digest_size=8).hexdigest()


def _mentioned(plan: Plan) -> Iterator[type[Event]]:
    for spec in plan.steps:
        yield from spec.accepts
        yield from sorted((*spec.returns, *spec.returns_lists), key=lambda one: f"{one.__module__}:{one.__qualname__}")


def _bases(kind: type, index: Mapping[type, int]) -> list[int]:
    return [index[base] for base in kind.__mro__[1:] if base in index]


def _options(spec: StepSpec) -> dict[str, Any]:
    """What isn't as usual with a step: ``none`` (it may return nothing), ``list`` and ``take`` (it gathers),
    ``workers``, ``catches`` and ``for`` (the steps it covers)."""
    options = spec.options
    every: list[tuple[str, Any, Any]] = [
        ("none", spec.returns_none, False),
        ("list", spec.takes_list, False),
        ("take", spec.take, None),
        ("workers", options.num_workers, StepOptions().num_workers),
        ("catches", options.catches, False),
        ("for", None if options.for_steps is None else list(options.for_steps), None),
    ]
    return {name: value for name, value, usual in every if value != usual}


# ------------------------------------------------------------------------------------------------- a shape to a plan


def plan_from(shape: Any, codec: Codec) -> Plan:
    """A plan of this shape: good enough to replay facts, with no functions to call.

    Raises:
        ValueError: it is no shape.
        TypeChanged: the bases of a class have changed, so that its events would go elsewhere.
    """
    name, state_tag, listed, steps = _list(shape, 4)
    types: list[type[Any]] = []
    known: list[bool] = []
    for entry in _list(listed):
        tag = _text(next(iter(_list(entry)), None))
        try:
            found = codec.class_of(tag)
        except TypeChanged:
            types.append(type(tag, (), {}))  # nothing is ever of this type
            known.append(False)
        else:
            types.append(found)
            known.append(True)
    for kind, is_known, (tag, *bases) in zip(types, known, listed, strict=True):
        index = {other: number for number, other in enumerate(types)}
        if is_known and _bases(kind, index) != [index[types[number]] for number in map(_index(types), bases)]:
            raise TypeChanged(
                f"the bases of {tag} aren't those that it had, so its events may go to other steps",
                cure="give it the bases that it had until the runs that know it have ended",
            )
    state_type = None if state_tag is None else codec.class_of(state_tag)
    specs = [_spec(step, types, state_type) for step in _list(steps)]
    if len({spec.name for spec in specs}) != len(specs):
        raise ValueError("two steps have one name")
    return Plan.of(_text(name), specs)


def _spec(step: Any, types: list[type[Any]], state_type: type[Any] | None) -> StepSpec:
    name, accepts, returns, lists, options = _list(step, 5)
    numbers = _index(types)
    if not is_exactly(options, dict) or not options.keys() <= {"none", "list", "take", "workers", "catches", "for"}:
        raise ValueError("the options of a step are expected")
    take, workers = options.get("take"), options.get("workers", StepOptions().num_workers)
    for count in (workers, *([] if take is None else [take])):
        if type(count) is not int or count < 1:
            raise ValueError("a whole number, 1 or more, is expected")
    covered = options.get("for")
    return StepSpec(
        name=_text(name),
        function=_gone,
        is_method=False,
        is_async=True,
        where="",
        event_parameter="ev",
        accepts=tuple(types[numbers(one)] for one in _list(accepts)),
        takes_list=bool(options.get("list")),
        take=take,
        context_parameter=None,
        state_type=state_type,
        resources={},
        children={},
        order=("event",),
        by_keyword=False,
        returns=frozenset(types[numbers(one)] for one in _list(returns)),
        returns_lists=frozenset(types[numbers(one)] for one in _list(lists)),
        returns_none=bool(options.get("none")),
        returns_text="what it allowed then",
        options=StepOptions(
            num_workers=workers,
            catches=bool(options.get("catches")),
            for_steps=None if covered is None else tuple(map(_text, _list(covered))),
        ),
    )


async def _gone(ev: Event) -> None:
    raise AssertionError("a plan that was stored has no functions")


def _list(data: Any, length: int | None = None) -> list[Any]:
    if not is_exactly(data, list) or (length is not None and len(data) != length):
        raise ValueError("a list is expected" if length is None else f"a list of {length} is expected")
    return cast("list[Any]", data)


def _text(data: Any) -> str:
    if not is_exactly(data, str):
        raise ValueError("a string is expected")
    return cast(str, data)


def _index(types: list[type[Any]]) -> Callable[[Any], int]:
    def checked(number: Any) -> int:
        if type(number) is not int or not 0 <= number < len(types):
            raise ValueError("the number of a class is expected")
        return number

    return checked


# ------------------------------------------------------------------------------------------- books to another plan


def fit(tree: dict[str, Any], old: Plan, plan: Plan, run_id: str) -> dict[str, Any]:
    """Frozen books (snapshot.py) of a run under ``old``, changed so that they can be thawed under ``plan``.

    A step is found by its name, else by the name it had. Never a guess: what has no place any more is refused.

    Raises:
        CodeChanged: something is pending for a step that is gone, or that doesn't take it any more.
    """
    return _Fitting(old, plan, run_id).fit(tree)


class _Fitting:
    def __init__(self, old: Plan, plan: Plan, run_id: str) -> None:
        self.plan, self.run_id = plan, run_id
        had = {alias: spec.name for spec in plan.steps for alias in spec.options.aliases}
        self.names = {spec.name: spec.name if spec.name in plan.index else had.get(spec.name) for spec in old.steps}

    def fit(self, tree: dict[str, Any]) -> dict[str, Any]:
        for entry in tree["invocations"]:
            entry["step"] = self._worker(entry["step"], entry["event"])
            if entry["sent"] is not None:
                entry["sent"] = [[event, self._renamed(target)] for event, target in entry["sent"]]
            if not self.plan.has_joins:
                entry["scope"] = entry["place"] = ROOT
        for one in tree["held"]:
            if one[3] is not None:
                one[3] = self._taker(one[3], one[1])
            if not self.plan.has_joins:
                one[4] = one[5] = ROOT
        tree["lanes"] = self._lanes(tree["lanes"])
        tree["buffers"] = [
            [self._step(step, _collected(events)), name, expected, events]
            for step, name, expected, events in tree["buffers"]
            if events or self.names.get(step) is not None
        ]
        if tree["joins"] is not None:
            last, scopes = tree["joins"]
            tree["joins"] = [last, [self._scope(*scope) for scope in scopes]]
        return tree

    def _lanes(self, lanes: dict[str, list[list[int]]]) -> dict[str, list[list[int]]]:
        found: dict[str, list[list[int]]] = {}
        for step, (queue, resuming) in lanes.items():
            name = self.names.get(step)
            if name in found:  # steps that became one: their queues go on in the order of their events
                found[name] = [sorted(found[name][0] + queue), sorted(found[name][1] + resuming)]
            elif name is not None:
                found[name] = [queue, resuming]
        return found

    def _scope(
        self,
        number: int,
        parent: int,
        place: int,
        producer: str,
        reach: list[str],
        size: int,
        arrivals: list[list[Any]],
        fired: list[str],
    ) -> list[Any]:
        reached = [
            self.names.get(step) if step in fired else self._gatherer(step, "the end of a fan-out") for step in reach
        ]
        gathered = [
            [self._gatherer(step, _said([event for _, event in arrived]), arrived), arrived]
            for step, arrived in arrivals
        ]
        was = [name for step in fired if (name := self.names.get(step)) is not None]
        names = [*(name for name, _ in gathered), *was]
        if len(set(names)) != len(names):
            problem = f"in a fan-out of {producer!r}, several steps have gathered that are one step now"
            raise CodeChanged(self.run_id, self.plan.name, problem, "keep them until such runs have ended")
        still = [name for name in dict.fromkeys(reached) if name is not None]
        return [number, parent, place, self._renamed(producer), still, size, gathered, sorted(was)]

    def _renamed(self, name: str | None) -> str | None:
        return None if name is None else self.names.get(name) or name

    def _step(self, step: str, what: str) -> str:
        name = self.names.get(step)
        if name is None:
            problem = f"it has {what} for step {step!r}, which there isn't any more"
            cure = (
                f'write @step(aliases=("{step}",)) above the step that goes on with it, or keep {step!r} until such '
                "runs have ended"
            )
            raise CodeChanged(self.run_id, self.plan.name, problem, cure, step=step)
        return name

    def _worker(self, step: str, pending: Any) -> str:
        """The step that works on this now: on an event, or on the list of events that a list step runs on."""
        name = self._step(step, _said(pending))
        spec = self.plan.steps[self.plan.index[name]]
        events: list[Any] = pending if is_exactly(pending, list) else [pending]
        if spec.takes_list != is_exactly(pending, list) or not all(isinstance(event, spec.accepts) for event in events):
            raise self._misfit(step, name, _said(pending))
        return name

    def _taker(self, step: str, event: Any) -> str:
        """The step that an event goes to, alone or to be gathered."""
        name = self._step(step, _said(event))
        if not isinstance(event, self.plan.steps[self.plan.index[name]].accepts):
            raise self._misfit(step, name, _said(event))
        return name

    def _gatherer(self, step: str, what: str, arrived: Iterable[Any] = ()) -> str:
        """The list step that has gathered this."""
        name = self._step(step, what)
        spec = self.plan.steps[self.plan.index[name]]
        if not spec.takes_list or not all(isinstance(event, spec.accepts) for _, event in arrived):
            raise self._misfit(step, name, what)
        return name

    def _misfit(self, step: str, name: str, what: str) -> CodeChanged:
        problem = f"it has {what} for step {step!r}, which doesn't take that any more"
        cure = f"let {name!r} take it until such runs have ended"
        return CodeChanged(self.run_id, self.plan.name, problem, cure, step=step)


def _said(pending: Any) -> str:
    if not is_exactly(pending, list):
        return f"a {type(pending).__name__}"
    events: list[Any] = pending
    names = ", ".join(dict.fromkeys(type(event).__name__ for event in events))
    return f"a list of {names}" if events else "an empty list"


def _collected(events: list[Any]) -> str:
    return f"{_said(events)}, collected," if events else "collected events"
