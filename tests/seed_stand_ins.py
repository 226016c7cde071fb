"""LlamaIndex's types, as far as the blocks of its document use them (see test_seed.py)."""

from types import ModuleType
from typing import Annotated, Any, ClassVar, Optional

import anyio
import anyio.lowlevel

from flowkit import Context, Event, StartEvent, StopEvent, Workflow, step


class CompletionResponse:
    def __init__(self, text: str) -> None:
        self.text = text

    def __str__(self) -> str:
        return self.text


class OpenAI:
    """A model that takes a second to say what it was asked."""

    def __init__(self, model: str = "gpt-3.5-turbo") -> None:
        self.model = model

    async def acomplete(self, prompt: str) -> CompletionResponse:
        await anyio.sleep(1)
        return CompletionResponse(f"<{prompt}>")


class LlamaCloudIndex:
    def as_query_engine(self, llm: OpenAI) -> "LlamaCloudIndex":
        return self

    def query(self, question: str) -> str:
        return f"<{question}>"


class Synthesizer:
    def synthesize(self, query: str, nodes: list[str]) -> str:
        return f"{query} {' '.join(nodes)}"


class ChatMessage:
    def __init__(self, role: str, content: str) -> None:
        self.role, self.content = role, content


class Memory:
    made: ClassVar[list["Memory"]] = []

    def __init__(self) -> None:
        self.messages: list[str] = []

    @classmethod
    def from_defaults(cls, session_id: str, token_limit: int) -> "Memory":
        memory = cls()
        cls.made.append(memory)
        return memory

    async def aput(self, message: ChatMessage) -> None:
        await anyio.lowlevel.checkpoint()
        self.messages.append(message.content)

    def __str__(self) -> str:
        return str(self.messages)


def _module(name: str, **contents: Any) -> ModuleType:
    module = ModuleType(name)
    vars(module).update(contents)
    return module


MODULES = [
    _module("llama_index.core", get_response_synthesizer=Synthesizer),
    _module("llama_index.core.memory", Memory=Memory),
    _module("llama_index.indices.managed.llama_cloud", LlamaCloudIndex=LlamaCloudIndex),
    _module("llama_index.llms.openai", OpenAI=OpenAI),
]

USED_BEFORE_IMPORTED = {
    **{one.__name__: one for one in (Context, Event, StartEvent, StopEvent, Workflow, step)},
    **{one.__name__: one for one in (ChatMessage, CompletionResponse, OpenAI)},
    "Annotated": Annotated,
    "Optional": Optional,
}
"""Names that blocks use without importing them: another block does, or it is left to the reader."""
