"""A run's facts as records, and records as a run.

**A record** is a checksum and a payload. The checksum is taken over the run's id, the record's number and the payload:
a record that was damaged, torn, or that belongs to another run or place is told from a whole one.

**A payload** is a JSON list in UTF-8, and its first item says what it is::

    ["head", 1, 1, {"run_id": …}, fingerprint, shape]                 how the run began; always number 0
    ["books", 1, 1, {"run_id": …}, fingerprint, shape, state, books]  the run as it was here: reading can begin here
    ["returned", 1767225600.25, 3, {"$obj": ["shop:Paid", {…}]}]      a fact: its time, its fields (fact_forms.py)

The numbers of a head are `FORMAT` and `LOGIC`. Values are written as serialization.py says. The shape (shape.py) is
that of the plan that wrote the facts up to the next books record: they are replayed under it, and the books are then
moved to the current plan. A journal may begin with books, too: that of a run which goes on from a checkpoint.

**What is wrong** is told apart. `RunDamaged`: these aren't the bytes that were written, or no flowkit writes such.
`CodeChanged`: they are, and the code is another: a class or a step is gone, or has changed; or it is older than the
data.

**An exception never makes a fact unwritable.** What can't be brought back of it is replaced by a `StoredError`, which
has its class's name and its text: that a step failed must be on record, whatever it failed with. A value that can't be
brought back is refused when it is written.
"""

import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from hashlib import blake2b
from typing import Any

import attrs

from flowkit.errors import ImpossibleFact, SerializationError
from flowkit.fact_forms import Facts, read_list, read_whole
from flowkit.facts import Command, Fact
from flowkit.leaves import TO_JSON, Refusal, brief, is_exactly, is_text_by_name, path_step, to_json
from flowkit.machine import Machine
from flowkit.plan import Plan
from flowkit.serialization import Codec, parse
from flowkit.shape import fingerprint, fit, plan_from, shape_of
from flowkit.snapshot import Unbalanced, freeze, thaw
from flowkit.state import State
from flowkit.storage_errors import CodeChanged, RunDamaged, TypeChanged, WrongWorkflow

__all__ = ["FORMAT", "LOGIC", "Head", "Records", "Restored", "seal", "unseal"]

FORMAT = 1
"""Of records."""
LOGIC = 1
"""Of the machine's rules: raised when the same facts give another run."""

CHECKSUM = 8
"""Bytes. What is damaged passes for whole once in 2**64 times; it is no protection from who wants to forge."""
ENOUGH_ROOM = -20
"""The depth at which writing books begins: what a fact could just hold must fit in, however the machine wrapped it."""
MAX_PLANS = 16
"""How many stored shapes' plans are kept."""


def _version() -> str:
    return str(vars(sys.modules[__name__.partition(".")[0]])["__version__"])


@attrs.frozen(kw_only=True)
class Head:
    """How a run began: the first record of a journal, repeated in each books record.

    ``timeout`` is in seconds, ``forked_from`` the run it goes on from and the number of that run's records it has,
    ``patient`` what `Machine` knows by that name, ``carried`` what its instruments gave it for the way (and
    ``inherited`` what they gave the run that it was forked from), ``flowkit`` the version that wrote the record.
    """

    run_id: str
    workflow: str
    timeout: float | None = None
    stepwise: bool = False
    patient: bool | None = None
    forked_from: tuple[str, int] | None = None
    carried: Mapping[str, str] | None = None
    inherited: Mapping[str, str] | None = None
    flowkit: str = attrs.field(factory=_version)


@attrs.define
class Restored:
    """A run, as its records say it was.

    ``length`` is the number of its records, so the next one's number. ``changed``: the plan that wrote them isn't the
    current one, so that a books record should be written before any other. ``facts_since`` and ``bytes_since`` say
    how much there is after the last head or books record, whose size is ``books_size``.
    """

    machine: Machine
    head: Head
    length: int
    changed: bool
    facts_since: int
    bytes_since: int
    books_size: int


# --------------------------------------------------------------------------------------------------------- checksums


def seal(run_id: str, position: int, payload: bytes) -> bytes:
    """The record numbered ``position`` of a run."""
    return _checksum(run_id, position, payload) + payload


def unseal(run_id: str, position: int, record: bytes) -> bytes:
    """The payload of a record.

    Raises:
        RunDamaged: it isn't the record that was written in this place.
    """
    payload = record[CHECKSUM:]
    if record[:CHECKSUM] != _checksum(run_id, position, payload):
        raise RunDamaged(run_id, position, "its checksum is wrong")
    return payload


def _checksum(run_id: str, position: int, payload: bytes) -> bytes:
    name = run_id.encode("utf-8", "surrogatepass")
    return blake2b(b"%d %d %b%b" % (position, len(name), name, payload), digest_size=CHECKSUM).digest()


# ----------------------------------------------------------------------------------------------------------- records


@attrs.frozen
class _Opening:
    """A head or books record, taken apart."""

    head: Head
    fingerprint: str
    shape: Any
    state: Any
    books: Any


class Records:
    """The records of one plan's runs. Shared by all of them."""

    def __init__(self, plan: Plan, codec: Codec) -> None:
        self.plan, self.codec = plan, codec
        self._facts = Facts(codec)
        shape = shape_of(plan, codec)
        self.fingerprint = fingerprint(shape)
        self._ending = TO_JSON.encode([self.fingerprint, shape])[1:]
        self._plans: dict[str, Plan] = {}

    # ------------------------------------------------------------------------------------------------------- writing

    def head(self, head: Head) -> bytes:
        """The payload of a run's first record."""
        return f"{self._beginning('head', head)}{self._ending}".encode()

    def fact(self, fact: Fact) -> bytes:
        """The payload of a fact's record.

        Raises:
            SerializationError: a value in it can't be brought back exactly.
        """
        try:
            data = self._facts.write(fact)
        except (Refusal, RuntimeError):
            data = self._nearly(lambda facts, _: facts.write(fact))
        return to_json(data).encode()

    def books(self, machine: Machine, head: Head) -> bytes:
        """The payload of a record that reading can begin at: the machine's books and its state, as they are now.

        Raises:
            SerializationError: a value in them can't be brought back exactly.
        """
        head = attrs.evolve(head, stepwise=machine.stepwise, patient=machine.patient)
        tree = freeze(machine)

        def write(_: Facts, codec: Codec) -> list[Any]:
            return [codec.values.write(one, ENOUGH_ROOM) for one in (machine.state.root, tree)]

        try:
            state, books = write(self._facts, self.codec)
        except (Refusal, RuntimeError):
            state, books = self._nearly(write)
        rest = TO_JSON.encode([state, books])[1:]
        return f"{self._beginning('books', head)}{self._ending[:-1]},{rest}".encode()

    def _beginning(self, code: str, head: Head) -> str:
        said = attrs.asdict(head, filter=lambda field, value: value != field.default)
        fields = {name: self.codec.values.write(value, 0) for name, value in said.items()}
        return TO_JSON.encode([code, FORMAT, LOGIC, fields])[:-1] + ","

    def _nearly(self, write: Callable[[Facts, Codec], list[Any]]) -> list[Any]:
        """Write again, with stand-ins for the exceptions that can't be written: see the head of this file."""
        codec = self.codec.nearly()
        try:
            return write(Facts(codec), codec)
        except Refusal as refusal:
            raise refusal.located() from refusal.__cause__
        except RuntimeError as error:  # another thread changed it meanwhile, or there is too little stack
            raise SerializationError(f"it can't be written, {brief(error)}") from error

    # ------------------------------------------------------------------------------------------------------- reading

    def facts(self, run_id: str, start: int, records: Sequence[bytes]) -> Iterator[tuple[int, Fact]]:
        """The facts in these records (the first has the number ``start``), each with its record's number.

        Raises:
            RunDamaged: a record can't be read.
            CodeChanged: one was written by other code.
        """
        for number, record in enumerate(records, start):
            payload = unseal(run_id, number, record)
            if not _begins(payload):
                yield number, self._read_fact(run_id, number, payload)

    def replay(
        self,
        run_id: str,
        records: Iterable[bytes],
        *,
        start: int = 0,
        machine: Machine | None = None,
        told: Callable[[Sequence[Command]], object] | None = None,
    ) -> Iterator[tuple[int, Fact, Machine]]:
        """All facts of a journal, each with its record's number and the machine that is about to receive it, under the
        plan that it was written by.

        With the ``machine`` that this gave last it goes on, with the record numbered ``start``. ``told`` is given what
        follows from each fact, before the next is read. Raises as `restore`.
        """
        for number, record in enumerate(records, start):
            payload = unseal(run_id, number, record)
            if _begins(payload):
                opening = self._read_opening(run_id, number, payload)
                if machine is None or machine.plan is not self._plan_of(run_id, number, opening):
                    machine = self._opened(run_id, number, opening, patient=False)
            elif machine is None:
                raise RunDamaged(run_id, number, "it isn't one that reading can begin at")
            else:
                fact = self._read_fact(run_id, number, payload)
                yield number, fact, machine
                commands = _enter(run_id, number, machine, fact)
                if told is not None:
                    told(commands)

    def restore(self, run_id: str, start: int, records: Sequence[bytes], state: State, *, patient: bool) -> Restored:
        """The run that these records tell of; the first has the number ``start`` and is a head or books record.

        ``state`` becomes the run's: its root is set, so that those who hold it see the run's.

        Raises:
            RunDamaged: a record can't be read, or can't follow from those before it.
            CodeChanged: the run doesn't fit the plan any more, or was written by a newer flowkit.
            WrongWorkflow: it is a run of another workflow.
        """
        payloads = [unseal(run_id, number, record) for number, record in enumerate(records, start)]
        begin = next((index for index in reversed(range(len(payloads))) if _begins(payloads[index])), None)
        if begin is None or not _begins(payloads[0]):
            raise RunDamaged(run_id, start, "it isn't one that reading can begin at")
        opening = self._read_opening(run_id, start + begin, payloads[begin])
        head = opening.head
        if head.run_id != run_id:
            raise RunDamaged(run_id, start + begin, f"it belongs to the run {head.run_id!r}")
        if head.workflow != self.plan.name:
            raise WrongWorkflow(run_id, self.plan.name, head.workflow)
        machine = self._opened(run_id, start + begin, opening, patient)
        is_same = machine.plan is self.plan
        for number, payload in enumerate(payloads[begin + 1 :], start + begin + 1):
            _enter(run_id, number, machine, self._read_fact(run_id, number, payload))
        if not is_same:
            machine = self._moved(run_id, machine)
        self._check_state(run_id, machine.state.root)
        state.root = machine.state.root
        machine.state = state
        machine.carried = head.carried
        changed = not is_same or machine.patient is not patient
        machine.patient = patient
        since = payloads[begin + 1 :]
        return Restored(
            machine=machine,
            head=head,
            length=start + len(records),
            changed=changed,
            facts_since=len(since),
            bytes_since=sum(map(len, since)),
            books_size=len(payloads[begin]),
        )

    def letter(self, payload: bytes) -> Any:
        """The fact that a message stands for: a payload that isn't in a journal yet.

        Raises:
            SerializationError: it can't be read with the classes there are here.
        """
        try:
            return self._facts.read(parse(payload))
        except Refusal as refusal:
            raise refusal.located() from refusal
        except RecursionError as error:
            raise SerializationError("it is nested too deep") from error

    def _read_fact(self, run_id: str, number: int, payload: bytes) -> Any:
        try:
            return self._facts.read(parse(payload))
        except Refusal as refusal:
            raise self._told(run_id, number, refusal.located()) from refusal
        except SerializationError as error:
            raise self._told(run_id, number, error) from error
        except RecursionError as error:
            raise RunDamaged(run_id, number, "it is nested too deep") from error

    def _read_opening(self, run_id: str, number: int, payload: bytes) -> _Opening:
        path = "$"
        try:
            code, form, logic, *rest = read_list(parse(payload))
            for what, written, known in (("format", form, FORMAT), ("rules", logic, LOGIC)):
                if read_whole(written) > known:
                    raise CodeChanged(
                        run_id,
                        self.plan.name,
                        f"record {number} is of {what} {written}, and this flowkit knows {known}",
                        "update flowkit",
                    )
                if written != known:
                    raise ValueError(f"{what} {written} never were")
            if code == "head" and number:
                raise ValueError("a head is expected in the beginning only")
            fields, print_, shape, *books = rest
            if len(books) != (2 if code == "books" else 0):
                raise ValueError(f"{code} has other items")
            path = "$[3]"
            head = self._read_head(fields)
            path = "$[4]"
            if type(print_) is not str:
                raise ValueError("a string is expected")
            state, tree = None, None
            if books:
                path = "$[6]"
                state = self.codec.values.read(books[0], ENOUGH_ROOM)
                path = "$[7]"
                tree = self.codec.values.read(books[1], ENOUGH_ROOM)
        except Refusal as refusal:
            raise self._told(run_id, number, refusal.located(), path) from refusal
        except SerializationError as error:
            raise self._told(run_id, number, error) from error
        except (ValueError, TypeError) as error:
            raise RunDamaged(run_id, number, str(error), path=path) from error
        except RecursionError as error:
            raise RunDamaged(run_id, number, "it is nested too deep") from error
        return _Opening(head, print_, shape, state, tree)

    def _read_head(self, data: Any) -> Head:
        if not is_exactly(data, dict):
            raise ValueError("an object is expected")
        fields = {name: self.codec.values.read(item, 0) for name, item in data.items()}
        for name, item in fields.items():
            if name not in _HEAD or not _HEAD[name](item):
                raise Refusal("it doesn't belong here, or isn't of its type", "", path_step(name))
        if not {"run_id", "workflow", "flowkit"} <= fields.keys():
            raise ValueError("a head has a run_id, a workflow and a flowkit")
        if "forked_from" in fields:
            fields["forked_from"] = tuple(fields["forked_from"])
        return Head(**fields)

    def _plan_of(self, run_id: str, number: int, opening: _Opening) -> Plan:
        if opening.fingerprint == self.fingerprint:
            return self.plan
        name = fingerprint(read_list(opening.shape)) if is_exactly(opening.shape, list) else ""
        plan = self._plans.get(name)
        if plan is None:
            try:
                plan = plan_from(opening.shape, self.codec)
            except TypeChanged as error:
                raise self._told(run_id, number, error, "$[5]") from error
            except (SerializationError, ValueError, TypeError, RecursionError) as error:
                raise RunDamaged(run_id, number, f"its shape can't be read, {brief(error)}", path="$[5]") from error
            if len(self._plans) >= MAX_PLANS:
                self._plans.clear()
            self._plans[name] = plan
        return plan

    def _opened(self, run_id: str, number: int, opening: _Opening, patient: bool) -> Machine:
        plan = self._plan_of(run_id, number, opening)
        was_patient = patient if opening.head.patient is None else opening.head.patient
        if opening.books is None:
            return Machine(plan, State(plan.state_type), stepwise=opening.head.stepwise, patient=was_patient)
        try:
            return thaw(plan, State(plan.state_type, opening.state), opening.books, patient=was_patient)
        except Unbalanced as error:
            path = f"$[7]{error.path.removeprefix('$')}"
            raise RunDamaged(run_id, number, f"the books don't balance: {error.problem}", path=path) from error

    def _moved(self, run_id: str, machine: Machine) -> Machine:
        tree = fit(freeze(machine), machine.plan, self.plan, run_id)
        return thaw(self.plan, machine.state, tree, patient=machine.patient)

    def _check_state(self, run_id: str, root: Any) -> None:
        kind = self.plan.state_type or dict
        if not isinstance(root, kind):
            raise CodeChanged(
                run_id,
                self.plan.name,
                f"its state is a {type(root).__name__}, and its steps take a {kind.__name__}",
                "let them take what is stored until such runs have ended",
            )

    def _told(self, run_id: str, number: int, error: SerializationError, base: str = "$") -> CodeChanged | RunDamaged:
        path = base + error.path.removeprefix("$")
        if isinstance(error, TypeChanged):
            problem = f"in record {number} at {path}, {error.problem}"
            return CodeChanged(run_id, self.plan.name, problem, error.cure)
        return RunDamaged(run_id, number, error.problem, path=path)


def _enter(run_id: str, number: int, machine: Machine, fact: Fact) -> Sequence[Command]:
    try:
        return machine.receive(fact)
    except ImpossibleFact as error:
        raise RunDamaged(run_id, number, f"it can't follow from those before it, as {error}") from error
    except MemoryError:
        raise
    except Exception as error:
        raise RunDamaged(run_id, number, f"it can't be replayed, {brief(error)}") from error


def _begins(payload: bytes) -> bool:
    return payload.startswith((b'["head",', b'["books",'))


_HEAD: dict[str, Callable[[Any], bool]] = {
    "run_id": lambda one: type(one) is str,
    "workflow": lambda one: type(one) is str,
    "timeout": lambda one: type(one) in (int, float) and 0 < one < math.inf,
    "stepwise": lambda one: type(one) is bool,
    "patient": lambda one: type(one) is bool,
    "forked_from": lambda one: type(one) in (list, tuple) and [type(part) for part in one] == [str, int],
    "carried": lambda one: is_text_by_name(one),
    "inherited": lambda one: is_text_by_name(one),
    "flowkit": lambda one: type(one) is str,
}
