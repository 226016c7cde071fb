"""Every workflow that stands in this repository, under the three oracles that need no specification.

`CASES` has the flows of crash_flows.py, scenario_flows.py, golden/flows.py and stored_flows.py, of the document that
flowkit implements (its blocks run as they stand, too), of the README, and of `flowkit.examples.ask_folder` with its
outside replaced. (The other examples: test_examples_explored.py. `planted_*.py` are there to fail.) A case that an
oracle can't be asked about says why.
"""

import ast
import contextlib
import functools
import io
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import anyio
import attrs
import crash_flows
import pytest
import scenario_flows
import stored_flows
from golden import flows as golden_flows
from scenario_flows import Act, Book
from schedules import Main, explored
from seed_blocks import BLOCKS, Page, ported
from seed_stand_ins import MODULES, USED_BEFORE_IMPORTED, Memory, OpenAI

import flowkit
from flowkit import Context, Event, HumanResponseEvent, StartEvent, Workflow, step, testing
from flowkit.examples import ask_folder
from flowkit.examples._chat import Endpoint, EndpointError
from flowkit.examples._passages import Listing, NotText
from flowkit.retry_policy import ConstantDelayRetryPolicy
from flowkit.testing import Counterexample

SHORT = 8
"""Runs of each search."""

LONG = 300
"""The same under ``-m crash``."""

ORACLES: dict[str, Callable[..., Any]] = {
    "schedule": testing.assert_schedule_independent,
    "checkpoint": testing.assert_checkpoint_equivalence,
    "cancel": testing.assert_cancels_cleanly,
}


@attrs.frozen
class Case:
    """How to make a workflow, what to start it with, how to answer it, and which oracles can't be asked, and why."""

    make: Callable[[], Workflow]
    start: Any = None
    answer: Callable[[Any], Event | None] | None = None
    schedule: str = ""
    checkpoint: str = ""
    cancel: str = ""


CASES: dict[str, Case] = {}

LOOSE = "what its steps do depends on who comes first, and after a crash another may"
FAILS = "ends with an error, by design: that is a finding by itself (test_simulated_stores.py has crashes of them)"


# ------------------------------------------------------------------------------------------------------ crash_flows.py


class Ledger(crash_flows.Ledger):
    """What the steps do outside is the simulation's effects."""

    def note(self, ctx: Context[Any], *what: Any) -> None:
        testing.effect(ctx.idempotency_key, what)


def replied(question: Any) -> Event | None:
    return crash_flows.Reply(question.text, f"{question.text}!") if isinstance(question, crash_flows.Ask) else None


for one in crash_flows.SCENARIOS.values():
    if one.runs == 1 and one.workflow not in (crash_flows.Late, crash_flows.Failing):
        make = functools.partial(one.workflow, Ledger(), **one.options)
        CASES[f"crash: {one.name}"] = Case(
            make, None, replied if one.answers else None, checkpoint=LOOSE if one.loose else ""
        )
for flow in (crash_flows.Late, crash_flows.Failing):
    CASES[f"crash: {flow.__name__}"] = Case(functools.partial(flow, Ledger()), None, None, FAILS, FAILS, FAILS)


# --------------------------------------------------------------------------------------------------- scenario_flows.py

BUSY = [Act(lasts=1.0, tidies=1.0), Act(lasts=0.5, shielded=True), Act(lasts=0.5, fails=1), Act()]
TIDY = [act for act in BUSY if not act.fails]


def shape(kind: type[scenario_flows.Shape], acts: list[Act], child: type[scenario_flows.Shape] | None = None) -> Any:
    """A workflow of this shape, with a book of its own for each start event."""

    def make() -> Workflow:
        book = Book()
        flow = kind(book, acts)
        if child is not None:
            flow.add_workflows(child=child(book, acts))
        return flow

    return make


class Noted(Book):
    """A book in a start event that every run can have."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        super().__init__()


def answered(question: Any) -> Event | None:
    return scenario_flows.Reply(n=question.n) if isinstance(question, scenario_flows.Ask) else None


BOOK = "has a Book in its start event, which no store takes"
KEPT_BOOK = {"book": None}
for kind, acts in (
    (scenario_flows.Chain, TIDY),
    (scenario_flows.Fan, BUSY),
    (scenario_flows.CaughtFan, [*BUSY, Act(fails=9)]),
    (scenario_flows.Gather, BUSY),
    (scenario_flows.Waits, [Act(), Act(), Act()]),
    (scenario_flows.WaitsTogether, [Act(), Act(), Act()]),
    (scenario_flows.Human, [Act(lasts=1.0)]),
    (scenario_flows.Thread, TIDY),
):
    CASES[f"scenario: {kind.__name__}"] = Case(shape(kind, acts), KEPT_BOOK, answered)
CASES["scenario: Stall"] = Case(shape(scenario_flows.Stall, TIDY), KEPT_BOOK, None, FAILS, FAILS, FAILS)
CASES["scenario: Resourced"] = Case(shape(scenario_flows.Resourced, TIDY), {"book": Noted()}, None, checkpoint=BOOK)
CASES["scenario: Nested"] = Case(shape(scenario_flows.Nested, TIDY, scenario_flows.WaitsTogether), KEPT_BOOK, answered)


# ----------------------------------------------------------------------------------------------------- golden/flows.py


COUNTS = "counts in a step that isn't atomic: twice, after a crash, as the README says"


def numbered(question: Any) -> Event | None:
    return golden_flows.Reply(3) if isinstance(question, golden_flows.Ask) else None


for name, row in golden_flows.FLOWS.items():
    if row.ends and row.snapshot_after == 1000 and not row.steps:
        why = COUNTS if name == "typed" else ""
        CASES[f"golden: {name}"] = Case(row.workflow, row.fields, numbered, checkpoint=why)
CASES["golden: failing"] = Case(golden_flows.Failing, None, None, FAILS, FAILS, FAILS)


# ----------------------------------------------------------------------------------------------------- stored_flows.py


def approving(question: Any) -> Event | None:
    return stored_flows.Approved() if isinstance(question, stored_flows.Question) else None


for flow in (stored_flows.Order, stored_flows.Slow):
    CASES[f"stored: {flow.__name__}"] = Case(flow)
CASES["stored: Ask"] = Case(stored_flows.Ask, None, lambda _: HumanResponseEvent(response="three"))
CASES["stored: WaitsForApproval"] = Case(stored_flows.WaitsForApproval, None, approving)
CASES["stored: Retrying"] = Case(stored_flows.Retrying, checkpoint="its result is for how long it was down")
for flow in (stored_flows.Broken, stored_flows.Patient):
    why = FAILS if flow is stored_flows.Broken else "is driven from outside, as in test_simulated_stores.py"
    CASES[f"stored: {flow.__name__}"] = Case(flow, None, None, why, why, why)


# ------------------------------------------------------------------------------- the document that flowkit implements


def stand_ins() -> Any:
    return patch.dict(sys.modules, {module.__name__: module for module in MODULES})


def page_of(*numbers: int, **names: Any) -> Page:
    """A page with what these blocks define; nothing of them runs."""
    page = Page(**{**USED_BEFORE_IMPORTED, **names})
    with stand_ins():
        for number in numbers:
            exec("\n".join(definitions_in(ported(BLOCKS[number]))), page.names)
    return page


def definitions_in(text: str) -> Iterator[str]:
    for statement in ast.parse(text).body:
        defines = isinstance(statement, ast.Import | ast.ImportFrom | ast.ClassDef | ast.FunctionDef)
        if defines or isinstance(statement, ast.AsyncFunctionDef):
            yield ast.unparse(statement)


def made(define: Callable[[], Any]) -> Callable[[], Workflow]:
    """Makes workflows of one class: in another process it is the same."""
    once = functools.cache(define)
    return lambda: once()()


def from_block(number: int, name: str) -> Callable[[], Workflow]:
    return made(lambda: page_of(number)[name])


class MyEvent(Event):
    pass


class Query(Event):
    query: str


class Retrieve(Event):
    nodes: list[str]


@made
def with_context() -> Any:
    query = page_of(15, MyEvent=MyEvent)["query"]

    @step
    async def begin(self: Any, ctx: Context, ev: StartEvent) -> MyEvent:
        await ctx.set("query", "why?")
        return MyEvent()

    return type("Flow", (Workflow,), {"query": query, "begin": begin})


@made
def with_synthesis() -> Any:
    synthesize = page_of(16, QueryEvent=Query, RetrieveEvent=Retrieve)["synthesize"]

    @step
    async def ask(self: Any, ev: StartEvent) -> Query:
        return Query("why?")

    @step
    async def retrieve(self: Any, ev: StartEvent) -> Retrieve:
        await anyio.sleep(1)
        return Retrieve(["because", "so"])

    return type("Flow", (Workflow,), {"synthesize": synthesize, "ask": ask, "retrieve": retrieve})


FLAKY = page_of(20)


def flaky() -> Workflow:
    """The call fails twice in each process."""
    calls: list[int] = []

    def flaky_call() -> str:
        calls.append(1)
        if len(calls) < 3:
            raise ConnectionError
        return "at last"

    FLAKY["flaky_call"] = flaky_call
    return FLAKY["MyWorkflow"]()


class FirstEvent(Event):
    first_output: str


@made
def streaming() -> Any:
    page = page_of(18, FirstEvent=FirstEvent)

    @step
    async def step_two(self: Any, ctx: Context, ev: FirstEvent) -> flowkit.StopEvent:
        ctx.write_event_to_stream(page["ProgressEvent"](msg="Step two is happening"))
        return flowkit.StopEvent(result=ev.first_output)

    return type("MyWorkflow", (page["MyWorkflow"],), {"step_two": step_two})


@functools.cache
def of_functions() -> Workflow:
    page = Page(**{**USED_BEFORE_IMPORTED, "llm": OpenAI()})
    with stand_ins():
        exec(ported(BLOCKS[26]).replace("verbose=True", "verbose=False"), page.names)
    return page["joke_flow"]


@made
def with_a_stop_event() -> Any:
    page = page_of(1)
    base = page["JokeFlow"]
    for number in (10, 11):
        exec("\n".join(definitions_in(ported(BLOCKS[number]))), page.names)
    return type("JokeFlow", (page["JokeFlow"], base), {})


def saying(text: str) -> Callable[[Any], Event]:
    return lambda _: HumanResponseEvent(response=text)


PIRATES = {"topic": "pirates"}
OBJECTS = "its events hold objects that no store takes"
CASES |= {
    "seed: JokeFlow": Case(from_block(1, "JokeFlow"), PIRATES),
    "seed: a custom stop event": Case(with_a_stop_event, PIRATES, checkpoint=OBJECTS),
    "seed: the context": Case(with_context, checkpoint="its result is `...`, as the block has it"),
    "seed: waiting for several": Case(with_synthesis),
    "seed: triggering by hand": Case(from_block(17, "MyWorkflow")),
    "seed: streaming": Case(streaming),
    "seed: retrying": Case(flaky),
    "seed: a person": Case(from_block(23, "HumanInTheLoopWorkflow"), None, saying("42")),
    "seed: functions": Case(of_functions, PIRATES),
    "seed: resources": Case(from_block(28, "WorkflowWithResource")),
}


# ---------------------------------------------------------------------------------------------------------- the README

README = Path(__file__).parents[1] / "README.md"


class Question(Event):
    text: str


class Answer(Event):
    text: str


def of_readme(name: str, **more: Any) -> Callable[[], Workflow]:
    def define() -> Any:
        blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
        block = next(one for one in blocks if f"class {name}(Workflow)" in one)
        names = {each: getattr(flowkit, each) for each in flowkit.__all__}
        names |= {"ConstantDelayRetryPolicy": ConstantDelayRetryPolicy, "anyio": anyio, "__name__": "readme"}
        names |= {"Question": Question, "Answer": Answer}
        exec("\n".join(definitions_in(block)), names)
        return type(name, (names[name],), more)

    return made(define)


@step(num_workers=8, timeout=30, retry_policy=ConstantDelayRetryPolicy(maximum_attempts=3, delay=1))
async def ask(self: Any, ev: Question) -> Answer:
    await anyio.sleep(len(ev.text))
    if ev.text == "why?":
        raise ConnectionError("nobody knows")
    return Answer(f"{ev.text} yes")


if README.exists():
    CASES |= {
        "readme: JokeFlow": Case(of_readme("JokeFlow"), PIRATES),
        "readme: Answers": Case(of_readme("Answers", ask=ask), {"questions": ["is it?", "why?", "was it?"]}),
        "readme: Counting": Case(of_readme("Counting")),
    }


# ---------------------------------------------------------------------------------------------------------- ask_folder

TEXTS = {
    "guide.md": "# Waiting\n\nWait for several events by collecting them.\n\n# Sleeping\n\nSleep well.",
    "notes.txt": "Several notes on waiting for a bus.",
    "locked.md": "",
    "flaky.md": "# Events\n\nAn event waits for nobody.",
    "photo.md": "",
}


def find_files(folder: Path) -> Listing:
    return Listing(files=tuple(folder / name for name in TEXTS), skipped=())


def asking(endpoint: str) -> Callable[[], Workflow]:
    """Of these files one can't be opened, one only the second time, and one is no text; the endpoint is out of order,
    or ``busy`` at first, or there is none."""

    def make() -> Workflow:
        seen: set[str] = set()

        def read_text(path: Path) -> str:
            again = path.name in seen
            seen.add(path.name)
            if path.name == "locked.md" or (path.name == "flaky.md" and not again):
                raise PermissionError(13, "Permission denied")
            if path.name == "photo.md":
                raise NotText("it is binary")
            return TEXTS[path.name]

        async def write_answer(*_: Any) -> str:
            await anyio.sleep(5)
            if endpoint == "busy" and "endpoint" in seen:
                return "Collect them."
            seen.add("endpoint")
            raise EndpointError("too many requests", status=429 if endpoint == "busy" else 401, retry_after=2)

        ask_folder.read_text, ask_folder.write_answer = read_text, write_answer  # put back by `outside`
        known = Endpoint("http://nowhere.invalid/v1", "model") if endpoint else None
        return ask_folder.AskFolder(endpoint=known, top=2)

    return make


@pytest.fixture(autouse=True)
def outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("find_files", "read_text", "write_answer"):
        monkeypatch.setattr(ask_folder, name, find_files)


INDEX = "its index is in memory, and gone with the process: it isn't run with a store"
QUESTION = ask_folder.Ask(folder=Path("/nowhere"), question="How do I wait for several events?")
CASES |= {
    f"ask_folder: {endpoint or 'no'} endpoint": Case(asking(endpoint), QUESTION, checkpoint=INDEX)
    for endpoint in ("", "busy", "broken")
}


# ------------------------------------------------------------------------------------------------------------- tests

ASKED = [
    pytest.param(name, oracle, id=f"{name}, {oracle}")
    for name, case in CASES.items()
    for oracle in ORACLES
    if not getattr(case, oracle)
]
NOT_ASKED = {(name, oracle): getattr(case, oracle) for name, case in CASES.items() for oracle in ORACLES}

FOUND = (FAILS, INDEX, COUNTS)
"""What the oracles find where they are asked all the same."""

each = pytest.mark.parametrize(("name", "oracle"), ASKED)


def put_to(oracle: str, name: str, backend: str, budget: int) -> None:
    case = CASES[name]
    with contextlib.redirect_stdout(io.StringIO()), stand_ins():  # the document's blocks print
        ORACLES[oracle](case.make, case.start, answer=case.answer, budget=budget, backend=backend)
    Memory.made.clear()


@each
def test_nothing_makes_a_difference(name: str, oracle: str, anyio_backend_name: str) -> None:
    put_to(oracle, name, anyio_backend_name, SHORT)


@pytest.mark.crash
@each
def test_nothing_makes_a_difference_however_long_one_looks(name: str, oracle: str, anyio_backend_name: str) -> None:
    put_to(oracle, name, anyio_backend_name, LONG)


@pytest.mark.parametrize(("name", "oracle"), [one for one, why in NOT_ASKED.items() if why in FOUND])
def test_what_is_not_asked_would_be_a_finding(name: str, oracle: str, anyio_backend_name: str) -> None:
    with pytest.raises(Counterexample):
        put_to(oracle, name, anyio_backend_name, 60)


# ------------------------------------------------------------------------------- the document's blocks as they stand


async def the_first_example() -> Any:
    page = Page(**USED_BEFORE_IMPORTED)
    await page.run(1)
    return page["result"]


async def a_person_is_asked() -> Any:
    answers = iter(["42", "43"])
    page = Page(**USED_BEFORE_IMPORTED, input=lambda _: next(answers))
    await page.run(23)
    first = page["final_result"]
    await page.run(24)
    return first, page["final_result"]


async def step_by_step() -> Any:
    page = page_of(17)
    page["JokeFlow"] = page["MyWorkflow"]
    await page.run(25)
    return len(page["result"])


async def two_runs_with_one_context() -> Any:
    class Counting(Workflow):
        @step
        async def count(self, ctx: Context, ev: StartEvent) -> flowkit.StopEvent:
            runs = await ctx.get("runs", default=0) + 1
            await ctx.set("runs", runs)
            return flowkit.StopEvent(result=runs)

    page = Page(w=Counting())
    await page.run(27)
    return page["result"]


async def checkpoints() -> Any:
    page = page_of(1)
    page.fill_dots("JokeFlow", timeout=60)
    await page.run(29)
    return [len(one) for one in page["w_cptr"].checkpoints.values()]


@pytest.mark.parametrize(
    "block", [the_first_example, a_person_is_asked, step_by_step, two_runs_with_one_context, checkpoints]
)
def test_a_block_of_the_document_does_the_same_in_every_order(block: Main, anyio_backend_name: str) -> None:
    with contextlib.redirect_stdout(io.StringIO()), stand_ins():
        found = explored(block, anyio_backend_name, budget=SHORT, warns=(UserWarning,))
    assert len(found.results) == 1
