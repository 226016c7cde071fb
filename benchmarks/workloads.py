"""What is measured: the workloads, their sizes, their goals, and the answer each must give.

Every contestant has the same shape: as many events through as many steps with as many workers. An event here
is a delivery to a step.

chain   two steps send each other an event with a counter; n iterations of two events
hello   a run of one step: one event in, a result out; the whole run, from the call to the result
fan     one step sends n items, four workers each answer one, one step collects the n answers and adds them up
many    300 runs at once, seven events each, through the same two steps as chain
stream  a step writes n events to the run's stream in batches while a reader iterates over it
idle    runs that asked a human and wait, in kilobytes each
import  milliseconds until the package is imported, in a fresh interpreter

Fixed costs stay in: a fan of 100 includes its run, which is why it costs more per item than one of 1,000.
"""

from collections.abc import Awaitable, Callable, Mapping

import attrs
from anyio.lowlevel import checkpoint

from benchmarks.measure import Case, Sample

STREAM_BATCH = 100
"""Events written between two checkpoints of the stream's writer: enough that the writer isn't measured
switching tasks, few enough that the reader runs alongside it."""

IMPORT_GOAL = 100.0
"""Milliseconds."""
IDLE_GOAL = 8.0
"""Kilobytes per waiting run."""

MakeSample = Callable[[int], Sample]
"""Prepares a sample of a given size. What a program does once (define a workflow, compile a graph, build the
list of expected events) is done here, outside the measured time."""

Idle = Callable[[int, Callable[[], None]], Awaitable[int]]
"""Starts that many runs, each asking a human; calls back once all of them wait; answers each with 1; returns
the sum of their results."""


@attrs.frozen
class Engine:
    """A contestant, or a second way of writing some workloads with it (`variant`)."""

    name: str
    rows: Mapping[str, MakeSample]
    variant: str = ""
    imports: str = ""
    """What `import` is followed by in the import row; "" leaves it out."""
    idle: Idle | None = None
    peer: bool = False


@attrs.frozen
class Workload:
    """One line of the table."""

    name: str
    row: str
    unit: str
    size: int
    calls: int = 1
    per_size: bool = True
    """Whether the cost is per unit of size, or per execution."""
    peer_size: int | None = None
    """A smaller size for the peers, where the cost per unit doesn't depend on it. None: the same size."""
    peer_calls: int = 1
    peer_rounds: int = 3
    skip: frozenset[str] = frozenset()
    """Engines for which this size would take minutes."""
    goal: float = 2.0
    """The most it may cost, in floors."""

    def case(self, engine: Engine, rounds: int) -> Case | None:
        """This workload for a contestant; None if that contestant doesn't run it."""
        make = engine.rows.get(self.row)
        if make is None or engine.name in self.skip:
            return None
        size = self.peer_size or self.size if engine.peer else self.size
        return Case(
            workload=self.name,
            engine=engine.name,
            variant=engine.variant,
            sample=make(size),
            warm_up=make(min(size, 100)),
            answer=ANSWERS[self.row](size),
            calls=self.peer_calls if engine.peer else self.calls,
            units=size if self.per_size else 1,
            unit=self.unit,
            rounds=min(rounds, self.peer_rounds) if engine.peer else rounds,
        )


ANSWERS: Mapping[str, Callable[[int], int]] = {
    "chain": lambda n: 2 * n,
    "hello": lambda n: n,
    "fan": lambda n: n * (n - 1),
    "many": lambda n: 6 * n,
    "stream": lambda n: n * (n - 1) // 2,
}
"""The last counter; the number sent; twice the sum of the items; the sum of the last counters; the sum of
what was written."""


def fans(sizes: tuple[int, ...], llama_to: int) -> list[Workload]:
    """The fan at several sizes; `llama_to` is the largest for that engine, whose cost per item grows with the
    size."""
    peers = {"langgraph", "pydantic-graph"}
    return [
        Workload(
            f"fan {n}",
            "fan",
            "item",
            n,
            calls=max(1, 5_000 // n),
            peer_calls=max(1, 200 // n),
            peer_rounds=2,
            # What 3,000 items cost each, 30,000 do too: half a minute for no news.
            skip=frozenset((peers if n > 3_000 else set()) | ({"llama"} if n > llama_to else set())),
        )
        for n in sizes
    ]


FULL = [
    Workload("chain", "chain", "iteration", 10_000, peer_size=200),
    Workload("hello", "hello", "run", 7, calls=1_000, per_size=False, peer_calls=50),
    *fans((100, 1_000, 3_000, 10_000, 30_000), llama_to=1_000),
    Workload("many", "many", "run", 300, peer_rounds=2),
    Workload("stream", "stream", "event", 5_000, calls=4, peer_size=2_000),
]

QUICK = [
    Workload("chain", "chain", "iteration", 3_000, peer_size=50, peer_rounds=1),
    Workload("hello", "hello", "run", 7, calls=300, per_size=False, peer_calls=20, peer_rounds=1),
    *(attrs.evolve(fan, peer_rounds=1) for fan in fans((100, 1_000, 10_000), llama_to=100)),
    Workload("many", "many", "run", 300, peer_size=30, peer_rounds=1),
    Workload("stream", "stream", "event", 5_000, calls=2, peer_size=500, peer_rounds=1),
]


async def settle(ready: Callable[[], bool]) -> None:
    """Let other tasks run until `ready`, then until those that are about to wait have got there."""
    while not ready():
        await checkpoint()
    for _ in range(20):
        await checkpoint()
