import click

from flowkit.command_line.group import Verb
from flowkit.command_line.options import flow_argument


@click.command(cls=Verb, codes={0: None, 1: None})
@flow_argument
def run(flow: str) -> None:
    from flowkit.command_line.loading import load

    click.echo(load(flow))
