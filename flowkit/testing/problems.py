"""What the harness raises.

    WorkflowError
    └── TestingError                 the harness can't do what it was asked to
        ├── OutsideWorld             simulated code reached for a real socket, process or thread
        ├── Blocked                  simulated code blocks its thread
        ├── Livelock                 a run gets nowhere, or never ends
        └── WrongToken               a replay token is damaged, or is of something else
    Counterexample (AssertionError)  a run in which something that should hold doesn't

A `Counterexample` is a finding about the workflow under test, all others are advice on how to test it.
"""

from typing import TYPE_CHECKING, Any

from flowkit.errors import WorkflowError

if TYPE_CHECKING:
    from flowkit.testing.scenario import Scenario

__all__ = ["Blocked", "Counterexample", "Livelock", "OutsideWorld", "TestingError", "WrongToken"]


class TestingError(WorkflowError):
    """The harness can't do what it was asked to; the message says what to do instead."""

    __test__ = False  # no test class, whatever its name

    def __init__(self, problem: str, cure: str, where: str | None = None) -> None:
        super().__init__(f"{problem}: {cure}." + (f" ({where})" if where else ""), problem=problem, cure=cure)


class OutsideWorld(TestingError):
    """Simulated code reached for the real world: ``what`` it did, ``where`` it did."""

    def __init__(self, what: str, where: str | None = None) -> None:
        super().__init__(
            f"a simulated run {what}",
            "give the workflow a fake that answers by itself: a simulation has no network, no processes and no time "
            "but its own",
            where,
        )
        self.what = what


class Blocked(TestingError):
    """Simulated code blocks its thread for longer than the ``seconds`` of real time it may."""

    def __init__(self, seconds: float, what: str, where: str | None) -> None:
        super().__init__(
            f"{what} has blocked for {seconds:g} seconds of real time",
            "wait for what the simulation can do: anyio's primitives in async steps, `anyio.from_thread` in plain ones",
            where,
        )
        self.seconds = seconds


class Livelock(TestingError):
    """A run gets nowhere, or never ends."""

    def __init__(self, problem: str, cure: str, where: str | None = None) -> None:
        super().__init__(f"a simulated run {problem}", cure, where)


class WrongToken(TestingError):
    """A replay token is damaged, or is of something else."""

    def __init__(self, problem: str, cure: str) -> None:
        super().__init__(f"this replay token {problem}", cure)


class Counterexample(AssertionError):
    """A run in which something that should hold doesn't. Its text is the report.

    Attributes:
        kind: what was found, in a word: "property", "deadlock", "stalled", "step-failed", "lost-event", …
        run: the run that shows it, after shrinking.
        scenario: everything that decides that run.
        token: what ``testing.simulate(…, replay=token)`` takes to show it again.
        runs: how many runs it took to find it, without those for shrinking.
        shrinking: how many runs the shrinking took.
    """

    def __init__(self, report: str, *, kind: str, run: Any, scenario: "Scenario", runs: int, shrinking: int) -> None:
        super().__init__(report)
        self.kind = kind
        self.run = run
        self.scenario = scenario
        self.token: str = run.token
        self.runs = runs
        self.shrinking = shrinking
