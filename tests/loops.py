"""What tests of whole event loops share."""

from collections.abc import Awaitable, Callable
from typing import Any

import anyio

from flowkit import StartEvent, StopEvent, Workflow, step
from flowkit.testing.virtual_time import virtual_backend


async def awaited(workflow: Workflow, **fields: Any) -> Any:
    return await workflow.run(**fields)


def loop(backend: str, main: Callable[[], Awaitable[Any]]) -> Any:
    """A whole event loop under virtual time. Not watched: what is left behind at its end is what the test is about."""
    name, options = virtual_backend(backend)
    if name == "trio":  # earlier versions of AnyIO 4 drop the options there
        import trio

        return trio.run(main, **options)
    return anyio.run(main, backend=name, backend_options=options)


class Sleeper(Workflow):
    """Sleeps for 10 s; its clean-up takes another."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.cleaned = 0

    @step
    async def sleep(self, ev: StartEvent) -> StopEvent:
        try:
            await anyio.sleep(10)
        finally:
            try:
                with anyio.CancelScope(shield=True):
                    await anyio.sleep(1)
            finally:
                self.cleaned += 1
        return StopEvent(result="slept")
