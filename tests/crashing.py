"""Crashing a run in process, at any point, and looking at what is left: the tools of test_crashes.py.

How it works
------------
A `World` is everything that survives a process: the store's content, the ledger of effects, the clock on the wall, and
what the caller who answers questions remembers. A *life* is one process: a new event loop under virtual time, with a
new store object on the same content, and whatever objects flowkit makes.

**Points.** All that a life does to the world goes through `World.point`: before a commit, between the writes of one,
after it; before and after each command that a run performs, each effect that a step has, each claim, release and
deletion of a run, each answer that the caller gives. A life may be told to *crash* at the n-th point.

**A crash** is at once. From that point on the store refuses everything, the ledger takes nothing, no command is
performed and the caller is told nothing, and the life's scope is cancelled. The ``finally`` blocks that run then,
unlike those of a process that is killed, can change nothing. Whatever hangs or is left behind in them fails the test
(flowkit.testing.virtual_time).

**A store that fails** is another thing: the process lives on, and so does what it holds in memory. ``fails`` says which
commits and other calls raise a `StoreError`; the caller then does what a caller would, the same again.

**Time** goes on from life to life: each begins ``downtime`` seconds after the one before has ended.

**Who is asked.** After a crash the caller takes up a run only if it owes it an answer. Where it has given them all, the
runtime must bring the run to its end by itself.
"""

import contextlib
import functools
from abc import update_abstractmethods
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any, Literal
from unittest.mock import patch

import anyio
import attrs
import trio
from crash_flows import NESTED, SCENARIOS, Ask, Entry, Ledger, Noting, Reply, Scenario
from trio._core._run import _r as order

from flowkit import RunFinished, WorkflowError, backend, log, outside
from flowkit.facts import Command, StepCommitted, StepRaised, StepReturned
from flowkit.log import Durability
from flowkit.memory_store import MemoryStore
from flowkit.performer import Performer
from flowkit.runtime import HistoryEntry, Runtime, open_runtime
from flowkit.storage_errors import RunElsewhere, StoreError
from flowkit.store import ENDED, Store, Write
from flowkit.testing.virtual_time import run_virtual
from flowkit.workflow import records_of

__all__ = ["Form", "World", "Wrapped", "baseline"]

Form = Literal["runtime", "run", "block"]
"""``open_runtime``, ``await workflow.run(store=…)``, ``async with workflow.run(store=…)``."""

BEGAN = 1_700_000_000.0
"""The first life's time on the wall."""


class Wrapped(Store):
    """A store around another: each call goes through `around`, for a subclass to hinder it."""

    def __init__(self, inner: Store) -> None:
        self.inner = inner
        self.inline = inner.inline
        self.shared = inner.shared

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.inner!r})"

    def around(self, name: str, call: Callable[[], Any]) -> Any:
        """Make this call, or fail instead of it."""
        return call()


def _passing_on(name: str) -> Callable[..., Any]:
    def method(self: Wrapped, *args: Any, **named: Any) -> Any:
        return self.around(name, lambda: getattr(self.inner, name)(*args, **named))

    return method


for _name in Store.__abstractmethods__:
    setattr(Wrapped, _name, _passing_on(_name))
update_abstractmethods(Wrapped)


class _Mortal(Wrapped):
    """One life's access to the content that survives it."""

    def __init__(self, inner: Store, world: "World", life: int) -> None:
        super().__init__(inner)
        if world.inline is not None:
            self.inline = world.inline
        self._world = world
        self._life = life

    def around(self, name: str, call: Callable[[], Any]) -> Any:
        self._check()
        self._world.calling(name)
        if name not in ("claim", "release", "delete"):
            return call()
        self._point(f"before {name}")
        done = call()
        self._point(f"after {name}")
        return done

    def commit(self, writes: Sequence[Write], *, wait: bool = True) -> list[bool]:
        self._check()
        self._world.calling("commit")
        self._point(f"before a commit of {len(writes)}")
        for count in range(1, len(writes)):
            if not self._world.point(f"inside a commit, after {count} of {len(writes)}"):
                self.inner.commit(writes[:count])
                self._check()
        stored = self.inner.commit(writes, wait=wait)
        self._point(f"after a commit of {len(writes)}")
        return stored

    def _point(self, label: str) -> None:
        self._world.point(label)
        self._check()

    def _check(self) -> None:
        if self._world.dead or self._world.lives != self._life:
            raise StoreError("the store", "the process is dead", "nothing", "failed")


@attrs.define
class Report:
    """What a run that never crashed came to, to compare with."""

    points: list[str]
    outcomes: dict[str, Any]
    effects: set[Any]
    shown: dict[str, Counter[str]]


class World:
    """What outlives a process, and the processes one after another."""

    def __init__(
        self,
        scenario: Scenario,
        backend: str,
        *,
        form: Form = "runtime",
        durability: Durability = "sync",
        inline: bool | None = None,
        snapshot_after: int | None = None,
        downtime: float | None = None,
        seed: int = 0,
        release_after: float | None = None,
        fails: Callable[[str, int], bool] | None = None,
    ) -> None:
        self.scenario = scenario
        self.form: Form = form
        self.durability: Durability = durability
        self.inline = inline
        self.downtime = scenario.lease + 1 if downtime is None else downtime
        self.content = MemoryStore()
        self.ledger = Ledger(self.point)
        self.now = BEGAN
        self.lives = 0
        self.dead = False
        self.crashes: list[str] = []
        self.failures: list[str] = []
        self.points: list[str] = []
        self.faults: list[str] = []
        self.started: set[str] = set()
        self.answered: set[tuple[str, str]] = set()
        self._answered_now: set[tuple[str, str]] = set()  # in this life
        self.outcomes: dict[str, Any] = {}
        self.shown: list[tuple[str, Counter[str]]] = []  # by each stream that was read, of this run
        self.completed: set[tuple[str, int]] = set()  # attempts whose end was stored when the process died
        self.before = 0  # effects until then
        self._backend = backend
        self._seed = seed
        self._release_after = release_after
        self._fails = fails
        self.calls: Counter[str] = Counter()  # of the store, by name
        self._snapshot_after = snapshot_after
        self._crash_at: int | None = None
        self._scope: Any = None
        self._loop: Any = None
        self._clock: Callable[[], float] = float
        self._offset = 0.0

    # ---------------------------------------------------------------------------------------------------------- lives

    def live_through(self, *crash_at: int) -> "World":
        """Crash at these points, one after another, each counted from the begin of its life, then live to the end."""
        with self._installed():
            for point in crash_at:
                self._live(point)
                if not self.dead:
                    return self
            self._live(None)
        return self

    def _live(self, crash_at: int | None) -> None:
        self._crash_at = crash_at
        if self.lives:
            self.now += self.downtime
        self.lives += 1
        self.dead = False
        self.points = []
        self._answered_now = set()
        if self._backend == "trio":
            order.seed(self._seed + self.lives)  # trio wakes tasks in a random order: in the same one each time
        run_virtual(self._life, backend=self._backend)
        if self.dead:
            self._look_at_what_is_left()

    async def _life(self) -> None:
        self._loop = backend.current()
        # One that can be read in a worker thread, too.
        self._clock = trio.lowlevel.current_clock().current_time if self._backend == "trio" else self._loop.clock()
        self._offset = self.now - self._clock()
        with anyio.CancelScope() as self._scope:
            try:
                await self._drive()
            except Exception:
                if not self.dead:
                    raise
        if not self.dead:
            self.now = self.wall()

    def wall(self) -> float:
        """Seconds since the epoch."""
        return self._clock() + self._offset

    def calling(self, name: str) -> None:
        """Fail this call of the store, where that is to be."""
        number = self.calls[name]
        self.calls[name] += 1
        if self._fails is not None and self._fails(name, number):
            self.failures.append(f"{name} {number}")
            self._look_at_what_is_left()
            raise StoreError("the store", "the disk is full", "make room", "full")

    def point(self, label: str) -> bool:
        """The process comes to a point; false where it dies there, or has died."""
        if self.dead:
            return False
        self.points.append(label)
        if self._crash_at == len(self.points) - 1:
            self.dead = True
            self.now = self.wall()
            self.crashes.append(label)
            self._loop.from_anywhere(self._scope.cancel)
            return False
        return True

    @contextlib.contextmanager
    def _installed(self) -> Iterator[None]:
        act = Performer.act

        def act_one_by_one(run: Performer, commands: Sequence[Command]) -> None:
            if self.dead:
                return
            if not commands:
                act(run, ())
            for command in commands:
                if not self.point(f"before {type(command).__name__}"):
                    return
                act(run, (command,))
                if not self.point(f"after {type(command).__name__}"):
                    return

        real = outside.Outside()
        clock = SimpleNamespace(time=self.wall, new_id=real.new_id, stopwatch=real.stopwatch, run_type=None)
        with (
            patch.object(Performer, "act", act_one_by_one),
            patch.object(outside, "current", lambda: clock),
            patch.object(log, "SNAPSHOT_AFTER", self._snapshot_after or log.SNAPSHOT_AFTER),
        ):
            yield

    # ------------------------------------------------------------------------------------------------------ the caller

    @property
    def run_ids(self) -> list[str]:
        return [f"run{number}" for number in range(self.scenario.runs)]

    async def _drive(self) -> None:
        scenario = self.scenario
        workflow = scenario.workflow(self.ledger, **scenario.options)
        store = _Mortal(self.content, self, self.lives)
        if self.form != "runtime":
            async with anyio.create_task_group() as group:
                for run_id in self.run_ids:
                    group.start_soon(self._run, workflow, store, run_id)
            return
        async with self._opened(
            store=store,
            workflows=[workflow],
            durability=self.durability,
            lease=scenario.lease,
            release_after=self._release_after,
            release_suspended=True,
        ) as runtime:
            async with anyio.create_task_group() as group:
                for run_id in self.run_ids:
                    group.start_soon(self._follow, runtime, workflow, run_id)
            for run_id in self.run_ids:
                history = await self._history(runtime, run_id)
                self.expect([one.number for one in history] == sorted({one.number for one in history}), "numbers")
                times = [one.time for one in history]
                self.expect(times == sorted(times), f"time goes back in {times}")

    async def _history(self, runtime: Runtime, run_id: str) -> list[HistoryEntry]:
        while True:
            with contextlib.suppress(*self._told):
                return await runtime.history(run_id)

    @contextlib.asynccontextmanager
    async def _opened(self, **options: Any) -> AsyncGenerator[Runtime]:
        while True:
            async with contextlib.AsyncExitStack() as stack:
                try:
                    runtime = await stack.enter_async_context(open_runtime(**options))
                except StoreError:
                    if self.dead or not self.failures:
                        raise
                    continue
                yield runtime
                return

    async def _follow(self, runtime: Runtime, workflow: Noting, run_id: str) -> None:
        while True:
            with contextlib.suppress(*self._told):
                await self._take_part(runtime, workflow, run_id)
            if self.dead or self.outcomes.get(run_id, ["StoreError"])[0] != "StoreError":
                return
            await anyio.sleep(1)

    @property
    def _told(self) -> tuple[type[Exception], ...]:
        """What the caller is prepared for."""
        return (StoreError, RunFinished) if self._fails is not None else ()

    async def _take_part(self, runtime: Runtime, workflow: Noting, run_id: str) -> None:
        answers = sum(run == run_id for run, _ in self.answered)
        if run_id in self.started and answers == self.scenario.answers:
            await self._hands_off(run_id)
        while True:
            handler = await self._begun(runtime, workflow, run_id)
            if not self.dead:
                self.started.add(run_id)
            shown = self._reading(run_id)
            async for event in handler.stream_events(from_start=True):
                text = self._saw(run_id, event, shown)
                if text is None:
                    continue
                if self._release_after is not None:
                    break  # it leaves memory, as nobody holds its handler any more
                # At once, or after the run has come to rest and that is stored.
                await anyio.sleep(len(self.answered) % 2)
                await self._answer(runtime, run_id, text)
            else:
                await self._end(run_id, handler)
                return
            del handler
            await anyio.sleep(3 * self._release_after)
            await self._answer(runtime, run_id, text)

    async def _answer(self, runtime: Runtime, run_id: str, text: str) -> None:
        await runtime.send_event(run_id, Reply(text, f"{text}!"))
        if not self.dead:
            self.answered.add((run_id, text))
            self._answered_now.add((run_id, text))
            self.point("after answering")

    async def _begun(self, runtime: Runtime, workflow: Noting, run_id: str) -> Any:
        while True:
            try:
                return await runtime.run(workflow, run_id=run_id)
            except RunElsewhere:  # the lease of the one that died isn't over
                await anyio.sleep(self.scenario.lease / 5)

    async def _run(self, workflow: Noting, store: Store, run_id: str) -> None:
        while True:
            handler = workflow.run(store=store, run_id=run_id, durability=self.durability)
            if self.form == "run":
                await self._end(run_id, handler)
            else:
                with contextlib.suppress(*self._told):
                    await self._answer_all(run_id, handler)
            if self.dead or self.outcomes.get(run_id, ["StoreError"])[0] not in ("RunElsewhere", "StoreError"):
                return
            await anyio.sleep(self.scenario.lease / 5)

    async def _answer_all(self, run_id: str, handler: Any) -> None:
        shown = self._reading(run_id)
        async with handler:
            async for event in handler.stream_events(from_start=True):
                text = self._saw(run_id, event, shown)
                if text is not None:
                    handler.send_event(Reply(text, f"{text}!"))
            await self._end(run_id, handler)

    def _reading(self, run_id: str) -> Counter[str]:
        shown: Counter[str] = Counter()
        self.shown.append((run_id, shown))
        return shown

    def _saw(self, run_id: str, event: Any, shown: Counter[str]) -> str | None:
        """The caller sees an event; the question, where it is to answer one."""
        if self.dead:
            return None
        shown[repr(event)] += 1
        if not isinstance(event, Ask):
            return None
        if (run_id, event.text) in self.answered:
            # A stream that is read from its start shows what was asked in this life, but nothing from before it.
            self.expect((run_id, event.text) in self._answered_now, f"{event.text} was asked again after its answer")
            return None
        return event.text if self.point("before answering") else None

    async def _hands_off(self, run_id: str) -> None:
        """The caller owes nothing: the run must come to its end by itself."""
        pause = 1.0
        while pause < 100 * self.scenario.lease:
            info = self.content.info(run_id)
            if info is not None and info.status in ENDED:
                return
            await anyio.sleep(pause)
            pause *= 2
        self.faults.append(f"{run_id} has all its answers, and nobody goes on with it: {self.content.info(run_id)}")

    async def _end(self, run_id: str, handler: Any) -> None:
        try:
            outcome = ["result", await handler]
        except WorkflowError as error:
            outcome = [type(error).__name__, str(error)]
        if not self.dead:
            self.outcomes[run_id] = outcome

    # ---------------------------------------------------------------------------------------------------- looking at it

    def expect(self, right: bool, problem: str) -> None:
        if not right and not self.dead:
            self.faults.append(problem)

    def _look_at_what_is_left(self) -> None:
        """What is stored when the process has died: which attempts had ended."""
        repeated = [one for one in self.ledger.entries[self.before :] if (one.key, one.attempt) in self.completed]
        self.faults += [f"{one} had completed before" for one in repeated]
        self.before = len(self.ledger.entries)
        self.completed = set(self._completed())

    def _completed(self) -> Iterator[tuple[str, int]]:
        workflows = {kind.__name__: kind(self.ledger) for kind in (self.scenario.workflow, *NESTED)}
        for run_id, run in self.content._runs.items():
            for _, fact, machine in records_of(workflows[run.workflow]).replay(run_id, run.records):
                if isinstance(fact, StepReturned | StepCommitted | StepRaised):
                    entry = machine.invocations[fact.invocation]
                    yield f"{run_id}/{entry.lane.spec.name}/{entry.number}", entry.attempt

    def report(self) -> Report:
        """This life, for others to be compared with."""
        assert not self.crashes
        self._check_store()
        assert not self.faults, self.faults
        effects = {_effect(entry) for entry in self.ledger.entries}
        assert len(effects) == len(self.ledger.entries), "an effect without a crash came twice"
        shown: dict[str, Counter[str]] = {}
        for run_id, events in self.shown:
            shown[run_id] = shown.get(run_id, Counter()) | events
        return Report(self.points, self.outcomes, effects, shown)

    def check(self, calm: Report) -> None:
        """Compare what came of all this with a life that never crashed.

        Raises:
            AssertionError: it isn't the same.
        """
        if self.crashes or self.failures:
            last = self.ledger.entries[self.before :]
            if self.durability == "sync":
                self.faults += [
                    f"{one} had completed before" for one in last if (one.key, one.attempt) in self.completed
                ]
        self._check_store()
        if self.outcomes != calm.outcomes:
            self.faults.append(f"the outcomes are {self.outcomes}, not {calm.outcomes}")
        self._check_effects(calm)
        self._check_shown(calm)
        assert not self.faults, "\n".join([f"after {[*self.crashes, *self.failures]}:", *self.faults])

    def _check_effects(self, calm: Report) -> None:
        times = Counter(_effect(entry) for entry in self.ledger.entries)
        if not self.scenario.loose and set(times) != calm.effects:
            self.faults.append(f"lost {calm.effects - set(times)}, made up {set(times) - calm.effects}")
        keys: dict[Any, set[str]] = {}
        for entry in self.ledger.entries:
            keys.setdefault(_effect(entry), set()).add(entry.key)
        for effect, count in times.items():
            if count > 1 + len(self.crashes) + len(self.failures):
                self.faults.append(f"{effect} came {count} times")
            if len(keys[effect]) > 1 and self.durability == "sync" and not self.scenario.loose:
                self.faults.append(f"{effect} has several keys, {keys[effect]}")

    def _check_shown(self, calm: Report) -> None:
        """No stream shows what the calm one didn't, nor more often."""
        for run_id, events in self.shown:
            more = events - calm.shown[run_id]
            if more:
                self.faults.append(f"{run_id} showed {dict(more)} too often")

    def _check_store(self) -> None:
        for run_id, run in self.content._runs.items():
            if run.status not in ENDED and not (run.parent is not None and self.crashes):
                self.faults.append(f"{run_id} is {run.status}")
            if run.owner is not None and not self.crashes:
                self.faults.append(f"{run_id} still has the owner {run.owner}")
        if len(self.content._leases) > len(self.crashes) + sum("leave" in one for one in self.failures):
            self.faults.append(f"leases are left: {self.content._leases}")
        for _ in self._completed():
            pass  # every journal can be read


def _effect(entry: Entry) -> tuple[str, tuple[Any, ...]]:
    return entry.key.split("/")[0], entry.what


@functools.cache
def baseline(name: str, backend: str, **options: Any) -> Report:
    """The life of this scenario without a crash."""
    return World(SCENARIOS[name], backend, **options).live_through().report()
