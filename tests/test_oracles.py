"""The properties that need no specification: what passes them, what fails them, and as what."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Annotated, Any

import anyio
import anyio.lowlevel
import attrs
import pytest

from flowkit import (
    Context,
    Event,
    HumanResponseEvent,
    InputRequiredEvent,
    Resource,
    StartEvent,
    StopEvent,
    Workflow,
    outside,
    step,
    testing,
)
from flowkit.retry_policy import ConstantDelayRetryPolicy
from flowkit.testing import Counterexample, exploring, settings, threads
from flowkit.testing.search import Coverage

each_backend = pytest.mark.parametrize("backend", ["asyncio", "trio"])


@pytest.fixture(autouse=True)
def _nothing_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exploring, "_elsewhere", lambda *_: "")


class Go(StartEvent):
    n: int = 2


class Part(Event):
    n: int


class Done(Event):
    n: int


class Fan(Workflow):
    """Two steps at once; what they do is a subclass' matter."""

    @step
    async def split(self, ev: Go) -> list[Part]:
        return [Part(n) for n in range(ev.n)]

    @step
    async def work(self, ctx: Context, ev: Part) -> Done:
        await self.do(ctx, ev.n)
        return Done(ev.n)

    @step
    async def join(self, ctx: Context, evs: list[Done]) -> StopEvent:
        return StopEvent(result=await self.end(ctx))

    async def do(self, ctx: Context, n: int) -> None:
        await anyio.lowlevel.checkpoint()

    async def end(self, ctx: Context) -> Any:
        return "done"


def found(oracle: Callable[..., Coverage], flow: Any, *args: Any, **options: Any) -> Counterexample:
    with pytest.raises(Counterexample) as raised:
        oracle(flow, *args, **{"budget": 200, **options})
    return raised.value


def problem(example: Counterexample) -> str:
    """What is wrong, without what is around it."""
    return str(example).partition("\n")[0].partition(": ")[2]


# ----------------------------------------------------------------------------------------------- schedule-independence


class Appends(Fan):
    async def do(self, ctx: Context, n: int) -> None:
        await anyio.lowlevel.checkpoint()
        async with ctx.store.edit_state() as state:
            state.setdefault("seen", []).append(n)

    async def end(self, ctx: Context) -> Any:
        return sorted(await ctx.get("seen"))


class Adds(Fan):
    async def do(self, ctx: Context, n: int) -> None:
        await anyio.lowlevel.checkpoint()
        async with ctx.store.edit_state() as state:
            state["sum"] = state.get("sum", 0) + n

    async def end(self, ctx: Context) -> Any:
        return await ctx.get("sum")


class First(Fan):
    async def do(self, ctx: Context, n: int) -> None:
        await anyio.lowlevel.checkpoint()
        if not await ctx.get("first", None):
            await ctx.set("first", f"the one with {n}")

    async def end(self, ctx: Context) -> Any:
        return await ctx.get("first")


@each_backend
def test_what_is_schedule_independent(backend: Any) -> None:
    coverage = testing.assert_schedule_independent(Adds, {"n": 3}, budget=150, backend=backend)
    assert coverage.runs == 150
    assert coverage.exhausted[0].startswith("delay bound 1 (")
    assert testing.assert_schedule_independent(Adds, Go(1), bound=1, budget=20, backend=backend).runs <= 20


@each_backend
def test_a_result_that_depends_on_the_schedule(backend: Any) -> None:
    example = found(testing.assert_schedule_independent, First, backend=backend)
    assert example.kind == "different-result"
    texts = {"the one with 0", "the one with 1"}
    told = [
        line.strip() for line in str(example).splitlines() if line.strip().startswith(("the result is", "in other"))
    ]
    assert {line.rpartition("'")[0].rpartition("'")[2] for line in told} == texts
    assert [line.partition(" '")[0].rstrip() for line in told] == ["the result is", "in other runs"]
    assert example.scenario.size == 1


@each_backend
def test_a_state_that_depends_on_the_schedule(backend: Any) -> None:
    example = found(testing.assert_schedule_independent, Appends, backend=backend)
    assert example.kind == "different-state"
    assert problem(example).startswith("different-state: the final state is {'seen': [")
    assert "in other runs      {'seen': [" in str(example)


@attrs.define
class Total:
    first: int | None = None


class Typed(Workflow):
    @step
    async def split(self, ev: Go) -> list[Part]:
        return [Part(1), Part(2)]

    @step
    async def work(self, ctx: Context[Total], ev: Part) -> Done:
        await anyio.lowlevel.checkpoint()
        async with ctx.store.edit_state() as state:
            state.first = state.first or ev.n
        return Done(ev.n)

    @step
    async def join(self, evs: list[Done]) -> StopEvent:
        return StopEvent()


@each_backend
def test_a_typed_state_is_compared(backend: Any) -> None:
    example = found(testing.assert_schedule_independent, Typed, backend=backend)
    assert example.kind == "different-state"
    assert "the final state is Total(first=" in str(example)


class Fails(Fan):
    async def do(self, ctx: Context, n: int) -> None:
        await anyio.lowlevel.checkpoint()
        await ctx.set("last", n)

    async def end(self, ctx: Context) -> Any:
        if await ctx.get("last") == 0:
            raise ValueError("no")
        return 1


@each_backend
@pytest.mark.parametrize(
    "oracle",
    [
        testing.assert_schedule_independent,
        testing.assert_checkpoint_equivalence,
        testing.assert_cancels_cleanly,
    ],
)
def test_a_run_that_fails_fails_each(oracle: Any, backend: Any) -> None:
    example = found(oracle, Fails, bound=1, backend=backend)
    assert example.kind == "step-failed"
    assert problem(example) == "step-failed: Error in step 'join': ValueError: no"


def test_both_backends_and_the_settings_of_a_test_run() -> None:
    class OnAsyncio(Fan):
        async def end(self, ctx: Context) -> Any:
            import sniffio

            return 1 / (sniffio.current_async_library() == "asyncio")

    testing.assert_schedule_independent(OnAsyncio, budget=5)
    assert found(testing.assert_schedule_independent, OnAsyncio, backend="both", budget=5).run.backend == "trio"
    with settings.use(backend="trio"):
        assert found(testing.assert_schedule_independent, OnAsyncio, budget=5).run.backend == "trio"
    with settings.use(budget=3, bound=1):
        assert testing.assert_schedule_independent(Adds, budget="2s").runs == 3


# ------------------------------------------------------------------------------------------------------------- crashes


class Pays(Workflow):
    """Pays, in a step that may be made again; ``how`` says what it gives along."""

    how = "nothing"

    @step(retry_policy=ConstantDelayRetryPolicy(maximum_attempts=3, delay=1))
    async def pay(self, ctx: Context, ev: Go) -> Done:
        match self.how:
            case "key":
                testing.effect("pay", ev.n, ctx.idempotency_key)
            case "in a text":
                testing.effect(f"pay {ev.n}, key {ctx.idempotency_key}")
            case "in a dict":
                testing.effect({"pay": ev.n, "headers": [("Idempotency-Key", ctx.idempotency_key)]})
            case "run id":
                testing.effect("pay", ev.n, ctx.run_id)
            case _:
                testing.effect("pay", ev.n)
        await anyio.sleep(1)
        return Done(ev.n)

    @step
    async def end(self, ev: Done) -> StopEvent:
        return StopEvent(result="paid")


def pays(how: str) -> Callable[[], Workflow]:
    def make() -> Workflow:
        made = Pays()
        made.how = how
        return made

    return make


@each_backend
@pytest.mark.parametrize("how", ["key", "in a text", "in a dict"])
def test_what_tells_a_second_time_from_a_second_order(how: str, backend: Any) -> None:
    coverage = testing.assert_checkpoint_equivalence(pays(how), budget=60, backend=backend)
    assert coverage.exhausted[0].endswith(" crash points")
    assert coverage.runs == 60  # then twice crashed ones


@each_backend
@pytest.mark.parametrize("how", ["nothing", "run id"])
def test_a_doubled_effect(how: str, backend: Any) -> None:
    example = found(testing.assert_checkpoint_equivalence, pays(how), backend=backend)
    assert example.kind == "doubled-effect"
    assert len(example.scenario.crashes) == example.scenario.size == 1
    assert example.run.lives == 2 and len(example.run.effects) == 2
    effect = "('pay', 2, 'run')" if how == "run id" else "('pay', 2)"
    assert f"  {effect} comes twice, in a run that never crashed once, and has no idempotency key: give " in str(
        example
    )


class Forgets(Workflow):
    """Has what it is to pay in memory alone."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[int] = []

    @step
    async def order(self, ev: Go) -> Done:
        self.open.append(ev.n)
        return Done(ev.n)

    @step
    async def pay(self, ctx: Context, ev: Done) -> StopEvent:
        for n in self.open:
            testing.effect("pay", n, ctx.idempotency_key)
        return StopEvent(result="paid")


class Remembers(Forgets):
    @step
    async def pay(self, ctx: Context, ev: Done) -> StopEvent:
        return StopEvent(result=list(self.open))


class Notes(Forgets):
    @step
    async def pay(self, ctx: Context, ev: Done) -> StopEvent:
        await ctx.set("open", list(self.open))
        return StopEvent(result="paid")


@each_backend
@pytest.mark.parametrize(
    ("flow", "kind", "text"),
    [
        (Forgets, "lost-effect", "('pay', 2, '(key)') comes never, in a run that never crashed once"),
        (Remembers, "different-result", "the result is []"),
        (Notes, "different-state", "the final state is {'open': []}"),
    ],
)
def test_what_a_crash_loses(flow: Any, kind: str, text: str, backend: Any) -> None:
    example = found(testing.assert_checkpoint_equivalence, flow, backend=backend)
    assert problem(example) == f"{kind}: {text}"
    assert example.scenario.size == 1


class Ask(InputRequiredEvent):
    n: int


class Reply(HumanResponseEvent):
    n: int


class Asks(Workflow):
    @step
    async def ask(self, ctx: Context, ev: Go) -> StopEvent:
        replies = [await ctx.wait_for_event(Reply, Ask(n), requirements={"n": n}) for n in range(ev.n)]
        return StopEvent(result=[reply.n for reply in replies])


@each_backend
def test_questions_are_asked_again(backend: Any) -> None:
    def answer(ask: Ask) -> Reply:
        return Reply(ask.n)

    coverage = testing.assert_checkpoint_equivalence(Asks, answer=answer, budget=60, backend=backend)
    assert coverage.runs == 60
    testing.assert_schedule_independent(Asks, answer=answer, budget=40, backend=backend)
    testing.assert_cancels_cleanly(Asks, answer=answer, budget=60, backend=backend)


# -------------------------------------------------------------------------------------------------------- cancellation


class Locks(Workflow):
    """Holds what the next run needs; ``how`` says whether it gives it back where it is cancelled."""

    how = "with"

    def __init__(self) -> None:
        super().__init__(timeout=None)
        self.gate = anyio.Event()
        self.gate.set()
        self.taken = False

    @step
    async def hold(self, ev: Go) -> StopEvent:
        match self.how:
            case "with":
                async with anyio.Lock():
                    await anyio.sleep(1)
            case "gate":
                await self.gate.wait()
                self.gate = anyio.Event()
                await anyio.sleep(1)
                self.gate.set()
            case "finally":
                await self.gate.wait()
                self.gate = anyio.Event()
                try:
                    await anyio.sleep(1)
                finally:
                    self.gate.set()
            case _:
                if self.taken:
                    raise ValueError("it is taken")
                self.taken = True
                await anyio.sleep(1)
                self.taken = False
        return StopEvent()


def locks(how: str) -> Callable[[], Workflow]:
    def make() -> Workflow:
        made = Locks()
        made.how = how
        return made

    return make


@each_backend
@pytest.mark.parametrize("how", ["with", "finally"])
def test_what_cancels_cleanly(how: str, backend: Any) -> None:
    coverage = testing.assert_cancels_cleanly(locks(how), budget=60, backend=backend)
    assert any(text.endswith(" cancellation points") for text in coverage.exhausted)
    assert any(text.endswith(" cancel_run() points") for text in coverage.exhausted)


@each_backend
def test_what_keeps_the_next_run_from_ending(backend: Any) -> None:
    example = found(testing.assert_cancels_cleanly, locks("gate"), backend=backend)
    assert example.kind == "deadlock"
    assert example.scenario.cancel is not None and example.scenario.size == 1
    assert "hold #2 waits at test_oracles.py:" in str(example)


@each_backend
def test_what_makes_the_next_run_fail(backend: Any) -> None:
    example = found(testing.assert_cancels_cleanly, locks("taken"), backend=backend)
    assert problem(example) == (
        "unusable: after the run was cancelled, the next one failed: Error in step 'hold': ValueError: it is taken"
    )


OPENED: list[str] = []


@asynccontextmanager
async def opened() -> AsyncIterator[str]:
    await anyio.sleep(1)
    OPENED.append("open")
    try:
        yield "thing"
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.sleep(1)
        OPENED.append("close")


class Holds(Workflow):
    @step
    async def hold(
        self,
        ev: Go,
        one: Annotated[str, Resource(opened, scope="workflow")],
        two: Annotated[str, Resource(opened, scope="run")],
        three: Annotated[str, Resource(opened, scope="step")],
    ) -> StopEvent:
        await anyio.sleep(1)
        return StopEvent(result=one)


@each_backend
@pytest.mark.parametrize("how", ["cancel", "crash"])
def test_resources_are_closed_however_a_run_ends(how: str, backend: Any) -> None:
    OPENED.clear()
    if how == "cancel":
        testing.assert_cancels_cleanly(Holds, budget=60, backend=backend)
    else:
        testing.assert_checkpoint_equivalence(Holds, budget=30, backend=backend)
    assert OPENED.count("open") == OPENED.count("close") > 50


@each_backend
def test_a_clean_up_after_a_crash_that_spins_is_told(backend: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "PATIENCE", 0.05)

    class Spins(Workflow):
        @step
        async def go(self, ev: Go) -> StopEvent:
            try:
                testing.effect("paid")
            finally:
                while has_died():
                    pass
            return StopEvent()

    def has_died() -> bool:
        return bool(getattr(outside.current(), "dead", False))

    with pytest.raises(testing.Blocked, match="a step that the simulation ran has blocked"):
        testing.assert_checkpoint_equivalence(Spins, budget=20, backend=backend)
