"""Layers and attention whose sums run in few bits: values against scalar loops, gradients against brute force."""

from fractions import Fraction
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oracles import accumulate as oracle
from oracles import convolution
from pennyweight import ops
from pennyweight.errors import MethodError, NumericsError
from pennyweight.nn.accumulators import accumulator_rates, accumulators, set_underflow_
from pennyweight.nn.gemm import GemmConv1d, GemmConv2d, GemmConv3d, GemmLinear
from pennyweight.nn.slots.low_bit_accumulator import LowBitAccumulator
from pennyweight.nn.slots.measured import MeasuredGradient
from pennyweight.nn.summed_product import SummedProduct
from pennyweight.numerics.accumulate import AccumulatorSpec, accumulate
from pennyweight.numerics.accumulation_gradients import ESTIMATORS
from pennyweight.numerics.accumulation_rates import RateCounter
from pennyweight.numerics.formats import IntFormat
from pennyweight.numerics.random import Key

TIGHT = AccumulatorSpec(mantissa=3, exponent=3, product_bias=7, sum_bias=6, chunk=4)


def scalar(a: list[float], b: list[float], spec: AccumulatorSpec = TIGHT) -> Any:
    return oracle.dot(a, b, spec.mantissa, spec.exponent, spec.product_bias, spec.sum_bias, spec.chunk)


def summed(layer: Any, spec: AccumulatorSpec = TIGHT, estimator: Any = "identity") -> Any:
    layer.slots.fill("accumulator", LowBitAccumulator(spec, estimator))
    return layer


CONVOLUTIONS = [
    {"stride": 1, "padding": 1},
    {"stride": (2, 1), "padding": (0, 2), "dilation": (1, 2)},
    {"groups": 2, "padding": 1},
    {"groups": 4, "dilation": 2, "padding": 2, "bias": True},
]


@pytest.mark.parametrize("settings", CONVOLUTIONS)
def test_a_convolution_sums_channel_row_column(settings: dict[str, Any]) -> None:
    torch.manual_seed(0)
    layer = summed(GemmConv2d(4, 4, (3, 2), **{"bias": False, **settings}))
    x = torch.randn(2, 4, 5, 4)
    y = layer(x)
    expected = torch.zeros_like(y)
    places = (layer.stride, layer.padding, layer.dilation, layer.groups)
    for index, seen, weights in convolution.pairs(x, layer.weight, *places):
        expected[index] = scalar(seen, weights)[0]
    if layer.bias is not None:
        expected += layer.bias[:, None, None]
    assert torch.equal(y, expected)


def test_a_convolution_of_one_dimension_is_one_of_two() -> None:
    torch.manual_seed(0)
    flat = summed(GemmConv1d(4, 6, 3, stride=2, padding=1, dilation=2, groups=2))
    plane = summed(GemmConv2d(4, 6, (1, 3), stride=(1, 2), padding=(0, 1), dilation=(1, 2), groups=2))
    plane.load_state_dict({"weight": flat.weight[:, :, None], "bias": flat.bias})
    x = torch.randn(3, 4, 9)
    assert torch.equal(flat(x), plane(x[:, :, None])[:, :, 0])
    assert torch.equal(flat(x[0]), flat(x)[0])  # without a batch


@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
@pytest.mark.parametrize("padding", [1, "same"])
def test_padding_comes_before_the_sum(mode: Any, padding: Any) -> None:
    torch.manual_seed(0)
    layer = summed(GemmConv2d(2, 3, 3, padding=padding, padding_mode=mode, bias=False))
    x = torch.randn(1, 2, 5, 5)
    padded = F.pad(x, (1, 1, 1, 1), mode="constant" if mode == "zeros" else mode)
    bare = summed(GemmConv2d(2, 3, 3, bias=False))
    bare.load_state_dict(layer.state_dict())
    assert torch.equal(layer(x), bare(padded))


def test_linear_layers_take_any_leading_sizes() -> None:
    torch.manual_seed(0)
    layer = summed(GemmLinear(7, 5))
    x = torch.randn(2, 3, 7)
    expected = accumulate(x.reshape(6, 7), layer.weight, TIGHT).reshape(2, 3, 5) + layer.bias
    assert torch.equal(layer(x), expected)
    assert torch.equal(layer(x[0, 0]), expected[0, 0])
    assert layer(x[:0]).shape == (0, 3, 5)
    conv = summed(GemmConv2d(2, 3, 3, groups=1))
    assert conv(torch.zeros(0, 2, 5, 5)).shape == (0, 3, 3, 3)


@pytest.mark.parametrize("estimator", [name for name in ESTIMATORS if name != "identity"])
@pytest.mark.parametrize("kind", ["linear", "conv"])
def test_gradients_through_layers_equal_brute_force(estimator: Any, kind: str) -> None:
    torch.manual_seed(0)
    if kind == "linear":
        layer: Any = summed(GemmLinear(8, 3, bias=False), estimator=estimator)
        x = (3 * torch.randn(2, 8)).requires_grad_()
    else:
        layer = summed(GemmConv2d(4, 2, 2, padding=1, groups=2, bias=False), estimator=estimator)  # 8 products a sum
        x = (3 * torch.randn(2, 4, 2, 2)).requires_grad_()
    with torch.no_grad():
        layer.weight.mul_(3)
    y = layer(x)
    g = torch.randn(y.shape)
    y.backward(g)
    rows: list[tuple[Any, list[Any], list[Any]]] = []
    if kind == "linear":
        rows = [((m, n), [(m, k) for k in range(8)], [(n, k) for k in range(8)]) for m in range(2) for n in range(3)]
        wide = x.detach()
    else:
        wide = F.pad(x.detach(), (1, 1, 1, 1))
        for n in range(2):
            for f in range(2):
                for top in range(3):
                    for left in range(3):
                        taps = [(c, i, j) for c in range(2) for i in range(2) for j in range(2)]
                        seen = [(n, 2 * f + c, top + i, left + j) for c, i, j in taps]
                        rows.append(((n, f, top, left), seen, [(f, c, i, j) for c, i, j in taps]))
    weight = layer.weight.detach()
    grad_x, grad_weight, shut = torch.zeros_like(wide), torch.zeros_like(weight), 0
    for out, xs, ws in rows:
        _, inner, outer = scalar([float(wide[at]) for at in xs], [float(weight[at]) for at in ws])
        for k, (a, b) in enumerate(zip(xs, ws, strict=True)):
            if oracle.gate(inner, outer, k, TIGHT.chunk, Fraction(TIGHT.largest_sum), estimator):
                grad_x[a] += g[out] * weight[b]
                grad_weight[b] += g[out] * wide[a]
            else:
                shut += 1
    assert shut
    assert x.grad is not None
    torch.testing.assert_close(x.grad, grad_x if kind == "linear" else grad_x[:, :, 1:-1, 1:-1])
    torch.testing.assert_close(layer.weight.grad, grad_weight)


def gradients(layer: nn.Module, x: Tensor) -> list[Tensor]:
    x = x.clone().requires_grad_()
    y = layer(x)
    y.backward(torch.linspace(-1, 1, y.numel()).reshape(y.shape))
    assert x.grad is not None
    return [x.grad, *(p.grad for p in layer.parameters() if p.grad is not None)]


@pytest.mark.parametrize("make", [lambda: GemmLinear(9, 4), lambda: GemmConv2d(4, 6, 3, padding=1, groups=2)])
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_the_identity_and_gates_that_stay_open_give_the_products_gradients(make: Any, estimator: Any) -> None:
    torch.manual_seed(0)
    wide = AccumulatorSpec(mantissa=22, exponent=6, product_bias=40, sum_bias=40)
    plain, ours = make(), summed(make(), wide, estimator)
    ours.load_state_dict(plain.state_dict())
    x = torch.randn(3, 4, 5, 5) if isinstance(plain, nn.Conv2d) else torch.randn(5, 9)
    for a, b in zip(gradients(plain, x), gradients(ours, x), strict=True):
        torch.testing.assert_close(a, b)


def test_a_first_layer_needs_no_gradient_of_its_input_and_a_frozen_one_none_of_its_weight() -> None:
    torch.manual_seed(0)
    both, x = summed(GemmLinear(6, 2), estimator="recursive-of"), torch.randn(4, 6)
    grad_x, grad_weight, _ = gradients(both, x)
    both.zero_grad()
    both(x).backward(torch.linspace(-1, 1, 8).reshape(4, 2))
    assert torch.equal(both.weight.grad, grad_weight)
    both.weight.requires_grad_(False)
    both.zero_grad()
    assert torch.equal(gradients(both, x)[0], grad_x)


def test_gates_meet_the_gradient_each_slot_made() -> None:
    """Bifurcated gradients and gated sums on one layer: each product takes its own version, gated alike."""
    torch.manual_seed(0)
    layer = summed(GemmLinear(6, 5, bias=False), estimator="recursive-of")
    layer.slots.fill("grad_output_input", MeasuredGradient(IntFormat(4, signed=True), "stochastic", Key(0)))
    x, g = 2 * torch.randn(4, 6), torch.randn(4, 5)
    x.requires_grad_()
    layer(x).backward(g)
    assert x.grad is not None
    plain = summed(GemmLinear(6, 5, bias=False), estimator="recursive-of")
    plain.load_state_dict({"weight": layer.weight})
    again = x.detach().clone().requires_grad_()
    rounded = MeasuredGradient(IntFormat(4, signed=True), "stochastic", Key(0))(g)
    plain(again).backward(rounded)
    assert torch.equal(x.grad, again.grad)  # type: ignore[arg-type]
    plain.zero_grad()
    plain(x.detach()).backward(g)
    assert torch.equal(layer.weight.grad, plain.weight.grad)


def test_products_of_activations_are_summed_head_by_head() -> None:
    torch.manual_seed(0)
    product, left, right = SummedProduct(), torch.randn(2, 3, 4, 6), torch.randn(3, 6, 5)
    assert torch.equal(product(left, right), left @ right)
    product.accumulator = LowBitAccumulator(TIGHT)
    y = product(left, right)
    for sample in range(2):
        for head in range(3):
            expected = accumulate(left[sample, head], right[head].t().contiguous(), TIGHT)
            assert torch.equal(y[sample, head], expected)
    assert torch.equal(product(left[0, 0, 0], right[0]), y[0, 0, 0])
    assert torch.equal(product(left, right[0, :, 0]), product(left, right[0, :, :1])[..., 0])
    assert float(product(left[0, 0, 0], right[0, :, 0])) == float(y[0, 0, 0, 0])
    assert product(left[:0], right).shape == (0, 3, 4, 5)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_gradients_of_products_of_activations(estimator: Any) -> None:
    torch.manual_seed(0)
    left, right = torch.randn(2, 3, 4, 6), torch.randn(3, 6, 5)
    found = []
    for content in (None, LowBitAccumulator(AccumulatorSpec(mantissa=22, exponent=6, product_bias=40, sum_bias=40),
                                            estimator)):  # fmt: skip
        product = SummedProduct()
        product.accumulator = content
        leaves = left.clone().requires_grad_(), right.clone().requires_grad_()
        product(*leaves).square().sum().backward()
        found.append([leaf.grad for leaf in leaves])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b)


def test_neither_threads_nor_the_split_of_a_batch_change_a_bit() -> None:
    torch.manual_seed(0)
    layer = summed(GemmConv2d(8, 24, 3, padding=1), AccumulatorSpec())
    x = torch.randn(12, 8, 9, 9)
    expected = layer(x)
    before = ops.num_threads()
    try:
        ops.set_num_threads(2)
        assert torch.equal(layer(x), expected)
    finally:
        ops.set_num_threads(before)
    assert torch.equal(torch.cat([layer(part) for part in x.split([1, 4, 7])]), expected)


def test_three_dimensions_are_refused() -> None:
    with pytest.raises(MethodError, match="three dimensions"):
        summed(GemmConv3d(1, 1, 2))(torch.zeros(1, 1, 3, 3, 3))


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_what_is_not_finite_is_refused(bad: float) -> None:
    layer = summed(GemmLinear(3, 2))
    with pytest.raises(NumericsError, match="x holds NaN or infinity"):
        layer(torch.tensor([[1.0, bad, 0.0]]))
    with torch.no_grad():
        layer.weight[0, 0] = bad
    with pytest.raises(NumericsError, match="weight holds NaN or infinity"):
        layer(torch.ones(1, 3))


def test_rates_of_a_grouped_convolution_count_all_groups() -> None:
    torch.manual_seed(0)
    layer = summed(GemmConv2d(4, 4, 3, groups=2, bias=False))
    with torch.no_grad():
        layer.weight[:2] = 0  # the first group loses nothing
        layer.weight[2:] *= 20
    x = torch.randn(2, 4, 5, 5)
    model = nn.Sequential(layer)
    counter = RateCounter(TIGHT)
    columns = F.unfold(x, 3).transpose(1, 2).reshape(-1, 36)
    for group in range(2):
        counter.add(columns[:, 18 * group : 18 * group + 18], layer.weight[2 * group : 2 * group + 2].flatten(1))
    found = accumulator_rates(model, x)
    assert found == {"0": counter.rates()}
    assert found["0"].product_overflow > 0.05
    assert dict(accumulators(model)) == {"0": layer.slots.accumulator}


def test_underflow_is_switched_in_place() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(summed(GemmLinear(4, 4)), nn.ReLU(), summed(GemmLinear(4, 4)))
    x = torch.full((2, 4), 1e-4)
    before = model[0](x)
    assert torch.equal(before, model[0].bias.expand(2, 4))
    set_underflow_(model, False)
    assert not torch.equal(model[0](x), before)
    set_underflow_(model, True, only=("0",))
    assert torch.equal(model[0](x), before)
    assert [content.spec.underflow for _, content in accumulators(model)] == [True, False]
    for ask in (lambda: set_underflow_(nn.Linear(2, 2), True), lambda: accumulator_rates(nn.Linear(2, 2), x)):
        with pytest.raises(MethodError, match="apply LBA first"):
            ask()
