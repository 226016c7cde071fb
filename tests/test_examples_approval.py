"""`flowkit.examples.approval`: a claim is signed at a terminal or through a pipe, now or tomorrow.

Each session is a process of its own, as it is for those who use it.
"""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from flowkit.examples import approval
from flowkit.examples._terminal import run_program

posix = pytest.mark.skipif(os.name != "posix", reason="needs POSIX")

MANAGER = "[manager] train, 1800.00 euros (yes or no) "
FINANCE = "[finance] train, 1800.00 euros (yes or no) "
WHY = "[manager] Why not? (reason) "
WAITS = "ana-7 waits for an answer: give its name alone, today or tomorrow\n"
NEW = ("train", "1800")


def command(tmp_path: Path, backend: str, *arguments: str) -> list[str]:
    program = [sys.executable, "-m", "flowkit.examples.approval", "ana-7", *arguments]
    return [*program, "--store", str(tmp_path / "claims.db"), "--backend", backend]


Piped = Callable[..., tuple[int, str, str]]


@pytest.fixture
def piped(tmp_path: Path, anyio_backend_name: str) -> Piped:
    """Run it with this as its input; its exit code and what it wrote."""

    def piped(*arguments: str, typed: str = "") -> tuple[int, str, str]:
        ran = subprocess.run(
            command(tmp_path, anyio_backend_name, *arguments),
            input=typed, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        return ran.returncode, ran.stdout, ran.stderr

    return piped


class Session:
    """The program at a terminal."""

    def __init__(self, arguments: list[str]) -> None:
        import pty

        self._mine, its = pty.openpty()
        self.shown = ""
        # A session of its own, whose terminal this is: then Ctrl-C typed there reaches it as a signal.
        self.process = subprocess.Popen(
            [sys.executable, "-c", _ADOPT, *arguments], stdin=its, stdout=its, stderr=its, start_new_session=True
        )
        os.close(its)

    def wait_for(self, text: str) -> None:
        """Read until this is shown, after what was waited for before."""
        while text not in self.shown:
            piece = os.read(self._mine, 1024)
            assert piece
            self.shown += piece.decode().replace("\r\n", "\n")
        self.shown = self.shown.partition(text)[2]

    def type(self, text: str) -> None:
        os.write(self._mine, text.encode())

    def end(self) -> tuple[int, str]:
        """The exit code, and what is shown to the end."""
        with contextlib.suppress(OSError):  # how Linux says that the other end is closed
            while piece := os.read(self._mine, 1024):
                self.shown += piece.decode().replace("\r\n", "\n")
        return self.process.wait(60), self.shown

    def close(self) -> None:
        with contextlib.suppress(OSError):
            os.close(self._mine)
        self.process.kill()
        self.process.wait()


_ADOPT = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""


@pytest.fixture
def terminal(tmp_path: Path, anyio_backend_name: str) -> Iterator[Callable[..., Session]]:
    sessions: list[Session] = []

    def terminal(*arguments: str) -> Session:
        sessions.append(Session(command(tmp_path, anyio_backend_name, *arguments)))
        return sessions[-1]

    yield terminal
    for session in sessions:
        session.close()


@pytest.fixture
def booked(tmp_path: Path) -> Callable[[], list[str]]:
    """The amounts that were paid."""

    def booked() -> list[str]:
        ledger = tmp_path / "claims.db.ledger"
        return [line.split("\t")[1] for line in ledger.read_text().splitlines()] if ledger.exists() else []

    return booked


Booked = Callable[[], list[str]]

# ------------------------------------------------------------------------------------------------------------ by a pipe


def test_a_small_claim_needs_nobody(piped: Piped, booked: Booked) -> None:
    assert piped("pencil", "2.5") == (0, "paid\n", "")
    assert booked() == ["2.50"]


def test_two_sign(piped: Piped, booked: Booked) -> None:
    assert piped(*NEW, typed="Yes\ny\n") == (0, f"{MANAGER}{FINANCE}paid\n", "")
    assert booked() == ["1800.00"]
    assert piped() == (0, "paid\n", "")  # tomorrow: it has been settled
    assert booked() == ["1800.00"]


def test_one_declines(piped: Piped, booked: Booked) -> None:
    code, out, err = piped(*NEW, typed="no\nyes\n\ntake the bus\n")
    assert (code, err) == (1, "")
    assert out == f"{MANAGER}{FINANCE}{WHY}{WHY}declined\nmanager: take the bus\n"
    assert booked() == []


def test_what_is_no_answer_is_asked_again(piped: Piped) -> None:
    assert piped("train", "180", typed="perhaps\n\n\xff\ny") == (
        0, "[manager] train, 180.00 euros (yes or no) " * 4 + "paid\n", "",
    )  # fmt: skip


def test_tomorrow_in_another_process(piped: Piped, booked: Booked) -> None:
    assert piped(*NEW, "--later", typed="yes\n") == (3, WAITS, "")
    assert piped("--later") == (3, WAITS, "")
    assert piped(typed="yes\n") == (3, f"{MANAGER}{FINANCE}\n{WAITS}", "")
    assert booked() == []
    assert piped(typed="yes\n") == (0, f"{FINANCE}paid\n", "")
    assert booked() == ["1800.00"]


def test_a_reason_is_asked_for_tomorrow(piped: Piped) -> None:
    piped("train", "180", typed="no\n")
    assert piped(typed="no money\n") == (1, f"{WHY}declined\nmanager: no money\n", "")


def test_a_claim_that_is_not_there(piped: Piped, tmp_path: Path) -> None:
    assert piped() == (2, "", "there is no claim ana-7 yet: give more than its name alone\n")


def test_a_claim_that_is_there_already(piped: Piped) -> None:
    piped(*NEW, "--later")
    assert piped("bus", "20") == (2, "", "there is a claim ana-7 already: give its name alone\n")
    assert piped("--later") == (3, WAITS, "")


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("", *NEW), "got run_id='': give a name"),
        (("a", *NEW, "--store", ""), "this is a folder: name a file in it"),
        (("a", *NEW, "--store", "missing/claims.db"), "create it first"),
    ],
)
def test_what_cannot_be_kept(
    arguments: tuple[str, ...], problem: str, tmp_path: Path, anyio_backend_name: str,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert approval.main([*arguments, "--backend", anyio_backend_name]) == 1
    out, err = capsys.readouterr()
    assert (out, err[:9]) == ("", "\nfailed: ")
    assert problem in err and len(err.splitlines()) == 2


def test_a_store_that_is_none(piped: Piped, tmp_path: Path) -> None:
    (tmp_path / "claims.db").write_text("Not a database, but long enough to be looked at. " * 100)
    code, out, err = piped(*NEW)
    assert (code, out) == (1, "")
    assert err.startswith("\nfailed: ")
    assert len(err.splitlines()) == 2


def test_a_ledger_that_cannot_be_written(piped: Piped, tmp_path: Path, booked: Booked) -> None:
    (tmp_path / "claims.db.ledger").mkdir()
    code, out, err = piped("pencil", "2.5")
    assert (code, out) == (1, "")
    assert err.startswith("\nfailed: [Errno ")


@posix
def test_no_input_at_all(tmp_path: Path, anyio_backend_name: str) -> None:
    arguments = command(tmp_path, anyio_backend_name, *NEW)
    ran = subprocess.run(
        ["sh", "-c", 'exec "$@" <&-', "sh", *arguments], capture_output=True, text=True, timeout=60, check=False
    )
    assert (ran.returncode, ran.stderr) == (3, "")
    assert ran.stdout.endswith(WAITS)


# -------------------------------------------------------------------------------------------------------- at a terminal


@posix
def test_at_a_terminal(terminal: Callable[..., Session], booked: Booked) -> None:
    session = terminal(*NEW)
    session.wait_for(MANAGER)
    session.type("maybe\n")
    session.wait_for(MANAGER)
    session.type("yess\x7f\n")  # a slip, taken back
    session.wait_for(FINANCE)
    session.type("yes\n")
    assert session.end() == (0, "yes\npaid\n")
    assert booked() == ["1800.00"]


@posix
def test_ctrl_c_at_the_prompt_loses_no_answer(terminal: Callable[..., Session], booked: Booked) -> None:
    session = terminal(*NEW)
    session.wait_for(MANAGER)
    session.type("yes\n")
    session.wait_for(FINANCE)
    session.type("ye\x03")
    code, shown = session.end()
    assert code == 130
    assert shown.endswith("\nstopped\n")
    assert "Traceback" not in shown

    session = terminal()
    session.wait_for(FINANCE)
    assert MANAGER not in session.shown
    session.type("yes\n")
    assert session.end()[0] == 0
    assert booked() == ["1800.00"]


@posix
def test_ctrl_d_at_the_prompt(terminal: Callable[..., Session]) -> None:
    session = terminal(*NEW)
    session.wait_for(MANAGER)
    session.type("\x04")
    code, shown = session.end()
    assert code == 3
    assert shown.endswith(WAITS)


@posix
def test_a_killed_session_loses_no_answer(terminal: Callable[..., Session], piped: Piped, booked: Booked) -> None:
    session = terminal(*NEW)
    session.wait_for(MANAGER)
    session.type("yes\n")
    session.wait_for(FINANCE)
    session.process.send_signal(signal.SIGKILL)
    session.process.wait()
    assert piped(typed="yes\n") == (0, f"{FINANCE}paid\n", "")
    assert booked() == ["1800.00"]


@posix
def test_a_closed_terminal_loses_no_answer(terminal: Callable[..., Session], piped: Piped) -> None:
    session = terminal(*NEW)
    session.wait_for(MANAGER)
    session.type("yes\n")
    session.wait_for(FINANCE)
    os.close(session._mine)
    session.process.wait(60)
    assert piped(typed="yes\n") == (0, f"{FINANCE}paid\n", "")


@posix
def test_two_sessions_of_one_claim(terminal: Callable[..., Session], piped: Piped) -> None:
    session = terminal(*NEW)
    session.wait_for(MANAGER)
    code, out, err = piped()
    assert (code, out) == (1, "")
    assert err.startswith("\nfailed: run 'ana-7' is driven by ")


# ------------------------------------------------------------------------------------------------------------ its parts


def test_a_payment_is_booked_once(tmp_path: Path) -> None:
    ledger = approval.Ledger(tmp_path / "ledger")
    for key in ("a", "a", "ab", "a"):
        ledger.book(key, 1.0)
    assert ledger.path.read_text() == "a\t1.00\nab\t1.00\n"


def test_what_a_program_ends_with(anyio_backend_name: str, capsys: pytest.CaptureFixture[str]) -> None:
    async def interrupted() -> int:
        raise KeyboardInterrupt

    assert run_program(interrupted, backend=anyio_backend_name) == 130
    assert capsys.readouterr().err == "\nstopped\n"


@posix
@pytest.mark.parametrize("name", ["joke", "react_agent", "text_to_sql"])
def test_a_program_ends_quietly_when_nobody_reads_on(name: str, anyio_backend_name: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    arguments: list[Any] = [sys.executable, "-m", f"flowkit.examples.{name}", "--backend", anyio_backend_name]
    done = subprocess.run(arguments, stdout=writer, stderr=subprocess.PIPE, timeout=60, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")
