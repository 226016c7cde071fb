"""The planted bugs: workflows with one bug each, and what finds it. `flowkit.testing` is measured against them
(test_corpus.py).

Each passes when it is simply run: none failed in any of 300 runs on plain asyncio and 300 on plain trio
(plain_runs.py), but for `Tally`, whose threads are the operating system's (161 and 264). The bug needs a schedule,
a fault, a cancellation, a crash or a delay that a plain run doesn't give. That is why the steps take so unequally long:
asyncio runs tasks in turn, trio a batch of them in either order, so that on both of them who has six round trips to
make is never before who has one. A real network keeps no such order.
"""

from collections.abc import Callable
from typing import Any

import attrs
import planted_faults as faults
import planted_races as races
from corpus_words import Decision, Go, effects, gives, hangs_up, happens, is_there, one_of

from flowkit import Event, StartEvent, Workflow

__all__ = ["PLANTED", "Planted"]


@attrs.frozen
class Planted:
    """A bug, what finds it, and how small the counterexample is to be.

    ``check`` is a property of one finished run; ``oracle`` says whether it finds the bug ("property") or an oracle that
    needs none: "schedule" (`assert_schedule_independent`), "checkpoint" (`assert_checkpoint_equivalence`) or "cancel"
    (`assert_cancels_cleanly`). ``depth`` is the number of ordering constraints, or of faults, that show it. ``kind`` is
    the counterexample's; ``most`` bounds the deviations, faults, cancellations and crashes left in it together.
    ``always``: ``check`` is also asked about runs that failed or were cancelled.
    """

    bug: str
    flow: type[Workflow]
    check: Callable[[Any, Any], None]
    depth: int
    most: int
    kind: str = "property"
    start: StartEvent = attrs.field(factory=Go, kw_only=True)
    oracle: str = "property"
    faults: dict[str, Any] | None = None
    cancel: str | None = None
    crash: str | None = None
    answer: Callable[[Any], Event] | None = None
    always: bool = False

    @property
    def name(self) -> str:
        return self.flow.__name__


def _keeps_what_was_rewritten(run: Any, start: Any) -> None:
    assert "rewritten" in run.result


def _no_news(run: Any, start: Any) -> None:
    assert not effects(run, "mail")


def _raises(**errors: type[Exception]) -> dict[str, Any]:
    return {"raises": errors}


_LATE: dict[str, Any] = {"delays": True}

PLANTED: dict[str, Planted] = {
    row.name: row
    for row in [
        # Schedules
        Planted("use before init", races.AskTheManual, gives("page 7"), 1, 2, "step-failed", start=Go("fuse")),
        Planted(
            "fan-in order",
            races.Summaries,
            gives("one two three"),
            1,
            1,
            "different-result",
            oracle="schedule",
            start=Go("one two three"),
        ),
        Planted("starvation", races.Export, gives("exported"), 1, 1),
        Planted("lost update over await", races.Spending, gives(20), 2, 1),
        Planted("lost update between threads", races.Tally, gives(2), 2, 1),
        Planted("double fire", races.Shipping, happens(1, "ship"), 2, 1),
        Planted("three-lock deadlock", races.Transfers, gives(3), 3, 2, "deadlock"),
        Planted("four-lock deadlock", races.LongTransfers, gives(4), 4, 3, "deadlock"),
        Planted("ABA", races.Approval, gives(True), 2, 1),
        Planted("two windows", races.Article, _keeps_what_was_rewritten, 3, 2),
        Planted("two windows in a crowd", races.ReadArticle, _keeps_what_was_rewritten, 3, 2),
        Planted("lost notification", races.Feed, gives("used"), 2, 2, "deadlock"),
        Planted("event that nobody takes", races.Gate, gives("in"), 1, 1, "lost-event"),
        Planted(
            "question answered in the window",
            races.Deals,
            gives(["Berlin", "Oslo"]),
            2,
            1,
            answer=lambda asked: Decision(asked.deal),
        ),
        Planted("event changed after it was sent", races.Batches, gives(2), 1, 0, "changed-event"),
        Planted("hidden chance", races.Ticket, is_there, 1, 0, "not-deterministic"),
        # Time and faults
        Planted("use before init, by the clock", faults.Opening, gives("sold"), 1, 1, "step-failed", faults=_LATE),
        Planted("stale check", faults.Session, gives("called"), 1, 1, "step-failed", faults=_LATE),
        Planted("timeout after the effect", faults.Charge, happens(1, "charge"), 1, 1, faults={"timeouts": True}),
        Planted("wrong retry", faults.Transfer, happens(1, "debit"), 1, 1, faults=_raises(transfer=ConnectionError)),
        Planted("retry overtaken", faults.Prices, gives("new"), 1, 1, faults=_raises(write=ConnectionError)),
        Planted(
            "join of what never comes",
            faults.Votes,
            gives("counted"),
            1,
            1,
            "stalled",
            faults=_raises(vote=ConnectionError),
        ),
        Planted(
            "failed fallback",
            faults.Quote,
            is_there,
            2,
            2,
            faults=_raises(first=ConnectionError, second=ConnectionError),
        ),
        Planted("race after a fault", faults.Account, one_of(71, 101), 2, 3, faults=_raises(buy=ConnectionError)),
        # Cancellation
        Planted("clean-up not shielded", faults.Crawl, hangs_up, 1, 1, cancel="every-step", always=True),
        Planted("swallowed cancellation", faults.Research, _no_news, 1, 1, cancel="every-step", always=True),
        Planted("await between acquire and try", faults.Embed, gives("embedded"), 1, 1, "deadlock", oracle="cancel"),
        Planted("flag left by the cancelled", faults.Printer, gives("printed"), 1, 1, "unusable", oracle="cancel"),
        Planted("waiting for the cancelled", faults.Answers, gives("answered"), 1, 1, "deadlock", oracle="cancel"),
        # Crashes
        Planted("missing idempotency key", faults.Invitation, happens(1, "mail"), 1, 1, crash="every-write"),
        Planted("crashes taken for failures", faults.Reminder, gives("sent"), 2, 2, crash="every-write"),
        Planted(
            "state written apart from its event",
            faults.Reservation,
            gives(4),
            1,
            1,
            "different-result",
            oracle="checkpoint",
        ),
    ]
}
