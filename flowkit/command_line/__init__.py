"""`flowkit`, the command line. It needs the extra ``cli`` (click, and rich for the live view).

    flowkit run joke:JokeFlow topic=pirates      run a workflow: its progress, its questions, its result
    flowkit check joke:JokeFlow topic=pirates    its wiring, then what must hold of every run
    flowkit draw joke:JokeFlow -o joke.html      draw it, or a stored run of it
    flowkit runs list --store runs.db            stored runs: look at them and drive them
    flowkit doctor                               what is installed, what works, how a store is

Where everything lives, innermost first:

    exits              exit codes, refusals, and what becomes of an error
    output             what is printed: text, JSON, a closed pipe
    group              the program: its verbs, imported when they are used
    options            options that several verbs have, and `[tool.flowkit]` in pyproject.toml
    loading            "module:Flow" and "flow.py:Flow" to a workflow
    typed              a text or JSON to a value of an annotation
    values             "key=value" to the fields of an event
    flow_verb          verbs about one workflow: their help shows its fields
    asking             a question in the terminal to an answer event
    progress           what is shown of a run while it goes on
    driving            one run, from its start to its exit code
    run, check,        the verbs
    draw, doctor, runs

**It starts at once** (under 100 ms): this file imports nothing, `group` only click, and a verb what it needs when it
is run. ``flowkit --help`` imports no verb, and ``flowkit run --help`` no part of the engine.

**Whatever goes wrong** is a clear line on standard error and an exit code (exits.py); standard output has only what was
asked for.
"""

import sys
from collections.abc import Sequence
from typing import NoReturn

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the program `flowkit`; ends the process with its exit code."""
    try:
        _start(arguments)
    except KeyboardInterrupt:  # before the program could see to it
        sys.exit(130)
    raise AssertionError("it has ended the process")


def _start(arguments: Sequence[str] | None) -> None:
    try:
        import click
    except ModuleNotFoundError as error:
        if error.name != "click":
            raise
        problem = 'Error: the command line needs click, which isn\'t installed: pip install "flowkit[cli]"'
        print(problem, file=sys.stderr)  # noqa: T201 - there is no click to print it
        sys.exit(2)
    del click
    from flowkit.command_line.group import program

    program.main(None if arguments is None else list(arguments), prog_name="flowkit")
