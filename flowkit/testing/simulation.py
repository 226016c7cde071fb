"""Running a workflow once, in a simulation: the same scenario, the same run.

`Simulation.run` makes a world, and lives one process in it, or one more for each crash. A process makes the workflow
anew (where it can), starts the run, answers its questions, waits for its end, and closes the workflow. What was wrong
with it apart from any property is in the `Verdict`: all tasks blocked, something left behind, an event changed or never
taken, an error that nobody asked for.

After a crash the next process begins `DOWNTIME` seconds later.
"""

import asyncio
import contextlib
import inspect
import logging
import random
import sys
import threading
from collections.abc import Callable, Generator, Iterator, Mapping
from typing import Any, cast

import anyio
import attrs

from flowkit import outside
from flowkit.errors import RunFinished, UnhandledEventWarning, WorkflowCancelled, WorkflowStalled, WrongCall, shown
from flowkit.events import Event, InputRequiredEvent, StartEvent
from flowkit.handler import Handler
from flowkit.performer import logger
from flowkit.storage_errors import RunSuspended, StoreError
from flowkit.testing.kernel import Alive, Kernel, Stuck
from flowkit.testing.problems import TestingError
from flowkit.testing.run import Run
from flowkit.testing.scenario import STORE, Backend, Scenario
from flowkit.testing.scheduling import Scheduler
from flowkit.testing.simulated_run import SimulatedRun
from flowkit.testing.threads import Watching, installed, simulating, watched
from flowkit.testing.trace import TracingScheduler, plain_name
from flowkit.testing.world import Errors, SimulatedStore, World
from flowkit.workflow import Workflow, check_wiring, plan_of, share_records

__all__ = ["Answer", "Flow", "Problem", "Simulation", "Verdict", "amiss", "waiting"]

Flow = "type[Workflow] | Workflow | Callable[[], Workflow]"
Answer = Callable[[Any], "Event | None"]

DOWNTIME = 1.0
"""Virtual seconds between a crash and the next process."""

TRIES = 3
"""How often a process goes on with a run that its store has failed."""

RUN_ID = "run"

_ENDED = (WorkflowCancelled, RunSuspended)
"""What a run that was cancelled ends with."""


@attrs.frozen
class Problem:
    """Something that shouldn't be: its ``kind``, in a word, and what exactly."""

    kind: str
    text: str


@attrs.define(eq=False)
class Verdict:
    """A simulated run, and what was wrong with it; the ``world`` has all that happened."""

    start: Event
    run: Run
    world: World
    problem: Problem | None
    again: Run | None = None
    """The run that came after a cancelled one, on the same workflow."""


def _kernel_type(backend: Backend) -> type[Kernel]:
    """The kernel for a backend."""
    if backend == "asyncio":
        from flowkit.testing.asyncio_kernel import AsyncioKernel

        return AsyncioKernel
    try:
        from flowkit.testing.trio_kernel import TrioKernel
    except ModuleNotFoundError as error:
        raise TestingError("trio isn't installed", 'install it, or simulate on asyncio (backend="asyncio")') from error
    return TrioKernel


class Simulation:
    """A workflow and its start event, to be run in as many scenarios as one likes.

    Args:
        flow: the workflow's class, or what makes one: then each process has its own. An instance serves them all.
        start: the start event, or a dict of its fields.
        answer: what to answer to an event that the run shows as a question; ``None``: nothing.
        errors: what the steps may raise, for faults.
        stored: whether runs have a store. They have where a scenario crashes, or has faults of the store.
        late: the start event comes later (`with_start`).
        again: whether the workflow is run once more after a run that was cancelled.

    Raises:
        WrongCall: an argument is of the wrong type.
        InvalidWorkflow: its wiring has faults.
    """

    def __init__(
        self,
        flow: Any,
        start: Any,
        *,
        answer: Answer | None = None,
        errors: Errors | None = None,
        backend: Backend = "asyncio",
        stored: bool = False,
        again: bool = False,
        call: str = "simulate()",
        late: bool = False,
    ) -> None:
        self.make = maker_of(flow, call)
        check_answer(call, answer)
        self.call = call
        self.is_shared = isinstance(flow, Workflow)
        self.is_drawn = late
        self.answer = answer
        self.errors = errors or {}
        self.backend: Backend = backend
        self.stored = stored
        self.again = again
        self._watching: Watching | None = None
        workflow = self.first = self.make()
        if not isinstance(workflow, Workflow):  # pyright: ignore[reportUnnecessaryIsInstance]
            if inspect.iscoroutine(workflow):
                workflow.close()
            raise WrongCall(call, f"was given a flow that makes {shown(workflow)}", "let it return a workflow")
        check_wiring(workflow)
        self.plan = plan_of(workflow)
        self.start: Event = StartEvent() if late else start_of(self.plan.start_type, start, call)
        if self.errors:
            unknown = [name for name in self.errors if self.plan.step(name) is None]
            if unknown:
                has = ", ".join(step.name for step in self.plan.steps)
                raise WrongCall(
                    "faults()", f"names {unknown[0]!r}, which is no step of {self.plan.name}", f"it has {has}"
                )

    def with_start(self, start: Event) -> "Simulation":
        """The same with another start event."""
        other = object.__new__(Simulation)
        other.__dict__.update(self.__dict__)
        other.start = start
        return other

    def on(self, backend: Backend) -> "Simulation":
        """The same on another backend; to be opened."""
        other = object.__new__(Simulation)
        other.__dict__.update(self.__dict__)
        other.backend = backend
        return other

    @contextlib.contextmanager
    def opened(self) -> Generator[None]:
        """Have what simulations need of this thread, for as long as this lasts.

        Raises:
            WrongCall: an event loop runs here, or a simulation.
        """
        _check_no_loop(self.call)
        self.kernel_type = _kernel_type(self.backend)  # imported now: a simulation may not do all that importing does
        before = random.getstate()
        mute = _Mute()
        logger.addFilter(mute)
        with installed(), watched() as self._watching:
            try:
                yield
            finally:
                self._watching = None
                random.setstate(before)
                logger.removeFilter(mute)

    def watching(self, scheduler: Scheduler) -> contextlib.AbstractContextManager[None]:
        """Watch what runs in here, so that it doesn't block. Only inside `opened`."""
        assert self._watching is not None
        return self._watching(scheduler)

    # ------------------------------------------------------------------------------------------------------ one run

    def run(self, scenario: Scenario, scheduler: Scheduler | None = None) -> Verdict:
        """One run. Only inside `opened`.

        Raises:
            TestingError: the simulation can't do what the workflow asked of it.
        """
        __tracebackhide__ = True
        scheduler = Scheduler(scenario.make_policy()) if scheduler is None else scheduler
        world = World(scenario, scheduler, self.errors, SimulatedRun)
        run = Run(scenario, self.backend)
        verdict = Verdict(self.start, run, world, None)
        random.seed(0)
        token = outside.around.set(world)
        try:
            with self.watching(scheduler), simulating():
                now, crashes = 0.0, list(scenario.crashes)
                while True:
                    now = self._live(verdict, now, crashes.pop(0) if crashes else None)
                    if not world.dead:
                        break
                    now += DOWNTIME
            if world.problem is not None:
                raise world.problem.with_traceback(None)
        except BaseException:
            world.close()
            raise
        finally:
            outside.around.reset(token)
        world.describe(run if verdict.again is None else verdict.again)
        run.lives, run.duration = world.lives, now
        verdict.problem = verdict.problem or self._judged(verdict)
        world.close()
        return verdict

    def _live(self, verdict: Verdict, now: float, crash_at: int | None) -> float:
        """One process, from begin to end; its last moment."""
        world, scenario = verdict.world, verdict.run.scenario
        world.scheduler.progress()
        kernel = self.kernel_type(world.scheduler, now)
        process = _Process(self, verdict, kernel)
        world.begin(kernel, crash_at, process.cut)
        if isinstance(world.scheduler, TracingScheduler):
            world.scheduler.kernel = kernel
        world.stream = []
        if scenario.cancel is not None and world.lives == 1:
            world.scheduler.at(scenario.cancel.step, process.cancel)
        try:
            kernel.run(process.main)
        except Stuck as stuck:
            if not world.dead:
                verdict.problem = Problem("deadlock", _deadlock(stuck, world))
        except TestingError as problem:
            world.note(problem)
        except Exception as error:  # noqa: BLE001 - the run's, for its property to look at
            if not world.dead:
                verdict.run.error = error
        except BaseException as error:
            if not world.dead or isinstance(error, KeyboardInterrupt):
                kernel.close()
                raise
        if world.dead:
            world.forget()
        left = [] if world.dead or verdict.problem is not None else kernel.alive()
        kernel.close()
        if left:
            verdict.problem = Problem("left-behind", waiting("the run has ended, and has left behind", left, world))
        elif kernel.unhandled and not world.dead:
            verdict.problem = verdict.problem or Problem("unhandled", "; ".join(kernel.unhandled))
        return world.died_at if world.dead else kernel.now

    # ----------------------------------------------------------------------------------------------------- judgement

    def _judged(self, verdict: Verdict) -> Problem | None:
        """What is wrong with a run, whatever it was to do."""
        world, run = verdict.world, verdict.run
        problem = amiss(world)
        if problem is not None:
            return problem
        for warning in run.warnings:
            kind = "lost-event" if isinstance(warning, UnhandledEventWarning) else "warning"
            return Problem(kind, str(warning))
        error = run.error
        if error is None or self._is_expected(verdict, error):
            return None
        if isinstance(error, WorkflowStalled):
            return Problem("stalled", str(error))
        if isinstance(error, _ENDED):
            return Problem("clean-up-failed", str(error))
        return Problem("step-failed", str(error) or type(error).__name__)

    def _is_expected(self, verdict: Verdict, error: BaseException) -> bool:
        """Whether an error is what was done to the run, and no finding."""
        world, scenario = verdict.world, verdict.run.scenario
        late = any(fault.seconds for fault in scenario.faults)

        def was_injected(error: BaseException) -> bool:
            return any(
                any(one is injected for injected in world.injected) or (late and isinstance(one, TimeoutError))
                for one in _chain(error)
            )

        if verdict.run.cancelled and isinstance(error, _ENDED):
            return all(map(was_injected, error.others))
        return was_injected(error)


def amiss(world: World) -> Problem | None:
    """What is wrong in a world, however its run went."""
    changed = world.sent.changed()
    if changed:
        return Problem("changed-event", f"{shown(changed[0], 300)} isn't what it was when it was sent")
    called = world.calls.total() - world.calls[STORE]
    if called > world.attempts:
        return Problem("doubled-event", f"{called} calls of steps were made, {world.attempts} were asked for")
    if world.logged and not any(fault.kind == "full" for fault in world.scenario.faults):
        return Problem("unhandled", "\n".join(world.logged))
    return None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    todo = [error]
    while todo:
        one = todo.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        todo += [one.__cause__, one.__context__]
        if isinstance(one, BaseExceptionGroup):
            todo += cast("BaseExceptionGroup[BaseException]", one).exceptions


class _Process:
    """One life of a run: what its main task does."""

    def __init__(self, simulation: Simulation, verdict: Verdict, kernel: Kernel) -> None:
        self._simulation = simulation
        self._verdict = verdict
        self._kernel = kernel
        self._scope: anyio.CancelScope | None = None
        self._all: anyio.CancelScope | None = None
        self._handler: Handler | None = None

    def cut(self) -> None:
        """The process crashes."""
        if self._all is not None:
            self._kernel.call(self._all.cancel)

    def cancel(self) -> None:
        """Cancel the run, as its scenario says."""
        cancel = self._verdict.run.scenario.cancel
        assert cancel is not None
        self._kernel.call(self._cancel_run if cancel.how == "run" else self._cancel_scope)

    def _cancel_scope(self) -> None:
        if self._scope is not None:
            self._verdict.world.happened("cancel", "its scope was cancelled")
            self._scope.cancel()

    def _cancel_run(self) -> None:
        if self._handler is not None:
            self._verdict.world.happened("cancel", "cancel_run() was called")
            _ = self._handler.cancel_run()

    async def main(self) -> None:
        simulation, verdict = self._simulation, self._verdict
        workflow = self._made()
        if simulation.stored or verdict.run.scenario.crashes:
            share_records(workflow, simulation.first)
        with anyio.CancelScope() as self._all:
            try:
                await self._go(workflow)
                if simulation.again and verdict.run.cancelled:
                    verdict.world.describe(verdict.run)
                    verdict.world.top = None
                    verdict.again = Run(verdict.run.scenario, simulation.backend)
                    await self._take_part(verdict.again, workflow.run(start_event=simulation.start))
            finally:
                if not simulation.is_shared:
                    await workflow.aclose()

    def _made(self) -> Workflow:
        try:
            return self._simulation.make()
        except Exception as error:
            problem = TestingError(
                f"what makes the workflow raised {shown(error)}, after it had made one", "let it make one for each run"
            )
            self._verdict.world.note(problem.with_cause(error))
            raise

    async def _go(self, workflow: Workflow) -> None:
        simulation, verdict = self._simulation, self._verdict
        scenario, run = verdict.run.scenario, verdict.run
        stored = simulation.stored or bool(scenario.crashes)
        for attempt in range(TRIES):
            kept: Any = {"store": SimulatedStore(verdict.world), "run_id": RUN_ID} if stored else {}
            verdict.world.top = None
            handler = self._handler = workflow.run(start_event=simulation.start, **kept)
            with anyio.CancelScope() as self._scope:
                await self._take_part(run, handler)
            self._scope = None
            if self._all is not None and self._all.cancel_called:
                return
            if handler.is_done():
                run.error = handler.exception()
            run.cancelled = scenario.cancel is not None and not run.has_result
            failed = isinstance(run.error, StoreError) and not run.cancelled
            if not failed or attempt == TRIES - 1:
                return

    async def _take_part(self, run: Run, handler: Handler) -> None:
        """Answer the run's questions until it ends."""
        answer = self._simulation.answer
        if answer is None:
            await _finish(run, handler)
            return
        with contextlib.suppress(RunSuspended):
            async with handler:
                events = handler.stream_events()
                async for event in events:
                    if isinstance(event, InputRequiredEvent) and (reply := self._answered(answer, event)) is not None:
                        with contextlib.suppress(RunFinished, WrongCall):  # it came too late, as answers may
                            handler.send_event(reply, to=events.origin)
                await _finish(run, handler)

    def _answered(self, answer: Answer, question: Event) -> Event | None:
        try:
            reply: Any = answer(question)
        except Exception as error:
            problem = TestingError(
                f"answer raised {shown(error)} when it was asked {shown(question)}",
                "let it return the event to send back, or None",
            )
            self._verdict.world.note(problem.with_cause(error))
            raise
        if reply is None or isinstance(reply, Event):
            return reply
        problem = TestingError(
            f"answer returned {shown(reply)} when it was asked {shown(question)}",
            "let it return the event to send back, or None",
        )
        self._verdict.world.note(problem)
        raise problem


async def _finish(run: Run, handler: Handler) -> None:
    try:
        run.value = await handler
        run.error = None
    except Exception as error:  # noqa: BLE001 - it is part of how the run went
        run.error = error


# ------------------------------------------------------------------------------------------------------- what is given


def maker_of(flow: Any, call: str) -> Callable[[], Workflow]:
    """What makes the workflow.

    Raises:
        WrongCall: this can't.
    """
    if isinstance(flow, Workflow):
        return lambda: flow
    anything: Any = flow  # pyright: ignore[reportUnknownVariableType]
    if callable(anything) and not (isinstance(flow, type) and not issubclass(flow, Workflow)):
        _check_needs_nothing(anything, call)
        return anything  # type: ignore[no-any-return]
    cure = "give a workflow's class, an instance, or a function that makes one"
    raise WrongCall(call, f"takes a workflow as flow, but got {shown(flow)}", cure)


def _check_needs_nothing(make: Callable[..., Any], call: str) -> None:
    try:
        parameters = inspect.signature(make).parameters.values()
    except (TypeError, ValueError):  # it tells nobody
        return
    variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    needed = [one.name for one in parameters if one.default is one.empty and one.kind not in variable]
    if needed:
        name = getattr(make, "__name__", shown(make))
        given = ", ".join(f"{one}=…" for one in needed)
        raise WrongCall(
            call,
            f"makes the workflow anew for each run, and {name} needs {', '.join(map(repr, needed))}",
            f"give a function that makes one, `lambda: {name if name.isidentifier() else 'Flow'}({given})`",
        )


def check_answer(call: str, answer: Any) -> None:
    """See that this can answer.

    Raises:
        WrongCall: it can't.
    """
    if answer is not None and (not callable(answer) or inspect.iscoroutinefunction(answer)):
        problem = f"takes a plain function of a question as answer, but got {shown(answer)}"
        raise WrongCall(call, problem, "write `lambda question: Answer(…)`")


def _check_no_loop(call: str) -> None:
    if isinstance(outside.current(), World):
        problem, cure = "was called inside a simulated run", "call it from the test"
    elif is_loop_running():
        problem = "was called where an event loop runs, and has its own"
        cure = "call it from a plain function, `def test_…`"
    else:
        return
    raise WrongCall(call, problem, cure)


def is_loop_running() -> bool:
    """Whether this thread is in the middle of running an event loop."""
    trio: Any = sys.modules.get("trio")
    if trio is not None and trio.lowlevel.in_trio_run():
        return True
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def start_of(kind: type[Event], given: Any, call: str) -> Event:
    """The start event that was given, or the one of these fields."""
    if isinstance(given, kind):
        return given
    if given is None or isinstance(given, Mapping):
        return kind(**cast("Mapping[str, Any]", given or {}))
    raise WrongCall(
        call,
        f"takes a {kind.__name__} as start, or a dict of its fields, but got {shown(given)}",
        f"build one, {kind.__name__}(…)",
    )


def _deadlock(stuck: Stuck, world: World) -> str:
    head = f"nothing can ever happen any more: all tasks are blocked after {stuck.now:g} s, and no timer is set"
    return waiting(head, stuck.tasks, world)


def waiting(head: str, tasks: list[Alive], world: World) -> str:
    """Who waits where: those that wait in the author's own lines, if there are any."""
    who = world.who()
    own = [one for one in tasks if not one.place.startswith("(")]
    told = [f"  {who.get(one.number, plain_name(one.name))} waits at {one.place}" for one in own or tasks]
    return "\n".join([head, *told])


class _Mute(logging.Filter):
    """Has errors that are logged in a simulated process be findings. What one logs after it has crashed, or when what
    is
    left of it is collected, is nobody's concern."""

    def __init__(self) -> None:
        super().__init__()
        self._thread = threading.get_ident()

    def filter(self, record: logging.LogRecord) -> bool:
        world = outside.current()
        if isinstance(world, World):
            if not world.dead and record.levelno >= logging.ERROR:
                world.logged.append(record.getMessage())
            return False
        return record.thread != self._thread
