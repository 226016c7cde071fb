"""The workloads in other engines, on asyncio: each is imported only if it is installed.

Each peer is written in whichever of its documented forms measured fastest here, is compiled or instantiated
outside the measured time where it allows that, and runs without its own deadlines and tracing:

- llama-index-workflows: the same steps as flowkit's, both forms of fan; `timeout=None`. Its fan is quadratic.
- langgraph: `Command` (half the cost of conditional edges); the fan by `Send`, without a limit on
  concurrency, which is faster there than four workers.
- pydantic-graph: `BaseNode` classes for the loop (a quarter faster than steps and decisions), `.map()` and a
  join for the fan; it has no limit on workers.
- burr: an application per run over a graph built once, since an application is the run's state there. Its
  concurrent fan runs in threads, so that row is left out.

Sizes are smaller than flowkit's (see workloads.py): the cost per unit is the same, the wait is not.
"""

# No postponed annotations here: the classes below are local, so their names can't be looked up later.

import operator
from asyncio import gather as wait_all
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Annotated, Any, TypedDict

from anyio.lowlevel import checkpoint

from benchmarks.measure import Sample
from benchmarks.workloads import STREAM_BATCH, Engine, settle


def installed() -> list[Engine]:
    """The peers that can be imported here, in the table's order."""
    makers: list[tuple[str, Callable[[], list[Engine]]]] = [
        ("workflows", llama),
        ("langgraph", langgraph),
        ("pydantic_graph", pydantic_graph),
        ("burr", burr),
    ]
    return [engine for module, make in makers if find_spec(module) for engine in make()]


def llama() -> list[Engine]:
    from workflows import Context, Workflow, step
    from workflows.events import Event, HumanResponseEvent, InputRequiredEvent, StartEvent, StopEvent

    class Go(StartEvent):
        n: int

    class Ping(Event):
        n: int

    class Pong(Event):
        n: int

    class Item(Event):
        n: int

    class Done(Event):
        n: int

    class Tick(Event):
        n: int

    class Loop(Workflow):
        last = 0

        @step
        async def ping(self, ev: Go | Ping) -> Pong | StopEvent:
            if ev.n >= self.last:
                return StopEvent(result=ev.n)
            return Pong(n=ev.n + 1)

        @step
        async def pong(self, ev: Pong) -> Ping:
            return Ping(n=ev.n + 1)

    class Hello(Workflow):
        @step
        async def greet(self, ev: Go) -> StopEvent:
            return StopEvent(result=ev.n)

    class Fan(Workflow):
        expected: list[type[Event]]

        @step
        async def send(self, ctx: Context, ev: Go) -> Item | None:
            for i in range(ev.n):
                ctx.send_event(Item(n=i))
            return None

        @step(num_workers=4)
        async def work(self, ev: Item) -> Done:
            return Done(n=2 * ev.n)

        @step(num_workers=1)
        async def gather(self, ctx: Context, ev: Done) -> StopEvent | None:
            done = ctx.collect_events(ev, self.expected)
            if done is None:
                return None
            return StopEvent(result=sum(event.n for event in done))

    class ListFan(Workflow):
        @step
        async def send(self, ev: Go) -> list[Item]:
            return [Item(n=i) for i in range(ev.n)]

        @step(num_workers=4)
        async def work(self, ev: Item) -> Done:
            return Done(n=2 * ev.n)

        @step
        async def gather(self, evs: list[Done]) -> StopEvent:
            return StopEvent(result=sum(event.n for event in evs))

    class Ticker(Workflow):
        @step
        async def write(self, ctx: Context, ev: Go) -> StopEvent:
            for i in range(ev.n):
                ctx.write_event_to_stream(Tick(n=i))
                if i % STREAM_BATCH == STREAM_BATCH - 1:
                    await checkpoint()
            return StopEvent(result=ev.n)

    class Ask(Workflow):
        asked = 0

        @step
        async def ask(self, ev: StartEvent) -> InputRequiredEvent:
            self.asked += 1
            return InputRequiredEvent(prefix="Go on?")

        @step
        async def answer(self, ev: HumanResponseEvent) -> StopEvent:
            return StopEvent(result=ev.response)

    def run(flow: Workflow, n: int) -> Sample:
        async def sample() -> int:
            return int(await flow.run(n=n))

        return sample

    def loop(last: int) -> Loop:
        flow = Loop(timeout=None)
        flow.last = last
        return flow

    def fan(n: int) -> Sample:
        flow = Fan(timeout=None)
        flow.expected = [Done] * n
        return run(flow, n)

    def many(runs: int) -> Sample:
        flow = loop(6)

        async def sample() -> int:
            return sum(await wait_all(*(flow.run(n=0) for _ in range(runs))))

        return sample

    def stream(n: int) -> Sample:
        flow = Ticker(timeout=None)

        async def sample() -> int:
            handler, total = flow.run(n=n), 0
            async for event in handler.stream_events():
                if isinstance(event, Tick):
                    total += event.n
            await handler
            return total

        return sample

    async def idle(runs: int, waiting: Callable[[], None]) -> int:
        flow = Ask(timeout=None)
        handlers = [flow.run() for _ in range(runs)]
        await settle(lambda: flow.asked == runs)
        waiting()
        for handler in handlers:
            await handler.send_event(HumanResponseEvent(response=1))
        return sum([await handler for handler in handlers])

    rows = {
        "chain": lambda n: run(loop(2 * n), 0),
        "hello": lambda n: run(Hello(timeout=None), n),
        "fan": fan,
        "many": many,
        "stream": stream,
    }
    lists = {"fan": lambda n: run(ListFan(timeout=None), n)}
    return [
        Engine("llama", rows, imports="workflows", idle=idle, peer=True),
        Engine("llama", lists, variant="list", peer=True),
    ]


def langgraph() -> list[Engine]:
    from langgraph.graph import END, START, StateGraph
    from langgraph.types import Command, Send

    class Counter(TypedDict):
        n: int
        last: int

    class Batch(TypedDict):
        n: int
        done: Annotated[list[int], operator.add]
        total: int

    async def ping(state: Counter) -> Command[str]:
        if state["n"] >= state["last"]:
            return Command(goto=END)
        return Command(goto="pong", update={"n": state["n"] + 1})

    async def pong(state: Counter) -> Command[str]:
        return Command(goto="ping", update={"n": state["n"] + 1})

    async def greet(state: Counter) -> dict[str, int]:
        return {"n": state["last"]}

    def send(state: Batch) -> list[Send]:
        return [Send("work", {"n": i}) for i in range(state["n"])]

    async def work(state: Batch) -> dict[str, list[int]]:
        return {"done": [2 * state["n"]]}

    async def gather(state: Batch) -> dict[str, int]:
        return {"total": sum(state["done"])}

    loops = StateGraph(Counter)
    loops.add_node("ping", ping, destinations=("pong", END))
    loops.add_node("pong", pong, destinations=("ping",))
    loops.add_edge(START, "ping")
    loop = loops.compile()

    greeting = StateGraph(Counter)
    greeting.add_node("greet", greet)
    greeting.add_edge(START, "greet")
    greeting.add_edge("greet", END)
    hello = greeting.compile()

    fans = StateGraph(Batch)
    fans.add_node("work", work)
    fans.add_node("gather", gather)
    fans.add_conditional_edges(START, send, ["work"])
    fans.add_edge("work", "gather")
    fans.add_edge("gather", END)
    fan = fans.compile()

    def run(graph: Any, state: dict[str, int], key: str) -> Sample:
        async def sample() -> int:
            limit = {"recursion_limit": state.get("last", 0) + 10}
            return int((await graph.ainvoke(state, limit))[key])

        return sample

    def many(runs: int) -> Sample:
        one = run(loop, {"n": 0, "last": 6}, "n")

        async def sample() -> int:
            return sum(await wait_all(*(one() for _ in range(runs))))

        return sample

    rows = {
        "chain": lambda n: run(loop, {"n": 0, "last": 2 * n}, "n"),
        "hello": lambda n: run(hello, {"n": 0, "last": n}, "n"),
        "fan": lambda n: run(fan, {"n": n}, "total"),
        "many": many,
    }
    return [Engine("langgraph", rows, imports="langgraph.graph", peer=True)]


def pydantic_graph() -> list[Engine]:
    from pydantic_graph import BaseNode, End, GraphBuilder, GraphRunContext, StepContext, reduce_list_append

    @dataclass
    class Ping(BaseNode[None, None, int]):
        n: int
        last: int

        async def run(self, ctx: GraphRunContext[None, None]) -> "Pong | End[int]":
            return End(self.n) if self.n >= self.last else Pong(self.n + 1, self.last)

    @dataclass
    class Pong(BaseNode[None, None, int]):
        n: int
        last: int

        async def run(self, ctx: GraphRunContext[None, None]) -> Ping:
            return Ping(self.n + 1, self.last)

    @dataclass
    class Greet(BaseNode[None, None, int]):
        n: int

        async def run(self, ctx: GraphRunContext[None, None]) -> End[int]:
            return End(self.n)

    loops = GraphBuilder(input_type=Ping, output_type=int)
    loops.add(loops.node(Ping), loops.node(Pong), loops.edge_from(loops.start_node).to(Ping))
    loop = loops.build()

    greeting = GraphBuilder(input_type=Greet, output_type=int)
    greeting.add(greeting.node(Greet), greeting.edge_from(greeting.start_node).to(Greet))
    hello = greeting.build()

    fans = GraphBuilder(input_type=int, output_type=int)

    @fans.step
    async def send(ctx: StepContext[None, None, int]) -> list[int]:
        return list(range(ctx.inputs))

    @fans.step
    async def work(ctx: StepContext[None, None, int]) -> int:
        return 2 * ctx.inputs

    @fans.step
    async def total(ctx: StepContext[None, None, list[int]]) -> int:
        return sum(ctx.inputs)

    gather = fans.join(reduce_list_append, initial_factory=list[int])
    fans.add(
        fans.edge_from(fans.start_node).to(send),
        fans.edge_from(send).map().to(work),
        fans.edge_from(work).to(gather),
        fans.edge_from(gather).to(total),
        fans.edge_from(total).to(fans.end_node),
    )
    fan = fans.build()

    def run(graph: Any, make: Callable[[], object]) -> Sample:
        async def sample() -> int:
            return int(await graph.run(inputs=make(), infer_name=False))

        return sample

    def many(runs: int) -> Sample:
        one = run(loop, lambda: Ping(0, 6))

        async def sample() -> int:
            return sum(await wait_all(*(one() for _ in range(runs))))

        return sample

    rows = {
        "chain": lambda n: run(loop, lambda: Ping(0, 2 * n)),
        "hello": lambda n: run(hello, lambda: Greet(n)),
        "fan": lambda n: run(fan, lambda: n),
        "many": many,
    }
    return [Engine("pydantic-graph", rows, imports="pydantic_graph", peer=True)]


def burr() -> list[Engine]:
    from burr.core import ApplicationBuilder, Condition, State, action
    from burr.core.graph import Graph, GraphBuilder

    @action(reads=["n"], writes=["n"])
    async def ping(state: State) -> State:
        return state.update(n=state["n"] + 1)

    @action(reads=["n"], writes=["n"])
    async def pong(state: State) -> State:
        return state.update(n=state["n"] + 1)

    @action(reads=["n"], writes=["result"])
    async def stop(state: State) -> State:
        return state.update(result=state["n"])

    ended = Condition.lmda(lambda state: state["n"] >= state["last"], ["n", "last"])
    loop = (
        GraphBuilder()
        .with_actions(ping=ping, pong=pong, stop=stop)
        .with_transitions(("ping", "pong"), ("pong", "stop", ended), ("pong", "ping"))
        .build()
    )
    hello = GraphBuilder().with_actions(stop=stop).with_transitions().build()

    def run(graph: Graph, entry: str, state: dict[str, int]) -> Sample:
        async def sample() -> int:
            builder = ApplicationBuilder().with_graph(graph).with_state(**state).with_entrypoint(entry)
            _, _, end = await builder.build().arun(halt_after=["stop"])
            return int(end["result"])

        return sample

    def many(runs: int) -> Sample:
        one = run(loop, "ping", {"n": 0, "last": 6})

        async def sample() -> int:
            return sum(await wait_all(*(one() for _ in range(runs))))

        return sample

    rows = {
        "chain": lambda n: run(loop, "ping", {"n": 0, "last": 2 * n}),
        "hello": lambda n: run(hello, "stop", {"n": n}),
        "many": many,
    }
    return [Engine("burr", rows, imports="burr.core", peer=True)]
