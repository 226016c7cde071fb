"""Resources: built once for their scope, closed once, in reverse order, whatever happens."""

import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Annotated, Any, Protocol, runtime_checkable

import anyio
import attrs
import pytest

from flowkit import (
    Context,
    Event,
    InvalidWorkflow,
    Resource,
    ResourceError,
    StartEvent,
    StepFailed,
    StopEvent,
    Workflow,
    WorkflowValidationError,
    step,
)
from flowkit.testing.virtual_time import virtual_backend


class Next(Event):
    pass


@attrs.frozen(eq=False)
class Connection:
    name: str = ""


class Got(Event):
    it: Connection


def using(factory: Callable[..., Any], **options: Any) -> type[Workflow]:
    """A workflow of two steps that use a resource, one after the other, and return both values."""
    marker = Resource(factory, **options)

    class Flow(Workflow):
        @step
        async def first(self, ctx: Context, ev: StartEvent, it: Annotated[Any, marker]) -> Next:
            await ctx.set("first", it)
            return Next()

        @step
        async def second(self, ctx: Context, ev: Next, it: Annotated[Any, marker]) -> StopEvent:
            return StopEvent(result=(await ctx.get("first"), it))

    return Flow


# ------------------------------------------------------------------------------------------- kinds of factory


def plain() -> Connection:
    return Connection("plain")


async def coroutine() -> Connection:
    await anyio.sleep(1)
    return Connection("coroutine")


def generator() -> Iterator[Connection]:
    yield Connection("generator")


async def async_generator() -> AsyncIterator[Connection]:
    yield Connection("async_generator")


@contextlib.contextmanager
def manager() -> Iterator[Connection]:
    yield Connection("manager")


@contextlib.asynccontextmanager
async def async_manager() -> AsyncIterator[Connection]:
    yield Connection("async_manager")


FACTORIES = [plain, coroutine, generator, async_generator, manager, async_manager, Connection]


@pytest.mark.parametrize("scope", ["workflow", "run", "step"])
@pytest.mark.parametrize("factory", FACTORIES)
async def test_every_kind_of_factory_in_every_scope(factory: Any, scope: Any) -> None:
    async with using(factory, scope=scope)() as workflow:
        values = [*await workflow.run(), *await workflow.run()]
    assert all(isinstance(value, Connection) for value in values)
    assert len(set(values)) == {"workflow": 1, "run": 2, "step": 4}[scope]


async def test_a_resource_is_kept_for_the_workflow_and_without_cache_for_a_call() -> None:
    async with using(plain)() as workflow:
        assert len({*await workflow.run(), *await workflow.run()}) == 1
    async with using(plain, cache=False)() as workflow:
        assert len({*await workflow.run(), *await workflow.run()}) == 4


async def test_two_markers_of_one_factory_mean_one_resource() -> None:
    class Flow(Workflow):
        @step
        async def use(
            self,
            ev: StartEvent,
            one: Annotated[Connection, Resource(plain)],
            two: Annotated[Connection, Resource(plain)],
        ) -> StopEvent:
            return StopEvent(result=one is two)

    assert await Flow().run()


async def test_workflow_instances_do_not_share() -> None:
    flow = using(plain)
    assert (await flow().run())[0] is not (await flow().run())[0]


async def test_a_plain_step_gets_resources_too() -> None:
    class Flow(Workflow):
        @step
        def use(self, ev: StartEvent, it: Annotated[Connection, Resource(async_manager, scope="run")]) -> StopEvent:
            return StopEvent(result=it.name)

    assert await Flow().run() == "async_manager"


# --------------------------------------------------------------------------------- what a factory may ask for


async def test_a_factory_takes_other_resources_the_context_and_the_start_event() -> None:
    def connection(ev: StartEvent) -> Connection:
        return Connection(ev.name)

    async def greeting(ctx: Context, it: Annotated[Connection, Resource(connection)], end: str = "!") -> str:
        return f"{await ctx.get('greeting')}, {it.name}{end}"

    class Flow(Workflow):
        @step
        async def prepare(self, ctx: Context, ev: StartEvent) -> Next:
            await ctx.set("greeting", "hello")
            return Next()

        @step
        async def use(
            self,
            ev: Next,
            text: Annotated[str, Resource(greeting)],
            it: Annotated[Connection, Resource(connection)],
        ) -> StopEvent:
            return StopEvent(result=(text, it.name))

    workflow = Flow()
    assert await workflow.run(name="Ada") == ("hello, Ada!", "Ada")
    assert await workflow.run(name="Bob") == ("hello, Bob!", "Bob")  # kept for a run, as what it takes is


def test_a_circle_is_found_when_the_class_is_built() -> None:
    def one(it: Any) -> Connection:
        return Connection()

    def two(it: Annotated[Connection, Resource(one)]) -> Connection:
        return Connection()

    one.__annotations__["it"] = Annotated[Connection, Resource(two)]
    with pytest.raises(InvalidWorkflow, match=r"depends on itself .*one -> .*two -> .*one"):

        class Flow(Workflow):
            @step
            async def use(self, ev: StartEvent, it: Annotated[Connection, Resource(one)]) -> StopEvent:
                return StopEvent()


def test_what_nobody_can_fill_is_refused_when_the_class_is_built() -> None:
    def connect(host: str) -> Connection:
        return Connection(host)

    with pytest.raises(InvalidWorkflow, match="has a parameter 'host' that nobody can fill"):
        using(connect)


def test_a_scope_that_is_wider_than_what_it_needs_is_refused() -> None:
    def connect(ctx: Context) -> Connection:
        return Connection()

    with pytest.raises(InvalidWorkflow, match='has scope="workflow", but what it takes lives only for a run'):
        using(connect, scope="workflow")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"factory": "plain"}, "has no factory"),
        ({"factory": plain, "scope": "module"}, "scope='module'"),
        ({"factory": plain, "cache": False, "scope": "run"}, "cache=False and scope='run'"),
    ],
)
def test_a_marker_checks_its_arguments(arguments: Any, text: str) -> None:
    with pytest.raises(WorkflowValidationError, match=text):
        Resource(**arguments)


# ---------------------------------------------------------------------------------------- opening and closing


class Pool:
    """Factories that note when they open and close what they make."""

    def __init__(self, scope: Any) -> None:
        self.log: list[str] = []

        async def pool() -> AsyncIterator[str]:
            self.log.append("open pool")
            try:
                yield "pool"
            finally:
                with anyio.CancelScope(shield=True):
                    await anyio.sleep(1)
                self.log.append("close pool")

        def connection(pool: Annotated[str, Resource(pool, scope=scope)]) -> Iterator[str]:
            self.log.append("open connection")
            try:
                yield f"connection of {pool}"
            finally:
                self.log.append("close connection")

        async def cursor(connection: Annotated[str, Resource(connection, scope=scope)]) -> AsyncIterator[str]:
            self.log.append("open cursor")
            try:
                yield f"cursor of {connection}"
            finally:
                self.log.append("close cursor")

        class Flow(Workflow):
            @step
            async def use(ctx: Any, ev: StartEvent, cursor: Annotated[str, Resource(cursor, scope=scope)]) -> StopEvent:
                self.log.append(f"use {cursor}")
                await anyio.sleep(ev.get("seconds", 0))
                if ev.get("fail"):
                    raise ValueError("no")
                return StopEvent(result=cursor)

        self.flow = Flow

    @property
    def opened_and_closed(self) -> bool:
        return self.log == [
            "open pool",
            "open connection",
            "open cursor",
            "use cursor of connection of pool",
            "close cursor",
            "close connection",
            "close pool",
        ]


@pytest.mark.parametrize("scope", ["run", "step"])
async def test_closed_in_reverse_order_when_the_run_ends(scope: str) -> None:
    pool = Pool(scope)
    assert await pool.flow().run() == "cursor of connection of pool"
    assert pool.opened_and_closed


@pytest.mark.parametrize("scope", ["run", "step"])
async def test_closed_in_reverse_order_when_the_run_fails(scope: str) -> None:
    pool = Pool(scope)
    with pytest.raises(StepFailed):
        await pool.flow().run(fail=True)
    assert pool.opened_and_closed


@pytest.mark.parametrize("scope", ["run", "step"])
@pytest.mark.parametrize("background", [False, True])
async def test_closed_in_reverse_order_when_the_run_is_cancelled(scope: str, background: bool) -> None:
    pool = Pool(scope)
    with anyio.move_on_after(5) as scope_of_caller:
        handler = pool.flow().run(seconds=100)
        if background:
            await anyio.sleep(1)
        await handler
    assert scope_of_caller.cancelled_caught
    assert pool.opened_and_closed
    assert anyio.current_time() == pytest.approx(6)


async def test_a_workflows_resources_are_closed_by_aclose_and_built_anew_after_it() -> None:
    pool = Pool("workflow")
    workflow = pool.flow()
    await workflow.run()
    await workflow.run()
    assert pool.log[-1] == "use cursor of connection of pool"
    await workflow.aclose()
    assert [line for line in pool.log if not line.startswith("use")] == [
        f"{verb} {what}"
        for verb, order in (("open", 1), ("close", -1))
        for what in ["pool", "connection", "cursor"][::order]
    ]
    await workflow.aclose()  # nothing is left to close
    pool.log.clear()
    async with workflow:
        await workflow.run()
    assert pool.opened_and_closed


def test_a_workflows_resources_are_closed_when_the_event_loop_ends(anyio_backend_name: str) -> None:
    if anyio_backend_name == "trio":
        pytest.importorskip("trio")
    pool = Pool("workflow")
    workflow = pool.flow()

    async def main() -> None:
        await workflow.run()

    for _ in range(2):  # a second loop builds them anew
        pool.log.clear()
        name, options = virtual_backend(anyio_backend_name)
        anyio.run(main, backend=name, backend_options=options)
        assert pool.opened_and_closed


@pytest.mark.parametrize("scope", ["workflow", "run"])
async def test_concurrent_first_uses_build_it_once(scope: Any) -> None:
    built: list[Connection] = []

    async def connect() -> AsyncIterator[Connection]:
        await anyio.sleep(1)
        built.append(Connection())
        yield built[-1]

    class Flow(Workflow):
        @step
        async def fan(self, ev: StartEvent) -> list[Next]:
            return [Next() for _ in range(4)]

        @step
        async def use(self, ev: Next, it: Annotated[Connection, Resource(connect, scope=scope)]) -> Got:
            return Got(it)

        @step
        async def join(self, evs: list[Got]) -> StopEvent:
            return StopEvent(result={ev.it for ev in evs})

    async with Flow() as workflow:
        assert await workflow.run() == set(built)
    assert len(built) == 1


@pytest.mark.parametrize("scope", ["workflow", "run", "step"])
async def test_a_resource_may_hold_a_task_group(scope: Any) -> None:
    beats: list[float] = []

    @contextlib.asynccontextmanager
    async def heart() -> AsyncIterator[list[float]]:
        async def beat() -> None:
            while True:
                beats.append(anyio.current_time())
                await anyio.sleep(1)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(beat)
            yield beats
            tasks.cancel_scope.cancel()

    class Flow(Workflow):
        @step(num_workers=2)
        async def use(self, ev: StartEvent, it: Annotated[list[float], Resource(heart, scope=scope)]) -> Next:
            await anyio.sleep(2.5)
            return Next()

        @step
        async def use_again(self, ev: Next, it: Annotated[list[float], Resource(heart, scope=scope)]) -> StopEvent:
            await anyio.sleep(2)
            return StopEvent()

    async with Flow() as workflow:
        await workflow.run()
    alive = len(beats)
    assert alive >= 5
    await anyio.sleep(10)
    assert len(beats) == alive


# ---------------------------------------------------------------------------------------------------- failing


async def test_a_factory_that_fails_fails_the_step_and_the_next_run_tries_again() -> None:
    tries: list[int] = []

    async def connect() -> Connection:
        tries.append(1)
        if len(tries) == 1:
            raise ConnectionError("refused")
        return Connection()

    workflow = using(connect)()
    with pytest.raises(StepFailed, match="connect could not be built: ConnectionError: refused") as failed:
        await workflow.run()
    assert isinstance(failed.value.__cause__, ResourceError)
    assert isinstance(failed.value.__cause__.__cause__, ConnectionError)
    await workflow.run()
    assert len(tries) == 2


async def test_whoever_builds_it_may_be_cancelled_and_the_next_in_line_builds_it() -> None:
    built: list[float] = []

    async def connect() -> Connection:
        await anyio.sleep(10)
        built.append(anyio.current_time())
        return Connection()

    workflow = using(connect)()
    first, second = workflow.run(), workflow.run()
    await anyio.sleep(5)
    await first.cancel_run()
    await second
    assert len(built) == 1


async def test_a_value_of_the_wrong_type_is_an_error() -> None:
    def connect() -> Any:
        return "no connection"

    class Flow(Workflow):
        @step
        async def use(self, ev: StartEvent, it: Annotated[Connection, Resource(connect)]) -> StopEvent:
            return StopEvent()

    with pytest.raises(StepFailed, match=r"wants 'it' to be Connection, but .*connect made 'no connection' \(str\)"):
        await Flow().run()


def test_a_factory_whose_annotation_says_the_wrong_type_is_refused_when_the_class_is_built() -> None:
    def connect() -> str:
        return ""

    with pytest.raises(InvalidWorkflow, match=r"wants 'it' to be Connection, but .*connect makes str"):

        class Flow(Workflow):
            @step
            async def use(self, ev: StartEvent, it: Annotated[Connection, Resource(connect)]) -> StopEvent:
                return StopEvent()


async def test_a_protocol_can_be_asked_for() -> None:
    @runtime_checkable
    class Named(Protocol):
        name: str

    class Flow(Workflow):
        @step
        async def use(self, ev: StartEvent, it: Annotated[Named, Resource(plain)]) -> StopEvent:
            return StopEvent(result=it.name)

    assert await Flow().run() == "plain"


@pytest.mark.parametrize("scope", ["workflow", "run", "step"])
async def test_a_clean_up_that_fails_is_not_lost(scope: Any) -> None:
    def connect() -> Iterator[Connection]:
        yield Connection()
        raise OSError("close failed")

    with pytest.raises(Exception, match="close failed"):
        async with using(connect, scope=scope)() as workflow:
            await workflow.run()


async def test_a_clean_up_that_fails_after_the_step_is_kept_beside_its_error() -> None:
    def connect() -> Iterator[Connection]:
        try:
            yield Connection()
        finally:
            raise OSError("close failed")

    class Flow(Workflow):
        @step
        async def use(self, ev: StartEvent, it: Annotated[Connection, Resource(connect, scope="run")]) -> StopEvent:
            raise ValueError("no")

    with pytest.raises(StepFailed, match="ValueError: no") as failed:
        await Flow().run()
    (other,) = failed.value.others
    assert isinstance(other, ResourceError)
    assert "close failed" in str(other)
