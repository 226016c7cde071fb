"""Who holds a workflow instance's async context managers: a task that outlives its runs."""

import logging
from collections.abc import Callable
from typing import Any

import anyio

from flowkit.backend import uninterrupted, watch_this_task
from flowkit.resource_pool import Pool

__all__ = ["Host"]

logger = logging.getLogger("flowkit")


class Host:
    """The supervised task that holds a workflow's async context managers."""

    def __init__(self, pool: Pool, loop: Any, ended: "Callable[[Host], None]") -> None:
        self._pool = pool
        self._loop = loop
        self._ended = ended
        self._closing = False
        self._over = False
        self._done = anyio.Event()
        self._error: Exception | None = None

    @uninterrupted
    async def run(self) -> None:
        """Hold them until `close`, or until the loop ends and cancels this task: then until nobody uses them."""
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(self._hold, group.cancel_scope, watch_this_task())
                try:
                    await anyio.sleep_forever()
                finally:
                    if not self._over:
                        with anyio.CancelScope(shield=True):
                            await self._pool.unused(self._loop)
                    self._pool.stop()
        finally:
            self.lost()

    def lost(self) -> None:
        """The task has ended, perhaps before it began."""
        if not self._done.is_set():
            self._pool.stop()
            self._pool.forget()
            self._ended(self)
            self._done.set()

    @uninterrupted
    async def _hold(self, around: anyio.CancelScope, owner_cancelled: Callable[[], bool]) -> None:
        try:
            await self._pool.host(owner_cancelled)
        except Exception as error:
            self._error = error  # `close` raises it
            if not self._closing:
                logger.exception("a resource of a workflow failed")
        finally:
            self._over = True
            around.cancel()

    async def close(self) -> None:
        """Have everything closed, and wait for it.

        Raises:
            Exception: what a clean-up raised.
        """
        self._closing = True
        self._pool.stop()
        with anyio.CancelScope(shield=True):
            await self._done.wait()
        if self._error is not None:
            raise self._error
