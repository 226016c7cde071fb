"""Runs in runs: what a run knows of those that were started in its steps, and of the one it was started in.

A nested run's events and questions surface in its parent's stream; what comes from outside and its parent has no use
for is handed down to it; a run is at rest only when those in it are.
"""

from abc import abstractmethod

import anyio

from flowkit.errors import WrongCall
from flowkit.events import Event, StartEvent
from flowkit.requests import Requests
from flowkit.stations import Log
from flowkit.storage_errors import CodeChanged, LeaseLost, RunDamaged, RunElsewhere, StoreError

__all__ = ["Nesting"]


class Nesting(Requests):
    """The part of a run that knows other runs."""

    __slots__ = ("children", "parent")

    children: "list[Nesting] | None"
    parent: "Nesting | None"

    @abstractmethod
    async def join(self) -> None:
        """Wait until the run has settled."""

    @property
    @abstractmethod
    def due(self) -> float | None:
        """When its time comes."""

    @abstractmethod
    def cancel(self, reason: str, *, by_user: bool = False) -> None:
        """End the run now."""

    def abandon(self, error: BaseException, *, stored: bool) -> None:
        """Stop the run here, with this error; where it is the store's, those it is nested in, too.

        It isn't the failure of the step that started it, which would be final: all of them go on later, together.
        """
        for child in list(self.children or ()):
            # At once: their steps are about to be cancelled, which must not look as if they had given up a wait.
            child.cancel("the run it was started in has stopped")
        super().abandon(error, stored=stored)
        above = self.parent
        if above is None or above.ended or self._log is None or above._log is None:
            return
        is_own = self.run_id.startswith(f"{above.run_id}/")  # not an id that the step has made up
        if isinstance(error, StoreError | LeaseLost | RunDamaged | CodeChanged | RunElsewhere) and is_own:
            above.abandon(error, stored=True)

    def nested(self, run_id: str) -> "Nesting":
        """The run of this id nested in this one, at any depth.

        Raises:
            WorkflowRuntimeError: there is none, or it has ended.
        """
        todo = list(self.children or ())
        while todo:
            child = todo.pop()
            if child.run_id == run_id:
                return child
            todo.extend(child.children or ())
        raise WrongCall(
            "send_event(to=…):",
            f"no nested run {run_id!r} is under way in this run of {self.workflow_name}",
            "it has ended, or `to` isn't the origin that came with a question of this run",
        )

    def adopt(self, child: "Nesting") -> None:
        """A run was started inside one of this run's steps."""
        if self.children is None:
            self.children = []
        if child not in self.children:
            self.children.append(child)
        self._nested = len(self.children)

    def stir(self) -> None:
        """This run goes on, so those it is nested in aren't at rest."""
        above = self.parent
        while above is not None:
            if above._log is not None:
                above._log.stir()
            above = above.parent

    async def _end_children(self) -> None:
        """Cancel the nested runs that their steps left behind, and wait for their clean-up: nothing outlives a run."""
        torn: BaseException | None = None
        while self.children:
            for child in self.children:
                child.cancel("the run it was started in has ended")
            try:
                with anyio.CancelScope(shield=True):
                    await self.children[0].join()
            except anyio.get_cancelled_exc_class() as error:
                torn = error  # asyncio's own Task.cancel() heeds no shield: they are waited for all the same
        if torn is not None:
            raise torn

    def disown(self, child: "Nesting") -> None:
        """A nested run has settled."""
        if self.children is not None and child in self.children:
            self.children.remove(child)
            self._nested = len(self.children)

    def hand_down(self, event: Event) -> bool:
        """Give an event from outside to the nested run that wants it, where this one doesn't."""
        if not self.children or self.machine.accepts(type(event)):
            return False
        live = [child for child in self.children if not child.ended]
        taker = next((child for child in live if child.wants(event)), live[0] if len(live) == 1 else None)
        if taker is None:
            return False
        taker.send(event, None, None)
        return True

    def wants(self, event: Event) -> bool:
        """Whether this run, or one nested in it, would take the event now."""
        if self.machine.expects(event):
            return True
        return any(child.wants(event) for child in self.children or () if not child.ended)

    def at_rest(self) -> bool:
        """Whether nothing in this run, nor in those nested in it, moves on without somebody outside or a timer."""
        machine = self.machine
        if machine.busy > self._nested:
            return False  # asked for each commit, and mostly so
        nested = [child for child in self.children or () if not child.ended]
        return machine.started and machine.busy <= len(nested) and all(child.at_rest() for child in nested)

    def waits_outside(self) -> bool:
        """Whether nothing in this run, nor in those nested in it, moves on without somebody outside."""
        return (
            self.machine.outcome is None
            and self.begun
            and not self.machine.timers
            and self.at_rest()
            and all(child.waits_outside() for child in self.children or () if not child.ended)
        )

    def has_mail(self) -> bool:
        """Whether something was posted to it, or to a run nested in it, that has not been taken yet."""
        return any(log.has_mail for log in self.records())

    def records(self) -> dict[Log, int]:
        """How many records it has so far, and each run nested in it."""
        todo: list[Nesting] = [self]
        for run in todo:
            todo += run.children or ()
        return {run._log: run._log.added for run in todo if run._log is not None}

    async def stored(self, before: dict[Log, int]) -> None:
        """Wait until all that has happened since then in it, and in the runs nested in it, is stored."""
        for log, added in self.records().items():
            if added > before.get(log, 0):
                await log.written(added)

    def takes(self, event: Event) -> bool:
        """Whether this run, or one nested in it, has a use for the event now."""
        route = self.machine.plan.route(type(event))
        return bool(route.steps) or route.stops or self.wants(event)

    def expected(self) -> list[str]:
        """The names of the event classes that something in it takes from outside now."""
        machine = self.machine
        kinds = [kind for kind in machine.plan.accepted if not issubclass(kind, StartEvent)]
        names = [kind.__name__ for kind in (*kinds, *machine.waits.open)]
        return sorted({*names, *(name for child in self.children or () for name in child.expected())})
