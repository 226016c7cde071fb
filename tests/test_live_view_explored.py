"""On every schedule, and wherever a run is cancelled, crashes or is spoiled, the live view's books balance."""

import gc
from collections import Counter
from typing import Any

import pytest
from live_views import balance
from watched_flows import Approved, Question, Shop, make_shop

from flowkit import outside
from flowkit.instruments import Instrument, ObservedAttempt
from flowkit.live_view.board import Board
from flowkit.live_view.frame import fitted, frame_of, left_out
from flowkit.testing.mishaps import faults
from flowkit.testing.search import Disturbances, Search
from flowkit.testing.settings import Budget
from flowkit.testing.simulation import Problem, Simulation, Verdict

RUNS = 200


class Audited(Board):
    """A board that is looked at after each call, and compared with what has been told to it."""

    def __init__(self) -> None:
        super().__init__(outside.current().time)
        self.wrong: list[str] = []
        self.told: Counter[tuple[str, str]] = Counter()

    def amiss(self) -> list[str]:
        """What is wrong, when no run is under way."""
        wrong = list(self.wrong)
        if self.live:
            wrong.append(f"still under way: {list(self.live)}")
        groups = list(self.groups.values())
        for group in groups:
            groups += group.inner.values()
            for tally in group.tallies.values():
                counted = {
                    "queued": tally.given + tally.retries,
                    "returned": tally.done,
                    "began": tally.ended,
                    "raised": tally.failed + tally.retries,
                }
                told = {what: self.told[what, tally.name] for what in counted}
                # A retry that never came was a failure that was told.
                counted["raised"] += self.told["raised", tally.name] - counted["raised"] if tally.dropped else 0
                if told != counted:
                    wrong.append(f"{tally} when told {told}")
        return wrong


def _audited(name: str) -> Any:
    method = getattr(Board, name)

    def call(self: Audited, *args: Any) -> None:
        if name == "attempt_queued":
            self.told["queued", args[0].step] += 1
        elif name == "attempt_started":
            self.told["began", args[0].step] += 1
        elif name == "attempt_ended":
            attempt: ObservedAttempt = args[0]
            self.told[attempt.outcome or "", attempt.step] += 1
        method(self, *args)
        self.wrong += balance(self)
        frame = frame_of(self)
        part = fitted(frame, 3, 1)
        if len(part.rows) + len(part.log) > 3 or (len(part.rows) < len(frame.rows) and not left_out(frame, part)):
            self.wrong.append(f"{part} doesn't fit")

    return call


for _name in vars(Instrument):
    if not _name.startswith("_") and _name in vars(Board):
        setattr(Audited, _name, _audited(_name))


@pytest.mark.parametrize("disturb", ["nothing", "cancel", "crash", "faults"])
def test_books_balance_whatever_happens(disturb: str, anyio_backend_name: Any) -> None:
    made: list[Audited] = []
    complete = 0

    def make() -> Shop:
        made.append(Audited())
        return make_shop(made[-1])

    def check(verdict: Verdict) -> Problem | None:
        nonlocal complete
        boards, made[:] = made[:], []
        # A process that has crashed has no end to be told of; but what it was told until then was counted well.
        wrong = [what for each in boards for what in each.wrong]
        if boards:
            wrong += boards[-1].amiss()
            complete += bool(boards[-1].told)
        return Problem("counted wrong", "\n".join(wrong)) if wrong else None

    def answer(question: Any) -> Approved | None:
        return Approved(question.n) if isinstance(question, Question) else None

    options: dict[str, Any] = {disturb: True} if disturb in ("cancel", "crash") else {}
    if disturb == "faults":
        options["faults"] = faults(raises={"work": ValueError("spoiled"), "gather": ValueError("spoiled")}, delays=True)
    simulation = Simulation(make, {}, answer=answer, backend=anyio_backend_name)
    with simulation.opened():
        search = Search(simulation, check, budget=Budget(runs=RUNS), bound=1, disturb=Disturbances(**options))
        found = search.find()
    assert found is None or (found.scenario, found.problem.text) == (None, "")
    assert search.coverage.runs > 50 and complete > 50
    gc.collect()
