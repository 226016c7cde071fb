"""What a whole test run asks of its property tests, and what a budget means."""

from typing import Any

import pytest

from flowkit import WrongCall
from flowkit.testing import settings
from flowkit.testing.settings import Budget, Defaults, parse_budget, use


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("2s", Budget(seconds=2)),
        ("500ms", Budget(seconds=0.5)),
        ("0.5 s", Budget(seconds=0.5)),
        (".5s", Budget(seconds=0.5)),
        (" 1s ", Budget(seconds=1)),
        (200, Budget(runs=200)),
        (1, Budget(runs=1)),
    ],
)
def test_budgets(given: str | int, meant: Budget) -> None:
    assert parse_budget(given) == meant


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("soon", 'takes a time or a number of runs, but got \'soon\': write "2s", "500ms", or 500 for so many runs.'),
        ("2", "but got '2': write 2 for runs, \"2s\" for seconds."),
        ("2 minutes", "but got '2 minutes': write "),
        ("-1s", "but got '-1s': "),
        ("0s", "but got '0s': "),
        ("٣s", "but got '٣s': "),
        ("", "but got '': "),
        (2.5, 'but got 2.5: write "2.5s" for seconds.'),
        (True, "but got True: "),
        (None, "but got None: "),
        (0, "takes one run or more, but got 0"),
        (-3, "takes one run or more, but got -3"),
    ],
)
def test_what_is_no_budget(given: Any, told: str) -> None:
    with pytest.raises(WrongCall) as caught:
        parse_budget(given, "explore(budget=…)")
    assert told in str(caught.value)
    assert str(caught.value).startswith("explore(budget=…) takes ")


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"bound": -1}, "bound takes a number of deviations from the plainest schedule, 0 or more, but got -1: "),
        ({"bound": "2"}, "but got '2': write 1 or 2"),
        ({"bound": True}, "but got True: "),
        ({"budget": "2"}, "budget takes a time or a number of runs, but got '2'"),
        ({"backend": "curio"}, "backend takes 'asyncio', 'trio' or 'both', but got 'curio'."),
        ({"replay": "fk1:"}, "replay takes the token of a run, fk1:…, but got 'fk1:': copy it from a counterexample's"),
        ({"replay": 1}, "but got 1: "),
    ],
)
def test_what_can_not_be_set(given: Any, told: str) -> None:
    with pytest.raises(WrongCall) as caught:
        Defaults(**given)
    assert told in str(caught.value)
    with pytest.raises(WrongCall), use(**{"bound": 3, **given}):
        pytest.fail("not reached")
    assert settings.defaults == Defaults()


def test_a_backend_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "find_spec", lambda name: None)
    assert Defaults(backend="asyncio").backend == "asyncio"
    for backend in ("trio", "both"):
        with pytest.raises(WrongCall, match=f"backend '{backend}' needs trio, which is not installed: install"):
            Defaults(backend=backend)


def test_settings_are_for_the_time_of_a_block() -> None:
    defaults = settings.defaults
    with use(bound=2, budget="2s"):
        with use(bound=None, replay="fk1:a:b:c") as inner:
            assert inner is defaults
            assert inner == Defaults(budget="2s", replay="fk1:a:b:c")
        assert defaults == Defaults(bound=2, budget="2s")
    assert defaults == Defaults()


def test_they_are_taken_back_after_an_error() -> None:
    with pytest.raises(KeyError), use(bound=2):
        raise KeyError
    assert settings.defaults == Defaults()
