"""Golden journals: how they look in a file, and how new ones are written.

A file has the run's records, each with its checksum, its payload as text, and what the run was like after it. They are
written once, by the flowkit of then, and read by every later one::

    PYTHONPATH=.:tests python -m golden.journals

writes those that aren't there yet. It never writes over one.
"""

import contextlib
import json
from pathlib import Path
from typing import Any

import anyio
import attrs
from golden import flows
from golden.flows import FLOWS, Golden

from flowkit import __version__, log
from flowkit.errors import WorkflowError
from flowkit.machine import Machine
from flowkit.memory_store import MemoryStore
from flowkit.records import CHECKSUM
from flowkit.workflow import records_of

__all__ = ["Journal", "after", "names", "read"]

FOLDER = Path(__file__).parent


@attrs.frozen
class Journal:
    """A file's content. ``after`` has what `after` gave, for each record."""

    flow: str
    run_id: str
    workflow: str
    flowkit: str
    records: list[bytes]
    after: list[dict[str, Any]]


def names() -> list[str]:
    """Of all journals there are."""
    return sorted(file.stem for file in FOLDER.glob("*.json"))


def read(name: str) -> Journal:
    """A journal from its file."""
    data = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    records = [bytes.fromhex(one["checksum"]) + one["payload"].encode() for one in data["records"]]
    return Journal(
        data["flow"],
        data["run_id"],
        data["workflow"],
        data["flowkit"],
        records,
        [one["after"] for one in data["records"]],
    )


def after(machine: Machine) -> dict[str, Any]:
    """What a run is like, in words that don't depend on how books are written."""
    outcome = machine.outcome
    state = machine.state.root
    return {
        "work": [
            f"{entry.number} {entry.lane.spec.name}: {entry.status}, attempt {entry.attempt}, on {entry.event!r}"
            for entry in machine.invocations.values()
        ],
        "waits": [
            f"{wait.order} of {wait.invocation}: {wait.waiter}, {wait.event_type.__name__} with {wait.requirements}"
            for waits in machine.waits.open.values()
            for wait in waits.values()
        ],
        "timers": [f"{number} of {timer.invocation}: {timer.waiter}" for number, timer in machine.timers.items()],
        "kept": [repr(kept.event) for kept in machine.waits.unhandled()],
        "held": [f"{number} to {held.target}: {held.event!r}" for number, held in machine.held.items()],
        "collected": [f"{step} {name}: {buffer.events()!r}" for (step, name), buffer in machine.buffers.items()],
        "gathered": machine.joins.gathered() if machine.joins is not None else [],
        "questions": [repr(question) for question in machine.questions],
        "state": repr(state),
        "end": None if outcome is None else f"{outcome.event!r} {type(outcome.error).__name__}: {outcome.error}",
    }


async def made(golden: Golden, run_id: str) -> dict[str, tuple[str, list[bytes]]]:
    """Run a workflow and give the journals of it and of those nested in it: workflow and records by run id."""
    store = MemoryStore()
    handler = golden.workflow().run(run_id=run_id, store=store, stepwise=golden.steps > 0, **golden.fields)
    async with anyio.create_task_group() as tasks:
        for _ in range(golden.steps):
            for event in await handler.run_step():
                handler.send_event(event)
        tasks.start_soon(_awaited, handler)
        await anyio.sleep(0.1)
        for event in golden.sent:
            handler.send_event(event)
        await anyio.sleep(0.3)
        found = [*store.find(), *store.find(parent=run_id)]
        journals = {info.run_id: (info.workflow, store.read(info.run_id)) for info in found}
        tasks.cancel_scope.cancel()
    return journals


async def _awaited(handler: Any) -> None:
    with contextlib.suppress(WorkflowError):  # a journal of a run that fails is wanted, too
        await handler


def write(name: str) -> None:
    """Write the journals of a flow that aren't there yet."""
    golden = FLOWS[name]
    log.SNAPSHOT_AFTER = golden.snapshot_after
    for run_id, (workflow, journal) in anyio.run(made, golden, name).items():
        file = FOLDER / f"{run_id.replace('/', '--')}.json"
        if file.exists():
            continue
        flow = getattr(flows, workflow)()
        records = records_of(flow)
        lines = []
        for number, record in enumerate(journal):
            state = flow.state_for(None)
            machine = records.restore(run_id, 0, journal[: number + 1], state, patient=False).machine
            payload = record[CHECKSUM:].decode()
            lines.append({"payload": payload, "checksum": record[:CHECKSUM].hex(), "after": after(machine)})
        data = {"flow": name, "run_id": run_id, "workflow": workflow, "flowkit": __version__, "records": lines}
        with file.open("x", encoding="utf-8") as opened:
            json.dump(data, opened, indent=1, ensure_ascii=False)
            opened.write("\n")


if __name__ == "__main__":
    for flow_name in FLOWS:
        write(flow_name)
