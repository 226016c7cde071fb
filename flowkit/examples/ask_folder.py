"""Ask a question of a folder of Markdown and text files::

    python -m flowkit.examples.ask_folder DIR "question" [--top N] [--backend trio]

Without more it answers by quoting the passages that fit best, each with ``file:line``. Where
``OPENAI_BASE_URL`` or ``OPENAI_API_KEY`` is set (the model by ``OPENAI_MODEL``), an OpenAI-compatible
endpoint writes an answer from those passages; where that fails, they are quoted after all. Exit code 0:
answered; 1: nothing found; 2: wrong usage; 130: stopped by Ctrl-C.

How it works::

    Ask ── walk ─┬─ ReadFile ── read ── FileRead ───┐
                 ├─ ReadFile ── read ── FileRead ───┼─ index ── find ── rerank ─┬─ Quote ── quote ── Answer
                 └─ ReadFile ── read ── Unreadable ─┘                           └─ Write ── write ── Answer
                                   (lost_file)                          (lost_endpoint: back to Quote)

- `walk` returns a list, which is a fan-out: eight workers read at once. `index` takes a list, which is the
  fan-in: it runs once, when the last file is read or given up.
- What may go well the next time (an `OSError`, a busy endpoint) is raised, and the step's retry policy
  decides. What won't (a binary file) is returned.
- A step that fails for good doesn't fail the run: a ``@catch_error`` step turns the failure into an event
  that goes on where the result would have gone: `lost_file` into the fan-in, `lost_endpoint` to `quote`.
- Steps that work on the disk or compute for long are plain functions and run in threads. Those that wait for
  the network are async: they can be cancelled where they stand.
"""

import argparse
import importlib.util
import os
import shutil
import sqlite3
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, TextIO, assert_never

import anyio

from flowkit import (
    Context,
    Event,
    Resource,
    StartEvent,
    StepFailedEvent,
    StopEvent,
    Workflow,
    catch_error,
    step,
)
from flowkit.examples._chat import Endpoint, RetryWhenAsked, write_answer
from flowkit.examples._passages import NotText, Passage, Skipped, cut, find_files, read_text, shown
from flowkit.examples._search import (
    Candidate,
    NoFullTextSearch,
    fill,
    open_index,
    question_words,
    reranked,
    search,
)
from flowkit.examples._terminal import printable
from flowkit.keyboard import run_interruptible
from flowkit.retry_policy import retry, retry_if, stop_after, wait_fixed

WRITE_TIMEOUT = 60
"""Seconds for one attempt at a written answer: a few sentences take a slow model some 20."""

# -------------------------------------------------------------------------------- events


class Ask(StartEvent):
    """Starts a run."""

    folder: Path
    question: str


class ReadFile(Event):
    """One file is to be read; ``name`` is its path as shown to the user."""

    path: Path
    name: str


class FileRead(Event):
    """A file's passages: none, if it is blank."""

    passages: tuple[Passage, ...]


class Unreadable(Event):
    """A file that was given up. Joins the fan-in in place of its passages, and is shown to the user."""

    name: str
    reason: str


class Found(Event):
    """What the index has on the question, in the order of BM25."""

    question: str
    candidates: tuple[Candidate, ...]


class Quote(Event):
    """The passages are to be the answer. ``note`` says what went wrong before, if anything did."""

    passages: tuple[Passage, ...]
    note: str = ""


class Write(Event):
    """The endpoint is to write an answer from the passages."""

    question: str
    passages: tuple[Passage, ...]


class Answer(StopEvent):
    """Ends a run: the best passages, and what the model wrote from them, if it was asked.

    Without passages, ``note`` says why nothing was found.
    """

    passages: tuple[Passage, ...] = ()
    written: str | None = None
    note: str = ""


class FilesFound(Event):
    """Progress: so many files are going to be read, and these have been left out."""

    files: int
    skipped: tuple[Skipped, ...]


class FileDone(Event):
    """Progress: one file more has been read."""


class Indexed(Event):
    """All files are read or given up. Goes to `AskFolder.find`, and is progress too."""

    files: int
    passages: int


class Asking(Event):
    """Progress: the endpoint is being asked, for the ``attempt``-th time, from 1."""

    model: str
    attempt: int


Progress = FilesFound | FileDone | Unreadable | Indexed | Asking

# -------------------------------------------------------------------------------- workflow


class AskFolder(Workflow):
    """Answers a question from the text files of a folder, with ``top`` passages at most.

    The endpoint is a setting and not part of the start event: events may be kept, and a key has no place
    among them.
    """

    def __init__(self, *, endpoint: Endpoint | None = None, top: int = 5, timeout: float | None = None) -> None:
        super().__init__(timeout=timeout)
        self.endpoint = endpoint
        self.top = top

    @step
    async def walk(self, ctx: Context, ev: Ask) -> list[ReadFile] | Answer:
        """Find the files.

        The question is put by for `find`, because a fan-in gets what was fanned out and no more.
        """
        await ctx.set("question", ev.question)
        listing = await anyio.to_thread.run_sync(find_files, ev.folder)
        ctx.write_event_to_stream(FilesFound(files=len(listing.files), skipped=listing.skipped))
        if not listing.files:
            return Answer(note=f"there are no Markdown or text files in {ev.folder}")
        return [ReadFile(path=path, name=shown(path, ev.folder)) for path in listing.files]

    # Two more attempts, a tenth of a second apart, outlast an editor that is just saving the file.
    @step(num_workers=8, retry_policy=retry(retry_if(OSError), stop=stop_after(2), wait=wait_fixed(0.1)))
    def read(self, ctx: Context, ev: ReadFile) -> FileRead | Unreadable:
        """Read a file and cut it into passages."""
        try:
            text = read_text(ev.path)
        except NotText as error:
            return _reported(ctx, Unreadable(name=ev.name, reason=str(error)))
        passages = cut(ev.name, text)
        ctx.write_event_to_stream(FileDone())
        return FileRead(passages=tuple(passages))

    @catch_error(for_steps=["read"])
    async def lost_file(self, ctx: Context, ev: StepFailedEvent) -> Unreadable:
        """Give a file up and go on with the others."""
        reason = getattr(ev.exception, "strerror", None) or str(ev.exception)
        return _reported(ctx, Unreadable(name=ev.input_event.name, reason=f"{reason} ({ev.attempts} attempts)"))

    @step
    def index(
        self,
        ctx: Context,
        evs: list[FileRead | Unreadable],
        index: Annotated[sqlite3.Connection, Resource(open_index, scope="run")],
    ) -> Indexed | Answer:
        """Put all passages into the run's index, which is closed when the run ends, however it ends."""
        passages = [passage for ev in evs if isinstance(ev, FileRead) for passage in ev.passages]
        fill(index, passages)
        done = Indexed(files=sum(isinstance(ev, FileRead) for ev in evs), passages=len(passages))
        ctx.write_event_to_stream(done)
        return done if passages else Answer(note="there is no text in the files that could be read")

    @step
    async def find(
        self,
        ctx: Context,
        ev: Indexed,
        index: Annotated[sqlite3.Connection, Resource(open_index, scope="run")],
    ) -> Found | Answer:
        """Look the question up."""
        question = await ctx.get("question")
        candidates = await anyio.to_thread.run_sync(search, index, question)
        if not candidates:
            return Answer(note=f"no passage has any of these words: {', '.join(question_words(question))}")
        return Found(question=question, candidates=tuple(candidates))

    @step
    async def rerank(self, ev: Found) -> Quote | Write:
        """Choose the best passages, and who is to answer."""
        best = tuple(reranked(ev.candidates)[: self.top])
        return Quote(passages=best) if self.endpoint is None else Write(question=ev.question, passages=best)

    @step
    async def quote(self, ev: Quote) -> Answer:
        """Let the passages speak for themselves."""
        return Answer(passages=ev.passages, note=ev.note)

    @step(retry_policy=RetryWhenAsked(), timeout=WRITE_TIMEOUT)
    async def write(self, ctx: Context, ev: Write) -> Answer:
        """Have the endpoint write the answer."""
        assert self.endpoint is not None
        ctx.write_event_to_stream(Asking(model=self.endpoint.model, attempt=ctx.retry_info().attempts + 1))
        written = await write_answer(self.endpoint, ev.question, ev.passages)
        return Answer(passages=ev.passages, written=written)

    @catch_error(for_steps=["write"])
    async def lost_endpoint(self, ev: StepFailedEvent) -> Quote:
        """Fall back to quoting."""
        return Quote(passages=ev.input_event.passages, note=f"no written answer: {ev.exception}")


def _reported(ctx: Context, event: Unreadable) -> Unreadable:
    ctx.write_event_to_stream(event)
    return event


# -------------------------------------------------------------------------------- terminal


class Screen:
    """Shows progress: as one line that changes where ``live``, else as lines."""

    def __init__(self, out: TextIO, *, live: bool) -> None:
        self._out = out
        self._live = live
        self._encoding = out.encoding or "utf-8"
        self._files = 0
        self._done = 0

    def show(self, event: Progress) -> None:
        match event:
            case FilesFound(files=files, skipped=skipped):
                self._files = files
                for each in skipped:
                    self.line(f"left out: {each.name}: {each.reason}")
                if files:
                    self._state(f"reading {_counted(files, 'file')}")
            case FileDone():
                self._done += 1
                if self._live:
                    self._state(f"reading {_counted(self._files, 'file')}: {self._done} done")
            case Unreadable(name=name, reason=reason):
                self.line(f"unreadable: {name}: {reason}")
            case Indexed(files=files, passages=passages):
                self.line(f"read {files} of {_counted(self._files, 'file')}: {_counted(passages, 'passage')}")
            case Asking(model=model, attempt=attempt):
                self._state(f"asking {model}" + (f", attempt {attempt}" if attempt > 1 else ""))
            case _:
                assert_never(event)

    def line(self, text: str) -> None:
        """Write a line that stays."""
        self.clear()
        print(self._fit(text), file=self._out, flush=True)

    def clear(self) -> None:
        """Take the changing line away."""
        if self._live:
            self._out.write("\r\x1b[K")
            self._out.flush()

    def _state(self, text: str) -> None:
        if not self._live:
            self.line(text)
            return
        # A line that wraps could not be taken away by going back to its start.
        width = shutil.get_terminal_size().columns - 1
        self._out.write("\r\x1b[K" + self._fit(text)[:width])
        self._out.flush()

    def _fit(self, text: str) -> str:
        # Not every terminal can write every character that a file may hold.
        return printable(text).encode(self._encoding, "replace").decode(self._encoding)


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def show_answer(screen: Screen, answer: Answer) -> None:
    """Write the answer: the model's with its sources, or quotations."""
    screen.clear()
    if answer.note:
        screen.line(answer.note)
    if answer.written is not None:
        screen.line(f"\n{answer.written}\n")
    for number, passage in enumerate(answer.passages, start=1):
        heading = f"  {passage.heading}" if passage.heading else ""
        if answer.written is not None:
            screen.line(f"[{number}] {passage.place}{heading}")
        else:
            quotation = "\n".join(f"  | {line}" for line in passage.text.split("\n"))
            screen.line(f"\n{passage.place}{heading}\n{quotation}")


# -------------------------------------------------------------------------------- program


async def ask(flow: AskFolder, folder: Path, question: str, screen: Screen) -> Answer:
    """Run the workflow, showing its progress as it comes."""
    async with flow.run(start_event=Ask(folder=folder, question=question)) as handler:
        async for event in handler.stream_events():
            if isinstance(event, Progress):
                screen.show(event)
    answer: Answer = await handler
    return answer


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m flowkit.examples.ask_folder",
        description="Ask a question of a folder of Markdown and text files.",
        epilog="With OPENAI_BASE_URL or OPENAI_API_KEY set, and OPENAI_MODEL, a model writes the answer.",
    )
    parser.add_argument("folder", metavar="DIR", type=Path)
    parser.add_argument("question")
    parser.add_argument("--top", metavar="N", type=int, default=5, help="quote at most N passages (default: 5)")
    parser.add_argument("--backend", choices=["asyncio", "trio"], default="asyncio", help="(default: asyncio)")
    options = parser.parse_args(argv)
    if not options.folder.is_dir():
        parser.error(f"{options.folder} is {'not a folder' if options.folder.exists() else 'not there'}")
    if not question_words(options.question):
        parser.error("the question has no words to look for")
    if options.top < 1:
        parser.error(f"--top takes a number from 1, but got {options.top}")
    if importlib.util.find_spec(options.backend) is None:
        parser.error(f"{options.backend} is not installed: pip install {options.backend}")
    try:
        endpoint = Endpoint.from_environment(os.environ)
        with open_index():
            pass  # Better known now than after all files have been read.
    except (ValueError, NoFullTextSearch) as error:
        parser.error(str(error))

    screen = Screen(sys.stdout, live=sys.stdout.isatty() and os.environ.get("TERM") != "dumb")
    flow = AskFolder(endpoint=endpoint, top=options.top)
    try:
        answer = run_interruptible(ask, flow, options.folder, options.question, screen, backend=options.backend)
        show_answer(screen, answer)
    except KeyboardInterrupt:
        # By now the run has been cancelled and has cleaned up: no thread, connection or index of it is left.
        screen.clear()
        print("stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # Whoever read the output (`| head`) has seen enough. What is still buffered has nowhere to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return 0 if answer.passages else 1


if __name__ == "__main__":
    sys.exit(main())
