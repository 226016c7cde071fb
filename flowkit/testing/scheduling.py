"""The one question that a simulated event loop asks: which of the ready tasks goes on?

A *task step* is what a task does between two suspensions: nothing else runs meanwhile. A *decision* is a task step for
which more than one task was ready. Tasks are numbered in the order in which they first became ready, and a kernel
(asyncio_kernel.py, trio_kernel.py) offers the ready ones in the order in which they became so, those of one moment by
number. So a run is decided by the answers alone: the same answers, the same run, whatever the addresses and hashes.

**Schedules are told by their deviations.** *Run to block* is the plainest schedule there is: a task goes on until it
has to wait, then the one that has been ready for longest is next. Any other differs from it at some decisions:
``shift`` says by how many places down the list. `Scheduler.deviations` says it of a run whatever policy led it. Few
deviations make a counterexample readable, and bounding them makes a search that ends (delay bounding: Emmi, Qadeer,
Rakamarić, *Delay-bounded scheduling*, POPL 2011; that it beats bounding preemptions: Thomson, Donaldson, Betts,
*Concurrency testing using controlled schedulers*, TOPC 2016).

**Random policies**, for what small bounds miss: `Walk` (any ready task), `Pos` (each step gets a random priority when
it becomes ready: Yuan, Yang, Gu, *Partial order aware concurrency sampling*, CAV 2018, without its race information),
`Pct` (tasks have random priorities, which change at a few random steps: Burckhardt et al., *A randomized scheduler with
probabilistic guarantees of finding bugs*, ASPLOS 2010).

**A run that gets nowhere.** Where neither time moves nor anything happens in a run (`Scheduler.progress`), a task is
probably spinning on ``await sleep(0)`` until another has done something. After `UNFAIR` steps every ready task gets its
turn, whatever the policy says; after `SPINNING` the run is given up.
"""

import random
from collections.abc import Callable
from typing import Protocol

from flowkit.testing.problems import Livelock

__all__ = ["Deviating", "Fifo", "Pct", "Policy", "Pos", "Scheduler", "Walk"]

UNFAIR = 500
"""Task steps without progress after which every task gets its turn."""

SPINNING = 10_000
"""Task steps without progress after which a run is given up."""

LONGEST = 300_000
"""Task steps after which a run is given up, progress or not: it takes some seconds."""


class Policy(Protocol):
    """How to choose."""

    def choose(self, ready: list[int], default: int, decision: int) -> int:
        """The place in ``ready`` (task numbers, two at least) of the task that goes on; ``default`` is run-to-block's
        choice."""
        ...


class Scheduler:
    """What a simulated process asks which task goes on, and the record of its answers. One scheduler may serve several
    processes, one after another."""

    __slots__ = (
        "_alarms",
        "_moved",
        "_next_alarm",
        "_policy",
        "decisions",
        "deviations",
        "last",
        "numbers",
        "order",
        "steps",
        "widths",
    )

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self.steps = 0
        self.decisions = 0
        self.widths: list[int] = []
        """How many tasks were ready, at each decision."""
        self.deviations: list[tuple[int, int]] = []
        """Decision and shift, where the choice wasn't run-to-block's."""
        self.order: list[int] = []
        """The task of each step."""
        self.last = -1
        self.numbers = 0
        """How many tasks there have been."""
        self._moved = 0
        self._alarms: dict[int, Callable[[], None]] = {}
        self._next_alarm = -1

    def number(self) -> int:
        """The number of a new task."""
        found = self.numbers
        self.numbers = found + 1
        return found

    def pick(self, ready: list[int]) -> int:
        """The place in ``ready`` of the task that goes on. Counts as a task step.

        Raises:
            Livelock: the run gets nowhere, or never ends.
        """
        steps = self.steps
        if steps == self._next_alarm:
            self._ring()
        self.steps = steps + 1
        if steps - self._moved >= UNFAIR or steps >= LONGEST:
            self._check(steps)
        width = len(ready)
        if width == 1:
            index = 0
        else:
            last = self.last
            default = ready.index(last) if last in ready else 0
            decision = self.decisions
            self.decisions = decision + 1
            if steps - self._moved >= UNFAIR:
                index = 0
            else:
                index = self._policy.choose(ready, default, decision)
            self.widths.append(width)
            if index != default:
                self.deviations.append((decision, (index - default) % width))
        self.last = last = ready[index]
        self.order.append(last)
        return index

    def progress(self) -> None:
        """Something has happened: time has moved, or a run has got somewhere."""
        self._moved = self.steps

    def at(self, step: int, call: Callable[[], None]) -> None:
        """Call this right before a task step."""
        self._alarms[step] = call
        self._next_alarm = min(self._alarms)

    def _ring(self) -> None:
        call = self._alarms.pop(self._next_alarm)
        self._next_alarm = min(self._alarms, default=-1)
        call()

    def _check(self, steps: int) -> None:
        if steps >= LONGEST:
            raise Livelock(f"still runs after {LONGEST:,} task steps", "give it less to do, or an end")
        if steps - self._moved >= SPINNING:
            raise Livelock(
                f"has made {SPINNING:,} task steps in which neither time moved nor anything happened",
                "wait for an event, a condition or anyio.sleep(…) of some seconds instead of looking again and again",
            )


class Deviating:
    """Run to block, but for these decisions, where it takes a task so many places further down the list."""

    __slots__ = ("_shifts",)

    def __init__(self, deviations: "dict[int, int] | None" = None) -> None:
        self._shifts = deviations or {}

    def choose(self, ready: list[int], default: int, decision: int) -> int:
        shift = self._shifts.get(decision)
        return default if shift is None else (default + shift) % len(ready)


class Fifo:
    """First come, first served: what asyncio does."""

    __slots__ = ()

    def choose(self, ready: list[int], default: int, decision: int) -> int:
        return 0


class Walk:
    """Any ready task."""

    __slots__ = ("_random",)

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed).random

    def choose(self, ready: list[int], default: int, decision: int) -> int:
        return int(self._random() * len(ready))


class Pos:
    """The ready step with the highest priority; each draws one when it becomes ready."""

    __slots__ = ("_priorities", "_random")

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed).random
        self._priorities: dict[int, float] = {}

    def choose(self, ready: list[int], default: int, decision: int) -> int:
        priorities = self._priorities
        best, highest = 0, -1.0
        for index, task in enumerate(ready):
            priority = priorities.get(task)
            if priority is None:
                priority = priorities[task] = self._random()
            if priority > highest:
                best, highest = index, priority
        del priorities[ready[best]]
        return best


class Pct:
    """The ready task with the highest priority; ``depth - 1`` times, at a random decision among the first
    ``decisions``, whoever is chosen falls behind all others."""

    __slots__ = ("_changes", "_priorities", "_random")

    def __init__(self, seed: int, depth: int, decisions: int) -> None:
        self._random = random.Random(seed).random
        self._priorities: dict[int, float] = {}
        self._changes = {int(self._random() * max(1, decisions)): -float(nth) for nth in range(1, depth)}

    def choose(self, ready: list[int], default: int, decision: int) -> int:
        low = self._changes.pop(decision, None)
        best = self._best(ready)
        if low is not None:
            self._priorities[ready[best]] = low
            best = self._best(ready)
        return best

    def _best(self, ready: list[int]) -> int:
        priorities = self._priorities
        best, highest = 0, -float("inf")
        for index, task in enumerate(ready):
            priority = priorities.get(task)
            if priority is None:
                priority = priorities[task] = self._random()
            if priority > highest:
                best, highest = index, priority
        return best
