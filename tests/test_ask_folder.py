"""`flowkit.examples.ask_folder`: what it reads, finds, answers and shows, and how it ends.

Reading, cutting, searching and the workflow itself run under virtual time. What talks to a server runs on the
real clock, as the program does: a socket doesn't hold virtual time. Ctrl-C goes to a real process.
"""

import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from typing import Any

import anyio
import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowkit import Event
from flowkit.examples import _chat, _passages, _search, ask_folder
from flowkit.examples._chat import Endpoint, EndpointError, RetryWhenAsked
from flowkit.examples._passages import MAX_BYTES, PASSAGE_LENGTH, NotText, Passage, cut, find_files, read_text
from flowkit.examples._search import (
    Candidate,
    NoFullTextSearch,
    fill,
    open_index,
    question_words,
    reranked,
    search,
)
from flowkit.examples.ask_folder import (
    Answer,
    Ask,
    AskFolder,
    Asking,
    FileDone,
    FilesFound,
    Indexed,
    Screen,
    Unreadable,
    main,
)

posix = pytest.mark.skipif(os.name != "posix", reason="needs POSIX")


@pytest.fixture(autouse=True)
def no_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_BASE_URL", "OPENAI_API_KEY", "OPENAI_MODEL"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    """A folder with an answer to "How do I reset the password?" in guide/login.md, line 5."""
    folder = tmp_path / "notes"
    (folder / "guide").mkdir(parents=True)
    (folder / "guide" / "login.md").write_text(
        "# Login\n\nEverybody has an account.\n\n"
        "To reset a password, open the settings page and choose *Reset password*.\n"
        "A mail follows.\n\n## Two factors\n\nAn app shows the second factor.\n"
    )
    (folder / "pets.txt").write_text("Cats sleep all day.\n\nDogs don't.\n")
    (folder / "router.md").write_text("# Router\n\nA button on its back will reset it.\n")
    return folder


QUESTION = "How do I reset the password?"


# -------------------------------------------------------------------------------- finding and reading files


def test_find_files_takes_text_and_says_what_it_leaves_out(tmp_path: Path) -> None:
    for name in (
        "b.md",
        "a.txt",
        "c.MARKDOWN",
        "sub/d.text",
        "image.png",
        ".hidden.md",
        ".git/e.md",
        "code.py",
    ):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("text")
    with (tmp_path / "huge.md").open("wb") as file:
        file.truncate(MAX_BYTES + 1)

    listing = find_files(tmp_path)

    assert [path.relative_to(tmp_path).as_posix() for path in listing.files] == [
        "a.txt", "b.md", "c.MARKDOWN", "sub/d.text",
    ]  # fmt: skip
    assert [(each.name, each.reason) for each in listing.skipped] == [("huge.md", "2.0 MB, over the limit of 2 MB")]


@posix
def test_find_files_leaves_out_links_and_pipes(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("text")
    (tmp_path / "loop").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "self.md").symlink_to(tmp_path / "self.md")
    (tmp_path / "gone.md").symlink_to(tmp_path / "nothing")
    os.mkfifo(tmp_path / "pipe.md")

    listing = find_files(tmp_path)

    assert [path.name for path in listing.files] == ["a.md"]
    assert sorted((each.name, each.reason) for each in listing.skipped) == [
        ("gone.md", "a symbolic link"),
        ("loop", "a symbolic link"),
        ("pipe.md", "not a regular file"),
        ("self.md", "a symbolic link"),
    ]


def test_a_folder_that_may_not_be_listed_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "private").mkdir()
    (tmp_path / "z.md").write_text("text")
    scandir = os.scandir

    def refusing(path: str) -> Any:  # file modes don't stop root
        if Path(path).name == "private":
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    listing = find_files(tmp_path)
    assert [(each.name, each.reason) for each in listing.skipped] == [("private", "Permission denied")]
    assert [path.name for path in listing.files] == ["z.md"]


@posix
def test_a_name_that_is_no_text_can_be_shown(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"caf\xe9.md")
    assert _passages.shown(path, tmp_path) == "caf\N{REPLACEMENT CHARACTER}.md"


def test_read_text_takes_utf_8_with_and_without_a_mark(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_bytes(b"\xef\xbb\xbfna\xc3\xafve")
    (tmp_path / "b.md").write_bytes(b"na\xc3\xafve")
    assert read_text(tmp_path / "a.md") == read_text(tmp_path / "b.md") == "na\N{LATIN SMALL LETTER I WITH DIAERESIS}ve"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"PNG\0data", "binary: there is a NUL byte in it"),
        ("text".encode("utf-16"), "binary: there is a NUL byte in it"),
        (b"na\xefve", "not UTF-8 text: invalid continuation byte at byte 3"),
    ],
)
def test_read_text_refuses_what_is_no_text(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.md").write_bytes(content)
    with pytest.raises(NotText, match=f"^{message}$"):
        read_text(tmp_path / "a.md")


# -------------------------------------------------------------------------------- cutting


def pieces(text: str) -> list[tuple[int, int, str, str]]:
    return [(each.first_line, each.last_line, each.heading, each.text) for each in cut("a.md", text)]


def test_a_passage_knows_its_lines_and_the_headings_it_is_under() -> None:
    text = "intro\n\n# A\n\none\ntwo\n\nthree\n## B ##\nfour\n# C#\nfive\n"
    assert pieces(text) == [
        (1, 1, "", "intro"),
        (5, 8, "A", "one\ntwo\n\nthree"),
        (10, 10, "A > B", "four"),
        (12, 12, "C#", "five"),
    ]
    assert cut("a.md", text)[2].place == "a.md:10"


def test_underlined_headings() -> None:
    assert pieces("A\n===\none\n\nB\n---\ntwo\n\nlist\nof two\n---\nrest") == [
        (3, 3, "A", "one"),
        (7, 12, "A > B", "two\n\nlist\nof two\n---\nrest"),
    ]


def test_code_has_no_headings_and_stays_together() -> None:
    text = "# A\n```sh\n# install\n\npip\n```\n# B\n~~~~\n```\n# no end\n\n"
    assert pieces(text) == [(2, 6, "A", "```sh\n# install\n\npip\n```"), (8, 10, "B", "~~~~\n```\n# no end")]


def test_a_heading_with_nothing_under_it_is_found_too() -> None:
    assert pieces("# Shopping\n## Milk\n## Bread\n# Done\n") == [
        (2, 2, "Shopping > Milk", "Milk"),
        (3, 3, "Shopping > Bread", "Bread"),
        (4, 4, "Done", "Done"),
    ]


def test_line_endings_of_every_system_count() -> None:
    assert [piece[:2] for piece in pieces("# A\r\none\r\n# B\rtwo\x0c\u2028still two\n# C\nthree")] == [
        (2, 2), (4, 4), (6, 6),
    ]  # fmt: skip


def test_paragraphs_are_joined_up_to_the_length_of_a_passage() -> None:
    paragraph = "word " * 59 + "end"  # 298 characters: two fit, with the blank line between them
    assert [piece[:2] for piece in pieces(f"{paragraph}\n\n{paragraph}\n\n{paragraph}\n")] == [(1, 3), (5, 5)]


def test_a_long_line_is_cut_after_a_sentence_or_a_word() -> None:
    sentence = "s" * 398 + ". "
    assert [text for *_, text in pieces(sentence * 2 + "end")] == ["s" * 398 + ".", "s" * 398 + ". end"]
    words = "word " * 200
    assert all(text.startswith("word") and text.endswith("word") for *_, text in pieces(words))
    assert [len(text) for *_, text in pieces("x" * (PASSAGE_LENGTH + 1))] == [PASSAGE_LENGTH, 1]


@given(st.builds(lambda text, times: text * times, st.text("ab. \n", max_size=200), st.integers(1, 20)))
def test_no_text_is_lost(text: str) -> None:
    passages = cut("a.md", text)
    assert "".join("".join(each.text.split()) for each in passages) == "".join(text.split())


@given(st.builds(lambda text, times: text * times, st.text("ab #-=`~.\n", max_size=100), st.integers(1, 20)))
def test_a_passage_stands_where_it_says(text: str) -> None:
    lines = text.split("\n")
    for each in cut("a.md", text):
        assert 1 <= each.first_line <= each.last_line <= len(lines)
        assert 0 < len(each.text) <= PASSAGE_LENGTH
        source = "".join("\n".join(lines[each.first_line - 1 : each.last_line]).split())
        assert "".join(each.text.split()) in source


# -------------------------------------------------------------------------------- searching and ranking


def found(question: str, *texts: str, heading: str = "") -> list[Candidate]:
    with open_index() as index:
        fill(index, [Passage("a.md", n, n, heading, text) for n, text in enumerate(texts, start=1)])
        return search(index, question)


def test_words_are_found_in_every_form() -> None:
    candidates = found("Are r\xe9sum\xe9s RUNNING?", "a resume", "he runs", "nothing", "running resumes")
    assert sorted(each.passage.text for each in candidates) == ["a resume", "he runs", "running resumes"]


def test_a_candidate_counts_words_and_their_distance() -> None:
    by_text = {
        each.passage.text: (each.covered, each.distance)
        for each in found("reset password", "password", "reset a password", "reset, reset: a new password reset")
    }
    assert by_text == {
        "password": (1, None),
        "reset a password": (2, 2),
        "reset, reset: a new password reset": (2, 1),
    }
    assert [(each.covered, each.distance) for each in found("reset password", "reset", heading="Password")] == [
        (2, None)
    ]


def test_words_of_a_heading_count_more() -> None:
    with open_index() as index:
        fill(index, [Passage("a.md", 1, 1, "Dogs", "cats"), Passage("a.md", 3, 3, "Cats", "dogs")])
        fill(index, [Passage("b.md", n, n, "", "fish") for n in range(5)])
        assert [each.passage.heading for each in search(index, "cats")] == ["Cats", "Dogs"]


@pytest.mark.parametrize("question", ['NOT "x', "a* OR (b", "x AND", "text:x", "{x}", "x^2", "_", "?", ""])
def test_a_question_is_never_an_expression(question: str) -> None:
    found(question, "x b text")


def test_a_question_may_be_long() -> None:
    assert found(" ".join(f"w{n}" for n in range(5000)), "w0")


def test_words_that_tell_nothing_are_dropped_unless_there_are_no_others() -> None:
    assert question_words("What is the capital of the state?") == ["capital", "state"]
    assert question_words("Who is it?") == ["who", "is", "it"]
    assert question_words("?!") == []


def candidate(text: str, bm25: float, covered: int, distance: int | None) -> Candidate:
    return Candidate(Passage("a.md", 1, 1, "", text), bm25, covered, distance)


def test_coverage_and_proximity_change_the_order_of_bm25() -> None:
    often = candidate("often", 3.0, 1, None)
    near = candidate("near", 2.0, 2, 1)
    far = candidate("far", 1.0, 2, 9)
    assert [each.text for each in reranked([often, near, far])] == ["near", "far", "often"]


def test_equals_keep_the_order_of_bm25() -> None:
    assert [each.text for each in reranked([candidate("a", 2.0, 1, None), candidate("b", 1.0, 2, None)])] == [
        "a",
        "b",
    ]
    assert reranked([]) == []


def test_a_text_is_quoted_once() -> None:
    assert [each.text for each in reranked([candidate("same", 2.0, 1, None), candidate("same", 1.0, 2, 1)])] == ["same"]


def test_sqlite_without_fts5(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_search, "_SCHEMA", "CREATE VIRTUAL TABLE passage USING fts5_that_is_not_there(text)")
    with pytest.raises(NoFullTextSearch, match="was built without FTS5"), open_index():
        pass


# -------------------------------------------------------------------------------- the endpoint


def test_no_endpoint_without_url_and_key() -> None:
    assert Endpoint.from_environment({}) is None
    assert Endpoint.from_environment({"OPENAI_BASE_URL": " ", "OPENAI_API_KEY": "", "OPENAI_MODEL": "m"}) is None


def test_either_url_or_key_makes_an_endpoint() -> None:
    assert Endpoint.from_environment({"OPENAI_API_KEY": "k"}) == Endpoint(
        "https://api.openai.com/v1", "gpt-4o-mini", "k"
    )
    assert Endpoint.from_environment({"OPENAI_BASE_URL": "http://[::1]:8080/v1", "OPENAI_MODEL": "m"}) == Endpoint(
        "http://[::1]:8080/v1", "m"
    )


def test_the_key_is_not_shown() -> None:
    assert "secret" not in repr(Endpoint("https://api.openai.com/v1", "m", "secret"))


@pytest.mark.parametrize(
    "environment",
    [
        {"OPENAI_BASE_URL": "localhost:8080"},
        {"OPENAI_BASE_URL": "ftp://example.org"},
        {"OPENAI_BASE_URL": "https://"},
        {"OPENAI_BASE_URL": "https://user:secret@example.org"},
        {"OPENAI_BASE_URL": "https://example.org:port"},
        {"OPENAI_BASE_URL": "https://example.org/ HTTP/1.1\r\nX: y"},
        {"OPENAI_API_KEY": "secret\r\nX: y"},
        {"OPENAI_API_KEY": "secr\xe9t"},
    ],
)
def test_an_environment_that_makes_no_request_is_refused(environment: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"OPENAI_BASE_URL|OPENAI_API_KEY") as caught:
        Endpoint.from_environment(environment)
    assert "secr" not in str(caught.value)


@pytest.mark.parametrize(
    ("error", "delays"),
    [
        (EndpointError("busy", status=503), [0.5, 1.0, None]),
        (EndpointError("slow down", status=429, retry_after=7.0), [7.0, 7.0, None]),
        (EndpointError("come back tomorrow", status=429, retry_after=86400.0), [None]),
        (EndpointError("no such model", status=404), [None]),
        (EndpointError("no connection"), [None]),
        (TimeoutError(), [None]),
    ],
)
def test_when_a_request_is_made_again(error: Exception, delays: list[float | None]) -> None:
    assert [RetryWhenAsked().next(0.0, attempts, error) for attempts in range(len(delays))] == delays


def test_a_pause_is_told_in_seconds_or_by_a_date() -> None:
    now = 1_700_000_000.0
    assert _chat._seconds("3", now=now) == 3.0
    assert _chat._seconds(formatdate(now + 90, usegmt=True), now=now) == 90.0
    assert _chat._seconds(formatdate(now - 90, usegmt=True), now=now) == 0.0
    assert _chat._seconds("soon", now=now) is None
    assert _chat._seconds(None, now=now) is None


@pytest.mark.parametrize(
    "rest",
    [
        b"Content-Length: 5\r\n\r\nhello",
        b"Transfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n",
        b"\r\nhello",
    ],
)
def test_a_reply_is_understood_however_its_length_is_told(rest: bytes) -> None:
    status, _, content = _chat._parse(b"HTTP/1.1 200 OK\r\n" + rest)
    assert (status, content) == (200, b"hello")


# -------------------------------------------------------------------------------- an endpoint on this machine


@attrs.frozen
class Reply:
    """What the server does with a request: without a status it keeps it until the client hangs up."""

    status: int | None
    content: object = None
    headers: Mapping[str, str] = attrs.field(factory=dict[str, str])


def says(text: str) -> Reply:
    return Reply(200, {"choices": [{"message": {"role": "assistant", "content": text}}]})


class Server(ThreadingHTTPServer):
    """An OpenAI-compatible endpoint that gives `replies` one after another, the last again and again."""

    daemon_threads = False  # so that closing the server waits for its threads

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.replies: list[Reply] = [says("Use the settings page [1].")]
        self.requests: list[tuple[str, dict[str, str], Any]] = []
        self.asked = threading.Event()
        self.hung_up = threading.Event()

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


class Handler(BaseHTTPRequestHandler):
    server: Server
    timeout = 30.0  # seconds; a test that fails must not wait for ever

    def do_POST(self) -> None:
        content = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.requests.append((self.path, dict(self.headers), content))
        reply = self.server.replies.pop(0) if len(self.server.replies) > 1 else self.server.replies[0]
        self.server.asked.set()
        if reply.status is None:
            if self.connection.recv(1) == b"":
                self.server.hung_up.set()
            return
        body = reply.content if isinstance(reply.content, bytes) else json.dumps(reply.content).encode()
        self.send_response(reply.status)
        for name, value in reply.headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Keep quiet."""


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def ask(notes: Path, anyio_backend_name: str, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """Run the program in this process; its exit code and what it wrote to standard output."""

    def ask(*arguments: str, folder: Path = notes, question: str = QUESTION) -> tuple[int, str]:
        code = main([str(folder), question, "--backend", anyio_backend_name, *arguments])
        return code, capsys.readouterr().out

    return ask


Program = Callable[..., tuple[int, str]]


def test_the_model_writes_the_answer(server: Server, ask: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    monkeypatch.setenv("OPENAI_MODEL", "some-model")

    code, out = ask()

    assert code == 0
    assert "asking some-model\n\nUse the settings page [1].\n\n[1] guide/login.md:3  Login\n" in out
    [(path, headers, request)] = server.requests
    assert path == "/v1/chat/completions"
    assert headers["Authorization"] == "Bearer secret"
    assert headers["Host"] == f"127.0.0.1:{server.server_port}"
    assert request["model"] == "some-model"
    assert [each["role"] for each in request["messages"]] == ["system", "user"]
    assert "[1] guide/login.md:3 (Login)\nEverybody" in request["messages"][1]["content"]
    assert request["messages"][1]["content"].endswith(f"Question: {QUESTION}")


def test_without_a_key_none_is_sent(server: Server, ask: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", f"{server.base_url}/?api-version=1")
    assert ask()[0] == 0
    [(path, headers, _)] = server.requests
    assert path == "/v1/chat/completions?api-version=1"
    assert "Authorization" not in headers


def test_a_busy_endpoint_is_asked_again(server: Server, ask: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
    monkeypatch.setenv("OPENAI_MODEL", "m")
    at_once = {"Retry-After": "0"}
    server.replies = [Reply(429, headers=at_once), Reply(503, headers=at_once), says("At last [1].")]

    code, out = ask()

    assert code == 0
    assert "asking m\nasking m, attempt 2\nasking m, attempt 3\n\nAt last [1].\n" in out


@pytest.mark.parametrize(
    ("reply", "requests", "reason"),
    [
        (Reply(503, headers={"Retry-After": "0"}), 3, "replied 503 Service Unavailable"),
        (
            Reply(429, {"error": {"message": "quota\nused up"}}, {"Retry-After": "3600"}),
            1,
            "replied 429 quota used up",
        ),
        (Reply(401, {"error": {"message": "bad key secret"}}), 1, "replied 401 bad key (the key)"),
        (Reply(404, {"error": "no such model"}), 1, "replied 404 no such model"),
        (Reply(400, b"<html>"), 1, "replied 400 Bad Request"),
        (
            Reply(307, headers={"Location": "http://elsewhere.example/"}),
            1,
            "replied 307 (a redirect to http://elsewhere.example/, which isn't followed)",
        ),
        (Reply(200, b"<html>"), 1, "replied with something that isn't JSON"),
        (Reply(200, {"choices": []}), 1, "the endpoint's reply has no answer in it"),
        (says(" "), 1, "the endpoint's reply has no answer in it"),
        (Reply(200, b"{}", {"Content-Length": "100"}), 1, "IncompleteRead"),
    ],
)
def test_where_the_endpoint_fails_for_good_the_passages_are_quoted(
    server: Server, ask: Program, monkeypatch: pytest.MonkeyPatch, reply: Reply, requests: int, reason: str
) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    server.replies = [reply]

    code, out = ask()

    assert code == 0
    assert re.search(f"^no written answer: .*{re.escape(reason)}", out, re.MULTILINE)
    assert "\n\nguide/login.md:3  Login\n  | Everybody has an account.\n" in out
    assert "secret" not in out
    assert len(server.requests) == requests


def test_where_nothing_listens_the_passages_are_quoted(ask: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed_soon:
        port = closed_soon.getsockname()[1]
    monkeypatch.setenv("OPENAI_BASE_URL", f"http://127.0.0.1:{port}")
    code, out = ask()
    assert code == 0
    assert f"no written answer: no reply from 127.0.0.1:{port}: " in out
    assert "guide/login.md:3" in out


async def test_an_answer_that_takes_too_long_is_not_waited_for(notes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def slow(*_: object) -> str:
        await anyio.sleep_forever()
        raise AssertionError

    monkeypatch.setattr(ask_folder, "write_answer", slow)
    begun = anyio.current_time()
    answer = await AskFolder(endpoint=Endpoint("http://example.org", "m")).run(
        start_event=Ask(folder=notes, question=QUESTION)
    )
    assert answer.written is None
    assert answer.note.startswith("no written answer: ")
    assert "60 seconds" in answer.note
    assert answer.passages
    assert anyio.current_time() - begun == ask_folder.WRITE_TIMEOUT


# -------------------------------------------------------------------------------- the workflow


async def run(folder: Path, question: str = QUESTION, **settings: Any) -> tuple[Answer, list[Event]]:
    """The answer, and what was streamed on the way."""
    async with AskFolder(**settings).run(start_event=Ask(folder=folder, question=question)) as handler:
        events = [event async for event in handler.stream_events()]
        answer = await handler
    assert isinstance(answer, Answer)
    return answer, events


async def test_the_best_passages_come_first(notes: Path) -> None:
    answer, _ = await run(notes)
    assert [each.place for each in answer.passages] == ["guide/login.md:3", "router.md:3"]
    assert answer.written is None
    assert answer.note == ""


async def test_no_more_passages_than_asked_for(notes: Path) -> None:
    answer, _ = await run(notes, top=1)
    assert [each.place for each in answer.passages] == ["guide/login.md:3"]


async def test_progress_is_streamed(notes: Path) -> None:
    _, events = await run(notes)
    progress = [event for event in events if isinstance(event, ask_folder.Progress)]
    assert progress == [
        FilesFound(files=3, skipped=()),
        FileDone(),
        FileDone(),
        FileDone(),
        Indexed(files=3, passages=4),
    ]


def failing(name: str, times: float, calls: list[str]) -> Callable[[Path], str]:
    """`read_text` that fails the first `times` times for the file of this name."""

    def read(path: Path) -> str:
        calls.append(path.name)
        if path.name == name and calls.count(name) <= times:
            raise PermissionError(13, "Permission denied", str(path))
        return read_text(path)

    return read


async def test_a_file_that_can_be_read_at_the_third_attempt(notes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    monkeypatch.setattr(ask_folder, "read_text", failing("login.md", 2, calls))
    begun = anyio.current_time()
    answer, events = await run(notes)
    assert answer.passages[0].place == "guide/login.md:3"
    assert not any(isinstance(event, Unreadable) for event in events)
    assert sorted(calls) == ["login.md", "login.md", "login.md", "pets.txt", "router.md"]
    assert anyio.current_time() - begun == pytest.approx(0.2)


async def test_a_file_that_can_not_be_read_is_reported_and_the_others_are_kept(
    notes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    monkeypatch.setattr(ask_folder, "read_text", failing("login.md", float("inf"), calls))
    answer, events = await run(notes)
    assert [each.place for each in answer.passages] == ["router.md:3"]
    assert [event for event in events if isinstance(event, Unreadable)] == [
        Unreadable(name="guide/login.md", reason="Permission denied (3 attempts)")
    ]
    assert Indexed(files=2, passages=2) in events
    assert calls.count("login.md") == 3


async def test_a_binary_file_is_reported_at_once(notes: Path) -> None:
    (notes / "image.md").write_bytes(b"\0")
    _, events = await run(notes)
    assert [event for event in events if isinstance(event, Unreadable)] == [
        Unreadable(name="image.md", reason="binary: there is a NUL byte in it")
    ]


async def test_many_files(tmp_path: Path) -> None:
    for n in range(300):
        (tmp_path / f"{n}.md").write_text(f"Number {n} is called n{n}.\n")
    answer, events = await run(tmp_path, "Who is n123?")
    assert [each.file for each in answer.passages] == ["123.md"]
    assert sum(isinstance(event, FileDone) for event in events) == 300


async def test_the_index_is_closed_with_the_run(notes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[sqlite3.Connection] = []

    def watched(index: sqlite3.Connection, passages: Iterable[Passage]) -> None:
        used.append(index)
        fill(index, passages)

    monkeypatch.setattr(ask_folder, "fill", watched)
    await run(notes)
    [index] = used
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        index.execute("SELECT 1")


@pytest.mark.parametrize(
    ("files", "note"),
    [
        ({}, "there are no Markdown or text files in "),
        ({"a.py": b"text"}, "there are no Markdown or text files in "),
        ({"a.md": b"\0"}, "there is no text in the files that could be read"),
        ({"a.md": b"  \n"}, "there is no text in the files that could be read"),
        ({"a.md": b"Cats."}, "no passage has any of these words: reset, password"),
    ],
)
async def test_what_can_not_be_answered(tmp_path: Path, files: dict[str, bytes], note: str) -> None:
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    answer, _ = await run(tmp_path)
    assert answer.passages == ()
    assert answer.note.startswith(note)


# -------------------------------------------------------------------------------- the program


def test_the_program_quotes(ask: Program) -> None:
    code, out = ask("--top", "1")
    assert code == 0
    assert out == (
        "reading 3 files\n"
        "read 3 of 3 files: 4 passages\n"
        "\n"
        "guide/login.md:3  Login\n"
        "  | Everybody has an account.\n"
        "  | \n"
        "  | To reset a password, open the settings page and choose *Reset password*.\n"
        "  | A mail follows.\n"
    )


def test_the_program_finds_nothing(ask: Program, tmp_path: Path) -> None:
    assert ask(question="zebra")[0] == 1
    (tmp_path / "empty").mkdir()
    code, out = ask(folder=tmp_path / "empty")
    assert (code, out) == (1, f"there are no Markdown or text files in {tmp_path / 'empty'}\n")


def test_the_program_reports_what_it_did_not_read(ask: Program, notes: Path) -> None:
    (notes / "image.md").write_bytes(b"\0")
    with (notes / "huge.txt").open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    code, out = ask()
    assert code == 0
    assert out.startswith("left out: huge.txt: 2.0 MB, over the limit of 2 MB\nreading 4 files\n")
    assert "unreadable: image.md: binary: there is a NUL byte in it\n" in out
    assert "read 3 of 4 files: 4 passages\n" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{folder}/missing", "why?"], "{folder}/missing is not there"),
        (["{folder}/a.md", "why?"], "{folder}/a.md is not a folder"),
        (["{folder}", "?"], "the question has no words to look for"),
        (["{folder}", "why?", "--top", "0"], "--top takes a number from 1, but got 0"),
        (["{folder}", "why?", "--backend", "curio"], "invalid choice: 'curio'"),
        (["{folder}"], "the following arguments are required: question"),
    ],
)
def test_wrong_usage(tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    (tmp_path / "a.md").write_text("text")
    with pytest.raises(SystemExit) as caught:
        main([each.format(folder=tmp_path) for each in arguments])
    assert caught.value.code == 2
    assert message.format(folder=tmp_path) in capsys.readouterr().err


def test_a_wrong_environment(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "localhost")
    with pytest.raises(SystemExit) as caught:
        main([str(tmp_path), "why?"])
    assert caught.value.code == 2
    assert "OPENAI_BASE_URL should look like https://api.openai.com/v1" in capsys.readouterr().err


def test_a_backend_that_is_not_installed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name, *more: None if name == "trio" else find_spec(name, *more)
    )
    with pytest.raises(SystemExit) as caught:
        main([str(tmp_path), "why?", "--backend", "trio"])
    assert caught.value.code == 2
    assert "trio is not installed: pip install trio" in capsys.readouterr().err


def test_the_program_without_fts5(
    ask: Program, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_search, "_SCHEMA", "CREATE VIRTUAL TABLE passage USING fts5_that_is_not_there(text)")
    with pytest.raises(SystemExit) as caught:
        ask()
    assert caught.value.code == 2
    assert "was built without FTS5" in capsys.readouterr().err


def test_progress_on_a_terminal_is_one_line_that_changes() -> None:
    out = StringIO()
    screen = Screen(out, live=True)
    for event in (
        FilesFound(files=2, skipped=()),
        FileDone(),
        Unreadable(name="a.md", reason="broken"),
        Indexed(files=1, passages=1),
        Asking(model="m" * 500, attempt=1),
    ):
        screen.show(event)
    screen.clear()
    shown = out.getvalue()
    assert shown.startswith("\r\x1b[Kreading 2 files\r\x1b[Kreading 2 files: 1 done\r\x1b[Kunreadable: a.md: broken\n")
    assert "\r\x1b[Kread 1 of 2 files: 1 passage\n" in shown
    assert shown.endswith("m\r\x1b[K")
    assert max(len(line) for line in re.split(r"\r\x1b\[K|\n", shown)) < 100


def test_text_can_not_steer_the_terminal() -> None:
    assert ask_folder.printable("a\x1b[2Jb\x9b\r\n\tc\xa0\N{ZERO WIDTH JOINER}") == (
        "a\N{REPLACEMENT CHARACTER}[2Jb" + "\N{REPLACEMENT CHARACTER}" * 2 + "\n\tc\xa0\N{ZERO WIDTH JOINER}"
    )


# -------------------------------------------------------------------------------- a process of its own


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Child processes react to SIGINT even where the tests run as a background job, which ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@posix
@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize(
    ("reply", "place"), [(Reply(None), "request"), (Reply(429, headers={"Retry-After": "60"}), "retry")]
)
def test_ctrl_c_leaves_nothing_behind(
    server: Server, notes: Path, anyio_backend_name: str, reply: Reply, place: str
) -> None:
    server.replies = [reply]
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "flowkit.examples.ask_folder",
            notes,
            QUESTION,
            "--backend",
            anyio_backend_name,
        ],
        env={**os.environ, "OPENAI_BASE_URL": server.base_url, "OPENAI_MODEL": "m"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        for line in process.stdout:
            if line == "asking m\n":
                break
        assert server.asked.wait(30)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (130, "", "stopped\n")
    if place == "request":
        assert server.hung_up.wait(30)


@posix
def test_the_program_on_a_terminal(notes: Path, anyio_backend_name: str) -> None:
    import pty

    mine, its = pty.openpty()
    try:
        process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "flowkit.examples.ask_folder",
                notes,
                QUESTION,
                "--backend",
                anyio_backend_name,
            ],
            env={**os.environ, "TERM": "xterm"},
            stdout=its,
            stderr=subprocess.PIPE,
        )
    finally:
        os.close(its)
    shown = b""
    with process, open(mine, "rb", buffering=0) as terminal:
        while True:
            try:
                piece = terminal.read(65536)
            except OSError:  # how Linux says that the other end is closed
                break
            if not piece:
                break
            shown += piece
        _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (0, b"")
    assert b"\r\x1b[Kreading 3 files\r\x1b[K" in shown
    assert b"guide/login.md:3  Login\r\n" in shown


@posix
def test_the_program_ends_quietly_when_nobody_reads_on(notes: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "flowkit.examples.ask_folder", str(notes), QUESTION]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")
