"""Everything that decides a simulated run: its schedule, and what is done to it.

A `Scenario` is a value. The same scenario of the same flow, with the same start event, on the same versions, is the
same run to the last detail. Searching makes scenarios, shrinking makes smaller ones, and a token is one as text.
"""

from typing import Literal

import attrs

from flowkit.testing.scheduling import Deviating, Fifo, Pct, Policy, Pos, Walk

__all__ = ["STORE", "Backend", "Cancel", "Fault", "FaultKind", "PolicyName", "Scenario"]

Backend = Literal["asyncio", "trio"]
PolicyName = Literal["block", "fifo", "walk", "pos", "pct"]
FaultKind = Literal["raise", "lose", "delay", "stall", "full", "slow"]

STORE = "(store)"
"""What stands for a step's name in faults of the store."""


@attrs.frozen
class Fault:
    """What goes wrong in the ``call``-th call (from 1) of a step, or of the store's ``commit``.

    ``raise``: the step raises at once. ``lose``: it does its work and raises then: the answer is lost on its way.
    ``delay``: it begins ``seconds`` later. ``stall``: it does its work and returns ``seconds`` later. Of the store,
    ``full``: it raises, nothing is stored; ``slow``: it takes ``seconds``.
    """

    step: str
    call: int
    kind: FaultKind
    error: int | None = None
    """Which of the errors that were given for the step it raises."""
    seconds: float = 0.0

    def __str__(self) -> str:
        what = {
            "raise": "raises",
            "lose": "does its work, then raises",
            "delay": f"begins {self.seconds:g} s late",
            "stall": f"does its work, then takes {self.seconds:g} s",
            "full": "fails",
            "slow": f"takes {self.seconds:g} s",
        }[self.kind]
        name = "commit" if self.step == STORE else self.step
        return f"call {self.call} of {name} {what}"


@attrs.frozen
class Cancel:
    """After so many task steps the run is cancelled: by the scope around it, or by ``cancel_run()``."""

    step: int
    how: Literal["scope", "run"] = "scope"

    def __str__(self) -> str:
        by = "the scope around it is cancelled" if self.how == "scope" else "cancel_run() is called"
        return f"after {self.step} task steps {by}"


@attrs.frozen
class Scenario:
    """A schedule, and what is done to the run."""

    policy: PolicyName = "block"
    seed: int = 0
    decisions: int = 0
    """How many decisions ``pct`` spreads its changes over."""
    deviations: tuple[tuple[int, int], ...] = ()
    """Of the policy ``block``: decision and shift (scheduling.py)."""
    faults: tuple[Fault, ...] = ()
    cancel: Cancel | None = None
    crashes: tuple[int, ...] = ()
    """At which point each process dies, counted from its begin; the next one goes on to its end."""

    def make_policy(self) -> Policy:
        """The policy, fresh."""
        match self.policy:
            case "block":
                return Deviating(dict(self.deviations))
            case "fifo":
                return Fifo()
            case "walk":
                return Walk(self.seed)
            case "pos":
                return Pos(self.seed)
            case "pct":
                return Pct(self.seed, 3 + self.seed % 3, self.decisions)  # none finds what is deeper than it

    @property
    def size(self) -> int:
        """How much is out of the ordinary in it: deviations, faults, a cancellation, crashes."""
        return len(self.deviations) + len(self.faults) + (self.cancel is not None) + len(self.crashes)

    @property
    def is_disturbed(self) -> bool:
        """Whether anything but the schedule is out of the ordinary."""
        return bool(self.faults or self.crashes or self.cancel is not None)
