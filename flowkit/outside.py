"""What flowkit takes from outside its event loop, the time of day and ids, and so what a simulation must stand in for.

Everything else that a run's course depends on comes from its events, its steps and its loop. A simulation
(flowkit.testing) puts an `Outside` of its own around all that it runs; there is one for each thread of control, as it
is a context variable.
"""

import itertools
import os
import time
import uuid
from contextvars import ContextVar
from typing import Any

__all__ = ["Outside", "around", "current"]


class Outside:
    """The real world."""

    run_type: "type[Any] | None" = None
    """The class of runs made here, where it isn't `flowkit.runner.Run`."""

    def time(self) -> float:
        """Seconds since the epoch."""
        return time.time()

    def stopwatch(self) -> float:
        """Seconds since some moment: how long a call takes."""
        return time.perf_counter()

    def new_id(self) -> str:
        """An id that no other run has: 128 random bits of this process, and a number. (A uuid4 each would cost a system
        call.)"""
        return f"{_process}-{next(_ids)}"


_ids = itertools.count()
_process = uuid.uuid4().hex


def _after_fork() -> None:
    global _process
    _process = uuid.uuid4().hex


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)

around: ContextVar[Outside] = ContextVar("flowkit outside", default=Outside())  # noqa: B039 - it has no state
current = around.get
