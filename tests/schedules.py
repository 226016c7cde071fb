"""Any async function under many schedules, for the tests of flowkit itself: what `testing.explore` does for a workflow.

`explored` runs a function in simulated processes: run to block, first come first served, every schedule that deviates
once, then twice, then random ones, until its budget of runs is used up. Whatever the function asserts is asked in each.
Beside that, in every run:

- it doesn't deadlock, leaves no task behind, and raises nothing that nobody hears of;
- flowkit logs no error and gives no warning but those that are named;
- each flowkit run in it obeys the laws (`WatchedRun`): its facts, replayed into a fresh machine, give the same commands
  and the same end; no step has more attempts at work than it may; the end comes once and last; no event changed after
  it was sent.

With ``crash`` each process also dies, in a schedule of its own, at every point at which it writes.
"""

import contextlib
import gc
import logging
import random
import warnings
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any

import anyio
import anyio.lowlevel
import attrs

from flowkit import Handler, outside
from flowkit.books import RUNNING
from flowkit.errors import WorkflowError
from flowkit.facts import Command, Fact, Finish, RunStarted, WaitAbandoned
from flowkit.launching import chained
from flowkit.machine import Machine
from flowkit.performer import logger
from flowkit.state import State
from flowkit.testing.kernel import Kernel, Stuck
from flowkit.testing.report import described
from flowkit.testing.scenario import Backend, Fault, PolicyName, Scenario
from flowkit.testing.scheduling import Scheduler
from flowkit.testing.simulated_run import SimulatedRun
from flowkit.testing.simulation import DOWNTIME
from flowkit.testing.threads import installed, simulating, watched
from flowkit.testing.trace import TracingScheduler, rows_of
from flowkit.testing.world import SimulatedStore, World

__all__ = [
    "LONG",
    "SHORT",
    "Broken",
    "Explored",
    "Main",
    "Program",
    "Programs",
    "Session",
    "explored",
    "moments",
    "outcome",
    "the_store",
    "the_world",
]

Main = Callable[[], Awaitable[Any]]


class Broken(AssertionError):
    """A schedule in which something doesn't hold. Its text is how to see it again, and what happened."""

    def __init__(self, text: str, scenario: Scenario) -> None:
        super().__init__(text)
        self.scenario = scenario


@attrs.define
class Explored:
    """What was looked at: how many runs, what they returned how often, and which bounds were exhausted."""

    runs: int = 0
    results: Counter[str] = attrs.field(factory=Counter)
    exhausted: list[str] = attrs.field(factory=list)


def the_world() -> World:
    """The world of the process that runs here."""
    world = outside.current()
    assert isinstance(world, World)
    return world


def the_store() -> SimulatedStore:
    """A connection to the store, which outlives the process."""
    return SimulatedStore(the_world())


# ---------------------------------------------------------------------------------------------------------- the laws


class WatchedRun(SimulatedRun):
    """A run whose facts are kept, to be replayed when all is over."""

    __slots__ = ("facts", "stepwise")

    def __init__(self, *args: Any, **named: Any) -> None:
        self.facts: list[tuple[Fact, list[str]]] = []
        super().__init__(*args, **{**named, "keep": chained(self._watch, named.get("keep"))})

    def _watch(self, fact: Fact, commands: Sequence[Command]) -> None:
        machine = self.machine
        if not self.facts:
            self.stepwise = machine.stepwise
        self.facts.append((fact, [_told(command) for command in commands]))
        for lane in machine.lanes:
            # A wait that its step gave up goes on at once, for that moment beyond the limit.
            beyond = sum(isinstance(one, WaitAbandoned) for one, _ in self.facts)
            assert lane.running <= lane.num_workers + beyond, f"{lane.spec.name} has {lane.running} at work"
        at_work = sum(entry.status == RUNNING for entry in machine.invocations.values())
        assert machine.busy == at_work, f"{machine.busy} are busy, {at_work} run"
        ends = [number for number, command in enumerate(commands) if isinstance(command, Finish)]
        assert ends in ([], [len(commands) - 1]), "the end isn't the last command"

    def check(self) -> None:
        """Replay it."""
        if not self.facts or not isinstance(self.facts[0][0], RunStarted):
            return
        again = Machine(self.machine.plan, State(self.machine.plan.state_type), patient=self.machine.patient)
        again.stepwise = self.stepwise
        for number, (fact, commands) in enumerate(self.facts):
            told = [_told(command) for command in again.receive(fact)]
            assert told == commands, f"fact {number}, {fact!r}, replayed gives {told}, and gave {commands}"


def _told(command: Command) -> str:
    if isinstance(command, Finish):
        return f"Finish({command.event!r}, {type(command.error).__name__}: {command.error})"
    return repr(command)


# ------------------------------------------------------------------------------------------------------------ one run


@attrs.define(eq=False)
class _Process:
    """One life."""

    main: Main
    kernel: Kernel
    scope: "anyio.CancelScope | None" = None
    result: Any = None

    async def run(self) -> None:
        with anyio.CancelScope() as self.scope:
            self.result = await self.main()

    def cut(self) -> None:
        if self.scope is not None:
            self.kernel.call(self.scope.cancel)


def kernel_type(backend: Backend) -> type[Kernel]:
    """The kernel of a backend."""
    if backend == "asyncio":
        from flowkit.testing.asyncio_kernel import AsyncioKernel

        return AsyncioKernel
    from flowkit.testing.trio_kernel import TrioKernel

    return TrioKernel


class Session:
    """A function, a backend, and what may be heard of."""

    def __init__(
        self,
        main: Main,
        backend: Backend,
        warns: tuple[type[Warning], ...] = (),
        logs: Callable[[str], bool] | None = None,
        *,
        is_watched: bool = True,
    ) -> None:
        self.main, self.warns, self.logs = main, warns, logs or (lambda _: False)
        self.run_type: Any = WatchedRun if is_watched else None
        self.kernel_type = kernel_type(backend)
        self.seen = Explored()
        self.watching: Any = None
        self.logged: list[str] = []
        self.world: World
        """Of the latest run."""

    @contextlib.contextmanager
    def opened(self) -> Iterator[None]:
        before, was_on = random.getstate(), gc.isenabled()
        handler = _Listening(self.logged)
        logger.addHandler(handler)
        gc.collect()
        gc.freeze()  # so that collecting what runs leave is quick
        gc.disable()  # what is dropped in a run is noticed in it, and nothing else is
        try:
            with installed(), watched() as self.watching:
                yield
        finally:
            gc.unfreeze()
            if was_on:
                gc.enable()
            logger.removeHandler(handler)
            random.setstate(before)

    def look(self, scenario: Scenario, scheduler: Scheduler | None = None) -> None:
        """One run; raises what is wrong with it."""
        scheduler = scheduler or Scheduler(scenario.make_policy())
        world = self.world = World(scenario, scheduler, {}, self.run_type)
        problems: list[str] = []
        random.seed(0)
        self.logged.clear()
        self.seen.runs += 1
        token = outside.around.set(world)
        result: Any = None
        try:
            with self.watching(scheduler), simulating(), warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                now, crashes = 0.0, list(scenario.crashes)
                while True:
                    now, result = self._live(world, now, crashes.pop(0) if crashes else None, problems)
                    if not world.dead:
                        break
                    caught.clear()
                    self.logged.clear()
                    now += DOWNTIME
                if self.seen.runs % 50 == 0:
                    gc.collect()
                    gc.freeze()
        finally:
            outside.around.reset(token)
        told = [*world.warnings, *(one.message for one in caught)]
        problems += [f"{type(one).__name__}: {one}" for one in told if not isinstance(one, self.warns)]
        problems += [one for one in self.logged if not self.logs(one)]
        problems += [f"{one!r} isn't what it was when it was sent" for one in world.sent.changed()]
        if world.problem is not None:
            problems.append(str(world.problem))
        for run in world.runs:
            try:
                run.check()
            except AssertionError as error:
                problems.append(str(error))
            run.forget()
        if problems:
            raise AssertionError("\n".join(problems))
        self.seen.results[repr(result)] += 1

    def fails(self, scenario: Scenario, kind: type[Exception]) -> bool:
        """Whether it fails in the same way in this scenario, too."""
        try:
            self.look(scenario)
        except Exception as error:  # noqa: BLE001 - compared
            return type(error) is kind
        return False

    def _live(self, world: World, now: float, crash_at: int | None, problems: list[str]) -> tuple[float, Any]:
        scheduler = world.scheduler
        scheduler.progress()
        kernel = self.kernel_type(scheduler, now)
        if isinstance(scheduler, TracingScheduler):
            scheduler.kernel = kernel
        process = _Process(self.main, kernel)
        world.begin(kernel, crash_at, process.cut)
        try:
            kernel.run(process.run)
        except Stuck as stuck:
            if not world.dead:
                raise AssertionError("deadlock\n" + "\n".join(f"  {task}" for task in stuck.tasks)) from None
        except BaseException:
            if not world.dead:
                raise
        finally:
            if world.dead:
                for run in world.runs:
                    run.forget()
            else:
                problems += [f"left behind: {one}" for one in kernel.alive()]
            kernel.close()
        if not world.dead:
            problems += kernel.unhandled
        return kernel.now, process.result


class _Listening(logging.Handler):
    def __init__(self, logged: list[str]) -> None:
        super().__init__(logging.ERROR)
        self._logged = logged

    def emit(self, record: logging.LogRecord) -> None:
        world = outside.current()
        if not (isinstance(world, World) and world.dead):
            self._logged.append(f"logged: {record.getMessage()} {record.exc_info and record.exc_info[1]!r}")


# ---------------------------------------------------------------------------------------------------------- many runs


def explored(
    main: Main,
    backend: Any,
    *,
    budget: int = 100,
    bound: int = 2,
    warns: tuple[type[Warning], ...] = (),
    logs: Callable[[str], bool] | None = None,
    crash: bool = False,
    faults: Sequence[Fault] = (),
    is_watched: bool = True,
) -> Explored:
    """Run it under many schedules.

    Args:
        main: the function; called once for each process.
        backend: "asyncio" or "trio".
        budget: how many runs.
        bound: deviating schedules are exhausted up to this bound, as far as the budget lasts.
        warns: what it may warn of.
        logs: whether this error may be logged.
        crash: it dies at each of its points, then at some under deviating schedules.
        faults: of the store; one at a time.
        is_watched: whether the laws are checked, by runs of a class of its own.

    Raises:
        Broken: something doesn't hold in one of them.
    """
    session = Session(main, backend, warns, logs, is_watched=is_watched)
    with session.opened():
        for scenario in _scenarios(session, budget, bound, crash, faults):
            try:
                session.look(scenario)
            except Exception as error:
                raise _broken(session, scenario, error) from error
            if session.seen.runs >= budget:
                break
    return session.seen


def _scenarios(session: Session, budget: int, bound: int, crash: bool, faults: Sequence[Fault]) -> Iterator[Scenario]:
    yield Scenario()
    base = session.world
    yield Scenario(policy="fifo")
    sites = [Scenario(faults=(one,)) for one in faults]
    if crash:
        sites += [Scenario(crashes=(point,)) for point in range(len(base.points))]
    yield from sites
    if sites:
        session.seen.exhausted.append(f"{len(sites)} sites")
    shorter: list[tuple[Scenario, list[int]]] = [(Scenario(), list(base.scheduler.widths))]
    for depth in range(1, bound + 1):
        longer: list[tuple[Scenario, list[int]]] = []
        for below, widths in shorter:
            for scenario in _deviating(below, widths):
                yield scenario
                longer.append((scenario, list(session.world.scheduler.widths)))
        session.seen.exhausted.append(f"bound {depth}")
        if sites and depth == 1:
            for scenario, _ in longer:
                for site in sites:
                    yield attrs.evolve(site, deviations=scenario.deviations)
            session.seen.exhausted.append(f"{len(sites)} sites under bound 1")
        shorter = longer
        if session.seen.runs > budget / 2:
            break
    draw = random.Random(0)
    policies: list[PolicyName] = ["pos", "pct", "walk"]
    while base.scheduler.decisions:
        policy = policies[draw.randrange(3)]
        scenario = Scenario(policy=policy, seed=draw.getrandbits(32), decisions=base.scheduler.decisions)
        if sites and draw.random() < 0.7:
            site = draw.choice(sites)
            scenario = attrs.evolve(scenario, faults=site.faults, crashes=site.crashes)
        yield scenario


def _deviating(below: Scenario, widths: list[int]) -> Iterator[Scenario]:
    last, shift = below.deviations[-1] if below.deviations else (-1, 0)
    if last >= 0 and shift + 1 < widths[last]:
        yield Scenario(deviations=(*below.deviations[:-1], (last, shift + 1)))
    for decision in range(last + 1, len(widths)):
        yield Scenario(deviations=(*below.deviations, (decision, 1)))


def _broken(session: Session, scenario: Scenario, error: Exception) -> Broken:
    """Make it as small as leaving out deviations does, and tell what happens in it."""
    after = session.seen.runs
    if scenario.policy not in ("block", "fifo"):
        told = tuple(session.world.scheduler.deviations)
        plain = attrs.evolve(scenario, policy="block", seed=0, decisions=0, deviations=told)
        if session.fails(plain, type(error)):
            scenario = plain
    size = len(scenario.deviations)
    while size:
        at = 0
        while at < len(scenario.deviations):
            fewer = attrs.evolve(scenario, deviations=scenario.deviations[:at] + scenario.deviations[at + size :])
            if session.fails(fewer, type(error)):
                scenario = fewer
            else:
                at += size
        size //= 2
    traced = TracingScheduler(scenario.make_policy())
    try:
        session.look(scenario, traced)
        error = AssertionError(f"(not when it is run again) {error}")
    except Exception as again:  # noqa: BLE001 - whatever it is, it is told
        error = again
    lines = [f"{type(error).__name__}: {error}", f"  {described(scenario)}", f"  {scenario}", f"  after {after} runs"]
    for row, name, did in rows_of(session.world, traced):
        mark = "⇄" if row.instead_of is not None else " "
        lines.append(f"  {row.time:<7g} {mark} {name:<18.18} {row.place:<34.34} {'; '.join(did)}")
    return Broken("\n".join(lines), scenario)


# ----------------------------------------------------------------------------------------------------------- programs

SHORT = 40
"""Runs of each program, on each backend."""

LONG = 2_000
"""The same under ``-m crash``."""


@attrs.frozen
class Program:
    """An async function that may return ``ways``, warn of ``warns``, and have errors logged that contain one of
    ``logs``; with ``options`` of `explored`."""

    main: Main
    ways: frozenset[str]
    warns: tuple[type[Warning], ...]
    logs: tuple[str, ...]
    options: dict[str, Any]

    def search(self, backend: str, budget: int) -> set[str]:
        """The ways that it goes under so many schedules."""
        found = explored(self.main, backend, budget=budget, warns=self.warns, logs=self.may_log, **self.options)
        assert found.results.keys() <= self.ways, found.results
        return set(found.results)

    def may_log(self, text: str) -> bool:
        return any(part in text for part in self.logs)


class Programs(dict[str, Program]):
    """The programs of a module, by name."""

    def add(
        self, *ways: Any, warns: tuple[type[Warning], ...] = (), logs: tuple[str, ...] = (), **options: Any
    ) -> Callable[[Main], Main]:
        """Make a function a program; ``ways`` is all that it may return, ``None`` if nothing is said."""

        def decorate(main: Main) -> Main:
            name: str = main.__name__  # type: ignore[attr-defined]
            assert name not in self
            self[name] = Program(main, frozenset(map(repr, ways or (None,))), warns, logs, options)
            return main

        return decorate


async def outcome(handler: Handler) -> Any:
    """A run's result, or the name of its error."""
    try:
        return await handler
    except (WorkflowError, TimeoutError) as error:
        return type(error).__name__


async def moments(count: int) -> None:
    """Let the others go first so often."""
    for _ in range(count):
        await anyio.lowlevel.checkpoint()
