"""Write a joke and criticise it: the flow that the LlamaIndex guide begins with, its text shown as it is written::

    python -m flowkit.examples.joke pirates [--backend trio]

Offline a script speaks; a model does where ``OPENAI_BASE_URL`` or ``OPENAI_API_KEY`` is set (and ``OPENAI_MODEL``).
Exit code 0: there is a joke and a critique; 1: the model failed; 2: wrong usage; 130: stopped by Ctrl-C.

How it works::

    Topic ── write ── Joke ── criticise ── Critique
"""

import sys
from collections.abc import Sequence

from flowkit import Context, Event, StartEvent, StopEvent, Workflow, step
from flowkit.examples._chat import RetryWhenAsked
from flowkit.examples._model import Message, Model, Reply, model_of_environment
from flowkit.examples._terminal import parser_of, read_options, run_program, say


class Topic(StartEvent):
    """Starts a run."""

    topic: str


class Joke(Event):
    """There is a joke, to be criticised."""

    text: str


class Critique(StopEvent):
    """Ends a run, and is its result."""

    joke: str
    critique: str


class Begun(Event):
    """Shown: the model begins to write this; again, where it had failed."""

    what: str


class Text(Event):
    """Shown: a piece of what it writes."""

    piece: str


class JokeFlow(Workflow):
    """Writes a joke on a topic, then criticises it."""

    def __init__(self, model: Model | None = None, *, timeout: float | None = 120) -> None:
        super().__init__(timeout=timeout)
        self.model = model or model_of_environment(script)

    @step(retry_policy=RetryWhenAsked())
    async def write(self, ctx: Context, ev: Topic) -> Joke:
        return Joke(await self._ask(ctx, "joke", f"Write your best joke about {ev.topic}."))

    @step(retry_policy=RetryWhenAsked())
    async def criticise(self, ctx: Context, ev: Joke) -> Critique:
        prompt = f"Give a thorough analysis and critique of the following joke: {ev.text}"
        return Critique(ev.text, await self._ask(ctx, "critique", prompt))

    async def _ask(self, ctx: Context, what: str, prompt: str) -> str:
        ctx.write_event_to_stream(Begun(what))
        reply = await self.model.reply(
            [{"role": "user", "content": prompt}], lambda piece: ctx.write_event_to_stream(Text(piece))
        )
        return reply.text


def script(messages: Sequence[Message]) -> Reply:
    """What is said offline."""
    prompt: str = messages[-1]["content"]
    if prompt.startswith("Write your best joke about "):
        topic = prompt.removeprefix("Write your best joke about ").removesuffix(".")
        return Reply(f"Why don't {topic} ever finish a workflow? They wait for an event that nobody sends.")
    return Reply("Setup and punchline are in order. It needs a listener who has waited, too. 7/10.")


async def tell(flow: JokeFlow, topic: str) -> int:
    """Run it, and show what is written as it comes."""
    async with flow.run(topic=topic) as handler:
        async for event in handler.stream_events():
            match event:
                case Begun(what=what):
                    say(f"\n{what}: ", end="")
                case Text(piece=piece):
                    say(piece, end="")
                case _:
                    say("")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = parser_of("joke", "Write a joke and criticise it.")
    parser.add_argument("topic", nargs="?", default="pirates", help="(default: pirates)")
    options = read_options(parser, argv)
    if not options.topic.strip():
        parser.error("the topic is empty")
    flow = JokeFlow(model_of_environment(script, parser.error))
    return run_program(tell, flow, options.topic, backend=options.backend)


if __name__ == "__main__":
    sys.exit(main())
