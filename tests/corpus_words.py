"""What the workflows of the corpus are made of (planted_races.py, planted_faults.py, correct_programs.py), and what is
asked of their runs.

`trips(n)` stands for n round trips to somewhere: each lets other tasks run. `anyio.sleep` stands for the same with a
known duration; only ``faults(delays=True)`` makes it longer than it says.
"""

from collections.abc import Callable
from typing import Any

import anyio.lowlevel

from flowkit import Event, HumanResponseEvent, InputRequiredEvent, StartEvent

__all__ = [
    "Approve",
    "Decision",
    "Done",
    "Go",
    "Job",
    "effects",
    "gives",
    "hangs_up",
    "happens",
    "is_there",
    "one_of",
    "trips",
]


class Go(StartEvent):
    subject: str = ""


class Job(Event):
    """Work for ``name``, who is ``away`` round trips away."""

    name: str
    away: int = 0


class Done(Event):
    name: str
    value: Any = None


class Approve(InputRequiredEvent):
    deal: str


class Decision(HumanResponseEvent):
    deal: str


async def trips(n: int) -> None:
    for _ in range(n):
        await anyio.lowlevel.checkpoint()


def effects(run: Any, *what: Any) -> list[tuple[Any, ...]]:
    """The effects of a run that begin so."""
    told = [one if isinstance(one, tuple) else (one,) for one in run.effects]
    return [one for one in told if one[: len(what)] == what]


def gives(wanted: Any) -> Callable[[Any, Any], None]:
    """The run ends with this result."""

    def check(run: Any, start: Any) -> None:
        assert run.result == wanted

    return check


def happens(times: int, *what: Any) -> Callable[[Any, Any], None]:
    """The effects that begin so are that many, however the run ended."""

    def check(run: Any, start: Any) -> None:
        assert len(effects(run, *what)) == times

    return check


def one_of(*results: Any) -> Callable[[Any, Any], None]:
    """The run ends with one of these."""

    def check(run: Any, start: Any) -> None:
        assert run.result in results

    return check


def is_there(run: Any, start: Any) -> None:
    """The run ends with a result that isn't empty."""
    assert run.result


def hangs_up(run: Any, start: Any) -> None:
    """What has been opened was closed, however the run ended."""
    assert len(effects(run, "open")) == len(effects(run, "close"))
