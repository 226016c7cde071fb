"""`flowkit.testing` offers its names whatever was imported before, and in whatever order."""

import importlib
import pkgutil
import subprocess
import sys
from types import ModuleType

import pytest

from flowkit import testing

for needed in ("hypothesis", "trio"):
    pytest.importorskip(needed)


def test_no_part_has_the_name_of_what_is_offered() -> None:
    # Importing a part binds its name in the package: a function of the same name would be gone from there.
    parts = {part.name for part in pkgutil.iter_modules(testing.__path__)}
    assert not parts & set(testing._LATER)


@pytest.mark.parametrize("name", sorted(testing._LATER))
def test_each_name_is_there_once_all_parts_are_imported(name: str) -> None:
    for part in {*testing._LATER.values()}:
        importlib.import_module(f"flowkit.testing.{part}")
    assert not isinstance(getattr(testing, name), ModuleType)
    assert name in dir(testing)


def test_without_the_extra_the_cure_is_told() -> None:
    program = """
import sys
sys.modules["hypothesis"] = None
from flowkit import testing
try:
    testing.simulate
except ModuleNotFoundError as error:
    sys.exit(f"{error.name}: {error}")
"""
    told = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True).stderr
    assert told == (
        'hypothesis: flowkit.testing.simulate needs hypothesis, which isn\'t installed: install "flowkit[testing]"\n'
    )


def test_a_name_that_is_not_offered_is_refused() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'explored'"):
        testing.explored
