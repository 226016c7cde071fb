"""A runtime's history, forks, block and arguments."""

import math
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import anyio
import pytest
from stored_flows import (
    Approved,
    Ask,
    Broken,
    Charged,
    Order,
    Patient,
    Placed,
    Question,
    Slow,
    WaitsForApproval,
    the_logs_errors,
    wall_clock,
)

from flowkit import (
    Context,
    EventError,
    HumanResponseEvent,
    InvalidWorkflow,
    NoEventLoop,
    RunFinished,
    StartEvent,
    StepFailed,
    StopEvent,
    Workflow,
    WorkflowStalled,
    WrongCall,
    step,
)
from flowkit.facts import EventSent, RunStarted, StateWritten, StepReturned
from flowkit.memory_store import MemoryStore
from flowkit.runtime import Runtime, open_runtime
from flowkit.storage_errors import RunSuspended

__all__ = ["wall_clock"]


# ----------------------------------------------------------------------------------------------- history and forks


async def test_the_history_of_a_run() -> None:
    async with open_runtime(store=MemoryStore(), workflows=[Order()]) as runtime:
        await anyio.sleep(7)
        await (await runtime.run("Order", run_id="a", item="pen"))
        history = await runtime.history("a")
        assert [(type(one.fact), one.step) for one in history] == [
            (RunStarted, None),
            (StateWritten, None),
            (StepReturned, "charge"),
            (StepReturned, "ship"),
        ]
        assert [one.number for one in history] == [1, 2, 3, 4]
        assert [one.time - history[0].time for one in history] == pytest.approx([0, 0, 1, 2])
        assert isinstance(history[0].fact, RunStarted)
        assert history[0].fact.event == Placed("pen")


async def test_the_history_of_a_run_under_way() -> None:
    async with open_runtime(store=MemoryStore(), workflows=[Patient()]) as runtime:
        await runtime.run("Patient", run_id="a")
        await runtime.send_event("a", Charged("pen"))
        await runtime.join()
        facts = [one.fact for one in await runtime.history("a")]
        (sent,) = [fact for fact in facts if isinstance(fact, EventSent)]
        assert (sent.event, sent.sender) == (Charged("pen"), None)


class Steps(Workflow):
    """Three steps of a second each; ``done`` has their names, ``bad`` is one that fails."""

    def __init__(self) -> None:
        super().__init__()
        self.done: list[str] = []
        self.bad = ""

    async def work(self, name: str, ctx: Context) -> None:
        self.done.append(name)
        await ctx.set("done", [*await ctx.get("done", []), name])
        if self.bad == name:
            raise ValueError(name)
        await anyio.sleep(1)

    @step
    async def one(self, ctx: Context, ev: Placed) -> Charged:
        await self.work("one", ctx)
        return Charged(ev.item)

    @step
    async def two(self, ctx: Context, ev: Charged) -> Approved:
        await self.work("two", ctx)
        return Approved(ev.item)

    @step
    async def three(self, ctx: Context, ev: Approved) -> StopEvent:
        await self.work("three", ctx)
        return StopEvent(result=(ev.by, await ctx.get("done")))


async def test_a_fork_goes_on_after_a_step() -> None:
    workflow = Steps()
    async with open_runtime(store=MemoryStore(), workflows=[workflow]) as runtime:
        await (await runtime.run(workflow, run_id="a", item="pen"))
        before = await runtime.history("a")
        for after, rest in (("one", ["two", "three"]), ("two", ["three"])):
            workflow.done.clear()
            fork = await runtime.fork("a", after=after)
            assert await fork == ("pen", ["one", "two", "three"])
            assert workflow.done == rest
        assert await runtime.history("a") == before
        assert {one.status for one in await runtime.runs()} == {"finished"}


async def test_a_fork_goes_on_at_any_number() -> None:
    workflow = Steps()
    async with open_runtime(store=MemoryStore(), workflows=[workflow]) as runtime:
        await (await runtime.run(workflow, run_id="a", item="pen"))
        last = len(await runtime.history("a"))
        for number in range(1, last):
            fork = await runtime.fork("a", after=number, new_id=f"fork {number}")
            assert fork.run_id == f"fork {number}"
            item, done = await fork
            assert (item, done[-1], set(done)) == ("pen", "three", {"one", "two", "three"})


async def test_a_fork_mends_a_run_that_failed() -> None:
    workflow = Steps()
    workflow.bad = "three"
    async with open_runtime(store=MemoryStore(), workflows=[workflow]) as runtime:
        failed = await runtime.run(workflow, run_id="a", item="pen")
        with pytest.raises(StepFailed):
            await failed
        workflow.bad = ""
        workflow.done.clear()
        assert await (await runtime.fork("a", after="two")) == ("pen", ["one", "two", "three"])
        assert workflow.done == ["three"]
        assert [one.status for one in await runtime.runs(status="failed")] == ["failed"]


async def test_a_fork_and_its_original_go_their_own_ways() -> None:
    async with open_runtime(store=MemoryStore(), workflows=[Patient()]) as runtime:
        handler = await runtime.run("Patient", run_id="a")
        await runtime.send_event("a", Charged("first"))
        await runtime.join()
        fork = await runtime.fork("a", after="note", new_id="b")
        await runtime.send_event("a", Charged("original"))
        await runtime.send_event("b", Charged("fork"))
        await runtime.join()
        for one in "ba":
            await runtime.send_event(one, Approved())
        assert (await handler, await fork) == (["first", "original"], ["first", "fork"])


async def test_a_fork_of_a_run_under_way_and_of_one_that_waits() -> None:
    workflow = Steps()
    async with open_runtime(store=MemoryStore(), workflows=[workflow, Ask()]) as runtime:
        handler = await runtime.run(workflow, run_id="a", item="pen")
        ask = await runtime.run("Ask", run_id="ask")
        await anyio.sleep(1.5)
        fork = await runtime.fork("a", after="one")
        assert await fork == await handler == ("pen", ["one", "two", "three"])
        asks = await runtime.fork("ask", after="ask")
        async for event in asks.stream_events():
            assert event == Question("how many?")
            break
        asks.send_event(HumanResponseEvent(response=1))
        ask.send_event(HumanResponseEvent(response=2))
        assert (await asks, await ask) == (1, 2)


async def test_a_fork_of_a_fork_survives_a_restart() -> None:
    store, workflow = MemoryStore(), Steps()
    async with open_runtime(store=store, workflows=[workflow]) as runtime:
        await (await runtime.run(workflow, run_id="a", item="pen"))
        await (await runtime.fork("a", after="one", new_id="b"))
        await runtime.fork("b", after="two", new_id="c")
    workflow.done.clear()
    async with open_runtime(store=store, workflows=[workflow]) as runtime:
        # a step that was cut off between its write and its return writes again
        item, done = await runtime.handler("c")
        assert (item, done[:3], set(done[2:])) == ("pen", ["one", "two", "three"], {"three"})
        assert set(workflow.done) == {"three"}
        assert await runtime.handler("b") == ("pen", ["one", "two", "three"])


@pytest.mark.parametrize(
    ("after", "text"),
    [
        ("three", r"got after='three', which hasn't returned in run 'a': give one of one, two\."),
        ("ship", r"got after='ship', which hasn't returned in run 'a': give one of one, two\."),
        (0, r"got after=0, but run 'a' has records 1 to \d+: give one"),
        (99, r"got after=99, but run 'a' has records 1 to \d+: give one"),
        (-1, r"got after=-1, but run 'a' has records 1 to \d+: give one"),
        (True, r"takes a step's name or a record's number as after, but got True"),
        (None, r"takes a step's name or a record's number as after, but got None"),
        (Steps.one, r"takes a step's name or a record's number as after, but got <function Steps.one"),
    ],
)
async def test_a_fork_after_what_was_never_there(after: Any, text: str) -> None:
    workflow = Steps()
    workflow.bad = "three"
    async with open_runtime(store=MemoryStore(), workflows=[workflow]) as runtime:
        with pytest.raises(StepFailed):
            await (await runtime.run(workflow, run_id="a", item="pen"))
        with pytest.raises(WrongCall, match=rf"fork\(\) {text}"):
            await runtime.fork("a", after=after)


async def test_a_fork_before_any_step_has_returned() -> None:
    async with open_runtime(store=MemoryStore(), workflows=[Slow()]) as runtime:
        await runtime.run("Slow", run_id="a")
        with pytest.raises(
            WrongCall, match="got after='work', which hasn't returned in run 'a': wait until a step has"
        ):
            await runtime.fork("a", after="work")


async def test_a_fork_at_the_end_of_a_run_that_has_ended() -> None:
    async with open_runtime(store=MemoryStore(), workflows=[Order()]) as runtime:
        await (await runtime.run("Order", run_id="a", item="pen"))
        for after in ("ship", 4):
            text = rf"got after={after!r}, where run 'a' had ended: give an earlier one"
            with pytest.raises(WrongCall, match=text):
                await runtime.fork("a", after=after)
        assert len(await runtime.runs()) == 1


async def test_the_id_of_a_fork() -> None:
    async with open_runtime(store=MemoryStore(), workflows=[Order()]) as runtime:
        await (await runtime.run("Order", run_id="a", item="pen"))
        cases: list[tuple[Any, str]] = [
            ("a", r"got new_id='a', but there is a run of this id: give another, or leave it out"),
            (7, r"takes a string as new_id, but got 7: write str\(…\)"),
            ("", r"got new_id='': give a name, or leave it out"),
        ]
        for bad, text in cases:
            with pytest.raises(WrongCall, match=rf"fork\(\) {text}"):
                await runtime.fork("a", after="charge", new_id=bad)
        assert len(await runtime.runs()) == 1


# ------------------------------------------------------------------------------------------------------ its block


async def test_an_error_in_the_block_comes_out_as_itself(caplog: pytest.LogCaptureFixture) -> None:
    store = MemoryStore()
    with the_logs_errors(caplog) as told:
        for error in (ValueError("mine"), ExceptionGroup("several", [OSError()]), KeyboardInterrupt()):
            with pytest.raises(type(error)) as raised:
                async with open_runtime(store=store, workflows=[Slow()]) as runtime:
                    await runtime.run("Slow", run_id="a")
                    raise error
            assert raised.value is error
            (info,) = store.find()
            assert (info.status, info.owner) == ("running", None)
        assert store.owners() == []
    assert told == []


async def test_an_error_of_an_awaited_run_comes_out_of_the_block() -> None:
    with pytest.raises(StepFailed, match="no such customer"):
        async with open_runtime(store=MemoryStore(), workflows=[Broken()]) as runtime:
            await (await runtime.run("Broken"))


async def test_a_run_that_fails_does_not_end_the_runtime(caplog: pytest.LogCaptureFixture) -> None:
    with the_logs_errors(caplog) as told:
        async with open_runtime(store=MemoryStore(), workflows=[Broken(), Order()]) as runtime:
            await runtime.run("Broken", run_id="a")
            order = await runtime.run("Order")
            assert await order == "book for book"
    (line,) = told
    assert line == ("run a of Broken ended here with an error Error in step 'work': ValueError: no such customer")


async def test_ctrl_c_in_a_step_ends_the_runtime_and_the_run_goes_on_in_the_next() -> None:
    class Interrupted(Workflow):
        times = 0

        @step
        async def work(self, ev: StartEvent) -> StopEvent:
            self.times += 1
            await anyio.sleep(1)
            if self.times == 1:
                raise KeyboardInterrupt
            return StopEvent(result=self.times)

    store, workflow = MemoryStore(), Interrupted()
    with pytest.raises(KeyboardInterrupt):
        async with open_runtime(store=store, workflows=[workflow]) as runtime:
            await runtime.run(workflow, run_id="a")
            await anyio.sleep_forever()
    async with open_runtime(store=store, workflows=[workflow]) as runtime:
        assert await runtime.handler("a") == 2


async def test_a_cancelled_block_suspends_its_runs() -> None:
    store, workflow = MemoryStore(), Slow()
    with anyio.move_on_after(50) as scope:
        async with open_runtime(store=store, workflows=[workflow]) as runtime:
            handler = await runtime.run(workflow, run_id="a")
            await handler
    assert scope.cancelled_caught
    assert workflow.ended == 1
    async with open_runtime(store=store, workflows=[workflow]) as runtime:
        assert await runtime.handler("a") == "slept"


async def test_leaving_the_block_suspends_what_is_under_way(caplog: pytest.LogCaptureFixture) -> None:
    text = "run 'a' of Slow was suspended, as its runtime was closed: it goes on from its store when the same run_id"
    with the_logs_errors(caplog) as told:
        async with open_runtime(store=MemoryStore(), workflows=[Slow()]) as runtime:
            handler = await runtime.run("Slow", run_id="a")
            dropped = await runtime.run("Slow", run_id="b")
        with pytest.raises(RunSuspended, match=text) as suspended:
            await handler
        assert not suspended.value.waiting
        assert handler.is_done()
        with pytest.raises(RunSuspended, match="was suspended, as its runtime was closed"):
            handler.send_event(Approved())
        del dropped
    assert told == []


async def test_a_closed_runtime() -> None:
    async with open_runtime(store=MemoryStore(), workflows=[Order(), Ask()]) as runtime:
        await (await runtime.run("Order", run_id="a"))
        await runtime.run("Ask", run_id="b")
        await runtime.join()
    calls: list[Callable[[], Awaitable[Any]]] = [
        lambda: runtime.run("Order"),
        lambda: runtime.run("Order", run_id="a"),
        lambda: runtime.send_event("b", HumanResponseEvent(response=1)),
        lambda: runtime.cancel("b"),
        lambda: runtime.fork("a", after="charge"),
        lambda: runtime.handler("b"),  # type: ignore[arg-type,return-value]
    ]
    for call in calls:
        with pytest.raises(WrongCall, match="the runtime is closed: use it inside its `async with` block"):
            await call()
    assert [one.status for one in await runtime.runs()] == ["waiting", "finished"]


async def test_two_workflows_of_one_name() -> None:
    text = "got two workflows called Order: rename one"
    other = type("Order", (Ask,), {})
    for workflows in ([Order(), other()], [Order(), Order()]):
        with pytest.raises(WrongCall, match=text):
            async with open_runtime(store=MemoryStore(), workflows=workflows):
                pass


async def test_a_workflow_of_the_name_of_another_finds_runs_of_the_other_and_says_so() -> None:
    store = MemoryStore()
    async with open_runtime(store=store, workflows=[WaitsForApproval()]) as runtime:
        await runtime.run("WaitsForApproval", run_id="a")
        await anyio.sleep(1)
    other = type("WaitsForApproval", (Order,), {})
    async with open_runtime(store=store, workflows=[other()]) as runtime:
        with pytest.raises(Exception, match="run 'a' of WaitsForApproval can't go on with the code as it is now"):
            await runtime.handler("a")


async def test_a_runtime_without_that_workflow() -> None:
    store = MemoryStore()
    async with open_runtime(store=store, workflows=[Ask(), Order()]) as runtime:
        await runtime.run("Ask", run_id="a")
        await anyio.sleep(1)
    async with open_runtime(store=store, workflows=[Order()]) as runtime:
        text = r"the runtime has no workflow 'Ask', only Order: give it to open_runtime\(\)"
        with pytest.raises(WrongCall, match=text):
            runtime.handler("a")
        for call in (runtime.history, runtime.cancel):
            with pytest.raises(WrongCall, match=text):
                await call("a")
        with pytest.raises(WrongCall, match=text):
            await runtime.run("Ask")
        with pytest.raises(WrongCall, match=text):
            await runtime.run(Ask())
        assert [one.workflow for one in await runtime.runs()] == ["Ask"]
    async with open_runtime(store=store, workflows=[]) as runtime:
        with pytest.raises(
            WrongCall, match=r"the runtime has no workflow 'Ask', and no other: give it to open_runtime"
        ):
            await runtime.run("Ask")


# ------------------------------------------------------------------------------------------------------ arguments


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"store": "runs.db"}, r"takes a store, but got 'runs\.db': give one, SQLiteStore\(\"runs\.db\"\)"),
        ({"store": MemoryStore}, r"takes a store, but got MemoryStore: make one, MemoryStore\(…\)"),
        ({"store": None}, r"takes a store, but got None"),
        (
            {"workflows": Ask()},
            r"takes workflows, but got <.*Ask.*>: give instances in a list, workflows=\[Order\(\)\]",
        ),
        ({"workflows": [Ask]}, r"takes workflows, but got Ask: give instances in a list"),
        ({"workflows": "Ask"}, r"takes workflows, but got 'Ask': give instances in a list"),
        ({"workflows": None}, r"takes workflows, but got None: give instances in a list"),
        ({"durability": "none"}, r"got durability='none': give \"sync\" or \"async\""),
        ({"release_after": 0}, r"got release_after=0: give seconds, more than 0, or None"),
        ({"release_after": -1}, r"got release_after=-1: give seconds, more than 0"),
        ({"release_after": True}, r"got release_after=True: give seconds, more than 0"),
        ({"release_after": "60"}, r"got release_after='60': give seconds, more than 0"),
        ({"release_after": math.nan}, r"got release_after=nan: give seconds, more than 0"),
        ({"release_after": timedelta(1)}, r"got release_after=datetime\.timedelta\(days=1\): give seconds"),
        ({"release_suspended": "no"}, r"got release_suspended='no': give True or False"),
        ({"lease": 0}, r"got lease=0: give seconds, more than 0"),
        ({"lease": None}, r"got lease=None: give seconds, more than 0"),
        ({"lease": math.inf}, r"got lease=inf: give seconds, more than 0"),
        ({"keep_finished": -1}, r"got -1 as what to keep of ended runs: give a number of runs, seconds as a float"),
        ({"keep_finished": True}, r"got True as what to keep of ended runs"),
        ({"keep_finished": "all"}, r"got 'all' as what to keep of ended runs"),
        ({"keep_finished": math.nan}, r"got nan as what to keep of ended runs"),
        ({"keep_finished": timedelta(-1)}, r"got datetime\.timedelta\(days=-1\) as what to keep of ended runs"),
    ],
)
async def test_arguments_of_open_runtime(options: dict[str, Any], text: str) -> None:
    with pytest.raises(WrongCall, match=rf"open_runtime\(\) {text}"):
        async with open_runtime(**{"store": MemoryStore(), "workflows": [], **options}):
            pass


def test_a_runtime_needs_an_event_loop() -> None:
    opening = open_runtime(store=MemoryStore(), workflows=[]).__aenter__()
    with pytest.raises(NoEventLoop, match=r"open_runtime\(\) needs a running event loop"):
        opening.send(None)


async def test_a_workflow_that_can_not_run_is_found_when_the_runtime_opens() -> None:
    class Lost(Workflow):
        @step
        async def begin(self, ev: StartEvent) -> Charged:
            return Charged("pen")

    with pytest.raises(InvalidWorkflow, match="Lost can't run, it has"):
        async with open_runtime(store=MemoryStore(), workflows=[Lost()]):
            pass
    async with open_runtime(store=MemoryStore(), workflows=[Lost(disable_validation=True)]) as runtime:
        with pytest.raises(WorkflowStalled):
            await (await runtime.run("Lost"))


@pytest.mark.parametrize(
    ("call", "kind", "text"),
    [
        (
            lambda r: r.run(Order),
            WrongCall,
            r"the runtime takes a workflow or its name, but got Order: make",
        ),
        (lambda r: r.run(None), WrongCall, r"the runtime takes a workflow or its name, but got None"),
        (lambda r: r.run("order"), WrongCall, r"has no workflow 'order', only Order, Ask: did you mean 'Order'\?"),
        (lambda r: r.run("Order", run_id=7), WrongCall, r"runtime\.run\(\) takes a string as run_id, but got 7: write"),
        (
            lambda r: r.run("Order", run_id=""),
            WrongCall,
            r"runtime\.run\(\) got run_id='': give a name, or leave it out",
        ),
        (lambda r: r.run("Order", itm="pen"), EventError, r"Placed has no field 'itm'.*did you mean 'item'\?"),
        (lambda r: r.run("Order", item=7), EventError, r"Placed\.item takes str, but got 7"),
        (lambda r: r.run("Order", start_event=Charged("x")), WrongCall, r"takes a Placed as start_event, but got"),
        (lambda r: r.run("Order", start_event=Placed(), item="x"), WrongCall, r"got start_event and the fields item"),
        (lambda r: r.run("Order", timeout=-1), ValueError, r"Order has timeout=-1: give seconds, more than 0, or None"),
        (
            lambda r: r.send_event("ask", Approved),
            WrongCall,
            r"takes an event, but got Approved: build one, Approved\(…",
        ),
        (lambda r: r.send_event("ask", "yes"), WrongCall, r"takes an event, but got 'yes': put it into a field"),
        (lambda r: r.send_event(7, Approved()), WrongCall, r"takes a string as run_id, but got 7: write str"),
        (lambda r: r.cancel(None), WrongCall, r"takes a string as run_id, but got None"),
        (lambda r: r.history(7), WrongCall, r"takes a string as run_id, but got 7"),
        (lambda r: r.handler(7), WrongCall, r"takes a string as run_id, but got 7"),
        (lambda r: r.runs(status="done"), WrongCall, r"runs\(\) got status='done': give one of running, waiting, fin"),
        (
            lambda r: r.runs(status=["failed"]),
            WrongCall,
            r"runs\(\) got status=\['failed'\]: give one of running, wait",
        ),
        (lambda r: r.runs(limit=-1), WrongCall, r"runs\(\) got limit=-1: give a whole number, 0 or more, or None"),
        (lambda r: r.runs(limit="3"), WrongCall, r"runs\(\) got limit='3': give a whole number, 0 or more, or None"),
        (lambda r: r.runs(limit=True), WrongCall, r"runs\(\) got limit=True: give a whole number, 0 or more, or None"),
        (
            lambda r: r.runs(workflow=Order),
            WrongCall,
            r"runs\(\) takes a workflow or its name, but got Order: make one",
        ),
        (lambda r: r.runs(workflow=7), WrongCall, r"runs\(\) takes a workflow or its name, but got 7"),
        (lambda r: r.prune(keep=-1), WrongCall, r"prune\(\) got -1 as what to keep of ended runs: give a number"),
        (lambda r: r.prune(keep="1"), WrongCall, r"prune\(\) got '1' as what to keep of ended runs: give a number"),
        (
            lambda r: r.send_event("done", Approved()),
            RunFinished,
            r"send_event\(Approved\): this run of Order has ended",
        ),
    ],
)
async def test_arguments_of_a_runtimes_calls(call: Callable[[Runtime], Any], kind: Any, text: str) -> None:
    store = MemoryStore()
    async with open_runtime(store=store, workflows=[Order(), Ask()]) as runtime:
        await (await runtime.run("Order", run_id="done"))
        await runtime.run("Ask", run_id="ask")
        await runtime.join()
        before = store.find()
        with pytest.raises(kind, match=text):
            await call(runtime)
        assert store.find() == before
