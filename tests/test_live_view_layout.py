"""What the live view looks like: frames as text, at several widths, with colours and without."""

import io
from typing import Any

import anyio
import attrs
import pytest
from live_views import VirtualBoard
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from flowkit import (
    Context,
    Event,
    HumanResponseEvent,
    InputRequiredEvent,
    StartEvent,
    StepFailed,
    StopEvent,
    Workflow,
    step,
)
from flowkit.live_view.frame import Frame, LogRow, NoteRow, RunRow, StepRow, fitted, frame_of, left_out
from flowkit.live_view.layout import Signs, laid_out, plain, summary_of
from flowkit.retry_policy import ConstantDelayRetryPolicy

UNICODE, ASCII = Signs.of("utf-8"), Signs.of("ascii")


class Question(Event):
    n: int


class Answer(Event):
    n: int


class Child(Workflow):
    @step
    async def look(self, ev: StartEvent) -> StopEvent:
        await anyio.sleep(4)
        return StopEvent()


class Answers(Workflow):
    @step
    async def plan(self, ev: StartEvent) -> list[Question]:
        await anyio.sleep(0.25)
        return [Question(n) for n in range(500)]

    @step(num_workers=8, retry_policy=ConstantDelayRetryPolicy(maximum_attempts=3, delay=2))
    async def ask(self, ctx: Context, ev: Question, child: Child) -> Answer:
        if ev.n == 100:
            await child.run()
        await anyio.sleep(0.5)
        if ev.n == 90 and not ctx.retry_info().attempts:
            raise OSError("[bold]busy[/bold] \x1b[31mred")
        if ev.n % 100 == 0:
            ctx.write_event_to_stream(ev)
        return Answer(ev.n)

    @step(num_workers=1)
    async def check(self, ctx: Context, ev: Answer) -> None:
        if ev.n == 4:
            await ctx.wait_for_event(HumanResponseEvent, InputRequiredEvent(prefix="Is [4] right?"), timeout=30)

    @step
    async def combine(self, evs: list[Answer]) -> StopEvent:
        return StopEvent(result=len(evs))


def at(lines: list[Text]) -> list[str]:
    return plain(lines).split("\n")


async def seen(width: int, *, height: int = 24, signs: Signs = UNICODE, after: float = 7.1) -> list[str]:
    board = VirtualBoard()
    workflow = Answers(instruments=[board], timeout=90)
    workflow.add_workflows(child=Child())
    async with workflow.run(run_id="r1") as handler:
        await anyio.sleep(after)
        lines = laid_out(frame_of(board), width, height, signs)
        await handler.cancel_run()
    return at(lines)


async def test_a_frame_of_40_columns() -> None:
    assert await seen(39) == [
        "● Answers  7.1 s  1m23s left  run r1",
        "  step    state       queue",
        "✓ plan    done",
        "● ask     8/8 0.8 s     389 102/500",
        "  └ attempt 2 in 1.2 s, after OSError:…",
        "  ● Child in ask  850 ms",
        "  ● look  1/4 0.8 s",
        "? check   waits 6.3 s",
        "  └ waits 6.3 s (23.7 s left) for Huma…",
        "· combine idle",
        "",
        "     0.8   ask Question(n=0)",
        "     0.8 ? check asks 'Is [4] right?'",
        "     6.2 ↻ ask attempt 1 failed: OSErr…",
    ]


async def test_a_frame_of_80_columns() -> None:
    assert await seen(79) == [
        "● Answers  7.1 s  1m23s left  run r1",
        "  step    state       queue    in   out retries    mean",
        "✓ plan    done                  1   500          250 ms",
        "● ask     8/8 0.8 s     389   500   102          500 ms ━━───────── 102/500",
        "  └ attempt 2 in 1.2 s, after OSError: [bold]busy[/bold] �[31mred",
        "  ● Child in ask  850 ms",
        "  ● look  1/4 0.8 s             1",
        "? check   waits 6.3 s         102                  0 ms",
        "  └ waits 6.3 s (23.7 s left) for HumanResponseEvent: 'Is [4] right?'",
        "· combine idle",
        "",
        "     0.8   ask Question(n=0)",
        "     0.8 ? check asks 'Is [4] right?'",
        "     6.2 ↻ ask attempt 1 failed: OSError: [bold]busy[/bold] �[31mred",
    ]


async def test_a_frame_of_120_columns() -> None:
    assert await seen(119) == [
        "● Answers  7.1 s  1m23s left  run r1",
        "  step    state                  queue    in   out retries    mean   total",
        "✓ plan    done                             1   500          250 ms  250 ms",
        "● ask     running 8 of 8  0.8 s    389   500   102          500 ms  51.5 s "
        "━━━━━━──────────────────────── 102/500",
        "  └ attempt 2 in 1.2 s, after OSError: [bold]busy[/bold] �[31mred",
        "  ● Child in ask  850 ms",
        "  ● look  running 1 of 4  0.8 s            1",
        "? check   waiting 6.3 s                  102                  0 ms    0 ms",
        "  └ waits 6.3 s (23.7 s left) for HumanResponseEvent: 'Is [4] right?'",
        "· combine idle",
        "",
        "     0.8   ask Question(n=0)",
        "     0.8 ? check asks 'Is [4] right?'",
        "     6.2 ↻ ask attempt 1 failed: OSError: [bold]busy[/bold] �[31mred",
    ]


async def test_a_frame_in_a_terminal_without_unicode_has_signs_of_ascii() -> None:
    lines = await seen(79, signs=ASCII)
    assert lines[0][0] == "*" and lines[2][0] == "+" and lines[-4] == ""
    assert lines[3] == "* ask     8/8 0.8 s     389   500   102          500 ms ##--------- 102/500"
    assert "".join(lines).replace("�", "").isascii()


async def test_a_low_terminal_shows_what_is_at_work_and_says_what_it_leaves_out() -> None:
    assert await seen(79, height=7) == [
        "● Answers  7.1 s  1m23s left  run r1",
        "● ask     8/8 0.8 s     389   500   102          500 ms ━━───────── 102/500",
        "  ● Child in ask  850 ms",
        "  ● look  1/4 0.8 s             1",
        "  … 3 more steps: 1 at work, 1 done, 1 idle",
        "",
        "     6.2 ↻ ask attempt 1 failed: OSError: [bold]busy[/bold] �[31mred",
    ]


@pytest.mark.parametrize("width", [1, 20, 33, 40, 57, 64, 80, 91, 100, 133, 160, 200])
@pytest.mark.parametrize("height", [1, 2, 3, 5, 9, 24, 60])
def test_every_frame_fits_into_its_terminal(width: int, height: int) -> None:
    for names in (["a", "b"], ["漢字" * 20, "x" * 300, "\n\x1b[2J"], [f"step{n}" for n in range(90)]):
        frame = of_steps(names)
        for lines in (laid_out(frame, width, height, UNICODE), laid_out(frame, width, height, ASCII)):
            assert 0 < len(lines) <= max(1, height)
            assert max(line.cell_len for line in lines) <= max(width, 20)
        assert max(line.cell_len for line in summary_of(frame, width, UNICODE)) <= max(width, 20)


def of_steps(names: list[str], **changes: Any) -> Frame:
    """A run of these steps, every third of which is at work."""
    rows: list[Any] = [RunRow(0, "Flow", "running", 61.0, 5.0, "run r1", 0)]
    for index, name in enumerate(names):
        is_busy = index % 3 == 0
        rows.append(
            attrs.evolve(
                StepRow(
                    0,
                    "".join(each for each in name if each.isprintable()),
                    "running" if is_busy else "idle",
                    running=2 * is_busy,
                    workers=4,
                    waiting=0,
                    retrying=0,
                    age=12.0 if is_busy else None,
                    due=None,
                    queued=12345 * is_busy,
                    given=12345678 * is_busy,
                    produced=0,
                    retries=0,
                    failed=0,
                    mean=None,
                    total=0.0,
                    bar=(250, 1000) if is_busy else None,
                    rank=1 if is_busy else 5,
                ),
                **changes,
            )
        )
        if is_busy:
            rows.append(NoteRow(0, "error", "漢" * 300, 2))
    log = tuple(LogRow("shown", 1.0, "who" * 30, "何" * 300, tail=index % 2 == 0) for index in range(12))
    return Frame(tuple(rows), log, has_bars=True, is_live=True)


def test_of_many_steps_those_at_work_are_shown() -> None:
    lines = at(laid_out(of_steps([f"step{n}" for n in range(90)]), 79, 24, UNICODE))
    assert sum(line.startswith("● step") for line in lines) >= 18
    assert "  … 72 more steps: 12 at work, 60 idle" in lines


def test_long_names_keep_their_beginning_and_their_end() -> None:
    frame = of_steps(["fetch_the_document_from_the_archive_one", "fetch_the_document_from_the_archive_two"])
    assert [line.partition(" ")[2].split()[0] for line in at(laid_out(frame, 79, 24, UNICODE)) if "fetch" in line] == [
        "fetch_the_document…chive_one",
        "fetch_the_document…chive_two",
    ]


def test_wide_characters_take_two_cells() -> None:
    lines = laid_out(of_steps(["取得する", "ask"]), 79, 24, UNICODE)
    of_steps_only = [line.plain for line in lines if "取得" in line.plain or "ask" in line.plain]
    assert [cell_len(line[: line.index(word)]) for line, word in zip(of_steps_only, ["2/4", "idle"], strict=True)] == [
        11,
        11,
    ]


@pytest.mark.parametrize(
    ("changes", "words", "short"),
    [
        ({"state": "running"}, "running 2 of 4  12 s", "2/4 12 s"),
        ({"state": "waiting", "waiting": 1}, "waiting 12 s", "waits 12 s"),
        ({"state": "waiting", "waiting": 30}, "30 waiting 12 s", "30 wait"),
        ({"state": "retrying", "due": 4.0}, "retry in 4.0 s", "retry 4.0 s"),
        ({"state": "queued"}, "queued", "queued"),
        ({"state": "done", "failed": 3}, "done, 3 failed", "done"),
        ({"state": "failed"}, "failed", "failed"),
        ({"state": "stopped"}, "stopped", "stopped"),
    ],
)
def test_states_are_told_in_words_that_fit(changes: dict[str, Any], words: str, short: str) -> None:
    frame = of_steps(["ask"], **changes)
    assert [at(laid_out(frame, width, 24, UNICODE))[-9][6:29].strip() for width in (119,)] == [words]
    assert at(laid_out(frame, 50, 24, UNICODE))[2][6:17].strip() == short


async def test_the_summary_has_the_totals_of_what_was_used() -> None:
    board = VirtualBoard()
    workflow = Answers(instruments=[board])
    workflow.add_workflows(child=Child())
    async with workflow.run(run_id="r1") as handler:
        await anyio.sleep(8)
        handler.send_event(HumanResponseEvent(response="yes"))
        assert await handler == 500
    assert at(summary_of(frame_of(board), 79, UNICODE)) == [
        "✓ Answers  finished in 32.2 s",
        "  step       in   out failed retries    mean   total",
        "✓ plan        1   500                 250 ms  250 ms",
        "✓ ask       500   500              1  508 ms   4m14s",
        "  ✓ Child in ask  finished in 4.0 s",
        "  ✓ look      1     1                  4.0 s   4.0 s",
        "✓ check     500                         0 ms    0 ms",
        "✓ combine     1     1                   0 ms    0 ms",
    ]
    assert at(summary_of(frame_of(board), 39, UNICODE))[3] == "✓ ask       500         508 ms   4m14s"


async def test_the_summary_of_a_failure_names_it() -> None:
    class Broken(Workflow):
        @step
        async def go(self, ev: StartEvent) -> StopEvent:
            await anyio.sleep(1.5)
            raise ValueError("no\nluck")

    board = VirtualBoard()
    with pytest.raises(StepFailed):
        await Broken(instruments=[board]).run()
    assert at(summary_of(frame_of(board), 39, UNICODE)) == [
        "✗ Broken  failed after 1.5 s: step go:…",
        "  step    in failed    mean   total",
        "✗ go     1      1   1.5 s   1.5 s",
        "  └ ValueError: no luck",
    ]


def printed(lines: list[Text], **options: Any) -> str:
    file = io.StringIO()
    Console(file=file, width=100, force_terminal=True, **options).print(*lines, sep="\n")
    return file.getvalue()


def test_colours_are_the_terminal_s_own_and_can_be_turned_off() -> None:
    lines = laid_out(of_steps(["[red]ask[/red]"]), 79, 24, UNICODE)
    coloured = printed(lines, color_system="truecolor", no_color=False)
    assert "\x1b[36m● \x1b[0m[red]ask[/red]" in coloured and "38;" not in coloured
    assert "\x1b[3" not in printed(lines, color_system="truecolor", no_color=True)
    assert "\x1b" not in printed(lines, color_system=None)


def test_what_fits_is_shown_in_order_and_the_rest_is_counted() -> None:
    frame = of_steps([f"step{n}" for n in range(6)])
    part = fitted(frame, 5, 1)
    assert [getattr(row, "name", "note") for row in part.rows] == ["Flow", "step0", "step3"]
    assert (len(part.log), left_out(frame, part)) == (1, "… 4 more steps: 4 idle")
    assert left_out(frame, fitted(frame, 100, 12)) == ""
    only_notes = attrs.evolve(frame, rows=(frame.rows[0], *[row for row in frame.rows if isinstance(row, NoteRow)] * 9))
    assert left_out(only_notes, fitted(only_notes, 4, 1)).endswith(" more lines")
