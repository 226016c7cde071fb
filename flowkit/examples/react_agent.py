"""A ReAct agent: it reasons, calls tools, looks at what they say, and goes on until it has the answer::

    python -m flowkit.examples.react_agent ["question"] [--turns N] [--backend trio]

Offline a script plays the model, and knows one question. A model answers where ``OPENAI_BASE_URL`` or
``OPENAI_API_KEY`` is set (and ``OPENAI_MODEL``). Exit code 0: answered; 1: it gave up, or the model failed; 2: wrong
usage; 130: stopped by Ctrl-C.

How it works (S. Yao et al., "ReAct: Synergizing Reasoning and Acting in Language Models", 2022)::

    Ask ── begin ── Turn ── think ─┬─ Act ── act ── Observed ─┬─ observe ── Turn, and so on
                                   ├─ Act ── act ── Observed ─┘
                                   └─ Answer

- `think` returns a list, so the tools of a turn work side by side, in threads; `observe` runs when the last is done.
- What a tool can't do goes to the model as an observation, not up as an error: it may know another way.
- What may pass (429, 5xx, a stream that broke off) is tried again by the retry policy, when the endpoint says.
- A fan-in gets what was fanned out and no more, so the conversation is put by in the run's state. It is made of the
  step's own event: a step that is started again, by a retry or after a crash, writes the same.
"""

import json
import sys
from collections.abc import Sequence

from flowkit import Context, Event, StartEvent, StopEvent, Workflow, step
from flowkit.examples._chat import RetryWhenAsked
from flowkit.examples._model import Message, Model, Tool, ToolCall, model_of_environment
from flowkit.examples._rivers import QUESTION, calculate, river_length, script
from flowkit.examples._terminal import parser_of, read_options, run_program, say

TOOLS: Sequence[Tool] = (river_length, calculate)
INSTRUCTIONS = "Answer in a sentence. Think aloud, briefly, before you call a tool. Never guess what a tool can tell."


class Ask(StartEvent):
    """Starts a run."""

    question: str


class Turn(Event):
    """The model is to go on with the conversation, for the ``number``-th time, from 1."""

    messages: tuple[Message, ...]
    number: int = 1


class Act(Event):
    """A tool is to be called."""

    call: ToolCall


class Observed(Event):
    """What came of it. Shown, too."""

    call: ToolCall
    text: str


class Text(Event):
    """Shown: a piece of what the model says."""

    piece: str


class Answer(StopEvent):
    """Ends a run. Without ``text`` the agent gave up."""

    text: str
    turns: int


class ReActAgent(Workflow):
    """Answers a question with the help of tools, in at most ``turns`` turns."""

    def __init__(self, model: Model | None = None, tools: Sequence[Tool] = TOOLS, *, turns: int = 8) -> None:
        super().__init__()
        self.model = model or model_of_environment(script)
        self.tools = {tool.__name__: tool for tool in tools}
        self.turns = turns

    @step
    async def begin(self, ev: Ask) -> Turn:
        return Turn(({"role": "system", "content": INSTRUCTIONS}, {"role": "user", "content": ev.question}))

    @step(retry_policy=RetryWhenAsked())
    async def think(self, ctx: Context, ev: Turn) -> list[Act] | Answer:
        reply = await self.model.reply(
            ev.messages, lambda piece: ctx.write_event_to_stream(Text(piece)), list(self.tools.values())
        )
        if not reply.calls:
            return Answer(reply.text, ev.number)
        if ev.number == self.turns:
            return Answer("", ev.number)
        await ctx.set("turn", Turn((*ev.messages, reply.as_message()), ev.number + 1))
        return [Act(call) for call in reply.calls]

    @step
    def act(self, ctx: Context, ev: Act) -> Observed:
        """Call a tool, in a thread."""
        observed = Observed(ev.call, called(self.tools, ev.call))
        ctx.write_event_to_stream(observed)
        return observed

    @step
    async def observe(self, ctx: Context, evs: list[Observed]) -> Turn:
        turn: Turn = await ctx.get("turn")
        told = ({"role": "tool", "tool_call_id": ev.call.id, "content": ev.text} for ev in evs)
        return turn.replace(messages=(*turn.messages, *told))


def called(tools: dict[str, Tool], call: ToolCall) -> str:
    """What a tool says; whatever goes wrong is something the model should know."""
    if call.name not in tools:
        return f"error: there is no tool {call.name}, only {', '.join(tools)}"
    try:
        return str(tools[call.name](**json.loads(call.arguments or "{}")))
    except Exception as error:  # noqa: BLE001 - the model wrote the arguments, so anything may come
        return f"error: {type(error).__name__}: {error}"


async def answer(flow: ReActAgent, question: str) -> int:
    """Run it, and show what is said as it comes."""
    async with flow.run(question=question) as handler:
        async for event in handler.stream_events():
            match event:
                case Text(piece=piece):
                    say(piece, end="")
                case Observed(call=call, text=text):
                    say(f"\n  {call.name}({call.arguments}): {text}")
                case Answer(text="", turns=turns):
                    say(f"\ngave up after {turns} turns")
                case _:
                    say("")
        return 0 if (await handler).text else 1


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = parser_of("react_agent", "Answer a question with the help of tools.")
    parser.add_argument("question", nargs="?", default=QUESTION, help=f"(default: {QUESTION})")
    parser.add_argument("--turns", metavar="N", type=int, default=8, help="give up after N turns (default: 8)")
    options = read_options(parser, argv)
    if options.turns < 1:
        parser.error(f"--turns takes a number from 1, but got {options.turns}")
    if not options.question.strip():
        parser.error("the question is empty")
    flow = ReActAgent(model_of_environment(script, parser.error), turns=options.turns)
    return run_program(answer, flow, options.question, backend=options.backend)


if __name__ == "__main__":
    sys.exit(main())
