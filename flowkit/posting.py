"""Sending to runs, wherever they are driven: the part of a runtime that does.

A run that nobody drives is brought into memory here and sent to like any other. To one that another process drives, or
another runtime, the event is posted (mailbox.py): it is in the store then, and this waits until that run has it. If
its owner ends meanwhile, the run is brought here, and finds it. A wait that is cancelled leaves what was posted.
"""

import contextlib
import json
from abc import ABC, abstractmethod
from functools import partial
from typing import Any

import anyio
import anyio.to_thread

from flowkit.errors import RunFinished, WorkflowCancelled, no_event
from flowkit.events import Event, StartEvent
from flowkit.facts import EventSent, RunCancelled
from flowkit.handler import Handler
from flowkit.mailbox import Sender, tell_this_process
from flowkit.plan import Plan
from flowkit.process import is_gone
from flowkit.requests import check_target
from flowkit.runner import Run
from flowkit.storage_errors import CodeChanged, RunDamaged, RunElsewhere, UnexpectedEvent, UnknownRun
from flowkit.store import ENDED, RunInfo, Store
from flowkit.tenant import Tenant
from flowkit.workflow import Workflow, _record, plan_of, records_of  # pyright: ignore[reportPrivateUsage]

__all__ = ["Posting", "check_sendable", "is_delivered"]

PAUSE = 0.05
"""Seconds between two looks whether what was posted has been taken, where another process may take it."""


class Posting(ABC):
    """What a runtime knows of runs that may be elsewhere."""

    _store: Store
    _tenant: Tenant
    _runs: dict[str, Run]

    @abstractmethod
    async def _bring(self, run_id: str, what: str) -> Handler:
        """Have a stored run that hasn't ended in memory."""

    @abstractmethod
    async def _info(self, run_id: str) -> RunInfo: ...

    @abstractmethod
    def _known(self, workflow: Workflow | str) -> Workflow: ...

    async def send_event(self, run_id: str, event: Event, step: str | None = None) -> None:
        """Send an event into a run; when this returns, it is stored that the run has it.

        Where a run is busy, and has no use for the event yet, this waits until it has, or rests. Where another process
        drives the run, the event is posted to it, and this waits until that has taken it: a fraction of a second, or as
        long as it has no use for it. Cancelling the wait leaves the event posted: the run gets it all the same.

        Raises:
            UnknownRun: the store has none of this id.
            RunFinished: it has ended.
            MisdirectedEvent: there is no step of that name, or it doesn't take this event.
            UnexpectedEvent: the run waits, and nothing in it takes this event; or no run of its workflow ever would.
            RunDamaged, CodeChanged, StoreError, SerializationError, WrongCall: as `run`.
        """
        if not isinstance(event, Event):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise no_event("send_event", event)
        what = f"send_event({type(event).__name__})"
        handler = await self._bring(run_id, what)
        try:
            await handler.come_up()
        except RunElsewhere:
            workflow = self._known(handler.workflow_name)
            check_sendable(workflow, run_id, event, step)
            letter = records_of(workflow).fact(EventSent(self._tenant.now(), None, event, step))
            await self._post(run_id, letter, what, event)
            return
        run = self._runs.get(run_id)
        if step is None and run is not None:
            while not (run.takes(event) or run.at_rest() or run.ended):
                await run.come_to_rest()  # it may come to want it
        if run is None or run.ended:
            if run is not None and run.is_suspended:
                await handler  # raises why
            raise RunFinished(handler.workflow_name, what)
        if step is None and not run.takes(event) and not run.machine.patient:
            raise UnexpectedEvent(run_id, run.workflow_name, event, run.expected())
        before = run.records()
        handler.send_event(event, step)
        await run.stored(before)

    async def cancel(self, run_id: str) -> None:
        """Cancel a run for good, and wait for its clean-up. Does nothing where it has ended.

        Where another process drives the run, it is told to, and this waits until it is stored that the run is
        cancelled; its clean-up is waited for there. Cancelling the wait doesn't take that back.

        Raises:
            UnknownRun: the store has none of this id.
            RunDamaged, CodeChanged, StoreError, WrongCall: as `run`.
        """
        what = "cancel()"
        try:
            handler = await self._bring(run_id, what)
        except RunFinished:
            return
        await handler.cancel_run()
        error = handler.exception()
        if isinstance(error, RunElsewhere):
            fact = RunCancelled(self._tenant.now(), "cancel_run() was called", by_user=True)
            letter = records_of(self._known(handler.workflow_name)).fact(fact)
            with contextlib.suppress(RunFinished):
                await self._post(run_id, letter, what)
        elif error is not None and not isinstance(error, WorkflowCancelled):
            raise error

    async def _post(self, run_id: str, letter: bytes, what: str, event: Event | None = None) -> None:
        """Post something, and wait until the run has it."""
        number = await anyio.to_thread.run_sync(self._store.post, run_id, letter, self._tenant.now())
        if number is None:
            info = await self._info(run_id)
            raise RunFinished(info.workflow, what) if info.status in ENDED else _set_aside(run_id)
        tell_this_process()
        next_try = self._tenant.now() + self._tenant.lease / 3
        with Sender(self._tenant.backend) as sender:
            look = partial(is_delivered, self._store, number, run_id, what, event)
            while True:
                sender.renew()
                if await anyio.to_thread.run_sync(look):
                    return
                info = await self._info(run_id)
                now = self._tenant.now()
                if info.owner is None or is_gone(info.owner) or now >= next_try:
                    next_try = now + self._tenant.lease / 3
                    with contextlib.suppress(RunElsewhere, RunFinished):
                        handler = await self._bring(run_id, what)
                        await handler.come_up()
                pause = next_try - now
                await sender.wait(min(pause, PAUSE) if self._store.shared else pause)


def check_sendable(workflow: Workflow, run_id: str, event: Event, step: str | None) -> None:
    """Refuse what no run of this workflow could ever take.

    Raises:
        MisdirectedEvent: there is no step of that name, or it doesn't take this event.
        UnexpectedEvent: no step takes it, and none could wait for it.
    """
    plan = plan_of(workflow)
    if step is not None:
        check_target(plan, event, step)
        return
    route = plan.route(type(event))
    # A step with a context may wait for anything; a run in a step may take it.
    could_wait = any(spec.context_parameter or spec.children or spec.resources for spec in plan.steps)
    if not (route.steps or route.stops or could_wait or _record(workflow).settings.patient):
        raise UnexpectedEvent(run_id, plan.name, event, taken_by(plan))


def taken_by(plan: Plan) -> list[str]:
    """The names of the event classes that its steps take from outside."""
    return sorted(kind.__name__ for kind in plan.accepted if not issubclass(kind, StartEvent))


def is_delivered(store: Store, number: int, run_id: str, what: str, event: Event | None = None) -> bool:
    """Whether what was posted has been taken. (Looks into the store.)

    Raises:
        UnknownRun: the run was deleted.
        RunFinished: it ended first.
        UnexpectedEvent: it waits, and nothing in it takes the event.
        CodeChanged: its owner can't read it, or knows no such step.
        RunDamaged: the run was set aside first.
    """
    info = store.info(run_id)
    if info is None:
        raise UnknownRun(run_id)
    message = store.message(number)  # after that: what a run hasn't taken when it has ended, it never will
    if message is None:
        return True
    if message.refusal is not None:
        store.withdraw(number)
        why, about = _reason(message.refusal)
        if why == "unexpected":
            raise UnexpectedEvent(run_id, info.workflow, event, about)
        problem = f"whoever drives it can't take what was sent: {about}"
        raise CodeChanged(run_id, info.workflow, problem, "run the same code there and here")
    if info.status in ENDED or info.status == "damaged":
        store.withdraw(number)
        raise RunFinished(info.workflow, what) if info.status in ENDED else _set_aside(run_id)
    return False


def _reason(refusal: str) -> tuple[str, Any]:
    try:
        why, about = json.loads(refusal)
    except ValueError:
        return "", refusal
    return why, about


def _set_aside(run_id: str) -> RunDamaged:
    return RunDamaged(run_id, None, "it was set aside as damaged")
