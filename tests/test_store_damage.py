"""A SQLiteStore's file with flipped bits, lost pages or a torn write-ahead log: the right answer or a typed error.

Which bits are flipped is drawn once and for all; ``STORE_FLIPS=all`` flips each (some ten minutes).
"""

import os
import random
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import pytest

from flowkit.sqlite_store import SQLiteStore
from flowkit.storage_errors import RunDamaged, StoreError
from flowkit.store import STATUSES, Message, NewRun, RunInfo, Write

PAGE = 4096


@pytest.fixture
def quick_folder(tmp_path: Path) -> Iterator[Path]:
    """In memory where there is such a file system: these tests open thousands of files."""
    if not os.access("/dev/shm", os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        yield Path(folder)


@attrs.define
class World:
    """A closed store, and all that it answers."""

    path: Path
    run_ids: list[str]
    good: bytes = b""
    answers: dict[str, Any] = attrs.field(factory=dict[str, Any])

    def __attrs_post_init__(self) -> None:
        self.good = self.path.read_bytes()
        store = SQLiteStore(self.path)
        self.answers = {question: ask() for question, ask in self.questions(store).items()}
        store.close()
        assert self.path.read_bytes() == self.good

    def questions(self, store: SQLiteStore) -> dict[str, Callable[[], Any]]:
        asks: dict[str, Callable[[], Any]] = {
            "info of none": partial(store.info, "nobody"),
            "owners": store.owners,
            "all": store.find,
            "free": partial(store.find, free_at=500.0),
            "due": partial(store.find, due_by=8.0),
            "nested": partial(store.find, parent="order-1"),
            "of Order": partial(store.find, workflows=["Order"], newest=True),
            "next due": partial(store.next_due, ["Order", "Refund"]),
            "mail": store.mail,
            "mail of order-0": partial(store.mail, "order-0"),
            "a message": partial(store.message, 1),
            "a refusal": partial(store.message, 3),
        }
        asks |= {f"{status} ones": partial(store.find, statuses=[status]) for status in STATUSES}
        for run_id in self.run_ids:
            asks[f"info of {run_id}"] = partial(store.info, run_id)
            asks[f"records of {run_id}"] = partial(store.read, run_id)
            asks[f"later records of {run_id}"] = partial(store.read, run_id, 2)
        return asks

    def check(self, data: bytes, *, write: bool = False) -> set[str]:
        """Ask everything of a store with these bytes: it answers right, or says what is damaged, which is returned."""
        self.path.write_bytes(data)
        store = SQLiteStore(self.path, busy_timeout=0.2)
        told: set[str] = set()
        try:
            store.open()
            for question, ask in self.questions(store).items():
                try:
                    answer = ask()
                except RunDamaged:
                    told.add("a run")
                except StoreError as error:
                    told.add(error.kind)
                else:
                    assert self.is_right(question, answer), f"{question}: {answer}, not {self.answers[question]}"
            if write:
                self.write(store)
        except StoreError as error:
            told.add(error.kind)
        finally:
            store.close()
        assert told <= {"a run", "damaged", "no-store", "newer", "failed"}
        assert write or self.path.read_bytes() == data, "asking has changed the file"
        assert os.listdir(self.path.parent) == [self.path.name]
        return told

    def is_right(self, question: str, answer: Any) -> bool:
        """A list may have a run whose line can't be read: then it says so, and nothing else of it."""
        right = self.answers[question]
        if "mail" in question:
            numbers = [message.number for message in answer]
            whole = [message for message in answer if message.data is not None]  # others may have been refused
            # One whose run was altered is listed for another, as damaged.
            is_there = question != "mail" or all(one.number in numbers for one in right)
            return is_there and whole == [one for one in right if one in whole]
        if isinstance(answer, Message) and answer.data is None:
            return True  # that it isn't as it was written
        if not isinstance(answer, list) or not any(isinstance(item, RunInfo) for item in answer):
            return bool(answer == right)
        unreadable = {info.run_id for info in answer if info.status == "damaged" and info.workflow == ""}
        assert unreadable <= set(self.run_ids)
        return [info for info in answer if info.run_id not in unreadable] == [
            info for info in right if info.run_id not in unreadable
        ]

    def write(self, store: SQLiteStore) -> None:
        """What is stored in a damaged file is there, or it isn't stored."""
        run_id = self.run_ids[0]
        try:
            info = store.claim(run_id, "me", 2000.0)
            stored = store.commit([Write(run_id, info.fence, info.length, [b"new"], 2000.0)])
            new = store.commit([Write("new", 1, 0, [b"new"], 2000.0, new=NewRun("Order", "me"))])
        except (RunDamaged, StoreError):
            return
        assert new == [True]
        try:
            assert store.read("new") == [b"new"]
            if stored == [True]:
                assert store.read(run_id)[-1] == b"new"
        except (RunDamaged, StoreError):
            pass


def small_world(folder: Path) -> World:
    """Eight runs in all states, one nested, one with a record longer than a page."""
    numbers = random.Random(1)
    store = SQLiteStore(folder / "runs.db")
    run_ids: list[str] = []
    for number, status in enumerate([*STATUSES, "running", "waiting"]):
        run_id = f"order-{number}"
        run_ids.append(run_id)
        new = NewRun("Order" if number % 3 else "Refund", f"host-{number % 2}", "order-1" if number == 6 else None)
        records = [numbers.randbytes(60) for _ in range(number + 1)]
        due = 7.25 if status == "waiting" else None
        given: Any = None if number == 0 else status
        store.commit([Write(run_id, 1, 0, records, 100.5 + number, given, due, new=new)])
        store.commit([Write(run_id, 1, number + 1, [numbers.randbytes(100)], 101.5, base=1 if number == 2 else None)])
    store.commit([Write("order-0", 1, 2, [numbers.randbytes(6000)], 101.0)])
    store.release("order-7", 1)
    store.beat("host-0", 1000.0)
    store.beat("host-1", 10.0)
    assert [store.post("order-0", text, 102.5) for text in (b"to be taken", b"taken", b"refused", b"", b"more")]
    store.commit([Write("order-0", 1, 3, (), 102.5, taken=[2], refused=[(3, "it doesn't take that")])])
    store.close()
    return World(store.path, run_ids)


def large_world(folder: Path) -> World:
    """So many runs that each tree has inner pages."""
    store = SQLiteStore(folder / "runs.db")
    run_ids = [f"order-{number:0200}" for number in range(60)]
    store.commit(
        [Write(run_id, 1, 0, [b"x" * 150] * 2, 1.0, "waiting", 5.0, new=NewRun("Order", "me")) for run_id in run_ids]
    )
    store.close()
    return World(store.path, run_ids)


def flipped(data: bytes, bit: int) -> bytes:
    place = bit // 8
    return data[:place] + bytes([data[place] ^ 1 << bit % 8]) + data[place + 1 :]


def test_any_flipped_bit(quick_folder: Path) -> None:
    world = small_world(quick_folder)
    assert {info.status for info in world.answers["all"]} == set(STATUSES)
    every = range(len(world.good) * 8)
    bits = every if os.environ.get("STORE_FLIPS") == "all" else random.Random(2).sample(every, 2500)
    told = [world.check(flipped(world.good, bit), write=number % 10 == 0) for number, bit in enumerate(bits)]
    assert sum(bool(one) for one in told) > len(told) / 10  # it isn't that nothing was hit


def test_any_flipped_bit_at_the_beginning_of_a_page(quick_folder: Path) -> None:
    """Where it says what a page is, how many cells it has and where they are."""
    world = large_world(quick_folder)
    heads = [page * 8 + bit for page in range(0, len(world.good), PAGE) for bit in range(16 * 8)]
    told = [world.check(flipped(world.good, bit)) for bit in random.Random(3).sample(heads, 300)]
    assert sum(bool(one) for one in told) > 100


def test_lost_and_exchanged_pages(quick_folder: Path) -> None:
    world = small_world(quick_folder)
    pages = [world.good[start : start + PAGE] for start in range(0, len(world.good), PAGE)]
    for one in range(len(pages)):
        for other in [*range(len(pages)), None]:
            changed = list(pages)
            changed[one] = bytes(PAGE) if other is None else pages[other]
            told = world.check(b"".join(changed))
            assert told or changed == pages
            if other is not None and other > one and pages[other] != pages[one]:
                changed[other] = pages[one]
                assert world.check(b"".join(changed))


def test_a_file_that_is_cut(quick_folder: Path) -> None:
    world = small_world(quick_folder)
    for length in random.Random(4).sample(range(1, len(world.good)), 100):
        assert world.check(world.good[:length])


def test_one_damaged_run_leaves_the_others_alone(tmp_path: Path) -> None:
    world = small_world(tmp_path)
    record = world.answers["records of order-2"][1]
    place = world.good.index(record) * 8
    store = SQLiteStore(world.path)
    world.path.write_bytes(flipped(world.good, place))
    with pytest.raises(
        RunDamaged, match=r"run 'order-2', record 1 can't be read: it isn't as it was written\."
    ) as caught:
        store.read("order-2")
    assert (caught.value.run_id, caught.value.record) == ("order-2", 1)
    assert store.read("order-2", 2) == world.answers["later records of order-2"]
    assert store.find() == world.answers["all"]
    # It can be set aside, and thrown away.
    assert store.commit([Write("order-2", 1, 4, (), 200.0, "damaged")]) == [True]
    assert store.delete(["order-2"]) == 1
    assert store.read("order-1") == world.answers["records of order-1"]
    store.close()


def changed_by_hand(path: Path, *statements: str) -> None:
    connection = sqlite3.connect(path)
    for statement in statements:
        connection.execute(statement)
    connection.commit()
    connection.close()


def test_a_line_of_the_index_that_was_changed(tmp_path: Path) -> None:
    world = small_world(tmp_path)
    changed_by_hand(world.path, "UPDATE runs SET workflow='Refund' WHERE run_id='order-1'")
    store = SQLiteStore(world.path)
    problem = r"run 'order-1' can't be read: its line in the index isn't as it was written\."
    for ask in (
        store.info,
        store.read,
        lambda run_id: store.claim(run_id, "me", 2000.0),
        lambda run_id: store.release(run_id, 1),
    ):
        with pytest.raises(RunDamaged, match=problem):
            ask("order-1")
    assert store.commit([Write("order-1", 1, 3, [b"x"], 1.0), Write("order-2", 1, 4, [b"x"], 1.0)]) == [False, True]
    listed = {info.run_id: info for info in store.find()}
    assert listed["order-1"] == RunInfo("order-1", "", "damaged", 0.0, 0.0, None, None, None, 0, 0, 0)
    assert listed["order-3"] == world.answers["info of order-3"]
    assert store.next_due(["Order", "Refund"]) == 7.25
    store.leave("host-1")
    assert store.delete(["order-1"]) == 1
    assert "order-1" not in {info.run_id for info in store.find()}
    store.close()


def test_a_record_that_is_gone(tmp_path: Path) -> None:
    world = small_world(tmp_path)
    changed_by_hand(
        world.path,
        "DELETE FROM records WHERE id=(SELECT key << 32 FROM runs WHERE run_id='order-1') + 1",
        "DELETE FROM records WHERE id=(SELECT (key << 32) + length - 1 FROM runs WHERE run_id='order-3')",
    )
    store = SQLiteStore(world.path)
    for run_id, record in (("order-1", 1), ("order-3", 4)):
        with pytest.raises(RunDamaged, match=rf"run '{run_id}', record {record} can't be read: it is missing\."):
            store.read(run_id)
    store.close()


def test_a_record_in_the_place_of_another(tmp_path: Path) -> None:
    world = small_world(tmp_path)
    place = "(SELECT key << 32 FROM runs WHERE run_id='order-{}') + {}"
    for number, source in ((1, place.format(1, 1)), (2, place.format(4, 0))):
        data = f"(SELECT data FROM records WHERE id={source})"
        changed_by_hand(world.path, f"UPDATE records SET data={data} WHERE id={place.format(number, 0)}")
    store = SQLiteStore(world.path)
    for run_id in ("order-1", "order-2"):
        with pytest.raises(RunDamaged, match=rf"run '{run_id}', record 0 can't be read: it isn't as it was written\."):
            store.read(run_id)
    store.close()


def test_a_lease_that_was_changed(tmp_path: Path) -> None:
    world = small_world(tmp_path)
    changed_by_hand(world.path, "UPDATE leases SET until=0 WHERE owner='host-0'")
    store = SQLiteStore(world.path)
    for ask in (partial(store.find, free_at=1.0), partial(store.claim, "order-0", "me", 1.0)):
        with pytest.raises(StoreError, match=r"a lease in it isn't as it was written: it heals by itself") as caught:
            ask()
        assert caught.value.kind == "damaged"
    store.beat("host-0", 1000.0)
    assert store.find(free_at=500.0) == world.answers["free"]
    store.close()


@pytest.mark.parametrize(
    ("statement", "problem"),
    [
        ("DROP TABLE records", r"its tables aren't as flowkit made them"),
        ("DROP INDEX run_dues", r"its tables aren't as flowkit made them"),
        ("ALTER TABLE runs ADD COLUMN mine", r"its tables aren't as flowkit made them"),
        ("PRAGMA application_id=0", r"this database belongs to another program"),
        ("PRAGMA user_version=-1", r"no flowkit has ever written format -1"),
    ],
)
def test_tables_that_were_changed(tmp_path: Path, statement: str, problem: str) -> None:
    world = small_world(tmp_path)
    changed_by_hand(world.path, statement)
    before = world.path.read_bytes()
    with pytest.raises(StoreError, match=problem):
        SQLiteStore(world.path).open()
    assert (world.path.read_bytes(), os.listdir(tmp_path)) == (before, ["runs.db"])


# A torn write-ahead log


def states(store: SQLiteStore) -> tuple[Any, ...]:
    return store.find(), [store.read(info.run_id) for info in store.find()]


def test_of_a_torn_log_whole_commits_are_left(quick_folder: Path) -> None:
    """Whatever of its end is lost or flipped: what is there is what was there after one of the commits."""
    numbers = random.Random(5)
    store = SQLiteStore(quick_folder / "runs.db")
    store.open()
    after = [states(store)]
    for position in range(25):
        new = NewRun("Order", "me") if position == 0 else None
        both = [Write(run_id, 1, position, [numbers.randbytes(50)], 1.0, new=new) for run_id in ("a", "b")]
        assert store.commit(both) == [True, True]
        after.append(states(store))
    copied = quick_folder / "copy"
    copied.mkdir()
    file, log = quick_folder / "runs.db", quick_folder / "runs.db-wal"
    whole = log.read_bytes()
    cuts = [*sorted(numbers.sample(range(len(whole) + 1), 120)), len(whole)]
    kept: list[int] = []
    for flip in (False, True):
        kept.clear()
        for cut in cuts:
            torn = whole[:cut]
            if flip and cut:
                torn = flipped(whole, (cut - 1) * 8 + numbers.randrange(8))
            shutil.copy(file, copied / "runs.db")
            (copied / "runs.db-wal").write_bytes(torn)
            again = SQLiteStore(copied / "runs.db")
            found = states(again)
            assert found in after
            kept.append(after.index(found))
            length = len(found[1][0]) if found[1] else 0
            if length:  # it goes on from there
                assert again.commit([Write("a", 1, length, [b"x"], 1.0)]) == [True]
                assert again.read("a") == [*found[1][0], b"x"]
            again.close()
        assert kept[0] < 5 and len(set(kept)) > 15
        if not flip:
            assert kept == sorted(kept) and kept[-1] == 25
    store.close()
