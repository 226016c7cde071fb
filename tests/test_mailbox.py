"""Events and cancellations get to runs that another runtime drives, exactly once, and to those that nobody drives."""

import threading
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
from stored_flows import Approved, Ask, Charged, Patient, Question, Slow, WaitsForApproval, wall_clock

from flowkit import (
    Context,
    Event,
    HumanResponseEvent,
    RunFinished,
    StartEvent,
    StopEvent,
    StoreError,
    Workflow,
    WorkflowCancelledByUser,
    WorkflowRuntimeError,
    WorkflowTimeoutError,
    backend,
    step,
)
from flowkit.errors import MisdirectedEvent, WrongCall
from flowkit.facts import EventSent
from flowkit.mailbox import Mailbox, _Watcher, tell_this_process
from flowkit.memory_store import MemoryStore
from flowkit.posting import is_delivered
from flowkit.runtime import Runtime, open_runtime
from flowkit.sqlite_store import SQLiteStore
from flowkit.storage_errors import CodeChanged, RunDamaged, UnexpectedEvent, UnknownRun
from flowkit.store import NewRun, Store, Write
from flowkit.workflow import records_of

__all__ = ["wall_clock"]


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    made: Store = MemoryStore() if request.param == "memory" else SQLiteStore(tmp_path / "runs.db")
    yield made
    made.close()


@asynccontextmanager
async def two(store: Store, *makes: Callable[[], Workflow], **options: Any) -> AsyncGenerator[tuple[Runtime, Runtime]]:
    async with (
        open_runtime(store=store, workflows=[make() for make in makes], **options) as owner,
        open_runtime(store=store, workflows=[make() for make in makes], **options) as sender,
    ):
        yield owner, sender


async def sent(runtime: Runtime, run_id: str) -> list[EventSent]:
    return [one.fact for one in await runtime.history(run_id) if isinstance(one.fact, EventSent)]


async def test_an_event_for_a_run_that_another_runtime_drives(store: Store) -> None:
    async with two(store, WaitsForApproval) as (owner, sender):
        handler = await owner.run("WaitsForApproval", run_id="a")
        began = anyio.current_time()
        await sender.send_event("a", Approved("the operator"))
        assert anyio.current_time() - began < 0.1  # both are told at once, where they are in one process
        assert store.mail() == []
        assert await handler == "the operator"
        assert [fact.event for fact in await sent(sender, "a")] == [Approved("the operator")]


async def test_an_event_for_a_step_by_name(store: Store) -> None:
    async with two(store, Patient) as (owner, sender):
        handler = await owner.run("Patient", run_id="a")
        with pytest.raises(MisdirectedEvent, match="Patient has no step 'send'"):
            await sender.send_event("a", Approved(), step="send")
        with pytest.raises(MisdirectedEvent):
            await sender.send_event("a", Charged("pen"), step="end")
        assert store.mail() == []
        began = anyio.current_time()
        await sender.send_event("a", Charged("pen"), step="note")
        await sender.send_event("a", Charged("ink"))
        assert anyio.current_time() - began < 0.2
        await sender.send_event("a", Approved())
        assert await handler == ["pen", "ink"]


async def test_an_event_for_a_run_that_its_own_program_drives(store: Store) -> None:
    async with open_runtime(store=store, workflows=[Ask()]) as sender:
        async with Ask().run(store=store, run_id="a") as handler:
            async for event in handler.stream_events():
                if isinstance(event, Question):
                    await sender.send_event("a", HumanResponseEvent(response=12))
        assert await handler == 12


async def test_a_cancellation(store: Store) -> None:
    async with two(store, Slow) as (owner, sender):
        handler = await owner.run("Slow", run_id="a")
        await sender.cancel("a")
        info = store.info("a")
        assert info is not None and info.status == "cancelled"
        with pytest.raises(WorkflowCancelledByUser):
            await handler
        await sender.cancel("a")


async def test_a_cancelled_run_is_no_error_of_its_owner(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    async with two(store, Slow) as (owner, sender):
        await owner.run("Slow", run_id="a")
        await sender.cancel("a")
        await owner.join()
    assert caplog.text == ""


class Late(Workflow):
    """Takes `Approved` after 10 seconds; ``both``: two events of it."""

    @step
    async def work(self, ctx: Context, ev: StartEvent) -> StopEvent:
        await anyio.sleep(10)
        return StopEvent(result=(await ctx.wait_for_event(Approved)).by)


async def test_a_run_that_is_busy_takes_it_when_it_has_a_use_for_it(store: Store) -> None:
    async with two(store, Late) as (owner, sender):
        handler = await owner.run("Late", run_id="a")
        began = anyio.current_time()
        await sender.send_event("a", Approved("you"))
        assert anyio.current_time() - began == pytest.approx(10, abs=0.2)
        assert await handler == "you"


class Aside(Workflow):
    """Waits after 10 seconds, while another step works for 100."""

    @step
    async def aside(self, ev: StartEvent) -> None:
        await anyio.sleep(100)

    @step
    async def work(self, ctx: Context, ev: StartEvent) -> StopEvent:
        await anyio.sleep(10)
        return StopEvent(result=(await ctx.wait_for_event(Approved)).by)


class AroundAside(Workflow):
    @step
    async def work(self, ev: StartEvent, child: Aside) -> StopEvent:
        return StopEvent(result=await child.run())


def around_aside() -> Workflow:
    made = AroundAside()
    made.add_workflows(child=Aside())
    return made


@pytest.mark.parametrize(("make", "name"), [(Aside, "Aside"), (around_aside, "AroundAside")])
async def test_a_run_need_not_rest_to_take_it(store: Store, make: Callable[[], Workflow], name: str) -> None:
    """It takes it when it comes to wait for it, whatever else it, or a run nested in it, is at."""
    async with two(store, make) as (owner, sender):
        handler = await owner.run(name, run_id="a")
        began = anyio.current_time()
        await sender.send_event("a", Approved("you"))
        assert anyio.current_time() - began == pytest.approx(10, abs=0.2)
        assert await handler == "you"


async def test_plain_steps_in_all_threads_hold_up_no_mail(store: Store) -> None:
    """Nor the lease: those have a thread of their own."""
    freed = threading.Event()

    class Plain(Workflow):
        @step
        def work(self, ev: StartEvent) -> StopEvent:
            assert freed.wait(60)
            return StopEvent()

    async with open_runtime(store=store, workflows=[Patient(), Plain()]) as runtime:
        handler = await runtime.run("Patient", run_id="a")
        common = anyio.to_thread.current_default_thread_limiter()
        before, common.total_tokens = common.total_tokens, 1
        try:
            plain = await runtime.run("Plain")
            while not common.borrowed_tokens:
                await anyio.lowlevel.checkpoint()
            letter = records_of(Patient()).fact(EventSent(0.0, None, Approved(), None))
            assert store.post("a", letter, 0.0) is not None
            tell_this_process()
            assert await handler == []
        finally:
            freed.set()
            common.total_tokens = before
        await plain


async def test_what_is_seen_twice_is_entered_once(store: Store) -> None:
    async with open_runtime(store=store, workflows=[Patient()]) as runtime:
        handler = await runtime.run("Patient", run_id="a")
        log = runtime._runs["a"].log
        assert log is not None
        await post(store, Patient(), "a", Charged("pen"))
        (message,) = store.mail("a")
        for _ in range(3):
            log.receive(message)
            await anyio.lowlevel.checkpoint()
        await runtime.join()
        await runtime.send_event("a", Approved())
        assert await handler == ["pen"]


async def test_what_a_run_at_rest_has_no_use_for_is_told_to_who_sent_it(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    async with two(store, WaitsForApproval) as (owner, sender):
        handler = await owner.run("WaitsForApproval", run_id="a")
        with pytest.raises(UnexpectedEvent, match=r"WaitsForApproval doesn't take Charged now: it takes Approved"):
            await sender.send_event("a", Charged("pen"))
        assert "run a could not take what was sent to it (unexpected: ['Approved'])" in caplog.text
        assert store.mail() == [] and store.message(1) is None
        await sender.send_event("a", Approved())
        assert await handler == "me"
        assert len(await sent(owner, "a")) == 1


async def test_what_no_run_of_the_workflow_could_ever_take_is_not_posted(store: Store) -> None:
    async with two(store, Ask) as (owner, sender):
        handler = await owner.run("Ask", run_id="a")
        with pytest.raises(UnexpectedEvent, match=r"doesn't take Charged now: it takes HumanResponseEvent"):
            await sender.send_event("a", Charged("pen"))
        assert store.post("a", b"", 0.0) == 1
        store.withdraw(1)
        await sender.send_event("a", HumanResponseEvent(response=1))
        assert await handler == 1


async def test_a_run_that_ends_first(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    class Ends(Workflow):
        @step
        async def work(self, ctx: Context, ev: StartEvent) -> StopEvent:
            await anyio.sleep(10)
            return StopEvent(result="done")

    async with two(store, Ends) as (owner, sender):
        handler = await owner.run("Ends", run_id="a")
        with pytest.raises(RunFinished, match=r"send_event\(Approved\)"):
            await sender.send_event("a", Approved())
        assert await handler == "done"
        assert "run a had ended before it could take what was sent to it (1)" in caplog.text
        assert store.message(1) is None
        with pytest.raises(RunFinished):
            await sender.send_event("a", Approved())


async def test_a_run_whose_time_is_over_as_it_is_given_the_event(store: Store) -> None:
    """What it enters then is its end, and not the event."""
    async with two(store, Ask) as (owner, sender):
        handler = await owner.run("Ask", run_id="a", timeout=60)
        await anyio.sleep(1)
        owner._runs["a"]._limit = 0.0  # its event loop was held up until then
        with pytest.raises(RunFinished):
            await sender.send_event("a", HumanResponseEvent(response=1))
        with pytest.raises(WorkflowTimeoutError):
            await handler
        assert store.mail() == [] and store.message(1) is None and await sent(owner, "a") == []


async def test_a_run_that_is_driven_from_outside_keeps_what_it_has_no_use_for_yet(store: Store) -> None:
    class Keeps(Workflow):
        @step
        async def begin(self, ev: StartEvent) -> None:
            return None

        @step
        async def end(self, ctx: Context, ev: Approved) -> StopEvent:
            return StopEvent(result=(await ctx.wait_for_event(Charged)).item)

    async with two(store, lambda: Keeps(stalled="wait")) as (owner, sender):
        handler = await owner.run("Keeps", run_id="a")
        await anyio.sleep(1)
        await sender.send_event("a", Charged("pen"))
        await sender.send_event("a", Approved())
        assert await handler == "pen"


async def test_who_gives_up_waiting_has_posted_it_all_the_same(store: Store) -> None:
    async with two(store, Late) as (owner, sender):
        handler = await owner.run("Late", run_id="a")
        with anyio.move_on_after(1) as scope:
            await sender.send_event("a", Approved("you"))
        assert scope.cancelled_caught
        assert await handler == "you"


async def test_an_owner_that_goes_away_first_leaves_it_to_the_next(store: Store) -> None:
    """The sender's own runtime takes the run over."""
    async with (
        open_runtime(store=store, workflows=[Late()], take_up=False) as sender,
        anyio.create_task_group() as group,
    ):
        async with open_runtime(store=store, workflows=[Late()]) as owner:
            await owner.run("Late", run_id="a")
            group.start_soon(sender.send_event, "a", Approved("you"))
            await anyio.sleep(5)
        await anyio.sleep(1)
        assert await sender.handler("a") == "you"
        assert len(await sent(sender, "a")) == 1


async def test_a_sender_is_told_at_once_that_the_owner_has_gone_away(store: Store) -> None:
    """It needn't look round first, which it does every third of its lease."""
    async with (
        open_runtime(store=store, workflows=[Late()], take_up=False, lease=1e6) as sender,
        anyio.create_task_group() as group,
    ):
        async with open_runtime(store=store, workflows=[Late()], lease=1e6) as owner:
            await owner.run("Late", run_id="a")
            group.start_soon(sender.send_event, "a", Approved("you"))
            await anyio.sleep(5)
        await anyio.sleep(60)
        info = store.info("a")
        assert info is not None and info.status == "finished"


async def test_what_is_posted_to_a_run_that_nobody_drives_brings_it_back(store: Store) -> None:
    """As where a run leaves memory at the moment at which something is posted to it."""
    async with open_runtime(store=store, workflows=[Ask()], release_after=1) as runtime:
        await runtime.run("Ask", run_id="a")
        await runtime.run("Ask", run_id="b")
        await anyio.sleep(5)
        assert [info.owner for info in await runtime.runs()] == [None, None]
        await post(store, Ask(), "a", HumanResponseEvent(response=1))
        await anyio.sleep(40)
        assert {info.run_id: info.status for info in await runtime.runs()} == {"a": "finished", "b": "waiting"}
        assert await runtime.handler("a") == 1


async def test_what_comes_while_a_run_is_being_released(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is given to a log that takes nothing any more; so the run is taken up again at once."""
    store = MemoryStore()
    async with open_runtime(store=store, workflows=[Ask()], release_after=1, lease=1e6) as runtime:
        await runtime.run("Ask", run_id="a")
        await anyio.sleep(0.5)
        log = runtime._runs["a"].log
        assert log is not None
        close = type(log).close

        async def slow_close(self: Any, report: Any) -> None:
            monkeypatch.undo()
            await anyio.sleep(0.5)  # the keeper has looked round by then
            await post(store, Ask(), "a", HumanResponseEvent(response=1))
            self.receive(*store.mail("a"))
            await close(self, report)

        monkeypatch.setattr(type(log), "close", slow_close)
        await anyio.sleep(3)
        info = store.info("a")
        assert info is not None and info.status == "finished"
        assert await runtime.handler("a") == 1


async def test_what_is_posted_to_a_run_that_nobody_drives_needs_no_keeper(store: Store) -> None:
    """The runtime that is told of it needn't look round first, which it does every third of its lease."""
    async with open_runtime(store=store, workflows=[Ask()], lease=1e6, release_after=1) as runtime:
        await runtime.run("Ask", run_id="a")
        await anyio.sleep(5)
        assert [info.owner for info in await runtime.runs()] == [None]
        await post(store, Ask(), "a", HumanResponseEvent(response=1))
        tell_this_process()
        await anyio.sleep(1)
        assert [info.status for info in await runtime.runs()] == ["finished"]


def test_a_message_that_is_taken_as_its_run_ends() -> None:
    """It is seen to be there, and the run to have ended: then it isn't there any more, so it was taken."""

    class Ends(MemoryStore):
        def info(self, run_id: str) -> Any:
            self.commit([Write("a", 1, 0, (), 2.0, "finished", taken=[1])])
            return super().info(run_id)

    store = Ends()
    store.commit([Write("a", 1, 0, (), 1.0, new=NewRun("Ask", "me"))])
    assert store.post("a", b"", 1.0) == 1
    assert is_delivered(store, 1, "a", "send_event()")


async def test_what_is_posted_while_nobody_is_there(store: Store) -> None:
    async with open_runtime(store=store, workflows=[Ask(), Slow()]) as runtime:
        for run_id, flow in (("a", "Ask"), ("b", "Ask"), ("c", "Slow")):
            await runtime.run(flow, run_id=run_id)
    await post(store, Ask(), "a", HumanResponseEvent(response=1))
    async with open_runtime(store=store, workflows=[Ask(), Slow()], take_up=False) as runtime:
        await anyio.sleep(100)
        assert {info.run_id: info.owner for info in await runtime.runs()} == {"a": None, "b": None, "c": None}
        assert await runtime.handler("a") == 1
    async with open_runtime(store=store, workflows=[Ask()]) as runtime:
        await post(store, Ask(), "b", HumanResponseEvent(response=2))
        await anyio.sleep(40)
        assert await runtime.handler("b") == 2


async def post(store: Store, workflow: Workflow, run_id: str, event: Event) -> None:
    letter = records_of(workflow).fact(EventSent(0.0, None, event, None))
    assert await anyio.to_thread.run_sync(store.post, run_id, letter, 0.0) is not None


class Outer(Workflow):
    @step
    async def work(self, ev: StartEvent, child: Ask) -> StopEvent:
        return StopEvent(result=[await child.run(), await child.run()])


def outer() -> Workflow:
    made = Outer()
    made.add_workflows(child=Ask())
    return made


async def test_an_answer_for_a_nested_run(store: Store) -> None:
    """To the run it is in, which hands it down; and to itself, by its own id."""
    async with two(store, outer, Ask) as (owner, sender):
        handler = await owner.run("Outer", run_id="a")
        await anyio.sleep(1)
        await sender.send_event("a", HumanResponseEvent(response=1))
        await anyio.sleep(1)
        (nested,) = [info for info in store.find(parent="a") if info.status == "waiting"]
        await sender.send_event(nested.run_id, HumanResponseEvent(response=2))
        assert await handler == [1, 2]
        assert store.mail() == []


@pytest.mark.parametrize("durability", ["sync", "async"])
async def test_a_store_that_fails_just_then(durability: Any) -> None:
    """The run is stopped, the message is still there, and the run has it when it goes on."""

    class Shaky(MemoryStore):
        fails = 0

        def commit(self, writes: Any, *, wait: bool = True) -> list[bool]:
            if self.fails and any(write.taken for write in writes):
                self.fails -= 1
                raise StoreError("the store", "the disk is full", "make room", "full")
            return super().commit(writes, wait=wait)

    store = Shaky()
    async with two(store, Ask, durability=durability) as (owner, sender):
        await owner.run("Ask", run_id="a")
        store.fails = 1
        await sender.send_event("a", HumanResponseEvent(response=7))
        assert store.fails == 0
        await sender.join()
        await owner.join()
        assert len(await sent(sender, "a")) == 1
        assert (await sender.handler("a")) == 7


async def test_a_cancellation_that_could_not_be_stored_gives_the_run_up() -> None:
    """Its owner lives on, for another run: who cancels takes this one over."""

    class Shaky(MemoryStore):
        fails = 1

        def commit(self, writes: Any, *, wait: bool = True) -> list[bool]:
            if self.fails and any(write.status == "cancelled" for write in writes):
                self.fails -= 1
                raise StoreError("the store", "the disk is full", "make room", "full")
            return super().commit(writes, wait=wait)

    store = Shaky()
    async with anyio.create_task_group() as group:
        group.start_soon(_outcome, Slow().run(store=store, run_id="other"))
        group.start_soon(_outcome, first := Slow().run(store=store, run_id="a"))
        await anyio.sleep(1)
        async with open_runtime(store=store, workflows=[Slow()], take_up=False) as sender:
            with anyio.fail_after(20):
                await sender.cancel("a")
        assert isinstance(first.exception(), StoreError)
        info = store.info("a")
        assert info is not None and info.status == "cancelled"
        assert store.mail() == [] and store.fails == 0
        group.cancel_scope.cancel()


async def _outcome(handler: Any) -> None:
    with suppress(WorkflowRuntimeError, StoreError):
        await handler


async def test_mail_that_could_not_be_read_is_read_again(caplog: pytest.LogCaptureFixture) -> None:
    """Whoever has called for it won't call for it again. It is said once."""

    class Shaky(MemoryStore):
        fails = 0

        def mail(self, run_id: str | None = None) -> Any:
            if run_id is None and self.fails:
                self.fails -= 1
                raise StoreError("the store", "the disk is away", "put it back", "failed")
            return super().mail(run_id)

    store = Shaky()
    async with open_runtime(store=store, workflows=[Ask()], lease=1e6) as runtime:
        handler = await runtime.run("Ask", run_id="a")
        await anyio.sleep(1)
        store.fails = 3
        await post(store, Ask(), "a", HumanResponseEvent(response=1))
        tell_this_process()
        with anyio.fail_after(5):
            assert await handler == 1
        assert store.fails == 0
    assert caplog.text.count("could not be read") == 1


async def test_an_answer_for_a_nested_run_that_is_in_a_store_of_its_own() -> None:
    """One transaction can't have both: what it answers is stored there, then the message is taken here."""
    commits: list[tuple[str, int]] = []

    class Noting(MemoryStore):
        def commit(self, writes: Any, *, wait: bool = True) -> list[bool]:
            commits.extend((write.run_id, len(write.records)) for write in writes if write.records or write.taken)
            return super().commit(writes, wait=wait)

    one, other = Noting(), Noting()

    class Apart(Workflow):
        @step
        async def work(self, ev: StartEvent, child: Ask) -> StopEvent:
            return StopEvent(result=await child.run(store=other, run_id="child"))

    def apart() -> Workflow:
        made = Apart()
        made.add_workflows(child=Ask())
        return made

    async with two(one, apart) as (owner, sender):
        handler = await owner.run("Apart", run_id="a")
        await anyio.sleep(1)
        commits.clear()
        await sender.send_event("a", HumanResponseEvent(response=3))
        assert commits[:2] == [("child", 1), ("a", 0)]
        assert await handler == 3
        assert one.mail() == other.mail() == []


async def test_what_cannot_be_read_is_refused(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    async with two(store, Patient) as (owner, sender):
        handler = await owner.run("Patient", run_id="a")
        numbers = [store.post("a", text, 0.0) for text in (b"", b'["sent', b'["rested",1.0]', b"\xff")]
        await sender.send_event("a", Approved())
        assert await handler == []
        for number in numbers:
            assert number is not None
            message = store.message(number)
            assert message is not None and message.refusal is not None and message.refusal.startswith('["unreadable"')
    assert caplog.text.count("run a could not take what was sent to it (unreadable: ") == 4


async def test_what_the_authors_code_fails_at_is_refused(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    """The run goes on, and so does its owner's event loop."""

    class Choosy(Workflow):
        @step
        async def work(self, ctx: Context, ev: StartEvent) -> StopEvent:
            return StopEvent(result=(await ctx.wait_for_event(Answer, requirements={"n": 1})).n)

    class Answer(Event):
        n: Any

    async with two(store, Choosy) as (owner, sender):
        handler = await owner.run("Choosy", run_id="a")
        run = owner._runs["a"]
        takes = type(run).takes
        calls: list[Event] = []

        def fails(self: Any, event: Event) -> bool:
            calls.append(event)
            if len(calls) == 1:
                raise ValueError("don't touch me")
            return takes(self, event)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(type(run), "takes", fails)
            with pytest.raises(CodeChanged, match=r"can't take what was sent: ValueError: don't touch me"):
                await sender.send_event("a", Answer(n=1))
        assert "run a failed to take what was sent to it" in caplog.text
        await sender.send_event("a", Answer(n=1))
        assert await handler == 1


async def test_code_that_knows_no_such_step(store: Store) -> None:
    """The sender's is newer."""

    class Other(Workflow):
        @step
        async def begin(self, ctx: Context, ev: StartEvent) -> StopEvent:
            return StopEvent(result=(await ctx.wait_for_event(Approved)).by)

    class Newer(Workflow):
        @step
        async def begin(self, ctx: Context, ev: StartEvent) -> StopEvent:
            return StopEvent(result=(await ctx.wait_for_event(Approved)).by)

        @step
        async def approve(self, ev: Approved) -> StopEvent:
            return StopEvent(result=ev.by)

    Newer.__name__ = "Other"
    async with (
        open_runtime(store=store, workflows=[Other()]) as owner,
        open_runtime(store=store, workflows=[Newer(stalled="wait")]) as sender,
    ):
        handler = await owner.run("Other", run_id="a")
        with pytest.raises(CodeChanged, match=r"whoever drives it can't take what was sent: .*'approve'"):
            await sender.send_event("a", Approved(), step="approve")
        await sender.send_event("a", Approved("you"))
        assert await handler == "you"


async def test_a_run_that_is_deleted_or_set_aside_meanwhile(store: Store) -> None:
    async with two(store, Slow) as (owner, _):
        await owner.run("Slow", run_id="a")
        info = store.info("a")
        assert info is not None
        async with open_runtime(store=store, workflows=[Late()]) as sender:
            for run_id in ("b", "c"):
                store.commit([Write(run_id, 1, 0, [], 1.0, new=_new("Late", info.owner))])
            async with anyio.create_task_group() as group:
                group.start_soon(_after, 1, lambda: store.delete(["b"]))
                with pytest.raises(UnknownRun):
                    await sender.send_event("b", Approved())
                group.start_soon(_after, 1, lambda: store.commit([Write("c", 1, 0, [], 2.0, "damaged")]))
                with pytest.raises(RunDamaged, match="set aside"):
                    await sender.send_event("c", Approved())
            with pytest.raises(RunDamaged):
                await sender.send_event("c", Approved())
        await owner.cancel("a")


def _new(workflow: str, owner: str | None) -> NewRun:
    return NewRun(workflow, owner or "")


async def _after(seconds: float, call: Callable[[], object]) -> None:
    await anyio.sleep(seconds)
    await anyio.to_thread.run_sync(call)


async def test_nothing_is_looked_for_in_a_store_of_one_process(caplog: pytest.LogCaptureFixture) -> None:
    """So a simulation knows when nothing can happen any more."""
    looks: list[None] = []

    class Counting(MemoryStore):
        def changes(self) -> int | None:
            looks.append(None)
            return None

    async with open_runtime(store=Counting(), workflows=[Slow()]) as runtime:
        assert await (await runtime.run("Slow")) == "slept"
    assert looks == []


async def test_a_store_that_knows_of_no_changes_is_looked_into_each_time() -> None:
    store, loop = MemoryStore(), backend.current()
    assert loop is not None and store.changes() is None
    store.commit([Write("a", 1, 0, (), 1.0, new=NewRun("Ask", "me"))])
    mailbox, calls = Mailbox(store, loop), list[None]()
    mailbox.call = lambda: calls.append(None)  # type: ignore[method-assign]
    none = frozenset[int]()
    assert mailbox.look(None, none) == (None, none) and calls == []
    assert store.post("a", b"", 1.0) == 1
    assert mailbox.look(None, none) == (None, {1}) and len(calls) == 1
    assert mailbox.look(None, frozenset({1})) == (None, {1}) and len(calls) == 1
    store.withdraw(1)
    assert mailbox.look(None, frozenset({1})) == (None, none) and len(calls) == 1


async def test_that_nobody_can_look_is_said_once_each_time(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flowkit.mailbox.INTERVAL", 0)
    loop = backend.current()
    assert loop is not None
    mailbox = Mailbox(MemoryStore(), loop)
    watcher = _Watcher(mailbox)
    looks = ["fails", "fails", "goes", "fails", "fails", "fails", "goes"]

    def look(before: int | None, known: frozenset[int]) -> tuple[int | None, frozenset[int]]:
        if len(looks) == 1:
            watcher.stopped.set()
        if looks.pop(0) == "fails":
            raise StoreError("the store", "the disk is away", "put it back", "failed")
        return before, known

    mailbox.look = look  # type: ignore[method-assign]
    watcher.run()
    assert looks == [] and caplog.text.count("mail could not be looked for") == 2


async def test_nobody_looks_any_more_when_the_runtime_has_closed(tmp_path: Path) -> None:
    """A look would open the store again, which may be closed by then."""
    looks: list[str] = []
    began, go_on = threading.Event(), threading.Event()

    class Slow(SQLiteStore):
        def changes(self) -> int | None:
            looks.append("begins")
            began.set()
            assert go_on.wait(60)
            looks.append("ends")
            return super().changes()

    store = Slow(tmp_path / "runs.db")
    async with open_runtime(store=store, workflows=[]):
        await anyio.sleep(1)
        assert await anyio.to_thread.run_sync(began.wait, 60)
        later = threading.Timer(0.05, go_on.set)
        later.start()
    store.close()
    later.join()
    assert looks == ["begins", "ends"]


async def test_take_up_is_yes_or_no() -> None:
    wrong: Any = 1
    with pytest.raises(WrongCall, match=r"got take_up=1: give True or False"):
        async with open_runtime(store=MemoryStore(), workflows=[], take_up=wrong):
            pass
