"""Runs survive what happens to real processes: kill -9 at any instant, being stopped and woken, Ctrl-C, SIGTERM.

The victim (kill_victim.py) is killed again and again, and started again, until all its runs have ended. Then its runs
and the ledger of its effects are gone through (`Audit`). The clock is the real one, but no test depends on how fast
anything is: what is waited for is a condition, and an instant to kill at is a place in what the victim tells.

By default a few kills; the session ``crash`` (``nox -s crash``) makes hundreds. ``KILL_SEED`` repeats a failed one
(as far as the operating system's own timing allows).
"""

import functools
import json
import os
import random
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import anyio
import attrs
import pytest
from kill_victim import DOINGS, PHASES, Effect, Options, result_of, tasks, workflows

from flowkit.facts import StepCommitted, StepReturned
from flowkit.runtime import open_runtime
from flowkit.sqlite_store import SQLiteStore

pytestmark = pytest.mark.skipif(os.name != "posix", reason="the signals are POSIX's")

PATIENCE = 60.0
"""Seconds after which something that should have happened long ago is a failure."""
PROGRAM = "import os; os.write(os.open({trace!r}, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644), b'i'); " + (
    "import kill_victim; kill_victim.main()"
)
HERE = Path(__file__).parent


@pytest.fixture(params=["asyncio", "trio"])
def backend(request: pytest.FixtureRequest) -> str:
    if request.param == "trio":
        pytest.importorskip("trio")
    name: str = request.param
    return name


@pytest.fixture
def seed() -> int:
    return int(os.environ.get("KILL_SEED") or random.SystemRandom().randrange(10**6))


# ----------------------------------------------------------------------------------------------------------- processes


@attrs.define(eq=False)
class Victim:
    """A process under way."""

    process: subprocess.Popen[bytes]
    options: Options

    @property
    def trace(self) -> str:
        path = Path(self.options.folder, f"trace.{self.options.life}")
        return path.read_text() if path.exists() else ""

    def wait_until(self, length: int) -> bool:
        """Wait until it has told so much; false where it has ended before."""
        path = Path(self.options.folder, f"trace.{self.options.life}")
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            if path.exists() and path.stat().st_size >= length:
                return True
            if self.process.poll() is not None:
                return False
            time.sleep(0.0003)
        raise AssertionError(f"{self.options} is stuck at {self.trace!r}")

    def wait_for(self, letter: str) -> None:
        wait_until(lambda: letter in self.trace or self.process.poll() is not None, self)
        assert letter in self.trace, self.complaint()

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def end(self) -> int:
        """Wait for its end; its exit status (minus the signal that ended it)."""
        return self.process.wait(PATIENCE)

    def complaint(self) -> str:
        """What it wrote to its standard error."""
        return Path(self.options.folder, f"stderr.{self.options.life}").read_text()

    def was_at(self) -> str:
        """What it was at when it was killed."""
        trace = self.trace
        open_ = Counter(trace)
        for letter in "csrlnbf":
            if letter in DOINGS and open_[letter] > open_[letter.upper()]:
                return DOINGS[letter]
        return next((PHASES[letter] for letter in reversed(trace) if letter in PHASES), "before Python")


def wait_until(is_so: Any, what: Any = "it") -> None:
    until = time.monotonic() + PATIENCE
    while not is_so():
        assert time.monotonic() < until, f"{what} is stuck"
        time.sleep(0.002)


@contextmanager
def started(folder: Path, **options: Any) -> Iterator[Victim]:
    """A victim in this folder, killed at the latest when the block is left."""
    given = Options(str(folder), **options)
    program = PROGRAM.format(trace=str(folder / f"trace.{given.life}"))
    path = os.pathsep.join([str(HERE), str(HERE.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    with open(folder / f"stderr.{given.life}", "wb") as errors:
        process = subprocess.Popen(
            [sys.executable, "-W", "error", "-c", program, json.dumps(attrs.asdict(given))],
            stdin=subprocess.DEVNULL,
            stdout=errors,
            stderr=errors,
            env={**os.environ, "PYTHONPATH": path},
        )
    try:
        yield Victim(process, given)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait(PATIENCE)


def said(folder: Path) -> list[str]:
    path = folder / "said"
    return path.read_text().splitlines() if path.exists() else []


def ledger(folder: Path) -> list[Effect]:
    path = folder / "ledger"
    return [Effect(**json.loads(line)) for line in path.read_text().splitlines()] if path.exists() else []


# --------------------------------------------------------------------------------------------------------------- kills


@attrs.define
class Campaign:
    """Kills of one victim and its successors, until everything it had to do is done."""

    folder: Path
    backend: str
    options: dict[str, Any]
    kills: int = 0
    lives: int = 0
    hits: Counter[str] = attrs.field(factory=Counter)

    def go(self, random: random.Random, kills: int, stride: int) -> None:
        """Kill it at most so often, after it has told up to ``stride`` letters more than in its start-up."""
        while True:
            with started(self.folder, backend=self.backend, life=self.lives, **self.options) as victim:
                self.lives += 1
                if self.kills < kills and self._kill(victim, random, stride):
                    self.kills += 1
                    self.hits[victim.was_at()] += 1
                    assert victim.complaint() == "", victim.complaint()
                    continue
                status = victim.end()
                assert (status, victim.complaint()) == (0, ""), f"life {victim.options.life}: {victim.complaint()}"
                return

    def _kill(self, victim: Victim, random: random.Random, stride: int) -> bool:
        if random.random() < 0.1:
            time.sleep(random.uniform(0, 0.3))  # anywhere in its start-up, which tells little
        elif not victim.wait_until(random.randrange(2, 12 + stride)):
            return False
        else:
            time.sleep(random.choice((0, 0, 0.0005, 0.002)))
        victim.signal(signal.SIGKILL)
        return victim.end() == -signal.SIGKILL


async def audit(folder: Path, copies: int, *, strict: bool) -> None:
    """Everything is as if nobody had been killed.

    ``strict``: also what was done, and in which order. (With ``durability="async"`` a crash may undo what was done
    last: it is done again, perhaps in another order and so under other keys.)
    """
    with closing(sqlite3.connect(folder / "runs.db")) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    store = SQLiteStore(folder / "runs.db")
    returned: set[str] = set()
    async with open_runtime(store=store, workflows=workflows()) as runtime:
        runs = await runtime.runs()
        assert sorted(info.run_id for info in runs) == sorted(run_id for _, _, run_id in tasks(copies))
        for info in [*runs, *(nested for run in runs for nested in store.find(parent=run.run_id))]:
            assert info.status == "finished", info
            assert info.owner is None, info
            steps: Counter[int] = Counter()
            for entry in await runtime.history(info.run_id):
                if isinstance(entry.fact, StepReturned | StepCommitted):
                    steps[entry.fact.invocation] += 1
                    returned.add(f"{info.run_id}/{entry.step}/{entry.fact.invocation}")
            assert set(steps.values()) == {1}, f"a step of {info.run_id} has returned twice: {steps}"
        for kind, n, run_id in tasks(copies):
            assert await runtime.handler(run_id) == result_of(kind, n, run_id), run_id
    store.close()
    check_effects(ledger(folder), returned, strict=strict)


def check_effects(effects: list[Effect], returned: set[str], *, strict: bool) -> None:
    """Each effect was made once, or once more for each kill that came before its step's end was stored: at most once
    in each life, and not after anything that followed from it."""
    often = Counter((one.key, one.attempt, one.life, one.what) for one in effects)
    assert max(often.values()) == 1, f"made twice in one life: {often.most_common(3)}"
    # Runs that act before they write have keys that end with what tells their event from others.
    made = {one.key if strict else one.key.rpartition("/")[0] for one in effects}
    assert returned <= made, f"these steps have returned, but nobody saw them: {returned - made}"
    if not strict:
        return
    followed: dict[str, Effect] = {}
    attempts: dict[str, int] = {}
    about: dict[tuple[str, int, int], str] = {}
    before: Counter[tuple[str, int, int]] = Counter()
    for one in effects:
        assert one.key not in followed, f"{one} was made again though {followed[one.key]} had followed from it"
        assert attempts.get(one.key, 0) <= one.attempt, f"{one} was made after a later attempt"
        attempts[one.key] = one.attempt
        followed.update(dict.fromkeys(one.after, one))
        before[one.key, one.attempt, one.life] += 1
        place = (one.key, one.attempt, before[one.key, one.attempt, one.life])
        assert about.setdefault(place, one.what) == one.what, f"{one} was {about[place]!r} before"
    never = {key for key in made - returned if not key.startswith("Caught-")}
    assert not never, f"these effects were made, but their steps have never returned: {never}"


# An instant to kill at is a place in what a victim tells; its start-up takes about 10 letters, 11 runs take about 300.


def test_runs_survive_kill_9(tmp_path: Path, backend: str, seed: int) -> None:
    campaign = Campaign(tmp_path, backend, {})
    campaign.go(random.Random(seed), kills=2, stride=150)
    anyio.run(functools.partial(audit, tmp_path, 1, strict=True))


def test_runs_that_are_written_behind_survive_kill_9(tmp_path: Path, seed: int) -> None:
    campaign = Campaign(tmp_path, "asyncio", {"durability": "async"})
    campaign.go(random.Random(seed), kills=2, stride=150)
    anyio.run(functools.partial(audit, tmp_path, 1, strict=False))


@pytest.mark.crash
@pytest.mark.parametrize("durability", ["sync", "async"])
@pytest.mark.parametrize("copies", [1, 4])
def test_runs_survive_many_kills(
    tmp_path_factory: pytest.TempPathFactory,
    capsys: pytest.CaptureFixture[str],
    backend: str,
    durability: str,
    copies: int,
    seed: int,
) -> None:
    """25 kills: 200 for all parameters."""
    chance = random.Random(seed)
    hits: Counter[str] = Counter()
    kills = lives = again = 0
    while kills < 25:
        folder = tmp_path_factory.mktemp("killed")
        campaign = Campaign(folder, backend, {"durability": durability, "copies": copies})
        campaign.go(chance, kills=min(13, 25 - kills), stride=60 * copies)
        anyio.run(functools.partial(audit, folder, copies, strict=durability == "sync"))
        kills, lives, hits = kills + campaign.kills, lives + campaign.lives, hits + campaign.hits
        made = [(one.key, one.attempt, one.what) for one in ledger(folder)]
        again += len(made) - len(set(made))
    hit = ", ".join(f"{where} {often}" for where, often in hits.most_common())
    with capsys.disabled():
        sys.stdout.write(
            f"\n{backend}, {durability}, {11 * copies} runs at a time: {kills} kills in {lives} lives; "
            f"{again} effects made again; hit at: {hit}\n"
        )


# ------------------------------------------------------------------------------------------------------- two processes


def test_two_processes_never_drive_one_run(tmp_path: Path) -> None:
    options: dict[str, Any] = {"role": "compete", "copies": 20, "pause": 0.01}
    with started(tmp_path, life=0, **options) as one, started(tmp_path, life=1, **options) as other:
        for victim in (one, other):
            assert victim.end() == 0, victim.complaint()
    effects = ledger(tmp_path)
    assert max(Counter(one.key for one in effects).values()) == 1
    drivers: dict[str, set[int]] = {}
    for one_effect in effects:
        drivers.setdefault(one_effect.key.split("/")[0], set()).add(one_effect.life)
    assert {run_id: len(lives) for run_id, lives in drivers.items()} == {f"Chain-{n}": 1 for n in range(20)}


def at_the_gate(folder: Path) -> bool:
    return any(one.what == "turn 2" for one in ledger(folder))


def stop_where_nothing_is_held(victim: Victim) -> None:
    """Stop a process, but not within a transaction: SQLite lets nobody else write then."""
    while True:
        victim.signal(signal.SIGSTOP)
        with closing(sqlite3.connect(Path(victim.options.folder, "runs.db"), timeout=0, isolation_level=None)) as other:
            try:
                other.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:
                victim.signal(signal.SIGCONT)
                time.sleep(0.005)
            else:
                return


def journal(folder: Path, run_id: str) -> list[bytes]:
    store = SQLiteStore(folder / "runs.db")
    try:
        return store.read(run_id)
    finally:
        store.close()


def check_stopped_and_woken(folder: Path, backend: str) -> None:
    with started(folder, role="be slow", life=0, lease=1.0, backend=backend) as slow:
        wait_until(lambda: at_the_gate(folder), "the first process")
        stop_where_nothing_is_held(slow)
        with started(folder, role="take over", life=1, lease=1.0, backend=backend) as other:
            wait_until(lambda: any(one.life == 1 for one in ledger(folder)), "the other process")
            Path(folder, "gate").touch()
            assert other.end() == 0, other.complaint()
        assert said(folder) == ["took over: through"]
        before = journal(folder, "gated")
        slow.signal(signal.SIGCONT)
        assert slow.end() == 0, slow.complaint()
    assert said(folder) == ["took over: through", "lost gated", "4"]
    assert journal(folder, "gated") == before
    effects = [one for one in ledger(folder) if one.key.startswith("gated")]
    assert [(one.what, one.life) for one in effects] == [
        ("turn 5", 0), ("turn 4", 0), ("turn 3", 0), ("turn 2", 0), ("turn 2", 1), ("turn 1", 1), ("turn 0", 1),
    ]  # fmt: skip


def test_who_was_stopped_past_its_lease_and_woken_writes_nothing_more(tmp_path: Path) -> None:
    check_stopped_and_woken(tmp_path, "asyncio")


@pytest.mark.crash
@pytest.mark.parametrize("_", range(5))
def test_who_was_stopped_past_its_lease_and_woken_writes_nothing_more_again(
    tmp_path: Path, backend: str, _: int
) -> None:
    check_stopped_and_woken(tmp_path, backend)


@pytest.mark.crash
def test_a_clean_end_lets_another_process_go_on_at_once(tmp_path: Path, backend: str) -> None:
    lease = 4 * PATIENCE
    with started(tmp_path, role="be slow", life=0, backend=backend, lease=lease) as slow:
        wait_until(lambda: at_the_gate(tmp_path), "the first process")
        with started(tmp_path, role="be slow", life=1, backend=backend, lease=lease) as refused:
            assert refused.end() == 1
            assert "RunElsewhere: run 'gated' is driven by" in refused.complaint()
        slow.signal(signal.SIGINT)
        assert slow.end() == -signal.SIGINT, slow.complaint()
    Path(tmp_path, "gate").touch()
    with started(tmp_path, role="be slow", life=2, backend=backend, lease=lease) as other:
        assert other.end() == 0, other.complaint()
    assert said(tmp_path) == ["through", "4"]


# --------------------------------------------------------------------------------------------------- Ctrl-C and SIGTERM


def check_interrupted(folder: Path, backend: str, role: str, number: int, chance: random.Random) -> None:
    """End a process somewhere on its way, twice; its run goes on in the next."""
    for life in range(2):
        with started(folder, role=role, backend=backend, life=life) as victim:
            if not victim.wait_until(chance.randrange(3, 60)):
                break
            time.sleep(chance.choice((0, 0.001, 0.003)))
            victim.signal(number)
            status, complaint = victim.end(), victim.complaint()
            if status == 0:
                break  # it was over
            assert status == -number, complaint
            if number == signal.SIGINT:
                assert complaint.rstrip().endswith("KeyboardInterrupt"), complaint
                assert not re.search(r"Exception ignored|was never|could not be|Warning:|ExceptionGroup", complaint), (
                    complaint
                )
            else:
                assert complaint == ""
    with started(folder, role=role, backend=backend, life=2) as last:
        assert (last.end(), last.complaint()) == (0, "")
    assert said(folder)[-1] == str(sum(range(21)))
    followed: set[str] = set()
    for one in ledger(folder):
        assert one.key not in followed, f"{one} was made again"
        followed.update(one.after)


@pytest.mark.parametrize(("where", "role"), [("asyncio", "run alone"), ("trio", "run in a runtime")])
def test_a_run_that_is_interrupted_goes_on(tmp_path: Path, where: str, role: str, seed: int) -> None:
    if where == "trio":
        pytest.importorskip("trio")
    check_interrupted(tmp_path, where, role, signal.SIGINT, random.Random(seed))


@pytest.mark.crash
@pytest.mark.parametrize("role", ["run alone", "run in a runtime"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_interrupted_often_goes_on(
    tmp_path_factory: pytest.TempPathFactory, backend: str, role: str, number: signal.Signals, seed: int
) -> None:
    chance = random.Random(seed)
    for _ in range(12):
        check_interrupted(tmp_path_factory.mktemp("interrupted"), backend, role, number, chance)
