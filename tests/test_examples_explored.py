"""The examples' flows under the harness: no schedule, crash or cancellation makes a difference to them."""

from collections.abc import Callable
from typing import Any

import pytest

from flowkit import Event, StartEvent, Workflow, testing
from flowkit.examples import approval, joke, react_agent, text_to_sql
from flowkit.examples._model import Reply, Scripted

BUDGET = 40
"""Runs of each search: the first deviations from the plainest schedule."""


class FakeLedger:
    def book(self, key: str, amount: float) -> None:
        testing.effect("booked", key, amount)


def signed(question: Any) -> Event:
    """The manager says yes, finance says no."""
    response = "too dear" if question.topic == "reason" else "no" if question.who == "finance" else "yes"
    return approval.Answer(who=question.who, topic=question.topic, response=response)


def approved(question: Any) -> Event:
    return approval.Answer(who=question.who, topic=question.topic, response="yes")


def all_wrong(messages: Any) -> Reply:
    return Reply("SELECT missing")


FLOWS: dict[str, tuple[Callable[[], Workflow], StartEvent, Any]] = {
    "joke": (lambda: joke.JokeFlow(Scripted(joke.script)), joke.Topic("cats"), None),
    "approval": (lambda: approval.Approval(FakeLedger()), approval.Claim("train", 180.0), approved),  # type: ignore[arg-type]
    "approval of two": (lambda: approval.Approval(FakeLedger()), approval.Claim("car", 5000.0), approved),  # type: ignore[arg-type]
    "approval, declined": (lambda: approval.Approval(FakeLedger()), approval.Claim("car", 5000.0), signed),  # type: ignore[arg-type]
    "agent": (
        lambda: react_agent.ReActAgent(Scripted(react_agent.script), [react_agent.river_length, react_agent.calculate]),
        react_agent.Ask(react_agent.QUESTION),
        None,
    ),
    "agent, gives up": (
        lambda: react_agent.ReActAgent(Scripted(react_agent.script), [react_agent.river_length], turns=2),
        react_agent.Ask(react_agent.QUESTION),
        None,
    ),
    "sql": (lambda: text_to_sql.TextToSql(Scripted(text_to_sql.script)), text_to_sql.Ask(text_to_sql.QUESTION), None),
    "sql, all wrong": (lambda: text_to_sql.TextToSql(Scripted(all_wrong)), text_to_sql.Ask("why?"), None),
}

each_flow = pytest.mark.parametrize("name", FLOWS)
each_backend = pytest.mark.parametrize("backend", ["asyncio", "trio"])


@each_flow
@each_backend
@pytest.mark.parametrize(
    "oracle",
    [
        pytest.param(testing.assert_schedule_independent, id="schedule"),
        pytest.param(testing.assert_checkpoint_equivalence, id="checkpoint"),
        pytest.param(testing.assert_cancels_cleanly, id="cancel"),
    ],
)
def test_nothing_makes_a_difference(oracle: Callable[..., Any], name: str, backend: str) -> None:
    flow, start, answer = FLOWS[name]
    oracle(flow, start, answer=answer, budget=BUDGET, backend=backend)


@each_backend
def test_a_claim_is_paid_once_wherever_it_crashes(backend: Any) -> None:
    @testing.explore(*FLOWS["approval of two"][:2], answer=approved, crash="every-write", budget=120, backend=backend)
    def paid_once(run: testing.Run) -> None:
        assert len(set(run.effects)) == 1, run.effects
        assert run.result == approval.Settled()

    paid_once()
