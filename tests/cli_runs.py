"""The command line, called in this process: what it prints, and its exit code."""

import inspect
import itertools
import sys
import textwrap
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
from click.testing import CliRunner

from flowkit.command_line.group import program

__all__ = ["FLOWS", "Folder", "Told", "entered"]

FLOWS = '''
import enum

import anyio

from flowkit import *


class Joke(Event):
    text: str


class JokeFlow(Workflow):
    @step
    async def write(self, ctx: Context, ev: StartEvent) -> Joke:
        ctx.write_event_to_stream(Joke(text="a draft"))
        return Joke(text=f"Why did the {ev.topic} cross the road?")

    @step
    async def judge(self, ev: Joke) -> StopEvent:
        if "!" in ev.text:
            raise ValueError("too loud")
        return StopEvent(result=f"{ev.text} (7/10)")


class Topic(StartEvent):
    topic: str
    limit: int = 3


class Mood(enum.Enum):
    GOOD = "good"
    BAD = "bad"


class Question(InputRequiredEvent):
    who: str
    text: str


class Answer(HumanResponseEvent):
    who: str
    ok: bool
    mood: Mood = Mood.GOOD


class Asking(Workflow):
    """A step that waits for what must be from a certain person."""

    @step
    async def ask(self, ctx: Context, ev: Topic) -> StopEvent:
        question = Question("boss", f"Publish {ev.topic}?")
        answer = await ctx.wait_for_event(Answer, question, requirements={"who": "boss"})
        return StopEvent(result=f"{answer.ok} {answer.mood.name}")


class Shown(Workflow):
    """The question is written to the stream, and waited for then."""

    @step
    async def ask(self, ctx: Context, ev: StartEvent) -> StopEvent:
        ctx.write_event_to_stream(InputRequiredEvent(prefix="A number: "))
        return StopEvent(result=int((await ctx.wait_for_event(HumanResponseEvent)).response))


class Silent(Workflow):
    """Waits, and asks nothing."""

    @step
    async def ask(self, ctx: Context, ev: StartEvent) -> StopEvent:
        return StopEvent(result=(await ctx.wait_for_event(Answer)).ok)


class Returned(Workflow):
    """The question is returned, and another step takes the answer."""

    @step
    async def ask(self, ev: StartEvent) -> InputRequiredEvent:
        return InputRequiredEvent(prefix="A number: ")

    @step
    async def take(self, ev: HumanResponseEvent) -> StopEvent:
        return StopEvent(result=int(ev.response))


class Yes(HumanResponseEvent):
    note: str = "fine"


class No(HumanResponseEvent):
    why: str


class Either(Workflow):
    """Two kinds of answers."""

    @step
    async def ask(self, ev: StartEvent) -> InputRequiredEvent:
        return InputRequiredEvent(prefix="Pay?")

    @step
    async def pay(self, ev: Yes) -> StopEvent:
        return StopEvent(result=f"paid, {ev.note}")

    @step
    async def decline(self, ev: No) -> StopEvent:
        return StopEvent(result=f"declined, {ev.why}")


class Impatient(Workflow):
    """Doesn't wait for long."""

    @step
    async def ask(self, ctx: Context, ev: StartEvent) -> StopEvent:
        try:
            await ctx.wait_for_event(Answer, Question("boss", "Quick?"), timeout=0.05)
        except TimeoutError:
            return StopEvent(result="nobody said a word")
        return StopEvent(result="somebody did")


class Withdrawn(Workflow):
    """The question is over as soon as there is a file."""

    @step
    async def ask(self, ctx: Context, ev: StartEvent) -> StopEvent:
        await ctx.wait_for_event(Answer, Question("boss", "Quick?"))
        return StopEvent(result="somebody did")

    @step
    async def watch(self, ev: StartEvent) -> StopEvent:
        while not await anyio.Path("go").exists():
            await anyio.sleep(0.01)
        return StopEvent(result="nobody said a word")


class Twice(Workflow):
    """Two questions at once."""

    @step
    async def one(self, ctx: Context, ev: StartEvent) -> StopEvent | None:
        answer = await ctx.wait_for_event(Answer, Question("a", "One?"), requirements={"who": "a"})
        await ctx.set("one", answer.ok)
        return await self.both(ctx)

    @step
    async def two(self, ctx: Context, ev: StartEvent) -> StopEvent | None:
        answer = await ctx.wait_for_event(Answer, Question("b", "Two?"), requirements={"who": "b"})
        await ctx.set("two", answer.ok)
        return await self.both(ctx)

    async def both(self, ctx):
        one, two = await ctx.get("one", default=None), await ctx.get("two", default=None)
        return None if one is None or two is None else StopEvent(result=f"{one} {two}")


class Outer(Workflow):
    """Another asks in it."""

    @step
    async def run_inner(self, ev: StartEvent, inner: Asking) -> StopEvent:
        return StopEvent(result=await inner.run(topic="nested"))


def outer() -> Outer:
    flow = Outer()
    flow.add_workflows(inner=Asking())
    return flow


class Driven(Workflow):
    """Asks nothing, and is told from outside."""

    def __init__(self):
        super().__init__(stalled="wait")

    @step
    async def begin(self, ev: StartEvent) -> Joke | None:
        return None

    @step
    async def end(self, ev: Joke) -> StopEvent:
        return StopEvent(result=ev.text)


class Sleepy(Workflow):
    @step
    async def sleep(self, ev: StartEvent) -> StopEvent:
        print("it sleeps", flush=True)
        try:
            await anyio.sleep(600)
        finally:
            print("it cleans up", flush=True)
        return StopEvent()


class Faulty(Workflow):
    @step
    async def begin(self, ev: StartEvent) -> Joke:
        return Joke(text="")

    @step
    async def never(self, ev: Topic) -> Question:
        return Question("", "")
'''


_NUMBERS = itertools.count(1)


@attrs.frozen
class Told:
    """What a call has printed, and its exit code."""

    code: int
    out: str
    err: str


class Folder:
    """A folder in which the command line is called."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, name: str, text: str) -> Path:
        file = self.path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(textwrap.dedent(text), encoding="utf-8")
        return file

    def write_flows(self) -> str:
        """The workflows above in a module of a name of its own. Stored classes are found by their names, which must be
        unique in the process: those of the tests before may still be there."""
        name = f"flows{next(_NUMBERS)}"
        self.write(f"{name}.py", FLOWS)
        return name

    def call(self, *arguments: str, input: str | None = None) -> Told:
        """``flowkit ARGUMENTS`` in this folder, with this standard input."""
        result = runner().invoke(program, list(arguments), input=input, prog_name="flowkit")
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Told(result.exit_code, result.stdout, result.stderr)


def runner() -> CliRunner:
    """click's, with standard output and standard error apart."""
    separate: dict[str, Any] = {}
    if "mix_stderr" in inspect.signature(CliRunner).parameters:  # before click 8.2
        separate["mix_stderr"] = False
    return CliRunner(**separate)


@contextmanager
def entered(path: Path, monkeypatch: Any) -> Generator[Folder]:
    """A folder to call the command line in, with the workflows above in flows.py. What is imported there is forgotten
    afterwards."""
    monkeypatch.chdir(path)
    for name in ("FLOWKIT_STORE", "FLOWKIT_FLOWS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # a file may be written twice within a second
    before = set(sys.modules)
    folder = Folder(path)
    folder.write("flows.py", FLOWS)
    try:
        yield folder
    finally:
        for name in set(sys.modules) - before:
            file = getattr(sys.modules[name], "__file__", None) or ""
            if file.startswith(str(path)):
                del sys.modules[name]
