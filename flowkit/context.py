"""`Context`: what a step uses to talk to its run, and what a caller keeps to go on from a run's state.

One class with one state. Inside a step it also knows its invocation, so that what it sends carries its sender and its
waits can be told apart; ``handler.ctx`` is the same without one. It reaches its run through the small `RunFace`
protocol; before a run has started, and after it has ended, it still reads and writes its state.
"""

import contextlib
from collections.abc import AsyncGenerator, Iterable, Mapping
from datetime import UTC, datetime
from random import Random
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, Self, cast
from uuid import UUID

import anyio
import attrs

from flowkit import outside
from flowkit.errors import RunFinished, StateError, WrongCall, shown
from flowkit.events import Event, StopEvent
from flowkit.state import State

if TYPE_CHECKING:
    from typing_extensions import TypeVar

    S = TypeVar("S", default=Any)
    E = TypeVar("E", bound=Event)
    T = TypeVar("T")
else:
    from typing import TypeVar

    S = TypeVar("S")
    E = TypeVar("E", bound=Event)
    T = TypeVar("T")

__all__ = ["Context", "RetryInfo", "RunFace", "StateStore"]

_REQUIRED: Any = object()


@attrs.frozen
class RetryInfo:
    """The attempt a step is in.

    ``attempts`` counts the retries made so far: 0 in the first attempt. ``elapsed_time`` is the seconds since the first
    failure, on the run's clock: 0.0 before there was one.
    """

    attempts: int
    elapsed_time: float


class RunFace(Protocol):
    """What a context needs of its run. ``invocation`` is ``None`` outside a step."""

    run_id: str
    workflow_name: str

    @property
    def ended(self) -> bool: ...

    def send(self, event: Event, step: str | None, invocation: int | None) -> None: ...

    def publish(self, event: Event, invocation: int | None) -> None: ...

    def collect(
        self, event: Event, expected: Iterable[type[Event]], buffer: str | None, invocation: int
    ) -> list[Any] | None: ...

    async def wait(
        self,
        invocation: int,
        event_type: type[Event],
        question: Event | None,
        waiter: str | None,
        requirements: dict[str, Any],
        timeout: float | None,
    ) -> Event: ...

    def write_state(self, path: tuple[str, ...], value: Any, invocation: int | None) -> bool: ...

    async def opened(self) -> None: ...

    async def written(self) -> None: ...

    def idempotency_key(self, invocation: int) -> str: ...

    def retry_info(self, invocation: int) -> RetryInfo: ...

    def now(self) -> float: ...

    def to_dict(self) -> dict[str, Any]: ...


class _Workflow(Protocol):
    """What a context needs of a workflow."""

    def state_for(self, state: Any) -> State: ...

    def dump_state(self, state: State) -> dict[str, Any]: ...

    def load_context(self, data: dict[str, Any]) -> "tuple[State, Any]": ...


class Context(Generic[S]):
    """State, events and waits of a run, as a step sees them.

    Annotate a step's parameter with ``Context``, or with ``Context[MyState]`` where ``MyState`` is an attrs class that
    holds the run's state. ``Context(workflow)`` makes one outside a run, to pass as ``workflow.run(ctx=ctx)``;
    ``state=`` gives it a state to begin with.
    """

    __flowkit_context__: ClassVar[bool] = True
    __slots__ = ("__weakref__", "_invocation", "_random", "_resume", "_run", "_state", "_workflow")

    def __init__(self, workflow: "_Workflow", *, state: S | None = None) -> None:
        self._workflow: _Workflow | None = _checked(workflow, "Context()")
        self._state: State = workflow.state_for(state)
        self._run: RunFace | None = None
        self._invocation: int | None = None
        self._resume: Any = None

    @classmethod
    def of_run(
        cls, run: RunFace, state: State, invocation: int | None = None, workflow: "_Workflow | None" = None
    ) -> Self:
        """The context of a run, or of one invocation in it. For the engine."""
        self = object.__new__(cls)
        self._workflow = workflow
        self._state = state
        self._run = run
        self._invocation = invocation
        self._resume = None
        return self

    @classmethod
    def from_dict(cls, workflow: "_Workflow", data: dict[str, Any]) -> Self:
        """A context from what `to_dict` gave: ``workflow.run(ctx=…)`` goes on from there.

        Raises:
            SerializationError: the data is damaged, belongs to another workflow, or holds a type that this workflow
                doesn't know.
        """
        self = object.__new__(cls)
        self._workflow = _checked(workflow, "Context.from_dict()")
        self._state, self._resume = workflow.load_context(data)
        self._run = None
        self._invocation = None
        return self

    def to_dict(self) -> dict[str, Any]:
        """State, and of an unfinished run everything that is under way, as plain JSON-able data.

        Its cost depends on the size of what is there now, not on how long the run has been.

        Raises:
            SerializationError: something in it can't be brought back exactly; the message says where.
        """
        if self._run is not None and not self._run.ended:
            return self._run.to_dict()
        if self._workflow is None:
            raise WrongCall(
                "to_dict", "was called on the context of a step of a run that has ended", "use handler.ctx.to_dict()"
            )
        return self._workflow.dump_state(self._state)

    # ------------------------------------------------------------------------------------------------------ state

    @property
    def store(self) -> "StateStore[S]":
        """The state by dotted path, and as a whole."""
        return StateStore(self)

    async def get(self, key: str, default: Any = _REQUIRED) -> Any:
        """The value of ``key``; ``default`` where it was never set. In a step it doesn't yield to other tasks.

        Raises:
            UnknownKey: it was never set, and no default was given (``default=None`` is one).
        """
        if self._invocation is None and self._run is not None:
            await self._run.opened()
        return self._state.read((key,)) if default is _REQUIRED else self._state.read((key,), default)

    async def set(self, key: str, value: Any) -> None:
        """Set ``key``; other steps see it at once. Waits only while another step is in ``edit_state``.

        Raises:
            StateError: the state is typed and has no such field, or this task is itself inside ``edit_state``.
        """
        await self._write((key,), value)

    async def _write(self, path: tuple[str, ...], value: Any) -> None:
        if self._invocation is None and self._run is not None:
            await self._run.opened()
        writer = self._state.writer
        if writer is not None and writer.locked():
            async with _only_writer(self._state):
                unwritten = self._put(path, value)
        else:
            unwritten = self._put(path, value)
        if unwritten and self._run is not None:
            await self._run.written()

    def _put(self, path: tuple[str, ...], value: Any) -> bool:
        """Write it; true where it has yet to reach the run's store."""
        self._state.check(path)
        if self._run is not None and not self._run.ended:
            return self._run.write_state(path, value, self._invocation)
        self._state.write(path, value)
        return False

    # ----------------------------------------------------------------------------------------------------- events

    def send_event(self, event: Event, step: str | None = None) -> None:
        """Send an event to the steps that accept it, or only to the step named ``step``.

        From a step, from outside (``handler.ctx``) and from a plain step's thread alike.

        Raises:
            RunFinished: the run has ended.
            MisdirectedEvent: there is no step of that name, or it doesn't take this event.
            WrongCall: it is no event, or no run has begun.
        """
        run = self._run or self._running("send_event")
        run.send(event, step, self._invocation)

    def write_event_to_stream(self, event: Event) -> None:
        """Show an event to those who read ``handler.stream_events()``. It goes to no step.

        Raises:
            RunFinished: the run has ended.
            WrongCall: it is no event, or no run has begun.
        """
        run = self._run or self._running("write_event_to_stream")
        run.publish(event, self._invocation)

    def collect_events(
        self, event: Event, expected: Iterable[type[Event]], buffer_id: str | None = None
    ) -> list[Any] | None:
        """Keep ``event``; give a batch once there is one event for each type in ``expected``, else ``None``.

        The batch is in the requested order, first in first out within a type; surplus stays for the next. Each step has
        a buffer of its own for each ``buffer_id``. The work per call doesn't grow with ``expected`` where the same list
        is passed each time.

        Raises:
            RunFinished: the run has ended.
            WrongCall: an argument is of the wrong type, or the step that this context belongs to has returned.
        """
        run = self._run or self._running("collect_events")
        if self._invocation is None:
            raise WrongCall("collect_events", "works only inside a step", "there, its ctx knows whose buffer is meant")
        return run.collect(event, expected, buffer_id, self._invocation)

    async def wait_for_event(
        self,
        event_type: type[E],
        waiter_event: Event | None = None,
        waiter_id: str | None = None,
        requirements: dict[str, Any] | None = None,
        timeout: float | None = None,
    ) -> E:
        """Suspend the step here until an event of this type comes; the body doesn't run again.

        While it waits the step gives its worker slot back. Several waits, one after another or side by side, each get
        their own event, the longest open first. An event that came before and that nobody took is found.

        Args:
            event_type: this type or a subclass of it.
            waiter_event: written to the stream when the wait opens: usually an `InputRequiredEvent`.
            waiter_id: names the wait within its invocation; by default its place in the order of waits.
            requirements: fields the event must have, with their values.
            timeout: seconds; ``None`` waits as long as the run lasts.

        Raises:
            WaitTimedOut: ``timeout`` seconds have passed. (A `TimeoutError`.)
            RunFinished: the run has ended.
            WrongCall: an argument can't be right, or the step that this context belongs to has returned.
        """
        run = self._running("wait_for_event")
        if self._invocation is None:
            raise WrongCall("wait_for_event", "works only inside a step", "outside, read handler.stream_events()")
        wanted = {} if requirements is None else requirements
        _check_wait(event_type, waiter_event, waiter_id, wanted, timeout)
        event = await run.wait(self._invocation, event_type, waiter_event, waiter_id, dict(wanted), timeout)
        return cast(E, event)

    def retry_info(self) -> RetryInfo:
        """How often this step was retried for this event, and for how long."""
        if self._invocation is None:
            raise WrongCall("retry_info", "works only inside a step", "there, its ctx knows whose attempts are meant")
        return self._running("retry_info").retry_info(self._invocation)

    @property
    def idempotency_key(self) -> str:
        """A string that is the same each time this step works on this event in this run, in every attempt and after
        every restart, and is no other event's. Give it to whatever must take effect once (a payment, a mail), so that
        it can tell a second time from a second order. (With ``durability="async"`` a crash may undo what led to this
        event: where it is then sent again in another order it may come with another key.)

        Raises:
            WrongCall: outside a step.
        """
        if self._invocation is None:
            raise WrongCall("idempotency_key", "is there only inside a step", "there, its ctx knows whose key is meant")
        return self._running("idempotency_key").idempotency_key(self._invocation)

    def now(self) -> datetime:
        """The time of day by the run's clock, in UTC. It never goes back within a process, and is virtual in a
        simulation (`flowkit.testing`), where ``datetime.now()`` is not."""
        seconds = outside.current().time() if self._run is None else self._run.now()
        return datetime.fromtimestamp(seconds, UTC)

    def random(self) -> Random:
        """Random numbers that are drawn anew in each run, and are the same each time this step works on this event: in
        every attempt, after every restart, and whenever a simulation is replayed. Not for secrets.
        """
        drawn: Random | None = getattr(self, "_random", None)  # set when it is first asked for
        if drawn is not None:
            return drawn
        if self._run is None:
            seed = outside.current().new_id()
        elif self._invocation is None:
            seed = self._run.run_id
        else:
            seed = self._run.idempotency_key(self._invocation)
        drawn = self._random = Random(seed)
        return drawn

    def uuid(self) -> UUID:
        """An id made of the next of `random`'s numbers, so it is the same in every attempt. Not for secrets."""
        return UUID(int=self.random().getrandbits(128), version=4)

    # ------------------------------------------------------------------------------------------------------ the run

    @property
    def run_id(self) -> str:
        """The run's id; empty before the first run."""
        return self._run.run_id if self._run is not None else ""

    @property
    def is_running(self) -> bool:
        """Whether a run of this context is under way."""
        return self._run is not None and not self._run.ended

    def _running(self, what: str) -> RunFace:
        run = self._run
        if run is None:
            raise WrongCall(what, "was called on a context that has no run yet", "start one with workflow.run(ctx=ctx)")
        if run.ended:
            raise RunFinished(run.workflow_name, what)
        return run


def _checked(workflow: "_Workflow", call: str) -> "_Workflow":
    if isinstance(workflow, type) or not hasattr(workflow, "state_for"):
        cure = f"make an instance, {workflow.__name__}(…)" if isinstance(workflow, type) else "give the workflow first"
        raise WrongCall(call, f"takes a workflow, but got {shown(workflow)}", cure)
    return workflow


def _check_wait(event_type: Any, question: Any, waiter_id: Any, requirements: Any, timeout: Any) -> None:
    call = "wait_for_event"
    if not (isinstance(event_type, type) and issubclass(event_type, Event)):
        cure = "wait for one class; those derived from it are taken too"
        raise WrongCall(call, f"takes an event class, but got {shown(event_type)}", cure)
    if issubclass(event_type, StopEvent):
        raise WrongCall(call, f"got {event_type.__name__}, but a StopEvent ends the run", "wait for another event")
    if question is not None and not isinstance(question, Event):
        cure = 'ask with an event, InputRequiredEvent(prefix="…")'
        raise WrongCall(call, f"takes an event as waiter_event, but got {shown(question)}", cure)
    if waiter_id is not None and not isinstance(waiter_id, str):
        raise WrongCall(call, f"takes a string as waiter_id, but got {shown(waiter_id)}", "write str(…)")
    if not isinstance(requirements, Mapping):
        cure = "give fields with their values, requirements={'name': …}"
        raise WrongCall(call, f"takes a dict as requirements, but got {shown(requirements)}", cure)
    given = cast("Mapping[str, Any]", requirements)
    # A typed event never gets a field that its class doesn't have, unless a class derived from it has.
    if attrs.has(event_type) and not event_type.__subclasses__():
        unknown = given.keys() - attrs.fields_dict(event_type).keys()
        if unknown:
            cure = f"it has {', '.join(attrs.fields_dict(event_type)) or 'no fields'}"
            raise WrongCall(call, f"requires {min(unknown)!r} of {event_type.__name__}, which has no such field", cure)
    number = isinstance(timeout, int | float) and not isinstance(timeout, bool)
    if timeout is not None and not (number and timeout >= 0):
        raise WrongCall(
            call, f"takes timeout in seconds, but got {shown(timeout)}", "give 0 or more, or None for no limit"
        )


class StateStore(Generic[S]):
    """A context's state by dotted path (``"user.name"``), and as a whole."""

    __slots__ = ("_ctx",)

    def __init__(self, ctx: Context[S]) -> None:
        self._ctx = ctx

    async def get(self, path: str, default: Any = _REQUIRED) -> Any:
        """The value at a dotted path. In a step it doesn't yield to other tasks.

        Raises:
            UnknownKey: there is none, and no default was given.
        """
        keys = _keys(path)
        state = await self._state()
        return state.read(keys) if default is _REQUIRED else state.read(keys, default)

    async def set(self, path: str, value: Any) -> None:
        """Set the value at a dotted path; dictionaries on the way are made.

        Raises:
            StateError: the state is typed and has no such field, or this task is itself inside `edit_state`.
        """
        await self._ctx._write(_keys(path), value)  # pyright: ignore[reportPrivateUsage]

    async def get_state(self) -> S:
        """The whole state: a dictionary, or the instance of the state's class. Not a copy; change it by
        `edit_state`."""
        return cast(S, (await self._state()).root)

    async def _state(self) -> State:
        ctx = self._ctx
        if ctx._invocation is None and ctx._run is not None:  # pyright: ignore[reportPrivateUsage] - the two are one unit
            await ctx._run.opened()  # pyright: ignore[reportPrivateUsage]
        return ctx._state  # pyright: ignore[reportPrivateUsage]

    async def set_state(self, state: S) -> None:
        """Replace the whole state.

        Raises:
            StateError: it isn't of the state's class.
        """
        kind = self._ctx._state.kind or dict  # pyright: ignore[reportPrivateUsage]
        if not isinstance(state, kind):
            raise StateError(
                f"the state of this run is a {kind.__name__}, but got {shown(state)}", "give set_state one"
            )
        await self._ctx._write((), state)  # pyright: ignore[reportPrivateUsage]

    async def clear(self) -> None:
        """Begin anew: an empty dictionary, or a fresh instance of the state's class."""
        await self._ctx._write((), State(self._ctx._state.kind).root)  # pyright: ignore[reportPrivateUsage]

    @contextlib.asynccontextmanager
    async def edit_state(self) -> AsyncGenerator[S]:
        """A draft of the state to change at will, by one writer at a time.

        Leaving the block commits what changed, at once and in full; an exception or cancellation leaves no trace.

        Raises:
            StateError: this task is already inside ``edit_state``.
        """
        ctx = self._ctx
        state = await self._state()
        async with _only_writer(state):
            draft = state.draft()
            yield draft
            unwritten = False
            for path, value in state.changes(draft):
                unwritten = ctx._put(path, value)  # pyright: ignore[reportPrivateUsage]
        if unwritten and ctx._run is not None:  # pyright: ignore[reportPrivateUsage]
            await ctx._run.written()  # pyright: ignore[reportPrivateUsage]


def _keys(path: Any) -> tuple[str, ...]:
    keys = tuple(path.split(".")) if isinstance(path, str) else ()
    if not keys or not all(keys):
        raise StateError(
            f'a path is a string like "user.name", but got {shown(path)}', "give the keys on the way, dotted"
        )
    return keys


@contextlib.asynccontextmanager
async def _only_writer(state: State) -> AsyncGenerator[None]:
    lock: anyio.Lock | None = state.writer
    if lock is None:
        lock = state.writer = anyio.Lock()
    try:
        await lock.acquire()
    except RuntimeError as error:
        raise StateError(
            "this task is already inside edit_state()", "change the draft it gave you instead of the context"
        ) from error
    try:
        yield
    finally:
        lock.release()
        if not lock.locked():
            state.writer = None  # a later run may have another event loop
