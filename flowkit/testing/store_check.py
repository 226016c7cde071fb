"""The conformance suite for stores: whether one does what `Store` says.

A state machine (Hypothesis) makes up calls, makes them on the store and on a model that is as simple as can be, and
compares what they answer and what is stored after each. Where a store has a second object on the same data, calls go to
either in turn, as from two processes. What made-up calls on few small runs don't reach is checked in turn afterwards
(store_cases.py).

A difference is an `AssertionError` that tells the shortest story leading to it, as code.
"""

from collections.abc import Callable, Collection
from functools import partial
from typing import Any, Literal

import attrs
from hypothesis import HealthCheck, Phase, Verbosity, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from flowkit.storage_errors import RunElsewhere, UnknownRun
from flowkit.store import ENDED, STATUSES, Message, NewRun, RunInfo, Status, Store, Write
from flowkit.testing.store_cases import CASES, check_case, unlike

__all__ = ["check_store"]


def check_store(
    make: Callable[[], Store],
    *,
    reopen: Callable[[Store], Store] | None = None,
    max_examples: int = 100,
    shrink: bool = True,
) -> None:
    """Check that a store does what `Store` says.

    Args:
        make: gives a new, empty store at each call. It is closed afterwards; what it leaves behind is yours to remove.
        reopen: gives another object on the data of this store, which may still be open: as another process would.
            Without it, a store is closed and used again.
        max_examples: how many stories to make up, of some 20 calls each; always the same ones.
        shrink: whether to look for the shortest story that shows what is wrong. It takes seconds, and only where there
            is something wrong.

    Raises:
        AssertionError: it doesn't.
    """

    class Machine(_Machine):
        def __init__(self) -> None:
            super().__init__(make, reopen)

    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=max_examples,
            stateful_step_count=30,
            derandomize=True,
            deadline=None,
            database=None,
            print_blob=False,
            verbosity=Verbosity.quiet,
            report_multiple_bugs=False,
            phases=(Phase.generate, Phase.shrink) if shrink else (Phase.generate,),
            suppress_health_check=(HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much),
        ),
    )
    for case in CASES:
        store = make()
        try:
            check_case(case, store)
        finally:
            store.close()


# The model


@attrs.define
class _Run:
    info: RunInfo
    records: list[bytes]


class _Model:
    """What a store should do, in the fewest words: a list of runs in the order they were created."""

    def __init__(self) -> None:
        self.runs: list[_Run] = []
        self.leases: dict[str, float] = {}
        self.mail: list[Message] = []
        self.posted = 0

    def get(self, run_id: str) -> _Run | None:
        return next((run for run in self.runs if run.info.run_id == run_id), None)

    def write(self, write: Write) -> bool:
        run = self.get(write.run_id)
        if not {message.number for message in self.mail if message.refusal is None}.issuperset(write.taken):
            return False
        if write.new is not None:
            if run is not None or write.fence != 1 or write.position != 0:
                return False
            info = RunInfo(
                write.run_id, write.new.workflow, "running", write.time, write.time, None, write.new.parent,
                write.new.owner, 1, 0, 0,
            )  # fmt: skip
            run = _Run(info, [])
            self.runs.append(run)
        elif run is None or run.info.fence != write.fence or run.info.length != write.position:
            return False
        run.records += write.records
        run.info = attrs.evolve(run.info, length=len(run.records), updated=write.time)
        if write.base is not None:
            run.info = attrs.evolve(run.info, base=write.base)
        if write.status is not None:
            run.info = attrs.evolve(run.info, status=write.status, due=write.due)
            if write.status in ENDED or write.status == "damaged":
                run.info = attrs.evolve(run.info, owner=None)
        why = dict(write.refused)
        self.mail = [
            attrs.evolve(message, refusal=why.get(message.number, message.refusal))
            for message in self.mail
            if message.number not in write.taken
        ]
        return True

    def is_open(self, run_id: str) -> bool:
        run = self.get(run_id)
        return run is not None and run.info.status not in ENDED and run.info.status != "damaged"

    def waits(self, run_id: str | None = None) -> list[Message]:
        return [
            message
            for message in self.mail
            if message.refusal is None and run_id in (None, message.run_id) and self.is_open(message.run_id)
        ]

    def is_free(self, run: _Run, at: float) -> bool:
        return run.info.owner is None or not self.leases.get(run.info.owner, at) > at

    def claim(self, run_id: str, owner: str, now: float) -> RunInfo | type[Exception]:
        run = self.get(run_id)
        if run is None:
            return UnknownRun
        if run.info.owner != owner and not self.is_free(run, now):
            return RunElsewhere
        run.info = attrs.evolve(run.info, owner=owner, fence=run.info.fence + 1)
        return run.info

    def release(self, run_id: str, fence: int) -> bool:
        run = self.get(run_id)
        if run is None or run.info.fence != fence:
            return False
        run.info = attrs.evolve(run.info, owner=None)
        return True

    def leave(self, owner: str) -> None:
        self.leases.pop(owner, None)
        for run in self.runs:
            if run.info.owner == owner:
                run.info = attrs.evolve(run.info, owner=None)

    def find(
        self,
        statuses: Collection[Status] | None = None,
        workflows: Collection[str] | None = None,
        free_at: float | None = None,
        due_by: float | None = None,
        parent: str | None = None,
        newest: bool = False,
        limit: int | None = None,
    ) -> list[RunInfo]:
        found = [
            run.info
            for run in self.runs
            if run.info.parent == parent
            and (statuses is None or run.info.status in statuses)
            and (workflows is None or run.info.workflow in workflows)
            and (free_at is None or self.is_free(run, free_at))
            and (due_by is None or (run.info.due is not None and run.info.due <= due_by))
        ]
        return (found[::-1] if newest else found)[:limit]

    def next_due(self, workflows: Collection[str]) -> float | None:
        dues = [
            run.info.due
            for run in self.runs
            if run.info.due is not None
            and run.info.parent is None
            and run.info.owner is None
            and run.info.workflow in workflows
        ]
        return min(dues, default=None)

    def delete(self, run_ids: Collection[str]) -> int:
        gone = [run for run in self.runs if run.info.run_id in run_ids or run.info.parent in run_ids]
        self.runs = [run for run in self.runs if run not in gone]
        self.mail = [message for message in self.mail if self.get(message.run_id) is not None]
        return sum(run.info.run_id in run_ids for run in gone)


# The machine

_RUNS = ["a", "b", "a.1", "b.1"]  # a.1 is nested in a
_OWNERS = ["here", "there"]
_WORKFLOWS = ["Order", "Refund"]
_STATUSES: tuple[Status | None, ...] = (None, None, None, "running", "waiting", "waiting", "waiting", *STATUSES)

_times = st.integers(0, 4).map(float)
_run_ids = st.sampled_from(_RUNS)
_owners = st.sampled_from(_OWNERS)
_objects = st.integers(0, 1)


@attrs.frozen
class _Plan:
    """A write to be made up, and how it is to be wrong at that moment (mostly it isn't)."""

    write: Write
    workflow: str
    owner: str
    wrong: Literal["", "fence", "new fence", "position", "new position", "new", "unknown", "mail"]
    take: int = 0
    refuse: int = 0

    def made(self, model: _Model) -> Write:
        write, wrong = attrs.evolve(self.write), self.wrong
        run = model.get(write.run_id)
        if wrong == "new" or (run is None and wrong != "unknown"):
            write.new = NewRun(self.workflow, self.owner, write.run_id[0] if len(write.run_id) > 1 else None)
        elif run is not None:
            write.fence, write.position = run.info.fence, run.info.length
        write.fence += {"fence": -1, "new fence": 1}.get(wrong, 0)
        write.position = max(write.position + {"position": -1, "new position": 1}.get(wrong, 0), 0)
        mail = [message.number for message in model.mail if message.refusal is None]
        write.taken = tuple(mail[: self.take]) + ((model.posted + 1,) if wrong == "mail" else ())
        write.refused = tuple((number, "no use") for number in mail[self.take :][: self.refuse])
        return write


class _Writes(list[Write]):
    def __repr__(self) -> str:
        """As it would be written: without defaults."""
        calls: list[str] = []
        for write in self:
            first = f"{write.run_id!r}, {write.fence}, {write.position}, {write.records!r}, {write.time}"
            rest: list[tuple[str, Any]] = [("status", write.status), ("due", write.due), ("base", write.base)]
            rest += [("new", write.new), ("taken", write.taken or None), ("refused", write.refused or None)]
            calls.append(f"Write({first}{''.join(f', {name}={value!r}' for name, value in rest if value is not None)})")
        return f"[{', '.join(calls)}]"


_plans = st.builds(
    _Plan,
    write=st.builds(
        Write,
        run_id=_run_ids,
        fence=st.just(1),
        position=st.just(0),
        records=st.lists(st.binary(max_size=3), max_size=3),
        time=_times,
        status=st.sampled_from(_STATUSES),
        due=st.none() | _times,
        base=st.sampled_from([None, None, 0, 1, 2]),
    ),
    workflow=st.sampled_from(_WORKFLOWS),
    owner=_owners,
    wrong=st.sampled_from([*[""] * 12, "fence", "new fence", "position", "new position", "new", "unknown", "mail"]),
    take=st.sampled_from([0, 0, 0, 1, 2]),
    refuse=st.sampled_from([0, 0, 0, 1]),
)


class _Machine(RuleBasedStateMachine):
    def __init__(self, make: Callable[[], Store], reopen: Callable[[Store], Store] | None) -> None:
        super().__init__()
        self.reopened = reopen
        self.model = _Model()
        self.story: list[str] = []  # the calls made, as code
        self.stores: list[Store] = []
        self.stores.append(self._do("store = make()", make))

    def teardown(self) -> None:
        for store in self.stores:
            store.close()

    def _do(self, call: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Make a call, and write it down; an error that the contract names is an answer too."""
        self.story.append(call)
        try:
            return function(*args, **kwargs)
        except (UnknownRun, RunElsewhere) as error:
            return type(error)
        except Exception as error:
            raise AssertionError(self._told(f"raised {type(error).__name__}: {error}")) from error

    def _told(self, end: str) -> str:
        return unlike("\n" + "\n".join(f"    {line}" for line in self.story) + f"\n{end}")

    def _call(self, number: int, method: str, *args: Any, **kwargs: Any) -> Any:
        number %= len(self.stores)
        arguments = [*(repr(arg) for arg in args), *(f"{name}={value!r}" for name, value in kwargs.items())]
        name = "store" if number == 0 else "other"
        return self._do(
            f"{name}.{method}({', '.join(arguments)})", getattr(self.stores[number], method), *args, **kwargs
        )

    def _expect(self, answer: Any, expected: Any) -> None:
        if answer != expected or (isinstance(expected, bool) and answer is not expected):
            raise AssertionError(self._told(f"gave     {_shown(answer)}\nexpected {_shown(expected)}"))
        for store, name in zip(self.stores, ("store", "other"), strict=False):
            self._compare(store, name)

    def _compare(self, store: Store, name: str) -> None:
        """Everything that is stored."""
        asked: list[tuple[str, Callable[[], Any], Any]] = []
        for run_id in _RUNS:
            run = self.model.get(run_id)
            asked.append((f"info({run_id!r})", partial(store.info, run_id), run and run.info))
            asked.append((f"read({run_id!r})", partial(store.read, run_id), run.records if run else []))
        for at in (0.0, 2.0):
            free = self.model.find(free_at=at)
            asked.append((f"find(free_at={at})", partial(store.find, free_at=at), free))
        asked.append(("mail()", store.mail, self.model.waits()))
        asked.append((f"next_due({_WORKFLOWS})", partial(store.next_due, _WORKFLOWS), self.model.next_due(_WORKFLOWS)))
        for call, ask, expected in asked:
            answer = self._do(f"{name}.{call}", ask)
            if answer != expected:
                raise AssertionError(self._told(f"gave     {_shown(answer)}\nexpected {_shown(expected)}"))
            self.story.pop()

    @initialize(plans=st.lists(_plans, max_size=5), leases=st.lists(st.tuples(_owners, _times), max_size=2))
    def begin(self, plans: list[_Plan], leases: list[tuple[str, float]]) -> None:
        """Most stories begin with some runs, and owners that are alive."""
        if plans:
            self.commit(0, plans)
        for owner, until in leases:
            self.beat(0, owner, until)

    @rule(number=_objects, plans=st.lists(_plans, min_size=1, max_size=4))
    def commit(self, number: int, plans: list[_Plan]) -> None:
        writes = _Writes()
        expected: list[bool] = []
        for plan in plans:
            writes.append(plan.made(self.model))
            expected.append(self.model.write(writes[-1]))
        self._expect(self._call(number, "commit", writes), expected)

    @rule(number=_objects, run_id=_run_ids, owner=_owners, now=_times)
    def claim(self, number: int, run_id: str, owner: str, now: float) -> None:
        expected = self.model.claim(run_id, owner, now)
        self._expect(self._call(number, "claim", run_id, owner, now), expected)

    @rule(number=_objects, run_id=_run_ids, until=_times, now=_times)
    def contend(self, number: int, run_id: str, until: float, now: float) -> None:
        """A run's owner beats, and another one claims the run."""
        run = self.model.get(run_id)
        if run is not None and run.info.owner is not None:
            self.beat(number, run.info.owner, until)
            self.claim(number + 1, run_id, next(owner for owner in _OWNERS if owner != run.info.owner), now)

    @rule(number=_objects, run_id=_run_ids, off=st.sampled_from([0, 0, -1, 1]))
    def release(self, number: int, run_id: str, off: int) -> None:
        run = self.model.get(run_id)
        fence = (run.info.fence if run else 1) + off
        expected = self.model.release(run_id, fence)
        self._expect(self._call(number, "release", run_id, fence), expected)

    @rule(number=_objects, owner=_owners, until=_times)
    def beat(self, number: int, owner: str, until: float) -> None:
        self.model.leases[owner] = until
        self._expect(self._call(number, "beat", owner, until), None)

    @rule(number=_objects, owner=_owners)
    def leave(self, number: int, owner: str) -> None:
        self.model.leave(owner)
        self._expect(self._call(number, "leave", owner), None)

    @rule(number=_objects)
    def owners(self, number: int) -> None:
        self._expect(set(self._call(number, "owners")), set(self.model.leases))

    @rule(number=_objects, run_ids=st.lists(_run_ids, min_size=1, max_size=2))
    def delete(self, number: int, run_ids: list[str]) -> None:
        expected = self.model.delete(run_ids)
        self._expect(self._call(number, "delete", run_ids), expected)

    @rule(
        number=_objects,
        statuses=st.none() | st.lists(st.sampled_from(STATUSES), max_size=3, unique=True),
        workflows=st.none() | st.lists(st.sampled_from(_WORKFLOWS), max_size=2, unique=True),
        free_at=st.none() | _times,
        due_by=st.none() | _times,
        parent=st.sampled_from([None, None, "a", "b"]),
        newest=st.booleans(),
        limit=st.none() | st.integers(0, 3),
    )
    def find(self, number: int, **conditions: Any) -> None:
        given = {name: value for name, value in conditions.items() if value is not None and value is not False}
        self._expect(self._call(number, "find", **given), self.model.find(**conditions))

    @rule(number=_objects, workflows=st.lists(st.sampled_from(_WORKFLOWS), max_size=2, unique=True))
    def next_due(self, number: int, workflows: list[str]) -> None:
        self._expect(self._call(number, "next_due", workflows), self.model.next_due(workflows))

    @rule(number=_objects, run_id=_run_ids, start=st.integers(0, 5))
    def read(self, number: int, run_id: str, start: int) -> None:
        run = self.model.get(run_id)
        self._expect(self._call(number, "read", run_id, start), run.records[start:] if run else [])

    @rule(number=_objects, run_id=_run_ids, data=st.binary(max_size=3), time=_times)
    def post(self, number: int, run_id: str, data: bytes, time: float) -> None:
        """Numbers grow; which they are is the store's matter."""
        answer = self._call(number, "post", run_id, data, time)
        if not self.model.is_open(run_id):
            self._expect(answer, None)
            return
        if type(answer) is not int or answer <= self.model.posted:
            raise AssertionError(self._told(f"gave     {answer!r}\nexpected a number above {self.model.posted}"))
        self.model.posted = answer
        self.model.mail.append(Message(answer, run_id, data, time))
        self._expect(None, None)

    @rule(number=_objects, run_id=_run_ids)
    def mail(self, number: int, run_id: str) -> None:
        self._expect(self._call(number, "mail", run_id), self.model.waits(run_id))

    @rule(number=_objects, off=st.integers(0, 3))
    def message(self, number: int, off: int) -> None:
        wanted = max(self.model.posted - off, 0)
        found = [one for one in self.model.mail if one.number == wanted]
        self._expect(self._call(number, "message", wanted), found[0] if found else None)

    @rule(number=_objects, off=st.integers(0, 3))
    def withdraw(self, number: int, off: int) -> None:
        wanted = max(self.model.posted - off, 0)
        left = [one for one in self.model.mail if one.number != wanted]
        there, self.model.mail = len(left) < len(self.model.mail), left
        self._expect(self._call(number, "withdraw", wanted), there)

    @precondition(lambda self: len(self.stores) == 2 and self.model.is_open("a"))
    @rule(number=_objects)
    def post_behind(self, number: int) -> None:
        """What one object posts changes what another is told."""
        before = self._call(number, "changes")
        self.post(1 - number, "a", b"", 1.0)
        after = self._call(number, "changes")
        if before is not None and before == after:
            raise AssertionError(self._told(f"gave     {after!r}\nexpected another than before"))

    @rule(number=_objects)
    def close(self, number: int) -> None:
        self._expect(self._call(number, "close"), None)

    @precondition(lambda self: self.reopened is not None)
    @rule()
    def reopen(self) -> None:
        """Go on with a new object beside the one there is, or in place of the older of two."""
        assert self.reopened is not None
        if len(self.stores) == 2:
            self._call(0, "close")
            self.stores.pop(0)
            self.story.append("store = other")
        self.stores.append(self._do("other = reopen(store)", self.reopened, self.stores[0]))
        self._expect(None, None)


def _shown(answer: Any) -> str:
    return f"{answer.__name__} raised" if isinstance(answer, type) else repr(answer)
