"""The pytest plugin: options for property tests, virtual time, and a check of what tests leave behind.

Where flowkit is installed, pytest loads it by itself. Where it is only on the path: ``-p flowkit.testing.plugin``, or
in the topmost conftest.py ``pytest_plugins = ["flowkit.testing.plugin"]``; twice is no more than once.

**Options** take the place of what `explore` and the oracles are told in the tests: ``--flowkit-bound=N``,
``--flowkit-budget=2s`` (or a number of runs), ``--flowkit-backend=asyncio|trio|both`` and ``--flowkit-replay=TOKEN``.

**Fixtures.** ``virtual_time`` is for AnyIO's tests, in conftest.py::

    @pytest.fixture
    def anyio_backend(virtual_time):
        return virtual_time

``flowkit_leaks`` fails a test that leaves threads, tasks, asynchronous generators or unclosed resources behind: by
``@pytest.mark.usefixtures("flowkit_leaks")``, or all tests by ``flowkit_leaks = true`` in pytest's configuration.

The code is in _flowkit_pytest.py, beside the package.
"""

from _flowkit_pytest import (
    flowkit_leaks,
    pytest_addoption,
    pytest_collection_modifyitems,
    pytest_configure,
    pytest_report_collectionfinish,
    pytest_report_header,
    pytest_sessionfinish,
    pytest_terminal_summary,
    virtual_time,
)

__all__ = [
    "flowkit_leaks",
    "pytest_addoption",
    "pytest_collection_modifyitems",
    "pytest_configure",
    "pytest_report_collectionfinish",
    "pytest_report_header",
    "pytest_sessionfinish",
    "pytest_terminal_summary",
    "virtual_time",
]
