"""A language model that streams its text and may call tools: over HTTP, or scripted, so that examples run offline.

Both are a `Model`. A conversation is a sequence of messages as OpenAI's chat endpoint takes them: plain data, so events
and the run's state may hold it. The reply's text comes piece by piece to a function, the whole reply at the end.

`Remote` reads the reply as it comes (server-sent events) and closes the connection when it is cancelled. Its errors are
`EndpointError`; those that may pass (429, 5xx, a connection that broke off, a stream that came to a halt) say so by
`temporary`, and the retry policy `RetryWhenAsked` of the step that asked decides.
"""

import http.client
import inspect
import io
import json
import os
import typing
from collections.abc import Callable, Sequence
from email.message import Message as Headers
from typing import Any, NoReturn, Protocol
from urllib.parse import urlsplit

import anyio
import anyio.lowlevel
import attrs
from anyio.streams.buffered import BufferedByteReceiveStream

from flowkit.examples._chat import MAX_REPLY, Endpoint, EndpointError, connect, naming, post_request, refusal

Message = dict[str, Any]
"""As the endpoint takes it: ``role`` and ``content``, and what comes with tools. Never changed after it was sent."""

PATIENCE = 30.0
"""Seconds between two pieces of a reply, and before the first: a model that reasons is silent for a while."""


@attrs.frozen
class ToolCall:
    """The model wants ``name`` called; ``arguments`` is what it wrote, which should be a JSON object."""

    id: str
    name: str
    arguments: str


@attrs.frozen
class Reply:
    """What the model says, and which tools it wants called."""

    text: str = ""
    calls: tuple[ToolCall, ...] = ()

    def as_message(self) -> Message:
        """For the next turn of the conversation."""
        message: Message = {"role": "assistant", "content": self.text}
        if self.calls:
            message["tool_calls"] = [
                {"id": each.id, "type": "function", "function": {"name": each.name, "arguments": each.arguments}}
                for each in self.calls
            ]
        return message


Tool = Callable[..., object]
"""A function. The model is told its name, its docstring, and its parameters, each a str, int, float or bool."""


class Model(Protocol):
    """What the examples need of a language model."""

    async def reply(
        self, messages: Sequence[Message], show: Callable[[str], object], tools: Sequence[Tool] = ()
    ) -> Reply:
        """The next message of the conversation; ``show`` gets its text piece by piece.

        Raises:
            EndpointError: there is none.
        """
        ...


Script = Callable[[Sequence[Message]], Reply]
"""What to reply to a conversation."""


def model_of_environment(script: Script, refuse: Callable[[str], NoReturn] | None = None) -> Model:
    """The endpoint that ``OPENAI_BASE_URL``, ``OPENAI_API_KEY`` and ``OPENAI_MODEL`` name; where none is, the script.

    Where they make no request, ``refuse`` is told why, or a `ValueError` says so.
    """
    try:
        endpoint = Endpoint.from_environment(os.environ)
    except ValueError as error:
        if refuse is None:
            raise
        refuse(str(error))
    return Scripted(script) if endpoint is None else Remote(endpoint)


@attrs.frozen
class Scripted:
    """A model that says what ``script`` makes of the conversation, word by word."""

    script: Script

    async def reply(
        self, messages: Sequence[Message], show: Callable[[str], object], tools: Sequence[Tool] = ()
    ) -> Reply:
        reply = self.script(messages)
        for number, word in enumerate(reply.text.split(" ")):
            await anyio.lowlevel.checkpoint()
            show(f" {word}" if number else word)
        return reply


@attrs.frozen
class Remote:
    """A model behind an OpenAI-compatible endpoint."""

    endpoint: Endpoint
    patience: float = PATIENCE

    async def reply(
        self, messages: Sequence[Message], show: Callable[[str], object], tools: Sequence[Tool] = ()
    ) -> Reply:
        request: dict[str, Any] = {"model": self.endpoint.model, "messages": list(messages), "stream": True}
        if tools:
            request["tools"] = [{"type": "function", "function": _described(tool)} for tool in tools]
        with naming(self.endpoint):
            stream = await connect(self.endpoint)
        async with stream:
            content = post_request(self.endpoint, "/chat/completions", request, accept="text/event-stream")
            try:
                await stream.send(content)
                body = await self._begin(_Received(stream, self.patience))
                return await self._read(body, show)
            except (anyio.EndOfStream, anyio.IncompleteRead, anyio.BrokenResourceError) as error:
                raise Interrupted(f"{self._host} broke off its reply") from error
            except TimeoutError as error:
                raise Interrupted(f"{self._host} sent nothing for {self.patience:g} seconds") from error
            except (ValueError, anyio.DelimiterNotFound, http.client.HTTPException) as error:
                raise EndpointError(f"{self._host} replied with something that is no chat stream: {error}") from error

    @property
    def _host(self) -> str:
        return urlsplit(self.endpoint.base_url).netloc

    async def _begin(self, received: "_Received") -> "_Body":
        """Read status and headers."""
        head = io.BytesIO(await received.until(b"\r\n\r\n") + b"\r\n\r\n")
        version, status, *_ = head.readline().decode("iso-8859-1").split(maxsplit=2)
        headers = http.client.parse_headers(head)
        if not version.startswith("HTTP/1."):
            raise ValueError(f"it begins with {version[:20]!r}")
        body = _Body(received, headers)
        if status != "200":
            reply = bytearray()
            try:
                while piece := await body.piece():
                    reply += piece
            except (anyio.EndOfStream, anyio.IncompleteRead):
                pass  # the status says enough
            raise refusal(self.endpoint, int(status), headers, bytes(reply))
        return body

    async def _read(self, body: "_Body", show: Callable[[str], object]) -> Reply:
        """Put the reply together from its events (https://platform.openai.com/docs/api-reference/chat-streaming)."""
        text = ""
        calls: dict[int, ToolCall] = {}
        finished = False
        while (line := await body.line()) is not None:
            if not line.startswith(b"data:"):
                continue  # a comment that keeps the connection alive, or the empty line after an event
            data = line.removeprefix(b"data:").strip()
            if data == b"[DONE]":
                finished = True
                break
            event: Any = json.loads(data)
            match event:
                case {"error": {"message": str(told)}} | {"error": str(told)}:
                    raise Interrupted(f"{self._host} broke off its reply: {told}")
                case {"choices": [{"delta": {}}, *_]}:
                    choice = event["choices"][0]
                    delta = choice["delta"]
                    finished = finished or choice.get("finish_reason") is not None
                    if isinstance(piece := delta.get("content"), str) and piece:
                        text += piece
                        show(piece)
                    _add(calls, delta.get("tool_calls") or [])
                case {"choices": []}:
                    pass  # the last may only tell what it cost
                case _:
                    raise ValueError(f"an event says {data[:80].decode(errors='replace')}")
        if not finished:
            raise anyio.EndOfStream
        if not text.strip() and not calls:
            raise EndpointError(f"{self._host} gave an empty answer")
        return Reply(text, tuple(calls[index] for index in sorted(calls)))


class Interrupted(EndpointError):
    """The reply broke off, or came to a halt: the same request may do better."""

    @property
    def temporary(self) -> bool:
        return True


def _add(calls: dict[int, ToolCall], parts: Any) -> None:
    """Tool calls come in parts, too, told apart by their index: name and id first, the arguments bit by bit."""
    for place, part in enumerate(parts if isinstance(parts, list) else [parts]):  # pyright: ignore[reportUnknownVariableType,reportUnknownArgumentType]
        match part:
            case {"function": {}, **rest} if isinstance(index := rest.get("index", place), int):
                named: Any = part["function"]
                so_far = calls.get(index, ToolCall("", "", ""))
                calls[index] = ToolCall(
                    id=_text(part.get("id")) or so_far.id or f"call_{index}",
                    name=so_far.name + _text(named.get("name")),
                    arguments=so_far.arguments + _text(named.get("arguments")),
                )
            case _:
                raise ValueError(f"a tool call says {str(part)[:80]}")


def _text(value: Any) -> str:
    if value is not None and not isinstance(value, str):
        raise ValueError(f"a tool call says {str(value)[:80]}")
    return value or ""


def _described(tool: Tool) -> dict[str, Any]:
    """A tool as the endpoint wants it told: by a JSON schema of its parameters."""
    names = {str: "string", int: "integer", float: "number", bool: "boolean"}
    types = typing.get_type_hints(tool)
    parameters = inspect.signature(tool).parameters
    return {
        "name": tool.__name__,
        "description": inspect.getdoc(tool) or "",
        "parameters": {
            "type": "object",
            "properties": {name: {"type": names[types[name]]} for name in parameters},
            "required": [name for name, each in parameters.items() if each.default is each.empty],
        },
    }


# ---------------------------------------------------------------------------------------------------- HTTP, as it comes


class _Received:
    """What comes through a connection, waited for no longer than ``patience`` seconds at a time, and bounded."""

    def __init__(self, stream: anyio.abc.ByteReceiveStream, patience: float) -> None:
        self._stream = BufferedByteReceiveStream(stream)
        self._patience = patience
        self._bytes = 0

    async def until(self, delimiter: bytes) -> bytes:
        with anyio.fail_after(self._patience):
            return self._counted(await self._stream.receive_until(delimiter, MAX_REPLY))

    async def exactly(self, count: int) -> bytes:
        with anyio.fail_after(self._patience):
            return self._counted(await self._stream.receive_exactly(count))

    async def some(self) -> bytes:
        with anyio.fail_after(self._patience):
            return self._counted(await self._stream.receive())

    def _counted(self, piece: bytes) -> bytes:
        self._bytes += len(piece)
        if self._bytes > MAX_REPLY:
            raise ValueError(f"it is longer than {MAX_REPLY / 1e6:.0f} MB")
        return piece


class _Body:
    """A reply's content, whichever of HTTP's three ways tells its length, and its lines."""

    def __init__(self, received: _Received, headers: Headers) -> None:
        self._received = received
        self._chunked = headers.get("Transfer-Encoding", "").lower() == "chunked"
        length = headers.get("Content-Length")
        self._left = None if self._chunked or length is None else int(length)
        self._line = bytearray()

    async def line(self) -> bytes | None:
        """The next line without its end; ``None`` after the last."""
        while b"\n" not in self._line:
            piece = await self.piece()
            if not piece:
                return None
            self._line += piece
        line, _, rest = self._line.partition(b"\n")
        self._line = rest
        return bytes(line).rstrip(b"\r")

    async def piece(self) -> bytes:
        """Some bytes, as soon as there are any; none at the end.

        Raises:
            EndOfStream, IncompleteRead: it broke off before its end.
        """
        if self._chunked:
            size = int((await self._received.until(b"\r\n")).partition(b";")[0], 16)
            piece = await self._received.exactly(size)
            await self._received.exactly(2)
            return piece
        if self._left is None:
            try:
                return await self._received.some()
            except anyio.EndOfStream:
                return b""
        if not self._left:
            return b""
        piece = await self._received.some()
        self._left = max(0, self._left - len(piece))
        return piece
