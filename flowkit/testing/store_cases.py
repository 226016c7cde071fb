"""What `check_store` checks in turn: what made-up calls on few small runs don't reach, or seldom.

Each case gets a store of its own, and its docstring is what it demands.
"""

import threading
from collections.abc import Callable, Sequence

from flowkit.errors import shown
from flowkit.storage_errors import RunElsewhere, StoreBusy
from flowkit.store import NewRun, Store, Write

__all__ = ["CASES", "check_case", "unlike"]

Case = Callable[[Store], None]


def unlike(what: str) -> str:
    return f"this store doesn't do what flowkit.store.Store says: {what}"


def check_case(case: Case, store: Store) -> None:
    """
    Raises:
        AssertionError: the store doesn't do what the case demands.
    """
    try:
        case(store)
    except Exception as error:
        if isinstance(error, AssertionError):
            raise
        raise AssertionError(unlike(f"{_called(case)} ({type(error).__name__}: {error})")) from error


def _called(check: Case) -> str:
    return " ".join((check.__doc__ or "").split()).rstrip(".")


def _demand(true: object, check: Case, got: object) -> None:
    assert true, unlike(f"{_called(check)} (got {shown(got, 200)})")


def _new(
    run_id: str, records: Sequence[bytes] = (), time: float = 1.0, workflow: str = "W", owner: str = "me"
) -> Write:
    return Write(run_id, 1, 0, records, time, new=NewRun(workflow, owner))


def _names(store: Store) -> None:
    """Any text names a run, a workflow and an owner, and no two are the same."""
    names = [
        "a",
        "A",
        "ä",
        "a\u0308",
        "",
        " ",
        "a ",
        "'",
        '"',
        "%",
        "_",
        "a/b",
        "..",
        "\x00",
        "a\x00b",
        "\n",
        "😀",
        "x" * 500,
    ]
    stored = store.commit([_new(name, [name.encode()], workflow=name, owner=name) for name in names])
    _demand(stored == [True] * len(names), _names, stored)
    for name in names:
        info = store.info(name)
        _demand(info and (info.run_id, info.workflow, info.owner) == (name, name, name), _names, info)
        _demand(store.read(name) == [name.encode()], _names, store.read(name))
        found = [info.run_id for info in store.find(workflows=[name])]
        _demand(found == [name], _names, found)
    _demand(store.delete(["%"]) == 1 and len(store.find()) == len(names) - 1, _names, store.find())


def _numbers(store: Store) -> None:
    """Times come back as they were given, to the last bit; a time may be a whole number, zero, or infinite."""
    for count, time in enumerate([1764000000.1234567, 0.1 + 0.2, 5e-324, 0, 12, 1e300, float("inf")]):
        store.commit([_new(f"r{count}", time=time), Write(f"r{count}", 1, 0, (), time, "waiting", time)])
        info = store.info(f"r{count}")
        _demand(info and (info.created, info.updated, info.due) == (time, time, time), _numbers, (time, info))


def _leases(store: Store) -> None:
    """A run is claimed where nobody has it, or who has it has no lease any more; each claim raises the fence."""
    store.commit([_new("r", owner="first"), _new("other", owner="first")])
    store.beat("first", 10.0)
    try:
        got: object = store.claim("r", "second", 9.5)
    except RunElsewhere as error:
        got = error.owner
    _demand(got == "first", _leases, got)
    _demand(store.find(free_at=9.5) == [], _leases, store.find(free_at=9.5))
    _demand(len(store.find(free_at=10.0)) == 2, _leases, store.find(free_at=10.0))
    for owner, now, fence in (("first", 9.5, 2), ("second", 10.0, 3)):
        claimed = store.claim("r", owner, now)
        _demand((claimed.owner, claimed.fence) == (owner, fence), _leases, claimed)
    store.beat("second", 20.0)
    free = [info.run_id for info in store.find(free_at=15.0)]
    _demand(free == ["other"], _leases, free)
    stored = store.commit([Write("r", 2, 0, [b"x"], 2.0), Write("r", 3, 0, [b"y"], 2.0)])
    _demand(stored == [False, True], _leases, stored)
    store.leave("second")
    info = store.info("r")
    _demand(info and (info.owner, info.fence) == (None, 3), _leases, info)
    store.claim("r", "third", 15.0)
    store.beat("third", 20.0)
    store.commit([Write("r", 4, 1, (), 3.0, "finished")])
    info = store.info("r")
    _demand(info and info.owner is None, _leases, info)
    store.beat("first", 30.0)
    store.leave("first")
    store.commit([_new("new", owner="first")])
    free = [info.run_id for info in store.find(free_at=15.0)]
    _demand(free == ["r", "other", "new"], _leases, free)


def _large(store: Store) -> None:
    """A record may be empty or large, and a journal long."""
    records = [b"", bytes(range(256)), b"x" * 5_000, b"y" * 1_000_000, b"", *(b"%d" % n for n in range(2_000))]
    stored = store.commit([_new("r", records[:3]), Write("r", 1, 3, records[3:], 2.0)])
    _demand(stored == [True, True], _large, stored)
    _demand(store.read("r") == records, _large, len(store.read("r")))
    _demand(store.read("r", 1_000) == records[1_000:], _large, len(store.read("r", 1_000)))


def _copies(store: Store) -> None:
    """What was stored isn't changed through the lists that were given or got."""
    write = _new("r", [b"one"])
    records = write.records = [b"one"]
    writes = [write]
    store.commit(writes)
    records.append(b"two")
    writes.clear()
    store.read("r").clear()
    store.find().clear()
    _demand(store.read("r") == [b"one"] and len(store.find()) == 1, _copies, store.read("r"))


def _order(store: Store) -> None:
    """Runs are listed in the order they were created, whatever their names, times and changes; of no statuses and of no
    workflows there are none."""
    names = [f"r{n * 7 % 30}" for n in range(30)]
    for number, name in enumerate(names):
        store.commit([_new(name, time=float(100 - number))])
    store.commit([Write(name, 1, 0, [b"x"], 200.0, "waiting", 5.0) for name in reversed(names)])
    store.delete(names[3:5])
    store.commit([_new(names[3])])
    expected = [*names[:3], *names[5:], names[3]]
    found = [info.run_id for info in store.find()]
    _demand(found == expected, _order, found)
    found = [info.run_id for info in store.find(newest=True, limit=4)]
    _demand(found == expected[::-1][:4], _order, found)
    none = [*store.find(statuses=()), *store.find(workflows=())]
    _demand(none == [], _order, none)


def _mail(store: Store) -> None:
    """A message is taken by one write, together with what follows from it; or refused, and kept until it is withdrawn;
    its number is never used again."""
    store.commit([_new("r"), _new("r/child"), _new("gone")])
    texts = [b"", b"two", bytes(range(256)) * 40, b"four"]
    numbers = [store.post("r", text, 2.5) or 0 for text in texts]
    _demand(numbers == sorted(set(numbers)) and numbers[0] > 0, _mail, numbers)
    _demand([one.data for one in store.mail("r")] == texts, _mail, store.mail("r"))
    stored = store.commit([Write("r", 2, 0, [b"x"], 3.0, taken=numbers[:1])])
    _demand(stored == [False] and len(store.mail()) == 4, _mail, stored)
    stored = store.commit([Write("r/child", 1, 0, [b"x"], 3.0, taken=numbers[:1], refused=[(numbers[1], "why\n")])])
    _demand(stored == [True] and [one.number for one in store.mail()] == numbers[2:], _mail, store.mail())
    for taken in (numbers[:1], numbers[1:2], numbers[2:3] + numbers[:1]):
        stored = store.commit([Write("r", 1, 0, [b"x"], 3.0, taken=taken), Write("gone", 1, 0, (), 3.0)])
        _demand(stored == [False, True] and store.read("r") == [], _mail, (taken, stored))
    stored = store.commit([Write("r", 1, 0, [b"x"], 4.0, "finished", taken=numbers[2:3])])
    _demand(stored == [True] and store.mail() == [] and store.post("r", b"late", 5.0) is None, _mail, store.mail())
    for number, refusal in zip(numbers, (None, "why\n", None, None), strict=True):
        message = store.message(number)
        _demand((message is not None) is (number in (numbers[1], numbers[3])), _mail, message)
        _demand(message is None or message.refusal == refusal, _mail, message)
        _demand(store.withdraw(number) is (message is not None) and not store.withdraw(number), _mail, number)
    last = store.post("gone", b"x", 6.0) or 0
    store.delete(["gone", "r", "r/child"])
    _demand(last > numbers[-1] and store.message(last) is None, _mail, last)
    store.commit([_new("again")])
    number = store.post("again", b"x", 7.0) or 0
    _demand(number > last and [one.run_id for one in store.mail()] == ["again"], _mail, number)


def _at_once(store: Store) -> None:
    """Of several threads that write at the same position, or create the same run, one succeeds."""
    threads, rounds = 4, 15
    wins: list[tuple[int, str]] = []

    def compete(number: int) -> None:
        for position in range(rounds):
            barrier.wait()
            if store.commit([_new(f"new {position}", [b"%d" % number])])[0]:
                wins.append((position, "new"))
            barrier.wait()
            if store.commit([Write("r", 1, position, [b"%d" % number], 2.0)])[0]:
                wins.append((position, "write"))

    store.commit([_new("r")])
    barrier = threading.Barrier(threads, timeout=60)
    _in_threads(threads, compete)
    _demand(sorted(wins) == sorted((n, kind) for n in range(rounds) for kind in ("new", "write")), _at_once, wins)
    _demand(len(store.read("r")) == rounds, _at_once, store.read("r"))


def _side_by_side(store: Store) -> None:
    """Threads that commit, read and beat at the same time don't disturb each other; a commit that isn't to wait is
    stored or raises StoreBusy."""
    threads, rounds = 4, 25

    def work(number: int) -> None:
        run_id = f"r{number}"
        store.commit([_new(run_id)])
        for position in range(rounds):
            write = Write(run_id, 1, position, [b"%d %d" % (number, position)], float(position))
            try:
                stored = store.commit([write], wait=False)
            except StoreBusy:
                stored = store.commit([write])
            _demand(stored == [True], _side_by_side, stored)
            store.beat(f"owner {number}", float(position))
            info, records = store.info(run_id), store.read(run_id)
            _demand(
                info and info.length == position + 1 and len(records) == position + 1, _side_by_side, (info, records)
            )

    _in_threads(threads, work)
    for number in range(threads):
        records = store.read(f"r{number}")
        _demand(records == [b"%d %d" % (number, position) for position in range(rounds)], _side_by_side, records)


def _in_threads(count: int, work: Callable[[int], None]) -> None:
    errors: list[Exception] = []

    def guarded(number: int) -> None:
        try:
            work(number)
        except Exception as error:  # noqa: BLE001 - raised below, in the thread that asked
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise next((error for error in errors if not isinstance(error, threading.BrokenBarrierError)), errors[0])


CASES: Sequence[Case] = (_leases, _names, _numbers, _large, _copies, _order, _mail, _at_once, _side_by_side)
