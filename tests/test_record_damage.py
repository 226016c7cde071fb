"""Records that aren't what was written: a typed error that names run, record and place; never a hang or a crash.

How many bits are flipped: ``FLOWKIT_FLIPS`` (10,000 by default, in all).
"""

import contextlib
import itertools
import json
import os
import random
import time
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from machine_world import A, B, Begin, C, End, World, make_plan, make_step

from flowkit import StepFailedEvent
from flowkit.facts import (
    RunCancelled,
    RunResumed,
    RunStarted,
    StateWritten,
    Stepped,
    StepReturned,
    TimerFired,
    WaitAbandoned,
)
from flowkit.machine import Machine
from flowkit.records import Head, Records, Restored, seal, unseal
from flowkit.snapshot import codec_for, freeze
from flowkit.state import State
from flowkit.storage_errors import CodeChanged, RunDamaged, WrongWorkflow

laws = settings(max_examples=int(os.environ.get("FLOWKIT_EXAMPLES", "60")), deadline=None)
FLIPS = int(os.environ.get("FLOWKIT_FLIPS", "10000"))

PLAN = make_plan(
    make_step("s0", [Begin, A], [A, B], [B]),
    make_step("s1", [B], [C, A], [C], workers=1),
    make_step("join", [C], [A, End], takes_list=True),
    make_step("caught", [StepFailedEvent], [A], covers=()),
)
RECORDS = Records(PLAN, codec_for(PLAN, (Begin, End)))
HEAD = Head(run_id="run", workflow="Flow", patient=True)


def walked(seed: int, length: int = 40) -> World:
    draw = random.Random(seed)
    world = World(PLAN, lambda n: draw.randrange(n) if n > 1 else 0, patient=True)
    world.walk(length)
    return world


def journal_of(world: World) -> list[bytes]:
    """A whole journal, with books in the middle."""
    payloads = [RECORDS.head(HEAD), *(RECORDS.fact(fact) for fact, _ in world.history[:20])]
    machine = world.fresh_machine()
    for fact, _ in world.history[:20]:
        machine.receive(fact)
    payloads.append(RECORDS.books(machine, HEAD))
    payloads += [RECORDS.fact(fact) for fact, _ in world.history[20:]]
    return [seal("run", number, payload) for number, payload in enumerate(payloads)]


JOURNALS = [journal_of(walked(seed)) for seed in range(10)]


def restore(journal: list[bytes], start: int = 0) -> Restored:
    return RECORDS.restore("run", start, journal, State(), patient=True)


def everything(journal: list[bytes]) -> None:
    """Read a journal in every way there is."""
    for read in (
        lambda: restore(journal),
        lambda: list(RECORDS.facts("run", 0, journal)),
        lambda: list(RECORDS.replay("run", journal)),
    ):
        read()


def test_these_journals_are_whole() -> None:
    for journal in JOURNALS:
        everything(journal)


# ------------------------------------------------------------------------------------------------ bytes that changed


def flips() -> Iterator[tuple[int, int, int]]:
    """Journal, record, bit: spread over all of them."""
    draw = random.Random(4711)
    for _ in range(FLIPS):
        journal = draw.randrange(len(JOURNALS))
        record = draw.randrange(len(JOURNALS[journal]))
        yield journal, record, draw.randrange(8 * len(JOURNALS[journal][record]))


def test_every_flipped_bit_is_found_and_named() -> None:
    for journal, record, bit in flips():
        damaged = bytearray(JOURNALS[journal][record])
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(RunDamaged) as refused:
            unseal("run", record, bytes(damaged))
        assert (refused.value.run_id, refused.value.record) == ("run", record)


@pytest.mark.parametrize("number", range(len(JOURNALS)))
def test_a_flipped_bit_anywhere_stops_the_run(number: int) -> None:
    journal = JOURNALS[number]
    for record in range(len(journal)):
        damaged = bytearray(journal[record])
        damaged[-1] ^= 1
        with pytest.raises(RunDamaged, match=f"run 'run', record {record} can't be read: its checksum is wrong"):
            restore([*journal[:record], bytes(damaged), *journal[record + 1 :]])


@given(cut=st.integers(0, 10_000), number=st.integers(0, len(JOURNALS) - 1), record=st.integers(0, 10_000))
@laws
def test_a_torn_record_is_found(cut: int, number: int, record: int) -> None:
    journal = JOURNALS[number]
    record %= len(journal)
    torn = journal[record][: cut % len(journal[record])]
    with pytest.raises(RunDamaged, match=f"record {record} "):
        restore([*journal[:record], torn, *journal[record + 1 :]])


@pytest.mark.parametrize("number", range(len(JOURNALS)))
def test_a_journal_cut_after_any_record_is_the_run_as_it_was(number: int) -> None:
    for length in range(1, len(JOURNALS[number])):
        restore(JOURNALS[number][:length])


@pytest.mark.parametrize("number", range(len(JOURNALS)))
def test_records_out_of_place_are_found(number: int) -> None:
    journal = JOURNALS[number]
    with pytest.raises(RunDamaged, match="record 0 can't be read: it isn't one that reading can begin at"):
        restore([])
    for first, second in itertools.pairwise(range(len(journal))):
        swapped = [*journal[:first], journal[second], journal[first], *journal[second + 1 :]]
        missing = [*journal[:first], *journal[second:]]
        twice = [*journal[:second], *journal[first:]]
        for wrong in (swapped, missing, twice):
            with pytest.raises(RunDamaged):
                restore(wrong)
    with pytest.raises(RunDamaged, match="checksum"):
        RECORDS.restore("another", 0, journal, State(), patient=True)


@given(data=st.binary(max_size=300))
@laws
def test_random_bytes_are_no_record(data: bytes) -> None:
    with pytest.raises(RunDamaged):
        restore([data])
    with pytest.raises((RunDamaged, CodeChanged)):
        restore([seal("run", 0, data)])


# ---------------------------------------------------------------------------------- payloads with a right checksum


def with_payload(payload: bytes, *, first: bool = False) -> list[bytes]:
    """A journal that ends (or begins) with this payload, rightly sealed."""
    before = [] if first else JOURNALS[0][:3]
    return [*before, seal("run", len(before), payload)]


def refused(payload: bytes, *, first: bool = False) -> RunDamaged | CodeChanged:
    journal = with_payload(payload, first=first)
    began = time.perf_counter()
    with pytest.raises((RunDamaged, CodeChanged, WrongWorkflow)) as caught:
        restore(journal)
    assert time.perf_counter() - began < 2
    error: Any = caught.value
    assert error.run_id == "run"
    if isinstance(error, RunDamaged):
        assert error.record == len(journal) - 1
    return error  # type: ignore[no-any-return]


DEEP = b"[" * 100_000
HOSTILE: list[tuple[str, bytes]] = [
    ("nothing", b""),
    ("no JSON", b"{"),
    ("no UTF-8", b'["timer",1.0,"\xff"]'),
    ("a number", b"5"),
    ("an object", b"{}"),
    ("an empty list", b"[]"),
    ("an unknown code", b'["exploded",1.0,1]'),
    ("a code that is no string", b"[1,1.0,1]"),
    ("a code that can't be hashed", b"[[],1.0,1]"),
    ("too few fields", b'["timer",1.0]'),
    ("too many fields", b'["timer",1.0,1,1]'),
    ("no time", b'["timer",null,1]'),
    ("a time that is true", b'["timer",true,1]'),
    ("an infinite time", b'["timer",1e999,1]'),
    ("NaN", b'["timer",NaN,1]'),
    ("a number that is a float", b'["timer",1.0,1.5]'),
    ("a number that is true", b'["timer",1.0,true]'),
    ("deep lists", DEEP),
    ("deep lists, closed", b'["state",1.0,["a"],' + b"[" * 90_000 + b"]" * 90_000 + b"]"),
    ("deep values", b'["state",1.0,["a"],' + b"[" * 500 + b"]" * 500 + b"]"),
    ("deep tagged values", b'["state",1.0,["a"],' + b'{"$tuple":[' * 300 + b"1" + b"]}" * 300 + b"]"),
    ("deep commits", b'["committed",1.0,1,' + b'[["committed",1.0,1,' * 400 + b"[]" + b",null]]" * 400 + b",null]"),
    ("a commit in a commit", b'["committed",1.0,1,[["committed",1.0,1,[],null]],null]'),
    ("effects that are no list", b'["committed",1.0,1,{},null]'),
    ("a huge int", b'["timer",1.0,' + b"9" * 100_000 + b"]"),
    ("a huge hexadecimal int", b'["state",1.0,["a"],{"$int":"0x' + b"g" * 100_000 + b'"}]'),
    ("a huge fraction", b'["state",1.0,["a"],{"$Fraction":"' + b"9" * 200_000 + b'/3"}]'),
    ("a path of numbers", b'["state",1.0,[1],1]'),
    ("a path that is a string", b'["state",1.0,"a",1]'),
    ("a key twice", b'["state",1.0,["a"],{"b":1,"b":2}]'),
    ("an unknown kind of value", b'["state",1.0,["a"],{"$gadget":1}]'),
    ("an unknown class", b'["sent",1.0,null,{"$obj":["os:system",{"n":1}]},null]'),
    ("no event", b'["sent",1.0,null,5,null]'),
    ("an exception as event", b'["sent",1.0,null,{"$obj":["ValueError",{"args":{"$tuple":[]}}]},null]'),
    ("no exception", b'["raised",1.0,1,"broken",null]'),
    ("a class that is no event", b'["wait",1.0,1,"w","ValueError",{},null,null]'),
    ("requirements that are a list", b'["wait",1.0,1,"w","machine_world:A",[],null,null]'),
    ("a timeout that is a string", b'["wait",1.0,1,"w","machine_world:A",{},"1",null]'),
    ("other fields", b'["sent",1.0,null,{"$obj":["machine_world:A",{"m":1}]},null]'),
    ("no fields", b'["sent",1.0,null,{"$obj":["machine_world:A",[]]},null]'),
    ("an event of a version to come", b'["sent",1.0,null,{"$obj":["machine_world:A@7",{"n":1}]},null]'),
    ("keys that can't be hashed", b'["state",1.0,["a"],{"$dict":[[[1]],[1]]}]'),
    ("a head in the middle", RECORDS.head(HEAD)),
    ("a return of nothing that runs", b'["returned",1.0,99,null]'),
    ("a second start", b'["started",1.0,"run",{"$obj":["machine_world:Begin",{"n":1}]}]'),
    ("events for a step that there isn't", b'["sent",1.0,null,{"$obj":["machine_world:A",{"n":1}]},"nowhere"]'),
    ("the release of what isn't held", b'["stepped",1.0,[7]]'),
]  # fmt: skip


@pytest.mark.parametrize("payload", [payload for _, payload in HOSTILE], ids=[name for name, _ in HOSTILE])
def test_a_hostile_fact_is_refused(payload: bytes) -> None:
    refused(payload)


@pytest.mark.parametrize(
    ("payload", "path", "problem"),
    [
        (b'["sent",1.0,null,5,null]', "$.event", "an Event is expected"),
        (b'["state",1.0,["a"],{"b":[1,{"$Decimal":5}]}]', "$.value.b[1]", "$Decimal can't be read"),
        (b'["wait",1.0,1,"w","machine_world:A",{},"1",null]', "$.timeout", "a number is expected"),
        (b'["timer",null,1]', "$.time", "a time is expected"),
        (b'["committed",1.0,1,[["sent",1.0,1,5,null]],null]', "$.effects[0].event", "an Event is expected"),
    ],
)
def test_the_place_is_named(payload: bytes, path: str, problem: str) -> None:
    error = refused(payload)
    assert isinstance(error, RunDamaged)
    assert error.path == path
    assert error.problem.startswith(problem)
    assert str(error).startswith(f"run 'run', record 3 at {path} can't be read: {problem}")


@pytest.mark.parametrize(
    ("payload", "problem"),
    [
        (
            b'["sent",1.0,null,{"$obj":["os:system",{"n":1}]},null]',
            "in record 3 at $.event, no registered class has the tag 'os:system'",
        ),
        (
            b'["sent",1.0,null,{"$obj":["machine_world:A",{"m":1}]},null]',
            "in record 3 at $.event, the fields of machine_world.A aren't those that were written ('n' is missing,",
        ),
        (
            b'["sent",1.0,null,{"$obj":["machine_world:A@7",{"n":1}]},null]',
            "in record 3 at $.event, it is version 7 of machine_world:A, and the class here is version 1",
        ),
    ],
)
def test_what_other_code_wrote_is_told_from_damage(payload: bytes, problem: str) -> None:
    error = refused(payload)
    assert isinstance(error, CodeChanged)
    assert error.problem.startswith(problem)


# ------------------------------------------------------------------------------------------------- heads and books


def changed(payload: bytes, path: list[Any], value: Any) -> bytes:
    data = json.loads(payload)
    inner = data
    for one in path[:-1]:
        inner = inner[one]
    inner[path[-1]] = value
    return json.dumps(data, separators=(",", ":")).encode()


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ([1], None), ([1], 0), ([1], "1"), ([1], True), ([1], 2), ([2], -1), ([2], 99), ([3], []), ([3], None),
        ([3, "run_id"], 5), ([3, "run_id"], "other"), ([3, "workflow"], None), ([3, "workflow"], "Other"),
        ([3, "timeout"], -1), ([3, "timeout"], "1"), ([3, "stepwise"], 1), ([3, "patient"], "yes"),
        ([3, "forked_from"], []), ([3, "forked_from"], ["a", "b"]), ([3, "flowkit"], 1), ([3, "extra"], 1),
        ([4], 5), ([4], None),
    ],
    ids=str,
)  # fmt: skip
def test_a_hostile_head_is_refused(path: list[Any], value: Any) -> None:
    refused(changed(RECORDS.head(HEAD), path, value), first=True)


def shapes() -> Iterator[Any]:
    """Shapes of no plan."""
    shape = json.loads(RECORDS.head(HEAD))[5]
    yield from (None, 5, {}, [], [1, 2, 3, 4], ["Flow", None, None, None], ["Flow", None, {}, []])
    for path, value in [
        ([0], 5), ([1], 7), ([1], "ValueError:no"), ([2, 0], []), ([2, 0], [5]), ([2, 0], "a"), ([2, 0, 1], 99),
        ([2, 0, 1], -1), ([2, 0, 1], True), ([2, 0, 1], []), ([3, 0], []), ([3, 0, 0], 5), ([3, 0, 0], []),
        ([3, 0, 1], 5), ([3, 0, 1], [99]), ([3, 0, 1], [-1]), ([3, 0, 1], ["0"]), ([3, 0, 2], None), ([3, 0, 3], {}),
        ([3, 0, 4], []), ([3, 0, 4], {"odd": 1}), ([3, 0, 4], {"take": 0}), ([3, 0, 4], {"take": "1"}),
        ([3, 0, 4], {"workers": -1}), ([3, 0, 4], {"workers": 1.5}), ([3, 0, 4], {"for": "s0"}),
        ([3, 0, 4], {"for": [1]}), ([3, 1, 0], "s0"),
    ]:  # fmt: skip
        yield json.loads(changed(json.dumps(shape).encode(), path, value))


@pytest.mark.parametrize("shape", list(shapes()), ids=lambda shape: json.dumps(shape)[:60])
def test_a_hostile_shape_is_refused(shape: Any) -> None:
    payload = changed(RECORDS.head(HEAD), [5], shape)
    refused(changed(payload, [4], "0123456789abcdef"), first=True)


def rich_world() -> World:
    """One with something of everything in its books."""
    for seed in range(500):
        world = walked(seed, 60)
        tree = freeze(world.machine)
        if (
            not world.over
            and all(tree[name] for name in ("invocations", "timers", "buffers", "lanes"))
            and len(tree["joins"][1]) > 1
            and any(one["waiting"] and one["waiting"]["open"] for one in tree["invocations"])
        ):
            return world
    raise AssertionError("no such world")


def leaves(data: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in JSON data."""
    yield path
    if isinstance(data, dict | list):
        items = data.items() if isinstance(data, dict) else enumerate(data)
        for name, inner in items:
            yield from leaves(inner, (*path, name))


OTHERS: list[Any] = [
    None,
    True,
    0,
    -1,
    7,
    10**30,
    1.5,
    "x",
    "",
    [],
    {},
    [[]],
    {"a": 1},
    {"$obj": ["Event", {}]},
    {"$tuple": [1]},
]


def test_books_with_anything_else_anywhere_are_refused_or_make_a_machine_that_works() -> None:
    """Whatever the data: a typed error, or books with which a run goes on without tripping."""
    world = rich_world()
    payload = RECORDS.books(world.machine, HEAD)
    data = json.loads(payload)
    refusals = total = 0
    for place in list(leaves(data))[1:]:
        for other in OTHERS:
            total += 1
            wrong = changed(payload, list(place), other)
            try:
                machine = restore([seal("run", 0, wrong)]).machine
            except (RunDamaged, CodeChanged, WrongWorkflow):
                refusals += 1
            else:
                goes_on(machine)
    assert refusals > total * 0.7


def goes_on(machine: Machine) -> None:
    """Drive a machine on to its end: whatever its books are, each rule must find what it looks for."""
    restore([seal("run", 0, RECORDS.books(machine, HEAD))])
    facts: list[Any] = [RunResumed(1e6)]
    for _ in range(100):
        for fact in facts:
            machine.receive(fact)
        running = [number for number, entry in machine.invocations.items() if entry.status == "running"]
        waits = [wait for waits in machine.waits.open.values() for wait in waits.values()]
        if machine.outcome is not None:
            return
        facts = [
            *(StepReturned(1e6, number, None) for number in running[:1]),
            *(TimerFired(1e6, number) for number in [*machine.timers][:1]),
            *(WaitAbandoned(1e6, wait.invocation, wait.waiter) for wait in waits[:1]),
            *(Stepped(1e6, tuple(machine.held)) for _ in [*machine.held][:1]),
        ]
        facts = facts[:1] or [RunCancelled(1e6, "nothing left", by_user=True)]


@given(data=st.data())
@laws
def test_random_json_is_refused(data: st.DataObject) -> None:
    anything = st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    )
    codes = [json.loads(RECORDS.fact(fact))[0] for fact, _ in walked(3).history]
    payload = data.draw(st.tuples(st.sampled_from(codes), anything, anything, anything).map(list))
    text = json.dumps(payload[: data.draw(st.integers(1, 4))]).encode()
    with contextlib.suppress(RunDamaged, CodeChanged):
        restore(with_payload(text))


def test_a_bomb_of_shared_hashes_is_refused_in_time() -> None:
    numbers = [index * (2**61 - 1) for index in range(20_000)]  # all have the hash 0
    error = refused(
        RECORDS.fact(StateWritten(1.0, ("a",), 1)).replace(b",1]", b',{"$set":' + json.dumps(numbers).encode() + b"}]")
    )
    assert "have the same hash" in str(error)


def test_a_long_journal_takes_linear_time() -> None:
    def journal(length: int) -> list[bytes]:
        payloads = [RECORDS.head(HEAD), RECORDS.fact(RunStarted(1.0, "run", Begin(1)))]
        payloads += [RECORDS.fact(StepReturned(2.0, number, A(number))) for number in range(1, length)]
        return [seal("run", number, payload) for number, payload in enumerate(payloads)]

    def seconds(length: int) -> float:
        records = journal(length)
        began = time.perf_counter()
        restore(records)
        return time.perf_counter() - began

    seconds(100)
    assert min(seconds(8000) for _ in range(3)) < 16 * min(seconds(1000) for _ in range(3))
