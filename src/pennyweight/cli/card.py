"""`pennyweight card`: what a method is, in its own words."""

import inspect
from typing import Annotated

import typer


def card(name: Annotated[str, typer.Argument(help="A method, as `pennyweight list methods` shows it.")]) -> None:
    """Print a method's card."""
    from pennyweight.errors import MethodError, did_you_mean
    from pennyweight.recipes.stages import public_methods

    known = public_methods()
    if name not in known:
        raise MethodError(f"no method is called {name!r}; {did_you_mean(name, known)}")
    found = known[name].card()
    print(f"{name}\n")
    print(inspect.cleandoc(found.text))
    print(f"\nPaper: {found.paper.title} ({found.paper.year}), https://arxiv.org/abs/{found.paper.arxiv}")
    print(f"Touches: {', '.join(sorted(found.touches))}")
