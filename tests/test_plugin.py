"""The pytest plugin: what its options do and refuse, virtual time in an author's tests, and the leak check.

pytest runs inside pytest here, in one process, so that each run takes milliseconds.
"""

import gc
import os
import subprocess
import sys
import warnings
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec

import anyio
import pytest

import _flowkit_pytest
import flowkit.testing.plugin
from flowkit.testing import left_behind, run_virtual, settings
from flowkit.testing.settings import Defaults

pytest_plugins = ["pytester"]

BACKENDS = _flowkit_pytest.BACKENDS
TOKEN = "fk1:Shop.1a2b:c3:d4"
CONFTEST = """
    import pytest

    @pytest.fixture
    def anyio_backend(virtual_time):
        return virtual_time
"""


class Session:
    """Runs pytest on the files of a directory of its own."""

    def __init__(self, pytester: pytest.Pytester) -> None:
        self.pytester = pytester

    def has(self, tests: str, conftest: str = CONFTEST, ini: str = "") -> None:
        self.pytester.makeini(f"[pytest]\naddopts = -p flowkit.testing.plugin -p no:randomly\n{ini}")
        self.pytester.makeconftest(conftest)
        self.pytester.makepyfile(tests)

    def run(self, *args: str, **outcomes: int) -> str:
        """What it prints; these are the outcomes, if any are named, and no others."""
        with warnings.catch_warnings():
            warnings.resetwarnings()
            warnings.simplefilter("ignore", ResourceWarning)  # as Python does by itself
            result = self.pytester.runpytest_inprocess(*args)
        if outcomes:
            assert result.parseoutcomes() == {name: count for name, count in outcomes.items() if count}
        return result.stdout.str()

    def refuses(self, *args: str) -> str:
        result = self.pytester.runpytest_inprocess(*args)
        assert result.ret is pytest.ExitCode.USAGE_ERROR
        return result.stderr.str()


@pytest.fixture
def session(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Session:
    for backend in BACKENDS:
        run_virtual(anyio.sleep, 0, backend=backend)  # pytester takes out of sys.modules what is imported inside
    monkeypatch.setattr(left_behind, "THREAD_PATIENCE", 0.05)
    for name in ("CI", "BUILD_NUMBER", "PY_COLORS", "FORCE_COLOR"):  # pytest writes its summary in full where CI is set
        monkeypatch.delenv(name, raising=False)
    return Session(pytester)


class TestOptions:
    def test_they_are_settings_for_the_time_of_the_session(self, session: Session) -> None:
        session.has(f"""
            from flowkit.testing import settings

            def test():
                assert settings.defaults == settings.Defaults(2, "500ms", "asyncio", {TOKEN!r})
            test.__flowkit_explored__ = True
        """)
        given = (
            "--flowkit-bound=2",
            "--flowkit-budget=500ms",
            "--flowkit-backend=asyncio",
            f"--flowkit-replay={TOKEN}",
        )
        assert "flowkit:" not in session.run(*given, passed=1)
        assert settings.defaults == Defaults()
        header = f"flowkit: bound 2, budget 500ms, backend asyncio, replay {TOKEN}\n"
        assert header in session.run("-v", *given, passed=1)

    def test_without_them_each_test_has_its_say(self, session: Session) -> None:
        session.has("""
            from flowkit.testing import settings

            def test():
                assert settings.defaults == settings.Defaults()
        """)
        assert "flowkit:" not in session.run("-v", passed=1)

    def test_a_budget_may_be_a_number_of_runs(self, session: Session) -> None:
        session.has("""
            from flowkit.testing import settings

            def test():
                assert settings.defaults.budget == 300
        """)
        session.run("--flowkit-budget", "300", passed=1)

    @pytest.mark.parametrize(
        ("option", "told"),
        [
            (
                "bound=many",
                "takes a number of deviations from the plainest schedule, 0 or more, but got 'many': write 1",
            ),
            ("bound=-1", "takes a number of deviations from the plainest schedule, 0 or more, but got -1"),
            ("budget=soon", 'takes a time or a number of runs, but got \'soon\': write "2s", "500ms", or 500 for'),
            ("budget=0", "takes one run or more, but got 0"),
            ("backend=curio", "takes 'asyncio', 'trio' or 'both', but got 'curio'"),
            ("replay=yes", "takes the token of a run, fk1:…, but got 'yes': copy it from a counterexample's report"),
        ],
    )
    def test_wrong_values_are_refused(self, session: Session, option: str, told: str) -> None:
        session.has("def test(): pass")
        assert f"argument --flowkit-{option.partition('=')[0]}: {told}" in session.refuses(f"--flowkit-{option}")

    def test_help(self, session: Session) -> None:
        session.has("")
        told = session.run("--help")
        group = told[told.index("\nflowkit, ") :].split("\n\n")[0]
        for option in ("-bound=N", "-budget=2s|N", "-backend=asyncio|trio|both", "-replay=TOKEN"):
            assert f"--flowkit{option}" in group
        assert "flowkit_leaks (bool):" in told

    def test_only_explored_tests_replay(self, session: Session) -> None:
        session.has("""
            def test_explored(): pass
            test_explored.__flowkit_explored__ = True

            def test_other(): pass

            class TestClass:
                def test_method(self): pass
        """)
        told = session.run(f"--flowkit-replay={TOKEN}", passed=1, deselected=2)
        assert "flowkit: 2 deselected: only tests made by testing.explore can replay a token\n" in told

    @pytest.mark.skipif(len(BACKENDS) < 2, reason="trio is not installed")
    def test_one_backend(self, session: Session) -> None:
        session.has("""
            import pytest

            @pytest.mark.anyio
            async def test_virtual(anyio_backend_name):
                assert anyio_backend_name == "trio"

            def test_plain(): pass

            @pytest.mark.parametrize("number", [1, 2])
            def test_of_numbers(number): pass
        """)
        told = session.run("--flowkit-backend=trio", passed=4, deselected=1)
        assert "flowkit: 1 deselected: in virtual_time on another backend\n" in told
        session.run("--flowkit-backend=both", passed=4, failed=1)


class TestVirtualTime:
    def test_on_each_backend(self, session: Session) -> None:
        session.has("""
            import anyio
            import pytest

            pytestmark = pytest.mark.anyio

            @pytest.fixture
            async def later():
                await anyio.sleep(3600)
                return anyio.current_time()

            async def test_function(later):
                await anyio.sleep(3600)
                assert (later, anyio.current_time()) == (3600, 7200)

            class TestClass:
                async def test_method(self):
                    with anyio.move_on_after(10):
                        await anyio.sleep_forever()
                    assert anyio.current_time() == 10

            def test_plain(anyio_backend_name, anyio_backend_options): pass
        """)
        told = session.run("-v", passed=3 * len(BACKENDS))
        for backend in BACKENDS:
            assert f"::test_function[{backend}] PASSED" in told

    def test_what_would_hang_fails(self, session: Session) -> None:
        session.has("""
            import anyio
            import pytest

            @pytest.mark.anyio
            async def test_hangs():
                await anyio.sleep_forever()
        """)
        told = session.run(failed=len(BACKENDS))
        assert told.count("Deadlock: no task is ready, no timer is set, and nobody is left to wake the loop\n") == len(
            BACKENDS
        )
        assert "in watched" not in told

    @pytest.mark.skipif(find_spec("hypothesis") is None, reason="Hypothesis is not installed")
    def test_of_hypothesis(self, session: Session) -> None:
        session.has("""
            import anyio
            import pytest
            from hypothesis import HealthCheck, given, settings
            from hypothesis import strategies as st

            pytestmark = pytest.mark.anyio
            quick = settings(max_examples=10, deadline=None, database=None)

            @quick
            @given(seconds=st.integers(0, 10**6))
            async def test_passes(seconds):
                await anyio.sleep(seconds)
                assert anyio.current_time() == seconds

            @quick
            @given(number=st.integers(0, 10))
            async def test_hangs(number):
                if number > 3:
                    await anyio.Event().wait()
        """)
        told = session.run(passed=len(BACKENDS), failed=len(BACKENDS))
        assert "number=4" in told and "Deadlock: " in told

    def test_a_leak_is_no_failure_unless_it_is_asked_for(self, session: Session) -> None:
        session.has("""
            import asyncio
            import pytest

            @pytest.mark.anyio
            async def test(anyio_backend_name):
                if anyio_backend_name == "asyncio":
                    asyncio.create_task(asyncio.sleep(1), name="forgotten")
        """)
        session.run(passed=len(BACKENDS))
        told = session.run("-o", "flowkit_leaks=true", passed=len(BACKENDS) - 1, failed=1)
        assert "task forgotten: sleep (" in told


class TestLeaks:
    def test_what_is_in_the_process(self, session: Session) -> None:
        session.has("""
            import threading
            import time
            import warnings
            import pytest

            kept = []

            @pytest.mark.usefixtures("flowkit_leaks")
            class TestWatched:
                def test_thread(self):
                    threading.Thread(target=time.sleep, args=(0.3,), name="forgotten").start()

                def test_file(self):
                    open(__file__)

                def test_cycle(self):
                    cycle = [open(__file__)]
                    cycle.append(cycle)

                @pytest.fixture
                def fixture(self):
                    yield
                    open(__file__)

                def test_fixture(self, fixture): pass

                def test_own_failure(self):
                    assert kept

                def test_nothing(self):
                    thread = threading.Thread(target=kept.append, args=(1,))
                    thread.start()
                    with open(__file__):
                        warnings.warn("this isn't a leak")

            def test_unwatched():
                cycle = [open(__file__)]
                cycle.append(cycle)

            @pytest.mark.usefixtures("flowkit_leaks")
            def test_what_is_not_its_own(): pass
        """)
        told = session.run(passed=7, failed=1, errors=4, warnings=1)
        with warnings.catch_warnings(action="ignore", category=ResourceWarning):
            gc.collect()
        errors = told[told.index("= ERRORS =") : told.index("= FAILURES =")]
        assert errors.count("the test ended and left behind\n") == 4
        assert "thread forgotten\n" in errors
        assert errors.count("unclosed file <") == 3
        for test in ("thread", "file", "cycle", "fixture"):
            assert f"ERROR at teardown of TestWatched.test_{test} " in told
        assert "this isn't a leak" in told

    def test_what_is_in_a_loop(self, session: Session) -> None:
        session.has("""
            import asyncio
            import anyio
            import pytest

            pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("flowkit_leaks")]
            kept = []

            async def numbers():
                yield 1
                yield 2

            async def test_task(anyio_backend_name):
                if anyio_backend_name == "asyncio":
                    kept.append(asyncio.create_task(anyio.sleep(1000), name="forgotten"))
                else:
                    import trio

                    trio.lowlevel.spawn_system_task(anyio.sleep, 1000, name="forgotten")

            async def test_generator():
                kept.append(numbers())
                await anext(kept[-1])

            async def test_nothing():
                assert [number async for number in numbers()] == [1, 2]
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(anyio.sleep, 0)
                await anyio.to_thread.run_sync(int)
        """)
        for conftest, clocks in [(CONFTEST, len(BACKENDS)), ("", len(BACKENDS))]:  # in real time too
            session.pytester.makeconftest(conftest)
            told = session.run("--tb=short", failed=2 * clocks, passed=clocks)
            assert told.count("E   task forgotten: sleep (") == clocks
            assert told.count("E   async generator numbers (") == clocks

    def test_every_test_by_an_ini_option(self, session: Session) -> None:
        session.has(
            """
            import unittest

            def test_function():
                open(__file__)

            class TestUnit(unittest.TestCase):
                def test_method(self):
                    open(__file__)
            """,
            ini="flowkit_leaks = true",
        )
        told = session.run("-v", passed=2, errors=2)
        assert "flowkit: flowkit_leaks in every test\n" in told
        assert told.count("unclosed file <") >= 2

    def test_warning_filters_are_followed(self, session: Session) -> None:
        session.has(
            """
            import socket
            import pytest

            def test_ignored_by_the_ini_file():
                open(__file__)

            def test_not_ignored():
                socket.socket()

            @pytest.mark.filterwarnings("ignore::ResourceWarning")
            def test_ignored_by_a_mark():
                socket.socket()

            def test_expected():
                with pytest.warns(ResourceWarning):
                    socket.socket()
            """,
            ini="flowkit_leaks = true\nfilterwarnings = ignore:unclosed file:ResourceWarning",
        )
        told = session.run(passed=4, errors=1)
        assert "ERROR at teardown of test_not_ignored " in told


class TestImporting:
    def test_a_session_that_does_not_need_flowkit_does_not_import_it(self, tmp_path: os.PathLike[str]) -> None:
        program = """if True:
            import sys, pytest
            assert not pytest.main(["-q", "-p", "_flowkit_pytest", "-p", "no:cacheprovider", "test_it.py"])
            sys.exit(sorted(sys.modules.keys() & {"flowkit", "trio", "hypothesis", "anyio", "attrs"}) or None)
        """
        for name, text in (("test_it.py", "def test(): pass"), ("pytest.ini", "[pytest]")):
            with open(os.path.join(tmp_path, name), "w") as file:  # no settings of a project around the folder
                file.write(text)
        path = os.path.dirname(_flowkit_pytest.__file__)
        environment = os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONPATH": path}
        ended = subprocess.run(
            [sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert ended.returncode == 0, ended.stdout + ended.stderr

    def test_the_module_in_the_package_is_the_whole_plugin(self) -> None:
        found = {name for name in vars(_flowkit_pytest) if name.startswith("pytest_")} | {
            "flowkit_leaks",
            "virtual_time",
        }
        assert found == set(_flowkit_pytest.__all__) == set(flowkit.testing.plugin.__all__)

    def test_the_entry_point(self) -> None:
        try:
            installed = distribution("flowkit")
        except PackageNotFoundError:
            pytest.skip("flowkit is not installed")
        (point,) = [point for point in installed.entry_points if point.group == "pytest11"]
        assert (point.name, point.load()) == ("flowkit.testing.plugin", _flowkit_pytest)
