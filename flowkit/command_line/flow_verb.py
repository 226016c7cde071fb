"""`FlowVerb`: a verb about one workflow, whose help shows that workflow's fields."""

import click

from flowkit.command_line.exits import Refused
from flowkit.command_line.group import Verb

__all__ = ["FlowVerb"]


class FlowVerb(Verb):
    """A verb whose first argument is a workflow: ``--help`` with one shows its fields, too."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.meta["flowkit.named"] = self._named_in(args)
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            if error.option_name.startswith("--") and any(one.name == "values" for one in self.params):
                field = error.option_name.lstrip("-").replace("-", "_")
                told = f"{error.format_message().rstrip('.')}; fields of the workflow are written {field}=…"
                raise click.UsageError(told, ctx) from None
            raise

    def _named_in(self, args: list[str]) -> str | None:
        """The first argument, which is the workflow: help is shown before arguments are told from options."""
        takes_value = {
            name for one in self.params if isinstance(one, click.Option) and not one.is_flag for name in one.opts
        }
        before = ""
        for argument in args:
            if not argument.startswith("-") and before not in takes_value:
                return argument
            before = argument
        return None

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        super().format_epilog(ctx, formatter)
        named: str | None = ctx.meta.get("flowkit.named")
        if named is None:
            return
        from flowkit.command_line.loading import load
        from flowkit.command_line.values import field_text, fields_of
        from flowkit.workflow import plan_of

        try:
            workflow = load(named)
        except Refused as error:
            formatter.write_paragraph()
            formatter.write_text(f"The fields of {named} can't be shown: {error}")
            return
        kind = plan_of(workflow).start_type
        with formatter.section(f"Fields of {kind.__name__}, which starts {plan_of(workflow).name}"):
            fields = [field_text(field) for field in fields_of(kind)]
            for line in fields or ["any" if kind.__flowkit_open__ else "none"]:
                formatter.write_text(line)
