"""The command lines of the examples: their options, their exit codes, and questions to whoever sits there.

Exit codes that all of them have: 1, it failed, with a line that says why; 2, wrong usage; 130, stopped by Ctrl-C.
"""

import argparse
import importlib.util
import os
import sys
import unicodedata
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from flowkit import WorkflowError
from flowkit.keyboard import run_interruptible, typed_line


def parser_of(name: str, description: str, epilog: str | None = None) -> argparse.ArgumentParser:
    """The parser of ``python -m flowkit.examples.NAME``, with ``--backend``."""
    parser = argparse.ArgumentParser(prog=f"python -m flowkit.examples.{name}", description=description, epilog=epilog)
    parser.add_argument("--backend", choices=["asyncio", "trio"], default="asyncio", help="(default: asyncio)")
    return parser


def read_options(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> argparse.Namespace:
    """What the command line says, where its backend is installed."""
    options = parser.parse_args(argv)
    if importlib.util.find_spec(options.backend) is None:
        parser.error(f"{options.backend} is not installed: pip install {options.backend}")
    return options


def run_program(program: Callable[..., Awaitable[int]], *arguments: Any, backend: str) -> int:
    """Run a program to its exit code, whatever becomes of it."""
    try:
        return run_interruptible(program, *arguments, backend=backend)
    except KeyboardInterrupt:
        # By now the run has been cancelled and has cleaned up: no thread, connection or file of it is left.
        print("\nstopped", file=sys.stderr)
        return 130
    except WorkflowError as error:
        print(f"\nfailed: {printable(str(error.__cause__ or error))}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        # Whoever read the output (`| head`) has seen enough. What is still buffered has nowhere to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def say(text: str, end: str = "\n") -> None:
    """Write text at once, with what this terminal can't show replaced."""
    encoding = sys.stdout.encoding or "utf-8"
    print(printable(text).encode(encoding, "replace").decode(encoding), end=end, flush=True)


def printable(text: str) -> str:
    """``text`` without control characters: a file or a model's answer could otherwise steer the terminal."""
    return "".join(
        "\N{REPLACEMENT CHARACTER}" if unicodedata.category(each) == "Cc" and each not in "\n\t" else each
        for each in text
    )


async def read_line(prompt: str) -> str | None:
    """A line that is typed after the prompt, while the event loop goes on; ``None`` at the end of the input (Ctrl-D).

    Cancelling it (Ctrl-C does) takes the question back: no thread stays behind that waits for a key.
    """
    if sys.stdin is None:  # pyright: ignore[reportUnnecessaryComparison] - it was closed before the program began
        say("")
        return None
    line = await typed_line(lambda: say(prompt, end=""))
    if not line:
        say("")
        return None
    return line.decode(sys.stdin.encoding or "utf-8", "replace").strip()
