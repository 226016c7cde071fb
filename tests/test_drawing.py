"""Drawings of workflows and of runs: what is in them, and that nobody's text gets out of its place."""

import gc
import importlib
import json
import os
import pkgutil
import re
import shutil
import subprocess
import weakref
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import anyio
import attrs
import pytest
from drawn_flows import EVIL, Answer, Asking, Everything, Failing, Inner, Joke, Loop, Outer, Waiting

import flowkit.examples
from flowkit import (
    Context,
    Event,
    MemoryStore,
    StartEvent,
    StepFailed,
    StopEvent,
    Workflow,
    WorkflowCancelledByUser,
    WorkflowTimeoutError,
    WrongCall,
    open_runtime,
    step,
)
from flowkit.drawing import (
    Execution,
    draw_all_possible_flows,
    draw_most_recent_execution,
    to_fragment,
    to_html,
    to_mermaid,
    to_svg,
)
from flowkit.drawing.execution import Attempt, Cause
from flowkit.drawing.graph import graph_of
from flowkit.drawing.lanes import lanes_of
from flowkit.drawing.timeline import seconds, ticks
from flowkit.recent import KEPT
from flowkit.workflow import drawn_of

FLOWS = [Joke, Outer, Asking, Waiting, Failing, Loop, Everything, Inner]
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


def example_flows() -> list[type[Workflow]]:
    """All workflows in flowkit.examples."""
    found: dict[str, type[Workflow]] = {}
    for module in pkgutil.iter_modules(flowkit.examples.__path__):
        names = vars(importlib.import_module(f"flowkit.examples.{module.name}"))
        for one in names.values():
            if isinstance(one, type) and issubclass(one, Workflow) and one is not Workflow:
                found[one.__qualname__] = one
    return list(found.values())


def parsed(svg: str) -> ElementTree.Element:
    return ElementTree.fromstring(svg)


def tags(svg: str) -> set[str]:
    return {element.tag.rpartition("}")[2] for element in parsed(svg).iter()}


def intervals(execution: Execution) -> list[tuple[str, float, float | None, str]]:
    """Each attempt: its step, from when to when in seconds since the run began, and how it ended."""
    zero = execution.began
    return [
        (one.step, round(one.began - zero, 3), None if one.ended is None else round(one.ended - zero, 3), one.outcome)
        for one in execution.attempts
    ]


def is_mermaid(text: str) -> bool:
    """Whether a flowchart's or a Gantt chart's lines are of the few forms that are needed."""
    node = r"n\w+(\[|\(|\(\[|\[/|\[\\|\(\()\"[^\"<>&]*(<br/>[^\"<>&]*)*\"(\]|\)|\]\)|/\]|\\\]|\)\)):::\w+"
    edge = r"n\w+ (-->|==>|-\.->)(\|\"[^\"<>|]*\"\|)? n\w+"
    forms = rf"flowchart TD|{node}|{edge}|subgraph \w+\[\"[^\"<>]*\"\]|end|classDef \w+ [\w#:,-]+"
    forms += r"|gantt|title [^:;#<>\"]+|dateFormat x|axisFormat [%\w:.]+|section [^:;#<>\"]+|%% [\w ]+"
    forms += r"|[^:;#<>\"]+ :(done|crit|active), a\d+, -?\d+, \d+"
    return all(re.fullmatch(forms, line.strip()) for line in text.splitlines())


# ------------------------------------------------------------------------------------------ the wiring


@pytest.mark.parametrize("flow", FLOWS, ids=lambda flow: flow.__name__)
def test_each_flow_is_drawn_in_every_form(flow: type[Workflow]) -> None:
    svg, page, mermaid = to_svg(flow), to_html(flow), to_mermaid(flow)
    assert tags(svg) <= {"svg", "style", "g", "rect", "text", "title", "path", "polygon"}
    assert is_mermaid(mermaid)
    for name in flow().step_names():
        assert f">{name}</text>" in svg and name in page and name in mermaid


def test_the_examples_are_drawn() -> None:
    flows = example_flows()
    assert flows
    for flow in flows:
        assert is_mermaid(to_mermaid(flow))
        names = {element.text for element in parsed(to_svg(flow)).iter() if element.tag.endswith("}text")}
        assert {name for name in graph_names(flow) if len(name) < 40} <= names


def graph_names(flow: type[Workflow]) -> set[str]:
    return {node.name for node in graph_of(flow).nodes}


def test_a_small_flow_in_mermaid() -> None:
    lines = to_mermaid(Joke).splitlines()
    assert [line.strip() for line in lines if "classDef" not in line] == [
        "flowchart TD",
        'n0["write"]:::step',
        'n1["judge"]:::step',
        'n2(["StartEvent"]):::start',
        'n3("Text"):::event',
        'n4(["StopEvent"]):::stop',
        "n0 --> n3",
        "n1 --> n4",
        "n2 --> n0",
        "n3 --> n1",
    ]


def test_a_small_flow_in_svg() -> None:
    """The boxes stand in a column, in the order of the events."""
    boxes = [element for element in parsed(to_svg(Joke)).iter() if element.tag.endswith("}rect")]
    assert [(box.get("class"), box.get("y")) for box in boxes] == [
        ("step", "90"),
        ("step", "270"),
        ("start", "0"),
        ("event", "180"),
        ("stop", "360"),
    ]
    middles = {float(box.get("x", 0)) + float(box.get("width", 0)) / 2 for box in boxes}
    assert max(middles) - min(middles) < 0.2


def test_everything_that_is_known_is_in_it() -> None:
    graph = graph_of(Everything)
    nodes = {node.name: node for node in graph.nodes}
    edges = {(edge.source.split()[-1], edge.target.split()[-1], edge.label, edge.style) for edge in graph.edges}
    assert {
        ("split", "Part", "list", "many"),
        ("Done", "join", "first 2", "many"),
        ("work", "mend", "fails", "fails"),
        ("join", "Ask", "", "one"),
        ("Ask", "person", "", "one"),
        ("person", "Answer", "", "one"),
        ("hear", "Part", "", "one"),
    } <= edges
    work = nodes["work"]
    assert work.lines == ("↻ retries", "◷ at most 30 s", "atomic", "◆ db: Database")
    assert [one.name for one in work.inner] == ["Inner"]
    for said in ("num_workers = 8", "ConstantDelayRetryPolicy(", "timeout = 30 s", "its failure goes to mend"):
        assert said in work.detail
    assert re.search(r"drawn_flows\.py:\d+$", work.detail)
    assert "number: int" in nodes["Part"].detail
    assert nodes["Text"].kind == "loose" and "it is sent by a step, or from outside" in nodes["Text"].detail
    assert "can't be known before a run" in nodes["split"].detail


def test_an_instance_is_drawn_with_what_was_added_to_it() -> None:
    class Better(Inner):
        pass

    flow = Outer()
    flow.add_workflows(inner=Better())
    assert "inner: Better" in to_svg(flow) and "inner: Inner" in to_svg(Outer)


def test_a_workflow_that_is_nested_in_itself_ends_somewhere() -> None:
    class Doll(Workflow):
        @step
        async def open(self, ev: StartEvent, smaller: Workflow) -> StopEvent:
            return StopEvent()

    assert "▣ smaller: Workflow" in to_svg(Doll)


def test_what_is_drawn_is_the_same_each_time() -> None:
    assert all(to_html(flow) == to_html(flow) for flow in FLOWS)


@pytest.mark.parametrize(("suffix", "begins"), [(".html", "<!DOCTYPE html>"), (".svg", "<svg "), (".mmd", "flowchart")])
def test_the_suffix_says_what_is_written(tmp_path: Path, suffix: str, begins: str) -> None:
    draw_all_possible_flows(Joke, filename=str(tmp_path / f"it{suffix}"))
    assert (tmp_path / f"it{suffix}").read_text(encoding="utf-8").startswith(begins)


def test_what_cannot_be_drawn_is_refused(tmp_path: Path) -> None:
    drawn: Any
    with pytest.raises(WrongCall, match=r"\.html, \.svg or \.mmd"):
        draw_all_possible_flows(Joke, filename=str(tmp_path / "it.png"))
    for drawn in (3, "Joke", b"", None, [], [1], Event):
        with pytest.raises(WrongCall):
            to_svg(drawn)
    with pytest.raises(WrongCall, match="await a run"):
        draw_most_recent_execution(Joke(), filename=str(tmp_path / "it.html"))
    drawn = Joke
    with pytest.raises(WrongCall, match="give the instance"):
        draw_most_recent_execution(drawn, filename=str(tmp_path / "it.html"))
    assert list(tmp_path.iterdir()) == []


# --------------------------------------------------------------------------------------------- the run


async def test_the_times_are_those_of_the_run() -> None:
    flow = Joke()
    await flow.run()
    execution = Execution.of(flow)
    assert intervals(execution) == [("write", 0, 1, "returned"), ("judge", 1, 3, "returned")]
    assert execution.outcome == "done: StopEvent(result='funny')" and not execution.failed
    assert [(cause.event, cause.source is None) for cause in execution.causes] == [
        ("StartEvent", True),
        ("Text", False),
    ]
    lanes = lanes_of(execution)
    assert [(row.name, row.first, row.count) for row in lanes.rows] == [
        ("outside", 0, 1),
        ("write", 1, 1),
        ("judge", 2, 1),
    ]
    assert lanes.span == pytest.approx(3)


async def test_steps_side_by_side_have_lanes_of_their_own() -> None:
    flow = Outer()
    flow.add_workflows(inner=Inner())
    assert await flow.run() == 3
    execution = Execution.of(flow)
    assert intervals(execution) == [
        ("split", 0, 0, "returned"),
        ("work", 0, 1, "returned"),
        ("work", 0, 1, "returned"),
        ("work", 1, 2, "returned"),  # it had to wait for a worker
        ("join", 2, 2, "returned"),
    ]
    assert [intervals(inner) for _, inner in execution.nested] == [[("look", 0, 1, "returned")]] * 3
    # (A nested run's clock may be some microseconds off: what follows at once may seem to overlap.)
    rows = [(row.name, row.depth, min(row.count, 2)) for row in lanes_of(execution).rows]
    assert rows == [
        ("outside", 0, 1),
        ("split", 0, 1),
        ("work", 0, 2),
        ("▣ Inner", 1, 1),
        ("look", 1, 2),
        ("join", 0, 1),
    ]
    join = execution.attempts[-1].invocation
    assert [cause.event for cause in execution.causes if cause.target == join] == ["Done"] * 3


async def test_attempts_retries_and_failures() -> None:
    flow = Failing()
    assert await flow.run() == "mended"
    execution = Execution.of(flow)
    assert intervals(execution) == [
        ("try_it", 0, 1, "retried"),
        ("try_it", 11, 12, "retried"),
        ("try_it", 22, 23, "failed"),
        ("mend", 23, 23, "returned"),
    ]
    assert [attempt.number for attempt in execution.attempts] == [1, 2, 3, 1]
    assert [round(one.retry_at - execution.began, 3) for one in execution.attempts if one.retry_at] == [11, 22]
    assert execution.causes[-1].source == execution.attempts[2].invocation  # the failure led to mend
    pauses = [(round(bar.began, 3), round(bar.ended, 3)) for bar in lanes_of(execution).bars if bar.what == "pause"]
    assert pauses == [(1, 11), (12, 22)]


async def test_waits_questions_and_answers() -> None:
    flow = Waiting()
    async with flow.run() as handler:
        await anyio.sleep(5)
        handler.send_event(Answer(text="yes"))
    execution = Execution.of(handler)
    (wait,) = execution.waits
    assert (wait.outcome, wait.event, wait.question) == ("answered", "Answer", "Ask(prompt='well?')")
    assert (wait.opened - execution.began, (wait.closed or 0) - execution.began) == (pytest.approx(0), pytest.approx(5))
    assert [mark.kind for mark in execution.marks] == ["start", "asked", "sent", "answered", "result"]
    assert intervals(execution) == [("wait", 0, 6, "returned")]


async def test_a_wait_that_times_out() -> None:
    flow = Waiting()
    with pytest.raises(StepFailed):
        await flow.run()
    execution = Execution.of(flow)
    assert execution.waits[0].outcome == "timed out" and execution.failed
    assert execution.outcome.startswith("failed: StepFailed: Error in step 'wait': WaitTimedOut")


async def test_how_a_run_ended() -> None:
    flow = Joke(timeout=1.5)
    with pytest.raises(WorkflowTimeoutError):
        await flow.run()
    execution = Execution.of(flow)
    assert execution.outcome == "timed out after 1.5 s"
    assert intervals(execution) == [("write", 0, 1, "returned"), ("judge", 1, 1.5, "cut off")]

    handler = flow.run()
    await anyio.sleep(0.5)
    await handler.cancel_run()
    with pytest.raises(WorkflowCancelledByUser):
        await handler
    assert Execution.of(handler).outcome.startswith("cancelled: cancel_run() was called")


async def test_a_run_under_way() -> None:
    async with Joke().run() as handler:
        await anyio.sleep(1.5)
        execution = Execution.of(handler)
        assert execution.outcome == "under way"
        assert intervals(execution) == [("write", 0, 1, "returned"), ("judge", 1, None, "running")]
        assert to_html(handler) and to_svg(handler) and is_mermaid(to_mermaid(handler))


async def test_only_the_most_recent_run_is_remembered() -> None:
    flow = Joke()
    first = flow.run()
    await first
    second = flow.run()
    await second
    assert Execution.of(second).run_id == Execution.of(flow).run_id == second.run_id
    with pytest.raises(WrongCall, match="before its workflow begins the next"):
        to_svg(first)


async def test_what_is_remembered_is_bounded() -> None:
    flow = Loop()
    await flow.run(times=KEPT)
    recent = drawn_of(flow)[0]
    assert recent is not None and len(recent.entries) == KEPT
    execution = Execution.of(flow)
    assert execution.dropped and execution.outcome == "done: StopEvent(result=None)"
    assert KEPT // 2 - 2 <= len(execution.attempts) <= KEPT // 2 + 2
    assert "begins in the middle" in to_html(execution) and "begins in the middle" in to_svg(execution)


async def test_remembering_a_run_keeps_neither_it_nor_its_errors_alive() -> None:
    flow = Failing()
    handler = flow.run()
    run = weakref.ref(handler._run)
    await handler
    del handler
    gc.collect()
    assert run() is None
    recent = drawn_of(flow)[0]
    assert recent is not None
    errors = [one for one in gc.get_referents(*recent.entries) if isinstance(one, BaseException)]
    assert errors and all(error.__traceback__ is None for error in errors)


async def test_the_values_of_the_state_are_not_remembered() -> None:
    class Big:
        pass

    kept: list[weakref.ref[Big]] = []

    class Stateful(Workflow):
        @step
        async def only(self, ctx: Context, ev: StartEvent) -> StopEvent:
            big = Big()
            kept.append(weakref.ref(big))
            await ctx.set("big", big)
            await ctx.set("big", None)
            return StopEvent()

    flow = Stateful()
    await flow.run()
    gc.collect()
    assert kept[0]() is None


async def test_a_stored_run_is_drawn_from_its_history() -> None:
    flow = Failing()
    async with open_runtime(store=MemoryStore(), workflows=[flow]) as runtime:
        assert await (await runtime.run(flow, run_id="one")) == "mended"
        recorded = Execution.of(await runtime.history("one"))
    remembered = Execution.of(flow)
    assert intervals(recorded) == intervals(remembered)
    assert recorded.run_id == "one" and recorded.outcome == remembered.outcome == "done: StopEvent(result='mended')"
    assert [(one.source, one.target) for one in recorded.causes] == [
        (one.source, one.target) for one in remembered.causes
    ]
    assert is_mermaid(to_mermaid(recorded)) and parsed(to_svg(recorded)) is not None


# ---------------------------------------------------------------------------------------- bad input


async def test_text_from_users_stays_text() -> None:
    flow = Failing()
    await flow.run()
    asking = Asking(disable_validation=True, stalled="wait")
    async with asking.run() as handler:
        await anyio.sleep(1)
        handler.send_event(Answer(text=EVIL))
    for drawn in (flow, asking):
        execution = Execution.of(drawn)
        assert tags(to_svg(execution)) <= {
            "svg",
            "style",
            "g",
            "rect",
            "text",
            "title",
            "path",
            "polygon",
            "line",
            "circle",
        }
        page = to_html(execution)
        assert page.count("<script") == page.count("</script") == 2 and "<img" not in page
        page.encode("utf-8")
        assert is_mermaid(to_mermaid(execution))


def test_names_from_users_stay_text() -> None:
    evil = EVIL.replace("\x00", "").replace("\ud800", "")
    event: Any = type(f"Ev{evil}", (Event,), {})

    class Named(Workflow):
        @step(name=EVIL)
        async def one(self, ev: StartEvent) -> event:
            return event()

        @step
        async def two(self, ev: event) -> StopEvent:
            return StopEvent()

    assert "img" not in tags(to_svg(Named))
    page = to_html(Named)
    assert page.count("<script") == 1 and "<img" not in page
    assert is_mermaid(to_mermaid(Named))


# -------------------------------------------------------------------------------------------- at scale


def long_execution(count: int) -> Execution:
    attempts, causes = [], []
    for number in range(count):
        step_name, began = f"step_{number % 4}", number / 1000
        ended = began + (number % 13) / 1000
        error = "ValueError: no" if number % 97 == 0 else ""
        attempt = Attempt(step_name, number, 1, began, "Item", f"Item(number={number})", ended)
        attempt.outcome, attempt.error = "failed" if error else "returned", error
        attempt.made = f"Item(number={number + 1})"
        attempts.append(attempt)
        if number:
            causes.append(Cause(number - 1, number, "Item", began, began))
    steps = tuple(f"step_{number}" for number in range(4))
    return Execution("Long", "r", steps, 0, count / 1000, "done", False, tuple(attempts), (), (), tuple(causes))


def test_ten_thousand_events() -> None:
    """No times here: what is bounded is how much is drawn, and how much of it there is for each event."""
    execution = long_execution(10_000)
    page, svg = to_html(execution), to_svg(execution)
    assert len(page) < 2_000_000 and len(svg) < 2_000_000
    assert parsed(svg).tag.endswith("}svg") and "9999 arrows left out" in svg
    data = json.loads(re.findall(r'id="data">(.*?)</script>', page, re.DOTALL)[0])
    assert len(data["bars"]) == 10_000 and len(data["links"]) == 9_999  # the page has all of them
    assert len(to_svg(long_execution(40_000))) < 1.5 * len(svg)  # a picture has only so much room
    assert len(to_mermaid(execution)) < 50_000


def test_a_nested_run_of_a_step_that_is_not_remembered() -> None:
    inner, outer = long_execution(3), long_execution(5)
    whole = attrs.evolve(outer, nested=((99, inner), (1, inner)), dropped=True)
    names = [row.name for row in lanes_of(whole).rows]
    assert names.count("▣ Long") == 2 and "(a step that is not remembered)" in names
    assert len(lanes_of(whole).bars) == 11
    assert parsed(to_svg(whole)) is not None and to_html(whole)


def test_lanes_grow_with_what_is_side_by_side_only() -> None:
    lanes = lanes_of(long_execution(2_000))
    assert lanes.count < 25
    by_lane: dict[int, float] = {}
    for bar in lanes.bars:
        assert bar.began >= by_lane.get(bar.lane, 0.0)  # nothing lies on anything else
        by_lane[bar.lane] = bar.ended


@pytest.mark.parametrize("span", [0, 1e-9, 3e-7, 0.001, 0.9, 1, 7, 59, 150, 290, 377, 3600, 9000, 13_000, 1e5, 1e6])
def test_the_axis_has_a_few_round_times(span: float) -> None:
    found = list(ticks(span))
    assert 1 <= len(found) <= 12
    if span >= 1:
        assert all(re.fullmatch(r"\d+(\.\d)? (ms|s|min|h)", label) for _, label in found), found
    assert len({label for _, label in found}) == len(found)
    assert all(seconds(time) == label for time, label in found)


# ------------------------------------------------------------------------------------------ notebooks


async def test_in_a_notebook() -> None:
    flow = Joke()
    bundle = flow._repr_mimebundle_()
    assert "judge" in bundle["text/html"] and "Joke object" in bundle["text/plain"]
    handler = flow.run()
    assert handler._repr_html_() is None  # there is nothing yet
    await handler
    assert handler._repr_html_() == to_fragment(handler)
    assert "<script" not in to_fragment(handler)
    assert handler._repr_mimebundle_(exclude={"text/html"}) == {"text/plain": repr(handler)}


def test_what_cannot_be_drawn_is_shown_as_text() -> None:
    class Wrong(Workflow):
        @step
        async def one(self, ev: "Missing") -> StopEvent:  # type: ignore[name-defined] # noqa: F821
            return StopEvent()

    assert set(Wrong()._repr_mimebundle_()) == {"text/plain"}


# ---------------------------------------------------------------------------------- in a real browser


@pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_pages_work_in_a_browser(tmp_path: Path, scheme: str) -> None:
    """They run without a fault, and nothing that users wrote runs. ``FLOWKIT_SCREENSHOTS`` names a folder to keep
    pictures in."""
    flow, pictures = Failing(), Path(os.environ.get("FLOWKIT_SCREENSHOTS", tmp_path))

    async def once() -> None:
        await flow.run()

    from flowkit.testing.virtual_time import run_virtual

    run_virtual(once, backend="asyncio")
    pages = {"flow": to_html(Everything), "run": to_html(Execution.of(flow)), "long": to_html(long_execution(10_000))}
    for name, page in pages.items():
        # A fault in a script shows in the title; the policy allows scripts of the page.
        trap = "<script>addEventListener('error',e=>document.title='fault: '+e.message)</script><title>"
        file = tmp_path / f"{name}.html"
        file.write_text(page.replace("<title>", trap, 1), encoding="utf-8")
        if scheme == "light":
            dom = in_browser(tmp_path, file, "--dump-dom", scheme=scheme)
            title = re.findall("<title>(.*?)</title>", dom, re.DOTALL)[0]
            assert "fault" not in title and "pwned" not in title
            assert "data-said=" in dom if name == "flow" else re.search(r'<canvas[^>]* width="\d{3,}"', dom)
        in_browser(tmp_path, file, f"--screenshot={pictures / f'{name}-{scheme}.png'}", scheme=scheme)
        assert (pictures / f"{name}-{scheme}.png").stat().st_size > 5_000


def in_browser(folder: Path, file: Path, *options: str, scheme: str) -> str:
    assert CHROMIUM is not None
    command = [
        CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars",
        "--window-size=1400,900", f"--user-data-dir={folder / 'profile'}",
        f"--blink-settings=preferredColorScheme={0 if scheme == 'dark' else 1}", *options, file.as_uri(),
    ]  # fmt: skip
    return subprocess.run(command, check=True, capture_output=True, timeout=60).stdout.decode("utf-8", "replace")
