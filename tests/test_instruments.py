"""Instruments are told of everything, in order, once; and whatever they do, runs are what they would be without."""

import contextvars
import functools
import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from types import TracebackType
from typing import Any

import anyio
import anyio.to_thread
import pytest
from anyio.abc import TaskGroup
from watched_flows import Approved, Checked, Item, Made, Question, Recorder, Wrapping, make_shop

import flowkit
from flowkit import (
    Context,
    Event,
    Instrument,
    MemoryStore,
    RunFinished,
    StartEvent,
    StepFailed,
    StopEvent,
    UnhandledEventWarning,
    WaitTimedOut,
    Workflow,
    WorkflowCancelledByUser,
    WrongCall,
    step,
)
from flowkit.handler import Handler
from flowkit.instruments import ObservedAttempt, ObservedRun, installed_for_all
from flowkit.retry_policy import ConstantDelayRetryPolicy


class Draft(Event):
    text: str


class Chain(Workflow):
    @step
    async def write(self, ev: StartEvent) -> Draft:
        return Draft("a joke")

    @step
    async def judge(self, ev: Draft) -> StopEvent:
        return StopEvent(result=ev.text)


class Failing(Workflow):
    @step(retry_policy=ConstantDelayRetryPolicy(maximum_attempts=1, delay=3))
    async def work(self, ev: StartEvent) -> StopEvent:
        raise ValueError("no luck")


@pytest.fixture(autouse=True)
def _none_is_left() -> Iterator[None]:
    yield
    assert list(installed_for_all()) == []


@contextmanager
def added(*instruments: Instrument) -> Iterator[None]:
    for one in instruments:
        flowkit.add_instrument(one)
    try:
        yield
    finally:
        for one in instruments:
            flowkit.remove_instrument(one)


async def answered(handler: Handler) -> Any:
    async with handler:
        events = handler.stream_events()
        async for event in events:
            if isinstance(event, Question):
                handler.send_event(Approved(event.n), to=events.origin)
        return await handler


# ----------------------------------------------------------------------------------------------------- what it is told


async def test_the_order_of_a_chain() -> None:
    told = Recorder()
    assert await Chain(instruments=[told]).run() == "a joke"
    assert told.calls == [
        "Chain called",
        "Chain carries",
        "Chain starts",
        "write 0 queued",
        "around write 0",
        "write 0 begins",
        "write 0 returned",
        "judge 0 queued by write 0",
        "around judge 0",
        "judge 0 begins",
        "judge 0 returned",
        "Chain finished",
    ]
    assert told.runs[0].result == "a joke" and told.runs[0].error is None
    assert told.runs[0].start_event == StartEvent() and not told.runs[0].stored


async def test_a_retry_is_another_attempt_caused_by_the_one_before() -> None:
    told = Recorder()
    with pytest.raises(StepFailed):
        await Failing(instruments=[told]).run()
    assert [call for call in told.calls if call.startswith("work")] == [
        "work 0 queued",
        "work 0 begins",
        "work 0 raised",
        "work 1 queued by work 0",
        "work 1 begins",
        "work 1 raised",
    ]
    first, second = told.attempts
    assert (first.delay, second.delay) == (3, None)
    assert isinstance(first.error, ValueError) and first.invocation == second.invocation
    assert first.ended is not None and second.queued == pytest.approx(first.ended + 3, abs=1e-3)
    assert isinstance(told.runs[0].error, StepFailed) and told.runs[0].outcome == "failed"


@pytest.mark.parametrize("stored", [False, True])
@pytest.mark.parametrize("limit", [None, 1])
async def test_when_its_timeout_is_over_is_told(stored: bool, limit: int | None) -> None:
    told = Recorder()
    workflow = Failing(instruments=[told], timeout=60, num_concurrent_runs=limit)
    for run_id in ("a", "b"):
        with pytest.raises(StepFailed):
            await (workflow.run(store=MemoryStore(), run_id=run_id) if stored else workflow.run())
    for run in told.runs:
        assert run.deadline is not None and run.deadline - (run.began or 0.0) == pytest.approx(60, abs=1e-3)
    await Chain(instruments=[told]).run()
    assert told.runs[-1].deadline is None


async def test_everything_in_one_run() -> None:
    told, checked = Recorder(), Checked()
    assert await answered(make_shop(told, checked).run()) == [0, 1, 2]
    assert checked.amiss() == []
    assert [call for call in told.calls if "wait" in call or "shown" in call or "sent" in call] == [
        "Made(n=2) shown by work",
        "work waits for Approved",
        "Approved(n=2) sent by somebody outside",
        "work's wait answered",
    ]
    assert [call for call in told.calls if call.startswith("Wrapping")] == [
        "Wrapping called",
        "Wrapping carries",
        "Wrapping starts",
        "Wrapping finished",
    ]
    [wait] = told.waits
    assert (wait.question, wait.answer, wait.timeout, wait.requirements) == (Question(2), Approved(2), 60, {"n": 2})
    nested = told.runs[1].parent
    assert nested is not None and nested.step == "work" and nested.event == Item(1)
    assert [one.step for one in told.attempts if one.run is told.runs[0]] == [*["plan"], *["work"] * 4, "gather"]
    assert all(one.where is not None and "watched_flows.py" in one.where for one in told.attempts)


class Counting(Workflow):
    @step
    async def begin(self, ctx: Context, ev: StartEvent) -> Item | None:
        for n in range(3):
            ctx.send_event(Item(n))
        return None

    @step(num_workers=1)
    async def count(self, ctx: Context, ev: Item) -> StopEvent | None:
        return StopEvent(result=len(batch)) if (batch := ctx.collect_events(ev, [Item] * 3)) else None


async def test_what_is_sent_and_collected() -> None:
    told = Recorder()
    assert await Counting(instruments=[told]).run() == 3
    assert [call for call in told.calls if "sent" in call or "collects" in call] == [
        "Item(n=0) sent by begin",
        "Item(n=1) sent by begin",
        "Item(n=2) sent by begin",
        "count collects Item(n=0): 1 of 3",
        "count collects Item(n=1): 2 of 3",
        "count collects Item(n=2): 3 of 3",
    ]
    assert [call for call in told.calls if "count 0 queued" in call] == ["count 0 queued by begin 0"] * 3


class Pairing(Workflow):
    """Takes in three letters before the first digit."""

    @step
    async def begin(self, ctx: Context, ev: StartEvent) -> Draft | Item | None:
        for one in (Draft("a"), Draft("b"), Draft("c"), Item(1), Item(2)):
            ctx.send_event(one)
        return None

    @step(num_workers=1)
    async def pair(self, ctx: Context, ev: Draft | Item) -> StopEvent | None:
        batch = ctx.collect_events(ev, [Draft, Item])
        await anyio.sleep(10)
        return StopEvent(result=batch) if batch and batch[1] == Item(2) else None


async def test_surplus_is_not_counted_as_collected() -> None:
    told = Recorder()
    assert await Pairing(instruments=[told]).run() == [Draft("b"), Item(2)]
    have = [call.rpartition(": ")[2] for call in told.calls if "collects" in call]
    assert have == ["1 of 2", "1 of 2", "1 of 2", "2 of 2", "2 of 2"]


async def test_what_was_collected_before_a_run_goes_on_is_counted() -> None:
    class Slowly(Counting):
        @step(num_workers=1)
        async def count(self, ctx: Context, ev: Item) -> StopEvent | None:
            await anyio.sleep(10)
            return await super().count(ctx, ev)

    told, store = Recorder(), MemoryStore()
    with anyio.move_on_after(15):
        await Slowly().run(store=store, run_id="a")
    assert await Slowly(instruments=[told]).run(store=store, run_id="a") == 3
    have = [call.rpartition(": ")[2] for call in told.calls if "collects" in call]
    assert have == ["2 of 3", "3 of 3"]


class Atomic(Workflow):
    @step(atomic=True)
    async def work(self, ctx: Context, ev: StartEvent) -> Draft | None:
        ctx.send_event(Draft("sent"))
        ctx.write_event_to_stream(Draft("shown"))
        return None

    @step
    async def end(self, ev: Draft) -> StopEvent:
        return StopEvent()


async def test_what_an_atomic_step_did_is_told_when_it_takes_effect() -> None:
    told = Recorder()
    await Atomic(instruments=[told]).run()
    assert told.calls[5:10] == [
        "work 0 begins",
        "Draft(text='sent') sent by work",
        "Draft(text='shown') shown by work",
        "work 0 returned",
        "end 0 queued by work 0",
    ]


class Waiting(Workflow):
    def __init__(self, how: str, **options: Any) -> None:
        super().__init__(**options)
        self.how = how

    @step
    async def wait(self, ctx: Context, ev: StartEvent) -> StopEvent:
        if self.how == "timed out":
            with pytest.raises(WaitTimedOut):
                await ctx.wait_for_event(Approved, timeout=5)
        if self.how == "abandoned":
            with anyio.move_on_after(5):
                await ctx.wait_for_event(Approved)
        if self.how == "cancelled":
            await ctx.wait_for_event(Approved)
        return StopEvent()


@pytest.mark.parametrize("how", ["timed out", "abandoned", "cancelled"])
async def test_how_a_wait_ends(how: str) -> None:
    told, checked = Recorder(), Checked()
    handler = Waiting(how, instruments=[told, checked]).run()
    if how == "cancelled":
        async with handler:
            await anyio.sleep(5)
            await handler.cancel_run()
            with pytest.raises(WorkflowCancelledByUser):
                await handler
    else:
        await handler
    [wait] = told.waits
    assert (wait.outcome, wait.answer) == (how, None)
    assert wait.ended is not None and wait.ended - wait.opened == pytest.approx(5, abs=1e-3)
    assert checked.amiss() == []
    assert told.runs[0].outcome == ("cancelled" if how == "cancelled" else "finished")


async def test_a_wait_that_is_cancelled_ends_with_its_attempt_though_its_run_cleans_up_for_longer() -> None:
    class Tidying(Waiting):
        @step
        async def tidy(self, ev: StartEvent) -> None:
            try:
                await anyio.sleep(100)
            finally:
                with anyio.CancelScope(shield=True):
                    await anyio.sleep(4)

    told = Recorder()
    handler = Tidying("cancelled", instruments=[told]).run()
    async with handler:
        await anyio.sleep(5)
        await handler.cancel_run()
        with pytest.raises(WorkflowCancelledByUser):
            await handler
    [wait] = told.waits
    assert wait.ended is not None and wait.ended == wait.attempt.ended
    assert told.runs[0].ended == pytest.approx(wait.ended + 4, abs=1e-3)


class Looked(dict[Any, Any]):
    """How many of its items were looked at in turn."""

    count = 0

    def __iter__(self) -> Iterator[Any]:
        for key in super().__iter__():
            Looked.count += 1
            yield key


class ManyWaits(Workflow):
    @step
    async def plan(self, ev: StartEvent) -> list[Item]:
        return [Item(n) for n in range(100)]

    @step
    async def wait(self, ctx: Context, ev: Item) -> Made:
        return Made((await ctx.wait_for_event(Approved, requirements={"n": ev.n})).n)

    @step
    async def gather(self, evs: list[Made]) -> StopEvent:
        return StopEvent(result=len(evs))


async def test_however_many_wait_an_attempts_end_costs_the_same() -> None:
    told, checked = Recorder(), Checked()
    handler = ManyWaits(instruments=[told, checked]).run()
    watch = handler._run.watch
    assert watch is not None
    Looked.count, watch._waits = 0, Looked()
    async with handler:
        await anyio.sleep(1)
        assert len(told.waits) == 100
        for n in range(100):
            handler.send_event(Approved(n))
            await anyio.sleep(1)
        assert await handler == 100
    assert Looked.count == 0 and checked.amiss() == []


class Wrong(Workflow):
    @step
    async def work(self, ev: StartEvent) -> StopEvent:
        return Draft("no")  # type: ignore[return-value]


async def test_a_wrong_return_is_the_attempts_failure() -> None:
    told, checked = Recorder(), Checked()
    with pytest.raises(StepFailed):
        await Wrong(instruments=[told, checked]).run()
    assert told.attempts[0].outcome == "raised" and type(told.attempts[0].error).__name__ == "WrongReturn"
    assert checked.amiss() == []


async def test_a_run_that_is_cancelled_ends_what_was_under_way_when_it_ended() -> None:
    class Slow(Workflow):
        @step
        async def start(self, ev: StartEvent) -> list[Item]:
            return [Item(0), Item(1)]

        @step(num_workers=1)
        async def work(self, ev: Item) -> Made:
            try:
                await anyio.sleep(100)
            finally:
                with anyio.CancelScope(shield=True):
                    await anyio.sleep(1)
            return Made(ev.n)

        @step
        async def tidy(self, ev: StartEvent) -> Made:
            try:
                await anyio.sleep(100)
            finally:
                with anyio.CancelScope(shield=True):
                    await anyio.sleep(4)
            return Made(2)

        @step
        async def gather(self, evs: list[Made]) -> StopEvent:
            return StopEvent()

    told, checked = Recorder(), Checked()
    handler = Slow(instruments=[told, checked]).run()
    async with handler:
        await anyio.sleep(10)
        await handler.cancel_run()
        with pytest.raises(WorkflowCancelledByUser):
            await handler
    assert checked.amiss() == []
    run = told.runs[0]
    assert run.ended is not None and run.began is not None and run.outcome == "cancelled"
    began = run.began
    took = {
        (one.step, getattr(one.event, "n", None)): round((one.ended or 0.0) - began, 3)
        for one in told.attempts
        if one.outcome == "cancelled"
    }
    assert took == {("work", 0): 11, ("work", 1): 14, ("tidy", None): 14}
    assert [one.began for one in told.attempts if one.event == Item(1)] == [None]


async def test_a_run_that_never_begins_is_only_called() -> None:
    told = Recorder()
    workflow = Chain(instruments=[told], num_concurrent_runs=1)
    first, second = workflow.run(), workflow.run()
    await second.cancel_run()
    with pytest.raises(WorkflowCancelledByUser):
        await second
    await first
    assert [call for call in told.calls if call.startswith("Chain")] == [
        "Chain called",
        "Chain called",
        "Chain carries",
        "Chain starts",
        "Chain finished",
    ]


# ------------------------------------------------------------------------------------------------- who is told, of what


async def test_an_instrument_of_all_runs_is_told_until_it_is_removed() -> None:
    told = Recorder()
    with added(told):
        await Chain().run()
    await Chain().run()
    assert told.calls.count("Chain called") == 1


async def test_a_run_stays_with_the_instruments_it_began_with() -> None:
    told, late = Recorder(), Recorder()
    with added(told):
        handler = Failing().run()
    with added(late):
        with pytest.raises(StepFailed):
            await handler
    assert told.calls[-1] == "Failing failed" and late.calls == []


async def test_it_is_told_once_however_often_it_is_given() -> None:
    told = Recorder()
    with added(told):
        flowkit.add_instrument(told)
        await Chain(instruments=[told, told]).run()
    assert told.calls.count("Chain called") == 1 and told.calls.count("write 0 begins") == 1


async def test_nested_runs_are_told_to_the_instruments_of_those_they_are_in() -> None:
    outer, inner = Recorder(), Recorder()
    shop = make_shop(outer)
    shop.add_workflows(wrapping=Wrapping(instruments=[inner, outer]))
    await answered(shop.run())
    assert "Wrapping finished" in outer.calls and outer.calls.count("Wrapping called") == 1
    assert "Shop called" not in inner.calls and "Wrapping finished" in inner.calls


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (print, r"takes an Instrument, but got .*: subclass flowkit\.Instrument"),
        (Recorder, r"takes an Instrument, but got .*: make one, Recorder\(…\)"),
    ],
)
def test_what_is_no_instrument_is_refused(given: Any, text: str) -> None:
    with pytest.raises(WrongCall, match=rf"^add_instrument\(\) {text}"):
        flowkit.add_instrument(given)
    with pytest.raises(WrongCall, match=rf"^Chain\(instruments=…\) {text}"):
        Chain(instruments=[given])


def test_a_single_instrument_is_no_list() -> None:
    one: Any = Recorder()
    with pytest.raises(WrongCall, match=r"^Chain\(instruments=…\) takes a list of instruments, .*: put it into a list"):
        Chain(instruments=one)


def test_what_was_not_added_can_not_be_removed() -> None:
    with pytest.raises(
        WrongCall, match=r"^remove_instrument\(\) got .*, which isn't installed: give one that was added"
    ):
        flowkit.remove_instrument(Recorder())


async def test_steps_are_called_as_where_nobody_watches() -> None:
    """A decorator's function has its own names for what it takes."""

    def wrapped(function: Any) -> Any:
        @functools.wraps(function)
        async def call(*args: Any) -> Any:
            return await function(*args)

        return call

    class Decorated(Workflow):
        @step
        @wrapped
        async def one(self, ev: StartEvent) -> Item:
            return Item(1)

        @step
        @wrapped
        async def two(self, ctx: Context, ev: Item) -> Made:
            return Made(ev.n)

        @step
        @wrapped
        async def three(self, ev: Made, ctx: Context) -> StopEvent:
            return StopEvent(result=ev.n)

    assert await Decorated().run() == await Decorated(instruments=[Recorder()]).run() == 1


async def test_where_there_is_none_nothing_watches(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[object] = []
    monkeypatch.setattr("flowkit.launching.Watch", lambda *args: made.append(args))
    shop = make_shop()
    handler = shop.run()
    assert await answered(handler) == [0, 1, 2]
    assert made == [] and handler._run.watch is None


# ----------------------------------------------------------------------------------------------- one that does it wrong

METHODS = [name for name in vars(Instrument) if not name.startswith("_")]


def raising(method: str, calls: list[str]) -> Instrument:
    """One that raises in this method. Calls of all its methods are noted."""

    def called(name: str) -> Callable[..., Any]:
        def call(self: Instrument, *args: Any) -> Any:
            calls.append(name)
            if name == method:
                raise RuntimeError(f"broken in {name}")
            return {} if name == "carry" else None

        return call

    cls: type[Instrument] = type("Broken", (Instrument,), {name: called(name) for name in METHODS})
    return cls()


def reports(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.levelno >= logging.ERROR]


@pytest.mark.parametrize("method", METHODS)
async def test_one_that_raises_is_dropped_and_reported_once(method: str, caplog: pytest.LogCaptureFixture) -> None:
    calls: list[str] = []
    broken, told = raising(method, calls), Recorder()
    if method in ("event_sent", "event_collected"):
        workflow: Workflow = Counting(instruments=[broken, told])
        assert await workflow.run() == 3
    else:
        workflow = make_shop(broken, told)
        assert await answered(workflow.run()) == [0, 1, 2]
    assert calls.count(method) == 1 and calls[-1] == method
    [report] = reports(caplog)
    assert report.name == "flowkit"
    text = report.getMessage()
    assert text == f"the instrument {broken!r} raised in {method}(), so it is dropped: runs go on without it"
    assert report.exc_info is not None and str(report.exc_info[1]) == f"broken in {method}"
    assert report.exc_info[2] is not None
    assert told.calls[-1].endswith("finished")


async def test_one_of_all_runs_that_raises_is_not_told_of_later_ones(caplog: pytest.LogCaptureFixture) -> None:
    calls: list[str] = []
    flowkit.add_instrument(raising("run_started", calls))
    assert await Chain().run() == await Chain().run() == "a joke"
    assert calls.count("run_called") == 1 and len(reports(caplog)) == 1


async def test_one_that_raises_is_dropped_wherever_it_was_given(caplog: pytest.LogCaptureFixture) -> None:
    """To several workflows, and to all runs; until it is given anew."""
    calls: list[str] = []
    broken = raising("run_started", calls)
    first, second = Chain(instruments=[broken]), Chain(instruments=[broken])
    flowkit.add_instrument(broken)
    assert list(installed_for_all()) != []
    for workflow in (first, second, Chain()):
        await workflow.run()
    assert calls.count("run_called") == 1 and len(reports(caplog)) == 1
    assert list(installed_for_all()) == []
    await Chain(instruments=[broken]).run()
    assert calls.count("run_called") == 2


class Abort(BaseException):
    """As a test framework's own, for a test that fails or is left out."""


@pytest.mark.parametrize("error", [Abort, SystemExit, KeyboardInterrupt])
@pytest.mark.parametrize("method", [name for name in METHODS if name not in ("run_called", "event_collected")])
@pytest.mark.parametrize("stored", [False, True])
async def test_exit_out_of_an_instrument_gets_to_who_awaits_the_run(
    method: str, error: type[BaseException], stored: bool
) -> None:
    """It ends the run, also one in the background, and nobody waits for ever."""
    told = Recorder()
    shop = make_shop(exiting(method, error), told)
    handler = shop.run(store=MemoryStore(), run_id="a") if stored else shop.run()
    events = handler.stream_events()
    async for event in events:
        if isinstance(event, Question):
            with suppress(error):  # what is told there and then is raised there, too
                handler.send_event(Approved(event.n), to=events.origin)
    for _ in range(2):
        with pytest.raises(error):
            await handler
    assert handler.is_done()
    assert told.calls[-1] in ("Shop failed", "Shop finished") or method in ("carry", "run_started", "run_ended")


def exiting(method: str, error: type[BaseException]) -> Instrument:
    """One that raises this in one method, once."""
    raised: list[str] = []

    def call(self: Instrument, *args: Any) -> Any:
        if not raised:
            raised.append(method)
            raise error
        return {} if method == "carry" else None

    cls: type[Instrument] = type("Exiting", (Instrument,), {method: call})
    return cls()


class Around(Instrument):
    """What it puts around attempts."""

    def __init__(self, make: Callable[[ObservedAttempt], AbstractContextManager[Any]]) -> None:
        self.make = make

    def around_attempt(self, attempt: ObservedAttempt) -> AbstractContextManager[Any]:
        return self.make(attempt)


class Exit(AbstractContextManager[None]):
    """Swallows what comes, or raises this instead."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.seen: list[BaseException | None] = []

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> bool:
        self.seen.append(error)
        if self.error is not None:
            raise self.error
        return True


async def test_what_is_around_an_attempt_can_not_swallow_its_error(caplog: pytest.LogCaptureFixture) -> None:
    around = Exit()
    with pytest.raises(StepFailed, match="no luck"):
        await Failing(instruments=[Around(lambda _: around)]).run()
    assert [type(error) for error in around.seen] == [ValueError, ValueError]
    assert reports(caplog) == []


async def test_what_is_around_an_attempt_can_not_replace_its_error(caplog: pytest.LogCaptureFixture) -> None:
    around = Exit(KeyError("another"))
    with pytest.raises(StepFailed, match="no luck"):
        await Failing(instruments=[Around(lambda _: around)]).run()
    assert len(around.seen) == 1  # it was dropped then
    [report] = reports(caplog)
    assert "raised in around_attempt()" in report.getMessage()


async def test_what_is_around_an_attempt_can_not_spoil_its_result(caplog: pytest.LogCaptureFixture) -> None:
    around = Exit(KeyError("another"))
    assert await Chain(instruments=[Around(lambda _: around)]).run() == "a joke"
    assert around.seen == [None] and len(reports(caplog)) == 1


async def test_a_generators_context_manager_may_pass_the_error_on(caplog: pytest.LogCaptureFixture) -> None:
    @contextmanager
    def around(_: ObservedAttempt) -> Iterator[None]:
        yield

    with pytest.raises(StepFailed, match="no luck"):
        await Failing(instruments=[Around(around)]).run()
    assert reports(caplog) == []


async def test_several_are_entered_in_order_and_left_in_reverse() -> None:
    order: list[str] = []

    def noting(name: str) -> Callable[[ObservedAttempt], AbstractContextManager[None]]:
        @contextmanager
        def around(attempt: ObservedAttempt) -> Iterator[None]:
            order.append(f"{name} enters {attempt.step}")
            yield
            order.append(f"{name} leaves {attempt.step}")

        return around

    await Chain(instruments=[Around(noting("a")), Around(noting("b"))]).run()
    of_one = ["a enters write", "b enters write", "b leaves write", "a leaves write"]
    assert order == [*of_one, *(one.replace("write", "judge") for one in of_one)]


# ---------------------------------------------------------------------------------------------------- context variables

current: contextvars.ContextVar[str] = contextvars.ContextVar("current", default="nobody's")


class Naming(Instrument):
    def around_attempt(self, attempt: ObservedAttempt) -> AbstractContextManager[None]:
        @contextmanager
        def named() -> Iterator[None]:
            before = current.get()
            token = current.set(f"{before} > {attempt.step} {getattr(attempt.event, 'n', '')}".strip())
            try:
                yield
            finally:
                current.reset(token)

        return named()


class Looking(Workflow):
    """Each step looks at the variable: where it stands, in a task, in a thread, in a nested run."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.seen: dict[str, str] = {}

    @step
    async def plan(self, ev: StartEvent) -> list[Item]:
        self.seen["plan"] = current.get()
        return [Item(n) for n in range(3)]

    @step(num_workers=1)
    async def work(self, ev: Item, inner: "Inner") -> Made:
        self.seen[f"work {ev.n}"] = current.get()

        async def task() -> None:
            await anyio.sleep(0.1)
            self.seen[f"task {ev.n}"] = current.get()

        async with anyio.create_task_group() as group:
            group.start_soon(task)
        self.seen[f"thread {ev.n}"] = await anyio.to_thread.run_sync(current.get)
        self.seen[f"nested {ev.n}"] = await inner.run()
        return Made(ev.n)

    @step
    def plain(self, evs: list[Made]) -> StopEvent:
        self.seen["plain"] = current.get()
        return StopEvent(result=self.seen)


class Inner(Workflow):
    @step
    async def look(self, ev: StartEvent) -> StopEvent:
        return StopEvent(result=current.get())


async def test_context_variables_set_around_an_attempt_are_seen_in_it_and_nowhere_else() -> None:
    looking = Looking(instruments=[Naming()])
    looking.add_workflows(inner=Inner())
    seen = await looking.run()
    expected = {"plan": "nobody's > plan", "plain": "nobody's > plain"}
    for n in range(3):
        expected |= {f"{who} {n}": f"nobody's > work {n}" for who in ("work", "task", "thread")}
        expected[f"nested {n}"] = f"nobody's > work {n} > look"
    assert seen == expected
    assert current.get() == "nobody's"


# -------------------------------------------------------------------------------------------------- what a run carries


class Carrying(Instrument):
    def __init__(self, **given: Any) -> None:
        self.given = given
        self.asked = 0
        self.runs: list[ObservedRun] = []

    def carry(self, run: ObservedRun) -> dict[str, str]:
        self.asked += 1
        return self.given

    def run_started(self, run: ObservedRun) -> None:
        self.runs.append(run)


async def test_what_two_give_is_carried_together() -> None:
    one, two = Carrying(a="1"), Carrying(b="2", c=3)
    await Chain(instruments=[one, two]).run()
    assert one.runs[0].carried == {"a": "1", "b": "2", "c": "3"}


async def test_what_can_not_be_stored_drops_the_instrument_and_not_the_run(caplog: pytest.LogCaptureFixture) -> None:
    broken, told = Carrying(bad="\ud800"), Recorder()
    assert await Chain(instruments=[broken, told]).run(store=MemoryStore(), run_id="a") == "a joke"
    [report] = reports(caplog)
    assert "raised in carry()" in report.getMessage()
    assert told.calls[-1] == "Chain finished"


@pytest.mark.parametrize("given", [None, "text", [1]])
async def test_what_is_no_mapping_drops_the_instrument(given: Any, caplog: pytest.LogCaptureFixture) -> None:
    broken = Carrying()
    broken.given = given
    assert await Chain(instruments=[broken]).run() == "a joke"
    assert len(reports(caplog)) == 1


async def test_events_that_nobody_takes_are_told_like_others() -> None:
    class Lost(Workflow):
        @step
        async def work(self, ctx: Context, ev: StartEvent) -> StopEvent:
            ctx.send_event(Draft("lost"))
            return StopEvent()

    told = Recorder()
    with pytest.warns(UnhandledEventWarning):
        await Lost(instruments=[told]).run()
    assert "Draft(text='lost') sent by work" in told.calls


async def test_a_wait_that_outlives_its_attempt_ends_with_it() -> None:
    class Lending(Workflow):
        """Waits in a task that isn't its own."""

        def __init__(self, group: TaskGroup, **options: Any) -> None:
            super().__init__(**options)
            self.group = group

        @step(retry_policy=ConstantDelayRetryPolicy(maximum_attempts=1, delay=3))
        async def work(self, ctx: Context, ev: StartEvent) -> StopEvent:
            if ctx.retry_info().attempts:
                return StopEvent()
            answered = anyio.Event()

            async def wait(n: int) -> None:
                with suppress(RunFinished):
                    await ctx.wait_for_event(Approved, waiter_id=str(n), requirements={"n": n})
                    answered.set()

            for n in range(2):
                self.group.start_soon(wait, n)
            await answered.wait()
            raise ValueError("no luck")

    told, checked = Recorder(), Checked()
    async with anyio.create_task_group() as group:
        async with Lending(group, instruments=[told, checked]).run() as handler:
            await anyio.sleep(1)
            handler.send_event(Approved(0))
            await handler
    assert checked.amiss() == []
    assert {wait.waiter_id: wait.outcome for wait in told.waits} == {"0": "answered", "1": "abandoned"}
    assert told.calls.index("work's wait abandoned") < told.calls.index("work 0 raised")
