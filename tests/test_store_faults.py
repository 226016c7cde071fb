"""A store that fails, delays, is busy, or has given a run to somebody else: who is told, and what is not done.

Nothing is done whose fact isn't stored; whoever asked for it is told; other runs go on; and a run goes on when the
cause is gone. Crashes are test_crashes.py's; what is done here a process lives through.
"""

import gc
import threading
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import anyio
import pytest
from crash_flows import SCENARIOS, Ask, Asking, Chain, Ledger, Nested, Noting, Reply
from crashing import World, Wrapped, baseline

from flowkit import Context, Event, InputRequiredEvent, StartEvent, StopEvent, Workflow, step
from flowkit.memory_store import MemoryStore
from flowkit.runtime import open_runtime
from flowkit.storage_errors import LeaseLost, RunElsewhere, StoreBusy, StoreError
from flowkit.store import Store, Write
from flowkit.testing.virtual_time import letting_time_pass, run_virtual, virtual_backend

pytestmark = pytest.mark.filterwarnings("error")

FULL = StoreError("the store", "the disk is full", "make room", "full")


class Faulty(Wrapped):
    """Fails while ``broken`` says so of a call, by name; counts commits in ``groups``."""

    def __init__(self, inner: Store | None = None, *, inline: bool | None = True) -> None:
        super().__init__(inner or MemoryStore())
        self.inline = inline
        self.broken: Callable[[str], bool] = lambda _: False
        self.groups: list[int] = []

    def around(self, name: str, call: Callable[[], Any]) -> Any:
        if self.broken(name):
            raise StoreError("the store", "the disk is full", "make room", "full")
        return call()

    def commit(self, writes: Sequence[Write], *, wait: bool = True) -> list[bool]:
        self.groups.append(len(writes))
        return super().commit(writes, wait=wait)


def only(*names: str) -> Callable[[str], bool]:
    return lambda name: name in names


# Each commit in turn


@pytest.mark.parametrize(
    "name", ["Chains", "SendFan", "Askings", "NestedFan", "Nested", "Atomic", "Form", "NestedTimer"]
)
def test_a_runtime_goes_on_after_each_commit_that_failed(name: str, anyio_backend_name: str) -> None:
    calm = baseline(name, anyio_backend_name)
    for number in range(1, World(SCENARIOS[name], anyio_backend_name).live_through().calls["commit"], 4):
        failing = {"commit": range(number, number + 1 + number % 2), "release": range(number % 3)}
        world = World(
            SCENARIOS[name], anyio_backend_name, fails=lambda call, count, f=failing: count in f.get(call, ())
        )
        world.live_through().check(calm)


@pytest.mark.parametrize("name", ["Chain", "Asking", "Nested", "Atomic"])
def test_the_same_call_goes_on_after_each_commit_that_failed(name: str, anyio_backend_name: str) -> None:
    calm = baseline(name, anyio_backend_name, form="block")
    for number in range(0, World(SCENARIOS[name], anyio_backend_name).live_through().calls["commit"], 3):
        world = World(
            SCENARIOS[name],
            anyio_backend_name,
            form="block",
            fails=lambda call, n, k=number: call == "commit" and n == k,
        )
        world.live_through().check(calm)


@pytest.mark.parametrize("call", ["open", "read", "claim", "info", "find", "next_due", "beat", "release", "leave"])
@pytest.mark.parametrize("name", ["Asking", "Nested"])
def test_a_runtime_lives_through_other_calls_that_fail(name: str, call: str, anyio_backend_name: str) -> None:
    calm = baseline(name, anyio_backend_name)
    calls = World(SCENARIOS[name], anyio_backend_name).live_through().calls[call]
    for number in range(min(calls, 3)):
        world = World(
            SCENARIOS[name],
            anyio_backend_name,
            # One commit as well, so that the run has to be taken up again.
            fails=lambda c, n, k=number: (c == call and n in (k, k + 1)) or (c == "commit" and n == 4),
        )
        world.live_through().check(calm)


@pytest.mark.crash
@pytest.mark.parametrize("options", [{}, {"inline": False}, {"durability": "async"}], ids=str)
@pytest.mark.parametrize("name", sorted(SCENARIOS))
def test_every_commit_fails(name: str, options: dict[str, Any], anyio_backend_name: str) -> None:
    calm = baseline(name, anyio_backend_name, **options)
    commits = World(SCENARIOS[name], anyio_backend_name, **options).live_through().calls["commit"]
    for number in range(commits):
        for many in (1, 2, 5):
            failing = {"commit": range(number, number + many), "release": range(many - 1), "info": range(3, 2 + many)}
            world = World(
                SCENARIOS[name],
                anyio_backend_name,
                fails=lambda call, count, f=failing: count in f.get(call, ()),
                **options,
            )
            world.live_through().check(calm)


# Who is told


class Note(Event):
    text: str


class Question(InputRequiredEvent):
    pass


class Two(Workflow):
    """Does as it is told, and says how far it came."""

    def __init__(self, act: Callable[[Context, list[str]], Any]) -> None:
        super().__init__()
        self.act = act
        self.came: list[str] = []

    @step
    async def first(self, ctx: Context, ev: StartEvent) -> Note | StopEvent:
        return await self.act(ctx, self.came)  # type: ignore[no-any-return]

    @step
    async def second(self, ctx: Context, ev: Note) -> StopEvent:
        self.came.append("second")
        return StopEvent(result=ev.text)


async def test_whoever_awaits_the_run_is_told() -> None:
    store = Faulty()

    async def act(ctx: Context, came: list[str]) -> Note:
        store.broken = only("commit")
        return Note("x")

    workflow = Two(act)
    with pytest.raises(StoreError) as caught:
        await workflow.run(store=store, run_id="r")
    assert caught.value.kind == "full"
    assert workflow.came == []
    store.broken = only()
    assert [len(store.read("r")), store.info("r").owner] == [2, None]  # type: ignore[union-attr]

    async def again(ctx: Context, came: list[str]) -> Note:
        return Note("x")

    workflow.act = again
    assert await workflow.run(store=store, run_id="r") == "x"


@pytest.mark.parametrize("inline", [True, False, None])
async def test_a_state_write_raises_before_the_step_goes_on(inline: bool | None) -> None:
    store = Faulty(inline=inline)

    async def act(ctx: Context, came: list[str]) -> StopEvent:
        store.broken = only("commit")
        try:
            await ctx.set("key", 1)
        except StoreError:
            came.append("told")
            raise
        came.append("went on")
        return StopEvent()

    workflow = Two(act)
    with pytest.raises(StoreError):
        await workflow.run(store=store, run_id="r")
    assert workflow.came == ["told"]


@pytest.mark.parametrize("inline", [True, False])
async def test_a_batch_that_was_not_stored_is_not_given(inline: bool) -> None:
    store = Faulty(inline=inline)

    async def act(ctx: Context, came: list[str]) -> StopEvent:
        store.broken = only("commit")
        try:
            got = ctx.collect_events(Note("a"), [Note])
        except StoreError:
            came.append("told")
            raise
        came.append(f"got {got}")
        return StopEvent()

    workflow = Two(act)
    with pytest.raises(StoreError):
        await workflow.run(store=store, run_id="r")
    assert workflow.came == ["told"]


async def test_nothing_is_shown_that_was_not_stored() -> None:
    store = Faulty()

    async def act(ctx: Context, came: list[str]) -> StopEvent:
        ctx.write_event_to_stream(Note("stored"))
        await ctx.set("key", 1)
        store.broken = only("commit")
        ctx.write_event_to_stream(Note("lost"))
        ctx.send_event(Note("lost"))
        await anyio.sleep(1)
        came.append("went on")
        return StopEvent()

    workflow = Two(act)
    handler = workflow.run(store=store, run_id="r")
    assert [event async for event in handler.stream_events()] == [Note("stored")]
    with pytest.raises(StoreError):
        await handler
    assert workflow.came == []


async def test_send_event_says_whether_it_was_stored() -> None:
    store, ledger = Faulty(), Ledger()
    async with open_runtime(store=store, workflows=[Asking(ledger)]) as runtime:
        handler = await runtime.run("Asking", run_id="r")
        await runtime.join()
        store.broken = only("commit")
        with pytest.raises(StoreError):
            await runtime.send_event("r", Reply("name", "lost"))
        with pytest.raises(StoreError):
            await handler
        assert [entry.what for entry in ledger.entries] == [("begin",)]
        with pytest.raises(StoreError):
            await runtime.send_event("r", Reply("name", "lost again"))
        store.broken = only()
        await runtime.send_event("r", Reply("name", "Ada"))
        await runtime.send_event("r", Reply("age", "36"))
        assert await runtime.handler("r") == ["Ada", "Ada", "36"]


async def test_send_event_says_so_where_its_runtime_is_closed_meanwhile() -> None:
    """The last commit of a run that is being stopped fails: what was to be stored in it wasn't."""
    store = Faulty()
    told: list[str] = []

    async def send(runtime: Any) -> None:
        store.broken = only("commit")
        try:
            await runtime.send_event("r", Reply("name", "Ada"))
        except StoreError:
            told.append("not stored")
        else:
            told.append("stored")

    async with anyio.create_task_group() as group:
        async with open_runtime(store=store, workflows=[Asking(Ledger())]) as runtime:
            await runtime.run("Asking", run_id="r")
            await runtime.join()
            group.start_soon(send, runtime)
            while not store.broken("commit"):
                await anyio.lowlevel.checkpoint()
    assert told == ["not stored"]
    store.broken = only()
    assert not any(b"Ada" in record for record in store.read("r"))


async def test_other_runs_go_on() -> None:
    """A commit that only one run is in."""

    class OnlyOthers(Faulty):
        def commit(self, writes: Sequence[Write], *, wait: bool = True) -> list[bool]:
            if "ill" in {write.run_id for write in writes} and self.broken("commit"):
                raise FULL
            return self.inner.commit(writes, wait=wait)

    store = OnlyOthers()
    async with open_runtime(store=store, workflows=[Chain(Ledger())]) as runtime:
        ill = await runtime.run("Chain", run_id="ill")
        store.broken = only("commit")
        await anyio.sleep(0.1)
        well = await runtime.run("Chain", run_id="well")
        with pytest.raises(StoreError):
            await ill
        assert await well == [2, {"first": True, "second": 1}]
        assert [one.run_id for one in await runtime.runs()] == ["well", "ill"]
        assert await runtime.history("ill")
        del ill
        store.broken = only()
        await anyio.sleep(60)
        assert (await runtime.runs(status="finished"))[-1].run_id == "ill"


async def test_a_nested_run_whose_store_fails_is_no_failure_of_its_step() -> None:
    store, ledger = Faulty(), Ledger()
    async with open_runtime(store=store, workflows=[Nested(ledger)]) as runtime:
        handler = await runtime.run("Nested", run_id="r")
        async for event in handler.stream_events():
            if isinstance(event, Ask):
                break
        store.broken = only("commit")
        with pytest.raises(StoreError):
            await runtime.send_event("r", Reply("left", "lost"))
        store.broken = only()
        with pytest.raises(StoreError):
            await handler
        for text in ("left", "right"):
            await runtime.send_event("r", Reply(text, text))
            await runtime.join()
            await anyio.sleep(5)
        assert await runtime.handler("r") == ["left", "right"]


@pytest.mark.parametrize("turns", range(4))
async def test_a_question_whose_answer_is_stored_is_not_asked_again(turns: int) -> None:
    """The runtime is closed while the answer is on its way into a step of a nested run."""
    store, ledger = MemoryStore(), Ledger()
    async with open_runtime(store=store, workflows=[Nested(ledger)]) as runtime:
        await runtime.run("Nested", run_id="r")
        await runtime.join()
        await runtime.send_event("r", Reply("left", "Ada"))
        for _ in range(turns):
            await anyio.lowlevel.checkpoint()
    assert not any(b'"abandoned"' in record for info in store.find(parent="r") for record in store.read(info.run_id))
    async with open_runtime(store=store, workflows=[Nested(ledger)]) as runtime:
        handler = await runtime.run("Nested", run_id="r")
        async for event in handler.stream_events(from_start=True):
            if isinstance(event, Ask):
                assert event.text == "right"
                await runtime.send_event("r", Reply("right", "Byron"))
        assert await handler == ["Ada", "Byron"]


# Slow and busy


async def test_what_comes_during_a_slow_commit_goes_into_the_next() -> None:
    gate = threading.Event()

    class Slow(Faulty):
        def commit(self, writes: Sequence[Write], *, wait: bool = True) -> list[bool]:
            if len(self.groups) == 1:
                with letting_time_pass():
                    assert gate.wait(10)
            return super().commit(writes, wait=wait)

    store, ledger = Slow(inline=False), Ledger()
    async with open_runtime(store=store, workflows=[Chain(ledger)]) as runtime:
        first = await runtime.run("Chain", run_id="first")
        async with anyio.create_task_group() as group:
            for number in range(20):
                group.start_soon(lambda number: runtime.run("Chain", run_id=f"run{number}"), number)
            await anyio.sleep(5)  # the loop goes on while the commit hangs
            assert store.groups == [1]
            assert not ledger.entries[1:]
            gate.set()
        await runtime.join()
        assert store.groups[1] == 1  # what the first had meanwhile
        assert max(store.groups) >= 20
        assert await first == [2, {"first": True, "second": 1}]
        assert len(await runtime.runs(status="finished")) == 21


async def test_a_store_that_another_process_holds_is_waited_for_in_a_thread() -> None:
    class Busy(Faulty):
        def commit(self, writes: Sequence[Write], *, wait: bool = True) -> list[bool]:
            threads.add(threading.get_ident())
            if not wait:
                raise StoreBusy("the store", "another process holds it", "wait")
            return super().commit(writes, wait=wait)

    threads: set[int] = set()
    store = Busy()
    assert await Chain(Ledger()).run(store=store, run_id="r") == [2, {"first": True, "second": 1}]
    assert len(threads) > 1
    assert len(store.groups) == 6


async def test_a_store_that_stays_busy() -> None:
    class Busy(Faulty):
        def commit(self, writes: Sequence[Write], *, wait: bool = True) -> list[bool]:
            if self.broken("commit"):
                raise StoreBusy("the store", "another process holds it", "wait")
            return super().commit(writes, wait=wait)

    store = Busy()
    store.broken = only("commit")
    async with open_runtime(store=store, workflows=[Chain(Ledger())]) as runtime:
        with pytest.raises(StoreBusy):
            await runtime.run("Chain", run_id="r")
        store.broken = only()
        assert await (await runtime.run("Chain", run_id="r")) == [2, {"first": True, "second": 1}]


# Owners


async def test_a_run_that_another_has_claimed_ends_here() -> None:
    store, ledger = MemoryStore(), Ledger()
    async with open_runtime(store=store, workflows=[Asking(ledger)]) as runtime:
        handler = await runtime.run("Asking", run_id="r")
        await runtime.join()
        before = store.read("r")
        store.claim("r", "another", float("inf"))
        with pytest.raises(LeaseLost):
            await runtime.send_event("r", Reply("name", "Ada"))
        with pytest.raises(LeaseLost):
            await handler
        assert store.read("r") == before
        info = store.info("r")
        assert info is not None
        assert (info.owner, info.status) == ("another", "waiting")
        store.beat("another", float("inf"))
        with pytest.raises(RunElsewhere):
            await runtime.run("Asking", run_id="r")
    assert [entry.what for entry in ledger.entries] == [("begin",)]
    info = store.info("r")
    assert info is not None
    assert info.owner == "another"


async def test_a_lost_lease_shows_at_the_next_write() -> None:
    store, ledger = MemoryStore(), Ledger()
    async with open_runtime(store=store, workflows=[Chain(ledger)]) as runtime:
        handler = await runtime.run("Chain", run_id="r")
        await anyio.sleep(0.5)
        store.claim("r", "another", float("inf"))
        before = store.read("r")
        with pytest.raises(LeaseLost):
            await handler
        assert store.read("r") == before
    # It had begun the step when it lost the run: another will do it again.
    assert [entry.what for entry in ledger.entries] == [("first",), ("second", 1)]


async def test_a_nested_run_whose_lease_is_lost_takes_the_whole_run_along() -> None:
    store = MemoryStore()
    async with open_runtime(store=store, workflows=[Nested(Ledger())]) as runtime:
        handler = await runtime.run("Nested", run_id="r")
        await runtime.join()
        (child,) = store.find(parent="r")
        store.claim(child.run_id, "another", float("inf"))
        store.claim("r", "another", float("inf"))
        with pytest.raises(LeaseLost):
            await runtime.send_event("r", Reply("left", "lost"))
        with pytest.raises(LeaseLost):
            await handler
    assert {info.status for info in (*store.find(), *store.find(parent="r"))} <= {"waiting", "running"}


async def test_a_second_runtime_takes_up_what_the_first_has_left_when_its_lease_is_over() -> None:
    content = MemoryStore()
    dead = Faulty(content)
    scope = anyio.CancelScope()
    with scope:
        async with open_runtime(store=dead, workflows=[Chain(Ledger())], lease=30) as runtime:
            await runtime.run("Chain", run_id="r")
            dead.broken = lambda _: True
            scope.cancel()
            await anyio.sleep(1)
    begun = anyio.current_time()
    async with open_runtime(store=content, workflows=[Chain(Ledger())], lease=30) as second:
        with pytest.raises(RunElsewhere):
            await second.run("Chain", run_id="r")
        while not await second.runs(status="finished"):  # noqa: ASYNC110 - nobody has an event for that
            await anyio.sleep(1)
    assert 29 <= anyio.current_time() - begun <= 45


@pytest.mark.parametrize("call", ["info", "claim", "read"])
async def test_a_run_that_can_not_be_read_now(call: str) -> None:
    store = Faulty()
    with anyio.move_on_after(0.5):
        await Chain(Ledger()).run(store=store, run_id="r")
    store.broken = only(call)
    with pytest.raises(StoreError):
        await Chain(Ledger()).run(store=store, run_id="r")
    store.broken = only()
    info = store.info("r")
    assert info is not None
    assert (info.owner, info.status) == (None, "running")
    assert await Chain(Ledger()).run(store=store, run_id="r") == [2, {"first": True, "second": 1}]


@pytest.mark.parametrize("call", ["open", "beat"])
async def test_a_lease_that_can_not_be_taken_out(call: str) -> None:
    store = Faulty()
    store.broken = only(call)
    with pytest.raises(StoreError):
        await Chain(Ledger()).run(store=store, run_id="r")
    with pytest.raises(StoreError):
        async with open_runtime(store=store, workflows=[Chain(Ledger())]):
            pass
    store.broken = only()
    assert await Chain(Ledger()).run(store=store, run_id="r") == [2, {"first": True, "second": 1}]


async def test_a_lease_that_can_not_be_renewed_is_tried_again() -> None:
    store = Faulty()
    async with open_runtime(store=store, workflows=[Asking(Ledger())], lease=30) as runtime:
        await runtime.run("Asking", run_id="r")
        store.broken = only("beat")
        await anyio.sleep(15)
        store.broken = only()
        await anyio.sleep(300)
        for text in ("name", "age"):
            await runtime.send_event("r", Reply(text, text))
        assert await runtime.handler("r") == ["name", "name", "age"]


async def test_a_beat_under_way_comes_before_the_lease_is_given_up() -> None:
    gate = threading.Event()

    class Slow(Faulty):
        beats = 0

        def beat(self, owner: str, until: float) -> None:
            self.beats += 1
            if self.beats > 1:
                with letting_time_pass():
                    gate.wait(10)
            self.inner.beat(owner, until)

    content = MemoryStore()
    async with anyio.create_task_group() as group:

        async def open_gate() -> None:
            await anyio.sleep(20)
            gate.set()

        group.start_soon(open_gate)
        async with open_runtime(store=Slow(content), workflows=[Chain(Ledger())], lease=30):
            await anyio.sleep(11)
    assert content.owners() == []


async def test_a_release_that_fails_leaves_the_run_to_its_owner() -> None:
    """Which takes it up again, although the store says that it is driven."""
    store = Faulty()
    async with open_runtime(store=store, workflows=[Chain(Ledger())]) as runtime:
        handler = await runtime.run("Chain", run_id="r")
        store.broken = only("commit", "release", "info", "find")
        with pytest.raises(StoreError):
            await handler
        await anyio.sleep(40)
        store.broken = only()
        await anyio.sleep(40)
        assert [info.run_id for info in await runtime.runs(status="finished")] == ["r"]


# The end of the event loop


class Tidying(Noting):
    """Writes its state while it is being cancelled."""

    @step
    async def work(self, ctx: Context, ev: StartEvent) -> StopEvent:
        with anyio.CancelScope(shield=True):
            await anyio.sleep(2)
            await ctx.set("tidied", True)
        return StopEvent(result=True)


@pytest.mark.parametrize("inline", [True, False])
def test_a_step_that_writes_when_its_loop_ends_does_not_hang_it(anyio_backend_name: str, inline: bool) -> None:
    content = MemoryStore()
    kept: list[Any] = []

    async def begin() -> None:
        kept.append(Tidying(Ledger()).run(store=Faulty(content, inline=inline), run_id="r"))
        await anyio.sleep(1)

    name, options = virtual_backend(anyio_backend_name)
    anyio.run(begin, backend=name, backend_options=options)
    with warnings.catch_warnings(action="ignore", category=ResourceWarning):  # that nobody has awaited it
        kept.clear()
        gc.collect()
    info = content.info("r")
    assert info is not None
    assert info.owner is None

    async def go_on() -> Any:
        return await Tidying(Ledger()).run(store=content, run_id="r")

    assert run_virtual(go_on, backend=anyio_backend_name) is True


class Unread(MemoryStore):
    """Can't be read the first time."""

    reads = 0

    def read(self, run_id: str, start: int = 0) -> list[bytes]:
        self.reads += 1
        if self.reads == 1:
            raise StoreError("this store", "it can't be read", "try again", "failed")
        return super().read(run_id, start)


async def test_a_run_that_could_not_be_read_is_given_up_at_once() -> None:
    store, ledger = Unread(), Ledger()
    async with open_runtime(store=store, workflows=[Nested(ledger)]) as runtime:
        await runtime.run("Nested", run_id="r")
        await runtime.join()  # so that the next doesn't take it up by itself
    async with open_runtime(store=store, workflows=[Nested(ledger)]) as runtime:
        store.reads = 0
        with pytest.raises(StoreError, match="can't be read"):
            await runtime.send_event("r", Reply("left", "Ada"))
        info = store.info("r")
        assert info is not None
        assert info.owner is None
