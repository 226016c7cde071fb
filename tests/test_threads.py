"""Plain `def` steps: they run in worker threads and reach the run from there."""

import threading
import time
from typing import Annotated

import anyio
import anyio.from_thread
import attrs
import pytest

from flowkit import (
    Context,
    Event,
    MisdirectedEvent,
    Resource,
    RunFinished,
    StartEvent,
    StepFailed,
    StepFailedEvent,
    StopEvent,
    Workflow,
    WorkflowCancelledByUser,
    WorkflowRuntimeError,
    WorkflowTimeoutError,
    catch_error,
    step,
)
from flowkit.testing.virtual_time import letting_time_pass, run_virtual


class Part(Event):
    n: int


class Progress(Event):
    n: int


def test_steps_are_threads_only_where_they_are_plain(anyio_backend_name: str) -> None:
    class Flow(Workflow):
        @step
        async def first(self, ev: StartEvent) -> Part:
            threads.append(threading.get_ident())
            return Part(1)

        @step
        def second(self, ev: Part) -> StopEvent:
            threads.append(threading.get_ident())
            return StopEvent()

    threads: list[int] = []

    async def main() -> None:
        await Flow().run()

    run_virtual(main, backend=anyio_backend_name)
    assert threads[0] == threading.get_ident() != threads[1]


async def test_a_plain_step_sends_shows_and_collects() -> None:
    class Flow(Workflow):
        @step
        def send(self, ctx: Context, ev: StartEvent) -> Part | None:
            for n in range(3):
                ctx.write_event_to_stream(Progress(n))
                ctx.send_event(Part(n))
            return None

        @step(num_workers=1)
        def gather(self, ctx: Context, ev: Part) -> StopEvent | None:
            batch = ctx.collect_events(ev, [Part, Part, Part])
            return None if batch is None else StopEvent(result=[part.n for part in batch])

    async with Flow().run() as handler:
        shown = [event async for event in handler.stream_events()]
        assert await handler == [0, 1, 2]
    assert shown == [*map(Progress, range(3)), StopEvent(result=[0, 1, 2])]


async def test_a_plain_step_awaits_through_from_thread() -> None:
    class Flow(Workflow):
        @step
        def work(self, ctx: Context, ev: StartEvent) -> StopEvent:
            anyio.from_thread.run(ctx.set, "n", 1)
            part = anyio.from_thread.run(ctx.wait_for_event, Part)
            return StopEvent(result=anyio.from_thread.run(ctx.get, "n") + part.n)

    async with Flow().run() as handler:
        await anyio.sleep(5)
        handler.send_event(Part(2))
        assert await handler == 3


async def test_what_is_read_without_waiting_can_be_read_from_a_thread() -> None:
    class Flow(Workflow):
        @step
        def work(self, ctx: Context, ev: StartEvent) -> StopEvent:
            return StopEvent(result=(ctx.run_id, ctx.is_running, ctx.retry_info().attempts))

    handler = Flow().run(run_id="mine")
    assert await handler == ("mine", True, 0)


async def test_plain_steps_take_lists_resources_and_return_lists() -> None:
    class Flow(Workflow):
        @step
        def fan(self, ev: StartEvent) -> list[Part]:
            return [Part(n) for n in range(5)]

        @step
        def work(self, ev: Part, factor: Annotated[int, Resource(lambda: 10)]) -> Progress:
            return Progress(factor * ev.n)

        @step
        def join(self, evs: list[Progress]) -> StopEvent:
            return StopEvent(result=[ev.n for ev in evs])

    assert await Flow().run() == [0, 10, 20, 30, 40]


async def test_an_error_in_a_thread_is_the_steps_error() -> None:
    class Flow(Workflow):
        @step
        def fail(self, ev: StartEvent) -> StopEvent:
            raise ValueError("in a thread")

    with pytest.raises(StepFailed, match="Error in step 'fail': ValueError: in a thread"):
        await Flow().run()


async def test_a_plain_handler_catches_errors() -> None:
    class Flow(Workflow):
        @step
        def fail(self, ev: StartEvent) -> StopEvent:
            raise ValueError("in a thread")

        @catch_error
        def caught(self, ev: StepFailedEvent) -> StopEvent:
            return StopEvent(result=str(ev.exception))

    assert await Flow().run() == "in a thread"


async def test_errors_of_the_context_are_raised_in_the_thread() -> None:
    class Flow(Workflow):
        @step
        def work(self, ctx: Context, ev: StartEvent) -> StopEvent:
            with pytest.raises(MisdirectedEvent):
                ctx.send_event(Part(1), step="nowhere")
            with pytest.raises(WorkflowRuntimeError, match="send_event takes an event"):
                ctx.send_event("no event")  # type: ignore[arg-type]
            return StopEvent(result="fine")

    assert await Flow().run() == "fine"


async def test_num_workers_bounds_the_threads() -> None:
    running, most, lock = 0, 0, threading.Lock()

    class Flow(Workflow):
        @step
        async def fan(self, ev: StartEvent) -> list[Part]:
            return [Part(n) for n in range(8)]

        @step(num_workers=2)
        def work(self, ev: Part) -> Progress:
            nonlocal running, most
            with lock:
                running += 1
                most = max(most, running)
            anyio.from_thread.run(anyio.sleep, 1)
            with lock:
                running -= 1
            return Progress(ev.n)

        @step
        async def join(self, evs: list[Progress]) -> StopEvent:
            return StopEvent(result=len(evs))

    assert await Flow().run() == 8
    assert most == 2
    assert anyio.current_time() == pytest.approx(4)


@attrs.define
class Blocking(Workflow):
    """Blocks a thread until virtual time ``until``, and then returns an event that leads on."""

    until: float
    blocked: anyio.Event = attrs.field(factory=anyio.Event)
    released: threading.Event = attrs.field(factory=threading.Event)
    log: list[str] = attrs.field(factory=list[str])

    @step
    def block(self, ev: StartEvent) -> Part:
        anyio.from_thread.run_sync(self.blocked.set)
        with letting_time_pass():
            assert self.released.wait(10)
        self.log.append("the thread ended")
        return Part(1)

    @step
    async def go_on(self, ev: Part) -> StopEvent:
        self.log.append("another step began")
        return StopEvent(result="went on")

    async def release(self) -> None:
        await anyio.sleep_until(self.until)
        self.released.set()


async def test_cancelling_a_run_waits_for_its_threads_and_starts_nothing_more() -> None:
    workflow = Blocking(until=20)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(workflow.release)
        handler = workflow.run()
        await workflow.blocked.wait()
        await handler.cancel_run()
        workflow.log.append("the run ended")
    assert workflow.log == ["the thread ended", "the run ended"]
    with pytest.raises(WorkflowCancelledByUser):
        await handler


async def test_the_first_stop_event_waits_for_the_other_threads_and_starts_nothing_more() -> None:
    class Flow(Blocking):
        @step
        async def sibling(self, ev: StartEvent) -> StopEvent:
            await anyio.sleep(5)
            return StopEvent(result="sibling")

    workflow = Flow(until=20)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(workflow.release)
        assert await workflow.run() == "sibling"
        workflow.log.append("the run ended")
    assert workflow.log == ["the thread ended", "the run ended"]


async def test_a_timeout_waits_for_the_threads_and_starts_nothing_more() -> None:
    workflow = Blocking(until=20)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(workflow.release)
        with pytest.raises(WorkflowTimeoutError):
            await workflow.run(timeout=5)
        workflow.log.append("the run ended")
    assert workflow.log == ["the thread ended", "the run ended"]


async def test_a_thread_can_ask_whether_its_run_was_cancelled() -> None:
    class Flow(Workflow):
        @step
        def work(self, ctx: Context, ev: StartEvent) -> StopEvent:
            for n in range(1000):
                anyio.from_thread.check_cancelled()
                anyio.from_thread.run(anyio.sleep, 1)
                reached.append(n)
            return StopEvent()

    reached: list[int] = []
    handler = Flow().run()
    await anyio.sleep(3.5)
    await handler.cancel_run()
    with pytest.raises(WorkflowCancelledByUser):
        await handler
    assert reached in ([0, 1, 2], [0, 1, 2, 3])  # some versions of AnyIO also cut the call under way short


async def test_a_thread_whose_run_has_ended_can_send_nothing_more() -> None:
    class Flow(Blocking):
        @step
        def block(self, ctx: Context, ev: StartEvent) -> Part:
            super().block(ev)
            for send in (ctx.send_event, ctx.write_event_to_stream):
                with pytest.raises(RunFinished):
                    send(Part(1))
            self.log.append("nothing was sent")
            return Part(2)

    workflow = Flow(until=20)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(workflow.release)
        handler = workflow.run()
        await workflow.blocked.wait()
        await handler.cancel_run()
    assert workflow.log == ["the thread ended", "nothing was sent"]
    with pytest.raises(WorkflowCancelledByUser):
        await handler


async def test_a_thread_of_ones_own_is_told_how_to_reach_the_run() -> None:
    errors: list[BaseException] = []

    class Flow(Workflow):
        @step
        async def work(self, ctx: Context, ev: StartEvent) -> Part | StopEvent:
            def send() -> None:
                try:
                    ctx.send_event(Part(1))
                except WorkflowRuntimeError as error:
                    errors.append(error)

            thread = threading.Thread(target=send)
            thread.start()
            thread.join()
            return StopEvent()

        @step
        async def take(self, ev: Part) -> StopEvent:
            return StopEvent()

    await Flow().run()
    assert "anyio.from_thread.run_sync" in str(errors[0])


async def test_a_blocking_step_does_not_block_the_loop() -> None:
    class Flow(Workflow):
        @step
        def block(self, ev: StartEvent) -> StopEvent:
            anyio.from_thread.run_sync(started.set)
            while not go_on:
                time.sleep(0.001)
            return StopEvent(result="done")

    started, go_on = anyio.Event(), list[bool]()
    handler = Flow().run()
    await started.wait()
    go_on.append(True)
    assert await handler == "done"
