"""What the harness raises where it can't do what it was asked to: advice on how to test a workflow. (What it finds
out about one is a `Counterexample`.)

    WorkflowError
    └── TestingError                 the harness can't do what it was asked to
        ├── OutsideWorld             simulated code reached for a real socket, process or thread
        ├── Blocked                  simulated code blocks its thread
        ├── Livelock                 a run gets nowhere, or never ends
        └── WrongToken               a replay token is damaged, or is of something else
"""

from flowkit import outside
from flowkit.errors import WorkflowError
from flowkit.testing.places import authors_line, here

__all__ = ["Blocked", "Livelock", "OutsideWorld", "TestingError", "WrongToken"]


class TestingError(WorkflowError):
    """The harness can't do what it was asked to; the message says what to do instead."""

    __test__ = False  # no test class, whatever its name

    def __init__(self, problem: str, cure: str, where: str | None = None) -> None:
        super().__init__(f"{problem}: {cure}." + (f" ({where})" if where else ""), problem=problem, cure=cure)
        self.where = where

    def place(self, where: str) -> None:
        """Say where it was, once that is known."""
        if where and not self.where:
            self.where, self.message = where, f"{self.message} ({where})"

    def _tell(self) -> None:
        """Have the simulation know of it, whatever the code that it is raised in makes of it."""
        if (note := getattr(outside.current(), "note", None)) is not None:
            note(self)


class OutsideWorld(TestingError):
    """Simulated code reached for the real world: ``what`` it did, ``where`` it did."""

    def __init__(self, what: str, where: str | None = None, *, cure: str = "") -> None:
        cure = cure or (
            "give the workflow a fake that answers by itself: a simulation has no network, no processes and no time "
            "but its own"
        )
        super().__init__(f"a simulated run {what}", cure, where or authors_line(here(1)))
        self.what = what
        self._tell()


class Blocked(TestingError):
    """Simulated code blocks its thread for longer than the ``seconds`` of real time it may."""

    def __init__(self, seconds: float, what: str, where: str | None) -> None:
        super().__init__(
            f"{what} has blocked for {seconds:g} seconds of real time",
            "wait for what the simulation can do: anyio's primitives in async steps, `anyio.from_thread` in plain ones",
            where,
        )
        self.seconds = seconds
        self._tell()


class Livelock(TestingError):
    """A run gets nowhere, or never ends."""

    def __init__(self, problem: str, cure: str, where: str | None = None) -> None:
        super().__init__(f"a simulated run {problem}", cure, where)


class WrongToken(TestingError):
    """A replay token is damaged, or is of something else."""

    def __init__(self, problem: str, cure: str) -> None:
        super().__init__(f"this replay token {problem}", cure)
