"""A run's state: by key and by path, as a dictionary or an attrs class, edited by one writer at a time."""

from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from misuses import Case, Misuses, inside

from flowkit import Context, StartEvent, StateError, StopEvent, UnknownKey, Workflow, step


@attrs.define
class User:
    name: str = ""
    age: int = 0


@attrs.define
class Totals:
    count: int = 0
    user: User = attrs.field(factory=User)
    extra: dict[str, Any] = attrs.field(factory=dict)


@attrs.frozen
class Settings:
    depth: int = 1
    _key: str = "k"


@attrs.define
class Needy:
    count: int


class Untyped(Workflow):
    @step
    async def work(self, ctx: Context, ev: StartEvent) -> StopEvent:
        return StopEvent(result=await ev.body(ctx))


def keeping(kind: Any) -> type[Workflow]:
    """A workflow whose state is of this class, and whose one step runs the ``body`` it is started with."""

    class Typed(Workflow):
        @step
        async def work(self, ctx: Context[kind], ev: StartEvent) -> StopEvent:
            return StopEvent(result=await ev.body(ctx))

    return Typed


Body = Callable[[Context[Any]], Awaitable[Any]]


async def in_a_step(body: Body, workflow: Workflow | None = None) -> Any:
    """What ``body`` gives with the context of a running step."""
    return await (workflow or Untyped()).run(body=body)


async def outside_a_run(body: Body, workflow: Workflow | None = None) -> Any:
    """What ``body`` gives with a context that has no run."""
    return await body(Context(workflow or Untyped()))


everywhere = pytest.mark.parametrize("call", [in_a_step, outside_a_run])


# ----------------------------------------------------------------------------------------------------- by key and path


@everywhere
async def test_what_was_set_is_got(call: Any) -> None:
    async def body(ctx: Context[Any]) -> list[Any]:
        await ctx.set("a", 1)
        await ctx.set("a", 2)
        await ctx.set("dotted.key", 3)
        return [
            await ctx.get("a"),
            await ctx.get("dotted.key"),
            await ctx.get("b", default=None),
            await ctx.get("b", 0),
        ]

    assert await call(body) == [2, 3, None, 0]


@everywhere
async def test_paths_make_the_dictionaries_on_the_way(call: Any) -> None:
    async def body(ctx: Context[Any]) -> Any:
        await ctx.store.set("user.name.first", "Ada")
        await ctx.store.set("user.age", 36)
        return (
            await ctx.store.get("user.name.first"),
            await ctx.store.get("user.name.last", None),
            await ctx.get("user"),
        )

    assert await call(body) == ("Ada", None, {"name": {"first": "Ada"}, "age": 36})


@everywhere
async def test_typed_state_is_read_and_written_by_path(call: Any) -> None:
    async def body(ctx: Context[Totals]) -> Totals:
        await ctx.set("count", 1)
        await ctx.store.set("user.name", "Ada")
        await ctx.store.set("extra.deep.er", 3)
        assert await ctx.store.get("user.name") == "Ada"
        return await ctx.store.get_state()

    assert await call(body, keeping(Totals)()) == Totals(1, User("Ada"), {"deep": {"er": 3}})


@everywhere
async def test_a_frozen_state_is_replaced(call: Any) -> None:
    async def body(ctx: Context[Settings]) -> Settings:
        await ctx.set("depth", 2)
        await ctx.set("_key", "x")
        return await ctx.store.get_state()

    assert await call(body, keeping(Settings)()) == Settings(2, "x")


@everywhere
async def test_the_whole_state_is_set_and_cleared(call: Any) -> None:
    async def body(ctx: Context[Totals]) -> list[Any]:
        await ctx.store.set_state(Totals(5))
        whole = [await ctx.get("count")]
        await ctx.store.clear()
        return [*whole, await ctx.get("count")]

    assert await call(body, keeping(Totals)()) == [5, 0]


async def test_a_missing_key_names_the_known_ones() -> None:
    async def body(ctx: Context[Any]) -> tuple[str, ...]:
        await ctx.store.set("user.name", "Ada")
        with pytest.raises(UnknownKey) as missing:
            await ctx.store.get("user.age")
        return missing.value.known

    assert await in_a_step(body) == ("user.name",)


async def test_state_goes_on_to_the_next_run() -> None:
    async def count(ctx: Context[Any]) -> int:
        await ctx.set("count", await ctx.get("count", 0) + 1)
        return await ctx.get("count")

    workflow = Untyped()
    handler = workflow.run(body=count)
    assert await handler == 1
    assert await workflow.run(ctx=handler.ctx, body=count) == 2
    assert await workflow.run(body=count) == 1


async def test_a_state_to_begin_with() -> None:
    workflow = keeping(Needy)()
    ctx: Context[Needy] = Context(workflow, state=Needy(3))
    assert await workflow.run(ctx=ctx, body=lambda ctx: ctx.get("count")) == 3


async def test_steps_of_one_run_share_the_state_and_runs_do_not() -> None:
    async def body(ctx: Context[Any]) -> Any:
        before = await ctx.get("seen", None)
        await ctx.set("seen", True)
        return before

    assert [await in_a_step(body), await in_a_step(body)] == [None, None]


async def test_a_plain_step_reaches_the_state_from_its_thread() -> None:
    class Flow(Workflow):
        @step
        def work(self, ctx: Context, ev: StartEvent) -> StopEvent:
            anyio.from_thread.run(ctx.set, "count", 1)
            return StopEvent(result=anyio.from_thread.run(ctx.get, "count"))

    assert await Flow().run() == 1


# ---------------------------------------------------------------------------------------------------------- edit_state


@everywhere
@pytest.mark.parametrize("kind", [dict, Totals])
async def test_leaving_the_block_commits(call: Any, kind: Any) -> None:
    async def body(ctx: Context[Any]) -> list[Any]:
        await ctx.store.set_state({"count": 0} if kind is dict else Totals())
        async with ctx.store.edit_state() as draft:
            if kind is dict:
                draft["count"] += 1
            else:
                draft.count += 1
            unseen = await ctx.get("count")
        return [unseen, await ctx.get("count")]

    assert await call(body, keeping(kind)()) == [0, 1]


@everywhere
async def test_an_exception_leaves_no_trace(call: Any) -> None:
    async def body(ctx: Context[Any]) -> Any:
        await ctx.store.set("user.names", ["Ada"])
        with pytest.raises(ZeroDivisionError):
            async with ctx.store.edit_state() as draft:
                draft["user"]["names"].append("Bob")
                draft["new"] = 1
                raise ZeroDivisionError
        return await ctx.store.get_state()

    assert await call(body) == {"user": {"names": ["Ada"]}}


async def test_cancellation_leaves_no_trace() -> None:
    async def body(ctx: Context[Any]) -> Any:
        with anyio.move_on_after(1):
            async with ctx.store.edit_state() as draft:
                draft["new"] = 1
                await anyio.sleep(5)
        async with ctx.store.edit_state() as draft:
            return dict(draft)

    assert await in_a_step(body) == {}


@everywhere
async def test_a_deleted_key_is_gone(call: Any) -> None:
    async def body(ctx: Context[Any]) -> Any:
        await ctx.set("old", 1)
        async with ctx.store.edit_state() as draft:
            del draft["old"]
            draft["new"] = 2
        return await ctx.store.get_state()

    assert await call(body) == {"new": 2}


async def test_a_commit_is_all_or_nothing() -> None:
    @attrs.define(slots=False)
    class Loose:
        count: int = 0

    async def body(ctx: Context[Any]) -> Loose:
        with pytest.raises(StateError, match="the state has no 'cuont'"):
            async with ctx.store.edit_state() as draft:
                draft.count = 1
                draft.cuont = 2
        return await ctx.store.get_state()

    assert await in_a_step(body, keeping(Loose)()) == Loose(0)


async def test_a_key_that_is_no_string_is_not_committed() -> None:
    async def body(ctx: Context[Any]) -> Any:
        with pytest.raises(StateError, match="a key of the state is a string, but got 3"):
            async with ctx.store.edit_state() as draft:
                draft["a"] = 1
                draft[3] = 1
        return await ctx.store.get_state()

    assert await in_a_step(body) == {}


async def test_one_writer_at_a_time_so_no_update_is_lost() -> None:
    async def add(ctx: Context[Any]) -> None:
        async with ctx.store.edit_state() as draft:
            before = draft.get("count", 0)
            await anyio.sleep(1)
            draft["count"] = before + 1

    async def body(ctx: Context[Any]) -> tuple[int, float]:
        began = anyio.current_time()
        async with anyio.create_task_group() as group:
            for _ in range(5):
                group.start_soon(add, ctx)
        return await ctx.get("count"), anyio.current_time() - began

    assert await in_a_step(body) == (5, 5.0)


async def test_reading_and_writing_back_loses_updates() -> None:
    # What edit_state is for.
    async def add(ctx: Context[Any]) -> None:
        before = await ctx.get("count", 0)
        await anyio.sleep(1)
        await ctx.set("count", before + 1)

    async def body(ctx: Context[Any]) -> int:
        async with anyio.create_task_group() as group:
            for _ in range(5):
                group.start_soon(add, ctx)
        return await ctx.get("count")

    assert await in_a_step(body) == 1


async def test_a_set_waits_for_the_writer_and_is_not_lost() -> None:
    async def body(ctx: Context[Any]) -> list[Any]:
        times: list[float] = []

        async def set_it() -> None:
            await anyio.sleep(1)
            await ctx.set("count", 100)
            times.append(anyio.current_time() - began)

        began = anyio.current_time()
        async with anyio.create_task_group() as group:
            group.start_soon(set_it)
            async with ctx.store.edit_state() as draft:
                draft["count"] = 1
                await anyio.sleep(5)
        return [await ctx.get("count"), times]

    assert await in_a_step(body) == [100, [5.0]]


async def test_writers_of_several_steps_wait_for_each_other() -> None:
    class Flow(Workflow):
        @step
        async def one(self, ctx: Context[Totals], ev: StartEvent) -> None:
            await self.add(ctx)

        @step
        async def two(self, ctx: Context[Totals], ev: StartEvent) -> StopEvent:
            await self.add(ctx)
            await anyio.sleep(10)
            return StopEvent(result=await ctx.get("count"))

        async def add(self, ctx: Context[Totals]) -> None:
            async with ctx.store.edit_state() as draft:
                draft.count += 1
                await anyio.sleep(1)

    assert await Flow().run() == 2


keys = st.sampled_from("abc")
values = st.integers(0, 2) | st.lists(st.integers(0, 2), max_size=2) | st.dictionaries(keys, st.integers(0, 2))


@given(began=st.dictionaries(keys, values), ends=st.dictionaries(keys, values))
def test_a_draft_becomes_the_state_whatever_was_changed(
    began: dict[str, Any], ends: dict[str, Any], anyio_backend_name: str
) -> None:
    async def edit() -> Any:
        ctx: Context[Any] = Context(Untyped(), state=dict(began))
        async with ctx.store.edit_state() as draft:
            draft.clear()
            draft.update(ends)
        return await ctx.store.get_state()

    assert anyio.run(edit, backend=anyio_backend_name) == ends


async def test_what_was_not_changed_is_not_replaced() -> None:
    class Same:
        def __eq__(self, other: object) -> bool:
            return isinstance(other, Same)

        __hash__ = None

    kept = Same()

    async def body(ctx: Context[Any]) -> bool:
        await ctx.set("kept", kept)
        async with ctx.store.edit_state() as draft:
            draft["other"] = 1
        return await ctx.get("kept") is kept

    assert await in_a_step(body)


async def test_what_can_not_be_compared_counts_as_changed() -> None:
    class Array:
        def __init__(self, *items: int) -> None:
            self.items = items

        def __eq__(self, other: object) -> bool:
            raise ValueError("ambiguous")

        __hash__ = None

    async def body(ctx: Context[Any]) -> Any:
        await ctx.set("array", Array(1))
        async with ctx.store.edit_state() as draft:
            draft["array"] = Array(2)
        return (await ctx.get("array")).items

    assert await in_a_step(body) == (2,)


# ---------------------------------------------------------------------------------------------------------- misuses

misuse = Misuses()


class Unique:
    def __deepcopy__(self, memo: object) -> "Unique":
        raise TypeError("there is only one")

    def __repr__(self) -> str:
        return "Unique()"


@misuse(UnknownKey, "the context has no key 'qeury' (known keys: 'query'): did you mean 'query'?")
async def getting_a_misspelt_key() -> None:
    async def body(ctx: Context[Any]) -> None:
        await ctx.set("query", 1)
        await ctx.get("qeury")

    await inside(body)


@misuse(UnknownKey, "the context has no key 'user.age' (known keys: 'user.name'): did you mean 'user.name'?")
async def getting_an_unknown_path() -> None:
    async def body(ctx: Context[Any]) -> None:
        await ctx.store.set("user.name", "Ada")
        await ctx.store.get("user.age")

    await inside(body)


@misuse(StateError, "a key of the state is a string, but got 3: write str(…).")
async def setting_a_key_that_is_no_text() -> None:
    await inside(lambda ctx: ctx.set(3, 3))


@misuse(StateError, "a path is a string like \"user.name\", but got 'user..name': give the keys on the way, dotted.")
async def setting_an_empty_path() -> None:
    await inside(lambda ctx: ctx.store.set("user..name", 3))


@misuse(StateError, "the state has no 'user.name', 'user' is of type int: set 'user' as a whole.")
async def setting_beneath_a_number() -> None:
    async def body(ctx: Context[Any]) -> None:
        await ctx.set("user", 3)
        await ctx.store.set("user.name", "Ada")

    await inside(body)


@misuse(
    StateError, "the state has no 'cuont', the state is of type Totals: declare the field, it has count, user, extra."
)
async def setting_a_field_that_the_state_has_not() -> None:
    class Flow(Workflow):
        @step
        async def work(self, ctx: Context[Totals], ev: StartEvent) -> StopEvent:
            return StopEvent()

    await Context(Flow()).set("cuont", 3)


@misuse(
    StateError,
    "this task is already inside edit_state(): change the draft it gave you instead of the context.",
)
async def setting_inside_edit_state() -> None:
    async def body(ctx: Context[Any]) -> None:
        async with ctx.store.edit_state():
            await ctx.set("count", 3)

    await inside(body)


@misuse(
    StateError,
    "the state can't be copied for editing, 'bell' holds Unique() (TypeError: there is only one): let a "
    "Resource hold what can't be copied.",
)
async def editing_what_can_not_be_copied() -> None:
    async def body(ctx: Context[Any]) -> None:
        await ctx.set("bell", Unique())
        async with ctx.store.edit_state():
            pass

    await inside(body)


@misuse(StateError, "the state of this run is a dict, but got 3: give set_state one.")
async def state_of_another_type() -> None:
    await inside(lambda ctx: ctx.store.set_state(3))


@misuse(
    StateError,
    "Needy can't be the state of a new run (Needy.__init__() missing 1 required positional argument: 'count'):"
    " give every field a default, or begin with one: run(ctx=Context(workflow, state=Needy(…))).",
)
async def with_state_that_needs_values() -> None:
    class Flow(Workflow):
        @step
        async def work(self, ctx: Context[Needy], ev: StartEvent) -> StopEvent:
            return StopEvent()

    await Flow().run()


@pytest.mark.parametrize("case", misuse.run, ids=str)
async def test_a_misuse_is_told_at_its_call(case: Case) -> None:
    assert await case.told_in_a_loop() == case.text
