"""`flowkit.examples._model`: what it makes of what an endpoint sends, and fails to send.

An endpoint is a socket, which virtual time doesn't hold, so all this runs on the real clock. Nothing waits for it to
pass but where the endpoint sends nothing, for a few hundredths of a second.
"""

import socket
from collections.abc import Iterator
from typing import Any

import anyio
import pytest
from chat_server import DONE, HANG, HEAD, ChatServer, Reply, calls, chunked, delta, event, refuses, says, serving

from flowkit.examples import _chat, _model
from flowkit.examples._chat import Endpoint, EndpointError
from flowkit.examples._model import Interrupted, Message, Remote, Scripted, Tool, ToolCall, model_of_environment

ASKED: list[Message] = [{"role": "user", "content": "Hello?"}]


@pytest.fixture
def server() -> Iterator[ChatServer]:
    with serving() as server:
        yield server


def asked(
    endpoint: Endpoint, backend: str, tools: tuple[Tool, ...] = (), patience: float = 20.0
) -> tuple[_model.Reply, list[str]]:
    """The reply, and the pieces that were shown."""
    shown: list[str] = []

    async def ask() -> _model.Reply:
        return await Remote(endpoint, patience).reply(ASKED, shown.append, tools)

    return anyio.run(ask, backend=backend), shown


def test_text_comes_in_pieces(server: ChatServer, anyio_backend_name: str) -> None:
    reply, shown = asked(server.endpoint, anyio_backend_name)
    assert reply == _model.Reply("Hello there")
    assert shown == ["Hello", " there"]
    [(head, request)] = server.requests
    assert head.startswith("POST /v1/chat/completions HTTP/1.1\r\n")
    assert "Authorization: Bearer secret" in head
    assert "Accept: text/event-stream" in head
    assert request == {"model": "some-model", "messages": ASKED, "stream": True}


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_chunks_heed_no_line(server: ChatServer, anyio_backend_name: str, size: int) -> None:
    server.replies = [chunked(says("naïve", " \N{SNOWMAN}"), size)]
    assert asked(server.endpoint, anyio_backend_name)[1] == ["naïve", " \N{SNOWMAN}"]


@pytest.mark.parametrize(
    "reply",
    [
        (HEAD + b"Content-Length: %d\r\n\r\n" % len(delta("stop", content="yes")), delta("stop", content="yes")),
        (HEAD + b"\r\n", delta("stop", content="yes")),
        (HEAD + b"\r\n", delta(content="yes").replace(b"\n", b"\r\n"), DONE.replace(b"\n", b"\r\n")),
        (HEAD + b"\r\n", event(b'{"choices":[{"delta":{"content":"yes"}}]}').replace(b": {", b":{"), DONE),
    ],
)
def test_a_stream_ends_in_more_ways_than_one(server: ChatServer, anyio_backend_name: str, reply: Reply) -> None:
    server.replies = [reply]
    assert asked(server.endpoint, anyio_backend_name)[0].text == "yes"


def weigh(what: str, grams: int = 5, exact: bool = False) -> str:
    """Say how heavy it is."""
    return f"{what}: {grams} {exact}"


def test_tool_calls_come_in_parts(server: ChatServer, anyio_backend_name: str) -> None:
    server.replies = [calls(("weigh", '{"what": "cat"}'), ("weigh", '{"what": "dog"}'))]
    reply, shown = asked(server.endpoint, anyio_backend_name, tools=(weigh,))
    assert reply.calls == (
        ToolCall("call-0", "weigh", '{"what": "cat"}'),
        ToolCall("call-1", "weigh", '{"what": "dog"}'),
    )
    assert shown == []
    assert reply.as_message()["tool_calls"][0] == {
        "id": "call-0",
        "type": "function",
        "function": {"name": "weigh", "arguments": '{"what": "cat"}'},
    }
    assert server.requests[0][1]["tools"] == [
        {
            "type": "function",
            "function": {
                "name": "weigh",
                "description": "Say how heavy it is.",
                "parameters": {
                    "type": "object",
                    "properties": {
                        "what": {"type": "string"},
                        "grams": {"type": "integer"},
                        "exact": {"type": "boolean"},
                    },
                    "required": ["what"],
                },
            },
        }
    ]


@pytest.mark.parametrize(
    ("reply", "reason", "temporary"),
    [
        (refuses(500, {"error": {"message": "out of\nmemory"}}), "replied 500 out of memory", True),
        (refuses(429, {"error": "too fast"}, Retry_After="7"), "replied 429 too fast", True),
        (refuses(401, {"error": {"message": "wrong key secret"}}), "replied 401 wrong key (the key)", False),
        (refuses(307, Location="http://elsewhere.example/"), "a redirect to http://elsewhere.example/", False),
        ((b"HTTP/1.1 503 No\r\nContent-Length: 99\r\n\r\nbusy",), "replied 503 Service Unavailable", True),
        ((HEAD + b"\r\n", event(b'{"choices": [{')), "something that is no chat stream: ", False),
        ((HEAD + b"\r\n", event({"object": "list"})), 'an event says {"object": "list"}', False),
        ((HEAD + b"\r\n", delta(tool_calls=["?"])), "a tool call says ?", False),
        ((HEAD + b"\r\n", delta(tool_calls=7)), "a tool call says 7", False),
        ((HEAD + b"\r\n", delta(tool_calls=[{"function": {"name": 7}}])), "a tool call says 7", False),
        ((HEAD + b"\r\n", delta(tool_calls=[{"index": None, "function": {}}])), "a tool call says {", False),
        ((HEAD + b"\r\n", event({"choices": [{"delta": None}]})), "something that is no chat stream", False),
        ((HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",), "something that is no chat stream", False),
        ((HEAD + b"Content-Length: many\r\n\r\n",), "something that is no chat stream", False),
        ((b"220 mail.example ESMTP\r\n\r\n",), "something that is no chat stream", False),
        ((b"\r\n\r\n",), "something that is no chat stream", False),
        ((HEAD + b"\r\n", delta(content="yes")), "broke off its reply", True),
        ((HEAD + b"\r\n", delta(content="yes")[:-9]), "broke off its reply", True),
        ((HEAD + b"Content-Length: 9999\r\n\r\n", delta("stop", content="yes")), "broke off its reply", True),
        (chunked(says("a", "b"), 40)[:-3], "broke off its reply", True),
        ((b"HTTP/1.1 200",), "broke off its reply", True),
        ((), "broke off its reply", True),
        ((HEAD + b"\r\n", event({"error": {"message": "overloaded"}})), "broke off its reply: overloaded", True),
        (says(" ", "\n"), "gave an empty answer", False),
        ((HEAD + b"\r\n", DONE), "gave an empty answer", False),
    ],
)
def test_what_goes_wrong_is_told(
    server: ChatServer, anyio_backend_name: str, reply: Reply, reason: str, temporary: bool
) -> None:
    server.replies = [reply]
    with pytest.raises(EndpointError) as caught:
        asked(server.endpoint, anyio_backend_name)
    assert reason in str(caught.value)
    assert caught.value.temporary == temporary
    assert "secret" not in str(caught.value)


def test_a_pause_that_is_asked_for(server: ChatServer, anyio_backend_name: str) -> None:
    server.replies = [refuses(429, Retry_After="7")]
    with pytest.raises(EndpointError) as caught:
        asked(server.endpoint, anyio_backend_name)
    assert _chat.RetryWhenAsked().next(0.0, 0, caught.value) == 7.0


@pytest.mark.parametrize("reply", [(HANG,), (HEAD + b"\r\n", HANG), (*says("Hello")[:-3], HANG)])
def test_a_stream_that_comes_to_a_halt_is_left(server: ChatServer, anyio_backend_name: str, reply: Reply) -> None:
    server.replies = [reply]
    with pytest.raises(Interrupted, match=r"sent nothing for 0\.05 seconds"):
        asked(server.endpoint, anyio_backend_name, patience=0.05)


def test_cancelling_it_hangs_up(server: ChatServer, anyio_backend_name: str) -> None:
    server.replies = [(*says("Hello")[:-3], HANG)]

    async def ask() -> None:
        with anyio.CancelScope() as scope:
            await Remote(server.endpoint).reply(ASKED, lambda piece: scope.cancel())
        assert scope.cancelled_caught
        with anyio.fail_after(20):
            while not server.hung_up:
                await anyio.lowlevel.checkpoint()

    anyio.run(ask, backend=anyio_backend_name)


def test_a_reply_is_bounded(server: ChatServer, anyio_backend_name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_model, "MAX_REPLY", 1000)
    server.replies = [says(*["word"] * 100)]
    with pytest.raises(EndpointError, match="no chat stream"):
        asked(server.endpoint, anyio_backend_name)


def test_where_nothing_listens(anyio_backend_name: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed_soon:
        port = closed_soon.getsockname()[1]
    with pytest.raises(EndpointError, match=f"no reply from 127.0.0.1:{port}"):
        asked(Endpoint(f"http://127.0.0.1:{port}", "m"), anyio_backend_name)


async def test_a_script_speaks_word_by_word() -> None:
    shown: list[str] = []
    reply = await Scripted(lambda messages: _model.Reply(f"{len(messages)} message  here")).reply(ASKED, shown.append)
    assert shown == ["1", " message", " ", " here"]
    assert reply.text == "".join(shown)


def test_the_environment_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    def script(messages: Any) -> _model.Reply:
        return _model.Reply("yes")

    def refuse(why: str) -> Any:
        raise SystemExit(why)

    for name in ("OPENAI_BASE_URL", "OPENAI_API_KEY", "OPENAI_MODEL"):
        monkeypatch.delenv(name, raising=False)
    assert model_of_environment(script, refuse) == Scripted(script)
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:1/v1")
    assert model_of_environment(script, refuse) == Remote(Endpoint("http://127.0.0.1:1/v1", "gpt-4o-mini"))
    monkeypatch.setenv("OPENAI_BASE_URL", "localhost")
    with pytest.raises(SystemExit, match="OPENAI_BASE_URL should look like"):
        model_of_environment(script, refuse)
