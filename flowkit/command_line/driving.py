"""One run, from its start to its exit code: `drive`; its questions are asked, and its end is told.

**Tasks.** The main task asks and waits: Ctrl-C comes to it, on both backends. Beside it one task reads the stream.
Both end with the run.

**Ways out.** A run ends with a result or an error. A run that waits when the input has ended, or that is left by
Ctrl-C, is suspended where it has a store (the line to go on with it is printed), and cancelled where it has none. In
each case its steps have cleaned up and its store is closed before the exit code is given.
"""

import contextlib
import shlex
import sys
import warnings
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any, Literal

import anyio
import attrs

from flowkit.command_line.asking import Input, NoMoreInput, Question, Questions, ask, installed, question_lines
from flowkit.command_line.exits import (
    DONE,
    FAILED,
    INTERRUPTED,
    WAITING,
    Refused,
    code_of,
    full_traceback,
    line_of,
    one_of,
    place_of,
)
from flowkit.command_line.options import written
from flowkit.command_line.output import plain, say, tell, tell_json
from flowkit.command_line.progress import Progress, progress_for
from flowkit.command_line.values import field_text, fields_of
from flowkit.errors import (
    MisdirectedEvent,
    RunFinished,
    StepFailed,
    WorkflowCancelled,
    WorkflowCancelledByUser,
    WrongCall,
    shown,
    text_of,
)
from flowkit.events import Event, InputRequiredEvent, StopEvent
from flowkit.handler import Handler
from flowkit.keyboard import run_interruptible
from flowkit.performer import first_of
from flowkit.runner import Run
from flowkit.storage_errors import RunSuspended
from flowkit.testing.parameters import MISSING
from flowkit.workflow import Workflow

__all__ = ["Ending", "Place", "drive", "go_on_lines", "told"]

Status = Literal["finished", "failed", "cancelled", "waiting", "interrupted"]


@attrs.frozen
class Place:
    """How a run is named on the command line: the workflow's name there, and the store's file if it has one."""

    flow: str
    store: Path | None = None

    def options(self) -> str:
        assert self.store is not None
        return written(self.store, self.flow)


@attrs.frozen
class Ending:
    """How a run was left. ``open`` are the questions it waits with."""

    status: Status
    run_id: str
    workflow: str
    result: Any = None
    error: BaseException | None = None
    open: tuple[Question, ...] = ()


# ------------------------------------------------------------------------------------------------------------ driving


def drive(
    workflow: Workflow,
    start: Callable[[], Handler],
    *,
    backend: str,
    stepwise: bool = False,
    quiet: bool = False,
) -> Ending:
    """Drive a run to where it ends, or is left.

    Args:
        start: starts the run, in the event loop.
        stepwise: ask after each step which events go on.
        quiet: show no progress.

    Raises:
        WorkflowError: it could not begin.
        SystemExit: a step has ended the program.
    """
    driver = _Driver(workflow, start, stepwise, progress_for(quiet=quiet))
    try:
        with _warnings_as_lines(), installed(driver.questions):
            return run_interruptible(driver.run, backend=backend)
    except BaseException as error:
        found = one_of(error)
        if not isinstance(found, KeyboardInterrupt) or driver.handler is None:
            raise
        if not driver.source.was_left:
            say()  # the terminal has written ^C
        return driver.ending("interrupted")


class _Driver:
    """Drives one run."""

    def __init__(self, workflow: Workflow, start: Callable[[], Handler], stepwise: bool, progress: Progress) -> None:
        self.workflow = workflow
        self.start = start
        self.stepwise = stepwise
        self.progress = progress
        self.questions = Questions()
        self.handler: Handler | None = None
        self.source = Input()
        self._changed = anyio.Event()
        self._has_ended = False
        self._is_left = False
        self._last: tuple[Question, ...] = ()

    async def run(self) -> Ending:
        try:
            with self.progress:
                async with self.workflow:  # closes its resources
                    return await self._driven()
        except BaseExceptionGroup as several:
            raise first_of(several) from None

    async def _driven(self) -> Ending:
        handler = self.handler = self.questions.handler = self.start()
        self.questions.changed = self._wake
        try:
            async with anyio.create_task_group() as group:
                async with handler:
                    group.start_soon(self._show, handler)
                    try:
                        await (self._step(handler) if await self._is_stepwise(handler) else self._answer(handler))
                    except NoMoreInput:
                        await self._leave(handler)
        except Exception as error:  # noqa: BLE001 - the run's is told
            return self._failed(handler, one_of(error))
        if (left := handler.exception()) is not None:
            return self._failed(handler, left)
        return self.ending("finished", result=handler.result())

    def _failed(self, handler: Handler, error: BaseException) -> Ending:
        if not handler.is_done():
            raise error
        if self._is_left and isinstance(error, RunSuspended | WorkflowCancelled):
            return self.ending("waiting", error=error)
        return self.ending("cancelled" if isinstance(error, WorkflowCancelledByUser) else "failed", error=error)

    def ending(self, status: Status, *, result: Any = None, error: BaseException | None = None) -> Ending:
        handler = self.handler
        assert handler is not None
        return Ending(status, handler.run_id, handler.workflow_name, result, error, self._last)

    # -------------------------------------------------------------------------------------------------------- showing

    async def _show(self, handler: Handler) -> None:
        """Show the events of the stream as they come; the end of it is the end of the run."""
        reader = handler.stream_events(from_start=True)
        async for event in reader:
            is_end = isinstance(event, StopEvent) and reader.origin is None
            if not is_end and not isinstance(event, InputRequiredEvent):
                self.progress.event(event, reader.origin)
            self._wake()
        self._has_ended = True
        self._wake()

    def _wake(self) -> None:
        self._changed.set()

    async def _change(self) -> None:
        await self._changed.wait()
        self._changed = anyio.Event()

    # --------------------------------------------------------------------------------------------------------- asking

    async def _answer(self, handler: Handler) -> None:
        """Have questions answered until the run has ended.

        Raises:
            NoMoreInput: nobody answers any more.
        """
        while not self._has_ended:
            question = await self._next(handler)
            if question is not None:
                await self._ask(handler, question)

    async def _next(self, handler: Handler) -> Question | None:
        """The next question; ``None`` where something has changed."""
        found = self.questions.open()
        if found:
            return found[0]
        waits = False

        async def rest() -> None:
            nonlocal waits
            await _run_of(handler).settle()
            waits = True
            self._wake()

        try:
            async with anyio.create_task_group() as group:
                group.start_soon(rest)
                await self._change()
                group.cancel_scope.cancel()
        except BaseExceptionGroup as several:
            raise first_of(several) from None
        if not waits or handler.is_done() or self.questions.open():
            return None
        question = self.questions.unasked()
        if question is None:
            raise NoMoreInput  # it waits for what nobody here can give
        return question

    async def _ask(self, handler: Handler, question: Question) -> None:
        """Ask, for as long as it is to be answered."""
        answer: Event | None = None

        async def take_back() -> None:
            while self._is_open(handler, question):
                await self._change()
            group.cancel_scope.cancel()

        with self.progress.paused():
            try:
                async with anyio.create_task_group() as group:
                    group.start_soon(take_back)
                    await anyio.lowlevel.checkpoint()  # let it begin: Ctrl-C may come with the prompt
                    answer = await ask(question, self.source, self.workflow)
                    group.cancel_scope.cancel()
            except BaseExceptionGroup as several:
                raise first_of(several) from None
            if answer is None:
                say("  (it needs no answer any more)")
                return
            try:
                self.questions.answered(question)
                handler.send_event(answer, to=question.nested)
            except (RunFinished, WrongCall, MisdirectedEvent) as error:
                say(f"  {error}")

    def _is_open(self, handler: Handler, question: Question) -> bool:
        if handler.is_done() or self._has_ended:
            return False
        if question.is_implied:
            return _run_of(handler).waits_outside() and not self.questions.open()
        return any(question is one for one in self.questions.open())

    async def _leave(self, handler: Handler) -> None:
        """Nobody answers any more: see the run to where nothing in it goes on without an answer, and leave it there.

        One that has a store is left as soon as it only waits. One that has none would be lost, so what has a time limit
        is waited for.
        """
        run = _run_of(handler)
        if run.log is None:
            if not run.waits_outside() and run.at_rest():
                say("(nobody answers: going on with what has a time limit)")
            await run.settle()
        while not handler.is_done():
            await run.come_to_rest()
            if run.has_mail():  # at rest it takes that, or refuses it, in a moment
                await anyio.sleep(0.001)
                continue
            self._last = tuple(self.questions.open())
            if self._last or run.waits_outside():
                break
            await self._change()  # only time passes: it will try something again
        if handler.is_done():
            return
        if not self._last and (implied := self.questions.unasked()) is not None:
            self._last = (implied,)
        self._is_left = True
        run.cancel("nobody answers its questions")

    # ------------------------------------------------------------------------------------------------------- stepwise

    async def _is_stepwise(self, handler: Handler) -> bool:
        """Whether it goes step by step: how it was begun says so.

        Raises:
            Refused: it is asked to, but wasn't begun so.
        """
        run = _run_of(handler)
        await run.come_up()
        if run.machine.stepwise is not self.stepwise and not (run.ended or handler.is_done()):
            if self.stepwise:
                raise Refused(f"run {run.run_id!r} didn't begin with --stepwise: leave it out to go on with it")
            say("(it began with --stepwise, so each step asks which of its events go on)")
        return run.machine.stepwise

    async def _step(self, handler: Handler) -> None:
        """Let one step after another run, and ask which of the events that they produced go on. Where nothing is left
        to do, the run is let go: it has stalled.

        Raises:
            NoMoreInput: nobody answers any more.
        """
        number = 0
        while True:
            produced = await handler.run_step()
            await anyio.lowlevel.checkpoint()
            number += bool(produced)
            if not await self._choose(handler, number, produced):
                return
            question = next(iter(self.questions.open()), None)
            if question is None and not produced and not handler.is_done():
                question = self.questions.unasked()
            if question is not None:
                await self._ask(handler, question)
            if handler.is_done() or not (produced or question):
                return

    async def _choose(self, handler: Handler, number: int, produced: Sequence[Event]) -> bool:
        """Send on the events that are chosen; whether the run goes on."""
        if not produced:
            return True
        with self.progress.paused():
            say(f"{number}. produced")
            for place, event in enumerate(produced, 1):
                say(f"  {place}. {shown(event, 500)}")
            while True:
                text = await self.source.line("  which go on? (Enter: all; numbers: those; 0: none; q: cancel) ")
                chosen = _chosen(text, len(produced))
                if chosen is not None:
                    break
                say(f"  write numbers from 1 to {len(produced)}, such as 1,2; or Enter, 0 or q")
        if chosen == "q":
            await handler.cancel_run()
            return False
        for place in chosen:
            handler.ctx.send_event(produced[place - 1])
        return True


def _run_of(handler: Handler) -> Run:
    return handler._run  # pyright: ignore[reportPrivateUsage] - the command line is part of flowkit


def _chosen(text: str, count: int) -> "list[int] | Literal['q'] | None":
    """The numbers that were written; ``None`` for what makes no sense."""
    text = text.strip().lower()
    if text in ("q", "quit", "cancel"):
        return "q"
    if text in ("", "all"):
        return list(range(1, count + 1))
    if text in ("0", "none"):
        return []
    numbers = text.replace(",", " ").split()
    if not all(one.isdecimal() and 1 <= int(one) <= count for one in numbers):
        return None
    return sorted({int(one) for one in numbers})


@contextlib.contextmanager
def _warnings_as_lines() -> Generator[None]:
    """Tell flowkit's warnings (an event that nobody took, a clean-up that failed) in a line each."""
    before = warnings.showwarning
    own = str(Path(__file__).parents[1])

    def show(message: Warning | str, category: type[Warning], filename: str, *args: Any, **more: Any) -> None:
        if category.__module__.startswith("flowkit.") or filename.startswith(own):
            say(f"Warning: {message}")
        else:
            before(message, category, filename, *args, **more)

    warnings.showwarning = show
    try:
        yield
    finally:
        warnings.showwarning = before


# ------------------------------------------------------------------------------------------------------------- telling


def told(ending: Ending, place: Place, *, as_json: bool = False, show_traceback: bool = False) -> int:
    """Tell how a run was left, its result on standard output; the exit code."""
    code, lines = _in_words(ending, place)
    if show_traceback and ending.status == "failed" and ending.error is not None:
        say(full_traceback(ending.error))
    if as_json:
        tell_json(_as_data(ending, place))
    elif ending.status == "finished" and ending.result is not None:
        result = ending.result
        tell(result if isinstance(result, str) else shown(result, sys.maxsize))
    for line in lines:
        say(line)
    return code


def _in_words(ending: Ending, place: Place) -> tuple[int, list[str]]:
    name = f"run {ending.run_id}"
    match ending.status:
        case "finished":
            return DONE, []
        case "failed":
            assert ending.error is not None
            code = code_of(ending.error)
            line = line_of(ending.error, ending.workflow)
            if code not in (None, FAILED):
                return code or FAILED, [f"Error: {line}"]
            kept = [] if place.store is None else [f"({name}, in {place.store})"]
            return FAILED, [f"failed: {line}", *kept]
        case "cancelled":
            return FAILED, ["cancelled"]
        case "interrupted":
            if place.store is None:
                return INTERRUPTED, ["stopped: the run was cancelled"]
            return INTERRUPTED, [f"stopped: {name} is suspended, nothing is lost", *go_on_lines(ending, place)]
        case "waiting":
            unseen = [question for question in ending.open if not question.was_shown]
            asked = [line for question in unseen for line in question_lines(question)]
            if place.store is None:
                cure = "with --store it would have been kept"
                return WAITING, ["nobody answers: the run was cancelled", *asked, cure]
            return WAITING, [f"{name} waits for an answer", *asked, *go_on_lines(ending, place)]


def go_on_lines(ending: Ending, place: Place) -> list[str]:
    """The commands that go on with a stored run."""
    name = shlex.quote(ending.run_id)
    lines: list[str] = []
    for question in ending.open:
        for kind in question.kinds:
            values = _placeholders(kind, question)
            lines.append(f"  flowkit runs send {name} {kind.__name__}{values} {place.options()}")
    return [*dict.fromkeys(lines), f"  flowkit runs resume {name} {place.options()}"]


def _placeholders(kind: type[Event], question: Question) -> str:
    fixed = [f"{name}={shlex.quote(str(value))}" for name, value in question.fixed.items()]
    needed = [field.keyword for field in fields_of(kind) if field.default is MISSING]
    names = ["response"] if kind.__flowkit_open__ else needed
    return "".join(f" {one}" for one in [*fixed, *(f"{name}=…" for name in names if name not in question.fixed)])


def _as_data(ending: Ending, place: Place) -> dict[str, Any]:
    data: dict[str, Any] = {"run_id": ending.run_id, "workflow": ending.workflow, "status": ending.status}
    if place.store is not None:
        data["store"] = str(place.store)
    if ending.status == "finished":
        data["result"] = plain(ending.result)
    elif ending.status == "failed" and ending.error is not None:
        data["error"] = _error_data(ending.error)
    elif ending.open:
        data["waits_for"] = [_question_data(question) for question in ending.open]
    return data


def _error_data(error: BaseException) -> dict[str, Any]:
    step = error.step if isinstance(error, StepFailed) else None
    cause = error
    while isinstance(cause, StepFailed) and cause.__cause__ is not None:
        cause = cause.__cause__
    return {"type": type(cause).__name__, "message": text_of(cause), "step": step, "where": place_of(cause)}


def _question_data(question: Question) -> dict[str, Any]:
    event = question.event
    return {
        "run_id": question.run_id,
        "question": None if event is None else {"type": type(event).__name__, "fields": event.to_dict()},
        "answers": [
            {"type": kind.__name__, "fields": [field_text(field) for field in fields_of(kind)]}
            for kind in question.kinds
        ],
        "requires": question.fixed,
    }
