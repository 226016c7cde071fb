"""The program: a group of verbs that are imported when they are used, and what becomes of their errors."""

import importlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import click

from flowkit.command_line.exits import (
    FAILED,
    INTERNAL,
    INTERRUPTED,
    MEANINGS,
    Refused,
    code_of,
    full_traceback,
    line_of,
    one_of,
)
from flowkit.command_line.output import give_up_stdout, say

__all__ = ["Verb", "Verbs", "program"]

_CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 110}


class Verb(click.Command):
    """A verb, whose help states its exit codes.

    ``codes`` are those it can end with: numbers, or numbers with what they mean here.
    """

    def __init__(self, *args: Any, codes: Mapping[int, str | None], **kwargs: Any) -> None:
        kwargs["context_settings"] = {**_CONTEXT, **(kwargs.get("context_settings") or {})}
        super().__init__(*args, **kwargs)
        self.codes = {code: codes[code] or MEANINGS[code] for code in sorted(codes)}

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Exit codes"):
            formatter.write_dl([(str(code), meaning) for code, meaning in self.codes.items()])
        super().format_epilog(ctx, formatter)


class Verbs(click.Group):
    """A group of verbs, each with its line of help and where it is: ``{"run": ("Run it.", "module:name")}``."""

    def __init__(self, *args: Any, verbs: Mapping[str, tuple[str, str]] | None = None, **kwargs: Any) -> None:
        kwargs["context_settings"] = {**_CONTEXT, **(kwargs.get("context_settings") or {})}
        super().__init__(*args, **kwargs)
        self.verbs = dict(verbs or {})

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*self.verbs, *(name for name in self.commands if name not in self.verbs)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.verbs:
            return super().get_command(ctx, cmd_name)
        module, _, name = self.verbs[cmd_name][1].partition(":")
        found: click.Command = getattr(importlib.import_module(module), name)
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows: list[tuple[str, str]] = []
        for name in self.list_commands(ctx):
            if name in self.verbs:
                rows.append((name, self.verbs[name][0]))
            elif (command := self.get_command(ctx, name)) is not None and not command.hidden:
                rows.append((name, command.get_short_help_str(limit=100)))
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if self.get_command(ctx, name) is None and not name.startswith("-") and not ctx.resilient_parsing:
            from flowkit.errors import did_you_mean

            known = self.list_commands(ctx)
            guess = did_you_mean(name, known)
            if guess is None and (":" in name or name.endswith(".py")):
                guess = f"write `{ctx.command_path} run {name}`"
            ctx.fail(f"there is no command {name!r}: {guess or 'there are ' + ', '.join(known)}")
        return super().resolve_command(ctx, args)


class Program(Verbs):
    """The outermost group: it turns whatever its verbs return or raise into an exit code."""

    def main(  # type: ignore[override] # click's is overloaded by standalone_mode
        self, args: Sequence[str] | None = None, prog_name: str | None = None, **extra: Any
    ) -> NoReturn:
        _ = extra.pop("standalone_mode", None)
        try:
            code: Any = super().main(args, prog_name or "flowkit", standalone_mode=False, **extra)
        except click.ClickException as error:
            sys.exit(_misused(error))
        except click.Abort:
            sys.exit(INTERRUPTED)
        sys.exit(code if isinstance(code, int) else 0)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort, SystemExit):
            raise
        except BaseException as error:  # noqa: BLE001 - each becomes an exit code
            return _ended_by(error, bool(ctx.meta.get("flowkit.traceback")))


def _misused(error: click.ClickException) -> int:
    """A mistake in the command line itself."""
    if isinstance(error, getattr(click.exceptions, "NoArgsIsHelpError", ())):  # since click 8.2
        say(error.format_message())
        return error.exit_code
    say(f"Error: {error.format_message()}")
    where = error.ctx if isinstance(error, click.UsageError) else None
    if where is not None:
        say(f"`{where.command_path} --help` shows how it is used.")
    return error.exit_code


def _ended_by(error: BaseException, show_traceback: bool) -> int:
    if isinstance(error, BrokenPipeError):
        give_up_stdout()
        return 0
    error = one_of(error)
    if isinstance(error, KeyboardInterrupt):
        say("\nstopped")
        return INTERRUPTED
    if isinstance(error, SystemExit):
        raise error
    code = code_of(error) if isinstance(error, Exception) else FAILED  # a step's own, such as GeneratorExit
    if code is None or code == INTERNAL:
        import platform
        import traceback

        from flowkit import __version__

        say("".join(traceback.format_exception(error)).rstrip())
        say(f"Error: this is a bug of flowkit ({__version__}, Python {platform.python_version()}): please report it.")
        return INTERNAL
    cause = error.cause if isinstance(error, Refused) else error
    if show_traceback and cause is not None:
        say(full_traceback(cause))
    say(f"Error: {line_of(error)}")
    return code


program = Program(
    "flowkit",
    verbs={
        "run": ("Run a workflow: its progress, its questions, its result.", "flowkit.command_line.run:run"),
        "check": ("Look for faults in a workflow: its wiring, then its runs.", "flowkit.command_line.check:check"),
        "draw": ("Draw a workflow, or a stored run.", "flowkit.command_line.draw:draw"),
        "runs": ("Look at stored runs, and drive them.", "flowkit.command_line.runs:runs"),
        "doctor": ("Tell what is installed, what works, and how a store is.", "flowkit.command_line.doctor:doctor"),
    },
    help="Run, check and draw event-driven workflows, and look after their stored runs.",
    epilog="A workflow is named module:Flow, package.module:Flow or path/to/flow.py:Flow.",
)


def _show_version(ctx: click.Context, parameter: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        from flowkit import __version__

        click.echo(f"flowkit {__version__}")
        ctx.exit()


program.params.append(
    click.Option(
        ["--version"], is_flag=True, is_eager=True, expose_value=False, callback=_show_version, help="Show the version."
    )
)
