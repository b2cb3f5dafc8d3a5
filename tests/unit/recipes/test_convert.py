"""Typed values from plain ones: nothing guessed, the place and the expectation named."""

from dataclasses import dataclass
from typing import Any, Literal

import pytest

from pennyweight.errors import FormatError, RecipeError
from pennyweight.recipes.convert import Place, build, convert, describe, to_plain
from pennyweight.recipes.yaml_reader import parse_yaml


@dataclass(frozen=True, kw_only=True)
class Inner:
    width: int
    kind: Literal["wide", "narrow"] = "wide"


@dataclass(frozen=True, kw_only=True)
class Outer:
    lr: float
    sizes: tuple[int, ...] = ()
    pair: tuple[float, float] | None = None
    inner: Inner | None = None
    name: str | None = None
    flag: bool = False

    def __post_init__(self) -> None:
        if self.lr < 0:
            raise FormatError(f"lr={self.lr} is negative")


def made(text: str) -> Outer:
    document = parse_yaml(text, "x.yaml")
    return build(Outer, document.value, Place(document))


def test_values_and_defaults() -> None:
    found = made("{lr: 1, sizes: [2, 3], pair: [0.9, 1], inner: {width: 4, kind: narrow}, flag: true}")
    assert found == Outer(lr=1.0, sizes=(2, 3), pair=(0.9, 1.0), inner=Inner(width=4, kind="narrow"), flag=True)
    assert isinstance(found.lr, float)
    assert made("{lr: 1, name: null}") == Outer(lr=1.0)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{lrr: 1}", r"x.yaml, line 1: lrr: unknown key 'lrr'; did you mean 'lr'\?"),
        ("{}", "'lr' is missing; it takes a number"),
        ("{lr: fast}", r"lr: is 'fast' \(a word\), expected a number"),
        ("{lr: true}", r"lr: is True \(a boolean\), expected a number"),
        ("{lr: null}", "lr: is null, expected a number"),
        ("{lr: 1, sizes: 3}", r"sizes: is 3 \(a whole number\), expected a list of whole numbers"),
        ("{lr: 1, sizes: [1, 2.5]}", r"sizes\[1\]: is 2.5 \(a number\), expected a whole number"),
        ("{lr: 1, pair: [1]}", "pair: is .* expected a list of 2: a number, a number, or null"),
        ("{lr: 1, inner: {width: 1, knd: wide}}", "inner.knd: unknown key 'knd'; did you mean 'kind'"),
        ("{lr: 1, inner: {width: 1, kind: wode}}", "inner.kind: is 'wode' .* did you mean 'wide'"),
        ("{lr: 1, inner: {width: 1, kind: 3}}", "inner.kind: is 3 .* expected one of wide, narrow"),
        ("{lr: 1, inner: 5}", "inner: is 5 .* expected a mapping .* or null"),
        ("{lr: 1, flag: 1}", "flag: is 1 .* expected true or false"),
        ("{lr: 1, flag: on}", "flag: is 'on' .* expected true or false"),
        ("{lr: 1, name: 4}", "name: is 4 .* expected a word, or null"),
        ("{lr: -1}", "x.yaml, line 1: lr=-1.0 is negative"),
        ("[1]", r"is \[1\] \(a list\), expected a mapping"),
    ],
)
def test_refused(text: str, words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        made(text)


@pytest.mark.parametrize(
    ("hint", "value"), [(int, True), (int, 1.0), (float, "1"), (str, 1), (bool, 0), (Literal[1], True)]
)
def test_no_type_is_guessed(hint: Any, value: object) -> None:
    with pytest.raises(RecipeError, match="expected"):
        convert(value, hint, Place(parse_yaml("a: 1", "x.yaml"), ("a",)))


def test_to_plain_and_back() -> None:
    outer = Outer(lr=0.5, sizes=(1,), pair=(0.1, 0.2), inner=Inner(width=3))
    document = parse_yaml("a: 1", "x.yaml")
    assert build(Outer, to_plain(outer), Place(document)) == outer


def test_describe_is_for_people() -> None:
    assert describe(tuple[str, ...]) == "a list of words"
    assert describe(Literal["a", "b"] | None) == "one of a, b, or null"
