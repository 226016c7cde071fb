"""An OpenAI-compatible chat endpoint on this machine, for tests: it replies what it is told to, byte by byte.

It runs in a thread of its own, so that whatever talks to it may have, or be, an event loop.
"""

import contextlib
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import anyio
import attrs
from anyio.abc import SocketStream, TaskStatus
from anyio.from_thread import start_blocking_portal
from anyio.streams.buffered import BufferedByteReceiveStream

from flowkit.examples._chat import Endpoint

__all__ = [
    "DONE",
    "HANG",
    "HEAD",
    "ChatServer",
    "Reply",
    "calls",
    "chunked",
    "delta",
    "event",
    "refuses",
    "says",
    "serving",
]

HANG = b""
"""In a reply: wait until the client hangs up."""

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
DONE = b"data: [DONE]\n\n"

Reply = tuple[bytes, ...]


def event(content: Any) -> bytes:
    return b"data: " + (content if isinstance(content, bytes) else json.dumps(content).encode()) + b"\n\n"


def delta(finish_reason: str | None = None, **content: Any) -> bytes:
    return event({"choices": [{"index": 0, "delta": content, "finish_reason": finish_reason}]})


def says(*pieces: str) -> Reply:
    """A text in these pieces, between what real endpoints send besides."""
    return (
        HEAD + b"\r\n",
        delta(role="assistant", content=""),
        b": still here\n\n",
        *(delta(content=piece) for piece in pieces),
        delta("stop"),
        event({"choices": [], "usage": {"total_tokens": 7}}),
        DONE,
    )


def calls(*wanted: tuple[str, str]) -> Reply:
    """Calls of tools, (name, arguments), which come in parts."""
    parts = [HEAD + b"\r\n", delta(role="assistant", content=None)]
    for index, (name, arguments) in enumerate(wanted):
        called = {"index": index, "id": f"call-{index}", "type": "function", "function": {"name": name}}
        parts.append(delta(tool_calls=[called]))
        half = len(arguments) // 2
        parts += [
            delta(tool_calls=[{"index": index, "function": {"arguments": part}}])
            for part in (arguments[:half], arguments[half:])
        ]
    return (*parts, delta("tool_calls"), DONE)


def chunked(reply: Reply, size: int) -> Reply:
    """The same in chunks of a size that heeds no line."""
    body = b"".join(reply).partition(b"\r\n\r\n")[2]
    pieces = [body[start : start + size] for start in range(0, len(body), size)]
    return (
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n",
        *(b"%x;note=1\r\n%b\r\n" % (len(piece), piece) for piece in pieces),
        b"0\r\n\r\n",
    )


def refuses(status: int, content: Any = None, **headers: str) -> Reply:
    body = json.dumps(content).encode()
    told = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    return (f"HTTP/1.1 {status} No\r\nContent-Length: {len(body)}\r\n{told}\r\n".encode() + body,)


@attrs.define
class ChatServer:
    """Gives ``replies`` one after another, the last again and again."""

    replies: list[Reply] = attrs.field(factory=lambda: [says("Hello", " there")])
    requests: list[tuple[str, Any]] = attrs.field(factory=list[tuple[str, Any]])
    hung_up: int = 0
    """How often a client hung up on a reply that hung."""
    port: int = 0

    @property
    def endpoint(self) -> Endpoint:
        return Endpoint(f"http://127.0.0.1:{self.port}/v1", "some-model", "secret")

    async def serve(self, *, task_status: TaskStatus[None]) -> None:
        async with await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=0) as listener:
            self.port = listener.listeners[0].extra(anyio.abc.SocketAttribute.local_port)
            task_status.started()
            await listener.serve(self._answer)

    async def _answer(self, client: SocketStream) -> None:
        async with client:
            # A client may hang up wherever it likes.
            with contextlib.suppress(anyio.EndOfStream, anyio.IncompleteRead, anyio.BrokenResourceError):
                await self._reply(client)

    async def _reply(self, client: SocketStream) -> None:
        received = BufferedByteReceiveStream(client)
        head = (await received.receive_until(b"\r\n\r\n", 10_000)).decode()
        [length] = [line.split(":")[1] for line in head.splitlines() if line.lower().startswith("content-length")]
        self.requests.append((head, json.loads(await received.receive_exactly(int(length)))))
        for part in self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]:
            if part != HANG:
                await client.send(part)
                continue
            try:
                await client.receive()
            finally:
                self.hung_up += 1


@asynccontextmanager
async def _running(server: ChatServer) -> AsyncIterator[None]:
    async with anyio.create_task_group() as group:
        await group.start(server.serve)
        yield
        group.cancel_scope.cancel()


@contextmanager
def serving() -> Iterator[ChatServer]:
    server = ChatServer()
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(_running(server)):
        yield server
