"""Explored tests under pytest: their fixtures and marks, the options, and ``--flowkit-replay``: the one run of a report
again, in its own test.
"""

import os
import warnings

import anyio
import pytest

from flowkit.testing import exploring, left_behind, run_virtual, settings

pytest_plugins = ["pytester"]

SHOP = """
    import anyio.lowlevel
    import pytest
    from flowkit import Context, Event, StartEvent, StopEvent, Workflow, step, testing

    class Order(StartEvent):
        amount: int = 3

    class Part(Event):
        n: int

    class Done(Event):
        n: int

    class Broken(Exception): ...

    class Shop(Workflow):
        @step
        async def split(self, ev: Order) -> list[Part]:
            return [Part(ev.amount), Part(ev.amount)]

        @step
        async def charge(self, ctx: Context, ev: Part) -> Done:
            before = await ctx.get("sum", 0)
            await anyio.lowlevel.checkpoint()
            await ctx.set("sum", before + ev.n)
            return Done(ev.n)

        @step
        async def join(self, ctx: Context, evs: list[Done]) -> StopEvent:
            return StopEvent(result=await ctx.get("sum"))

    class Other(Shop):
        pass
"""


class Session:
    def __init__(self, pytester: pytest.Pytester) -> None:
        self.pytester = pytester

    def has(self, tests: str) -> None:
        self.pytester.makeini("[pytest]\naddopts = -p flowkit.testing.plugin -p no:randomly")
        self.pytester.makepyfile(shop=SHOP, test_it="from shop import *\n" + "\n".join(tests.split("\n    ")))

    def run(self, *args: str, **outcomes: int) -> pytest.RunResult:
        with warnings.catch_warnings():
            warnings.resetwarnings()
            warnings.simplefilter("ignore", ResourceWarning)
            result = self.pytester.runpytest_inprocess(*args)
        assert result.parseoutcomes() == outcomes
        return result

    def token(self, result: pytest.RunResult) -> str:
        tokens = {line.split()[-1] for line in result.outlines if " fk1:" in line}
        assert len(tokens) == 1
        return tokens.pop()


@pytest.fixture
def session(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Session:
    for backend in ("asyncio", "trio"):
        run_virtual(anyio.sleep, 0, backend=backend)  # pytester takes out of sys.modules what is imported inside
    monkeypatch.setattr(left_behind, "THREAD_PATIENCE", 0.05)
    monkeypatch.setattr(exploring, "ELSEWHERE", 1)
    return Session(pytester)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_only_the_run_of_the_token_is_run_and_the_others_say_why_not(session: Session, backend: str) -> None:
    session.has(f"""
    RUNS = []

    @testing.explore(Shop, budget=100, backend={backend!r})
    def test_shop(run):
        RUNS.append(run.result)
        print("asked", len(RUNS), "on", run.backend)
        assert run.result == 6

    @testing.explore(Shop, {{"amount": 1}}, budget=100)
    def test_smaller(run):
        assert run.result == 6

    @testing.explore(Other, budget=100)
    def test_other(run):
        assert run.result == 6

    def test_of_another_kind():
        pass
    """)
    first = session.run("-k", "test_shop or kind", failed=1, passed=1, deselected=2)
    token = session.token(first)
    again = session.run(f"--flowkit-replay={token}", "-rs", failed=1, skipped=2, deselected=1)
    assert again.ret == pytest.ExitCode.TESTS_FAILED
    text = again.stdout.str()
    assert "asked 1 on " + backend in text
    assert "asked 2 on" not in text
    for workflow in ("Shop", "Other"):
        assert f"the run to replay is of another workflow or start event than {workflow}'s here" in text
    report = "\n".join(first.outlines).partition("Shop: property")[2].partition("It passes")[0]
    assert report and report in "\n".join(again.outlines)
    assert session.token(again) == token
    assert settings.defaults.replay is None


def test_a_run_that_passes_by_now_passes(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    session.has("""
    import os

    @testing.explore(Shop, budget=100)
    def test_shop(run):
        assert run.result == 6 or os.environ.get("MENDED")
    """)
    token = session.token(session.run(failed=1))
    session.run(f"--flowkit-replay={token}", failed=1)
    monkeypatch.setitem(os.environ, "MENDED", "yes")
    assert session.run(f"--flowkit-replay={token}", passed=1).ret == pytest.ExitCode.OK


def test_a_drawn_start_event_is_in_the_token(session: Session) -> None:
    session.has("""
    @testing.explore(Shop, testing.events(Order), budget=30)
    def test_shop(run, start):
        print("asked about", start)
        assert run.result == 2 * start.amount or start.amount < 5
    """)
    token = session.token(session.run(failed=1))
    again = session.run(f"--flowkit-replay={token}", failed=1)
    assert [line for line in again.outlines if "asked about" in line] == ["asked about Order(amount=5)"]
    session.has(
        """
    def test_shop():
        run = testing.simulate(Shop, replay=TOKEN)
        assert (run.result, run.token) == (5, TOKEN)
        again = testing.simulate(Shop, Order(5), replay=TOKEN)
        assert again.result == 5
        with pytest.raises(testing.WrongToken):
            testing.simulate(Shop, Order(6), replay=TOKEN)
    """.replace("TOKEN", repr(token))
    )
    session.run(passed=1)


def test_a_token_without_its_drawn_start_event_is_no_one_s(session: Session) -> None:
    session.has("""
    from hypothesis import strategies as st

    class Odd(StartEvent):
        thing: object

    class Thing:
        def __repr__(self):
            return "thing"

    class Oddly(Workflow):
        @step
        async def go(self, ev: Odd) -> StopEvent:
            return StopEvent(result=1)

    @testing.explore(Oddly, st.builds(Odd, st.builds(Thing)), budget=5)
    def test_odd(run):
        assert run.result == 2
    """)
    token = session.token(session.run(failed=1))
    result = session.run(f"--flowkit-replay={token}", skipped=1)
    assert result.ret == pytest.ExitCode.USAGE_ERROR


def test_faults_and_crashes_are_replayed(session: Session) -> None:
    session.has("""
    @testing.explore(Shop, budget=100, faults=testing.faults(raises={"charge": Broken}), check="all")
    def test_faults(run):
        assert run.error is None

    @testing.explore(Shop, {"amount": 1}, budget=100, crash="every-write", bound=0)
    def test_crashes(run):
        print("lives", run.lives)
        assert run.lives == 1
    """)
    for name, text in (("test_faults", "call 1 of charge raises"), ("test_crashes", "lives 2")):
        token = session.token(session.run("-k", name, failed=1, deselected=1))
        assert text in session.run(f"--flowkit-replay={token}", failed=1, skipped=1).stdout.str()


NOBODY = "error: no test has run the token that was to be replayed: it is of a workflow or a start event that no "


@pytest.mark.parametrize("token", ["fk1:00000000:a:b", "fk1:a:b:c", "fk9:xyz"])
def test_a_token_that_is_no_test_s_is_an_error(session: Session, token: str) -> None:
    session.has("""
    @testing.explore(Shop, budget=100)
    def test_shop(run):
        assert run.result == 6
    """)
    result = session.run(f"--flowkit-replay={token}", skipped=1)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert NOBODY in result.stdout.str()


def test_no_test_that_could_is_an_error_too(session: Session) -> None:
    session.has("""
    def test_shop():
        pass
    """)
    result = session.run("--flowkit-replay=fk1:a:b:c", deselected=1)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert NOBODY in result.stdout.str()
    assert NOBODY not in session.pytester.runpytest_inprocess("--flowkit-replay=fk1:a:b:c", "--co").stdout.str()


def test_a_damaged_token_is_an_error_in_its_test(session: Session) -> None:
    session.has("""
    @testing.explore(Shop, budget=100)
    def test_shop(run):
        assert run.result == 6
    """)
    token = session.token(session.run(failed=1))
    damaged = token[:20] + ("a" if token[20] != "a" else "b") + token[21:]
    result = session.run(f"--flowkit-replay={damaged}", failed=1)
    assert "WrongToken: this replay token is damaged: copy it again, whole." in result.stdout.str()
    assert NOBODY not in result.stdout.str()


@pytest.mark.parametrize("start", ["None", "testing.events(Order)"])
@pytest.mark.parametrize("way", ["explore", "simulate", "oracle"])
def test_what_the_harness_does_is_in_no_traceback(session: Session, way: str, start: str) -> None:
    session.has(f"""
    import socket

    class Reaches(Shop):
        @step
        async def charge(self, ctx: Context, ev: Part) -> Done:
            socket.socket().connect(("127.0.0.1", 9))

    def ask(run):
        pass

    def test_it():
        match {way!r}:
            case "explore":
                testing.explore(Reaches, {start}, budget=5)(ask)()
            case "simulate":
                testing.simulate(Reaches)
            case "oracle":
                testing.assert_schedule_independent(Reaches, budget=5)
    """)
    text = session.run(failed=1).stdout.str()
    assert "OutsideWorld: a simulated run opened a connection" in text
    assert "flowkit/testing" not in text
    assert text.count("test_it.py:") <= 4


# --------------------------------------------------------------------------------------------------- tests like others


def test_fixtures_parameters_and_marks(session: Session) -> None:
    session.has("""
    @pytest.fixture
    def bank():
        print("open a bank")
        yield "bank"
        print("close a bank")

    @pytest.fixture(params=["b", "a"])
    def name(request):
        return request.param

    @testing.explore(Shop, budget=5)
    def test_fixtures(run, bank, start, tmp_path, *, name):
        assert bank == "bank" and tmp_path.exists() and start.amount == 3 and name in "ab"

    @pytest.mark.parametrize(("total", "more"), [pytest.param(6, 1, id="six"), (7, 2)])
    @testing.explore(Shop, budget=1)
    def test_parametrized(run, total, more):
        assert run.result == total

    @pytest.mark.xfail(raises=testing.Counterexample, strict=True)
    @testing.explore(Shop, budget=50)
    def test_failing(run):
        assert run.result == 6

    @pytest.mark.skip
    @testing.explore(Shop, budget=50)
    def test_skipped(run):
        assert False

    class TestInAClass:
        total = 6

        @testing.explore(Shop, budget=1)
        def test_method(self, run):
            assert isinstance(self, TestInAClass) and run.result == self.total

        @pytest.mark.parametrize("total", [6])
        @testing.explore(Shop, budget=1)
        def test_with_start(self, start, run, total):
            assert run.result == total == 2 * start.amount

    @pytest.mark.usefixtures("bank")
    @testing.explore(Shop, budget=1)
    def test_uses(run):
        pass
    """)
    result = session.run("-v", "-s", passed=6, failed=1, xfailed=1, skipped=1)
    text = result.stdout.str()
    for name in ("test_fixtures[b]", "test_fixtures[a]", "test_parametrized[six]", "TestInAClass::test_with_start[6]"):
        assert f"test_it.py::{name}" in text
    assert "FAILED test_it.py::test_parametrized[7-2]" in text
    assert text.count("open a bank") == text.count("close a bank") == 3


def test_a_property_that_misses_a_fixture_is_pytest_s_error(session: Session) -> None:
    session.has("""
    @testing.explore(Shop, budget=5)
    def test_it(run, bonk):
        pass
    """)
    assert "fixture 'bonk' not found" in session.run(errors=1).stdout.str()


def test_a_misuse_is_told_when_the_tests_are_collected(session: Session) -> None:
    session.has("""
    @testing.explore(Shop, budget=5)
    async def test_it(run):
        pass
    """)
    assert "explore() was put above test_it, which is async" in session.run(errors=1).stdout.str()


def test_options_take_the_place_of_what_tests_say(session: Session) -> None:
    session.has("""
    @testing.explore(Shop, budget=50)
    def test_it(run):
        print("on", run.backend, run.scenario.policy)
    """)

    def runs(*options: str) -> list[str]:
        printed = session.run("-s", *options, passed=1).outlines
        return [line.partition("on ")[2] for line in printed if "on asyncio" in line or "on trio" in line]

    assert len(runs()) == 50
    assert runs("--flowkit-budget=3") == ["asyncio block", "asyncio block", "asyncio fifo"]
    assert runs("--flowkit-budget=1", "--flowkit-backend=both") == ["asyncio block", "trio block"]
    assert runs("--flowkit-bound=0", "--flowkit-backend=trio") == ["trio block", "trio block"]


def test_a_failure_is_its_report_and_no_traceback(session: Session) -> None:
    session.has("""
    @testing.explore(Shop, budget=50)
    def test_it(run):
        assert run.result == 6
    """)
    text = session.run(failed=1).stdout.str()
    assert "E   flowkit.testing.counterexample.Counterexample: Shop: property: AssertionError: assert 3 == 6" in text
    assert "test_it.py:5 in test_it:  assert run.result == 6" in text
    assert "exploring.py" not in text
    assert "def test" not in text
