"""What a simulated crash is: at once, with clean-ups that reach nothing, and a next process that goes on."""

import time
from typing import Any

import anyio
import anyio.from_thread
import anyio.lowlevel
import pytest

from flowkit import Context, Event, InputRequiredEvent, StartEvent, StopEvent, Workflow, step, testing
from flowkit.testing.exploring import finished
from flowkit.testing.scenario import Backend, Scenario
from flowkit.testing.simulation import DOWNTIME, Simulation, Verdict

each_backend = pytest.mark.parametrize("backend", ["asyncio", "trio"])


class Go(StartEvent):
    n: int = 1


class Part(Event):
    n: int


class Ask(InputRequiredEvent): ...


def crashed(flow: Any, *labels: str, backend: Backend, answer: Any = None) -> Verdict:
    """The run in which each process dies at the point of this name."""
    simulation = Simulation(flow, None, backend=backend, stored=True, answer=answer)
    crashes: tuple[int, ...] = ()
    with simulation.opened():
        for label in labels:
            points = simulation.run(Scenario(crashes=crashes)).world.points
            crashes = (*crashes, points.index(label))
        verdict = simulation.run(Scenario(crashes=crashes))
        finished(simulation, verdict)
    assert verdict.problem is None
    return verdict


class Tidy(Workflow):
    """Pays, and tidies up for a minute, with effects, in vain."""

    seen: list[Any]

    @step
    async def pay(self, ctx: Context, ev: Go) -> Part:
        try:
            ctx.write_event_to_stream(Part(0))
            testing.effect("paid")
            await anyio.sleep(1)
        except Exception as error:  # noqa: BLE001 - it must not come this way
            self.seen.append(error)
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(60)
                try:
                    testing.effect("tidied")
                except BaseException as error:
                    self.seen.append(type(error).__name__)
                    raise
                await ctx.set("tidied", True)
        return Part(1)

    @step
    async def end(self, ctx: Context, ev: Part) -> StopEvent:
        return StopEvent(result=await ctx.get("tidied", False))


@each_backend
def test_a_crash_is_at_once_and_clean_ups_reach_nothing(backend: Backend) -> None:
    class Tidies(Tidy):
        seen: list[Any] = []  # noqa: RUF012 - of all its processes

    run = crashed(Tidies, "after effect 'paid'", backend=backend).run
    assert run.effects == ["paid", "paid", "tidied"]
    assert Tidies.seen == ["ProcessDied"]
    assert (run.lives, run.result) == (2, True)
    assert run.duration == DOWNTIME + 61
    assert [ev for ev in run.stream if isinstance(ev, Part)] == [Part(0)]


@each_backend
def test_before_an_effect_it_isn_t_had(backend: Backend) -> None:
    class Tidies(Tidy):
        seen: list[Any] = []  # noqa: RUF012

    run = crashed(Tidies, "before effect 'paid'", backend=backend).run
    assert run.effects == ["paid", "tidied"]
    run = crashed(Tidies, "before effect 'paid'", "after effect 'paid'", "before effect 'tidied'", backend=backend).run
    assert run.effects == ["paid", "paid", "paid", "tidied"]
    assert (run.lives, run.duration) == (4, 3 * DOWNTIME + 61 + 61)


class Counts(Workflow):
    @step
    async def go(self, ctx: Context, ev: Go) -> Part:
        await ctx.set("n", await ctx.get("n", 0) + 1)
        return Part(1)

    @step
    async def end(self, ctx: Context, ev: Part) -> StopEvent:
        return StopEvent(result=await ctx.get("n"))


@each_backend
def test_before_a_write_nothing_of_it_is_kept_and_after_it_all_is(backend: Backend) -> None:
    simulation = Simulation(Counts, None, backend=backend, stored=True)
    with simulation.opened():
        labels = simulation.run(Scenario()).world.points
        records = [simulation.run(Scenario(crashes=(point,))) for point in range(len(labels))]
    assert labels[0].startswith("before a write of ") and labels[1].startswith("after a write of ")
    assert all(label.startswith(("before a write", "after a write")) for label in labels)
    for point, verdict in enumerate(records):
        assert verdict.problem is None and verdict.run.lives == 2
        kept_before = sum(verdict.run.writes[: (point + 1) // 2])
        assert kept_before <= sum(verdict.run.writes)
    assert {verdict.run.value for verdict in records} == {1, 2}


class Plainly(Workflow):
    seen: list[Any]

    @step
    def pay(self, ctx: Context, ev: Go) -> StopEvent:
        try:
            testing.effect("paid")
            time.sleep(1)
            anyio.from_thread.run(anyio.sleep, 1)
            testing.effect("mailed")
        finally:
            self.seen.append("tidied")
            time.sleep(60)
        return StopEvent(result="paid")


@each_backend
@pytest.mark.parametrize("label", ["before effect 'paid'", "after effect 'paid'", "before effect 'mailed'"])
def test_a_plain_step_crashes(label: str, backend: Backend) -> None:
    class Tidies(Plainly):
        seen: list[Any] = []  # noqa: RUF012

    run = crashed(Tidies, label, backend=backend).run
    assert run.effects.count("paid") == 1 + (label != "before effect 'paid'")
    assert run.effects.count("mailed") == 1
    assert len(Tidies.seen) == 3  # once in the run that told the points
    assert run.result == "paid"


class Asks(Workflow):
    @step
    async def ask(self, ctx: Context, ev: Go) -> StopEvent:
        first = await ctx.wait_for_event(Part, Ask())
        testing.effect("asked", first.n)
        return StopEvent(result=first.n)


@each_backend
def test_open_questions_are_shown_again_and_answers_are_kept(backend: Backend) -> None:
    asked: list[Any] = []

    def answer(ask: Ask) -> Part:
        asked.append(ask)
        return Part(len(asked))

    verdict = crashed(Asks, "before effect ('asked', 1)", backend=backend, answer=answer)
    assert verdict.run.effects == [("asked", verdict.run.value)]
    assert verdict.run.lives == 2


@each_backend
def test_what_never_comes_to_its_point_lives_on(backend: Backend) -> None:
    simulation = Simulation(Counts, None, backend=backend, stored=True)
    with simulation.opened():
        verdict = simulation.run(Scenario(crashes=(999,)))
    assert (verdict.run.lives, verdict.run.value, verdict.problem) == (1, 1, None)


@each_backend
def test_ctrl_c_ends_a_crashed_process_too(backend: Backend) -> None:
    class Interrupted(Workflow):
        @step
        async def go(self, ev: Go) -> StopEvent:
            try:
                testing.effect("paid")
            except BaseException:  # noqa: BLE001 - as Ctrl-C in the middle of it would
                raise KeyboardInterrupt from None
            return StopEvent()

    with pytest.raises(KeyboardInterrupt):
        testing.assert_checkpoint_equivalence(Interrupted, budget=20, backend=backend)
