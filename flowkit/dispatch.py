"""Dispatch: where events go, who works on them, and when a run is at rest. The mechanics under the machine's rules.

Holds the books of a run and moves what is in them: an event to its steps and waits, an invocation into and out of a
slot, a batch into its list step, the run to its end. machine.py says which fact sets what in motion; every method here
appends the commands that follow to ``out``.
"""

from collections import deque
from collections.abc import Mapping
from typing import Any

from flowkit.books import QUEUED, RESUMING, RUNNING, Held, Invocation, Lane, Timer
from flowkit.collecting import Buffer
from flowkit.errors import WorkflowStalled
from flowkit.events import Event, InputRequiredEvent, StopEvent
from flowkit.facts import AnswerWait, CancelTimer, Command, Finish, Publish, Rest, SetTimer, StartStep
from flowkit.joins import ROOT, Batch, Joins
from flowkit.plan import Plan
from flowkit.state import State
from flowkit.waits import Wait, Waits

__all__ = ["Dispatch", "enqueue", "finish_with"]


class Dispatch:
    """The books of one run, and what moves them. Subclassed by the machine."""

    __slots__ = (
        "buffers",
        "busy",
        "carried",
        "held",
        "invocations",
        "joins",
        "lanes",
        "last",
        "outcome",
        "patient",
        "plan",
        "questions",
        "retrying",
        "run_id",
        "start_event",
        "started",
        "state",
        "stepwise",
        "timers",
        "waits",
    )

    def __init__(self, plan: Plan, state: State, *, stepwise: bool = False, patient: bool = False) -> None:
        self.plan = plan
        self.state = state
        self.stepwise = stepwise
        self.patient = patient
        self.run_id = ""
        self.started = False
        self.start_event: Event | None = None
        self.carried: Mapping[str, str] | None = None  # what instruments gave it for the way; it only keeps that
        self.outcome: Finish | None = None
        self.lanes = tuple([Lane(spec) for spec in plan.steps])
        self.invocations: dict[int, Invocation] = {}
        self.waits = Waits()
        self.held: dict[int, Held] = {}
        self.timers: dict[int, Timer] = {}
        self.buffers: dict[tuple[str, str | None], Buffer] = {}
        self.joins = Joins() if plan.has_joins else None
        self.busy = 0  # invocations that run and don't wait
        self.retrying = 0
        self.questions: list[Event] = []  # asked by steps and not answered
        self.last = 0  # the last number given to anything

    def lane_of(self, step: str) -> Lane:
        """The lane of the step of this name."""
        return self.lanes[self.plan.index[step]]

    def _number(self) -> int:
        self.last += 1
        return self.last

    def _emit(self, event: Event, sender: Invocation, target: str | None, out: list[Command]) -> None:
        """An invocation sent or returned an event."""
        if self.stepwise:
            asks = isinstance(event, InputRequiredEvent)
            if asks:
                self.questions.append(event)
                out.append(Publish(event))
            name = f"step {sender.lane.spec.name!r}"
            self._hold(event, name, target, sender.scope, sender.place, published=asks)
        else:
            route = self.plan.routes.get(type(event))
            if route is not None and route.plain and route.steps and target is None and not self.waits.open:
                for step in route.steps:
                    self._invoke(self.lanes[step], event, sender.scope, sender.place, out)
            else:
                self._deliver(event, sender, target, sender.scope, sender.place, out)

    def _fan_out(self, events: list[Event], sender: Invocation, out: list[Command]) -> None:
        joins = self.joins
        if joins is None:
            for event in events:
                self._emit(event, sender, None, out)
                if self.outcome is not None:
                    return
            return
        spec = sender.lane.spec
        scope = joins.open(sender.scope, sender.place, spec.name, self.plan.reach_of(spec.name), len(events))
        outer, place = sender.scope, sender.place
        sender.scope = scope
        for number, event in enumerate(events):
            sender.place = number
            self._emit(event, sender, None, out)
            if self.outcome is not None:
                return
        sender.scope, sender.place = outer, place
        self._leave(scope, out)

    def _deliver(
        self,
        event: Event,
        sender: "Invocation | str",
        target: str | None,
        scope: int,
        place: int,
        out: list[Command],
        *,
        published: bool = False,
    ) -> None:
        kind = type(event)
        route = self.plan.routes.get(kind) or self.plan.route(kind)
        if route.stops:
            self._finish(out, event=event)
            return
        taken = route.asks
        if route.asks and not published:
            self.questions.append(event)
            out.append(Publish(event))
        lanes = [self.lanes[step] for step in route.steps] if target is None else [self.lane_of(target)]
        for lane in lanes:
            taken = True
            if lane.spec.takes_list:
                self._gather(lane, event, scope, place, out)
            else:
                self._invoke(lane, event, scope, place, out)
        wait = self.waits.oldest(event) if self.waits.open and target is None else None
        if wait is not None:
            self._answer(wait, event, self.waits.place(self.last), out)
        elif taken:
            if route.answers and self.questions:
                del self.questions[0]
        else:
            name = sender if isinstance(sender, str) else f"step {sender.lane.spec.name!r}"
            self.waits.keep(self._number(), event, name)

    def _deliver_from_outside(self, event: Event, sender: str, target: str | None, out: list[Command]) -> None:
        if self.joins is not None:
            self.joins.enter(ROOT)
        self._deliver(event, sender, target, ROOT, 0, out)
        if self.outcome is None:
            self._leave(ROOT, out)
        self._rest(out)

    def _gather(self, lane: Lane, event: Event, scope: int, place: int, out: list[Command]) -> None:
        assert self.joins is not None
        batch = self.joins.arrive(lane.spec.name, lane.spec.take, scope, place, event)
        if batch is not None:
            self._invoke_batch(batch, out)

    def _invoke_batch(self, batch: Batch, out: list[Command]) -> None:
        assert self.joins is not None
        # The batch was counted live when it was made; `_invoke` counts the invocation.
        self.joins.scopes[batch.scope].live -= 1
        self._invoke(self.lane_of(batch.step), batch.events, batch.scope, batch.place, out)

    def _invoke(self, lane: Lane, event: Any, scope: int, place: int, out: list[Command]) -> None:
        if self.joins is not None:
            self.joins.enter(scope)
        self.last = number = self.last + 1
        if lane.running < lane.num_workers and not lane.queue:
            self.invocations[number] = Invocation(number, lane, event, scope, place, RUNNING)
            lane.running += 1
            self.busy += 1
            out.append(StartStep(lane.index, number, event))
        else:
            entry = self.invocations[number] = Invocation(number, lane, event, scope, place, QUEUED)
            enqueue(entry)

    def _end(self, entry: Invocation, out: list[Command]) -> None:
        """An invocation is over: its slot goes to the next in line."""
        if entry.waiting is not None:
            self._drop_waits(entry, out)
        del self.invocations[entry.number]
        self.busy -= 1
        lane = entry.lane
        lane.running -= 1
        if lane.queue or lane.resuming:
            self._refill(lane, out)
        if self.joins is not None:
            self._leave(entry.scope, out)
        if not self.busy:
            self._rest(out)

    def _refill(self, lane: Lane, out: list[Command]) -> None:
        while lane.running < lane.num_workers:
            if lane.resuming:
                entry = lane.resuming.popleft()
                self._run(entry)
                self._give_answers(entry, out)
            elif lane.queue:
                entry = lane.queue.popleft()
                self._run(entry)
                out.append(StartStep(lane.index, entry.number, entry.event, entry.attempt, entry.since))
            else:
                return

    def _run(self, entry: Invocation) -> None:
        entry.status = RUNNING
        entry.lane.running += 1
        self.busy += 1

    def _leave(self, scope: int, out: list[Command]) -> None:
        if self.joins is not None:
            for batch in self.joins.leave(scope):
                self._invoke_batch(batch, out)

    def _answer(self, wait: Wait, event: Event | None, place: float, out: list[Command]) -> None:
        entry = self.invocations[wait.invocation]
        self._close_wait(entry, wait, out)
        waiting = entry.waits()
        waiting.answers[wait.waiter], waiting.places[wait.waiter] = event, place
        if entry.status == RUNNING:
            out.append(AnswerWait(entry.number, wait.waiter, event))
            return
        waiting.to_answer.append(wait.waiter)
        if entry.status == RESUMING:
            return
        lane = entry.lane
        if lane.running < lane.num_workers:
            self._run(entry)
            self._give_answers(entry, out)
        else:
            entry.status = RESUMING
            if lane.resuming is None:
                lane.resuming = deque()
            lane.resuming.append(entry)

    def _give_answers(self, entry: Invocation, out: list[Command]) -> None:
        waiting = entry.waits()
        out.extend(AnswerWait(entry.number, waiter, waiting.answers[waiter]) for waiter in waiting.to_answer)
        waiting.to_answer.clear()

    def _close_wait(self, entry: Invocation, wait: Wait, out: list[Command]) -> None:
        del entry.waits().open[wait.waiter]
        self.waits.remove(wait)
        if wait.timer is not None and self.timers.pop(wait.timer, None) is not None:
            out.append(CancelTimer(wait.timer))

    def _drop_waits(self, entry: Invocation, out: list[Command]) -> None:
        for wait in list(entry.waiting.open.values()) if entry.waiting is not None else ():
            self._close_wait(entry, wait, out)

    def _set_timer(self, timer: Timer, out: list[Command]) -> int:
        number = self._number()
        self.timers[number] = timer
        out.append(SetTimer(number, timer.at))
        return number

    def _hold(
        self, event: Event, sender: str, target: str | None, scope: int, place: int, *, published: bool = False
    ) -> None:
        if self.joins is not None:
            self.joins.enter(scope)
        self.held[self._number()] = Held(event, sender, target, scope, place, published)

    def _rest(self, out: list[Command]) -> None:
        """Nothing is busy: say so if the run is stepwise, and end it if it can never go on."""
        if self.busy or self.retrying or self.outcome is not None:
            return
        if self.stepwise:
            out.append(Rest())
            return
        if self.timers or self.waits.open or self.questions or self.plan.takes_answers or self.patient:
            return
        waiting = [
            f"step {buffer.step!r} has collected {_counts(buffer.has())} and still needs {_counts(buffer.missing())}"
            for buffer in self.buffers.values()
            if buffer.lacking
        ]
        if self.joins is not None:
            waiting += self.joins.gathered()
        kept = list(self.waits.unhandled())
        self.waits.kept.clear()
        self._finish(
            out,
            error=WorkflowStalled(
                self.plan.name, waiting, (entry.event for entry in kept), (entry.sender for entry in kept)
            ),
        )

    def _finish(self, out: list[Command], *, event: Event | None = None, error: BaseException | None = None) -> None:
        if event is None:
            self.outcome = Finish(error=error)
        else:
            self.outcome = finish_with(event)
            out.append(Publish(event))
        out.append(self.outcome)
        # No wait, timer or invocation survives the end; what nobody took (`kept`) is left for the report.
        self.invocations.clear()
        self.waits.open.clear()
        self.timers.clear()
        self.held.clear()
        self.busy = self.retrying = 0


def finish_with(event: Event) -> Finish:
    """The end by a stop event: the result is its ``result``, or for a subclass of `StopEvent` the event itself."""
    return Finish(event.__dict__.get("result") if type(event) is StopEvent else event, event)


def enqueue(entry: Invocation) -> None:
    queue = entry.lane.queue
    if queue is None:
        queue = entry.lane.queue = deque()
    queue.append(entry)


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items()) or "nothing"
