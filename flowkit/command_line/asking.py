"""A run's questions, asked in the terminal.

**What is open** is what the run itself says: the waits of its steps, as instruments are told of them, and the
questions that steps have returned and nobody has answered; in it and in the runs nested in it. A run that waits for
somebody outside without a question is asked for as well, once nothing else goes on. An answer goes to the run that
asked. What isn't open any more (a wait that has timed out, a run that has ended) is no longer asked: the prompt goes.

**The answer** is an event of the class that the wait or the steps take; where there are several, its name is asked
first. In a terminal it is asked field by field, each read by its annotation and asked again where it doesn't fit;
fields that the wait requires to be as they are aren't asked. From a pipe each line is a whole answer
(`values.answer_of`).

**Reading** is `keyboard`'s: the run goes on meanwhile, and Ctrl-C works at once.
"""

import contextlib
import sys
from collections.abc import Callable, Generator, Iterator
from typing import Any

import attrs

from flowkit.command_line.output import is_terminal, printable, say
from flowkit.command_line.typed import Convert, Wrong, from_text, type_text
from flowkit.command_line.values import answer_of, built, converter_of, default_text, fields_of, fields_text
from flowkit.errors import EventError, did_you_mean, shown
from flowkit.events import Event, HumanResponseEvent, InputRequiredEvent, StartEvent
from flowkit.handler import Handler
from flowkit.instruments import Instrument, ObservedWait
from flowkit.keyboard import typed_line
from flowkit.nesting import Nesting
from flowkit.stream import Origin
from flowkit.testing.parameters import MISSING, Parameter
from flowkit.workflow import Workflow

__all__ = ["Input", "NoMoreInput", "Question", "Questions", "ask", "question_lines"]


class NoMoreInput(Exception):
    """The input has ended (Ctrl-D): nobody answers any more."""


# ------------------------------------------------------------------------------------------------------- reading lines


class Input:
    """Standard input, line by line, while the event loop goes on."""

    def __init__(self) -> None:
        self.is_terminal = is_terminal(sys.stdin)
        self.was_left = False  # while somebody was asked
        self.has_ended = sys.stdin is None  # pyright: ignore[reportUnnecessaryComparison] - closed before the start

    async def line(self, prompt: str) -> str:
        """The line that is typed after the prompt. Cancelling this takes the prompt back; no thread stays behind.

        Raises:
            NoMoreInput: there is none, and won't be.
        """
        if self.has_ended:
            raise NoMoreInput
        try:
            line = await typed_line(lambda: _show_prompt(prompt))
        except BaseException:
            self.was_left = True
            say()  # the cursor is behind the prompt
            raise
        if not line:
            self.has_ended = True
            say()
            raise NoMoreInput
        text = line.decode(sys.stdin.encoding or "utf-8", "replace").rstrip("\r\n")
        if not self.is_terminal:
            say(text)  # as a terminal would have shown it
        return text


def _show_prompt(prompt: str) -> None:
    import click

    click.echo(printable(prompt), nl=False, err=True)


# ------------------------------------------------------------------------------------------------------- what is open


@attrs.define(eq=False)
class Question:
    """Something a run waits for: the event that asks (``None`` where none does), the classes that answer, the fields
    that the answer must have, and the run; ``nested`` is where in the whole it is, for an answer to find it.
    ``is_implied``: nothing asks, but the run does nothing more without somebody outside."""

    event: Event | None
    kinds: tuple[type[Event], ...]
    fixed: dict[str, Any]
    run_id: str
    workflow: str
    step: str | None
    nested: Origin | None
    is_implied: bool = False
    was_shown: bool = False


class Questions(Instrument):
    """What a run asks, and those nested in it. ``changed`` is called whenever that may have become another.

    A step may ask by ``wait_for_event(…, question)``, or write the question to the stream and wait then, or return it
    to have a step called with the answer.
    """

    def __init__(self) -> None:
        self.handler: Handler | None = None
        self.changed: Callable[[], None] = lambda: None
        self._waits: list[ObservedWait] = []
        self._known: dict[tuple[int, int], Question] = {}  # by wait and event
        self._answered: list[Event] = []

    def wait_opened(self, wait: ObservedWait) -> None:
        self._waits.append(wait)
        self.changed()

    def wait_ended(self, wait: ObservedWait) -> None:
        if wait in self._waits:
            self._waits.remove(wait)
            self.changed()

    def answered(self, question: Question) -> None:
        """An answer was sent."""
        if question.event is not None:
            self._answered.append(question.event)

    def open(self) -> list[Question]:
        """What is open now: of the run itself first, then of those nested in it."""
        handler = self.handler
        if handler is None or handler.is_done():
            return []
        found: dict[tuple[int, int], Question] = {}
        for run in _runs(handler):
            if not run.ended:
                self._add(found, run)
        self._known = found
        return list(found.values())

    def _add(self, found: dict[tuple[int, int], Question], run: Nesting) -> None:
        waits = [wait for wait in self._waits if wait.attempt.run.run_id == run.run_id]
        # An event that a wait has answered stays among the machine's questions, so each needs somebody who takes one.
        asked = [event for event in run.machine.questions if not any(event is one for one in self._answered)]
        for wait in waits:
            event = wait.question
            if event is None and asked:
                event = asked.pop(0)
            step, kinds = wait.attempt.step, (wait.event_type,)
            key = id(wait), id(event)
            found[key] = self._known.get(key) or self._question(run, event, kinds, dict(wait.requirements), step)
        takers = _answers(run)
        for event in asked if takers else ():
            key = 0, id(event)
            found[key] = self._known.get(key) or self._question(run, event, takers)

    def unasked(self) -> Question | None:
        """What to ask for where a run waits for somebody outside, and there is no question."""
        assert self.handler is not None
        for run in _runs(self.handler):
            if not run.ended and (kinds := _answers(run) or _anything(run)):
                return self._question(run, None, kinds, is_implied=True)
        return None

    def _question(
        self,
        run: Nesting,
        event: Event | None,
        kinds: tuple[type[Event], ...],
        fixed: dict[str, Any] | None = None,
        step: str | None = None,
        *,
        is_implied: bool = False,
    ) -> Question:
        assert self.handler is not None
        name = run.workflow_name
        nested = None if run.run_id == self.handler.run_id else Origin(name, run.run_id, ())
        return Question(event, kinds, fixed or {}, run.run_id, name, step, nested, is_implied)


def _runs(handler: Handler) -> Iterator[Nesting]:
    """The run, and those nested in it."""
    todo: list[Nesting] = [handler._run]  # pyright: ignore[reportPrivateUsage] - the command line is part of flowkit
    while todo:
        run = todo.pop(0)
        yield run
        todo.extend(run.children or ())


def _answers(run: Nesting) -> tuple[type[Event], ...]:
    return tuple(kind for kind in run.machine.plan.accepted if issubclass(kind, HumanResponseEvent))


def _anything(run: Nesting) -> tuple[type[Event], ...]:
    """The events that a run takes which is driven from outside."""
    if not run.machine.patient:
        return ()
    return tuple(kind for kind in run.machine.plan.accepted if not issubclass(kind, StartEvent))


# ------------------------------------------------------------------------------------------------------------- asking


def question_lines(question: Question) -> list[str]:
    """A question in words."""
    by = "" if question.nested is None else f" ({question.workflow})"
    event = question.event
    if event is None:
        names = " or ".join(kind.__name__ for kind in question.kinds)
        who = f"{question.workflow}.{question.step}" if question.step else question.workflow
        return [f"? {who} waits for {names}"]
    fields = {name: value for name, value in event.items() if value is not None}
    if not fields:
        return [f"? {type(event).__name__}{by}"]
    if len(fields) == 1:
        (value,) = fields.values()
        return [f"? {_value(value)}{by}"]
    kind = type(event)
    title = "Question" if kind is InputRequiredEvent else kind.__name__
    return [f"? {title}{by}", *(f"    {name}: {_value(value)}" for name, value in fields.items())]


def _value(value: Any) -> str:
    return value.rstrip("\n").replace("\n", "\n    ") if isinstance(value, str) else shown(value, 500)


async def ask(question: Question, source: Input, workflow: Workflow) -> Event:
    """The answer that somebody gives.

    Raises:
        NoMoreInput: nobody does.
    """
    convert = converter_of(workflow)
    for line in question_lines(question):
        say(line)
    question.was_shown = True
    kind = await _choose(question, source)
    while True:
        try:
            if source.is_terminal:
                return await _fields(kind, question, source, convert)
            return await _whole(kind, question, source, convert)
        except Wrong as error:
            say(f"  {_mistake(error)}")
        except EventError as error:
            say(f"  {error}")


async def _choose(question: Question, source: Input) -> type[Event]:
    """Which of the events that answer it."""
    kinds = question.kinds
    if len(kinds) == 1:
        return kinds[0]
    names = [kind.__name__ for kind in kinds]
    for number, kind in enumerate(kinds, 1):
        say(f"  {number}. {kind.__name__} ({fields_text(kind)})")
    while True:
        text = (await source.line("  answer by (name or number): ")).strip()
        if text.isdecimal() and 1 <= int(text) <= len(kinds):
            return kinds[int(text) - 1]
        found = [kind for kind, name in zip(kinds, names, strict=True) if name.lower() == text.lower()]
        if found:
            return found[0]
        say(f"  {shown(text)} is none of them: {did_you_mean(text, names) or 'write ' + ' or '.join(names)}")


async def _fields(kind: type[Event], question: Question, source: Input, convert: Convert | None) -> Event:
    """An answer that is typed field by field."""
    values = dict(question.fixed)
    wanted = fields_of(kind)
    if kind.__flowkit_open__:
        if "response" not in values:
            values["response"] = await source.line("  response: ")
        return kind(**values)
    asked = [field for field in wanted if field.keyword not in values]
    if not asked:
        _ = await source.line(f"  Enter sends {kind.__name__}: ")
    for field in asked:
        if (given := await _field(field, source, convert)) is not MISSING:
            values[field.keyword] = given
    return built(kind, values)


async def _field(field: Parameter, source: Input, convert: Convert | None) -> Any:
    default = "" if field.default is MISSING else f" [{default_text(field)}]"
    prompt = f"  {field.keyword} ({type_text(field.annotation)}){default}: "
    while True:
        text = await source.line(prompt)
        if not text and field.default is not MISSING:
            return MISSING
        try:
            return from_text(text, field.annotation, convert)
        except Wrong as error:
            say(f"  {_mistake(error)}")


async def _whole(kind: type[Event], question: Question, source: Input, convert: Convert | None) -> Event:
    """An answer in one line."""
    wanted = "response" if kind.__flowkit_open__ else f"{kind.__name__} ({fields_text(kind)})"
    line = await source.line(f"  {wanted}: ")
    return answer_of(kind, line, convert, question.fixed)


def _mistake(error: Wrong) -> str:
    inside = f"{error.path.removeprefix('.')}: " if error.path else ""
    advice = f": {error.advice}" if error.advice else ""
    return f"{inside}{error.wanted} is expected, not {error.given}{advice}"


@contextlib.contextmanager
def installed(instrument: Instrument) -> Generator[None]:
    """Have an instrument told of all runs that are started in here."""
    from flowkit.instruments import add_instrument, installed_for_all, remove_instrument

    add_instrument(instrument)
    try:
        yield
    finally:
        if any(one.instrument is instrument for one in installed_for_all()):  # else it has failed and was dropped
            remove_instrument(instrument)
