"""Accumulators of few bits against scalar loops over rationals, and what follows from their definition."""

from fractions import Fraction
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from oracles import accumulate as oracle
from pennyweight.errors import NumericsError
from pennyweight.numerics.accumulate import AccumulatorSpec, accumulate, add_to_odd
from pennyweight.numerics.accumulation_gradients import ESTIMATORS, accumulation_gradients
from pennyweight.numerics.accumulation_rates import accumulation_rates

FORMATS = {
    "M7E4": AccumulatorSpec(),
    "M4E3": AccumulatorSpec(mantissa=4, exponent=3, product_bias=7, sum_bias=6, chunk=5),
    "M3E3 tight": AccumulatorSpec(mantissa=3, exponent=3, product_bias=8, sum_bias=7, chunk=4),
    "M10E5": AccumulatorSpec(mantissa=10, exponent=5, product_bias=20, sum_bias=18),
    "M7E4 no underflow": AccumulatorSpec(underflow=False),
    "M5E4 nearest": AccumulatorSpec(mantissa=5, rounding="nearest_even", chunk=3),
    "chunk of one": AccumulatorSpec(chunk=1),
}


def draw(m: int, k: int, n: int, seed: int = 0, scale: float = 1.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(m, k, generator=generator), torch.randn(n, k, generator=generator)


def expected(x: Tensor, w: Tensor, spec: AccumulatorSpec) -> Tensor:
    return torch.tensor([[scalar(a, b, spec)[0] for b in w.tolist()] for a in x.tolist()]).reshape(len(x), len(w))


def scalar(a: list[float], b: list[float], spec: AccumulatorSpec) -> Any:
    return oracle.dot(
        a, b, spec.mantissa, spec.exponent, spec.product_bias, spec.sum_bias, spec.chunk, spec.underflow,
        spec.rounding == "nearest_even",
    )  # fmt: skip


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("k", [1, 16, 37, 70])
def test_it_equals_scalar_loops_over_rationals(name: str, k: int) -> None:
    for seed, scale in ((0, 1.0), (1, 0.05), (2, 20.0)):
        x, w = draw(3, k, 4, seed, scale)
        assert torch.equal(accumulate(x, w, FORMATS[name]), expected(x, w, FORMATS[name]))


@given(
    st.lists(st.tuples(st.floats(-4, 4, width=32), st.floats(-4, 4, width=32)), min_size=1, max_size=12),
    st.integers(1, 9),
    st.integers(1, 5),
    st.integers(0, 14),
    st.integers(1, 5),
    st.booleans(),
    st.booleans(),
)
@settings(max_examples=150, deadline=None)
def test_any_format(
    pairs: list[tuple[float, float]], m: int, e: int, bias: int, chunk: int, underflow: bool, nearest: bool
) -> None:
    rounding: Any = "nearest_even" if nearest else "toward_zero"
    spec = AccumulatorSpec(
        mantissa=m,
        exponent=e,
        product_bias=bias + 2,
        sum_bias=bias,
        chunk=chunk,
        underflow=underflow,
        rounding=rounding,
    )
    x, w = (torch.tensor([values]) for values in zip(*pairs, strict=True))
    assert torch.equal(accumulate(x, w, spec), expected(x, w, spec))


def test_the_sum_before_rounding_keeps_what_was_cut() -> None:
    one, tiny = torch.tensor([1.0], dtype=torch.float64), torch.tensor([2.0**-90], dtype=torch.float64)
    assert float(add_to_odd(one, -tiny)) == 1 - 2.0**-53
    assert float(add_to_odd(one, tiny)) == 1 + 2.0**-52
    assert float(add_to_odd(one, one)) == 2


def test_a_sum_saturates_and_comes_back_only_by_the_other_sign() -> None:
    spec = AccumulatorSpec(chunk=200)
    x = torch.ones(1, 150)
    assert float(accumulate(x, x, spec)) == spec.largest_sum == 63.75
    back = torch.cat([x, -torch.ones(1, 10)], 1)
    assert float(accumulate(back, torch.ones(1, 160), spec)) == 53.75


def test_the_order_of_k_is_part_of_the_definition_and_that_of_rows_is_not() -> None:
    x, w = draw(5, 64, 6)
    spec = FORMATS["M4E3"]
    y = accumulate(x, w, spec)
    assert torch.equal(accumulate(x.flip(0), w.flip(0), spec), y.flip((0, 1)))
    assert not torch.equal(accumulate(x.flip(1), w.flip(1), spec), y)


def test_one_value_is_what_the_format_holds_and_zeros_are_positive() -> None:
    spec = FORMATS["M4E3"]
    x = torch.tensor([[0.3], [-0.0], [0.0], [1e-9], [-1e-9], [1e9]])
    y = accumulate(x, torch.ones(1, 1), spec)
    assert torch.equal(accumulate(y, torch.ones(1, 1), spec), y)
    assert not torch.signbit(y[1:5]).any()
    assert float(y[5]) == spec.largest_product
    assert accumulate(torch.zeros(2, 0), torch.zeros(3, 0), spec).shape == (2, 3)


@pytest.mark.parametrize("estimator", [name for name in ESTIMATORS if name != "identity"])
@pytest.mark.parametrize("name", ["M3E3 tight", "M4E3"])
def test_gates_equal_brute_force(estimator: Any, name: str) -> None:
    spec = FORMATS[name]
    x, w = draw(3, 11, 2, scale=1.5)
    g = torch.tensor([[1.0, -2.0], [0.5, 3.0], [-1.0, 1.0]])
    grad_x, grad_w = accumulation_gradients(g, x, w, spec, estimator)
    want_x, want_w = torch.zeros_like(x), torch.zeros_like(w)
    shut = 0
    for m in range(3):
        for n in range(2):
            _, inner, outer = scalar(x[m].tolist(), w[n].tolist(), spec)
            for k in range(11):
                if oracle.gate(inner, outer, k, spec.chunk, Fraction(spec.largest_sum), estimator):
                    want_x[m, k] += g[m, n] * w[n, k]
                    want_w[n, k] += g[m, n] * x[m, k]
                else:
                    shut += 1
    assert shut
    torch.testing.assert_close(grad_x, want_x)
    torch.testing.assert_close(grad_w, want_w)


def test_the_identity_is_the_products_gradient() -> None:
    x, w = draw(4, 20, 3)
    g = torch.randn(4, 3)
    grad_x, grad_w = accumulation_gradients(g, x, w, AccumulatorSpec(), "identity")
    torch.testing.assert_close(grad_x, g @ w)
    torch.testing.assert_close(grad_w, g.t() @ x)


def test_rates_equal_a_count() -> None:
    spec = FORMATS["M3E3 tight"]
    x, w = draw(2, 9, 3)
    over = swamped = both = sums = 0
    for a in x.tolist():
        for b in w.tolist():
            _, inner, outer = scalar(a, b, spec)
            for step in (*inner, *outer):
                addend = step["exact"] - step["before"]
                sums += addend != 0
                over += addend != 0 and abs(step["exact"]) > Fraction(spec.largest_sum)
                if addend != 0 and step["before"] != 0:
                    both += 1
                    swamped += step["after"] == step["before"]
    found = accumulation_rates(x, w, spec)
    assert found.overflow == over / sums
    assert found.swamping == swamped / both
    assert found.overflow > 0
    assert accumulation_rates(x * 1e-9, w, spec).product_underflow == 1.0


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"mantissa": 0}, "mantissa=0"), ({"exponent": 7}, "exponent=7"), ({"chunk": 0}, "chunk=0"),
     ({"product_bias": 120}, "product_bias=120"), ({"sum_bias": -99}, "sum_bias=-99"),
     ({"mantissa": 7.0}, "mantissa=7.0"), ({"chunk": 16.5}, "chunk=16.5"), ({"chunk": True}, "chunk=True"),
     ({"sum_bias": 10.5}, "sum_bias=10.5"), ({"underflow": "no"}, "underflow='no'")],
)  # fmt: skip
@pytest.mark.usefixtures("unchecked")
def test_impossible_accumulators_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(NumericsError, match=message):
        AccumulatorSpec(**settings)


@pytest.mark.usefixtures("unchecked")
def test_operands_are_finite_float32_matrices() -> None:
    x, w = draw(2, 3, 2)
    for bad, message in ((x.double(), "torch.float64"), (x / 0, "NaN or infinity"), (x[:, :2], "K must agree")):
        with pytest.raises(NumericsError, match=message):
            accumulate(bad, w, AccumulatorSpec())
    with pytest.raises(NumericsError, match="recursive-diff"):
        accumulation_gradients(torch.ones(2, 2), x, w, AccumulatorSpec(), "recursive-diff")  # type: ignore[arg-type]
