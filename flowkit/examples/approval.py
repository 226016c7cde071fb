"""Claim an expense: who has to sign is asked at the terminal, now or tomorrow, and what is signed is paid once::

    python -m flowkit.examples.approval ana-7 "train to Ghent" 180 [--later] [--store FILE] [--backend trio]
    python -m flowkit.examples.approval ana-7          # goes on with it, in another process

A claim's run is kept in the store under the claim's name: Ctrl-C, the end of the input, ``kill -9`` and ``--later``
lose no answer that was given, and its name alone goes on with it. Exit code 0: paid; 1: declined, or it failed;
2: wrong usage; 3: it waits for an answer; 130: stopped by Ctrl-C.

How it works::

                       ┌─ NeedsSignature ── sign ── Signed ─┐
    Claim ── examine ──┤                                    ├─ settle ─┬─ Approved ── pay ── Settled
                       └─ NeedsSignature ── sign ── Signed ─┘          └─ Settled

- `examine` returns a list, so all who must sign are asked at once, and `settle` runs once, when the last has signed.
- `sign` is suspended where it asks. After a restart it begins again, but what was answered isn't asked again.
- `pay` may be run again by a crash at the wrong moment; the idempotency key tells the ledger that it was.
"""

import argparse
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

import attrs

from flowkit import (
    Context,
    Event,
    HumanResponseEvent,
    InputRequiredEvent,
    SQLiteStore,
    StartEvent,
    StopEvent,
    Workflow,
    open_runtime,
    step,
)
from flowkit.examples._terminal import parser_of, read_line, read_options, run_program, say

MANAGER_ABOVE, FINANCE_ABOVE = 50.0, 1000.0
"""Euros above which they have to sign."""


class Claim(StartEvent):
    """Starts a run."""

    purpose: str
    amount: float


class NeedsSignature(Event):
    who: str
    text: str


class Question(InputRequiredEvent):
    """Shown: ``who`` is asked for a ``topic``."""

    who: str
    topic: str
    text: str


class Answer(HumanResponseEvent):
    """Sent from outside."""

    who: str
    topic: str
    response: str


class Signed(Event):
    who: str
    objection: str


class Approved(Event): ...


class Settled(StopEvent):
    """Ends a run: paid, unless there are objections."""

    objections: tuple[str, ...] = ()


@attrs.frozen
class Ledger:
    """Payments, a line each."""

    path: Path

    def book(self, key: str, amount: float) -> None:
        """Book it, unless there is a line with this key."""
        with self.path.open("a+", encoding="utf-8") as lines:
            lines.seek(0)
            if not any(line.startswith(f"{key}\t") for line in lines):
                lines.write(f"{key}\t{amount:.2f}\n")


class Approval(Workflow):
    """Has an expense signed, then pays it."""

    def __init__(self, ledger: Ledger = Ledger(Path("claims.ledger"))) -> None:
        super().__init__()
        self.ledger = ledger

    @step
    async def examine(self, ctx: Context, ev: Claim) -> list[NeedsSignature] | Approved:
        await ctx.set("amount", ev.amount)
        limits = {"manager": MANAGER_ABOVE, "finance": FINANCE_ABOVE}
        text = f"{ev.purpose}, {ev.amount:.2f} euros"
        return [NeedsSignature(who, text) for who, limit in limits.items() if ev.amount > limit] or Approved()

    @step
    async def sign(self, ctx: Context, ev: NeedsSignature) -> Signed:
        if await self._ask(ctx, ev.who, "yes or no", ev.text) == "yes":
            return Signed(ev.who, objection="")
        return Signed(ev.who, objection=await self._ask(ctx, ev.who, "reason", "Why not?"))

    async def _ask(self, ctx: Context, who: str, topic: str, text: str) -> str:
        wanted = {"who": who, "topic": topic}
        return (await ctx.wait_for_event(Answer, Question(who, topic, text), requirements=wanted)).response

    @step
    async def settle(self, evs: list[Signed]) -> Approved | Settled:
        objections = tuple(f"{ev.who}: {ev.objection}" for ev in evs if ev.objection)
        return Settled(objections) if objections else Approved()

    @step
    async def pay(self, ctx: Context, ev: Approved) -> Settled:
        self.ledger.book(ctx.idempotency_key, await ctx.get("amount"))
        return Settled()


async def settle(flow: Approval, store: SQLiteStore, claim: str, start: Claim | None, later: bool) -> int:
    """Run it, and have its questions answered."""
    known = store.info(claim) is not None
    if known == (start is not None):
        problem = (
            f"there is a claim {claim} already: give" if known else f"there is no claim {claim} yet: give more than"
        )
        print(f"{problem} its name alone", file=sys.stderr)
        return 2
    async with open_runtime(store=store, workflows=[flow]) as runtime:
        handler = await runtime.run(flow, run_id=claim, start_event=start)
        async for event in handler.stream_events():
            if isinstance(event, Question):
                response = None if later else await answered(event)
                if response is None:
                    say(f"{claim} waits for an answer: give its name alone, today or tomorrow")
                    return 3
                # When this returns, the answer is on disk.
                await runtime.send_event(claim, Answer(who=event.who, topic=event.topic, response=response))
        settled: Settled = await handler
    say("\n".join(("declined", *settled.objections)) if settled.objections else "paid")
    return 1 if settled.objections else 0


async def answered(question: Question) -> str | None:
    """What somebody types, once it is an answer; ``None`` at the end of the input."""
    while (line := await read_line(f"[{question.who}] {question.text} ({question.topic}) ")) is not None:
        if question.topic == "reason" and line:
            return line
        if question.topic != "reason" and line.lower() in ("y", "yes", "n", "no"):
            return "yes" if line.lower().startswith("y") else "no"
    return None


def euros(text: str) -> float:
    amount = float(text)
    if not 0 < amount < 1e9:
        raise argparse.ArgumentTypeError(f"{text} is no amount to claim")
    return amount


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = parser_of("approval", "Claim an expense, and have it signed and paid.")
    parser.add_argument("claim", help="its name; of one that is under way, to go on with it")
    parser.add_argument("purpose", nargs="?")
    parser.add_argument("amount", nargs="?", type=euros, help="in euros")
    parser.add_argument("--later", action="store_true", help="leave the questions for another time")
    parser.add_argument("--store", type=Path, default=Path("claims.db"), help="(default: claims.db)")
    options = read_options(parser, argv)
    if options.purpose is not None and options.amount is None:
        parser.error("a claim has a purpose and an amount")
    start = None if options.purpose is None else Claim(options.purpose, options.amount)
    flow = Approval(Ledger(Path(f"{options.store}.ledger")))
    store = SQLiteStore(options.store)
    return run_program(settle, flow, store, options.claim, start, options.later, backend=options.backend)


if __name__ == "__main__":
    # As itself and not as "__main__": what is stored bears the module's name.
    sys.exit(importlib.import_module("flowkit.examples.approval").main())
