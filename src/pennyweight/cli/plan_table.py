"""What `run --dry-run` prints: the recipe checked, and its stages with their keys."""

import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from pennyweight.recipes.explain import explain_stages
from pennyweight.recipes.folder import RunFolder
from pennyweight.recipes.plan import distinct, make_plan
from pennyweight.recipes.rehearsal import rehearse
from pennyweight.recipes.resolve import resolve
from pennyweight.recipes.run import default_folder
from pennyweight.recipes.yaml_reader import Document

WIDTH = 140
"""Columns where the output is no terminal."""


def show_plan(document: Document, folder: Path | None) -> None:
    """Check a recipe as far as that goes without running it, and print its stages.

    Raises:
        RecipeError: the recipe is not valid.
    """
    recipe = resolve(document)
    place = RunFolder(folder or default_folder(recipe))
    rehearse(recipe)
    plan = make_plan(recipe)
    table = Table(box=None, pad_edge=False)
    for heading in ("Arm", "Seed", "Stage", "Key", "State"):
        table.add_column(heading, no_wrap=True)
    before: tuple[str, int] | None = None
    for found in explain_stages(plan, place):
        here = (found.arm, found.seed)
        arm, seed = (found.arm, str(found.seed)) if here != before else ("", "")
        before = here
        shared = f"shared with {', '.join(found.shared)}" if found.shared else ""
        state = ", ".join(word for word in ("done" if found.done else "to do", shared) if word)
        table.add_row(*(Text(cell) for cell in (arm, seed, found.title, found.key, state)))
    Console(width=None if sys.stdout.isatty() else WIDTH).print(table)
    todo = sum(place.done(step) is None for step in distinct(plan))
    print(f"The recipe is valid. {todo} stages to do in {place.path}; nothing was run.")
