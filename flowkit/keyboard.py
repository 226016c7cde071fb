"""What programs in a terminal need of an event loop: lines that somebody types, and Ctrl-C.

**A line** is read in a thread, which is woken to go when nobody wants the line any more. So the event loop goes on,
Ctrl-C works at once, and no thread stays behind that waits for a key. Lines are read byte by byte: what comes after
them is for others. The terminal's modes are left alone, so there is nothing to put right again.

**Ctrl-C** has to wake the loop. Under asyncio's runner, its handler is called when the interpreter next gets to it:
where the signal comes in the instant before the loop begins to wait, or is given to another thread, that is when
something else wakes the loop, at a prompt never. So here every signal writes to a socket that the loop watches; trio
does that by itself, and asyncio on Windows.
"""

import asyncio
import os
import select
import signal
import socket
import sys
import threading
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from typing import Any, TypeVar

import anyio
import anyio.to_thread

from flowkit.backend import uninterrupted
from flowkit.performer import first_of

__all__ = ["run_interruptible", "typed_line"]

T = TypeVar("T")


def run_interruptible(function: Callable[..., Awaitable[T]], *arguments: Any, backend: str) -> T:
    """`anyio.run`, in which Ctrl-C is heeded whenever it comes."""

    async def main() -> T:
        if backend == "trio" or os.name != "posix" or threading.current_thread() is not threading.main_thread():
            return await function(*arguments)
        with _woken_by_signals(asyncio.get_running_loop()):
            return await function(*arguments)

    return anyio.run(main, backend=backend)


@contextmanager
def _woken_by_signals(loop: asyncio.AbstractEventLoop) -> Generator[None]:
    reader, writer = socket.socketpair()
    with reader, writer:
        reader.setblocking(False)
        writer.setblocking(False)
        loop.add_reader(reader, reader.recv, 4096)
        before = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        try:
            yield
        finally:
            signal.set_wakeup_fd(before)
            loop.remove_reader(reader)


async def typed_line(show_prompt: Callable[[], object]) -> bytes:
    """The next line, with its end; what there is of one where the input ends, so ``b""`` at its end (Ctrl-D).

    Cancelling this (Ctrl-C does) drops what had come of a line; of a terminal nothing comes before Enter.
    """
    line: list[bytes] = []
    done = anyio.Event()
    waking, wake = os.pipe()
    try:
        async with anyio.create_task_group() as group:
            group.start_soon(_wait, show_prompt, line, waking, done)
            try:
                # Not for the thread itself: while trio's main task can't be cancelled, Ctrl-C can't come.
                await done.wait()
            finally:
                os.close(wake)
    except BaseExceptionGroup as several:
        raise first_of(several) from None
    finally:
        os.close(waking)
    return line[0]


@uninterrupted  # whoever waits gets Ctrl-C: here, between a call and its await, it would leave a coroutine over
async def _wait(show_prompt: Callable[[], object], line: list[bytes], waking: int, done: anyio.Event) -> None:
    show_prompt()  # only now that Ctrl-C is heeded
    line.append(await anyio.to_thread.run_sync(_typed, _descriptor(), waking))
    done.set()


def _descriptor() -> int | None:
    """Standard input's number; ``None`` where it is no file, or can't be waited for together with a pipe."""
    try:
        return sys.stdin.fileno() if os.name == "posix" else None  # elsewhere select() takes only sockets
    except (OSError, ValueError):  # it is a program's own, or was closed
        return None


def _typed(source: int | None, waking: int) -> bytes:
    """A line; what there is of one when the other end of ``waking`` is closed."""
    if source is None:
        return b"" if sys.stdin.closed else sys.stdin.readline().encode(sys.stdin.encoding or "utf-8", "replace")
    line = b""
    while not line.endswith(b"\n"):
        if waking in select.select([source, waking], [], [])[0]:
            return line
        try:
            byte = os.read(source, 1)
        except OSError:  # the terminal was closed
            byte = b""
        if not byte:
            return line
        line += byte
    return line
