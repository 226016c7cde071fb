"""`Handler`: what the caller of ``workflow.run()`` holds.

Three ways to own a run, decided by what is done with the handler:

* ``await handler`` before the loop's next turn: the run is driven inside the awaiting task.
* ``async with handler``: a task group that belongs to the block drives it; leaving the block ends it.
* anything else: in the loop's next turn a supervised task takes it (backend.py). Then awaiting the handler waits for
  that task, and cancelling the awaiter cancels the run and waits for its clean-up.

A run of a runtime is owned by that instead: it goes on whatever becomes of its handlers.

The handler refers to the run, never the other way round: so a handle that was dropped is noticed by its finaliser.
"""

import contextlib
import functools
import logging
import math
import warnings
from collections.abc import Awaitable, Callable, Generator
from types import TracebackType
from typing import Any, Self

import anyio
from anyio.abc import TaskGroup

from flowkit.backend import Backend, uninterrupted
from flowkit.context import Context
from flowkit.errors import WorkflowCancelled, WrongCall, shown
from flowkit.events import Event
from flowkit.notebooks import InNotebooks
from flowkit.performer import first_of
from flowkit.recent import Recent
from flowkit.runner import Run
from flowkit.storage_errors import RunSuspended
from flowkit.stream import Origin, Reader

__all__ = ["Handler"]

logger = logging.getLogger("flowkit")


def _begin(
    run: Run,
    start: Event | None,
    backend: Backend,
) -> None:
    """The loop's next turn has come and nobody has claimed the run: it is a background run, in this context."""
    if not run.claimed:
        run.claimed = run.supervised = True
        run.guarded = backend.name == "trio"
        if not run.enlist():
            return
        drive = functools.partial(run.drive, start)
        backend.supervise(drive, f"flowkit run of {run.workflow_name}", run.lost)


class Handler(InNotebooks):
    """A run: await it for its result, read its events, answer its questions, step it or cancel it.

    Made by ``Workflow.run()``.
    """

    __slots__ = (
        "__weakref__",
        "_backend",
        "_ctx",
        "_delivered",
        "_group",
        "_run",
        "_start",
        "_take_back",
        "_workflow",
    )

    def __init__(
        self,
        run: Run,
        start: Event | None,
        ctx: Context[Any] | None,
        backend: Backend,
        workflow: Any,
    ) -> None:
        self._run = run
        self._start = start
        self._ctx = ctx
        self._workflow = workflow
        self._backend = backend
        self._delivered = False
        self._group: TaskGroup | None = None
        self._take_back = backend.postpone(_begin, run, start, backend)

    # ------------------------------------------------------------------------------------------------------ waiting

    def __await__(self) -> Generator[Any, Any, Any]:
        """The run's result.

        Raises:
            StepFailed: a step failed for good.
            WorkflowTimeoutError: the run took too long.
            WorkflowStalled: it came to rest and could never end.
            WorkflowCancelledByUser: `cancel_run` was called.
            WorkflowCancelled: whoever owned it went away.
            RunSuspended: likewise, but the run has a store, and goes on from there.
            StoreError: its store failed it (see storage_errors.py for what else a stored run may raise).
        """
        return self._outcome().__await__()

    @uninterrupted
    async def _outcome(self) -> Any:
        run = self._run
        if run.machine.stepwise or run.log is not None:  # a stored one may have begun stepwise
            run.run_freely()
        try:
            if not run.claimed:
                self._claim()
                await run.drive(self._start)
            else:
                await self._join()
        except BaseException:
            # Whoever was cancelled while awaiting it knows why it was: that is no failure to report.
            self._delivered = self._delivered or isinstance(run.error, WorkflowCancelled | RunSuspended)
            raise
        return self._deliver()

    def claim(self) -> tuple[Run, Callable[[], Awaitable[None]]]:
        """Take the run over, for a runtime; what drives it."""
        self._claim()
        return self._run, functools.partial(self._run.drive, self._start)

    def is_of(self, run: Run) -> bool:
        """Whether it is a handle to this run."""
        return self._run is run

    @property
    def workflow_name(self) -> str:
        """The workflow's name."""
        return self._run.workflow_name

    @property
    def recent(self) -> Recent | None:
        """What is remembered of the run, until its workflow begins another."""
        return self._run.recent

    async def come_up(self) -> None:
        """Wait until the run has begun, and that is stored; of one that has ended before, until it is read.

        Raises:
            WorkflowError: it could not be read, or its start could not be stored.
        """
        run = self._run
        await run.come_up()
        if run.settled and run.is_suspended:
            self._deliver()

    def _launch(self) -> None:
        """Begin in the background now."""
        self._take_back()
        _begin(self._run, self._start, self._backend)

    def _claim(self) -> None:
        self._run.claimed = True
        self._run.deadline = math.inf  # the scope it was started in is around its driver now
        self._take_back()

    async def _join(self) -> None:
        run = self._run
        if run.hosted:
            await run.join()
            return
        try:
            await run.join()
        except BaseException:
            run.cancel("the task that awaited it was cancelled")
            while not run.settled:  # asyncio's own Task.cancel() heeds no shield, and may come again
                with contextlib.suppress(anyio.get_cancelled_exc_class()), anyio.CancelScope(shield=True):
                    await run.join()
            raise

    def _deliver(self) -> Any:
        self._delivered = True
        if self._run.warnings:
            self.warn()
        if self._run.error is not None:
            raise self._run.error.with_traceback(None)
        return self._run.result

    def warn(self) -> None:
        """Give the run's warnings, once."""
        if self._run.warnings:
            noted, self._run.warnings = self._run.warnings, None
            for warning in noted:
                warnings.warn(warning, stacklevel=4)

    # -------------------------------------------------------------------------------------------------------- block

    @uninterrupted
    async def __aenter__(self) -> Self:
        if self._run.claimed:
            hosted = self._run.hosted
            raise WrongCall(
                "async with handler:",
                "this run belongs to its runtime" if hosted else "this run has begun already",
                "await the handler" if hosted else "write `async with workflow.run(…) as handler:` in one go",
            )
        self._claim()
        self._run.guarded = self._backend.name == "trio"
        group = anyio.create_task_group()
        await group.__aenter__()
        self._group = group
        group.start_soon(self._run.drive, self._start)
        return self

    @uninterrupted
    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        group, self._group = self._group, None
        assert group is not None
        run = self._run
        if error is not None:
            run.cancel(f"its block was left by {type(error).__name__}")
            cancelled = isinstance(error, anyio.get_cancelled_exc_class())
            try:
                if cancelled:
                    return await _leave(group, kind, error, traceback)
                await _leave(group, None, None, None)
            finally:
                self._delivered = self._delivered or isinstance(run.error, WorkflowCancelled | RunSuspended)
            return None
        try:
            if run.machine.stepwise:
                run.run_freely()
            await run.settle()
            if not run.settled and run.log is not None:
                await run.log.written()
            if not run.settled:
                run.cancel(
                    "its block was left while it waited for somebody outside; answer inside the block, "
                    "or keep the handle"
                )
        except BaseException as late:
            await _leave(group, type(late), late, late.__traceback__)
            raise
        await _leave(group, None, None, None)
        if run.error is not None and not self._delivered:
            self._deliver()
        return None

    # ------------------------------------------------------------------------------------------------------- events

    @property
    def ctx(self) -> Context[Any]:
        """The run's context: its state, and ``send_event`` from outside. Pass it to ``run(ctx=…)`` to go on from it."""
        if self._ctx is None:
            self._ctx = Context.of_run(self._run, self._run.machine.state, workflow=self._workflow)
        return self._ctx

    @property
    def run_id(self) -> str:
        """The run's id."""
        return self._run.run_id

    def stream_events(self, *, from_start: bool = False) -> Reader:
        """The events the run shows, ending after its `StopEvent` or its failure (which ``await handler`` raises).

        An iterator, not a generator: leave it when you like. A new one begins where the furthest reader so far has
        come, or at the oldest event kept with ``from_start``. One that fell behind the log's bound gets a `StreamGap`.
        Its ``origin`` says from which nested run the last event came.
        """
        return Reader(self._run.stream, 0 if from_start else self._run.stream.furthest, self)

    def send_event(self, event: Event, step: str | None = None, *, to: Origin | None = None) -> None:
        """Send an event into the run, as ``handler.ctx.send_event`` does; ``to`` the nested run a question came from.

        It is sent at once; where the run has a store, `stored` waits until it is there.

        Raises:
            RunFinished: the run has ended.
            MisdirectedEvent: there is no step of that name, or it doesn't take this event.
        """
        if to is not None and not isinstance(to, Origin):  # pyright: ignore[reportUnnecessaryIsInstance]
            cure = "give the reader's `origin`, read when the question came"
            raise WrongCall("send_event", f"takes an Origin as to, but got {shown(to)}", cure)
        run = self._run if to is None else self._run.nested(to.run_id)
        run.send(event, step, None)

    async def stored(self) -> None:
        """Wait until a run with a store has all of it there that has happened so far: once this returns, no crash can
        lose an event that was sent before. At once where the run has no store. Cancelling it changes nothing.

        Raises:
            StoreError: it could not be stored.
            LeaseLost: another process has taken the run over.
        """
        run = self._run
        await run.come_up()
        if not run.begun and run.error is not None:
            raise run.error.with_traceback(None)
        for log in run.records():
            await log.written()

    # ----------------------------------------------------------------------------------------------------- stepwise

    async def run_step(self) -> list[Event]:
        """In a ``run(stepwise=True)``: let every ready step run to its end once; the events they produced.

        Send back those that shall go on, by ``handler.ctx.send_event``; the others are dropped. An empty list means
        that nothing is left to do: the run has ended, or waits for somebody outside. Awaiting the handler runs the
        rest freely. In a run that goes on from its store the first call gives what was held back, and runs nothing.

        Raises:
            WrongCall: the run isn't stepwise.
        """
        run = self._run
        if not run.machine.stepwise:
            raise WrongCall("run_step()", "needs a stepwise run", "start it with run(stepwise=True)")
        if not run.claimed:
            self._launch()
        return await run.step()

    # --------------------------------------------------------------------------------------------------------- ends

    def cancel_run(self) -> Awaitable[None]:
        """Cancel the run at once. Awaiting what this returns waits for its clean-up.

        ``await handler`` then raises `WorkflowCancelledByUser`. Does nothing where the run has ended.
        """
        run = self._run
        run.cancel("cancel_run() was called", by_user=True)
        if not run.claimed:
            self._launch()
        self._delivered = True  # whoever cancels it knows how it ended
        return _Settled(run)

    def is_done(self) -> bool:
        """Whether the run has ended and cleaned up."""
        return self._run.settled

    done = is_done

    def exception(self) -> BaseException | None:
        """The error the run ended with, ``None`` where it has a result.

        Raises:
            WrongCall: it hasn't ended.
        """
        if not self._run.settled:
            raise WrongCall("exception():", "the run has not ended", "await the handler first")
        self._delivered = True
        return self._run.error

    def result(self) -> Any:
        """The run's result, like ``await handler`` where the run has ended.

        Raises:
            WrongCall: it hasn't ended.
            WorkflowRuntimeError: it ended with this error.
        """
        if not self._run.settled:
            raise WrongCall("result():", "the run has not ended", "await the handler instead")
        return self._deliver()

    def __repr__(self) -> str:
        run = self._run
        status = "running" if not run.settled else "failed" if run.error is not None else "done"
        return f"<Handler of {run.workflow_name} run {run.run_id}: {status}>"

    def __del__(self) -> None:
        try:
            run = self._run
            take_back = self._take_back
        except AttributeError:  # the constructor failed
            return
        if not run.claimed:
            run.claimed = run.settled = True
            take_back()
            # Where it was dropped in another thread, it may be beginning at this very moment.
            self._backend.from_anywhere(functools.partial(run.cancel, "its handle was dropped"))
            if run.turn is not None:
                self._backend.from_anywhere(run.turn.leave)
            warnings.warn(
                f"a run of {run.workflow_name} was never begun: await the handler, or keep it.",
                ResourceWarning,
                stacklevel=2,
            )
        elif run.hosted and not run.ended:
            pass  # it goes on without
        elif not run.ended:
            # First of all, as the warning may be an error.
            self._backend.from_anywhere(functools.partial(run.cancel, "its handle was dropped"))
            what = "cancelled" if run.log is None else "suspended"
            warnings.warn(
                f"the handle of a run of {run.workflow_name} was dropped, so the run is {what}: await the handler, "
                "or keep it.",
                ResourceWarning,
                stacklevel=2,
            )
        elif run.warnings:
            self.warn()
        elif run.hosted and run.is_suspended:
            pass  # it is in its store, and its runtime knows why
        elif run.was_over:
            pass  # it was reported then
        elif not self._delivered and (error := run.error or run.machine.outcome.error):  # type: ignore[union-attr]
            logger.error("a run of %s failed and nobody awaited it", run.workflow_name, exc_info=error)


async def _leave(
    group: TaskGroup, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
) -> bool | None:
    try:
        return await group.__aexit__(kind, error, traceback)
    except BaseExceptionGroup as several:
        raise first_of(several) from None  # Ctrl-C came while it was waited for


class _Settled:
    """Awaits a run's clean-up."""

    __slots__ = ("_run",)

    def __init__(self, run: Run) -> None:
        self._run = run

    def __await__(self) -> Generator[Any, Any, None]:
        return self._run.join().__await__()
