"""What is posted to a run of another process is entered exactly once, whichever of the two is killed, and whenever.

Real processes and the real clock; what is waited for is a condition, and an instant to kill at is a place in what the
victim tells (mailbox_victim.py). ``KILL_SEED`` repeats a failed one, as far as the operating system's timing allows.
"""

import functools
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import anyio
import attrs
import pytest
from mailbox_victim import RUN_ID, Collecting, Done, Letter

from flowkit.facts import EventSent
from flowkit.runtime import open_runtime
from flowkit.sqlite_store import SQLiteStore

pytestmark = pytest.mark.skipif(os.name != "posix", reason="the signals are POSIX's")

PATIENCE = 60.0
HERE = Path(__file__).parent


@pytest.fixture(params=["asyncio", "trio"])
def backend(request: pytest.FixtureRequest) -> str:
    if request.param == "trio":
        pytest.importorskip("trio")
    name: str = request.param
    return name


@attrs.define(eq=False)
class Victim:
    folder: Path
    role: str
    life: int
    process: subprocess.Popen[bytes]

    @property
    def trace(self) -> str:
        path = self.folder / f"trace.{self.role}.{self.life}"
        return path.read_text() if path.exists() else ""

    def wait_for(self, letter: str) -> None:
        """Until it has told this."""
        until = time.monotonic() + PATIENCE
        while letter not in self.trace:
            assert self.process.poll() is None, (self.folder / f"stderr.{self.role}.{self.life}").read_text()
            assert time.monotonic() < until, f"{self.role} is stuck at {self.trace!r}"
            time.sleep(0.0005)

    def wait_a_while(self, letters: int) -> None:
        """Until it has told so much more, or nothing for a while, or has ended."""
        length = len(self.trace) + letters
        until = time.monotonic() + 0.3
        while len(self.trace) < length and self.process.poll() is None and time.monotonic() < until:
            time.sleep(0.0005)

    def kill(self) -> bool:
        self.process.send_signal(signal.SIGKILL)
        return self.process.wait(PATIENCE) == -signal.SIGKILL


def started(stack: ExitStack, folder: Path, role: str, life: int, backend: str, count: int) -> Victim:
    """A process, killed at the latest when the stack is left."""
    path = os.pathsep.join([str(HERE), str(HERE.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    with open(folder / f"stderr.{role}.{life}", "wb") as errors:
        process = subprocess.Popen(
            [sys.executable, "-W", "error", "-c", "import mailbox_victim; mailbox_victim.main()",
             str(folder), role, str(life), backend, str(count)],
            stdin=subprocess.DEVNULL, stdout=errors, stderr=errors, env={**os.environ, "PYTHONPATH": path},
        )  # fmt: skip
    stack.callback(process.wait, PATIENCE)
    stack.callback(process.kill)
    return Victim(folder, role, life, process)


def numbers(folder: Path, name: str) -> list[int]:
    path = folder / name
    return [int(line) for line in path.read_text().split()] if path.exists() else []


def go(folder: Path, backend: str, count: int, kills: int, chance: random.Random) -> int:
    """Kill the owner and the sender, as chance will have it, until all is sent; how often they were."""
    owners = senders = done = 0
    other = "asyncio" if backend == "trio" else backend
    with ExitStack() as stack:
        start = functools.partial(started, stack, folder)
        owner = start("own", 0, backend, count)
        owner.wait_for("o")
        sender = start("send", 0, other, count)
        while True:
            sender.wait_for("m")
            if done < kills and chance.random() < 0.5:
                sender.wait_a_while(chance.randrange(1, 25))
                if sender.kill():
                    done, senders = done + 1, senders + 1
                    sender = start("send", senders, other, count)
            elif done < kills:
                owner.wait_a_while(chance.randrange(1, 9))
                if owner.kill():
                    done, owners = done + 1, owners + 1
                    owner = start("own", owners, backend, count)
            if sender.process.poll() is not None or done == kills:
                status = sender.process.wait(PATIENCE)
                assert status == 0, (folder / f"stderr.send.{sender.life}").read_text()
                break
        owner.kill()
    for life in range(owners + 1):
        complaint = (folder / f"stderr.own.{life}").read_text()
        assert "Traceback" not in complaint, complaint
    return done


async def audit(folder: Path, count: int) -> None:
    """Everything that was sent was entered once; what a killed sender was just sending, once or not at all."""
    flow = Collecting(stalled="wait")
    async with open_runtime(store=SQLiteStore(folder / "runs.db"), workflows=[flow]) as runtime:
        handler = runtime.handler(RUN_ID)
        await handler.come_up()
        await runtime.join()
        await runtime.send_event(RUN_ID, Done())
        got = await handler
        facts = [entry.fact for entry in await runtime.history(RUN_ID)]
    entered = [fact.event.n for fact in facts if isinstance(fact, EventSent) and isinstance(fact.event, Letter)]
    assert sorted(entered) == sorted(got) == sorted(set(got))
    tried, sent = set(numbers(folder, "tried")), set(numbers(folder, "sent"))
    assert sent <= set(got) <= tried
    assert tried == set(range(count))


def test_it_is_entered_once_whoever_is_killed(tmp_path: Path, backend: str) -> None:
    chance = random.Random(os.environ.get("KILL_SEED") or random.SystemRandom().randrange(10**6))
    assert go(tmp_path, backend, 40, 4, chance) > 0
    anyio.run(functools.partial(audit, tmp_path, 40))


@pytest.mark.crash
@pytest.mark.parametrize("_", range(5))
def test_it_is_entered_once_however_often_they_are_killed(tmp_path: Path, backend: str, _: int) -> None:
    chance = random.Random(os.environ.get("KILL_SEED") or random.SystemRandom().randrange(10**6))
    go(tmp_path, backend, 300, 20, chance)
    anyio.run(functools.partial(audit, tmp_path, 300))


def test_another_process_gets_it(tmp_path: Path, backend: str) -> None:
    assert go(tmp_path, backend, 12, 0, random.Random(0)) == 0
    assert (tmp_path / "trace.send.0").read_text().count("P") == 12
    anyio.run(functools.partial(audit, tmp_path, 12))
