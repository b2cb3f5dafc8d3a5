"""Error measures against their definitions in numpy, and their values where a definition divides by zero."""

import math

import numpy as np
import pytest
import torch

from pennyweight.numerics.random import Key, normal
from pennyweight.numerics.statistics import cosine, max_abs_error, mse, quant_report, sqnr_db


def test_against_numpy() -> None:
    x, y = normal((50, 3), Key(0)), normal((50, 3), Key(1)) * 0.1
    a, b = x.double().numpy(), (x + y).double().numpy()
    assert float(mse(x, x + y)) == pytest.approx(np.mean((a - b) ** 2))
    assert float(max_abs_error(x, x + y)) == pytest.approx(np.abs(a - b).max())
    assert float(sqnr_db(x, x + y)) == pytest.approx(10 * np.log10((a**2).sum() / ((a - b) ** 2).sum()))
    assert float(cosine(x, x + y)) == pytest.approx((a * b).sum() / np.linalg.norm(a) / np.linalg.norm(b))


def test_where_definitions_divide_by_zero() -> None:
    x, zero = torch.ones(3), torch.zeros(3)
    assert float(sqnr_db(x, x)) == math.inf
    assert float(sqnr_db(zero, zero)) == math.inf
    assert float(sqnr_db(zero, x)) == -math.inf
    assert float(cosine(zero, zero)) == 1
    assert float(cosine(zero, x)) == 0
    assert float(cosine(x, -x)) == pytest.approx(-1)


def test_empty_tensors() -> None:
    x = torch.zeros(0)
    assert (float(mse(x, x)), float(max_abs_error(x, x)), float(sqnr_db(x, x)), float(cosine(x, x))) == (
        0,
        0,
        math.inf,
        1,
    )
    report = quant_report(x, x, 0.0, 1.0)
    assert (report.saturated, report.zero, report.underflow) == (0, 0, 0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_short_dtypes_do_not_overflow(dtype: torch.dtype) -> None:
    x = torch.tensor([60000.0, -60000.0], dtype=dtype)
    assert float(max_abs_error(x, -x)) == 2 * float(x[0])
    assert math.isfinite(float(mse(x, -x)))


def test_the_angle_to_the_signs_of_a_gaussian() -> None:
    x = normal((200_000,), Key(3))
    assert float(cosine(x, x.sign())) == pytest.approx(math.sqrt(2 / math.pi), abs=1e-3)


def test_report_counts_shares() -> None:
    x = torch.tensor([-3.0, -0.1, 0.0, 0.2, 0.9, 2.0, 5.0, 1.0])
    quantized = torch.tensor([-1.0, 0.0, 0.0, 0.0, 1.0, 2.0, 2.0, 1.0])
    report = quant_report(x, quantized, -1.0, 2.0)
    assert report.saturated == 2 / 8
    assert report.zero == 3 / 8
    assert report.underflow == 2 / 8
    assert report.sqnr_db == float(sqnr_db(x, quantized))
    assert report.cosine == float(cosine(x, quantized))


def test_report_takes_ends_a_channel() -> None:
    x = torch.tensor([[1.0, 3.0], [1.0, 3.0]])
    report = quant_report(x, x, torch.tensor([[0.0], [0.0]]), torch.tensor([[2.0], [4.0]]))
    assert report.saturated == 1 / 4
