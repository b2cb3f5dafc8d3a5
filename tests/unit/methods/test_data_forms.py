"""Calibration data in every form users have it in give the same result."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import pennyweight as pw
from pennyweight.data import ImageDataset
from pennyweight.errors import MethodError


def digits() -> ImageDataset:
    found = pw.load_dataset("digits")
    assert isinstance(found, ImageDataset)
    return found.subset(range(96))


IMAGES = digits().normalize(digits().images)
LABELS = digits().labels
FORMS: dict[str, Any] = {
    "tensor": IMAGES,
    "batches": list(IMAGES.split(64)),
    "with labels": [(IMAGES, LABELS)],
    "generator": (part for part in IMAGES.split(64)),
    "TensorDataset": TensorDataset(IMAGES, LABELS),
    "DataLoader": DataLoader(TensorDataset(IMAGES, LABELS), batch_size=32),
    "pennyweight's data set": digits(),
}


def net() -> nn.Module:
    torch.manual_seed(0)
    return pw.create_model("mlp", hidden=(16,)).eval()


@pytest.mark.parametrize("name", FORMS)
def test_the_form_of_the_data_says_nothing(name: str) -> None:
    model, expected = net(), net()
    pw.apply_(expected, [pw.RoundToNearest(weights="int4"), pw.BiasCorrection()], data=[IMAGES], reference=net())
    pw.apply_(model, [pw.RoundToNearest(weights="int4"), pw.BiasCorrection()], data=FORMS[name], reference=net())
    for one, other in zip(model.state_dict().values(), expected.state_dict().values(), strict=True):
        torch.testing.assert_close(one, other)


def test_the_preflight_takes_the_same_forms() -> None:
    found = [pw.bns_divergence(net(), data).value for data in (IMAGES, digits(), TensorDataset(IMAGES, LABELS))]
    assert found[0] == pytest.approx(found[1]) == pytest.approx(found[2])


@pytest.mark.parametrize(("data", "message"), [("abc", "is a str"), ([None], "is a NoneType"), (3, "is a int")])
@pytest.mark.usefixtures("unchecked")
def test_what_is_no_data_is_refused(data: Any, message: str) -> None:
    with pytest.raises(MethodError, match=message):
        pw.apply_(net(), pw.RoundToNearest(), data=data)


def test_values_whose_squares_overflow_fail_the_unit_and_not_the_run() -> None:
    applied = pw.apply_(net(), pw.AdaQuant(steps=2, edge_weights=None, edge_activations=None), data=[IMAGES * 1e30])
    assert "leave float32" in next(iter(applied.failed.values()))


def test_a_format_that_reaches_no_layer_is_told() -> None:
    two = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 10))
    note = pw.apply_(two, pw.AdaQuant(weights="int4", steps=2), data=[IMAGES]).metrics["formats_without_layers"]
    edges = "edge_weights='int8' and edge_activations='int8'"
    assert note == f"int4/int8: every layer is a first or last one, as {edges} round them"
