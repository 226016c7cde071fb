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
from typing import Any, ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant

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

    __test__ = False

    def __init__(self) -> None:
        super().__init__()
        chosen = defaults.backend
        backend: Backend = type(self).backend if chosen is None or chosen == "both" else chosen
        late = _is_strategy(self.start)
        self._simulation = Simulation(
            type(self).__dict__.get("flow", type(self).flow),
            None if late else self.start,
            backend=backend,
            stored=self.stored,
            call=type(self).__name__,
            late=late,
        )
        self._stack = contextlib.ExitStack()
        self._stack.enter_context(self._simulation.opened())
        self._sim: LiveRun | None = None

    @property
    def sim(self) -> LiveRun:
        """The live run."""
        if self._sim is None:
            self._sim = LiveRun(self._simulation)
        return self._sim

    @initialize(data=st.data(), seed=st.integers(0, 1_000))
    def begin(self, data: st.DataObject, seed: int) -> None:
        """Begin, with a start event and a schedule that are drawn."""
        if self._sim is not None:
            return
        simulation = self._simulation
        start: Any = self.start
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
        """End the run. An override calls this one."""
        try:
            problem = None if self._sim is None else self._sim.close()
        finally:
            self._stack.close()
        if problem is not None:
            raise AssertionError(f"{problem.kind}: {problem.text}")


def _is_strategy(start: Any) -> bool:
    return isinstance(start, st.SearchStrategy)
