"""``flowkit runs resume --all``: every unfinished run of some workflows goes on, until each has ended or waits.

They go on at the same time. In a terminal, those that then wait for an answer are asked for it, one after the other.
"""

import sys
from collections.abc import Sequence
from typing import Any

from flowkit.command_line.driving import Place, drive
from flowkit.command_line.driving import told as told_ending
from flowkit.command_line.exits import DONE, FAILED, INTERRUPTED, STORE_UNUSABLE, WAITING, code_of, line_of, one_of
from flowkit.command_line.options import workflows_of, written
from flowkit.command_line.output import is_terminal, plain, say, tell, tell_json
from flowkit.command_line.progress import progress_for
from flowkit.command_line.stored import Opened, free_runs
from flowkit.command_line.stored_books import open_waits, read_machine
from flowkit.errors import WorkflowCancelled, WorkflowError, shown
from flowkit.handler import Handler
from flowkit.keyboard import run_interruptible
from flowkit.runtime import open_runtime
from flowkit.store import RunInfo
from flowkit.workflow import Workflow, check_wiring, records_of

__all__ = ["resume_all"]


def resume_all(store: str | None, flows: Sequence[str], backend: str, *, quiet: bool, as_json: bool) -> int:
    workflows = workflows_of(flows)
    for _, workflow in workflows.values():
        check_wiring(workflow)
    with Opened(store) as opened:
        found = opened.store.find(statuses=("running", "waiting"), workflows=tuple(workflows))
        infos = [one for one in found if one.status != "damaged"]
        free = free_runs(opened.store, infos)
        mine = [one for one in infos if one.run_id in free]
        for one in infos:
            if one.run_id not in free:
                say(f"run {one.run_id} is driven by another process")
        endings: dict[str, BaseException | None] = {}
        results: dict[str, Any] = {}
        was_stopped = False
        try:
            with progress_for(quiet=quiet):
                run_interruptible(_drive, opened, workflows, mine, endings, results, backend=backend)
        except BaseException as error:
            if not isinstance(one_of(error), KeyboardInterrupt):
                raise
            was_stopped = True
        after = {one.run_id: opened.store.info(one.run_id) for one in mine}
    if was_stopped:
        say("\nstopped: what had not ended is suspended, nothing is lost")
        say(f"  flowkit runs resume --all {written(opened.path, *(named for named, _ in workflows.values()))}")
        return INTERRUPTED
    told = [_told(one, after[one.run_id], endings.get(one.run_id), results) for one in mine]
    if as_json:
        tell_json([data for _, data, _ in told])
    else:
        for _, _, line in told:
            tell(line)
        if not told:
            say(f"nothing to go on with in {opened.path}")
    codes = [code for code, _, _ in told]
    if not as_json and is_terminal(sys.stdin) and WAITING in codes:
        waiting = [one for one, code in zip(mine, codes, strict=True) if code == WAITING]
        codes = [code for code in codes if code != WAITING]
        for info in waiting:
            codes.append(_asked(store, info, workflows[info.workflow], backend, quiet=quiet))
            if codes[-1] == INTERRUPTED:
                return INTERRUPTED
    return next((code for code in (FAILED, STORE_UNUSABLE, WAITING) if code in codes), DONE)


def _asked(store: str | None, info: RunInfo, flow: tuple[str, Workflow], backend: str, *, quiet: bool) -> int:
    """Have a run that waits for an answer asked for it; the exit code."""
    named, workflow = flow
    with Opened(store) as opened:
        after = opened.info(info.run_id)
        if after.status != "waiting" or not _wants_answer(opened, after, workflow):
            return WAITING
        say(f"run {info.run_id}")
        ending = drive(
            workflow, lambda: workflow.run(store=opened.store, run_id=info.run_id), backend=backend, quiet=quiet
        )
    return told_ending(ending, Place(named, opened.path))


def _wants_answer(opened: Opened, info: RunInfo, workflow: Workflow) -> bool:
    """Whether somebody could answer it, or a run nested in it, or say which events go on; it may wait for its time
    only."""
    if any(one.status == "waiting" for one in opened.store.find(parent=info.run_id)):
        return True
    machine = read_machine(records_of(workflow), info, opened.store)
    return bool(machine.held or open_waits(machine, ()))


async def _drive(
    opened: Opened,
    workflows: dict[str, tuple[str, Any]],
    infos: Sequence[RunInfo],
    endings: dict[str, BaseException | None],
    results: dict[str, Any],
) -> None:
    async with open_runtime(
        store=opened.store, workflows=[one for _, one in workflows.values()], take_up=False, release_after=None
    ) as runtime:
        handlers: dict[str, Handler] = {}  # held, so that what becomes of them is told here and not logged
        for info in infos:
            handlers[info.run_id] = runtime.handler(info.run_id)
        for run_id, handler in handlers.items():
            try:
                await handler.come_up()
            except WorkflowError as error:  # it doesn't fit the code, is damaged, or was taken up elsewhere just now
                endings[run_id] = error
        await runtime.join()
        for run_id, handler in handlers.items():
            if handler.is_done() and run_id not in endings:
                endings[run_id] = handler.exception()
                if endings[run_id] is None:
                    results[run_id] = handler.result()


def _told(
    before: RunInfo, after: RunInfo | None, error: BaseException | None, results: dict[str, Any]
) -> tuple[int, dict[str, Any], str]:
    """An exit code, data and a line for one run."""
    data: dict[str, Any] = {"run_id": before.run_id, "workflow": before.workflow}
    name = f"{before.run_id} ({before.workflow})"
    if before.run_id in results:
        result = results[before.run_id]
        text = result if isinstance(result, str) else shown(result, 200)
        return DONE, {**data, "status": "finished", "result": plain(result)}, f"{name}: finished: {text}"
    status = "deleted" if after is None else after.status
    if isinstance(error, WorkflowCancelled) and status == "cancelled":
        return FAILED, {**data, "status": status}, f"{name}: cancelled"
    if error is not None:
        line = line_of(error, before.workflow)
        code = STORE_UNUSABLE if code_of(error) == STORE_UNUSABLE else FAILED
        return code, {**data, "status": status, "error": line}, f"{name}: {line}"
    return WAITING, {**data, "status": status}, f"{name}: waits"
