"""Who holds a workflow instance's async context managers: a task that outlives its runs."""

import logging
from collections.abc import Callable

import anyio

from flowkit.resource_pool import Pool

__all__ = ["Host"]

logger = logging.getLogger("flowkit")


class Host:
    """The supervised task that holds a workflow's async context managers."""

    def __init__(self, pool: Pool, ended: "Callable[[Host], None]") -> None:
        self._pool = pool
        self._ended = ended
        self._closing = False
        self._done = anyio.Event()
        self._error: Exception | None = None

    async def run(self) -> None:
        """Hold them until `close`, or until the loop ends and cancels this task."""
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(self._hold, group.cancel_scope)
                try:
                    await anyio.sleep_forever()
                finally:
                    self._pool.stop()
        finally:
            self._ended(self)
            self._done.set()

    async def _hold(self, around: anyio.CancelScope) -> None:
        try:
            await self._pool.host()
        except Exception as error:
            self._error = error  # `close` raises it
            if not self._closing:
                logger.exception("a resource of a workflow failed")
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
