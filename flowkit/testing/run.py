"""A finished simulated run, for a property to look at."""

from collections.abc import Sequence
from typing import Any

import attrs

from flowkit.errors import StateError, shown
from flowkit.events import Event
from flowkit.testing.scenario import Scenario

__all__ = ["Happening", "Run"]

_UNSET: Any = object()


@attrs.frozen
class Happening:
    """Something that happened in a run: at which virtual second, in which task step, in which task, and what."""

    time: float
    step: int
    task: int
    what: str
    detail: Any = attrs.field(default=None, eq=False, repr=False)

    def __str__(self) -> str:
        return f"{self.time:g} s, task {self.task}: {self.what}"


@attrs.define(eq=False, repr=False)
class Run:
    """A finished simulated run.

    Attributes:
        error: what the run ended with, ``None`` where it has a result.
        stream: the events it showed, in order; those of nested runs, too. After a simulated crash the stream begins
            anew, with the questions that are still open.
        state: its final state: a dict, or the attrs object of ``Context[State]``; ``None`` where there is none.
        effects: what `flowkit.testing.effect` was called with, in order, over all lives.
        writes: the journal's writes, in order: how many records each had.
        trace: what happened, in order.
        duration: virtual seconds from begin to end, the downtime after crashes included.
        cancelled: whether it was cancelled before it had a result.
        lives: how many processes it took: 1, and 1 more for each crash.
        token: what ``simulate(…, replay=token)`` takes to run it again.
        scenario: everything that decided it.
        warnings: what the run warned of.
    """

    scenario: Scenario
    backend: str
    error: BaseException | None = None
    stream: list[Event] = attrs.field(factory=list[Event])
    state: Any = None
    effects: list[Any] = attrs.field(factory=list[Any])
    writes: list[int] = attrs.field(factory=list[int])
    duration: float = 0.0
    lives: int = 1
    cancelled: bool = False
    token: str = ""
    warnings: list[Warning] = attrs.field(factory=list[Warning])
    trace: Sequence[Happening] = ()
    value: Any = attrs.field(default=_UNSET, repr=False)

    __test__ = False

    def __repr__(self) -> str:
        ended = f"failed: {self.error!r}" if self.error is not None else f"result={shown(self.value)}"
        return f"<simulated run: {ended}, {len(self.stream)} events shown, {len(self.effects)} effects>"

    @property
    def result(self) -> Any:
        """The run's result.

        Raises:
            BaseException: the run's error, where it has no result.
        """
        if self.error is not None:
            raise self.error
        if self.value is _UNSET:
            raise StateError("this simulated run has neither a result nor an error", "report it as a bug of flowkit")
        return self.value

    @property
    def has_result(self) -> bool:
        """Whether it ended well."""
        return self.error is None and self.value is not _UNSET
