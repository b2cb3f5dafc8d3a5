"""A recipe in which nothing is left to a default, and how it is written as YAML. Torch is needed from here on."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import yaml

from pennyweight.data import dataset_options
from pennyweight.recipes.convert import Place, guarded, is_writable
from pennyweight.recipes.schema import ModelSpec, Recipe, builder_of, parse_recipe, to_document_value
from pennyweight.recipes.work import Data
from pennyweight.recipes.yaml_reader import Document, plain_scalar


def resolve(document: Document) -> Recipe:
    """Understand a document, read its data set, and write out what model and data decide.

    Raises:
        RecipeError: the document is no valid recipe, or its data set is missing or damaged.
    """
    recipe = parse_recipe(document)
    place = Place(document)
    source = guarded(lambda: _with_defaults(recipe.data), place / "data")
    sizes = guarded(lambda: _sizes(source), place / "data")

    def fill(model: ModelSpec) -> ModelSpec:
        return _filled(model, sizes, place / "model")

    arms = tuple(dataclasses.replace(arm, model=fill(arm.model)) for arm in recipe.arms)
    return dataclasses.replace(recipe, data=source, model=fill(recipe.model), arms=arms)


def _with_defaults(data: Data) -> Data:
    options = {**dataset_options(data.name), **dict(data.options)}
    return dataclasses.replace(data, options=tuple(options.items()))


def _sizes(data: Data) -> dict[str, Any]:
    """What the data set decides of a model that takes it."""
    if data.is_text:
        return {"vocab_size": len(data.train_text.vocabulary), "max_length": data.context}
    return {"input_shape": data.train.shape, "num_classes": data.train.num_classes}


def _filled(model: ModelSpec, from_data: Mapping[str, Any], place: Place) -> ModelSpec:
    """The data set decides sizes, the recipe's seed the weights; the rest are the model's defaults."""
    options = builder_of(model.name, place).options
    defaults = {
        name: option.default for name, option in options.items() if name != "seed" and is_writable(option.default)
    }
    known = {name: value for name, value in from_data.items() if name in options}
    return dataclasses.replace(model, options={**defaults, **known, **model.options})


class _Dumper(yaml.SafeDumper):
    """Quotes words that our reader would take for something else, and repeats values instead of aliasing them."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _word(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    try:
        is_word = isinstance(plain_scalar(text), str)
    except ValueError:
        is_word = False
    style = "|" if "\n" in text else None if is_word else "'"
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _word)


def to_yaml(recipe: Recipe) -> str:
    """The recipe as YAML; read again, it is the same recipe."""
    return yaml.dump(
        to_document_value(recipe),
        Dumper=_Dumper,
        sort_keys=False,
        default_flow_style=None,
        width=110,
        allow_unicode=True,
    )
