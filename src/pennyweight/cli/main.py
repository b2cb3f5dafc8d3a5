"""`pennyweight`: the commands in one application, and what becomes of errors.

Exit codes: 0 all went well, 2 something the user can mend, 3 some arms of a run failed, 130 Ctrl-C.
"""

import sys
from typing import Annotated

import typer

from pennyweight.cli.bench import bench
from pennyweight.cli.card import card
from pennyweight.cli.energy import energy
from pennyweight.cli.exits import debugging, mends_errors
from pennyweight.cli.explain import explain
from pennyweight.cli.info import info
from pennyweight.cli.lba import sweep
from pennyweight.cli.list import list_
from pennyweight.cli.report import report
from pennyweight.cli.run import run

app = typer.Typer(
    name="pennyweight",
    help="Make neural networks cheap to train and to run, and measure honestly what was gained.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@app.callback(invoke_without_command=True)
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[bool, typer.Option("--version", help="Show the version and stop.")] = False,
) -> None:
    """Options before the command; --debug may stand anywhere."""
    if version:
        import pennyweight

        typer.echo(pennyweight.__version__)
        raise typer.Exit
    assert not debug or debugging(), "the flag is read where an error ends up"


for command, name in (
    (run, "run"),
    (explain, "explain"),
    (bench, "bench"),
    (energy, "energy"),
    (report, "report"),
    (list_, "list"),
    (card, "card"),
    (info, "info"),
):
    app.command(name)(mends_errors(command))

lba = typer.Typer(help="Accumulators of few bits.", no_args_is_help=True, rich_markup_mode=None)
lba.command("sweep")(mends_errors(sweep))
lba.callback()(lambda: None)
app.add_typer(lba, name="lba")


def main() -> None:
    """The entry point."""
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    app(["--debug", *arguments] if len(arguments) < len(sys.argv) - 1 else arguments)
