"""The reader of pickles that executes nothing."""

import os
import pickle
import random
from pathlib import Path

import numpy as np
import pytest

from pennyweight.data.inert_pickle import read_inert_pickle
from pennyweight.errors import DataError

# The first opcodes of a CIFAR batch as Python 2 and its numpy wrote it, with 2 images of 3 pixels.
PYTHON2_BATCH = (
    b"\x80\x02}q\x01(U\x0bbatch_labelq\x02U\x15training batch 1 of 5q\x03U\x06labelsq\x04]q\x05(K\x06K\x09e"
    b"U\x04dataq\x06cnumpy.core.multiarray\n_reconstruct\nq\x07cnumpy\nndarray\nq\x08K\x00\x85U\x01b\x87Rq\x09"
    b"(K\x01K\x02K\x03\x86cnumpy\ndtype\nq\x0aU\x02u1K\x00K\x01\x87Rq\x0b(K\x03U\x01|NNNJ\xff\xff\xff\xff"
    b"J\xff\xff\xff\xffK\x00tb\x89U\x06\x00\x01\x02\xfd\xfe\xfftbU\x09filenamesq\x0c]q\x0d(U\x05a.pngU\x05b.pngeu."
)


def read(tmp_path: Path, program: bytes) -> object:
    path = tmp_path / "batch"
    path.write_bytes(program)
    return read_inert_pickle(path)


def test_reads_a_batch_of_python_2(tmp_path: Path) -> None:
    content = read(tmp_path, PYTHON2_BATCH)
    assert isinstance(content, dict)
    assert content[b"batch_label"] == b"training batch 1 of 5"
    assert content[b"labels"] == [6, 9]
    assert content[b"data"].tolist() == [[0, 1, 2], [253, 254, 255]]
    assert content[b"filenames"] == [b"a.png", b"b.png"]


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("order", ["C", "F"])
def test_agrees_with_pickle_on_what_it_knows(tmp_path: Path, protocol: int, order: str) -> None:
    array = np.asarray(np.arange(12, dtype=np.uint8).reshape(3, 4), order=order)
    value = {"data": array, "labels": [1, 300, 70_000, -1, True, None], b"b": b"\xff\x00", "t": (1, ("a", "ü"), ())}
    got = read(tmp_path, pickle.dumps(value, protocol=protocol))
    assert isinstance(got, dict)
    np.testing.assert_array_equal(got.pop("data"), value.pop("data"))
    assert got == value


class Hostile:
    def __init__(self, function: object, *arguments: object) -> None:
        self.reduction = (function, arguments)

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return self.reduction


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_a_hostile_pickle_is_refused_and_not_executed(tmp_path: Path, protocol: int) -> None:
    sentinel = tmp_path / "executed"
    program = pickle.dumps({"data": Hostile(os.system, f"touch {sentinel}")}, protocol=protocol)
    with pytest.raises(DataError, match="nothing was executed"):
        read(tmp_path, program)
    assert not sentinel.exists()
    pickle.loads(program)  # the file is real: what we refuse would have run
    assert sentinel.exists()


def test_the_refusal_names_what_was_asked_for(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"'posix\.system'"):
        read(tmp_path, pickle.dumps(Hostile(os.system, "true"), protocol=2))


@pytest.mark.parametrize(
    "value",
    [
        {"x": 1.5},
        {1, 2},
        np.arange(3),
        np.zeros(2, dtype=object),
        np.zeros(2, dtype="u1,u1"),
        np.uint8(3),
        Path("x"),
        print,
    ],
    ids=str,
)
def test_other_values_are_refused(tmp_path: Path, value: object) -> None:
    with pytest.raises(DataError):
        read(tmp_path, pickle.dumps(value, protocol=2))


@pytest.mark.parametrize(
    "program",
    [
        b"",
        b"not a pickle",
        b"\x80\x02.",
        b"\x80\x02K\x01K\x02.",
        b"\x80\x02}K\x01a.",
        b"\x80\x02](K\x01",
        b"\x80\x02}q\x01h\x05.",
        b"\x80\x02cnumpy\nndarray\n.",
        b"\x80\x02K\x01K\x02R.",
        b"\x80\x02}]K\x01s.",  # a list as a key
        b"\x80\x02}))\x86K\x01s.",  # a tuple as a key
        b"\x80\x02](e(.",  # a bare mark
        b"\x80\x02cnumpy\ndtype\nU\x02u1\x85R.",
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R.",
    ],
)
def test_malformed_programs_are_data_errors(tmp_path: Path, program: bytes) -> None:
    with pytest.raises(DataError):
        read(tmp_path, program)


def test_fuzz_only_ever_raises_data_errors(tmp_path: Path) -> None:
    draw = random.Random(0)
    for _ in range(500):
        program = bytearray(PYTHON2_BATCH)
        for _ in range(draw.randrange(1, 4)):
            program[draw.randrange(len(program))] = draw.randrange(256)
        if draw.random() < 0.3:
            del program[draw.randrange(len(program)) :]
        try:
            read(tmp_path, bytes(program))
        except DataError:
            continue


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        read_inert_pickle(tmp_path / "absent")
