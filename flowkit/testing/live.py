"""A simulated run that is driven by hand: paused between any two instants, told things, crashed, gone on with.

`LiveRun` is one world with one process at a time, like a run of simulation.py; but nothing moves by itself. What is
ready runs when something is done to it, time moves when it is told to.
"""

import contextlib
import random
from collections.abc import Callable, Generator
from typing import Any

from flowkit import outside
from flowkit.errors import RunFinished, WrongCall
from flowkit.events import Event, InputRequiredEvent
from flowkit.handler import Handler
from flowkit.stream import Origin
from flowkit.testing.kernel import Kernel
from flowkit.testing.problems import TestingError
from flowkit.testing.run import Run
from flowkit.testing.scenario import Scenario
from flowkit.testing.scheduling import Deviating, Scheduler, Walk
from flowkit.testing.simulated_run import SimulatedRun
from flowkit.testing.simulation import DOWNTIME, RUN_ID, Problem, Simulation, Verdict, amiss, waiting
from flowkit.testing.threads import simulating
from flowkit.testing.world import SimulatedStore, World
from flowkit.workflow import share_records

__all__ = ["LiveRun"]


class LiveRun:
    """A live, paused run in virtual time. Each method returns when nothing in it can go on by itself.

    Attributes:
        now: virtual seconds since the begin.
        effects: what `flowkit.testing.effect` was called with, over all lives.
        lives: how many processes it has had.
    """

    def __init__(self, simulation: Simulation, seed: int = 0) -> None:
        self._simulation = simulation
        self._scheduler = Scheduler(Walk(seed) if seed else Deviating())
        scenario = Scenario()
        self._world = World(scenario, self._scheduler, simulation.errors, SimulatedRun)
        self._verdict = Verdict(simulation.start, Run(scenario, simulation.backend), self._world, None)
        self._kernel: Kernel | None = None
        self._handler: Handler | None = None
        self._was_cancelled = False
        self._ended = False
        self._live(0.0)

    # ------------------------------------------------------------------------------------------------ what can be done

    def send(self, event: Event, step: str | None = None, *, to: Origin | None = None) -> None:
        """Send an event into the run, as ``handler.send_event`` does.

        Raises:
            RunFinished: the run has ended.
            MisdirectedEvent: there is no step of that name, or it doesn't take this event.
        """
        if self.is_done:
            raise RunFinished(self._simulation.plan.name, f"send({type(event).__name__})")
        self._do(lambda: self._known().send_event(event, step, to=to))

    def advance(self, seconds: float) -> None:
        """Let so many virtual seconds pass.

        Raises:
            WrongCall: it isn't a number, 0 or more.
        """
        if not isinstance(seconds, int | float) or not seconds >= 0:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise WrongCall("advance()", f"got {seconds!r}", "give virtual seconds, 0 or more")
        self._go_on(self._up().now + seconds)

    def cancel(self) -> None:
        """Call ``cancel_run()``. Does nothing where the run has ended."""
        if self.is_done:
            return
        self._was_cancelled = True
        self._do(lambda: self._known().cancel_run())

    def crash_and_resume(self, downtime: float = DOWNTIME) -> None:
        """Have the process die at this very instant, and a new one go on with the run ``downtime`` virtual seconds
        later. Does nothing where the run has ended.

        Raises:
            WrongCall: the run has no store.
        """
        if not self._simulation.stored:
            raise WrongCall(
                "crash_and_resume()", "needs a run with a store", "set stored = True in the machine's class"
            )
        if self.is_done:
            return
        kernel = self._up()
        self._world.die("between two instants")
        with self._simulated(), contextlib.suppress(TestingError):
            kernel.cancel()
            kernel.go_on()
        self._forget()
        kernel.close()
        self._live(self._world.died_at + downtime)

    # -------------------------------------------------------------------------------------------- what can be looked at

    @property
    def now(self) -> float:
        """Virtual seconds since the begin."""
        return self._up().now

    @property
    def is_done(self) -> bool:
        """Whether the run has ended and cleaned up."""
        self._settled()
        return self._known().is_done()

    @property
    def result(self) -> Any:
        """The run's result.

        Raises:
            WrongCall: it hasn't ended.
            BaseException: what it ended with.
        """
        self._settled()
        return self._known().result()

    @property
    def error(self) -> BaseException | None:
        """What the run ended with, ``None`` where it has a result, or hasn't ended."""
        return self._known().exception() if self.is_done else None

    @property
    def stream(self) -> list[Event]:
        """The events it has shown; after a crash from the begin of the new process, with the questions still open."""
        self._settled()
        return list(self._world.stream)

    @property
    def questions(self) -> list[InputRequiredEvent]:
        """Those of the stream that ask something, answered or not."""
        return [event for event in self.stream if isinstance(event, InputRequiredEvent)]

    @property
    def state(self) -> Any:
        """The run's state: a dict, or the attrs object of ``Context[State]``."""
        self._settled()
        return self._world.top.machine.state.root

    @property
    def effects(self) -> list[Any]:
        """What `flowkit.testing.effect` was called with."""
        return list(self._world.effects)

    @property
    def lives(self) -> int:
        """How many processes it has had."""
        return self._world.lives

    # --------------------------------------------------------------------------------------------------------- the end

    def close(self) -> Problem | None:
        """End it, if need be by cancelling; what was wrong with it all the same."""
        if self._ended:
            return None
        self._ended = True
        kernel = self._up()
        if self._world.problem is not None:
            self._forget()
            kernel.close()
            raise self._world.problem.with_traceback(None)
        if not self._known().is_done():
            self._was_cancelled = True
            with self._simulated():
                kernel.cancel()
                ended = kernel.go_on()
        else:
            with self._simulated():
                ended = kernel.go_on()
        left = [*kernel.main_alive(), *kernel.alive()]
        self._forget()
        kernel.close()
        if self._world.problem is not None:
            raise self._world.problem.with_traceback(None)
        if not ended or left:
            return Problem("left-behind", waiting("the run was cancelled, and left behind", left, self._world))
        if kernel.unhandled:
            return Problem("unhandled", "; ".join(kernel.unhandled))
        return amiss(self._world)

    @property
    def failure(self) -> BaseException | None:
        """The error of a run that nobody has cancelled."""
        return None if self._was_cancelled else self.error

    # ----------------------------------------------------------------------------------------------------------- inside

    def _live(self, now: float) -> None:
        kernel = self._kernel = self._simulation.kernel_type(self._scheduler, now)
        self._world.begin(kernel, None, lambda: None)
        self._world.stream = []
        self._handler = None
        with self._simulated():
            kernel.start(self._main)
            kernel.go_on(now)

    async def _main(self) -> None:
        simulation = self._simulation
        workflow = simulation.make()
        kept: Any = {}
        if simulation.stored:
            share_records(workflow, simulation.first)
            kept = {"store": SimulatedStore(self._world), "run_id": RUN_ID}
        handler = self._handler = workflow.run(start_event=simulation.start, **kept)
        try:
            with contextlib.suppress(Exception):  # whoever drives it looks at its error
                await handler
        finally:
            if not simulation.is_shared:
                await workflow.aclose()

    @contextlib.contextmanager
    def _simulated(self) -> Generator[None]:
        token = outside.around.set(self._world)
        before = random.getstate()
        random.seed(self._scheduler.steps)
        try:
            with simulating(), self._simulation.watching(self._scheduler):
                yield
        finally:
            random.setstate(before)
            outside.around.reset(token)

    def _do(self, action: Callable[[], Any]) -> None:
        raised: list[Exception] = []

        def act() -> None:
            try:
                action()
            except Exception as error:  # noqa: BLE001 - it is raised where it was asked for
                raised.append(error)

        kernel = self._up()
        with self._simulated():
            kernel.call(act)
        self._go_on(kernel.now)
        if raised:
            raise raised[0]

    def _go_on(self, until: float) -> None:
        with self._simulated():
            self._up().go_on(until)
        if self._world.problem is not None:
            raise self._world.problem.with_traceback(None)

    def _settled(self) -> None:
        if self._ended:
            return
        self._go_on(self._up().now)

    def _up(self) -> Kernel:
        assert self._kernel is not None
        return self._kernel

    def _known(self) -> Handler:
        if self._handler is None:
            raise RunFinished(self._simulation.plan.name, "a simulated run")
        return self._handler

    def _forget(self) -> None:
        self._world.forget()
