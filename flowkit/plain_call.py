"""A plain (``def``) step's call in its worker thread, which can be waited for whatever happens to the task."""

import contextlib
import threading
from collections.abc import Callable
from typing import Any

import anyio
import anyio.to_thread

__all__ = ["PlainCall"]


class PlainCall:
    """A call that can be waited for when the task was torn away from it.

    asyncio's own ``Task.cancel()``, which comes at the end of the loop, heeds no shield.
    """

    __slots__ = ("_function", "_given_up", "_lock", "error")

    def __init__(self, function: Callable[[], Any]) -> None:
        self._function = function
        self._lock = threading.Lock()
        self._given_up = False
        self.error: BaseException | None = None

    def __call__(self) -> Any:
        with self._lock:
            if self._given_up:
                return None
            try:
                return self._function()
            except BaseException as error:
                self.error = error
                raise

    async def over(self) -> None:
        """Wait until the thread has left it; it won't begin any more."""
        while not self._lock.acquire(blocking=False):
            with contextlib.suppress(anyio.get_cancelled_exc_class()), anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(self._pass)
        self._given_up = True
        self._lock.release()

    def _pass(self) -> None:
        with self._lock:
            pass
