"""What happens in runs as plain lines, for a pipe, a log file or CI: one line each, written at once.

    +0.000 Answers run=5f0c… starts with StartEvent(topic='pirates')
    +0.001 Answers.plan#1 begins with StartEvent(topic='pirates')
    +0.002 Answers.plan#1 returned 3 events in 1 ms
    +0.731 Answers.ask#2 attempt 1 failed in 729 ms: OSError: busy; again in 1.0 s
    +9.120 Answers finished in 9.1 s

A line begins with the seconds since the outermost run began and who it is about: the run's workflow, the step and the
number of what it was given, which stays the same in all its attempts. ``#`` and words are the same in each line, so
``grep 'ask#2 '`` follows one event and ``grep ' failed '`` finds what went wrong. A nested run's name is that of what
it was started in and its own (``Answers.ask#2/Child.look#1``); the second outermost run of a program is ``Answers(2)``,
and so on.
"""

from collections.abc import Callable

import attrs

from flowkit.events import Event, InputRequiredEvent
from flowkit.instruments import Instrument, ObservedAttempt, ObservedRun, ObservedWait
from flowkit.live_view.texts import brief, error_text, harmless, kind_of_event, lasting

__all__ = ["Lines"]


@attrs.frozen
class _Named:
    name: str
    zero: float


class Lines(Instrument):
    """Hands each line, with its newline, to ``write``. ``clock`` gives seconds since the epoch, by the runs' clock."""

    def __init__(self, write: Callable[[str], None], clock: Callable[[], float]) -> None:
        self._write = write
        self._clock = clock
        self._runs: dict[ObservedRun, _Named] = {}
        self._begun = 0

    def run_started(self, run: ObservedRun) -> None:
        parent = None if run.parent is None else self._runs.get(run.parent.run)
        name = harmless(run.workflow)
        if parent is None or run.parent is None:
            self._begun += 1
            name = name if self._begun == 1 else f"{name}({self._begun})"
            zero = self._clock() if run.began is None else run.began
        else:
            name, zero = f"{parent.name}.{_numbered(run.parent)}/{name}", parent.zero
        self._runs[run] = _Named(name, zero)
        how = "goes on" if run.resumed else f"starts with {brief(run.start_event)}"
        timeout = "" if run.deadline is None else f" (timeout in {lasting(run.deadline - self._clock())})"
        self._say(run, "", f"run={harmless(run.run_id)} {how}{timeout}")

    def run_ended(self, run: ObservedRun) -> None:
        took = lasting((run.ended or 0.0) - (run.began or 0.0))
        how = f"finished in {took}" if run.outcome == "finished" else f"{run.outcome} after {took}"
        why = f": {error_text(run.error)}" if run.error is not None else ""
        self._say(run, "", how + why)
        self._runs.pop(run, None)

    def attempt_started(self, attempt: ObservedAttempt) -> None:
        again = f" (attempt {attempt.number + 1})" if attempt.number else ""
        self._of(attempt, f"begins with {_given(attempt)}{again}")

    def attempt_ended(self, attempt: ObservedAttempt) -> None:
        if attempt.began is None:
            return
        took = lasting((attempt.ended or attempt.began) - attempt.began)
        if attempt.outcome == "returned":
            result = attempt.result
            self._of(attempt, f"returned {kind_of_event(result)} in {took}")
            for one in result if isinstance(result, list) else [result]:  # pyright: ignore[reportUnknownVariableType]
                if isinstance(one, InputRequiredEvent):
                    self._of(attempt, f"asks {brief(one)}")
        elif attempt.outcome == "raised":
            then = "" if attempt.delay is None else f"; again in {lasting(attempt.delay)}"
            self._of(attempt, f"attempt {attempt.number + 1} failed in {took}: {error_text(attempt.error)}{then}")
        else:
            self._of(attempt, f"cancelled after {took}")

    def wait_opened(self, wait: ObservedWait) -> None:
        until = "" if wait.timeout is None else f" for at most {lasting(wait.timeout)}"
        question = "" if wait.question is None else f", asks {brief(wait.question)}"
        self._of(wait.attempt, f"waits for {harmless(wait.event_type.__name__)}{until}{question}")

    def wait_ended(self, wait: ObservedWait) -> None:
        took = lasting((wait.ended or wait.opened) - wait.opened)
        how = f"answered with {brief(wait.answer)}" if wait.outcome == "answered" else str(wait.outcome)
        self._of(wait.attempt, f"wait {how} after {took}")

    def event_sent(self, run: ObservedRun, event: Event, sender: ObservedAttempt | None) -> None:
        if sender is None:
            self._say(run, "", f"is sent {brief(event)} from outside")
        else:
            self._of(sender, f"sends {brief(event)}")

    def event_published(self, run: ObservedRun, event: Event, sender: ObservedAttempt | None) -> None:
        if sender is None:
            self._say(run, "", f"shows {brief(event)}")
        else:
            self._of(sender, f"shows {brief(event)}")

    def event_collected(self, attempt: ObservedAttempt, event: Event, buffer: str | None, have: int, need: int) -> None:
        if have == need and need > 1:
            self._of(attempt, f"has collected {need} events")

    def _of(self, attempt: ObservedAttempt, text: str) -> None:
        self._say(attempt.run, f".{_numbered(attempt)}", text)

    def _say(self, run: ObservedRun, step: str, text: str) -> None:
        named = self._runs.get(run)
        if named is not None:
            self._write(f"+{max(0.0, self._clock() - named.zero):.3f} {named.name}{step} {text}\n")


def _numbered(attempt: ObservedAttempt) -> str:
    return f"{harmless(attempt.step)}#{attempt.invocation}"


def _given(attempt: ObservedAttempt) -> str:
    event = attempt.event
    return kind_of_event(event) if isinstance(event, list) else brief(event)
