"""What is around a simulated run: its time, its store, its faults, the outside it acts on, and the record of it all.

A `World` outlives the processes simulated in it. Its store's content, the effects that steps had (`effect`) and the
time of day go on after a crash; loop, tasks and workflow are made anew.

**A crash is at once.** From then on the store refuses everything and nothing has effects any more; the process' tasks
are cancelled, but what they do in their clean-ups can't reach anything. (A process that is killed has no clean-ups.
That they run here, in vain, is the price of ending it inside a larger one.)

**Points.** A process may die right before and right after each of the journal's writes, between those of one commit,
and right before and after each effect. They are counted from the process' begin.
"""

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from math import inf
from typing import Any

from flowkit import outside
from flowkit.errors import WrongCall
from flowkit.events import Event
from flowkit.memory_store import MemoryStore
from flowkit.storage_errors import StoreError
from flowkit.store import Message, RunInfo, Status, Store, Write
from flowkit.testing.contents import Sent
from flowkit.testing.kernel import Kernel
from flowkit.testing.problems import TestingError
from flowkit.testing.run import Run
from flowkit.testing.scenario import STORE, Fault, Scenario
from flowkit.testing.scheduling import Scheduler

__all__ = ["EPOCH", "Errors", "ProcessDied", "SimulatedStore", "World", "effect"]

EPOCH = 1_700_000_000.0
"""The time of day at which every simulation begins."""

Errors = dict[str, Sequence["type[Exception] | Exception"]]
"""What each step may raise, by its name."""


class ProcessDied(BaseException):
    """The simulated process has crashed. Not an `Exception`: no step should catch it."""


class World(outside.Outside):
    """What a simulated run is in."""

    def __init__(self, scenario: Scenario, scheduler: Scheduler, errors: Errors, run_type: type[Any]) -> None:
        self.run_type = run_type
        self.scenario = scenario
        self.scheduler = scheduler
        self.kernel: Kernel | None = None
        self.content = MemoryStore()
        self.runs: list[Any] = []
        """Every run that was made, nested ones, too."""
        self.top: Any = None
        """The process' run: not one that is nested in it, nor one that a step has started."""
        self.timeout: float | None = None
        """That run's."""
        self.problem: TestingError | None = None
        """The first thing that the simulation couldn't do."""
        self.record: list[tuple[float, int, int, str, Any]] = []
        """Time, task step, task, kind and detail of what happened."""
        self.calls: Counter[str] = Counter()
        """Of steps, over all lives."""
        self.attempts = 0
        """How many calls of steps the runs have asked for."""
        self.stream: list[Event] = []
        self.effects: list[Any] = []
        self.writes: list[int] = []
        self.warnings: list[Warning] = []
        self.logged: list[str] = []
        """Errors that flowkit could only log."""
        self.keys: set[str] = set()
        """The idempotency keys that steps have asked for."""
        self.points: list[str] = []
        """What could have died when, in this life."""
        self.injected: list[Exception] = []
        """Errors that were raised in place of a step's own doing."""
        self.sent = Sent()
        self.commits = 0
        """How many times the store was written to."""
        self.lives = 0
        self.dead = False
        self.died_at = 0.0
        """When the latest process died."""
        self._crash_at: int | None = None
        self._cut: Callable[[], None] | None = None
        self._ids = 0
        self._errors = errors
        self._faults = {(fault.step, fault.call): fault for fault in scenario.faults}

    def describe(self, run: Run) -> None:
        """Write into a run what it has shown and done until now; what comes from here on is another's."""
        run.stream, self.stream = self.stream, []
        run.effects, self.effects = self.effects, []
        run.writes, self.writes = self.writes, []
        run.warnings, self.warnings = self.warnings, []
        if self.top is not None:
            run.state = self.top.machine.state.root

    def forget(self) -> None:
        """What becomes of the runs there have been is nobody's concern any more."""
        for run in self.runs:
            run.forget()
        self.runs.clear()

    def close(self) -> None:
        """The simulation is over. Lets go of what refers to the world, or the collector would have to find it."""
        self.forget()
        self.kernel = self.top = self._cut = None

    # -------------------------------------------------------------------------------------------------- the outside

    def time(self) -> float:
        return EPOCH + (0.0 if self.kernel is None else self.kernel.now)

    def stopwatch(self) -> float:
        return self.time()  # calls that don't wait take no time

    def new_id(self) -> str:
        self._ids += 1
        return f"simulated-{self._ids}"

    def note(self, problem: TestingError) -> None:
        """The simulation can't do something. It ends, whatever the code that asked for it makes of that: a step may
        catch it, or be tried again."""
        if self.problem is not None:
            return
        self.problem = problem
        if self.kernel is not None:
            if not problem.where:
                problem.place(self._whereabouts(self.kernel))
            self.scheduler.at(self.scheduler.steps, self._give_up)

    def _whereabouts(self, kernel: Kernel) -> str:
        """The author's line at which the current task waits, or those that any does, where it is one of a library's."""
        places = {one.number: one.place for one in kernel.alive() if not one.place.startswith("(")}
        return places.get(self.scheduler.last) or " or ".join(dict.fromkeys(places.values()))

    def _give_up(self) -> None:
        assert self.problem is not None
        raise self.problem

    # ---------------------------------------------------------------------------------------------------- its record

    def happened(self, kind: str, detail: Any) -> None:
        """Something happened, now."""
        scheduler, kernel = self.scheduler, self.kernel
        if kernel is not None and not kernel.stuck:
            self.record.append((kernel.now, scheduler.steps, scheduler.last, kind, detail))

    def who(self) -> dict[int, str]:
        """What each task does, of those that work for steps: the latest step it has called."""
        return {
            task: f"{detail[0]} #{detail[1]}"
            for _, _, task, kind, detail in self.record
            if kind == "call" and detail[0] != STORE
        }

    def show(self, event: Event) -> None:
        """An event was shown in the stream."""
        if not self.dead:
            self.stream.append(event)

    # --------------------------------------------------------------------------------------------- faults and crashes

    def begin(self, kernel: Kernel, crash_at: int | None, cut: Callable[[], None]) -> None:
        """A process begins; ``cut`` ends it."""
        for owner in self.content.owners():
            self.content.leave(owner)  # it is known that its process is gone
        self.kernel = kernel
        self.top = None
        self.lives += 1
        self.dead = False
        self.points = []
        self._crash_at = crash_at
        self._cut = cut

    def call(self, step: str) -> Fault | None:
        """A step is called; what is to go wrong in it."""
        count = self.calls[step] = self.calls[step] + 1
        self.happened("call", (step, count))
        self.scheduler.progress()
        fault = self._faults.get((step, count)) if self._faults else None
        if fault is not None:
            self.happened("fault", fault)
        return fault

    def slowness(self, owner: Any) -> float:
        """How many virtual seconds a call of flowkit's own takes in its thread: a method of ``owner``. A slow store's
        next commit does."""
        if type(owner).__module__ != "flowkit.writer":
            return 0.0
        fault = self._faults.get((STORE, self.calls[STORE] + 1))
        return fault.seconds if fault is not None and fault.kind == "slow" else 0.0

    def error(self, fault: Fault) -> Exception:
        """The error that a fault raises."""
        given = self._errors[fault.step][fault.error or 0]
        if isinstance(given, type):
            try:
                made = given()
            except TypeError:
                made = given("raised by the simulation")
        else:
            made = given
        self.injected.append(made)
        return made.with_traceback(None)

    def point(self, label: str) -> None:
        """The process comes to a point at which it may die.

        Raises:
            ProcessDied: it does, or has died before.
        """
        if not self.dead:
            number = len(self.points)
            self.points.append(label)
            if number != self._crash_at:
                return
            self.die(label)
            assert self._cut is not None
            self._cut()
        raise ProcessDied(label)

    def die(self, label: str) -> None:
        """The process dies now. Whatever time its clean-ups take, in vain, is no time."""
        assert self.kernel is not None
        self.dead, self.died_at = True, self.kernel.now
        self.happened("crash", label)

    def has_effect(self, what: Any) -> None:
        """What a step does outside happens now."""
        label = f"effect {what!r}"
        self.point(f"before {label}")
        self.effects.append(what)
        self.happened("effect", what)
        self.point(f"after {label}")


def effect(*what: Any) -> None:
    """What a fake does to the outside world: a payment, a mail. It goes into the simulated run's ``effects`` (the one
    argument itself, several as a tuple), and survives simulated crashes. A simulated process may crash right before and
    right after it; once it has, it has no more effects.

    To be called by the fakes that a workflow is given in tests, in async and plain steps alike.

    Raises:
        WrongCall: nothing is being simulated.
    """
    world = outside.current()
    if not isinstance(world, World):
        raise WrongCall(
            "effect()",
            "was called where nothing is being simulated",
            "it is for fakes, in what simulate(), explore() and the like run",
        )
    world.has_effect(what[0] if len(what) == 1 else what)


class SimulatedStore(Store):
    """The store of one process: the world's content, while the process lives."""

    lease = inf  # so no beat of it keeps time moving; the world ends it after a crash
    shared = False  # nor does anybody look for what others post

    def __init__(self, world: World) -> None:
        self._world = world
        self._content = world.content
        self._life = world.lives
        # A store that is slow is written to from a thread, while the loop goes on (flowkit/writer.py).
        self.inline = not any(fault.kind == "slow" for fault in world.scenario.faults)

    def _check(self) -> None:
        if self._world.dead or self._world.lives != self._life:
            raise StoreError("the store", "the simulated process has crashed", "nothing", "failed")

    def open(self) -> None:
        self._check()

    def close(self) -> None:
        pass

    def commit(self, writes: Sequence[Write], *, wait: bool = True) -> list[bool]:
        self._check()
        world = self._world
        records = sum(len(write.records) for write in writes)
        label = f"a write of {records} record{'' if records == 1 else 's'}"
        fault = world.call(STORE) if world.scenario.faults else None
        if fault is not None and fault.kind == "full":
            error = StoreError("the store", "the disk is full, in this simulation", "make room", "full")
            world.injected.append(error)
            raise error
        stored: list[bool] = []
        try:
            world.point(f"before {label}")
            for number, write in enumerate(writes):
                if number:
                    world.point(f"inside a write of {len(writes)} runs, after {number}")
                stored += self._content.commit([write], wait=wait)
            world.writes.append(records)
            world.commits += 1
            world.happened("write", records)
            world.point(f"after {label}")
        except ProcessDied:
            self._check()
        return stored

    def claim(self, run_id: str, owner: str, now: float) -> RunInfo:
        self._check()
        return self._content.claim(run_id, owner, now)

    def release(self, run_id: str, fence: int) -> bool:
        self._check()
        return self._content.release(run_id, fence)

    def beat(self, owner: str, until: float) -> None:
        self._check()
        self._content.beat(owner, until)

    def leave(self, owner: str) -> None:
        self._check()
        self._content.leave(owner)

    def owners(self) -> list[str]:
        self._check()
        return self._content.owners()

    def info(self, run_id: str) -> RunInfo | None:
        self._check()
        return self._content.info(run_id)

    def find(
        self,
        *,
        statuses: Collection[Status] | None = None,
        workflows: Collection[str] | None = None,
        free_at: float | None = None,
        due_by: float | None = None,
        parent: str | None = None,
        newest: bool = False,
        limit: int | None = None,
    ) -> list[RunInfo]:
        self._check()
        return self._content.find(
            statuses=statuses,
            workflows=workflows,
            free_at=free_at,
            due_by=due_by,
            parent=parent,
            newest=newest,
            limit=limit,
        )

    def next_due(self, workflows: Collection[str]) -> float | None:
        self._check()
        return self._content.next_due(workflows)

    def read(self, run_id: str, start: int = 0) -> list[bytes]:
        self._check()
        return self._content.read(run_id, start)

    def delete(self, run_ids: Collection[str]) -> int:
        self._check()
        return self._content.delete(run_ids)

    def post(self, run_id: str, data: bytes, time: float) -> int | None:
        self._check()
        number: int | None = None
        try:
            self._world.point("before a post")
            number = self._content.post(run_id, data, time)
            self._world.point("after a post")
        except ProcessDied:
            self._check()
        return number

    def mail(self, run_id: str | None = None) -> list[Message]:
        self._check()
        return self._content.mail(run_id)

    def message(self, number: int) -> Message | None:
        self._check()
        return self._content.message(number)

    def withdraw(self, number: int) -> bool:
        self._check()
        return self._content.withdraw(number)
