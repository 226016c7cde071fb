"""What `verbose=True` prints, and what `LoggingInstrument` logs."""

import io
import logging
from typing import Any

import anyio
import pytest
from watched_flows import Approved, Question, make_shop

from flowkit import (
    Context,
    Event,
    LoggingInstrument,
    MemoryStore,
    RunSuspended,
    StartEvent,
    StepFailed,
    StopEvent,
    Workflow,
    WorkflowCancelledByUser,
    step,
)
from flowkit.retry_policy import ConstantDelayRetryPolicy


class Part(Event):
    n: int


class Parts(Workflow):
    @step
    async def cut(self, ev: StartEvent) -> list[Part]:
        return [Part(0), Part(1)]

    @step
    async def drop(self, ev: Part) -> None:
        pass

    @step
    async def end(self, evs: list[Part]) -> StopEvent:
        return StopEvent(result=len(evs))


class Failing(Workflow):
    @step(retry_policy=ConstantDelayRetryPolicy(maximum_attempts=1, delay=1.5))
    async def work(self, ev: StartEvent) -> StopEvent:
        raise ValueError("no luck")


class Slow(Workflow):
    @step
    async def sleep(self, ev: StartEvent) -> StopEvent:
        await anyio.sleep(100)
        return StopEvent()


async def test_what_verbose_prints(capsys: pytest.CaptureFixture[str]) -> None:
    await Parts(verbose=True).run()
    assert capsys.readouterr().out.splitlines() == [
        "Running step cut",
        "Step cut produced events Part, Part",
        "Running step drop",
        "Step drop produced no event",
        "Running step drop",
        "Step drop produced no event",
        "Running step end",
        "Step end produced event StopEvent",
    ]


async def test_verbose_prints_failures(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(StepFailed):
        await Failing(verbose=True).run()
    assert capsys.readouterr().out.splitlines() == [
        "Running step work",
        "Step work failed: ValueError('no luck'); trying again in 1.5 s",
        "Running step work",
        "Step work failed: ValueError('no luck')",
    ]


async def test_nothing_is_printed_unless_verbose(capsys: pytest.CaptureFixture[str]) -> None:
    await Parts().run()
    assert capsys.readouterr().out == ""


def said(caplog: pytest.LogCaptureFixture) -> list[tuple[int, str]]:
    return [(one.levelno, one.getMessage()) for one in caplog.records if one.name == "flowkit.runs"]


async def test_what_is_logged_of_a_run(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="flowkit.runs")
    await Parts(instruments=[LoggingInstrument()]).run(run_id="r")
    assert said(caplog) == [
        (logging.INFO, "run r of Parts starts with StartEvent"),
        (logging.INFO, "run r of Parts finished after 0.000 s"),
    ]
    assert {(one.run_id, one.workflow) for one in caplog.records if one.name == "flowkit.runs"} == {("r", "Parts")}  # type: ignore[attr-defined]


async def test_what_is_logged_of_failures(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="flowkit.runs")
    with pytest.raises(StepFailed):
        await Failing(instruments=[LoggingInstrument()]).run(run_id="r")
    retry = "step work (attempt 1) failed and is tried again in 1.5 s after 0.000 s: ValueError: no luck"
    failed = "run r of Failing failed after 1.500 s: StepFailed: Error in step 'work': ValueError: no luck"
    assert said(caplog) == [
        (logging.INFO, "run r of Failing starts with StartEvent"),
        (logging.WARNING, retry),
        (logging.ERROR, "step work (attempt 2) failed for good after 0.000 s: ValueError: no luck"),
        (logging.ERROR, f"{failed} (after 2 attempts)"),
    ]
    of_step: Any = next(one for one in caplog.records if "step work" in one.getMessage())
    assert (of_step.step, of_step.attempt) == ("work", 0)


async def test_what_is_logged_for_debugging(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="flowkit.runs")
    async with make_shop(LoggingInstrument()).run(run_id="r") as handler:
        async for event in handler.stream_events():
            if isinstance(event, Question):
                handler.send_event(Approved(2))
        await handler
    texts = [text for _, text in said(caplog)]
    for expected in (
        "step plan starts with StartEvent",
        "step plan returned events Item, Item, Item after 0.000 s",
        "step work waits for Approved",
        "step work's wait for Approved is over: answered",
        "Approved is sent by somebody outside",
        "Made is shown in the stream by step work",
        "run r of Shop finished after 2.000 s",
        "step gather starts with 3 events",
    ):
        assert texts.count(expected) == 1, expected


async def test_a_logger_and_a_level_of_ones_own(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="mine")
    log = logging.getLogger("mine")
    with pytest.raises(StepFailed):
        await Failing(instruments=[LoggingInstrument(log, level=logging.CRITICAL)]).run()
    assert {one.levelno for one in caplog.records if one.name == "mine"} == {logging.CRITICAL, logging.DEBUG}
    assert said(caplog) == []


async def test_runs_that_are_cancelled_or_suspended_are_no_errors(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="flowkit.runs")
    store = MemoryStore()
    workflow = Slow(instruments=[LoggingInstrument()])
    with anyio.move_on_after(5):
        await workflow.run(store=store, run_id="r")
    handler = workflow.run(store=store, run_id="r")
    async with handler:
        await anyio.sleep(5)
        await handler.cancel_run()
        with pytest.raises(WorkflowCancelledByUser):
            await handler
    first, suspended, again, cancelled = said(caplog)
    assert (first, again) == (
        (logging.INFO, "run r of Slow starts with StartEvent"),
        (logging.INFO, "run r of Slow goes on"),
    )
    assert suspended[0] == cancelled[0] == logging.INFO
    assert suspended[1].startswith(f"run r of Slow suspended after 5.000 s: {RunSuspended.__name__}: ")
    assert cancelled[1].startswith(f"run r of Slow cancelled after 5.000 s: {WorkflowCancelledByUser.__name__}: ")


async def test_an_error_whose_text_can_not_be_told_drops_no_logger(caplog: pytest.LogCaptureFixture) -> None:
    class Secretive(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no text")

    class Again(Workflow):
        @step(retry_policy=ConstantDelayRetryPolicy(maximum_attempts=1, delay=1))
        async def work(self, ctx: Context, ev: StartEvent) -> StopEvent:
            if not ctx.retry_info().attempts:
                raise Secretive
            return StopEvent()

    log = logging.Logger("apart")  # noqa: LOG001 - on all others there are pytest's handlers, which raise
    log.addHandler(logging.StreamHandler(lines := io.StringIO()))
    await Again(instruments=[LoggingInstrument(log)]).run(run_id="r")
    assert lines.getvalue().splitlines()[-1] == "run r of Again finished after 1.000 s"
    assert caplog.text == ""
