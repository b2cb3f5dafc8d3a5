"""YAML 1.2 values, positions, and everything that must be refused."""

import contextlib
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pennyweight.errors import RecipeError
from pennyweight.recipes.yaml_reader import MAX_BYTES, parse_yaml, plain_scalar, read_yaml

BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{after}: &{after} [{', '.join(['*' + before] * 10)}]\n"
    for before, after in zip("abcdefg", "bcdefgh", strict=True)
)


def value(text: str) -> Any:
    return parse_yaml(text, "x.yaml").value


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1e-4", 1e-4),
        ("3.0E+2", 300.0),
        ("-.5", -0.5),
        ("1.", 1.0),
        ("+12", 12),
        ("0o17", 15),
        ("0x1f", 31),
        ("017", 17),
        ("1_000", "1_000"),
        ("on", "on"),
        ("off", "off"),
        ("yes", "yes"),
        ("no", "no"),
        ("y", "y"),
        ("true", True),
        ("False", False),
        ("tRUE", "tRUE"),
        ("null", None),
        ("~", None),
        ("12:30", "12:30"),
        ("2024-01-01", "2024-01-01"),
        ("1e", "1e"),
        (".inf", math.inf),
        ("-.INF", -math.inf),
        ("'1e-4'", "1e-4"),
        ('"true"', "true"),
        ("١٢", "١٢"),
    ],
)
def test_core_schema(text: str, expected: object) -> None:
    found = value(f"key: {text}")["key"]
    assert found == expected
    assert type(found) is type(expected)


def test_nan() -> None:
    assert math.isnan(value("key: .nan")["key"])


def test_aliases_are_separate_objects() -> None:
    found = value("{a: &x {b: [1]}, c: *x}")
    found["a"]["b"].append(2)
    assert found["c"] == {"b": [1]}


def test_merge_key() -> None:
    found = value(
        "base: &base {lr: 1, steps: 2}\nother: &other {steps: 5, decay: 7}\nuse: {<<: [*base, *other], lr: 3}\n"
    )
    assert found["use"] == {"lr": 3, "steps": 2, "decay": 7}


def test_merges_of_merges() -> None:
    found = value("a: &a {x: 1, y: 1}\nb: &b {<<: *a, y: 2}\nc: {<<: *b, z: 3}\nd: {<<: {<<: *b, x: 9}}\n")
    assert found["c"] == {"x": 1, "y": 2, "z": 3}
    assert found["d"] == {"x": 9, "y": 2}


def test_where_names_line_and_path() -> None:
    document = parse_yaml("arms:\n  float:\n    - train:\n        lr: 1\n", "x.yaml")
    assert document.where(("arms", "float", 0, "train", "lr")) == "x.yaml, line 4: arms.float[0].train.lr"
    assert document.where(("arms", "float", 0, "train", "steps")) == "x.yaml, line 3: arms.float[0].train.steps"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "empty"),
        ("# nothing but a comment\n", "empty"),
        ("a: 1\nb: 2\na: 3\n", r"line 3: key 'a' stands in line 1 already"),
        ("a: {b: 1, b: 2}", "key 'b'"),
        ("a: !!python/object/apply:os.system [ls]", "tag"),
        ("a: !custom 1", "tag '!custom'"),
        ("a: ! 1", "tag"),
        ("a: &x [*x]", "stands inside what it refers to"),
        ("a: &x {<<: *x}", "stands inside what it refers to"),
        ("a: &x {<<: [{b: 1}, {<<: *x}]}", "stands inside what it refers to"),
        ("a: {<<: {b: 1, b: 2}}", "key 'b' stands in line 1 already"),
        ("a: &a {b: 1}\nc: {<<: [" + "*a, " * 20_000 + "]}", "aliases are expanded"),
        (r'a: "\0"', "no file or file name can hold"),
        (r'a: "\ud800"', "no file or file name can hold"),
        ("<<: 1", "takes a mapping"),
        ("8: 1", "key '8' is no word"),
        ("true: 1", "key 'true' is no word"),
        ("? [1]\n: 2", "key a list or mapping is no word"),
        ("a: *missing", "not valid YAML"),
        ("a: [1, 2", "not valid YAML"),
        ("a:\n\t- b", "line 2"),
        ("a: 1\n---\nb: 2", "single document"),
        ("a: \x07", "not valid YAML"),
        ("a: 1e999", "too large"),
        ("a: " + "9" * 5000, "5000 digits"),
        ("[" * 200 + "]" * 200, "nested"),
        (BOMB, "aliases are expanded"),
        ("a: " + "x" * MAX_BYTES, "longer than"),
    ],
)
def test_refused(text: str, words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        parse_yaml(text, "x.yaml")


def test_deep_through_aliases() -> None:
    text = "a0: &a0 [1]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}]\n" for i in range(1, 80))
    with pytest.raises(RecipeError, match="deep"):
        parse_yaml(text, "x.yaml")


def test_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "latin.yaml"
    path.write_bytes(b"name: x\ndescription: caf\xe9\n")
    with pytest.raises(RecipeError, match=r"latin\.yaml, line 2: byte 0xe9 is not UTF-8"):
        read_yaml(path)


def test_bom_is_no_key(tmp_path: Path) -> None:
    path = tmp_path / "bom.yaml"
    path.write_bytes(b"\xef\xbb\xbfname: x\n")
    assert read_yaml(path).value == {"name": "x"}


def test_missing_and_folder_and_huge(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"cannot read recipe .*No such file"):
        read_yaml(tmp_path / "missing.yaml")
    with pytest.raises(RecipeError, match="cannot read recipe"):
        read_yaml(tmp_path)
    huge = tmp_path / "huge.yaml"
    huge.write_bytes(b"#" * (MAX_BYTES + 1))
    with pytest.raises(RecipeError, match="at most"):
        read_yaml(huge)


@given(st.text(alphabet=st.sampled_from("ab:{}[]&*!|>'\"#-?,%@`\n\t 01.e~<\\\u2028é"), max_size=60))
@settings(max_examples=300, deadline=None)
def test_any_text_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(RecipeError):
        parse_yaml(text, "x.yaml")


@given(st.from_regex(r"[-+0-9.eExXoOnafi~]{1,8}", fullmatch=True))
def test_any_word_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(ValueError):
        assert plain_scalar(text) is None or isinstance(plain_scalar(text), bool | int | float | str)
