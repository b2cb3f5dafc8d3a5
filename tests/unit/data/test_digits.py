"""The embedded digits: contents, split, exact codes."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits as sklearn_digits

from pennyweight.data import load_dataset
from pennyweight.errors import DataError


def test_the_two_parts_are_the_classic_set() -> None:
    train, test = load_dataset("digits"), load_dataset("digits", split="test")
    assert (len(train), len(test), train.shape, train.num_classes) == (1437, 360, (1, 8, 8), 10)
    oracle = sklearn_digits()
    expected = np.concatenate([oracle.images.reshape(-1, 64) * 255 // 16, oracle.target[:, None]], axis=1)
    ours = torch.cat([torch.cat([part.images.flatten(1), part.labels[:, None]], dim=1) for part in (train, test)])
    assert sorted(map(tuple, ours.tolist())) == sorted(map(tuple, expected.astype(int).tolist()))


def test_every_class_gives_a_fifth_to_the_test_part() -> None:
    counts = [torch.bincount(load_dataset("digits", split=split).labels) for split in ("train", "test")]
    assert ((counts[1] / (counts[0] + counts[1]) - 0.2).abs() < 0.01).all()


def test_values_are_exact_8_bit_codes() -> None:
    test = load_dataset("digits", split="test")
    codes = test.normalize(test.images) * 128
    assert codes.equal(codes.round())
    assert codes.min() == -128
    assert codes.max() == 127


def test_the_split_never_changes() -> None:
    labels = load_dataset("digits", split="test").labels
    weights = torch.arange(360)
    assert int((labels * weights).sum()) == 291583


def test_unknown_split_and_option() -> None:
    with pytest.raises(DataError, match="no split 'tests'; did you mean 'test'"):
        load_dataset("digits", split="tests")
    with pytest.raises(DataError, match="no option 'normalisation'; did you mean 'normalization'"):
        load_dataset("digits", normalisation="centered")
