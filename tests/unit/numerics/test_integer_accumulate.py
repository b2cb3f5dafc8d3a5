"""Integer accumulators against Python's integers; weights that cannot overflow them against the worst input."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from oracles import integer_accumulate as oracle
from pennyweight.errors import NumericsError
from pennyweight.numerics.a2q import a2q_bound_, a2q_limit, a2q_scale
from pennyweight.numerics.integer_accumulate import IntAccumulatorSpec, integer_accumulate


def integers(low: int, high: int, *shape: int, seed: int = 0) -> Tensor:
    return torch.randint(low, high, shape, generator=torch.Generator().manual_seed(seed)).float()


@pytest.mark.parametrize("overflow", ["wrap", "saturate"])
@pytest.mark.parametrize("bits", [2, 8, 12, 16, 32])
@pytest.mark.parametrize("k", [0, 1, 33])
def test_it_equals_python(overflow: Any, bits: int, k: int) -> None:
    x, w = integers(-255, 256, 3, k), integers(-128, 128, 5, k, seed=1)
    found = integer_accumulate(x, w, IntAccumulatorSpec(bits=bits, overflow=overflow))
    expected = [[oracle.dot(a, b, bits, overflow) for b in w.int().tolist()] for a in x.int().tolist()]
    assert found.tolist() == expected


@given(
    st.lists(st.tuples(st.integers(-20, 20), st.integers(-20, 20)), min_size=1, max_size=20),
    st.integers(2, 12),
    st.sampled_from(["wrap", "saturate"]),
)
@settings(max_examples=150, deadline=None)
def test_any_codes(pairs: list[tuple[int, int]], bits: int, overflow: Any) -> None:
    xs, ws = ([int(value) for value in values] for values in zip(*pairs, strict=True))
    spec = IntAccumulatorSpec(bits=bits, overflow=overflow)
    found = integer_accumulate(torch.tensor([xs]).float(), torch.tensor([ws]).float(), spec)
    assert int(found) == oracle.dot(xs, ws, bits, overflow)


def test_wrapping_forgets_the_order_and_saturating_does_not() -> None:
    x, w = integers(-100, 100, 4, 40), integers(-100, 100, 3, 40, seed=1)
    for overflow, same in (("wrap", True), ("saturate", False)):
        spec: Any = IntAccumulatorSpec(bits=14, overflow=overflow)  # type: ignore[arg-type]
        turned = integer_accumulate(x.flip(1), w.flip(1), spec)
        assert torch.equal(integer_accumulate(x, w, spec), turned) is same


def test_a_full_block_of_rows_is_like_one_row() -> None:
    x, w = integers(-100, 100, 50, 30), integers(-100, 100, 7, 30, seed=1)
    spec = IntAccumulatorSpec(bits=12, overflow="saturate")
    one_by_one = torch.cat([integer_accumulate(row[None], w, spec) for row in x])
    assert torch.equal(integer_accumulate(x, w, spec), one_by_one)


@pytest.mark.usefixtures("unchecked")
def test_wrong_operands_are_refused() -> None:
    x = integers(-3, 3, 2, 4)
    for bad, message in ((x + 0.5, "x holds values that are no integers"), (x / 0, "x holds values"),
                         (x[:, :2], "K must agree"), (x * 2.0**52, "beyond 2")):  # fmt: skip
        with pytest.raises(NumericsError, match=message):
            integer_accumulate(bad, x, IntAccumulatorSpec())
    for wrong, message in (({"bits": 1}, "bits=1"), ({"bits": 33}, "bits=33"), ({"bits": 8.5}, "bits=8.5"),
                           ({"overflow": "crash"}, "'crash'")):  # fmt: skip
        with pytest.raises(NumericsError, match=message):
            IntAccumulatorSpec(**wrong)  # type: ignore[arg-type]


@given(
    st.lists(st.floats(-300, 300, width=32), min_size=1, max_size=12), st.integers(8, 18), st.integers(1, 8),
    st.booleans(),
)  # fmt: skip
@settings(max_examples=200, deadline=None)
def test_the_worst_input_never_overflows(row: list[float], bits: int, input_bits: int, signed: bool) -> None:
    weight = torch.tensor([row, row[::-1]])
    largest = 2 ** (input_bits - 1) if signed else 2**input_bits - 1
    try:
        limit = a2q_limit(bits, input_bits, signed_input=signed)
    except NumericsError:
        assert 2 ** (bits - 1) - 1 < largest
        return
    found = a2q_bound_(weight.clone(), bits, input_bits, signed_input=signed)
    codes = found.trunc()
    for channel, before in zip(found.tolist(), weight.tolist(), strict=True):
        assert channel == pytest.approx(oracle.onto_l1_ball(before, limit), abs=1e-3)
    for worst in (largest * codes.sign(), -largest * codes.sign()):
        for order in (slice(None), torch.argsort(codes[0])):
            x, w = worst[:1, order], codes[:1, order]
            expected = int((worst[0] * codes[0]).sum())
            assert abs(expected) <= 2 ** (bits - 1) - 1
            for overflow in ("wrap", "saturate"):
                spec = IntAccumulatorSpec(bits=bits, overflow=overflow)  # type: ignore[arg-type]
                assert int(integer_accumulate(x, w, spec)) == expected


def test_the_bound_is_tight() -> None:
    """One more step of one weight, and the worst input overflows."""
    limit = a2q_limit(16, 8, signed_input=False)
    codes = torch.tensor([[float(limit) + 1]])
    assert int(integer_accumulate(torch.tensor([[255.0]]), codes, IntAccumulatorSpec(bits=16))) < 0
    assert int(integer_accumulate(torch.tensor([[255.0]]), codes - 1, IntAccumulatorSpec(bits=16))) == 255 * limit


def test_channels_within_the_bound_stay_and_scales_count() -> None:
    weight = torch.tensor([[1.0, -2.0, 3.0], [300.0, -200.0, 100.0]])
    found = a2q_bound_(weight.clone(), 16, 8)
    assert torch.equal(found[0], weight[0])
    assert float(found[1].abs().sum()) == pytest.approx(128, rel=1e-6)
    scaled = a2q_bound_(0.5 * weight, 16, 8, scale=torch.tensor([0.5, 0.5]))
    torch.testing.assert_close(scaled, 0.5 * found)
    assert a2q_bound_(torch.zeros(2, 0), 16, 8).shape == (2, 0)
    with pytest.raises(NumericsError, match="a weight to bound is not finite"):
        a2q_bound_(torch.tensor([[torch.nan]]), 16, 8)


def test_the_scale_changes_weights_less_than_the_finest_and_the_coarsest() -> None:
    weight = torch.randn(6, 40, generator=torch.Generator().manual_seed(0))
    weight[5] = 0.0

    def error(scale: Tensor, bits: int) -> Tensor:
        bounded = a2q_bound_(weight.clone(), bits, 8, scale=scale)
        return ((bounded / scale[:, None]).trunc() * scale[:, None] - weight).square().sum(1)

    for bits in (12, 14, 16, 24):
        limit = a2q_limit(bits, 8, signed_input=False)
        found = a2q_scale(weight, 127, bits, 8)
        finest = torch.where(weight.abs().amax(1) > 0, weight.abs().amax(1) / 127, 1.0)
        coarsest = torch.maximum(finest, weight.abs().sum(1) / limit)
        assert float(found[5]) == 1.0
        for other in (finest, coarsest, (finest * coarsest).sqrt()):
            assert bool((error(found, bits) <= error(other, bits) * 1.001 + 1e-9).all())
    torch.testing.assert_close(found, finest)  # 24 bits bind nothing
    assert a2q_scale(torch.zeros(2, 0), 127, 16, 8).tolist() == [1.0, 1.0]
