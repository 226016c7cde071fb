"""Retrying a failed step: when, how often, and what takes over when it failed for good."""

import math
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowkit import (
    Context,
    Event,
    InvalidWorkflow,
    StartEvent,
    StepFailed,
    StepFailedEvent,
    StopEvent,
    Workflow,
    WorkflowRuntimeError,
    WorkflowValidationError,
    catch_error,
    step,
)
from flowkit.retry_policy import (
    ConstantDelayRetryPolicy,
    ExponentialBackoffRetryPolicy,
    RetryPolicy,
    retry,
    retry_always,
    retry_if,
    stop_after,
    stop_after_delay,
    stop_never,
    wait_exponential,
    wait_fixed,
    wait_random,
)


class Part(Event):
    n: int


class Sum(Event):
    n: int


async def attempts_of(policy: Any, *errors: Exception) -> list[float]:
    """When the attempts of a step began that raises these errors one after another (the last one for ever)."""
    began: list[float] = []
    workflow = Workflow()

    @step(workflow=workflow, retry_policy=policy)
    async def fail(ev: StartEvent) -> StopEvent:
        began.append(round(anyio.current_time(), 9))
        raise errors[min(len(began), len(errors)) - 1]

    with pytest.raises(StepFailed) as failed:
        await workflow.run()
    assert failed.value.attempts == len(began)
    return began


TIMES: list[tuple[Any, list[float]]] = [
    (ConstantDelayRetryPolicy(maximum_attempts=3, delay=5), [0, 5, 10, 15]),
    (ConstantDelayRetryPolicy(maximum_attempts=2, delay=0), [0, 0, 0]),
    (ConstantDelayRetryPolicy(maximum_attempts=0), [0]),
    (ExponentialBackoffRetryPolicy(maximum_attempts=3, jitter=False), [0, 1, 3, 7]),
    (
        ExponentialBackoffRetryPolicy(4, initial_delay=2, multiplier=3, maximum_delay=10, jitter=False),
        [0, 2, 8, 18, 28],
    ),
    (retry(), [0, 1, 3, 7]),
    (retry(stop=stop_after(2), wait=wait_fixed(4)), [0, 4, 8]),
    (retry(stop=stop_after_delay(9), wait=wait_fixed(4)), [0, 4, 8, 12]),
    (retry(stop=stop_after(5) | stop_after_delay(6), wait=wait_fixed(4)), [0, 4, 8]),
    (retry(stop=stop_after(1) & stop_after_delay(6), wait=wait_fixed(4)), [0, 4, 8]),
    (retry(stop=stop_after(3), wait=wait_exponential(1, 2, 3) + wait_fixed(10)), [0, 11, 23, 36]),
    (retry(retry_if(OSError)), [0]),
    (retry(retry_if(ValueError), stop=stop_after(1)), [0, 1]),
    (retry(retry_if((OSError, ValueError)), stop=stop_after(1)), [0, 1]),
    (retry(retry_if(OSError) | retry_if(lambda error: "busy" in str(error)), stop=stop_after(1)), [0, 1]),
    (retry(retry_if(ValueError) & retry_if(lambda error: "full" in str(error))), [0]),
    (retry(retry_always, stop=stop_never | stop_after(1)), [0, 1]),
]


@pytest.mark.parametrize(("policy", "times"), TIMES, ids=lambda value: repr(value)[:60])
async def test_a_policy_says_exactly_when(policy: Any, times: list[float]) -> None:
    assert isinstance(policy, RetryPolicy)
    assert await attempts_of(policy, ValueError("busy")) == times


async def test_each_error_is_asked_about() -> None:
    policy = retry(retry_if(OSError), stop=stop_never, wait=wait_fixed(1))
    assert await attempts_of(policy, OSError(), ConnectionError(), ValueError()) == [0, 1, 2]


@given(st.integers(0, 10), st.floats(0, 100), st.floats(0, 5), st.floats(0, 100))
def test_waits_stay_within_their_bounds(attempts: int, first: float, factor: float, cap: float) -> None:
    failure = (0.0, attempts, ValueError())
    jittered = ExponentialBackoffRetryPolicy(11, first, factor, cap).next(*failure)
    exact = ExponentialBackoffRetryPolicy(11, first, factor, cap, jitter=False).next(*failure)
    assert exact is not None and jittered is not None
    assert 0 <= jittered <= exact <= cap
    assert exact == wait_exponential(first, factor, cap)(attempts)
    assert 1 <= (wait_random(0, 1) + wait_fixed(1))(attempts) <= 2


def test_an_exponential_wait_never_overflows() -> None:
    assert wait_exponential(1, 1e300, 60)(1000) == 60
    assert ExponentialBackoffRetryPolicy(2000, jitter=False).next(0, 1999, ValueError()) == 60


async def test_a_policy_is_any_object_with_next() -> None:
    asked: list[tuple[float, int, str]] = []

    class OnlyTwice:
        def next(self, elapsed_time: float, attempts: int, error: Exception) -> float | None:
            asked.append((round(elapsed_time, 9), attempts, str(error)))
            return 2.5 if attempts < 2 else None

    assert await attempts_of(OnlyTwice(), ValueError("a"), ValueError("b")) == [0, 2.5, 5]
    assert asked == [(0, 0, "a"), (2.5, 1, "b"), (5, 2, "b")]


async def test_elapsed_time_counts_from_the_first_failure_and_not_from_the_start() -> None:
    class Flow(Workflow):
        @step(retry_policy=retry(stop=stop_after_delay(10), wait=wait_fixed(1)))
        async def slow(self, ctx: Context, ev: StartEvent) -> StopEvent:
            infos.append((ctx.retry_info().attempts, round(ctx.retry_info().elapsed_time, 9)))
            await anyio.sleep(7)
            raise ValueError

    infos: list[tuple[int, float]] = []
    with pytest.raises(StepFailed, match=r"\(after 3 attempts\)"):
        await Flow().run()
    assert infos == [(0, 0), (1, 1), (2, 9)]


async def test_a_plain_step_is_retried_too() -> None:
    class Flow(Workflow):
        attempts = 0

        @step(retry_policy=ConstantDelayRetryPolicy(maximum_attempts=2, delay=5))
        def flaky(self, ctx: Context, ev: StartEvent) -> StopEvent:
            self.attempts += 1
            if self.attempts <= 2:
                raise OSError
            return StopEvent(result=(self.attempts, ctx.retry_info().attempts))

    assert await Flow().run() == (3, 2)
    assert anyio.current_time() == pytest.approx(10)


async def test_a_step_that_times_out_is_retried() -> None:
    class Flow(Workflow):
        @step(timeout=5, retry_policy=ConstantDelayRetryPolicy(maximum_attempts=1, delay=1))
        async def slow(self, ctx: Context, ev: StartEvent) -> StopEvent:
            await anyio.sleep(0 if ctx.retry_info().attempts else 100)
            return StopEvent(result=anyio.current_time())

    assert await Flow().run() == pytest.approx(6)


async def test_a_waiting_retry_occupies_no_worker() -> None:
    class Flow(Workflow):
        @step
        async def fan(self, ev: StartEvent) -> list[Part]:
            return [Part(n) for n in range(4)]

        @step(num_workers=1, retry_policy=ConstantDelayRetryPolicy(maximum_attempts=1, delay=100))
        async def work(self, ctx: Context, ev: Part) -> Sum:
            done.append((ev.n, round(anyio.current_time())))
            await anyio.sleep(1)
            if ev.n == 0 and not ctx.retry_info().attempts:
                raise OSError
            return Sum(ev.n)

        @step
        async def join(self, evs: list[Sum]) -> StopEvent:
            return StopEvent(result=[ev.n for ev in evs])

    done: list[tuple[int, int]] = []
    assert await Flow().run() == [0, 1, 2, 3]
    assert done == [(0, 0), (1, 1), (2, 2), (3, 3), (0, 101)]


async def test_what_a_failed_attempt_sent_is_not_sent_again() -> None:
    class Flow(Workflow):
        @step(retry_policy=ConstantDelayRetryPolicy(maximum_attempts=2, delay=1))
        async def send(self, ctx: Context, ev: StartEvent) -> Part | None:
            for n in range(3):
                ctx.send_event(Part(n))
                if n == ctx.retry_info().attempts:
                    raise OSError
            return None

        @step
        async def gather(self, ctx: Context, ev: Part) -> StopEvent | None:
            got.append(ev.n)
            batch = ctx.collect_events(ev, [Part] * 3)
            return None if batch is None else StopEvent()

    got: list[int] = []
    with pytest.raises(StepFailed):
        await Flow().run()
    assert got == [0, 1]  # and the third attempt fails with the run


async def test_cancelling_a_run_ends_a_waiting_retry() -> None:
    class Flow(Workflow):
        @step(retry_policy=ConstantDelayRetryPolicy(maximum_attempts=1, delay=1000))
        async def fail(self, ev: StartEvent) -> StopEvent:
            raise OSError

    with anyio.move_on_after(5) as scope:
        await Flow().run()
    assert scope.cancelled_caught
    assert anyio.current_time() == pytest.approx(5)


# ------------------------------------------------------------------------------------- policies that go wrong


async def test_a_policy_that_raises_fails_the_step_with_both_errors() -> None:
    class Broken:
        def next(self, elapsed_time: float, attempts: int, error: Exception) -> float | None:
            raise ZeroDivisionError("policy")

    workflow = Workflow()

    @step(workflow=workflow, retry_policy=Broken())
    async def fail(ev: StartEvent) -> StopEvent:
        raise OSError("step")

    with pytest.raises(StepFailed, match="ZeroDivisionError: policy") as failed:
        await workflow.run()
    assert isinstance(failed.value.__cause__, ZeroDivisionError)
    assert isinstance(failed.value.__cause__.__context__, OSError)


@pytest.mark.parametrize("nonsense", [-1, math.nan, math.inf, True, "5", [5]])
async def test_a_policy_that_returns_nonsense_fails_the_step_and_says_so(nonsense: Any) -> None:
    class Broken:
        def next(self, elapsed_time: float, attempts: int, error: Exception) -> float | None:
            return nonsense  # type: ignore[no-any-return]

    workflow = Workflow()

    @step(workflow=workflow, retry_policy=Broken())
    async def fail(ev: StartEvent) -> StopEvent:
        raise OSError("step")

    with pytest.raises(StepFailed, match="the retry policy of step 'fail' gave") as failed:
        await workflow.run()
    assert isinstance(failed.value.__cause__, WorkflowRuntimeError)
    assert isinstance(failed.value.__cause__.__context__, OSError)


@pytest.mark.parametrize(
    "build",
    [
        lambda: ConstantDelayRetryPolicy(maximum_attempts=-1),
        lambda: ConstantDelayRetryPolicy(delay=-1),
        lambda: ConstantDelayRetryPolicy(delay=math.nan),
        lambda: ExponentialBackoffRetryPolicy(maximum_attempts=1.5),  # type: ignore[arg-type]
        lambda: ExponentialBackoffRetryPolicy(multiplier=True),
        lambda: stop_after(-1),
        lambda: stop_after_delay(-1),
        lambda: wait_fixed("5"),  # type: ignore[arg-type]
        lambda: wait_random(2, 1),
        lambda: wait_exponential(maximum=-1),
        lambda: retry_if(5),  # type: ignore[arg-type]
        lambda: retry_if((OSError, 5)),  # type: ignore[arg-type]
        lambda: retry_if(OSError) | stop_after(1),  # type: ignore[operator]
        lambda: wait_fixed(1) + 1,  # type: ignore[operator]
    ],
)
def test_a_policy_checks_its_arguments(build: Any) -> None:
    with pytest.raises((ValueError, TypeError)):
        build()


def test_parts_say_what_they_are() -> None:
    policy = retry(retry_if(OSError), stop=stop_after(5) | stop_after_delay(60), wait=wait_fixed(1) + wait_random())
    assert repr(policy) == (
        "retry(when=retry_if(OSError), stop=(stop_after(5) | stop_after_delay(60)), "
        "wait=wait_fixed(1) + wait_random(0, 1))"
    )


def test_what_is_no_policy_is_refused_where_it_is_given() -> None:
    with pytest.raises(WorkflowValidationError, match=r"next\(elapsed_time, attempts, error\)"):

        @step(retry_policy=3)  # type: ignore[call-overload]
        async def fail(ev: StartEvent) -> StopEvent:
            raise OSError


# ------------------------------------------------------------------------------------------------ catch_error


class Caught(Workflow):
    """Two steps that can fail, one of them retried, and a handler for each."""

    @step
    async def fan(self, ev: StartEvent) -> list[Part]:
        return [Part(n) for n in range(4)]

    @step(retry_policy=ConstantDelayRetryPolicy(maximum_attempts=2, delay=5))
    async def work(self, ev: Part) -> Sum:
        if ev.n % 2:
            raise ValueError(f"part {ev.n}")
        return Sum(ev.n)

    @step
    async def join(self, evs: list[Sum]) -> StopEvent:
        if len(evs) > 4:
            raise AssertionError
        return StopEvent(result=[ev.n for ev in evs])

    @catch_error(for_steps=["work"])
    async def instead(self, ev: StepFailedEvent) -> Sum:
        return Sum(-ev.input_event.n)


async def test_a_handlers_event_takes_its_place_in_the_fan_in() -> None:
    assert await Caught().run() == [0, -1, 2, -3]


async def test_a_handler_is_told_everything() -> None:
    class Flow(Caught):
        @catch_error(for_steps=["work"])
        async def instead(self, ev: StepFailedEvent) -> Sum:
            events.append(ev)
            return Sum(0)

    events: list[StepFailedEvent] = []
    await Flow().run()
    first = min(events, key=lambda ev: ev.input_event.n)
    assert (first.step_name, first.input_event, first.attempts) == ("work", Part(1), 3)
    assert first.elapsed_seconds == pytest.approx(10)
    assert isinstance(first.exception, ValueError)
    assert str(first.exception) == "part 1"


async def test_a_wildcard_handler_takes_what_no_other_names() -> None:
    class Flow(Caught):
        @step
        async def join(self, evs: list[Sum]) -> StopEvent:
            raise OSError("join")

        @catch_error
        async def otherwise(self, ev: StepFailedEvent) -> StopEvent:
            return StopEvent(result=(ev.step_name, str(ev.exception), [sum_.n for sum_ in ev.input_event]))

    assert await Flow().run() == ("join", "join", [0, -1, 2, -3])


async def test_a_handler_that_fails_fails_the_run() -> None:
    class Flow(Caught):
        @catch_error(for_steps=["work"])
        async def instead(self, ev: StepFailedEvent) -> Sum:
            raise OSError("the handler") from ev.exception

    with pytest.raises(StepFailed, match="Error in step 'instead': OSError: the handler") as failed:
        await Flow().run()
    assert isinstance(failed.value.event, StepFailedEvent)


async def test_a_handler_may_return_nothing_and_the_fan_in_goes_on_without_that_member() -> None:
    class Flow(Caught):
        @catch_error(for_steps=["work"])
        async def instead(self, ev: StepFailedEvent) -> None: ...

    assert await Flow().run() == [0, 2]


async def test_a_handler_does_not_see_cancellation() -> None:
    class Flow(Workflow):
        @step
        async def sleep(self, ev: StartEvent) -> StopEvent:
            await anyio.sleep(100)
            return StopEvent()

        @catch_error
        async def never(self, ev: StepFailedEvent) -> StopEvent:
            raise AssertionError

    with anyio.move_on_after(5) as scope:
        await Flow().run()
    assert scope.cancelled_caught


@pytest.mark.parametrize(
    ("for_steps", "text"),
    [
        (["wrok"], "covers 'wrok', but Flow has no such step"),
        (["instead"], "covers 'instead', itself a @catch_error step"),
        (["work"], "covers 'work', but 'instead' does so already"),
    ],
)
def test_handlers_are_checked_with_the_wiring(for_steps: list[str], text: str) -> None:
    class Flow(Caught):
        @catch_error(for_steps=for_steps)
        async def other(self, ev: StepFailedEvent) -> Sum:
            return Sum(0)

    with pytest.raises(InvalidWorkflow, match=text):
        Flow().validate()


def test_one_step_name_is_not_a_list_of_letters() -> None:
    with pytest.raises(WorkflowValidationError, match=r"give a list of step names, for_steps=\['work'\]"):

        @catch_error(for_steps="work")
        async def other(ev: StepFailedEvent) -> StopEvent:
            return StopEvent()
