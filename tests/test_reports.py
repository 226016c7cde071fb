"""What a counterexample's report says, to the letter: it is kept in golden/reports.

``python tests/test_reports.py`` writes them anew. What depends on versions is not in them: how many runs it took, the
token, and lines of files, which are NN.
"""

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from report_flows import Locking, Opening, Order, Paying, Racing, Refused

from flowkit import testing
from flowkit.testing import Counterexample, exploring

GOLDEN = Path(__file__).parent / "golden" / "reports"


def all_is_paid(run: testing.Run) -> None:
    if run.result != 6:
        raise AssertionError(f"{run.result} of 6")


def paid_once(run: testing.Run) -> None:
    if len(run.effects) > 1:
        raise AssertionError(f"paid {len(run.effects)} times")


def nothing(run: testing.Run) -> None: ...


REFUSED = testing.faults(raises={"pay": Refused})
FOUND: dict[str, Callable[[], Any]] = {
    "schedule": testing.explore(Racing, budget=50)(all_is_paid),
    "fault": testing.explore(Paying, Order(5), budget=50, faults=REFUSED)(paid_once),
    "crash": testing.explore(Paying, budget=50, bound=0, crash="every-write")(paid_once),
    "cancellation": testing.explore(Opening, budget=50, cancel="every-step")(nothing),
    "deadlock": lambda: testing.assert_schedule_independent(Locking, budget=50),
    "different result": lambda: testing.assert_schedule_independent(Racing, budget=50),
    "doubled effect": lambda: testing.assert_checkpoint_equivalence(Paying, budget=50),
}


def report(test: Callable[[], Any]) -> str:
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Counterexample) as raised:
        patch.setattr(exploring, "_elsewhere", lambda *_: "on trio, too, after 7 runs")
        test()
    text = str(raised.value)
    assert text.endswith(f"  {raised.value.token}")
    text = text.removesuffix(raised.value.token) + "TOKEN\n"
    text = re.sub(r"after [\d,]+ runs?, made small in [\d,]+ more", "after N runs, made small in N more", text)
    text = re.sub(r"delay bound 1 \(\d+ schedules?\)", "delay bound 1 (N schedules)", text)
    return re.sub(r"\.py:\d+ ", ".py:NN ", text)


@pytest.mark.parametrize("name", FOUND)
def test_a_report_is_as_it_is_kept(name: str) -> None:
    assert report(FOUND[name]) == (GOLDEN / f"{name}.txt").read_text(encoding="utf-8")


def test_no_report_is_kept_for_nothing() -> None:
    assert {file.stem for file in GOLDEN.iterdir()} == set(FOUND)


if __name__ == "__main__":
    GOLDEN.mkdir(exist_ok=True)
    for name, test in FOUND.items():
        (GOLDEN / f"{name}.txt").write_text(report(test), encoding="utf-8")
    sys.exit()
