"""`pennyweight run`: a recipe from file to report."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from pennyweight.cli.exits import INTERRUPTED, PARTIAL_FAILURE, complain, debugging

RecipeArgument = Annotated[str, typer.Argument(help="A YAML file, or the name of a recipe in the library.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="PATH=VALUE", help="Change a value, e.g. arms.*.train.steps=100; repeatable."),
]
FolderOption = Annotated[
    Path | None, typer.Option("--folder", help="Folder of the run; runs/<name of the recipe> by default.")
]


def run(
    recipe: RecipeArgument,
    set_: SetOption = None,
    folder: FolderOption = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Clear the folder first.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything, show the stages, run none.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Show no progress.")] = False,
) -> None:
    """Run a recipe, or go on with it; the last line printed is the report's path.

    Stages a former run has finished are not repeated. Exit code 3: an arm, or a layer of one, failed; the report has
    the rest.
    """
    from pennyweight.recipes.catalogue import find_recipe
    from pennyweight.recipes.overrides import apply_overrides

    settings = tuple(set_ or ())
    document = apply_overrides(find_recipe(recipe), settings)  # a slip in the file shows before torch is imported
    if dry_run:
        from pennyweight.cli.plan_table import show_plan

        show_plan(document, folder)
        return
    from pennyweight.recipes.run import run as run_recipe
    from pennyweight.report import print_report

    try:
        result = run_recipe(
            recipe, folder=folder, settings=settings, fresh=fresh, progress=not quiet, debug=debugging()
        )
    except KeyboardInterrupt as interrupt:
        again = " ".join(a for a in sys.argv[1:] if a != "--fresh")
        detail = f" {interrupt}" if str(interrupt) else ""
        complain(f"stopped{detail}; what is done is kept. To go on: pennyweight {again}", kind="")
        raise typer.Exit(INTERRUPTED) from None
    print_report(result.report)
    sys.stdout.flush()
    for arm, failure in result.failures.items():
        complain(f"arm {arm!r} failed: {failure}")
    for arm, layers in result.failed_layers.items():
        complain(f"arm {arm!r} has layers where a method failed: {layers}")
    print(result.page)
    if result.failures or result.failed_layers:
        raise typer.Exit(PARTIAL_FAILURE)
