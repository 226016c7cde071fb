"""The stopwatch: how a sample is taken and how samples become figures.

Why the comparison is fair:

- Interleaved: round 1 takes one sample of every contestant, round 2 another of each, and so on, in one
  process and one event loop. A machine that slows down for a second slows down all of them. Each round starts
  one contestant further on, so that nobody always runs first, or always after the heaviest.
- Warmed up: every contestant runs once, small and unmeasured, before the first round.
- The collector: on, with its default thresholds, so each contestant pays for the garbage it makes. Before a
  sample the heap is collected and frozen (`gc.freeze`), so that nobody pays for walking what another left or
  imported.
- Checked: each call returns a number computed from the events it handled, compared (outside the timed region)
  with the right answer. Whoever loses or skips an event is an error, not a fast row.
- Two ratios: of the medians, and the median of each round's own ratio. The second is steadier on a noisy
  machine; where they disagree by much, measure again with a higher `--repeat`.
"""

import gc
from collections.abc import Awaitable, Callable, Iterable, Sequence
from statistics import median
from time import perf_counter

import attrs

Sample = Callable[[], Awaitable[int]]
"""One complete execution of a workload by a contestant; returns the number that proves it did the work."""


class WrongAnswerError(Exception):
    """A contestant returned something other than the workload's answer, so its time means nothing."""

    def __init__(self, workload: str, engine: str, got: object, expected: int) -> None:
        super().__init__(f"{workload}: {engine} returned {got!r}, expected {expected}")
        self.workload, self.engine, self.got, self.expected = workload, engine, got, expected


@attrs.frozen
class Case:
    """One contestant in one workload."""

    workload: str
    engine: str
    variant: str
    """Which of an engine's forms of the workload this is; "" for the first."""
    sample: Sample
    warm_up: Sample
    answer: int
    calls: int
    """Executions per timed sample: short ones are repeated until the clock's resolution is no matter."""
    units: int
    """What one execution is divided by: iterations, items, runs or events."""
    unit: str
    rounds: int
    """Samples wanted; the slow peers sit out the later rounds."""


@attrs.define
class Result:
    """A contestant's samples in one workload."""

    workload: str
    engine: str
    variant: str
    unit: str
    """Of the samples, such as "µs per item"."""
    samples: list[float] = attrs.field(factory=list[float])

    @property
    def median(self) -> float:
        return median(self.samples)

    def ratio(self, floor: "Result") -> float:
        """The ratio of the medians."""
        return self.median / floor.median

    def ratio_by_round(self, floor: "Result") -> float:
        """The median of the ratios within each round that both took part in."""
        return median(mine / theirs for mine, theirs in zip(self.samples, floor.samples, strict=False))


async def measure(cases: Sequence[Case]) -> list[Result]:
    """Measure one workload's contestants against each other.

    Raises:
        WrongAnswerError: a contestant's answer isn't the workload's.
    """
    results = [Result(case.workload, case.engine, case.variant, f"µs per {case.unit}") for case in cases]
    for case in cases:
        await case.warm_up()
    for number in range(max(case.rounds for case in cases)):
        for index in rotated(range(len(cases)), number):
            if number < cases[index].rounds:
                results[index].samples.append(await timed(cases[index]))
    return results


def rotated(indices: Iterable[int], by: int) -> list[int]:
    order = list(indices)
    by %= len(order)
    return order[by:] + order[:by]


async def timed(case: Case) -> float:
    """Take one sample; returns microseconds per unit."""
    sample, answers = case.sample, []
    gc.collect()
    gc.freeze()
    try:
        started = perf_counter()
        for _ in range(case.calls):
            answers.append(await sample())
        elapsed = perf_counter() - started
    finally:
        gc.unfreeze()
    check(case, answers)
    return elapsed * 1e6 / (case.calls * case.units)


def check(case: Case, answers: Iterable[object]) -> None:
    for answer in answers:
        if answer != case.answer:
            raise WrongAnswerError(case.workload, case.engine, answer, case.answer)
