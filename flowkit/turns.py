"""Whose turn it is, where only so many runs of a workflow may be under way at once: first come, first served.

A run takes its place in the queue when ``run()`` is called. An `anyio.Semaphore` would serve their tasks, in the order
in which the loop happens to begin those.
"""

from collections import OrderedDict
from typing import Any
from weakref import WeakKeyDictionary

import anyio
import anyio.lowlevel

__all__ = ["Turn", "Turns", "turn_in"]


class Turns:
    """The queue of one workflow instance in one event loop, and how many more may go."""

    def __init__(self, limit: int) -> None:
        self._free = limit
        self._waiting: OrderedDict[Turn, None] = OrderedDict()

    def queue_up(self) -> "Turn":
        """A place at the end of the queue."""
        turn = Turn(self)
        if self._free:
            self._free -= 1
            turn.has_come = True
        else:
            self._waiting[turn] = None
        return turn

    def leave(self, turn: "Turn") -> None:
        """Whoever has this place has gone, whether it has had its turn or not."""
        if not turn.has_come:
            del self._waiting[turn]
        elif self._waiting:
            following, _ = self._waiting.popitem(last=False)
            following.has_come = True
            if following.woken is not None:
                following.woken.set()
        else:
            self._free += 1


class Turn:
    """A place in the queue. Must be left in the end."""

    __slots__ = ("_has_left", "_turns", "has_come", "woken")

    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self._has_left = False
        self.has_come = False
        self.woken: anyio.Event | None = None

    async def wait(self) -> None:
        """Wait until it is at the head. Cancelling this doesn't give the place up."""
        if self.has_come:
            await anyio.lowlevel.checkpoint()
            return
        self.woken = anyio.Event()
        await self.woken.wait()

    def leave(self) -> None:
        """Let the next one go. Does nothing the second time."""
        if not self._has_left:
            self._has_left = True
            self._turns.leave(self)


def turn_in(loop: Any, queues: "WeakKeyDictionary[Any, Turns]", limit: int | None) -> Turn | None:
    """A place at the end of the queue in this event loop; ``None`` where there is no limit."""
    if limit is None:
        return None
    turns = queues.get(loop)
    if turns is None:
        turns = queues[loop] = Turns(limit)
    return turns.queue_up()
