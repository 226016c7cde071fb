"""On every schedule, and wherever a run is cancelled, crashes or is spoiled, instruments are told all of it, once."""

from typing import Any

import pytest
from explored import searched
from watched_flows import Checked, Shop, make_shop

from flowkit.testing.mishaps import faults
from flowkit.testing.simulation import Verdict


@pytest.mark.parametrize("disturb", ["nothing", "cancel", "crash", "faults"])
def test_each_thing_is_told_once_and_in_order_whatever_happens(disturb: str, anyio_backend_name: str) -> None:
    made: list[Checked] = []
    complete = 0

    def make() -> Shop:
        made.append(Checked())
        return make_shop(made[-1])

    def amiss(verdict: Verdict) -> list[str]:
        nonlocal complete
        told, made[:] = made[:], []
        # What a process that has crashed tells in its clean-ups nobody could have been told; but nothing twice.
        wrong = [what for one in told[:-1] for what in one.wrong if "twice" in what]
        if told:
            wrong += told[-1].amiss()
            complete += bool(told[-1].told)
        return wrong

    options: dict[str, Any] = {disturb: True} if disturb in ("cancel", "crash") else {}
    if disturb == "faults":
        options["faults"] = faults(raises={"work": ValueError("spoiled"), "gather": ValueError("spoiled")}, delays=True)
    search = searched(make, amiss, anyio_backend_name, **options)
    assert search.coverage.runs > 50 and complete > 50
