"""Hypothesis' stateful testing of a live run: its rules are plain, synchronous methods, the run is paused between them.

class Approval(testing.WorkflowMachine):
    flow = ApprovalFlow
    start = Ask(amount=100)

    @rule(answer=testing.events(Approve))
    def approve(self, answer):
        self.sim.send(answer)

    @rule(seconds=floats(0, 3600))
    def wait(self, seconds):
        self.sim.advance(seconds)

    @rule()
    def crash(self):
        self.sim.crash_and_resume()

    @invariant()
    def never_paid_twice(self):
        assert self.sim.effects.count("paid") <= 1

TestApproval = Approval.TestCase
"""

import contextlib
import functools
from collections.abc import Callable
from typing import Any, ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant

from flowkit.errors import WrongCall
from flowkit.testing.exploring import check_choice
from flowkit.testing.live import LiveRun
from flowkit.testing.scenario import Backend
from flowkit.testing.settings import defaults
from flowkit.testing.simulation import Simulation, start_of

__all__ = ["WorkflowMachine"]


class WorkflowMachine(RuleBasedStateMachine):
    """A Hypothesis state machine around a live run, `sim` (`flowkit.testing.live.LiveRun`).

    Schedules are drawn, too: the simplest is run-to-block. After each rule the run must not have failed, unless with
    one of the ``expected`` errors or because a rule cancelled it. At the end it is cancelled, and must leave nothing
    behind.

    Attributes:
        flow: the workflow's class, or a function that makes one.
        start: the start event, a dict of its fields, or a Hypothesis strategy of either.
        stored: whether the run has a store, so that it can crash and go on.
        backend: "asyncio" or "trio".
        expected: errors that the run may end with.
    """

    flow: ClassVar[Any]
    start: ClassVar[Any] = None
    stored: ClassVar[bool] = True
    backend: ClassVar[Backend] = "asyncio"
    expected: ClassVar[tuple[type[BaseException], ...]] = ()

    _made: ClassVar[tuple[tuple[Any, ...], Simulation]]
    __test__ = False

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "teardown" in cls.__dict__:  # else one that doesn't call this one would leave the simulation open
            cls.teardown = _ending(cls.teardown)  # type: ignore[assignment, method-assign]

    def __init__(self) -> None:
        super().__init__()
        kind = type(self)
        if not hasattr(kind, "flow"):
            raise WrongCall(kind.__name__, "has no workflow", "write flow = YourFlow in the class")
        chosen = defaults.backend
        backend: Backend = kind.backend if chosen is None or chosen == "both" else chosen
        check_choice(kind.__name__, "backend", backend, ("asyncio", "trio"))
        late = _is_strategy(kind.start)
        given = (kind.flow, kind.start, kind.stored, backend)
        made = kind.__dict__.get("_made")  # the simulation of the example before: a third of the time of a short one
        if made is None or any(one is not other for one, other in zip(made[0], given, strict=True)):
            simulation = Simulation(
                kind.flow,
                None if late else kind.start,
                backend=backend,
                stored=kind.stored,
                call=kind.__name__,
                late=late,
            )
            made = kind._made = given, simulation
        self._simulation = made[1]
        self._stack = contextlib.ExitStack()
        self._stack.enter_context(self._simulation.opened())
        self._sim: LiveRun | None = None

    @property
    def sim(self) -> LiveRun:
        """The live run.

        Raises:
            WrongCall: in a rule under ``@initialize`` where the start event is drawn: it may not have been yet.
        """
        if self._sim is None:
            if self._simulation.is_drawn:
                raise WrongCall(
                    f"{type(self).__name__}.sim",
                    "was asked for before its start event was drawn, in a rule under @initialize",
                    "use it in rules and invariants, or give a start event that isn't drawn",
                )
            self._sim = LiveRun(self._simulation)
        return self._sim

    @initialize(data=st.data(), seed=st.integers(0, 1_000))
    def begin(self, data: st.DataObject, seed: int) -> None:
        """Begin, with a start event and a schedule that are drawn."""
        if self._sim is not None:
            return
        simulation = self._simulation
        start: Any = type(self).start
        if _is_strategy(start):
            drawn = data.draw(start, label="start")
            simulation = simulation.with_start(start_of(simulation.plan.start_type, drawn, type(self).__name__))
        self._sim = LiveRun(simulation, seed)

    @invariant()
    def has_not_failed(self) -> None:
        """The run has not failed."""
        if self._sim is None:
            return
        failure = self._sim.failure
        if failure is not None and not isinstance(failure, self.expected):
            raise AssertionError(f"the run has failed: {failure}") from failure

    def teardown(self) -> None:
        """End the run. Where it is overridden, this comes afterwards."""
        try:
            problem = None if self._sim is None else self._sim.close()
        finally:
            self._stack.close()
        if problem is not None:
            raise AssertionError(f"{problem.kind}: {problem.text}")


def _ending(teardown: Callable[[Any], None]) -> Callable[[Any], None]:
    @functools.wraps(teardown)
    def end(self: WorkflowMachine) -> None:
        try:
            teardown(self)
        finally:
            WorkflowMachine.teardown(self)

    return end


def _is_strategy(start: Any) -> bool:
    return isinstance(start, st.SearchStrategy)
