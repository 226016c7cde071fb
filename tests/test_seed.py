"""The document that flowkit implements, literally: each of its code blocks runs and does what the text says.

Source of the blocks: the page "Workflows" of the LlamaIndex documentation, MIT License, Copyright (c) Jerry
Liu; the notice is in `seed_blocks.md`, which holds them. Only the modules they import from are changed
(`seed_blocks.MOVED`). `seed_stand_ins.py` stands in for LlamaIndex's own types, and each test adds what its
blocks leave to the reader. A test says which blocks it runs: with `@runs(3, 4)` it fails if it doesn't, and
the last tests of this file see that none is left out.
"""

import ast
import hashlib
import inspect
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import anyio
import pytest
from seed_blocks import BLOCKS, MOVED, Page, ported, runs
from seed_stand_ins import (
    MODULES,
    USED_BEFORE_IMPORTED,
    CompletionResponse,
    LlamaCloudIndex,
    Memory,
    OpenAI,
)

from flowkit import (
    Context,
    Event,
    Handler,
    HumanResponseEvent,
    InputRequiredEvent,
    InvalidWorkflow,
    StartEvent,
    StepFailed,
    StopEvent,
    UnknownKey,
    Workflow,
    WorkflowTimeoutError,
    step,
)
from flowkit.retry_policy import RetryPolicy

NOT_PYTHON = {13: "bash"}  # pip install of what draws
FINGERPRINT = "b8468fcf72655cf1939b0816b4a209e17d57331625ade6215afcc02b46a2f691"
"""SHA-256 of the texts of all blocks, one after another, as the document has them."""

JOKE = "<Write your best joke about pirates.>"
CRITIQUE = f"<Give a thorough analysis and critique of the following joke: {JOKE}>"


@pytest.fixture
def page(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Page]:
    """An empty page, on which the blocks that the test names have run when it ends."""
    for module in MODULES:
        monkeypatch.setitem(sys.modules, module.__name__, module)
    Memory.made.clear()
    page = Page(**USED_BEFORE_IMPORTED)
    yield page
    assert set(page.ran) == set(request.function.runs_blocks)


def printed(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().out.splitlines()


# ------------------------------------------------------------------------------------------ the blocks


@runs(0)
async def test_the_entry_point_of_a_script(page: Page, capsys: pytest.CaptureFixture[str]) -> None:
    page["MyWorkflow"] = Dotted
    page.fill_dots("MyWorkflow", timeout=60)
    await page.run(0)
    await page["main"]()
    assert printed(capsys) == ["done"]


class Dotted(Workflow):
    """Is run as `w.run(...)`, dots and all."""

    def run(self, dots: Any) -> Any:  # type: ignore[override]
        assert dots is ...
        return super().run()

    @step
    async def only(self, ev: StartEvent) -> StopEvent:
        return StopEvent(result="done")


def test_the_entry_point_started_as_a_script(capsys: pytest.CaptureFixture[str]) -> None:
    page = Page(__name__="__main__", MyWorkflow=Dotted)
    page.fill_dots("MyWorkflow", timeout=60)
    exec(ported(BLOCKS[0]), page.names)
    assert printed(capsys) == ["done"]


@runs(1)
async def test_a_joke_is_generated_and_critiqued(page: Page, capsys: pytest.CaptureFixture[str]) -> None:
    await page.run(1)
    assert page["result"] == CRITIQUE
    assert printed(capsys) == [CRITIQUE]  # and nothing else: verbose=False


@runs(2, 3, 4, 5, 6)
async def test_the_pieces_of_the_first_example_make_the_whole(page: Page, capsys: pytest.CaptureFixture[str]) -> None:
    pieces = []
    await page.run(2)
    for number in (3, 4, 5):
        await page.run(number)
        pieces.append(page["JokeFlow"])
    page["JokeFlow"] = type("JokeFlow", tuple(pieces), {})
    await page.run(6)
    assert page["w"].llm.model == "gpt-4o-mini"
    assert printed(capsys) == [CRITIQUE]


@runs(2, 4)
async def test_the_types_of_the_steps_are_verified_before_running(page: Page) -> None:
    await page.run(2)
    await page.run(4)
    with pytest.raises(InvalidWorkflow, match=r"JokeFlow\.generate_joke"):
        page["JokeFlow"]().run(topic="pirates")


@runs(1)
async def test_a_missing_topic_raises_and_get_does_not(page: Page) -> None:
    await page.run(1)
    flow = page["JokeFlow"]
    with pytest.raises(StepFailed, match=r"generate_joke.*'topic'") as failed:
        await flow().run()
    assert isinstance(failed.value.__cause__, AttributeError)

    JokeEvent = page["JokeEvent"]

    class Careful(flow):
        @step
        async def generate_joke(self, ev: StartEvent) -> JokeEvent:
            return JokeEvent(joke=str(ev.get("topic")))

    assert (await Careful().run()).endswith("joke: None>")


@runs(1)
async def test_the_timeout_is_in_seconds(page: Page) -> None:
    await page.run(1)
    flow = page["JokeFlow"]
    flow.llm.acomplete = lambda prompt: anyio.sleep(59 if "best" in prompt else 2)
    began = anyio.current_time()
    with pytest.raises(WorkflowTimeoutError, match="critique_joke"):
        await flow(timeout=60).run(topic="pirates")
    assert anyio.current_time() == pytest.approx(began + 60)


@runs(1)
@pytest.mark.parametrize("result", [{"a": 1}, [1, 2], None, "text", object()])
async def test_a_returned_stop_event_ends_the_run_at_once_with_its_result(page: Page, result: Any) -> None:
    await page.run(1)
    flow = page["JokeFlow"]

    class Impatient(flow):
        @step
        async def stop(self, ev: StartEvent) -> StopEvent:
            return StopEvent(result=result)

    began = anyio.current_time()
    assert await Impatient().run(topic="pirates") is result
    assert anyio.current_time() == pytest.approx(began)


# -------------------------------------------------------------------- custom entry and exit points


@runs(2, 5, 7, 8, 9)
async def test_a_custom_start_event(page: Page, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in (2, 5):
        await page.run(number)
    critique = page["JokeFlow"]
    await page.run(7)
    page["a_string_field"] = "pirates"  # block 8 means ev.a_string_field
    await page.run(8)
    page["JokeFlow"] = type("JokeFlow", (page["JokeFlow"], critique), {"llm": OpenAI()})
    fields = {
        "a_string_field": "pirates",
        "a_path_to_somewhere": tmp_path / "joke.txt",
        "an_index": LlamaCloudIndex(),
        "an_llm": OpenAI(),
    }
    page.fill_dots("MyCustomStartEvent", **fields)
    await page.run(9)
    joke = "<Write your best joke about <What is the closest topic to pirates>.>"
    assert (tmp_path / "joke.txt").read_text() == joke
    assert printed(capsys) == [CRITIQUE.replace(JOKE, joke)]

    # "We could still pass the fields of MyCustomStartEvent as keyword arguments to the run method"
    assert await page["w"].run(**fields) == page["result"]


@runs(1, 10, 11, 12)
async def test_a_custom_stop_event_is_the_result(page: Page, capsys: pytest.CaptureFixture[str]) -> None:
    await page.run(1)
    generate = page["JokeFlow"]
    await page.run(10)
    await page.run(11)
    page["JokeFlow"] = type("JokeFlow", (page["JokeFlow"], generate), {})
    printed(capsys)
    await page.run(12)
    assert isinstance(page["result"], page["MyStopEvent"])
    assert isinstance(page["result"].critique, CompletionResponse)
    assert printed(capsys) == [CRITIQUE]


# -------------------------------------------------------------------------------------------- drawing


@runs(1, 14)
async def test_drawing(page: Page, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    await page.run(1)
    await page.run(14)
    for name in ("joke_flow_all.html", "joke_flow_recent.html"):
        drawn = (tmp_path / name).read_text(encoding="utf-8")
        assert "generate_joke" in drawn and "critique_joke" in drawn and "JokeEvent" in drawn


@runs(1, 14)
async def test_what_is_drawn_runs(page: Page) -> None:
    await page.run(1)
    runs_it, drawing = [], []
    for statement in ast.parse(ported(BLOCKS[14])).body:
        source = ast.unparse(statement)
        (drawing if "draw" in source else runs_it).append(source)
    assert len(drawing) == 3  # the import and the two calls
    await page.execute("\n".join(runs_it), 14)
    assert runs_it == ["w = JokeFlow()", "await w.run(topic='Pirates')"]


# ------------------------------------------------------------------------------------------- context


@runs(15)
async def test_the_global_context(page: Page) -> None:
    class MyEvent(Event):
        pass

    page["MyEvent"] = MyEvent
    await page.run(15)

    class Flow(Workflow):
        query = page["query"]

        @step
        async def begin(self, ctx: Context, ev: StartEvent) -> MyEvent:
            if "query" in ev:
                await ctx.set("query", ev.query)
            return MyEvent()

    handler = Flow().run(query="why?")
    assert await handler is ...  # the block's `result`
    assert await handler.ctx.get("key") is ...  # and its `val`
    with pytest.raises(StepFailed) as failed:
        await Flow().run()
    assert isinstance(failed.value.__cause__, UnknownKey)


@runs(16)
@pytest.mark.parametrize("first", ["query", "retrieve"])
async def test_waiting_for_events_of_several_types(page: Page, first: str) -> None:
    class QueryEvent(Event):
        query: str

    class RetrieveEvent(Event):
        nodes: list[str]

    page["QueryEvent"], page["RetrieveEvent"] = QueryEvent, RetrieveEvent
    await page.run(16)

    class Flow(Workflow):
        synthesize = page["synthesize"]

        @step
        async def query(self, ev: StartEvent) -> QueryEvent:
            await anyio.sleep(first != "query")
            return QueryEvent(query="why?")

        @step
        async def retrieve(self, ev: StartEvent) -> RetrieveEvent:
            await anyio.sleep(first != "retrieve")
            return RetrieveEvent(nodes=["because", "so"])

    assert await Flow().run() == "why? because so"


@runs(17)
async def test_triggering_events_by_hand(page: Page) -> None:
    await page.run(17)
    result = await page["MyWorkflow"]().run()
    assert result == [page["MyEventResult"](result="result")] * 2


# ------------------------------------------------------------------------------------------ streaming


@runs(18, 19)
async def test_progress_is_streamed(page: Page, capsys: pytest.CaptureFixture[str]) -> None:
    class FirstEvent(Event):
        first_output: str

    page["FirstEvent"] = FirstEvent
    await page.run(18)

    class Whole(page["MyWorkflow"]):
        @step
        async def step_two(self, ctx: Context, ev: FirstEvent) -> StopEvent:
            ctx.write_event_to_stream(page["ProgressEvent"](msg="Step two is happening"))
            return StopEvent(result=ev.first_output)

    page["MyWorkflow"] = Whole
    page.fill_dots("MyWorkflow", timeout=60)
    await page.run(19)
    assert printed(capsys) == [
        "ProgressEvent(msg='Step one is happening')",
        "ProgressEvent(msg='Step two is happening')",
        "StopEvent(result='First step complete.')",
    ]
    assert page["result"] == "First step complete."


# -------------------------------------------------------------------------------------------- retries


@runs(20)
@pytest.mark.parametrize("failures", [0, 3, 10])
async def test_a_flaky_step_is_retried_every_5_seconds(page: Page, failures: int) -> None:
    calls = count_calls(page, failures)
    await page.run(20)
    assert await page["MyWorkflow"]().run() == "at last"
    assert calls == pytest.approx([5.0 * number for number in range(failures + 1)])


@runs(20)
async def test_a_flaky_step_is_retried_at_most_10_times(page: Page) -> None:
    calls = count_calls(page, failures=11)
    await page.run(20)
    with pytest.raises(StepFailed, match=r"flaky_step.*ConnectionError.*after 11 attempts"):
        await page["MyWorkflow"]().run()
    assert len(calls) == 11


def count_calls(page: Page, failures: int) -> list[float]:
    """Give a page a `flaky_call` that fails so often at first; the seconds of its calls since the first."""
    calls: list[float] = []
    began = anyio.current_time()

    def flaky_call() -> str:
        calls.append(anyio.current_time() - began)
        if len(calls) <= failures:
            raise ConnectionError
        return "at last"

    page["flaky_call"] = flaky_call
    return calls


@runs(21)
async def test_a_policy_is_any_class_with_that_method(page: Page) -> None:
    await page.run(21)
    wanted, given = (inspect.signature(one, eval_str=True) for one in (RetryPolicy.next, page["next"]))
    assert given == wanted

    calls = count_calls(page, failures=3)
    told: list[tuple[float, int, type[Exception]]] = []

    class Twice:
        give_up = page["next"]  # its body is `...`: it returns None

        def next(self, elapsed_time: float, attempts: int, error: Exception) -> float | None:
            told.append((elapsed_time, attempts, type(error)))
            return 5 if attempts < 2 else self.give_up(elapsed_time, attempts, error)

    with pytest.raises(StepFailed):
        await retrying_by(Twice(), page).run()
    # "how much time passed since the first failure, how many consecutive failures happened, the last error"
    assert told == [(pytest.approx(5.0 * retries), retries, ConnectionError) for retries in (0, 1, 2)]
    assert len(calls) == 3


@runs(22)
@pytest.mark.parametrize(("day", "attempts"), [("2025-01-31", 2), ("2025-02-01", 1)])
async def test_a_policy_that_is_excited_about_the_weekend(page: Page, day: str, attempts: int) -> None:
    class Today(datetime):
        @classmethod
        def today(cls) -> datetime:  # type: ignore[override]
            return datetime.fromisoformat(day)

    await page.run(22)
    page["datetime"] = Today
    calls = count_calls(page, failures=1)
    flow = retrying_by(page["RetryOnFridayPolicy"](), page)
    if attempts == 1:
        with pytest.raises(StepFailed):
            await flow.run()
    else:
        assert await flow.run() == "at last"
    assert calls == pytest.approx([0.0, 5.0][:attempts])


def retrying_by(policy: RetryPolicy, page: Page) -> Workflow:
    class Flow(Workflow):
        @step(retry_policy=policy)
        async def flaky_step(self, ev: StartEvent) -> StopEvent:
            return StopEvent(result=page["flaky_call"]())

    return Flow()


# ------------------------------------------------------------------------------------ human in the loop


def answer_with(page: Page, *answers: str) -> list[str]:
    """Give a page an `input` that answers so, in turn; the prompts it showed."""
    prompts: list[str] = []
    left = iter(answers)

    def stand_in(prompt: str) -> str:
        prompts.append(prompt)
        return next(left)

    page["input"] = stand_in
    return prompts


@runs(23)
async def test_a_person_is_asked_while_the_events_stream(page: Page) -> None:
    prompts = answer_with(page, "42")
    await page.run(23)
    assert page["final_result"] == "42"
    assert prompts == ["Enter a number: "]
    assert isinstance(page["event"], StopEvent)  # the loop ended by itself


@runs(23)
async def test_the_workflow_waits_until_somebody_answers(page: Page) -> None:
    answer_with(page, "42")
    await page.run(23)
    handler = page["workflow"].run()
    async for event in handler.stream_events():
        if isinstance(event, InputRequiredEvent):
            await anyio.sleep(7 * 24 * 3600)
            assert not handler.is_done()
            handler.ctx.send_event(HumanResponseEvent(response="at last"))
    assert await handler == "at last"


@runs(23, 24)
async def test_the_loop_is_left_and_resumed_after_the_answer(page: Page) -> None:
    prompts = answer_with(page, "42", "43")
    await page.run(23)
    await page.run(24)
    assert page["final_result"] == "43"
    assert prompts == ["Enter a number: "] * 2
    assert isinstance(page["event"], StopEvent)


# --------------------------------------------------------------------------------------------- stepwise


@runs(1, 25)
async def test_stepwise(page: Page) -> None:
    await page.run(1)
    flow = page["JokeFlow"]

    class WithTopic(flow):
        def run(self, **options: Any) -> Handler:
            return super().run(topic="pirates", **options)

    page["JokeFlow"] = WithTopic  # as the block stands, nobody gives the workflow a topic
    await page.run(25)
    assert page["result"] == CRITIQUE
    assert await produced_by_each_step(WithTopic()) == [["JokeEvent"], ["StopEvent"]]


@runs(1, 25)
async def test_stepwise_without_a_topic_says_so(page: Page) -> None:
    await page.run(1)
    with pytest.raises(StepFailed, match=r"generate_joke.*'topic'"):
        await page.run(25)


@runs(17, 25)
async def test_stepwise_with_parallel_steps_and_a_join(page: Page) -> None:
    await page.run(17)
    page["JokeFlow"] = page["MyWorkflow"]
    await page.run(25)
    assert page["result"] == [page["MyEventResult"](result="result")] * 2
    assert await produced_by_each_step(page["MyWorkflow"]()) == [
        ["MyEvent", "MyEvent", "GatherEvent"],
        ["MyEventResult", "MyEventResult"],
        ["StopEvent"],
    ]


async def produced_by_each_step(workflow: Workflow) -> list[list[str]]:
    """What each `run_step` of the document's loop gives: the names of the events."""
    handler = workflow.run(stepwise=True)
    names: list[list[str]] = []
    while produced_events := await handler.run_step():
        names.append([type(ev).__name__ for ev in produced_events])
        for ev in produced_events:
            handler.ctx.send_event(ev)
    await handler
    return names


# ----------------------------------------------------------------------------------- functions as steps


@runs(26)
async def test_a_workflow_of_functions(page: Page, capsys: pytest.CaptureFixture[str]) -> None:
    await page.run(26)
    page["llm"] = OpenAI()  # `critique_joke` uses one from outside
    assert await page["joke_flow"].run(topic="pirates") == CRITIQUE
    narration = printed(capsys)  # verbose=True
    assert [line for line in narration if "generate_joke" in line]
    assert [line for line in narration if "critique_joke" in line]


# --------------------------------------------------------------------------------- context across runs


@runs(27)
async def test_the_context_is_kept_across_runs(page: Page) -> None:
    class Counting(Workflow):
        @step
        async def count(self, ctx: Context, ev: StartEvent) -> StopEvent:
            runs = await ctx.get("runs", default=0) + 1
            await ctx.set("runs", runs)
            return StopEvent(result=runs)

    page["w"] = Counting()
    await page.run(27)
    assert page["result"] == 2
    assert await page["w"].run() == 1


# ------------------------------------------------------------------------------------------- resources


@runs(28)
async def test_a_resource_is_shared_by_the_steps(page: Page, capsys: pytest.CaptureFixture[str]) -> None:
    await page.run(28)
    assert await page["WorkflowWithResource"]().run() == "Messages put into memory"
    assert len(Memory.made) == 1
    first, second = "This is the first step", "This is an input for step 2"
    assert Memory.made[0].messages == [first, second]
    assert printed(capsys) == [
        "Memory before step 1 []",
        f"Memory after step 1 {[first]}",
        f"Memory before step 2 {[first]}",
        f"Memory after step 2 {[first, second]}",
    ]


@runs(28)
async def test_a_resource_without_cache_is_made_for_each_step(page: Page) -> None:
    text = ported(BLOCKS[28]).replace("Resource(get_memory)", "Resource(get_memory, cache=False)")
    await page.execute(text, 28)
    await page["WorkflowWithResource"]().run()
    assert [memory.messages for memory in Memory.made] == [
        ["This is the first step"],
        ["This is an input for step 2"],
    ]


# ----------------------------------------------------------------------------------------- checkpoints


@runs(1, 29)
async def test_checkpoints(page: Page) -> None:
    await page.run(1)
    flow = page["JokeFlow"]
    JokeEvent = page["JokeEvent"]
    generated: list[str] = []

    class Noting(flow):
        @step
        async def generate_joke(self, ev: StartEvent) -> JokeEvent:
            generated.append(ev.topic)
            return await super().generate_joke(ev)

    page["JokeFlow"] = Noting
    page.fill_dots("JokeFlow", timeout=60)
    # The start event was consumed before the checkpoint, so that a topic for `run_from` can't matter.
    with pytest.warns(UserWarning, match="ignores topic"):
        await page.run(29)
    assert generated == ["Pirates"]
    assert page["handler"].result() == CRITIQUE.replace("pirates", "Pirates")
    first, second = page["w_cptr"].checkpoints.values()
    assert [one.last_completed_step for one in first] == ["generate_joke", "critique_joke"]
    assert [one.last_completed_step for one in second] == ["critique_joke"]
    assert page["ckpt"] is first[0]


# ------------------------------------------------------------------------------- that all of it is there


def test_every_block_of_the_document_runs() -> None:
    run = {number for test in globals().values() for number in getattr(test, "runs_blocks", ())}
    others = {number: block.language for number, block in enumerate(BLOCKS) if block.language != "python"}
    assert others == NOT_PYTHON
    assert run | NOT_PYTHON.keys() == set(range(30)) == set(range(len(BLOCKS)))


def test_the_blocks_are_as_they_were_taken_from_the_document() -> None:
    text = "".join(block.text for block in BLOCKS)
    assert hashlib.sha256(text.encode()).hexdigest() == FINGERPRINT


def test_only_the_modules_that_are_imported_from_are_changed() -> None:
    for block in BLOCKS:
        for theirs, ours in zip(block.text.splitlines(), ported(block).splitlines(), strict=True):
            if theirs != ours:
                start, module, *rest = theirs.split(" ", 2)
                assert ours.split(" ", 2) == [start, MOVED[module], *rest]
