"""Replay tokens: the same run again, or an error that says what differs; never another run."""

import string
from typing import Any

import attrs
import pytest

from flowkit import (
    Context,
    Event,
    HumanResponseEvent,
    InputRequiredEvent,
    StartEvent,
    StopEvent,
    Workflow,
    step,
    testing,
)
from flowkit.retry_policy import ConstantDelayRetryPolicy
from flowkit.testing import WrongToken, token
from flowkit.testing.exploring import finished
from flowkit.testing.scenario import STORE, Backend, Cancel, Fault, PolicyName, Scenario
from flowkit.testing.simulation import Simulation

each_backend = pytest.mark.parametrize("backend", ["asyncio", "trio"])


class Order(StartEvent):
    name: str = "book"
    amount: int = 1


class Part(Event):
    n: int


class Done(Event):
    n: int


class Full(Exception): ...


class Broken(Exception): ...


class Shop(Workflow):
    @step
    async def split(self, ev: Order) -> list[Part]:
        return [Part(1), Part(2)]

    @step(retry_policy=ConstantDelayRetryPolicy(maximum_attempts=3, delay=1))
    async def charge(self, ctx: Context, ev: Part) -> Done:
        before = await ctx.get("sum", 0)
        testing.effect("charge", ev.n)
        await ctx.set("sum", before + ev.n)
        return Done(ev.n)

    @step
    async def join(self, ctx: Context, evs: list[Done]) -> StopEvent:
        return StopEvent(result=[await ctx.get("sum"), *(ev.n for ev in evs)])


class Other(Workflow):
    @step
    async def split(self, ev: Order) -> StopEvent:
        return StopEvent()


ERRORS = testing.faults(raises={"charge": [Full, Broken("by the fuse")]})
SCENARIOS = {
    "plain": Scenario(),
    "fifo": Scenario(policy="fifo"),
    "walk": Scenario(policy="walk", seed=2**31),
    "pos": Scenario(policy="pos", seed=7),
    "pct": Scenario(policy="pct", seed=7, decisions=9),
    "deviations": Scenario(deviations=((1, 1), (3, 1))),
    "raise": Scenario(faults=(Fault("charge", 1, "raise", 0), Fault("charge", 2, "raise", 1))),
    "lose": Scenario(faults=(Fault("charge", 2, "lose", 1),)),
    "delay": Scenario(faults=(Fault("charge", 1, "delay", seconds=10.0), Fault("charge", 2, "stall", seconds=0.5))),
    "store": Scenario(faults=(Fault(STORE, 2, "full"), Fault(STORE, 3, "slow", seconds=10.0))),
    "cancel": Scenario(cancel=Cancel(5)),
    "cancel_run": Scenario(cancel=Cancel(6, "run")),
    "crash": Scenario(crashes=(3,)),
    "crashes": Scenario(crashes=(3, 4), policy="pos", seed=3),
}


def look(run: testing.Run) -> Any:
    """Everything about a run but for its token."""
    told = attrs.asdict(run, recurse=False)
    return {**told, "token": "", "trace": [str(one) for one in run.trace], "error": repr(run.error)}


@each_backend
@pytest.mark.parametrize("stored", [False, True])
@pytest.mark.parametrize("scenario", SCENARIOS.values(), ids=SCENARIOS.keys())
def test_a_token_is_the_run(scenario: Scenario, stored: bool, backend: Backend) -> None:
    is_stored = stored or any(fault.step == STORE for fault in scenario.faults)
    simulation = Simulation(
        Shop, {"amount": 3}, errors=ERRORS.errors, backend=backend, stored=is_stored, again=scenario.cancel is not None
    )
    with simulation.opened():
        run = finished(simulation, simulation.run(scenario))
    other: Backend = "asyncio" if backend == "trio" else "trio"
    again = testing.simulate(Shop, {"amount": 3}, replay=run.token, faults=ERRORS, backend=other)
    assert look(again) == look(run)
    assert again.token == run.token
    assert set(run.token) <= {*string.ascii_letters, *string.digits, *":_-"}


@each_backend
@pytest.mark.parametrize("stored", [False, True])
def test_a_run_of_simulate_has_a_token(stored: bool, backend: Backend) -> None:
    run = testing.simulate(Shop, seed=5, stored=stored, backend=backend)
    assert bool(run.writes) is stored
    assert look(testing.simulate(Shop, replay=run.token)) == look(run)


def refused(flow: Any, start: Any, given: Any, **options: Any) -> str:
    with pytest.raises(WrongToken) as raised:
        testing.simulate(flow, start, replay=given, **options)
    return str(raised.value)


TOKEN = testing.simulate(Shop, {"amount": 3}, seed=5).token

NO_TOKEN = "give what a report shows, fk1:…, whole."
OTHER = "run it with the code that it was found with, or let the search find a new one."


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("", f"isn't one: '': {NO_TOKEN}"),
        ("hello", f"isn't one: 'hello': {NO_TOKEN}"),
        ("fk2" + TOKEN[3:], "isn't one: "),
        ("fk1:", f"isn't one: 'fk1:': {NO_TOKEN}"),
        ("fk1:a:b:c:d", f"isn't one: 'fk1:a:b:c:d': {NO_TOKEN}"),
        (" " + TOKEN, "isn't one: "),
        (3, f"isn't one: 3: {NO_TOKEN}"),
        (b"fk1:a:b:c", f"isn't one: b'fk1:a:b:c': {NO_TOKEN}"),
        (TOKEN[:-1], "is damaged: copy it again, whole."),
        (TOKEN[:-12], "is"),
        (TOKEN[:20] + "!" + TOKEN[21:], "is damaged: copy it again, whole."),
        (TOKEN[:20] + ("x" if TOKEN[20] != "x" else "y") + TOKEN[21:], "is damaged: copy it again, whole."),
        (TOKEN + "0", "is damaged: copy it again, whole."),
        ("fk1:00000000" + TOKEN[12:], f"is of another workflow than Shop, or of an earlier form of it: {OTHER}"),
    ],
)
def test_what_is_no_token_of_this_run_is_refused(given: Any, told: str) -> None:
    text = refused(Shop, {"amount": 3}, given)
    assert text.startswith("this replay token ") and told in text


@pytest.mark.parametrize("at", range(4, len(TOKEN), 7))
def test_no_damage_goes_unseen(at: int) -> None:
    for there in ("A", "0", ":", ""):
        damaged = TOKEN[:at] + there + TOKEN[at + 1 :]
        if damaged != TOKEN:
            refused(Shop, {"amount": 3}, damaged)


def test_a_token_is_of_a_plan_and_a_start_event() -> None:
    assert "is of another workflow than Other, or of an earlier form of it" in refused(Other, None, TOKEN)
    assert refused(Shop, {"amount": 4}, TOKEN) == (
        "this replay token is of another start event: give the start event that the report shows."
    )

    class Shop2(Shop):
        @step
        async def more(self, ev: Part) -> None: ...

    Shop2.__name__ = "Shop"
    assert "is of another workflow than Shop, or of an earlier form of it" in refused(Shop2, {"amount": 3}, TOKEN)


def test_tokens_of_a_workflow_begin_alike() -> None:
    prefix = token.prefix_of(Simulation(Shop, None).plan)
    assert prefix.startswith("fk1:") and prefix.endswith(":") and prefix.count(":") == 2
    policies: list[PolicyName] = ["block", "fifo", "walk", "pos"]
    simulation = Simulation(Shop, None)
    assert all(token.token_of(simulation, Scenario(policy=one)).startswith(prefix) for one in policies)
    assert not TOKEN.startswith(token.prefix_of(Simulation(Other, None).plan))


@each_backend
@pytest.mark.parametrize("name", ["python", "flowkit", "anyio", "trio"])
def test_other_versions_are_refused(name: str, backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    made = testing.simulate(Shop, backend=backend).token
    now = token._versions(backend)
    if name not in now:
        assert backend == "asyncio"
        return
    monkeypatch.setattr(token, "_versions", lambda backend: {**now, name: "0.0.1"})
    assert refused(Shop, None, made) == (
        f"this replay token was found with {name} {now[name]}, and this is {name} 0.0.1: it may be another run here: "
        "use the same version, or let the search find a new one."
    )


def test_trio_s_version_is_nothing_to_a_run_on_asyncio(monkeypatch: pytest.MonkeyPatch) -> None:
    made = testing.simulate(Shop).token
    monkeypatch.setattr(token, "_version", lambda name: "0.0.1" if name == "trio" else token.version(name))
    assert testing.simulate(Shop, replay=made).backend == "asyncio"


def test_a_start_event_that_shows_its_address_is_not_compared() -> None:
    class Held(StartEvent):
        thing: object

    class Holds(Workflow):
        @step
        async def hold(self, ev: Held) -> StopEvent:
            return StopEvent(result=1)

    made = testing.simulate(Holds, Held(object())).token
    assert testing.simulate(Holds, Held(object()), replay=made).result == 1


class Ask(InputRequiredEvent): ...


class Reply(HumanResponseEvent): ...


class Asks(Workflow):
    @step
    async def ask(self, ctx: Context, ev: Order) -> StopEvent:
        await ctx.wait_for_event(Reply, Ask(), timeout=1)
        return StopEvent()


def test_a_run_is_answered_as_it_was() -> None:
    answered = testing.simulate(Asks, answer=lambda question: Reply()).token
    asked = testing.simulate(Asks).token
    assert testing.simulate(Asks, replay=answered, answer=lambda question: Reply()).has_result
    assert not testing.simulate(Asks, replay=asked).has_result
    assert refused(Asks, None, answered) == (
        "this replay token is of a run whose questions are answered: pass answer=… as the test has it."
    )
    assert refused(Asks, None, asked, answer=lambda question: Reply()) == (
        "this replay token is of a run whose questions nobody answers: leave answer out."
    )


@pytest.mark.parametrize(
    "given",
    [
        None,
        testing.faults(),
        testing.faults(raises={"split": Full}),
        testing.faults(raises={"charge": Full}),
        testing.faults(raises={"charge": [Broken("by the fuse"), Full]}),
    ],
)
def test_a_run_s_faults_raise_what_they_did(given: Any) -> None:
    simulation = Simulation(Shop, None, errors=ERRORS.errors)
    made = token.token_of(simulation, SCENARIOS["raise"])
    told = "is of a run in which charge raises (Full|Broken): pass faults=testing.faults(…) as the test has it."
    with pytest.raises(WrongToken, match=told.replace("(…)", r"\(…\)")):
        testing.simulate(Shop, replay=made, faults=given)
