"""`pennyweight report`: the report of a run folder, made again from its JSON."""

from pathlib import Path
from typing import Annotated

import typer


def report(
    folder: Annotated[Path, typer.Argument(help="Folder of a run, such as runs/quickstart.")],
    table: Annotated[bool, typer.Option("--table/--no-table", help="Print the table too.")] = True,
) -> None:
    """Make a run's report again; the last line printed is its path."""
    from pennyweight.recipes.journal import Journal
    from pennyweight.recipes.run import publish
    from pennyweight.recipes.summary import build_report
    from pennyweight.report import print_report

    found = build_report(folder)
    page = publish(found, folder, Journal(None, shown=True))
    if table:
        print_report(found)
    print(page)
