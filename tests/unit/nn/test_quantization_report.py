"""The report's figures against closed forms, and traffic against counting by hand."""

import math

import pytest
import torch
from torch import nn

import pennyweight as pw
from pennyweight.nn.quantization_report import quantization_report, tensor_change
from pennyweight.nn.training_traffic import training_traffic


def sample(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("bits", [4, 6, 8])
def test_the_angle_of_gaussian_tensors_is_predicted(bits: int) -> None:
    """Spec: step = 2 max / (2^M - 1), cosine (1 + step^2 / 12)^-1/2; within a twentieth of the lost angle."""
    x = sample(200_000)
    step = 2 * float(x.abs().max()) / (2**bits - 1)
    found = tensor_change(x, torch.round(x / step) * step)["cosine"]
    assert 1 - found == pytest.approx(1 - 1 / math.sqrt(1 + step**2 / 12), rel=0.05)


def test_the_angle_of_signs_is_the_binary_limit() -> None:
    x = sample(200_000)
    assert tensor_change(x, x.sign())["cosine"] == pytest.approx(math.sqrt(2 / math.pi), abs=2e-3)


def test_shares_are_counted() -> None:
    x = torch.tensor([0.0, 0.1, 1.0, 2.0, -3.0, 1.4])
    found = tensor_change(x, torch.tensor([0.0, 0.0, 1.0, 1.0, -1.0, 1.0]))
    assert found["zero"] == pytest.approx(100 * 2 / 6)
    assert found["underflow"] == pytest.approx(100 / 6)
    assert found["saturated"] == pytest.approx(100 * 2 / 6)
    zeros = torch.zeros(3)
    assert tensor_change(zeros, zeros) == {"saturated": 0.0, "zero": 100.0, "underflow": 0.0, "cosine": 1.0}
    assert tensor_change(zeros[:0], zeros[:0])["cosine"] == 1.0


def test_every_filled_slot_has_a_row_and_the_model_stays() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))
    pw.apply_(model, pw.Int8Training(gradients="int4"))
    model.train()(sample(8, 1, 8, 8))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    rows = quantization_report(model, sample(8, 1, 8, 8, seed=1), lambda y: y.square().sum())
    assert [(row["layer"], row["slot"], row["bits"]) for row in rows] == [
        (layer, slot, bits)
        for layer in ("0", "3")
        for slot, bits in (("weight", 8), ("input", 8), ("grad_output_input", 4))
    ]
    cosines = {(row["layer"], row["slot"]): row["cosine"] for row in rows}
    assert cosines["3", "weight"] > 0.9999  # type: ignore[operator]
    assert 0.9 < cosines["0", "grad_output_input"] < 0.9999  # type: ignore[operator]
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert len(quantization_report(model, sample(8, 1, 8, 8))) == 4


def test_traffic_is_counted_by_hand() -> None:
    model = nn.Sequential(nn.Linear(100, 50))
    plain = training_traffic(model, sample(10, 100))[0]
    x, w, y = 1000, 5000, 500
    assert plain["moved_bytes"] == plain["moved_bytes_float32"] == 4 * 3 * (x + w + y)
    assert plain["saved_bytes"] == 4000
    pw.apply_(model, pw.Int8Training())
    found = training_traffic(model, sample(10, 100))[0]
    forward, to_input, to_weight = x + w + 4 * y, y + w + 4 * x, 4 * y + x + 4 * w
    assert found["moved_bytes"] == forward + to_input + to_weight + y  # the 8-bit copy is written once
    assert found["saved_bytes"] == 1000
    assert found["moved_bytes_float32"] == plain["moved_bytes"]


def test_a_norms_traffic_is_counted_by_hand() -> None:
    model = nn.Sequential(nn.Conv2d(1, 3, 1), nn.BatchNorm2d(3))
    values = 5 * 3 * 4 * 4
    plain = training_traffic(model, sample(5, 1, 4, 4))[1]
    assert plain["layer"] == "1"
    assert plain["saved_bytes"] == plain["saved_bytes_float32"] == 4 * values
    # x twice and y; g and x twice and dx
    assert plain["moved_bytes"] == plain["moved_bytes_float32"] == 4 * (3 + 5) * values
    pw.apply_(model, pw.Int8Training())
    found = training_traffic(model, sample(5, 1, 4, 4))[1]
    assert found["saved_bytes"] == values
    assert found["moved_bytes"] == (2 + 4 + 2 + 2 + 4) * values
    assert found["moved_bytes_float32"] == plain["moved_bytes"]
