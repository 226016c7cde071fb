"""A run survives the end of its process at any point: nothing is lost, nothing comes twice.

Each test crashes a workflow of crash_flows.py at points that crashing.py counts, goes on in a new process, and compares
with the life that never crashed. By default every n-th point is tried, beginning with another for each workflow;
``nox -s crash`` (or ``pytest -m crash``) tries them all, in every form.
"""

import zlib
from collections.abc import Iterable
from typing import Any

import pytest
from crash_flows import SCENARIOS
from crashing import World, baseline
from hypothesis import given, settings
from hypothesis import strategies as st

ALL = sorted(SCENARIOS)
QUIET = sorted(name for name, scenario in SCENARIOS.items() if not scenario.answers)
RELEASED = {"Form", "NestedFan", "ParallelWaits"}  # what is suspended in them does nothing before its wait
SLOW = {"FarTimer"}  # under `workflow.run(store=…)` the lease is renewed every 10 s, for days

pytestmark = pytest.mark.filterwarnings("error")


def some(name: str, count: int, every: int) -> Iterable[int]:
    """Every so many points, beginning with another for each workflow, and always the last."""
    return sorted({*range(zlib.crc32(name.encode()) % every, count, every), count - 1})


def crash_at(name: str, backend: str, every: int, **options: Any) -> int:
    """Crash at these points; how many there were."""
    calm = baseline(name, backend, **options)
    points = some(name, len(calm.points), every)
    for point in points:
        World(SCENARIOS[name], backend, **options).live_through(point).check(calm)
    return len(list(points))


FORMS: dict[str, dict[str, Any]] = {
    "runtime": {},
    "block": {"form": "block"},
    "run": {"form": "run"},
    "async": {"durability": "async"},
    "async-block": {"form": "block", "durability": "async"},
    "snapshots": {"snapshot_after": 2},
    "thread": {"inline": False},
    "released": {"release_after": 0.4},
}


def has_form(name: str, form: str) -> bool:
    if form == "released":
        return name in RELEASED
    kind = FORMS[form].get("form")
    return kind is None or (name not in SLOW and (kind == "block" or name in QUIET))


# By default: some points


@pytest.mark.parametrize("name", ALL)
def test_a_runtime_goes_on_after_a_crash(name: str, anyio_backend_name: str) -> None:
    crash_at(name, anyio_backend_name, 12)


@pytest.mark.parametrize("name", ALL)
def test_a_run_goes_on_in_other_forms(name: str, anyio_backend_name: str) -> None:
    """Each workflow in one form of three, the others on the other backend or with other workflows."""
    turn = ALL.index(name) + (anyio_backend_name == "trio")
    for number, form in enumerate(FORMS):
        if form != "runtime" and has_form(name, form) and (number + turn) % 3 == 0:
            crash_at(name, anyio_backend_name, 40, **FORMS[form])


@pytest.mark.parametrize("name", ["Chain", "Asking", "Nested"])
def test_the_lease_of_the_dead_is_waited_for(name: str, anyio_backend_name: str) -> None:
    crash_at(name, anyio_backend_name, 20, downtime=0.0)


CHANCES: dict[str, Any] = {
    "crashes": st.lists(st.integers(0, 60), min_size=2, max_size=4),
    "downtime": st.sampled_from([None, 0.0, 1.0, 1e7]),
    "snapshot_after": st.sampled_from([None, 1, 3]),
    "durability": st.sampled_from(["sync", "sync", "async"]),
    "inline": st.sampled_from([None, None, False]),
    "seed": st.integers(0, 100),
}


@settings(max_examples=25)
@given(name=st.sampled_from(ALL), **CHANCES)
def test_several_crashes_in_a_row(
    anyio_backend_name: str, name: str, crashes: list[int], seed: int, **options: Any
) -> None:
    calm = baseline(name, anyio_backend_name, durability=options["durability"])
    World(SCENARIOS[name], anyio_backend_name, seed=seed, **options).live_through(*crashes).check(calm)


# In `nox -s crash`: all of them


@pytest.mark.crash
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ALL)
def test_every_point(name: str, form: str, anyio_backend_name: str) -> None:
    if not has_form(name, form):
        pytest.skip("not in this form")
    crash_at(name, anyio_backend_name, 1, **FORMS[form])


@pytest.mark.crash
@pytest.mark.parametrize("name", ALL)
@settings(max_examples=100)
@given(**CHANCES)
def test_many_crashes_in_a_row(
    name: str, anyio_backend_name: str, crashes: list[int], seed: int, **options: Any
) -> None:
    calm = baseline(name, anyio_backend_name, durability=options["durability"])
    World(SCENARIOS[name], anyio_backend_name, seed=seed, **options).live_through(*crashes).check(calm)
