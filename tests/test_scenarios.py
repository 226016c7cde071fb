"""Random scenarios on real runs, on both backends under virtual time: as they come, and in any order.

Hypothesis draws a workflow, what its steps do, a way of owning its run, and what several tasks do to that run and when.
Whatever it draws: nothing hangs, nothing is left behind, whatever was entered is left, no event is lost or doubled, and
all who await the run hear the same. How many examples: ``FLOWKIT_EXAMPLES`` for each backend (40 by default).
"""

import contextlib
import gc
import logging
import os
import sys
import warnings
import weakref
from collections.abc import Iterator
from typing import Any

import anyio
import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scenario_flows import (
    Act,
    Book,
    CaughtFan,
    Chain,
    Done,
    Extra,
    Fan,
    Gather,
    Human,
    Nested,
    Reply,
    Resourced,
    Shape,
    Stall,
    Thread,
    Waits,
    WaitsTogether,
)
from schedules import Session

from flowkit import (
    Event,
    Handler,
    StepFailed,
    UnhandledEventWarning,
    WorkflowCancelled,
    WorkflowCancelledByUser,
    WorkflowRuntimeError,
    WorkflowStalled,
    WorkflowTimeoutError,
)
from flowkit.errors import CleanupFailedWarning, RunFinished
from flowkit.testing.scenario import Scenario as Schedule
from flowkit.testing.virtual_time import run_virtual, virtual_backend

EXAMPLES = int(os.environ.get("FLOWKIT_EXAMPLES", "40"))
PATIENCE = 300.0
"""Seconds of virtual time after which a run that waits for somebody is cancelled."""
HANG = 10_000.0
"""Seconds of virtual time that no scenario takes."""

INNER = (Chain, Fan, CaughtFan, Gather, Waits, WaitsTogether, Human, Stall, Resourced)
SHAPES = (*INNER, *INNER, Nested, Nested, Nested, Thread)
DEEDS = (
    "stream", "stream", "stream_some", "stream_from_start", "stream_for", "await", "await", "await_for", "cancel",
    "cancel_and_wait", "send", "answer", "answer", "answer_twice", "step", "step_for", "look",
)  # fmt: skip
ENDS = ("await", "await", "await_for", "leave", "raise", "drop", "cancel")


@attrs.frozen
class Deed:
    """Something a task does to the run, ``after`` so many seconds; ``k`` is how much of it."""

    after: float
    what: str
    k: float


@attrs.frozen
class Scenario:
    shape: type[Shape]
    child: type[Shape]
    acts: tuple[Act, ...]
    owner: str
    end: Deed
    timeout: float | None
    tasks: tuple[tuple[Deed, ...], ...]

    def does(self, *deeds: str) -> bool:
        """Whether anybody does one of these."""
        return any(deed.what in deeds for task in (*self.tasks, (self.end,)) for deed in task)


seconds = st.sampled_from((0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 5.0))
acts = st.builds(
    Act,
    lasts=seconds,
    tidies=st.sampled_from((0.0, 0.0, 1.0, 2.5)),
    fails=st.sampled_from((0, 0, 0, 0, 1, 2, 9)),
    shielded=st.sampled_from((False, False, False, True)),
    untidy=st.sampled_from((False,) * 9 + (True,)),
)
deeds = st.builds(Deed, seconds, st.sampled_from(DEEDS), seconds)
scenarios = st.builds(
    Scenario,
    shape=st.sampled_from(SHAPES),
    child=st.sampled_from(INNER),
    acts=st.lists(acts, min_size=1, max_size=4).map(tuple),
    owner=st.sampled_from(("await", "block", "bare", "bare", "stepwise")),
    end=st.builds(Deed, seconds, st.sampled_from(ENDS), seconds),
    timeout=st.sampled_from((None, None, None, 1.0, 4.0)),
    tasks=st.lists(st.lists(deeds, min_size=1, max_size=4).map(tuple), max_size=3).map(tuple),
)


class Left(Exception):
    """The block was left on purpose."""


class Stage:
    """One performance of a scenario."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.book = Book()
        self.outcomes: set[tuple[str, str]] = set()
        self.kinds: set[type] = set()
        self.readers: list[tuple[list[Event], bool]] = []
        self.handler: Handler | None = None
        self.gave_up = False
        self.deserted = False

    async def perform(self) -> None:
        with anyio.fail_after(HANG):
            await self._perform()
            gc.collect()
            await anyio.sleep(60)  # a dropped run cleans up
        self.book.check(not self.book.open, f"never left: {dict(self.book.open)}")

    async def leave_running(self) -> None:
        """Start the run, and let the event loop end."""
        self.handler = self._run()
        await anyio.sleep(self.scenario.end.after)

    def _run(self) -> Handler:
        scenario = self.scenario
        flow = scenario.shape(self.book, list(scenario.acts), timeout=scenario.timeout)
        if scenario.shape is Nested:
            flow.add_workflows(child=scenario.child(self.book, list(scenario.acts)))
        return flow.run(stepwise=scenario.owner == "stepwise", book=self.book)

    async def _perform(self) -> None:
        self.handler = self._run()
        async with anyio.create_task_group() as group:
            group.start_soon(self._lose_patience, weakref.ref(self.handler))
            async with anyio.create_task_group() as actors:
                owner = self._in_block if self.scenario.owner == "block" else self._in_task
                await owner(actors)
            group.cancel_scope.cancel()
        if self.handler is not None and self.handler.is_done():
            await self._check_streams(self.handler)
        self.handler = None

    async def _lose_patience(self, handler: "weakref.ref[Handler]") -> None:
        await anyio.sleep(PATIENCE)
        alive = handler()
        if alive is not None and not alive.is_done():
            self.gave_up = True
            alive.cancel_run()

    # ------------------------------------------------------------------------------------------------------- owners

    async def _in_block(self, actors: Any) -> None:
        block = self.handler
        assert block is not None
        told = self.scenario.does("await", "await_for", "cancel", "cancel_and_wait", "look")
        try:
            with anyio.move_on_after(self.scenario.end.k if self.scenario.end.what == "await_for" else None):
                async with block as handler:
                    self._start(actors)
                    await self._end(handler)
                told = told or self.gave_up
                self.book.check(block.exception() is None or told, "the block didn't raise what nobody was told of")
        except Left:
            pass
        except WorkflowRuntimeError as error:
            self.hear(error)
        self.all_left("a block")
        self.hear(block.exception())

    async def _in_task(self, actors: Any) -> None:
        self._start(actors)
        handler = self.handler
        assert handler is not None
        if self.scenario.owner == "stepwise":
            await self._step(handler, rounds=20)
        with contextlib.suppress(Left):
            if self.scenario.end.what == "await_for":
                with anyio.move_on_after(self.scenario.end.k):
                    await self._end(handler)
            else:
                await self._end(handler)

    def _start(self, actors: Any) -> None:
        for task in self.scenario.tasks:
            actors.start_soon(self._act, task)

    async def _end(self, handler: Handler) -> None:
        end = self.scenario.end
        if self.scenario.owner != "await":
            await anyio.sleep(end.after)
        match end.what:
            case "await" | "await_for":
                await self._await(handler)
            case "raise":
                raise Left
            case "drop":
                self.handler = None
            case "cancel":
                handler.cancel_run()
            case _:
                pass

    # -------------------------------------------------------------------------------------------------------- actors

    async def _act(self, task: tuple[Deed, ...]) -> None:
        for deed in task:
            await anyio.sleep(deed.after)
            if self.handler is not None:
                with contextlib.suppress(RunFinished):
                    await self._do(deed, self.handler)

    async def _do(self, deed: Deed, handler: Handler) -> None:
        match deed.what:
            case "stream":
                await self._read(handler, None)
            case "stream_some":
                await self._read(handler, int(deed.k) + 1)
            case "stream_from_start":
                await self._read(handler, None, from_start=True)
            case "stream_for":
                with anyio.move_on_after(deed.k):
                    await self._read(handler, None)
            case "await":
                await self._await(handler)
            case "await_for":
                with anyio.move_on_after(deed.k):
                    await self._await(handler)
            case "cancel":
                handler.cancel_run()
            case "cancel_and_wait":
                await handler.cancel_run()
                self.all_left("cancel_run()")
            case "send":
                handler.send_event(Extra(n=1))
            case "answer" | "answer_twice":
                if self.book.asked:
                    n = self.book.asked.pop(0)
                    handler.ctx.send_event(Reply(n=n))
                    if deed.what == "answer_twice":
                        handler.send_event(Reply(n=n))
            case "step":
                await self._step(handler, rounds=3)
            case "step_for":
                with anyio.move_on_after(deed.k):
                    await self._step(handler, rounds=3)
            case "look":
                assert repr(handler)
                if handler.is_done():
                    self.all_left("is_done()")
                    self.hear(handler.exception())

    async def _await(self, handler: Handler) -> None:
        try:
            result = await handler
        except Exception as error:  # noqa: BLE001 - whatever it is: every awaiter must hear the same
            self.hear(error)
        else:
            assert isinstance(result, Done)
            self.hear(None)
        self.all_left("await")
        assert handler.is_done()

    async def _read(self, handler: Handler, most: int | None, *, from_start: bool = False) -> None:
        seen: list[Event] = []
        self.readers.append((seen, False))
        place = len(self.readers) - 1
        async for event in handler.stream_events(from_start=from_start):
            seen.append(event)
            if most is not None and len(seen) >= most:
                return
        self.readers[place] = (seen, True)

    async def _step(self, handler: Handler, rounds: int) -> None:
        for _ in range(rounds):
            try:
                produced = await handler.run_step()
            except WorkflowRuntimeError as error:
                # Somebody else steps, or has ended stepping by awaiting the run.
                if "already running" not in str(error) and "needs a stepwise run" not in str(error):
                    raise
                return
            if not produced:
                return
            for event in produced:
                with contextlib.suppress(RunFinished):
                    handler.ctx.send_event(event)

    # ------------------------------------------------------------------------------------------------------- oracles

    def hear(self, error: BaseException | None) -> None:
        """An awaiter hears how the run ended."""
        self.outcomes.add((type(error).__name__, str(error)))
        self.kinds.add(type(error))

    def all_left(self, after: str) -> None:
        """When a run has ended, everything in it has."""
        self.book.check(not self.book.open, f"after {after} still inside: {dict(self.book.open)}")

    async def _check_streams(self, handler: Handler) -> None:
        log: list[Event] = []
        stops: list[bool] = []
        reader = handler.stream_events(from_start=True)
        async for event in reader:
            log.append(event)
            stops.append(isinstance(event, Done) and reader.origin is None)
        self.book.check(not any(stops[:-1]), "something came after the StopEvent")
        self.book.check(handler.exception() is not None or stops[-1], "the StopEvent is missing")
        places = {id(event): place for place, event in enumerate(log)}
        for seen, ended in self.readers:
            where = [places.get(id(event)) for event in seen]
            first = where[0] if where else None
            self.book.check(
                where == ([] if first is None else list(range(first, first + len(where)))), f"a reader saw {where}"
            )
            self.book.check(not (ended and where) or where[-1] == len(log) - 1, "a reader missed the end")

    def may_fail(self) -> bool:
        acts, shape = self.scenario.acts, (self.scenario.shape, self.scenario.child)
        return any(act.fails or act.untidy for act in acts) or self.scenario.timeout is not None or Stall in shape

    def is_untidy(self) -> bool:
        return any(act.untidy for act in self.scenario.acts)

    def may_end(self) -> set[type]:
        """How this scenario's run may end."""
        scenario = self.scenario
        kinds = {
            type(None): True,
            StepFailed: any(act.fails or act.untidy for act in scenario.acts),
            WorkflowTimeoutError: scenario.timeout is not None,
            WorkflowCancelledByUser: scenario.does("cancel", "cancel_and_wait") or self.gave_up,
            WorkflowCancelled: scenario.does("await_for", "raise", "leave", "drop", "cancel"),
            WorkflowStalled: Stall in (scenario.shape, scenario.child) or scenario.owner == "stepwise",
        }
        if scenario.shape is Nested and scenario.child is Stall:
            kinds[StepFailed] = True  # the child's stalling is the parent's step's failure
        return {kind for kind, may in kinds.items() if may}

    def may_log(self, text: str) -> bool:
        # A child fails for itself at the moment when whoever awaits it is cancelled.
        unheard = not self.kinds or self.scenario.shape is Nested
        expected = "nobody awaited" in text and (self.deserted or (unheard and self.may_fail()))
        return expected or ("clean-up failed" in text and self.is_untidy())

    def may_warn(self) -> set[type]:
        scenario = self.scenario
        kinds = {
            ResourceWarning: scenario.does("drop", "leave", "raise", "await_for"),
            UnhandledEventWarning: scenario.does("send", "answer", "answer_twice"),
            CleanupFailedWarning: self.is_untidy(),
        }
        return {kind for kind, may in kinds.items() if may}


@contextlib.contextmanager
def _noticed(stage: Stage) -> Iterator[list[warnings.WarningMessage]]:
    """Note what nobody would raise: warnings, what asyncio logs, what is raised in finalisers."""

    class Logged(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            expected = stage.may_log(record.getMessage())
            stage.book.check(expected, f"logged by {record.name}: {record.getMessage()} {record.exc_info}")

    logged, hook = Logged(logging.WARNING), sys.unraisablehook
    sys.unraisablehook = lambda one: stage.book.faults.append(f"unraisable: {one.exc_value!r} in {one.object!r}")
    logging.getLogger().addHandler(logged)
    try:
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            yield warned
    finally:
        logging.getLogger().removeHandler(logged)
        sys.unraisablehook = hook


@given(scenario=scenarios)
@settings(max_examples=EXAMPLES, deadline=None)
def test_whatever_is_done_to_a_run_it_ends_cleanly(anyio_backend_name: str, scenario: Scenario) -> None:
    stage = Stage(scenario)
    with _noticed(stage) as warned:
        run_virtual(stage.perform, backend=anyio_backend_name)
        gc.collect()
    stage.book.check(len(stage.outcomes) <= 1, f"awaiters heard {stage.outcomes}")
    stage.book.check(stage.kinds <= stage.may_end(), f"it ended by {stage.outcomes}")
    for warning in warned:
        stage.book.check(warning.category in stage.may_warn(), f"{warning.category.__name__}: {warning.message}")
    assert not stage.book.faults, "\n".join(stage.book.faults)


some_order = st.builds(
    Schedule, policy=st.sampled_from(["walk", "pos", "fifo"]), seed=st.integers(0, 1_000_000)
) | st.builds(
    Schedule,
    deviations=st.dictionaries(st.integers(0, 60), st.integers(1, 3), max_size=4).map(lambda each: tuple(each.items())),
)


def test_whatever_is_done_to_a_run_in_whatever_order_it_ends_cleanly(anyio_backend_name: Any) -> None:
    session = Session(anyio.sleep_forever, anyio_backend_name)

    @given(scenario=scenarios, order=some_order)
    @settings(max_examples=2 * EXAMPLES, deadline=None)
    def perform(scenario: Scenario, order: Schedule) -> None:
        stage = Stage(scenario)
        session.main, session.warns, session.logs = stage.perform, tuple(stage.may_warn()), stage.may_log
        session.look(order)
        stage.book.check(len(stage.outcomes) <= 1, f"awaiters heard {stage.outcomes}")
        stage.book.check(stage.kinds <= stage.may_end(), f"it ended by {stage.outcomes}")
        assert not stage.book.faults, "\n".join(stage.book.faults)

    with session.opened():
        perform()


@given(scenario=scenarios)
@settings(max_examples=EXAMPLES // 2, deadline=None)
def test_a_run_whose_event_loop_ends_is_cleaned_up_by_then(anyio_backend_name: str, scenario: Scenario) -> None:
    stage = Stage(scenario)
    stage.deserted = True
    with _noticed(stage) as warned:
        name, options = virtual_backend(anyio_backend_name)
        if name == "trio":
            trio = pytest.importorskip("trio")
            trio.run(stage.leave_running, **options)
        else:
            anyio.run(stage.leave_running, backend=name, backend_options=options)
        assert stage.handler is not None
        stage.book.check(stage.handler.is_done(), "the run goes on without an event loop")
        stage.all_left("the end of the event loop")
        stage.handler = None
        gc.collect()
    may_warn = {ResourceWarning, *([CleanupFailedWarning] if stage.is_untidy() else [])}
    unexpected = [str(one.message) for one in warned if one.category not in may_warn]
    # asyncio.run() cancels each task by itself, and AnyIO (4.x) forgets the coroutine of one that hasn't begun.
    unexpected = [message for message in unexpected if not message.endswith("was never awaited")]
    stage.book.check(not unexpected, f"{unexpected}")
    assert not stage.book.faults, "\n".join(stage.book.faults)
