"""What the harness raises where it has found a run in which something that should hold doesn't."""

from flowkit.testing.run import Run
from flowkit.testing.scenario import Scenario

__all__ = ["Counterexample"]


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

    def __init__(self, report: str, *, kind: str, run: Run, scenario: Scenario, runs: int, shrinking: int) -> None:
        super().__init__(report)
        self.kind = kind
        self.run = run
        self.scenario = scenario
        self.token = run.token
        self.runs = runs
        self.shrinking = shrinking
