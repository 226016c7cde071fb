"""The README's example of a bug that only the harness finds: its code, claim and report, as they stand there."""

import importlib.util
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import anyio
import pytest

from flowkit.testing.virtual_time import run_virtual

pytest.importorskip("hypothesis")
README = Path(__file__).parents[1] / "README.md"
if not README.exists():
    pytest.skip("the tests of an installed package have no README", allow_module_level=True)

pytest_plugins = ["pytester"]

SECTION = README.read_text(encoding="utf-8").split("## Tests that look for the run that goes wrong")[1]
CODE = re.findall(r"```python\n(.*?)```", SECTION, re.DOTALL)[0]
REPORT = re.findall(r"```text\n(.*?)```", SECTION, re.DOTALL)[0]


def loaded(path: Path) -> ModuleType:
    path.write_text(CODE, encoding="utf-8")
    spec = importlib.util.spec_from_file_location("test_on_call", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_thousand_plain_runs_wake_one_person_each(tmp_path: Path, anyio_backend_name: str) -> None:
    example: Any = loaded(tmp_path / "test_on_call.py")
    woken: list[str] = []

    class Site(example.FakeSite):  # type: ignore[misc]
        async def wake_somebody(self, reason: str) -> None:
            await anyio.lowlevel.checkpoint()
            woken.append(reason)

    async def run() -> None:
        for _ in range(1_000):
            woken.clear()
            await example.OnCall(Site()).run()
            assert len(woken) == 1

    run_virtual(run, backend=anyio_backend_name)


def test_the_harness_reports_what_the_readme_shows(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_on_call=CODE)
    result = pytester.runpytest_inprocess("-q", "-p", "flowkit.testing.plugin", "-p", "no:randomly")
    result.assert_outcomes(failed=1)
    printed = [line.removeprefix("E").strip() for line in result.outlines]
    shown = [line.strip() for line in REPORT.splitlines() if line.strip() and not line.startswith(("$", "…"))]
    for line in shown:
        if line.startswith("fk1:"):
            prefix, plan, _ = line.split(":", 2)  # the rest is of the versions that it was found with
            assert any(one.startswith(f"{prefix}:{plan}:") for one in printed), line
        elif line.startswith("OnCall:"):
            assert any(one.endswith(line) for one in printed), line
        else:
            assert line in printed, line
