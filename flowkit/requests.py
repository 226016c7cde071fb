"""What steps and callers ask of a run: the `RunFace` that a context talks to.

Each request is checked here, where it is made, and then entered as a fact. All but `wait` work from the threads of
plain steps as they stand.
"""

import threading
from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import anyio
import anyio.from_thread

from flowkit.backend import Backend, uninterrupted
from flowkit.context import RetryInfo
from flowkit.errors import (
    MisdirectedEvent,
    RunFinished,
    WaitTimedOut,
    WorkflowRuntimeError,
    WrongCall,
    no_event,
    shown,
    too_late,
)
from flowkit.events import Event
from flowkit.facts import (
    Command,
    EventCollected,
    EventPublished,
    EventSent,
    Fact,
    GiveBatch,
    StateWritten,
    WaitAbandoned,
    WaitOpened,
)
from flowkit.machine import Machine
from flowkit.performer import Performer
from flowkit.plan import Plan
from flowkit.stations import Cell, Owner
from flowkit.storage_errors import RunSuspended

__all__ = ["Requests", "check_target"]


class Requests(Performer):
    """The part of a run that contexts know."""

    __slots__ = ("_chosen", "_early", "_expected", "begun", "run_id", "workflow_name")

    def __init__(
        self,
        machine: Machine,
        owner: Owner,
        backend: Backend,
        run_id: str,
        keep: Callable[[Fact, Sequence[Command]], None] | None,
    ) -> None:
        super().__init__(machine, owner, backend, keep)
        self.run_id = run_id
        self.workflow_name = machine.plan.name
        self.begun = False
        self._expected: dict[tuple[int, str | None], tuple[Sequence[type], tuple[type, ...]]] | None = None
        self._early: list[tuple[Event, str | None]] | None = None  # sent before the run began
        self._chosen: list[int] | None = None  # of the events that a stepwise run holds back

    @abstractmethod
    def is_torn(self) -> bool:
        """Whether all of the run is being cancelled, and not just a scope in one of its steps; then it ends now."""

    @abstractmethod
    def hand_down(self, event: Event) -> bool:
        """Give an event from outside to the nested run that wants it, where this one doesn't."""

    def _from_thread(self, call: Callable[..., Any], *args: Any) -> Any:
        try:
            return anyio.from_thread.run_sync(call, *args)
        except RuntimeError as error:
            if isinstance(error, WorkflowRuntimeError):
                raise
            raise WrongCall(
                "a run",
                "can be reached from its event loop's thread and from the threads of its plain steps",
                "from a thread of your own, use anyio.from_thread.run_sync with a BlockingPortal or token of that loop",
            ) from error

    def _in_time(self) -> float:
        """The time. Where the run's timeout is over, the run is, too."""
        now = self._clock() + self._epoch
        if now >= self._limit:
            self.expire()
        return now

    def send(self, event: Event, step: str | None, invocation: int | None) -> None:
        if threading.get_ident() != self._thread:
            self._from_thread(self.send, event, step, invocation)
            return
        machine = self.machine
        now = self._in_time()
        if machine.outcome is not None:
            if invocation is None and isinstance(self._fatal, RunSuspended):
                raise self._fatal.with_traceback(None)  # it hasn't ended, but here it has
            raise RunFinished(self.workflow_name, f"send_event({type(event).__name__})")
        if not isinstance(event, Event):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise no_event("send_event", event)
        if step is not None:
            check_target(machine.plan, event, step)
        if invocation in machine.invocations:
            fact = EventSent(now, invocation, event, step)
            if self._intents is None or not self._intend(invocation, fact):
                self.apply(fact)
            return
        if not self.begun:
            # Sent between run() and the loop's next turn, in which the run begins.
            self._early = [*(self._early or ()), (event, step)]
            return
        if step is None and self.hand_down(event):
            return
        if not machine.stepwise:
            self.apply(EventSent(self._now(), None, event, step))
            return
        number = next(
            (one for one, held in machine.held.items() if held.event is event and one not in (self._chosen or ())), None
        )
        if number is None:
            self.apply(EventSent(self._now(), None, event, step))
            number = machine.last
        self._chosen = [*(self._chosen or ()), number]

    def publish(self, event: Event, invocation: int | None) -> None:
        if threading.get_ident() != self._thread:
            self._from_thread(self.publish, event, invocation)
            return
        now = self._in_time()
        if self.machine.outcome is not None:
            raise RunFinished(self.workflow_name, f"write_event_to_stream({type(event).__name__})")
        if not isinstance(event, Event):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise no_event("write_event_to_stream", event)
        fact = EventPublished(now, invocation, event)
        if self._intents is None or not self._intend(invocation, fact):
            self.apply(fact)

    def collect(
        self, event: Event, expected: Iterable[type[Event]], buffer: str | None, invocation: int
    ) -> list[Any] | None:
        if threading.get_ident() != self._thread:
            found: list[Any] | None = self._from_thread(self.collect, event, expected, buffer, invocation)
            return found
        now = self._in_time()
        if self.machine.outcome is not None:
            raise RunFinished(self.workflow_name, "collect_events")
        entry = self.machine.invocations.get(invocation)
        if entry is None:
            raise too_late("collect_events")
        if not isinstance(event, Event):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise no_event("collect_events", event)
        if self._expected is None:
            self._expected = {}
        key = (entry.lane.index, buffer)
        known = self._expected.get(key)
        changed: tuple[type, ...] | None = None
        # Counting a long list anew for each event would make the batch quadratic: the same list is recognised.
        if known is None or known[0] is not expected or len(known[0]) != len(known[1]):
            types = tuple(expected) if isinstance(expected, Iterable) else ()  # pyright: ignore[reportUnnecessaryIsInstance]
            if not types or not all(isinstance(kind, type) and issubclass(kind, Event) for kind in types):
                raise WrongCall(
                    "collect_events",
                    f"takes a list of event classes, but got {shown(expected)}",
                    "write collect_events(ev, [A, B])",
                )
            if buffer is not None and not isinstance(buffer, str):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise WrongCall(
                    "collect_events", f"takes a string as buffer_id, but got {shown(buffer)}", "write str(…)"
                )
            changed = None if known is not None and known[1] == types else types
            self._expected[key] = (expected if isinstance(expected, list | tuple) else types, types)
        for command in self.apply(EventCollected(now, invocation, buffer, event, changed)):
            if type(command) is GiveBatch:
                return command.events
        return None

    @uninterrupted
    async def wait(
        self,
        invocation: int,
        event_type: type[Event],
        question: Event | None,
        waiter: str | None,
        requirements: dict[str, Any],
        timeout: float | None,
    ) -> Event:
        entry = self.machine.invocations.get(invocation)
        if entry is None:
            raise too_late("wait_for_event")
        if self._cells is None:
            self._cells = {}
        if self._waits is None:
            self._waits = {}
        # A wait of a name used before is another wait: the second time in an attempt, the second on record.
        times = self._waits.setdefault(invocation, {})
        count = times.get(waiter, 0)
        if waiter is not None and (invocation, _nth(waiter, count)) in self._cells:
            raise WrongCall(
                "wait_for_event",
                f"was called twice at once as {waiter!r} in one step",
                "give each wait its own waiter_id",
            )
        times[waiter] = count + 1
        waiter = _nth(waiter, count + 1)
        key = (invocation, waiter)
        cell = self._cells[key] = Cell(anyio.Event())
        try:
            self.apply(WaitOpened(self._now(), invocation, waiter, event_type, requirements, timeout, question))
            await cell.woken.wait()
        except BaseException:
            if self.machine.outcome is None and not self.is_torn():
                self.apply(WaitAbandoned(self._now(), invocation, waiter))
            raise
        finally:
            del self._cells[key]
        if not cell.answered:
            raise RunFinished(self.workflow_name, "wait_for_event")
        if cell.event is None:
            raise WaitTimedOut(entry.lane.spec.name, event_type.__name__, timeout or 0.0)
        return cell.event

    def write_state(self, path: tuple[str, ...], value: Any, invocation: int | None) -> bool:
        """Write it, or keep it for the end of an atomic step; whether it is still to be awaited (`written`)."""
        fact = StateWritten(self._now(), path, value)
        if self._intents is not None and self._intend(invocation, fact):
            return False
        self.apply(fact)
        return self._log is not None and not self._log.is_written

    def _intend(self, invocation: int | None, fact: EventSent | EventPublished | StateWritten) -> bool:
        """Keep what an atomic step does for its end; false where this isn't one."""
        intents = self._intents.get(invocation) if self._intents is not None and invocation is not None else None
        if intents is None:
            return False
        if self._log is not None:
            self._log.encode(fact)  # what can't be stored is said at the line that wrote it
        intents.append(fact)
        return True

    @abstractmethod
    async def opened(self) -> None:
        """Wait until a stored run is there."""

    async def written(self) -> None:
        if self._log is not None:
            await self._log.written()

    def idempotency_key(self, invocation: int) -> str:
        if threading.get_ident() != self._thread:
            key: str = self._from_thread(self.idempotency_key, invocation)
            return key
        entry = self.machine.invocations.get(invocation)
        if entry is None:
            raise self._gone("idempotency_key")
        key = f"{self.run_id}/{entry.lane.spec.name}/{invocation}"
        return key if self._log is None else key + self._log.mark(entry.event)

    def _gone(self, call: str) -> WorkflowRuntimeError:
        """Why nothing is known of an invocation: its run has ended around a step that still cleans up, or runs in a
        thread; or the step has returned."""
        return too_late(call) if self.machine.outcome is None else RunFinished(self.workflow_name, call)

    def retry_info(self, invocation: int) -> RetryInfo:
        if threading.get_ident() != self._thread:
            info: RetryInfo = self._from_thread(self.retry_info, invocation)
            return info
        if invocation not in self.machine.invocations:
            raise self._gone("retry_info")
        attempt, since = self.machine.retry_info(invocation)
        return RetryInfo(attempt, 0.0 if since is None else self._now() - since)

    def now(self) -> float:
        if threading.get_ident() != self._thread:
            now: float = self._from_thread(self._now)
            return now
        return self._now()

    def to_dict(self) -> dict[str, Any]:
        if not self.machine.started:
            raise WrongCall(
                "to_dict():",
                f"this run of {self.workflow_name} has not begun, it waits for its turn",
                "await something first, or save a Context that no run has been given",
            )
        return self._owner.dump_run(self.machine)


def check_target(plan: Plan, event: Event, step: str) -> None:
    """Refuse an event for a step that isn't there, or doesn't take it.

    Raises:
        MisdirectedEvent: it is so.
    """
    spec = plan.step(step)
    if spec is None:
        raise MisdirectedEvent(plan.name, step, event, steps=(one.name for one in plan.steps))
    if not issubclass(type(event), spec.accepts):
        takes = " | ".join(one.__name__ for one in spec.accepts)
        raise MisdirectedEvent(plan.name, step, event, takes=takes, where=spec.where)


def _nth(waiter: str | None, count: int) -> str:
    return waiter if waiter is not None and count == 1 else f"{waiter or ''}#{count}"
