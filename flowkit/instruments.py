"""Instruments: what watches runs from outside, and never changes them.

An `Instrument` is told what happens in runs, as it happens, in the event loop's thread: a logger, a tracer, a display.
It is installed for every run of this process (`add_instrument`) or for the runs of one workflow
(``Workflow(instruments=[…])``); runs nested in a watched run are watched, too. Which instruments a run has is settled
when it is started.

**What it is shown** are an `ObservedRun`, `ObservedAttempt` and `ObservedWait` for each run, attempt and wait: one
object from its beginning to its end, so an instrument can keep what it likes by them. Times are seconds since the
epoch, by the run's own clock (in a test under virtual time they are virtual).

**What it can do wrong.** One that raises is dropped there and then, from every run, and this is reported with its
traceback: the run goes on as if nothing had been. (What is no `Exception`, exit or Ctrl-C, ends the run and is raised
where that is awaited.) It must not wait: the loop stands still meanwhile. It can't swallow an exception of a step, and
what it changes in the events it is shown is changed for the steps too: it is to leave them as they are.

**What it costs.** Nothing, where none is installed: a run without instruments has no `Watch`. With one, each attempt
goes the longer way through the performer that attempts with resources and timeouts go, and each fact is looked at once.
"""

import logging
from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Literal
from weakref import WeakValueDictionary

import attrs

from flowkit.errors import WrongCall, shown
from flowkit.events import Event

if TYPE_CHECKING:
    from flowkit.plan import Plan

__all__ = [
    "Installed",
    "Instrument",
    "ObservedAttempt",
    "ObservedRun",
    "ObservedWait",
    "add_instrument",
    "installed",
    "installed_for_all",
    "remove_instrument",
]

logger = logging.getLogger("flowkit")


@attrs.define(eq=False)
class ObservedRun:
    """A run, as instruments see it.

    ``parent`` is the attempt that it was started in, where it is nested in another. ``resumed``: it goes on from where
    it was stopped, in this process or another, and ``start_event`` is what it began with. ``stored``: it has a store.
    ``carried`` is what instruments gave it for the way when it began (`Instrument.carry`); a run that goes on brings it
    along. ``forked_from`` is the id of the run that it was forked from, and ``inherited`` what that carried.
    ``deadline`` is when its timeout is over, where it has one (it has none while it waits for its turn). ``outcome`` is
    ``None`` until it has ended: *suspended* is a stored run that will go on elsewhere or later.
    """

    run_id: str
    workflow: str
    plan: "Plan" = attrs.field(repr=False)
    parent: "ObservedAttempt | None" = None
    stored: bool = False
    resumed: bool = False
    start_event: Event | None = None
    carried: dict[str, str] = attrs.field(factory=dict[str, str])
    forked_from: str | None = None
    inherited: dict[str, str] = attrs.field(factory=dict[str, str])
    began: float | None = None
    deadline: float | None = None
    ended: float | None = None
    outcome: Literal["finished", "failed", "cancelled", "suspended"] | None = None
    result: Any = None
    error: BaseException | None = None


@attrs.define(eq=False)
class ObservedAttempt:
    """One attempt of a step at one event (a list of events, where the step takes one).

    ``invocation`` numbers what the step was given within its run, ``number`` counts the attempts at that from 0.
    ``queued`` is when it was to begin as soon as a worker was free, ``began`` when it did (``None`` before that, or
    where it never came to it). ``outcome`` is ``None`` until it has ended; *cancelled* is what the end of its run did
    to it. ``delay`` is in how many seconds it is tried again after ``error``; ``None``: not any more.
    """

    run: ObservedRun
    step: str
    where: str | None
    invocation: int
    number: int
    event: Any
    queued: float
    began: float | None = None
    ended: float | None = None
    outcome: Literal["returned", "raised", "cancelled"] | None = None
    result: Any = None
    error: BaseException | None = None
    delay: float | None = None


@attrs.define(eq=False)
class ObservedWait:
    """One ``ctx.wait_for_event``.

    ``timeout`` is in seconds. ``outcome`` is ``None`` while it waits: it was *answered* by ``answer``, *timed out*, was
    *abandoned* by its step, or *cancelled* with its run.
    """

    attempt: ObservedAttempt
    waiter_id: str
    event_type: type[Event]
    requirements: Mapping[str, Any]
    timeout: float | None
    question: Event | None
    opened: float
    ended: float | None = None
    outcome: Literal["answered", "timed out", "abandoned", "cancelled"] | None = None
    answer: Event | None = None


class Instrument:
    """Something that watches runs. Subclass it and override what you need; every method does nothing by itself.

    Methods are called in the event loop's thread, in the order things happen, and must return at once. What they raise
    drops the instrument (see the head of this file).
    """

    def run_called(self, run: ObservedRun) -> None:
        """``workflow.run()`` was called, and this is told in its caller's task, with the caller's context variables.
        The run begins later; it may never do (its id may be that of a stored run that has ended, say)."""

    def carry(self, run: ObservedRun) -> Mapping[str, str]:
        """Give a run something for the way: text by name, which it has in `ObservedRun.carried` from now on, also after
        it was stopped and goes on in another process. Asked right before `run_started`, of a run that carries nothing
        yet; the task is that which drives the run."""
        return {}

    def run_started(self, run: ObservedRun) -> None:
        """The run begins, or goes on (``run.resumed``)."""

    def run_ended(self, run: ObservedRun) -> None:
        """The run has ended here and cleaned up. Nothing more will be told of it. Told once of every run that has
        started, or that `carry` was asked for."""

    def attempt_queued(self, attempt: ObservedAttempt, cause: ObservedAttempt | None) -> None:
        """A step has been given something to do; it begins when one of its workers is free. ``cause`` is the attempt
        that returned or sent the event (of a list of them the last), or failed before this one; ``None``: somebody
        outside did, or the run's start."""

    def around_attempt(self, attempt: ObservedAttempt) -> AbstractContextManager[Any] | None:
        """A context manager to run the attempt in, in its own task: context variables that it sets are seen by the
        step,
        the threads and runs it starts, and nobody else. What its ``__exit__`` returns is ignored."""

    def attempt_started(self, attempt: ObservedAttempt) -> None:
        """The attempt begins: the step is about to be called, in the context that `around_attempt` made."""

    def attempt_ended(self, attempt: ObservedAttempt) -> None:
        """The attempt has ended, ``attempt.outcome`` says how. Told of every attempt that was queued, once."""

    def wait_opened(self, wait: ObservedWait) -> None:
        """A step waits for an event."""

    def wait_ended(self, wait: ObservedWait) -> None:
        """It waits no more; ``wait.outcome`` says why."""

    def event_sent(self, run: ObservedRun, event: Event, sender: ObservedAttempt | None) -> None:
        """``send_event`` was called: by a step, or from outside (``None``)."""

    def event_published(self, run: ObservedRun, event: Event, sender: ObservedAttempt | None) -> None:
        """``write_event_to_stream`` was called."""

    def event_collected(self, attempt: ObservedAttempt, event: Event, buffer: str | None, have: int, need: int) -> None:
        """``collect_events`` was called: the buffer has ``have`` events of the ``need`` that make a batch, or has just
        given one (``have == need``). Surplus isn't counted."""


_NAMES = [name for name in vars(Instrument) if not name.startswith("_")]


class Installed:
    """An instrument that is told of runs until it raises. ``calls`` are the methods it has, by name."""

    __slots__ = ("__weakref__", "calls", "instrument")

    def __init__(self, instrument: Instrument) -> None:
        self.instrument = instrument
        self.calls = {
            name: getattr(instrument, name)
            for name in _NAMES
            if getattr(type(instrument), name) is not getattr(Instrument, name)
        }

    def drop(self, method: str, error: Exception) -> None:
        """It has raised: tell it nothing more, and say so."""
        self.calls = {}
        if _for_all.get(id(self.instrument)) is self:
            del _for_all[id(self.instrument)]
        logger.error(
            "the instrument %r raised in %s(), so it is dropped: runs go on without it",
            self.instrument,
            method,
            exc_info=error,
        )


_for_all: dict[int, Installed] = {}
_known: "WeakValueDictionary[int, Installed]" = WeakValueDictionary()  # so that one is dropped wherever it was given


def add_instrument(instrument: Instrument) -> None:
    """Have an instrument told of all runs that this process starts from now on. Does nothing where it is so already.

    Raises:
        WrongCall: it is no `Instrument`.
    """
    _for_all[id(instrument)] = installed("add_instrument()", instrument)


def remove_instrument(instrument: Instrument) -> None:
    """Undo `add_instrument`; runs that are under way stay with it to their end.

    Raises:
        WrongCall: it isn't installed (it may have been dropped because it raised).
    """
    if id(instrument) not in _for_all:
        raise WrongCall(
            "remove_instrument()", f"got {shown(instrument)}, which isn't installed", "give one that was added"
        )
    del _for_all[id(instrument)]


def installed_for_all() -> Collection[Installed]:
    """Those told of every run."""
    return list(_for_all.values())  # another thread may add one


def installed(call: str, instrument: Instrument) -> Installed:
    """An instrument, ready to be told.

    Raises:
        WrongCall: it is no `Instrument`.
    """
    if not isinstance(instrument, Instrument):  # pyright: ignore[reportUnnecessaryIsInstance]
        is_class = isinstance(instrument, type) and issubclass(instrument, Instrument)
        cure = f"make one, {instrument.__name__}(…)" if is_class else "subclass flowkit.Instrument"
        raise WrongCall(call, f"takes an Instrument, but got {shown(instrument)}", cure)
    known = _known.get(id(instrument))
    if known is None or not known.calls:  # one that was dropped gets another chance where it is given anew
        known = _known[id(instrument)] = Installed(instrument)
    return known
