"""Evaluation: counts against arithmetic by hand, modes given back, bad input named."""

import math

import pytest
import torch
from torch import Tensor, nn

from pennyweight.data.loader import eval_batches
from pennyweight.errors import DataError, NumericsError, RecipeError
from pennyweight.training import evaluate
from unit.training.jobs import tiny_dataset, tiny_net


def brightness(x: Tensor) -> Tensor:
    level = x.flatten(1).mean(1)
    return torch.stack([-(level - centre).square() for centre in (-1.0, 0.0, 0.8)], dim=1)


def test_a_plain_function_is_counted_right() -> None:
    data = tiny_dataset(37)
    outputs = brightness(data.normalize(data.images))
    expected = outputs.argmax(1)
    result = evaluate(brightness, data, batch_size=10)
    assert result.n == 37
    assert result.predictions.dtype == torch.int64
    assert torch.equal(result.predictions, expected)
    assert result.accuracy == sum(int(p == t) for p, t in zip(expected, data.labels, strict=True)) / 37
    loss = torch.nn.functional.cross_entropy(outputs.double(), data.labels)
    assert result.loss == pytest.approx(float(loss), rel=1e-6)
    assert 0.0 <= result.interval.low <= result.accuracy <= result.interval.high <= 1.0


def test_the_result_does_not_depend_on_the_batch_size() -> None:
    model = tiny_net(norm=True, dropout=0.5)
    one, other = (evaluate(model, tiny_dataset(), batch_size=size) for size in (3, 40))
    assert torch.equal(one.predictions, other.predictions)
    assert one.loss == pytest.approx(other.loss, rel=1e-6)


def test_batches_may_be_given_one_by_one() -> None:
    model, data = tiny_net(), tiny_dataset()
    result = evaluate(model, eval_batches(data, 16))
    assert torch.equal(result.predictions, evaluate(model, data).predictions)


def test_modes_are_given_back_also_after_an_error() -> None:
    model = tiny_net(norm=True, dropout=0.1)
    model[2].eval()
    before = model.state_dict()["2.running_mean"].clone()
    evaluate(model, tiny_dataset())
    with pytest.raises(RecipeError):
        evaluate(model, tiny_dataset(), objective="none such")
    assert [module.training for module in model] == [True, True, False, True, True, True]
    assert torch.equal(model.state_dict()["2.running_mean"], before)


def test_nan_outputs_are_refused() -> None:
    model = tiny_net()
    with torch.no_grad():
        model[4].bias[1] = math.nan
    with pytest.raises(NumericsError, match="40 of 120 outputs of the model are NaN, first at batch 0"):
        evaluate(model, tiny_dataset())
    assert model.training


def test_nothing_to_evaluate_is_refused() -> None:
    with pytest.raises(DataError, match="no samples to evaluate"):
        evaluate(nn.Flatten(), [])
    with pytest.raises(DataError, match="batch_size=0"):
        evaluate(nn.Flatten(), tiny_dataset(), batch_size=0)
