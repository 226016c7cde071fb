"""Right uses of flowkit: what mypy --strict and pyright strict accept. Checked by check.py, never run."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Generic, NoReturn, Protocol, TypeVar, assert_type

import attrs

from flowkit import (
    All,
    Checkpoint,
    Collect,
    Context,
    Event,
    Handler,
    HumanResponseEvent,
    InputRequiredEvent,
    InvalidWorkflow,
    MisdirectedEvent,
    Origin,
    Resource,
    RetryInfo,
    StartEvent,
    StepFailed,
    StepFailedEvent,
    StopEvent,
    StreamGap,
    Take,
    UnknownKey,
    WaitTimedOut,
    Workflow,
    WorkflowCancelledByUser,
    WorkflowCheckpointer,
    WorkflowError,
    WorkflowStalled,
    WorkflowTimeoutError,
    WorkflowValidationError,
    catch_error,
    step,
)
from flowkit.retry_policy import (
    Condition,
    ConstantDelayRetryPolicy,
    ExponentialBackoffRetryPolicy,
    RetryPolicy,
    Stop,
    Wait,
    retry,
    retry_always,
    retry_if,
    stop_after,
    stop_after_delay,
    stop_never,
    wait_exponential,
    wait_fixed,
    wait_random,
)

# -------------------------------------------------------------------------------------------- events


class Fetch(Event):
    path: Path
    depth: int = 0


class Chunk(Event):
    text: str
    tags: list[str] = attrs.field(factory=list[str])
    rank: float = attrs.field(default=0.0, validator=attrs.validators.ge(0))
    source: str | None = attrs.field(default=None, kw_only=True)

    @property
    def words(self) -> int:
        return len(self.text.split())


class Page(Chunk):
    number: int = attrs.field(kw_only=True)  # checkers ask for kw_only after an inherited default


class Numbered(Event):
    number: int = attrs.field(converter=int)


T = TypeVar("T")


class Box(Event, Generic[T]):
    item: T


class Nothing(Event):
    pass


class HasText(Protocol):
    @property
    def text(self) -> str: ...


def shows(text: HasText) -> None: ...


def build_events() -> None:
    fetch = Fetch(Path("a"))
    assert_type(fetch, Fetch)
    assert_type(fetch.path, Path)
    assert_type(fetch.depth, int)
    Fetch(Path("a"), 2)
    Fetch(path=Path("a"), depth=2)

    chunk = Chunk("some text", ["a"], 0.5, source="a.md")
    assert_type(chunk.tags, list[str])
    assert_type(chunk.words, int)
    shows(chunk)
    shows(Page("some text", number=3))
    Numbered(3)

    assert_type(Box(3), Box[int])
    assert_type(Box("x").item, str)
    Nothing()

    assert_type(fetch.replace(depth=3), Fetch)
    print({fetch: 1}, fetch == chunk, hash(fetch), bool(fetch))


def read_events_as_mappings(ev: Fetch) -> None:
    assert_type(ev["path"], Any)
    assert_type(ev.get("path"), Any)
    assert_type(ev.get("path", None), Any)
    assert_type("path" in ev, bool)
    assert_type(list(ev), list[str])
    assert_type(ev.keys(), list[str])
    assert_type(ev.items(), list[tuple[str, Any]])
    assert_type(ev.to_dict(), dict[str, Any])
    assert_type(len(ev), int)


def open_events_take_any_keyword() -> None:
    assert_type(StartEvent(topic="pirates").topic, Any)
    assert_type(StopEvent(result=3, more=4).result, Any)
    StopEvent()
    StopEvent("result")
    assert_type(InputRequiredEvent(prefix="? ").prefix, Any)
    assert_type(HumanResponseEvent(response="42").response, Any)
    # A plain Event's extra attributes are there, but only `get` and `[]` are typed: otherwise a checker could not
    # report a misspelt field of any event.
    assert_type(Event(msg="hello")["msg"], Any)


class Ask(StartEvent):
    question: str
    top: int = 5


class Answer(StopEvent):
    text: str
    passages: tuple[str, ...] = ()


class Confirm(InputRequiredEvent):
    prompt: str


class Confirmed(HumanResponseEvent):
    yes: bool


def typed_starts_and_stops() -> None:
    assert_type(Ask("why?").question, str)
    assert_type(Ask(question="why?", top=3).top, int)
    assert_type(Answer("because").passages, tuple[str, ...])
    Confirm(prompt="sure?")
    Confirmed(yes=True)


def a_failed_step(ev: StepFailedEvent) -> None:
    assert_type(ev.step_name, str)
    assert_type(ev.exception, BaseException)
    assert_type(ev.attempts, int)
    assert_type(ev.elapsed_seconds, float)


# ----------------------------------------------------------------------------------------- resources


@attrs.define
class Database:
    url: str


def get_database() -> Database:
    return Database("sqlite://")


@asynccontextmanager
async def connected(database: Annotated[Database, Resource(get_database)]) -> AsyncGenerator[Database]:
    yield database


@contextmanager
def opened() -> Generator[Path]:
    yield Path("x")


async def for_this_run(ctx: Context, start: Ask) -> str:
    return start.question


# --------------------------------------------------------------------------------------------- steps


@attrs.define
class MyState:
    count: int = 0
    names: list[str] = attrs.field(factory=list[str])


class OnlyOnFriday:
    def next(self, elapsed_time: float, attempts: int, error: Exception) -> float | None:
        return 5 if datetime.today().strftime("%A") == "Friday" else None


@attrs.frozen
class Patient:
    delay: int = 60

    def next(self, elapsed_time: float, attempts: int, error: BaseException) -> int:
        return self.delay


class EveryShape(Workflow):
    limit = 3

    @step
    async def begin(self, ctx: Context[MyState], ev: Ask) -> list[Fetch]:
        async with ctx.store.edit_state() as state:
            assert_type(state, MyState)
            state.count += 1
            state.names.append(ev.question)
        assert_type(await ctx.store.get_state(), MyState)
        await ctx.store.set_state(MyState(3))
        await ctx.store.set("count", 4)
        assert_type(await ctx.store.get("names.0", default=None), Any)
        return [Fetch(Path("a")), Fetch(Path("b"))]

    @step(
        name="read a file",
        num_workers=8,
        retry_policy=ConstantDelayRetryPolicy(maximum_attempts=3, delay=0.5),
        timeout=30,
    )
    def read(self, ev: Fetch) -> Chunk | Nothing | None:
        return Chunk(ev.path.read_text()) if self.limit else None

    @step()
    async def join(self, ctx: Context, evs: list[Chunk | Nothing]) -> Answer | None:
        for ev in evs:
            match ev:
                case Chunk(text):
                    assert_type(text, str)
                case Nothing():
                    return None
        return Answer("done")

    @step
    async def first_three(self, evs: Annotated[list[Chunk], Collect(Take(3))]) -> Nothing | list[Box[int]]:
        return [Box(1)]

    @step
    async def all_of_them(self, evs: Annotated[list[Box[int]], Collect(All())]) -> None:
        assert_type(evs[0].item, int)

    @step
    async def with_resources(
        self,
        ev: Page,
        database: Annotated[Database, Resource(connected)],
        path: Annotated[Path, Resource(opened, cache=False)],
        text: Annotated[str, Resource(for_this_run, scope="run")],
    ) -> Numbered:
        assert_type(database, Database)
        return Numbered(3)

    @step(retry_policy=OnlyOnFriday())
    async def never_returns(self, ev: Numbered) -> NoReturn:
        raise ValueError

    @catch_error
    async def anything(self, ev: StepFailedEvent) -> Answer:
        return Answer(str(ev.exception))

    @catch_error(for_steps=["read a file"], num_workers=2)
    async def unreadable(self, ev: StepFailedEvent) -> Nothing | list[Chunk]:
        return Nothing()

    @staticmethod
    @step(retry_policy=Patient())
    async def without_self(ev: Confirmed) -> StopEvent:
        return StopEvent(result=ev.yes)


async def a_step_is_still_the_function_it_was(flow: EveryShape) -> None:
    assert_type(await flow.begin(Context[MyState](flow), Ask("why?")), list[Fetch])
    assert_type(flow.read(Fetch(Path("a"))), Chunk | Nothing | None)


class UsesItsContext(Workflow):
    @step
    async def run_it(self, ctx: Context, ev: StartEvent) -> StopEvent | None:
        assert_type(await ctx.get("key"), Any)
        assert_type(await ctx.get("key", default=None), Any)
        await ctx.set("key", 3)
        ctx.send_event(Fetch(Path("a")))
        ctx.send_event(Fetch(Path("a")), step="read")
        ctx.write_event_to_stream(Chunk("progress"))
        info = ctx.retry_info()
        assert_type(info, RetryInfo)
        assert_type(info.attempts, int)

        batch = ctx.collect_events(ev, [Fetch, Chunk, Chunk], buffer_id="mine")
        if batch is None:
            return None
        fetch, one, other = batch
        assert_type(one, Any)

        answer = await ctx.wait_for_event(
            Confirmed,
            waiter_event=Confirm(prompt="sure?"),
            waiter_id="sure",
            requirements={"yes": True},
            timeout=60,
        )
        assert_type(answer, Confirmed)
        assert_type(answer.yes, bool)
        assert_type(await ctx.wait_for_event(HumanResponseEvent), HumanResponseEvent)
        assert_type(ctx.run_id, str)
        assert_type(ctx.to_dict(), dict[str, Any])
        return StopEvent(result=(fetch, other))


class Parent(Workflow):
    @step
    async def ask_the_child(self, ev: StartEvent, child: UsesItsContext) -> StopEvent:
        return StopEvent(result=await child.run(topic=ev.topic))


joke_flow = Workflow(timeout=60, verbose=True)


@step(workflow=joke_flow)
async def generate(ev: StartEvent) -> Chunk:
    return Chunk(str(ev.topic))


@step(workflow=joke_flow, num_workers=2)
def critique(ev: Chunk) -> StopEvent:
    return StopEvent(result=ev.text)


@step(workflow=UsesItsContext)
async def another(ev: Fetch) -> None:
    return None


@catch_error(workflow=joke_flow)
async def lost(ev: StepFailedEvent) -> StopEvent:
    return StopEvent()


joke_flow.add_step(generate)
UsesItsContext.add_step(generate)


# ---------------------------------------------------------------------------------------------- runs


class WithOptions(Workflow):
    def __init__(self, greeting: str, *, timeout: float | None = None) -> None:
        super().__init__(timeout=timeout, num_concurrent_runs=3, stalled="wait", stream_buffer=100)
        self.greeting = greeting


async def three_ways_to_own_a_run(workflow: EveryShape) -> None:
    result = await workflow.run(question="why?")
    assert_type(result, Any)

    async with workflow.run(start_event=Ask("why?"), timeout=3) as handler:
        async for event in handler.stream_events():
            assert_type(event, Event)
            if isinstance(event, StreamGap):
                assert_type(event.missed, int)
        result = await handler

    handler = workflow.run(question="why?", timeout=None, run_id="mine")
    result = await handler


async def what_a_handler_does(handler: Handler) -> None:
    handler.ctx.send_event(HumanResponseEvent(response="42"))
    handler.send_event(Confirmed(yes=True), step="confirm")
    events = handler.stream_events(from_start=True)
    async for event in events:
        if isinstance(event, InputRequiredEvent):
            assert_type(events.origin, Origin | None)
            handler.send_event(HumanResponseEvent(response="42"), to=events.origin)
            break
    assert_type(handler.run_id, str)
    assert_type(handler.is_done(), bool)
    assert_type(handler.exception(), BaseException | None)
    assert_type(handler.result(), Any)
    assert_type(handler.ctx, Context[Any])
    await handler.cancel_run()


async def stepwise(workflow: Workflow) -> None:
    handler = workflow.run(stepwise=True)
    while produced := await handler.run_step():
        assert_type(produced, list[Event])
        for event in produced:
            handler.ctx.send_event(event)
    await handler


async def contexts_across_runs(workflow: EveryShape) -> None:
    handler = workflow.run()
    await handler
    handler = workflow.run(ctx=handler.ctx)
    await handler

    ctx = Context(workflow, state=MyState(3))
    assert_type(ctx, Context[MyState])
    assert_type(Context(workflow), Context[Any])
    saved = ctx.to_dict()
    restored = Context[MyState].from_dict(workflow, saved)
    assert_type(restored, Context[MyState])
    await workflow.run(ctx=restored)


async def workflows(parent: Parent) -> None:
    parent.add_workflows(child=UsesItsContext())
    parent.validate()
    assert_type(parent.step_names(), tuple[str, ...])
    async with WithOptions("hello", timeout=3) as workflow:
        assert_type(workflow, WithOptions)
    await parent.aclose()


async def checkpoints(workflow: Workflow) -> None:
    checkpointer = WorkflowCheckpointer(workflow=workflow, disabled_steps=["read"])
    handler = checkpointer.run(topic="pirates")
    await handler
    checkpoint = checkpointer.checkpoints[handler.run_id][0]
    assert_type(checkpoint, Checkpoint)
    assert_type(checkpoint.last_completed_step, str)
    await checkpointer.run_from(checkpoint=checkpoint)
    assert_type(checkpointer.filter_checkpoints(input_event_type=Fetch), list[Checkpoint])


def raise_later(error: WorkflowError) -> None: ...


async def errors(workflow: Workflow) -> None:
    try:
        await workflow.run()
    except StepFailed as error:
        assert_type(error.step, str)
        assert_type(error.attempts, int)
        assert_type(error.others, tuple[BaseException, ...])
    except WorkflowTimeoutError as error:
        assert_type(error.timeout, float)
        print(error.strerror)  # it is a TimeoutError too
        assert_type(error.active_steps, tuple[str, ...])
    except WorkflowStalled as error:
        assert_type(error.waiting, tuple[str, ...])
    except (MisdirectedEvent, UnknownKey, WaitTimedOut, WorkflowCancelledByUser) as error:
        raise_later(error)
    try:
        workflow.validate()
    except InvalidWorkflow as error:
        assert_type(error.workflow, str | None)
        print(error.exceptions)
    try:
        workflow.validate()
    except* WorkflowValidationError as group:
        print(group.exceptions)


# ------------------------------------------------------------------------------------ retry policies


def policies() -> None:
    custom: list[RetryPolicy] = [
        OnlyOnFriday(),
        Patient(delay=3),
        ConstantDelayRetryPolicy(),
        ExponentialBackoffRetryPolicy(initial_delay=1, multiplier=3, maximum_delay=60.5, jitter=False),
        retry(),
        retry(retry_if(OSError), stop=stop_never, wait=wait_fixed(3)),
        retry(
            retry_if((KeyError, ValueError)) | (retry_if(lambda error: "busy" in str(error)) & retry_always),
            stop=stop_after(3) | stop_after_delay(60) & stop_never,
            wait=wait_exponential(first=0.5, maximum=30) + wait_random(0, 1),
        ),
    ]
    assert_type(retry_if(OSError) & retry_always, Condition)
    assert_type(stop_after(3) | stop_never, Stop)
    assert_type(wait_fixed(1) + wait_fixed(2), Wait)
    assert_type(custom[0].next(0.0, 0, ValueError()), float | None)


def a_function_that_makes_steps(factory: Callable[[], Database]) -> type[Workflow]:
    class Made(Workflow):
        @step
        async def use(self, ev: StartEvent, database: Annotated[Database, Resource(factory)]) -> StopEvent:
            return StopEvent(result=database.url)

    return Made
