"""On every schedule, and wherever a run is cancelled, crashes or is spoiled, its spans are a tree, and all end."""

import pytest
from explored import searched
from spans import Telemetry, complaints
from watched_flows import Shop, make_shop

from flowkit.testing.mishaps import faults
from flowkit.testing.simulation import Verdict


@pytest.mark.parametrize("disturb", ["nothing", "cancel", "crash", "faults"])
def test_spans_are_a_tree_and_all_are_ended_whatever_happens(disturb: str, anyio_backend_name: str) -> None:
    made: list[Telemetry] = []
    seen = {"run": 0, "wait": 0, "error": 0, "resumed": 0}

    def make() -> Shop:
        made.append(Telemetry())
        return make_shop(made[-1].instrument)

    def amiss(verdict: Verdict) -> list[str]:
        told, made[:] = made[:], []
        if not told:
            return []
        for span in told[-1].spans:
            seen["run"] += span.name == "Shop"
            seen["wait"] += span.name.startswith("wait")
            seen["error"] += span.status.status_code.name == "ERROR"
        # Of a process that has crashed nothing more would be heard. It counts for nothing that clean-ups went on in it.
        wrong = told[-1].amiss()
        begun = {
            span.context.span_id
            for one in told[:-1]
            for span in (*one.spans, *one.open.spans)
            if span.name == "Shop" and span.context is not None
        }
        for span in told[-1].named("Shop"):
            if span.attributes is not None and span.attributes["flowkit.run.resumed"]:
                seen["resumed"] += 1
                if span.parent is None or span.parent.span_id not in begun:
                    wrong.append("it went on in another trace than it began in")
        return wrong

    options: dict[str, object] = {disturb: True} if disturb in ("cancel", "crash") else {}
    if disturb == "faults":
        options["faults"] = faults(raises={"work": ValueError("spoiled"), "gather": ValueError("spoiled")}, delays=True)
    with complaints() as said:
        _ = searched(make, amiss, anyio_backend_name, **options)
    assert said == []
    if disturb != "crash":
        assert seen.pop("resumed") == 0
    assert min(seen.values()) > 10
