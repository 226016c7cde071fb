"""The code blocks of the document that flowkit implements, and a page to run them on.

`seed_blocks.md` beside this file holds the document's headings and all its code blocks, in order and
unchanged; its head names the source and its licence. Nobody needs to take that on trust:
`python tests/seed_blocks.py path/to/workflows.md` compares it with the document.

A block runs as it stands, but for the modules in `MOVED`. A `Page` is what a reader has who types one block
after another: a module of their names, with `await` at its top level. What the document leaves to the reader
(the LLM, further events, the arguments behind `...`) is put there by the test.
"""

import ast
import difflib
import inspect
import linecache
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

Test = TypeVar("Test", bound=Callable[..., Any])

MOVED = {
    "llama_index.core.workflow": "flowkit",
    "llama_index.core.workflow.resource": "flowkit.resource",
    "llama_index.core.workflow.retry_policy": "flowkit.retry_policy",
    "llama_index.utils.workflow": "flowkit.drawing",
}
"""Where to import from instead: the only change to a block."""


class Block(NamedTuple):
    """A fenced block: the heading it stands under, its language, its text without the fence's indentation."""

    section: str
    language: str
    text: str


def blocks_in(markdown: str) -> Iterator[Block]:
    """The fenced blocks of a Markdown text, in order."""
    section = ""
    lines = iter(markdown.splitlines())
    for line in lines:
        if fence := re.fullmatch(r"( *)```(\w+)", line):
            indent, language = fence.groups()
            inside = iter(lambda end=f"{indent}```": _until(lines, end), None)
            yield Block(section, language, "".join(f"{one.removeprefix(indent)}\n" for one in inside))
        elif line.startswith("#"):
            section = line.lstrip("#").strip()


def _until(lines: Iterator[str], end: str) -> str | None:
    line = next(lines)
    return None if line == end else line


BLOCKS = list(blocks_in(Path(__file__).with_suffix(".md").read_text(encoding="utf-8")))


def ported(block: Block) -> str:
    """The block's text with flowkit's modules in its import lines."""
    return re.sub(
        r"^from ([\w.]+) import\b",
        lambda line: f"from {MOVED.get(line[1], line[1])} import",
        block.text,
        flags=re.M,
    )


def runs(*numbers: int) -> Callable[[Test], Test]:
    """Says which blocks a test runs."""

    def note(test: Test) -> Test:
        test.runs_blocks = numbers  # type: ignore[attr-defined]
        return test

    return note


class Page:
    """A program made of the document's blocks. `ran` are the indices of those it ran, in order."""

    def __init__(self, **names: Any) -> None:
        self.names: dict[str, Any] = {"__name__": "page", **names}
        self.ran: list[int] = []

    def __getitem__(self, name: str) -> Any:
        return self.names[name]

    def __setitem__(self, name: str, value: Any) -> None:
        self.names[name] = value

    async def run(self, number: int) -> None:
        """Run a block; the first is number 0."""
        await self.execute(ported(BLOCKS[number]), number)

    async def execute(self, text: str, number: int) -> None:
        """Run a text made of a block's."""
        self.ran.append(number)
        file = f"<block {number} of the seed document>"
        linecache.cache[file] = (len(text), None, text.splitlines(keepends=True), file)  # for tracebacks
        code = compile(text, file, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
        running = eval(code, self.names)
        if code.co_flags & inspect.CO_COROUTINE:
            await running

    def fill_dots(self, name: str, **arguments: Any) -> None:
        """Have `Name(...)`, as the document writes it, mean `Name(**arguments)`."""
        complete = self[name]

        def build(dots: Any) -> Any:
            assert dots is ...
            return complete(**arguments)

        self[name] = build


def differences(document: str) -> str:
    """How the blocks of the document differ from those kept here, as a diff; empty where they don't."""
    kept, theirs = (
        [f"{block.section}, {block.language}: {line}" for block in blocks for line in block.text.splitlines()]
        for blocks in (BLOCKS, blocks_in(document))
    )
    return "\n".join(difflib.unified_diff(kept, theirs, "kept here", "the document", lineterm=""))


if __name__ == "__main__":
    sys.exit(differences(Path(sys.argv[1]).read_text(encoding="utf-8")) or None)
