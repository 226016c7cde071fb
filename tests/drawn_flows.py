"""Workflows to be drawn: between them they have everything that a drawing shows."""

from typing import Annotated

import anyio

from flowkit import (
    Collect,
    Context,
    Event,
    HumanResponseEvent,
    InputRequiredEvent,
    Resource,
    StartEvent,
    StepFailedEvent,
    StopEvent,
    Take,
    Workflow,
    catch_error,
    step,
)
from flowkit.retry_policy import ConstantDelayRetryPolicy

__all__ = ["EVIL", "Answer", "Asking", "Everything", "Failing", "Inner", "Joke", "Loop", "Outer", "Waiting"]

EVIL = "</script><script>document.title='pwned'</script><img src=x onerror=alert(1)>\"'&\x00\x1b\ud800"


class Text(Event):
    text: str
    times: int = 1


class Joke(Workflow):
    @step
    async def write(self, ev: StartEvent) -> Text:
        await anyio.sleep(1)
        return Text(text="a joke")

    @step
    async def judge(self, ev: Text) -> StopEvent:
        await anyio.sleep(2)
        return StopEvent(result="funny")


class Part(Event):
    number: int


class Done(Event):
    number: int


class Database:
    pass


def database() -> Database:
    return Database()


class Inner(Workflow):
    @step
    async def look(self, ev: StartEvent) -> StopEvent:
        await anyio.sleep(1)
        return StopEvent(result=ev.number)


class Outer(Workflow):
    @step
    async def split(self, ev: StartEvent) -> list[Part]:
        return [Part(number=number) for number in range(3)]

    @step(num_workers=2)
    async def work(self, ev: Part, inner: Inner) -> Done:
        return Done(number=await inner.run(number=ev.number))

    @step
    async def join(self, evs: list[Done]) -> StopEvent:
        return StopEvent(result=len(evs))


class Ask(InputRequiredEvent):
    prompt: str


class Answer(HumanResponseEvent):
    text: str


class Asking(Workflow):
    @step
    async def ask(self, ev: StartEvent) -> Ask:
        return Ask(prompt=EVIL)

    @step
    async def hear(self, ev: Answer) -> StopEvent:
        return StopEvent(result=ev.text)


class Waiting(Workflow):
    @step
    async def wait(self, ctx: Context, ev: StartEvent) -> StopEvent:
        answer = await ctx.wait_for_event(Answer, waiter_event=Ask(prompt="well?"), timeout=60)
        await anyio.sleep(1)
        return StopEvent(result=answer.text)


class Failing(Workflow):
    """Fails twice, is tried again, then caught; ``EVIL`` is what it says."""

    @step(retry_policy=ConstantDelayRetryPolicy(maximum_attempts=2, delay=10))
    async def try_it(self, ev: StartEvent) -> StopEvent:
        await anyio.sleep(1)
        raise ValueError(EVIL)

    @catch_error
    async def mend(self, ev: StepFailedEvent) -> StopEvent:
        return StopEvent(result="mended")


class Loop(Workflow):
    @step
    async def begin(self, ev: StartEvent) -> Part:
        return Part(number=ev.times)

    @step
    async def again(self, ev: Part) -> Part | StopEvent:
        return Part(number=ev.number - 1) if ev.number else StopEvent()


class Everything(Workflow):
    @step
    async def split(self, ctx: Context, ev: StartEvent) -> list[Part]:
        return [Part(number=1)]

    @step(num_workers=8, retry_policy=ConstantDelayRetryPolicy(maximum_attempts=3, delay=5), timeout=30, atomic=True)
    async def work(self, ev: Part, inner: Inner, db: Annotated[Database, Resource(database)]) -> Done:
        return Done(number=1)

    @step
    async def join(self, evs: Annotated[list[Done], Collect(Take(2))]) -> Ask | StopEvent:
        return StopEvent()

    @step
    async def hear(self, ev: Answer) -> StopEvent | Part:
        return StopEvent()

    @step
    async def sent(self, ev: Text) -> None:
        pass

    @catch_error(for_steps=["work"])
    async def mend(self, ev: StepFailedEvent) -> Done:
        return Done(number=0)
