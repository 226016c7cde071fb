"""`LiveView`: what it takes over and gives back, whatever happens; what it costs; what it refuses."""

# ruff: noqa: T201 - printing is what it is about

import contextlib
import io
import logging
import sys
import threading
from collections.abc import Generator
from typing import Any

import anyio
import pytest
from rich.console import Console
from screens import Screen

from flowkit import (
    Context,
    Event,
    HumanResponseEvent,
    InputRequiredEvent,
    StartEvent,
    StepFailed,
    StopEvent,
    Workflow,
    WrongCall,
    step,
)
from flowkit.instruments import installed_for_all
from flowkit.live_view import LiveView, view
from flowkit.live_view.board import Board


class Terminal(io.StringIO):
    """A text file that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@contextlib.contextmanager
def terminal(monkeypatch: pytest.MonkeyPatch, **environment: str) -> Generator[Terminal]:
    """Standard output and standard error are a terminal of 79 columns, and the environment says nothing else."""
    for name in ("CI", "COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"TERM": "xterm-256color", "COLUMNS": "80", "LINES": "24", **environment}.items():
        monkeypatch.setenv(name, value)
    file = Terminal()
    with contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
        yield file
        assert sys.stdout is sys.stderr is file, "not put back"
    assert list(installed_for_all()) == []
    assert not [each for each in threading.enumerate() if "live view" in each.name]


class Item(Event):
    n: int


class Made(Event):
    n: int


class Fan(Workflow):
    @step
    async def plan(self, ev: StartEvent) -> list[Item]:
        print("planning", "[red]it[/red]")
        return [Item(n) for n in range(ev.get("n", 5))]

    @step
    async def work(self, ctx: Context, ev: Item) -> Made:
        if ev.n == 3:
            logging.getLogger("tests.fan").error("three")
        return Made(ev.n)

    @step
    async def gather(self, evs: list[Made]) -> StopEvent:
        return StopEvent(result=len(evs))


class Broken(Workflow):
    @step
    async def go(self, ev: StartEvent) -> StopEvent:
        print("about to fail")
        raise ValueError("no luck")


class Asking(Workflow):
    @step
    async def ask(self, ctx: Context, ev: StartEvent) -> StopEvent:
        answer = await ctx.wait_for_event(HumanResponseEvent, InputRequiredEvent(prefix="Go on?"))
        return StopEvent(result=answer.response)


async def test_a_run_leaves_what_was_printed_and_a_summary(monkeypatch: pytest.MonkeyPatch) -> None:
    with terminal(monkeypatch) as file:
        handler = logging.StreamHandler(file)
        logging.getLogger("tests.fan").addHandler(handler)
        try:
            with LiveView() as shown:
                assert sys.stdout is not file
                assert await Fan().run() == 5
                shown.refresh()
        finally:
            logging.getLogger("tests.fan").removeHandler(handler)
        assert handler.stream is file
    screen = Screen().feed(file.getvalue())
    assert screen.lines[:3] == ["planning [red]it[/red]", "three", screen.lines[2]]
    assert screen.lines[2].startswith("✓ Fan  finished in ")
    assert [line.split()[:4] for line in screen.lines[3:]] == [
        ["step", "in", "out", "failed"],
        ["✓", "plan", "1", "5"],
        ["✓", "work", "5", "5"],
        ["✓", "gather", "1", "1"],
    ]
    assert not screen.is_hidden and screen.wraps
    assert file.getvalue().count("\x1b[?25l") == file.getvalue().count("\x1b[?25h") > 0


async def test_what_is_drawn_meanwhile_says_what_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    with terminal(monkeypatch) as file, LiveView() as shown:
        async with Asking(timeout=90).run(run_id="r1") as handler:
            await anyio.sleep(1)
            shown.refresh()
            lines = Screen().feed(file.getvalue()).lines
            assert lines[0].startswith("● Asking") and lines[0].endswith("run r1")
            assert lines[2].split()[:3] == ["?", "ask", "waits"]
            assert lines[3].endswith("for HumanResponseEvent: 'Go on?'")
            handler.send_event(HumanResponseEvent(response="yes"))
            await handler


async def test_a_failed_run_is_told_and_its_error_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    with terminal(monkeypatch) as file:
        with pytest.raises(StepFailed):
            with LiveView():
                await Broken().run()
    lines = Screen().feed(file.getvalue()).lines
    assert lines[0] == "about to fail"
    assert lines[1].startswith("✗ Broken  failed after") and lines[-1] == "  └ ValueError: no luck"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit, GeneratorExit])
def test_whatever_ends_the_block_the_terminal_is_put_in_order(
    monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    with terminal(monkeypatch) as file:
        with pytest.raises(error):
            with LiveView() as shown:
                print("before")
                shown.refresh()
                raise error
    screen = Screen().feed(file.getvalue())
    assert screen.lines == ["before"] and not screen.is_hidden


async def test_cancelling_passes_through(monkeypatch: pytest.MonkeyPatch) -> None:
    with terminal(monkeypatch) as file:
        with anyio.move_on_after(5) as scope:
            with LiveView():
                await Asking().run()
        assert scope.cancelled_caught
    assert "Asking  cancelled after" in Screen().feed(file.getvalue()).lines[0]


async def test_paused_the_terminal_is_somebody_else_s(monkeypatch: pytest.MonkeyPatch) -> None:
    with terminal(monkeypatch) as file:
        with LiveView() as shown:
            async with Asking().run() as handler:
                await anyio.sleep(1)
                shown.refresh()
                with shown.paused():
                    assert sys.stdout is file
                    screen = Screen().feed(file.getvalue())
                    assert screen.lines == [] and not screen.is_hidden
                    with shown.paused():
                        print("Go on? ", end="")
                    shown.refresh()
                    print("yes")
                    assert Screen().feed(file.getvalue()).lines == ["Go on? yes"]
                assert sys.stdout is not file
                shown.refresh()
                assert Screen().feed(file.getvalue()).lines[1].startswith("● Asking")
                handler.send_event(HumanResponseEvent(response="yes"))
                await handler
    assert Screen().feed(file.getvalue()).lines[0] == "Go on? yes"


async def test_the_block_may_end_while_it_is_paused(monkeypatch: pytest.MonkeyPatch) -> None:
    with terminal(monkeypatch) as file:
        with pytest.raises(ValueError, match="gone"):
            with LiveView() as shown:
                await Fan().run()
                with shown.paused():
                    raise ValueError("gone")
    assert "✓ Fan" in Screen().feed(file.getvalue()).lines[1]


async def test_what_its_console_prints_comes_above_too(monkeypatch: pytest.MonkeyPatch) -> None:
    with terminal(monkeypatch) as file:
        console = Console()
        with LiveView(console) as shown:
            await Fan().run()
            console.print("[bold]by the console[/bold]", 漢 := "漢")
            console.print("half ", end="")
            console.print("and half")
            shown.refresh()
        console.print("afterwards")
    lines = Screen().feed(file.getvalue()).lines
    assert lines[1:3] == [f"by the console {漢}", "half and half"] and lines[-1] == "afterwards"
    assert "\x1b[1mby the console" in file.getvalue()


async def test_much_that_is_printed_comes_whole_and_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    with terminal(monkeypatch) as file:
        with LiveView():
            threads = [threading.Thread(target=lambda k=k: [print(k, n) for n in range(1500)]) for k in range(3)]
            for each in threads:
                each.start()
            await Fan().run()
            for each in threads:
                each.join()
            print("the end, unfinished", end="")
    lines = [line for line in Screen().feed(file.getvalue()).lines if line[:1].isdigit()]
    for k in range(3):
        assert [line for line in lines if line.startswith(f"{k} ")] == [f"{k} {n}" for n in range(1500)]
    assert "the end, unfinished" in Screen().feed(file.getvalue()).lines


async def test_an_error_whose_text_prints_holds_up_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    class Talkative(Exception):
        def __str__(self) -> str:
            for _ in range(3000):
                print("while the lock is held")
            return "talkative"

    class Talking(Workflow):
        @step
        async def go(self, ev: StartEvent) -> StopEvent:
            raise Talkative

    monkeypatch.setattr(view, "EVERY", 0.001)
    with terminal(monkeypatch) as file:
        with pytest.raises(StepFailed), LiveView():
            await Talking().run()
    assert Screen().feed(file.getvalue()).lines.count("while the lock is held") % 3000 == 0


# ------------------------------------------------------------------------------------------------------------- not live


@pytest.mark.parametrize("environment", [{"CI": "true"}, {"TERM": "dumb"}, {"TERM": "unknown"}])
async def test_where_nobody_looks_it_writes_lines(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]) -> None:
    with terminal(monkeypatch, **environment) as file:
        with LiveView():
            assert sys.stdout is file
            await Fan().run(run_id="r1")
    lines = file.getvalue().splitlines()
    assert lines[0].endswith("Fan run=r1 starts with StartEvent()")
    assert "planning [red]it[/red]" in lines and " Fan finished in " in lines[-1] and "\x1b" not in file.getvalue()


async def test_a_file_gets_lines_and_ci_false_is_no_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    file = io.StringIO()
    with LiveView(Console(file=file, force_terminal=True)):
        await Fan().run()
    assert " Fan finished in " in file.getvalue() and "\x1b" not in file.getvalue()
    with terminal(monkeypatch, CI="false") as screen:
        with LiveView():
            assert sys.stdout is not screen


async def test_quiet_shows_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    with terminal(monkeypatch) as file:
        with LiveView(quiet=True) as shown:
            assert list(installed_for_all()) == []
            with shown.paused():
                shown.refresh()
    assert file.getvalue() == ""


async def test_without_standard_error_nothing_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    with LiveView():
        assert list(installed_for_all()) == []
        assert await Fan().run() == 5


async def test_a_pipe_that_closes_ends_it_quietly() -> None:
    class Closed(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    with LiveView(Console(file=Closed())):
        assert await Fan().run() == 5


async def test_a_terminal_that_hangs_up_ends_it_quietly(monkeypatch: pytest.MonkeyPatch) -> None:
    with terminal(monkeypatch) as file:
        with LiveView() as shown:
            await Fan().run()
            monkeypatch.setattr(file, "write", lambda _: (_ for _ in ()).throw(OSError(5, "hung up")))
            shown.refresh()
            print("nobody sees it")
            shown.refresh()
            await Fan().run()


# ------------------------------------------------------------------------------------------------------------- misuse


def test_it_can_be_entered_again_but_not_twice_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with terminal(monkeypatch):
        shown = LiveView()
        for _ in range(2):
            with shown:
                with pytest.raises(WrongCall, match="LiveView is shown already: leave its block before you enter it"):
                    shown.__enter__()
                with pytest.raises(WrongCall, match="another one is drawing: enter one for all runs"):
                    LiveView().__enter__()
                with LiveView(live=False), LiveView(quiet=True):
                    pass


def test_without_rich_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    with terminal(monkeypatch):
        for name in [name for name in sys.modules if name.startswith(("rich", "flowkit.live_view.display"))]:
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.setattr(sys, "meta_path", [Missing(), *sys.meta_path])
        with pytest.raises(WrongCall, match=r'needs? rich|draws with rich.*pip install "flowkit\[cli\]"'):
            LiveView().__enter__()
        with LiveView(live=False):
            pass


class Missing:
    """A package that isn't installed."""

    def find_spec(self, name: str, *_: Any) -> None:
        if name.partition(".")[0] == "rich":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


async def test_a_fault_of_the_view_is_reported_and_the_run_goes_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    drawn = threading.Event()

    def broken(*_: Any, **__: Any) -> None:
        drawn.set()
        raise RuntimeError("a bug")

    with terminal(monkeypatch):
        monkeypatch.setattr("flowkit.live_view.display.laid_out", broken)
        with LiveView() as shown:
            result = await Fan().run()
            assert await anyio.to_thread.run_sync(drawn.wait)
            thread = shown._thread
            assert thread is not None
            await anyio.to_thread.run_sync(thread.join)
            assert sys.stdout is sys.stderr
    assert result == 5
    assert [record.message for record in caplog.records if "live view" in record.message] == [
        "the live view failed, so it is closed: runs go on"
    ]


# -------------------------------------------------------------------------------------------------------------- cost


async def test_calls_cost_the_same_however_much_there_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not in time, which isn't the machine's to tell: in calls of Python functions for each event."""

    class Loop(Workflow):
        @step
        async def begin(self, ev: StartEvent) -> Item:
            return Item(ev.n)

        @step
        async def again(self, ctx: Context, ev: Item) -> Item | StopEvent:
            ctx.write_event_to_stream(ev)
            return Item(ev.n - 1) if ev.n else StopEvent()

    calls = 0

    def count(frame: Any, event: str, _: Any) -> None:
        nonlocal calls
        calls += event == "call" and "live_view" in frame.f_code.co_filename

    board = Board(lambda: 0.0)
    costs: list[float] = []
    workflow = Loop(instruments=[board])
    for size in (100, 2000):
        calls = 0
        sys.setprofile(count)
        try:
            await workflow.run(n=size)
        finally:
            sys.setprofile(None)
        costs.append(calls / size)
    assert costs[1] <= costs[0] * 1.05 and costs[1] < 14
