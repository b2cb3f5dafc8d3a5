"""`pennyweight list`: what there is."""

from collections.abc import Iterable
from enum import StrEnum
from typing import Annotated

import typer


class What(StrEnum):
    """What can be listed."""

    models = "models"
    datasets = "datasets"
    methods = "methods"
    recipes = "recipes"


def list_(
    what: Annotated[What | None, typer.Argument(help="Everything, unless one kind is named.")] = None,
) -> None:
    """List models, data sets, methods and recipes."""
    sources = {
        What.recipes: _recipes,
        What.methods: _methods,
        What.models: _models,
        What.datasets: _datasets,
    }
    for kind in sources if what is None else (what,):
        if what is None:
            print(f"{kind}:")
        for name, text in sources[kind]():
            print(f"  {name:<20} {text}".rstrip())


def _recipes() -> Iterable[tuple[str, str]]:
    from pennyweight.recipes.catalogue import library
    from pennyweight.recipes.yaml_reader import read_yaml

    for name, path in library().items():
        yield name, str(read_yaml(path).value.get("description", ""))


def _methods() -> Iterable[tuple[str, str]]:
    from pennyweight.recipes.stages import public_methods

    for name, method in sorted(public_methods().items()):
        card = method.card()
        yield name, f"{card.text.strip().splitlines()[0]} ({card.paper.year}, arXiv {card.paper.arxiv})"


def _models() -> Iterable[tuple[str, str]]:
    from pennyweight.models import list_models

    return ((name, "") for name in list_models())


def _datasets() -> Iterable[tuple[str, str]]:
    from pennyweight.data import list_datasets

    return ((name, "") for name in list_datasets())
