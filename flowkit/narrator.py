"""Instruments that put what steps do into words: on standard output, as ``Workflow(verbose=True)`` does, and into a
log."""

import logging
from typing import Any

from flowkit.events import Event
from flowkit.instruments import Instrument, ObservedAttempt, ObservedRun, ObservedWait

__all__ = ["LoggingInstrument", "Narrator"]


class Narrator(Instrument):
    """Prints a line for each start and end of an attempt, in the words of the guide that flowkit follows."""

    def attempt_started(self, attempt: ObservedAttempt) -> None:
        print(f"Running step {attempt.step}")

    def attempt_ended(self, attempt: ObservedAttempt) -> None:
        if attempt.outcome == "returned":
            print(f"Step {attempt.step} produced {_made(attempt.result)}")
        elif attempt.outcome == "raised":
            again = "" if attempt.delay is None else f"; trying again in {attempt.delay:g} s"
            print(f"Step {attempt.step} failed: {attempt.error!r}{again}")


class LoggingInstrument(Instrument):
    """Logs what runs do with the standard library's ``logging``.

    A run's beginning and end, and failures, are logged at ``level``, and failures of whole runs and of steps that
    aren't tried again at ``logging.ERROR`` or ``level``, whichever is higher (retries: ``WARNING``); attempts, waits
    and events at ``logging.DEBUG``. Every record has the attributes ``run_id`` and ``workflow``, and ``step`` and
    ``attempt`` where it is about one, for formatters and filters.

    Args:
        log: where to; by default the logger ``flowkit.runs``.
        level: of a run's beginning and end.
    """

    def __init__(self, log: logging.Logger | None = None, *, level: int = logging.INFO) -> None:
        self._log = log or logging.getLogger("flowkit.runs")
        self._level = level

    def run_started(self, run: ObservedRun) -> None:
        what = "goes on" if run.resumed else f"starts with {_named(run.start_event)}"
        self._say(self._level, run, "run %s of %s %s", run.run_id, run.workflow, what)

    def run_ended(self, run: ObservedRun) -> None:
        took = (run.ended or 0.0) - (run.began or 0.0)
        level = max(self._level, logging.ERROR) if run.outcome == "failed" else self._level
        text, why = "run %s of %s %s after %.3f s", () if run.error is None else (type(run.error).__name__, run.error)
        self._say(level, run, text + ": %s: %s" * bool(why), run.run_id, run.workflow, run.outcome, took, *why)

    def attempt_started(self, attempt: ObservedAttempt) -> None:
        self._of(logging.DEBUG, attempt, "step %s starts with %s", attempt.step, _named(attempt.event))

    def attempt_ended(self, attempt: ObservedAttempt) -> None:
        took = (attempt.ended or 0.0) - (attempt.began or attempt.ended or 0.0)
        if attempt.outcome != "raised":
            made = _made(attempt.result) if attempt.outcome == "returned" else "nothing"
            text = "step %s %s %s after %.3f s"
            self._of(logging.DEBUG, attempt, text, attempt.step, attempt.outcome, made, took)
            return
        again = "for good" if attempt.delay is None else f"and is tried again in {attempt.delay:g} s"
        level = logging.ERROR if attempt.delay is None else logging.WARNING
        # The error as it is: that its text can't be told is for `logging` to report.
        text, error = "step %s (attempt %d) failed %s after %.3f s: %s: %s", attempt.error
        more = attempt.step, attempt.number + 1, again, took, type(error).__name__, error
        self._of(max(self._level, level), attempt, text, *more)

    def wait_opened(self, wait: ObservedWait) -> None:
        attempt = wait.attempt
        self._of(logging.DEBUG, attempt, "step %s waits for %s", attempt.step, wait.event_type.__name__)

    def wait_ended(self, wait: ObservedWait) -> None:
        attempt, kind = wait.attempt, wait.event_type.__name__
        self._of(logging.DEBUG, attempt, "step %s's wait for %s is over: %s", attempt.step, kind, wait.outcome)

    def event_sent(self, run: ObservedRun, event: Event, sender: ObservedAttempt | None) -> None:
        self._say(logging.DEBUG, run, "%s is sent by %s", _named(event), _by(sender))

    def event_published(self, run: ObservedRun, event: Event, sender: ObservedAttempt | None) -> None:
        self._say(logging.DEBUG, run, "%s is shown in the stream by %s", _named(event), _by(sender))

    def _say(self, level: int, run: ObservedRun, text: str, *args: Any, **more: Any) -> None:
        extra = {"run_id": run.run_id, "workflow": run.workflow, **more}
        self._log.log(level, text, *args, extra=extra)

    def _of(self, level: int, attempt: ObservedAttempt, text: str, *args: Any) -> None:
        self._say(level, attempt.run, text, *args, step=attempt.step, attempt=attempt.number)


def _by(sender: ObservedAttempt | None) -> str:
    return "somebody outside" if sender is None else f"step {sender.step}"


def _named(event: Any) -> str:
    if isinstance(event, list):
        return f"{len(event)} events"  # pyright: ignore[reportUnknownArgumentType]
    return type(event).__name__


def _made(result: Any) -> str:
    if result is None:
        return "no event"
    if isinstance(result, list):
        return "events " + ", ".join(type(event).__name__ for event in result)  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    return f"event {type(result).__name__}"
