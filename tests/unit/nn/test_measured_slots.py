"""The quantizers of 8-bit training: ranges, exact zeros, unbiased gradients, one copy or two."""

import copy
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from pennyweight.errors import NumericsError
from pennyweight.nn.gemm import GemmConv2d, GemmLinear, GemmModule
from pennyweight.nn.slots.exact_integer import BlockedProduct
from pennyweight.nn.slots.measured import MeasuredGradient, MeasuredInput, MeasuredWeight
from pennyweight.numerics.affine import PerChannel, PerTensor, dequantize
from pennyweight.numerics.covering import covering_parameters
from pennyweight.numerics.formats import IntFormat
from pennyweight.numerics.random import Key

INT4, INT8, UINT8 = IntFormat(4), IntFormat(8), IntFormat(8, signed=False)


def sample(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@given(st.floats(-1e30, 1e30), st.floats(-1e30, 1e30), st.integers(2, 8), st.booleans())
@settings(max_examples=200, deadline=None)
def test_covering_ranges_hold_zero_and_both_ends(a: float, b: float, bits: int, signed: bool) -> None:
    low, high = torch.tensor(min(a, b, 0.0)), torch.tensor(max(a, b, 0.0))
    format = IntFormat(bits, signed=signed)
    found = covering_parameters(low, high, format)
    assert float(found.zero_point) == int(found.zero_point)
    assert format.min <= int(found.zero_point) <= format.max
    ends = dequantize(torch.tensor([format.min, format.max]), found).double()
    slack = 1e-6 * float(high.double() - low.double())  # the scale itself is a rounded float32
    assert float(ends[0]) <= float(low) + slack
    assert float(ends[1]) >= float(high) - slack


@pytest.mark.parametrize("bits", [3, 4, 6, 8])
@pytest.mark.parametrize("shift", [0.0, 0.37, -5.0])
def test_stochastic_gradients_have_no_bias_even_at_their_extremes(bits: int, shift: float) -> None:
    """5 standard errors over 2,000 draws, of each value and not of the mean alone."""
    g = sample(200) + shift
    g[0] = 0.0
    content = MeasuredGradient(IntFormat(bits), "stochastic", Key(0))
    affine = content.affine(g)
    assert affine is not None
    step = float(affine.scale)
    draws = torch.stack([content(g) for _ in range(2000)]).double()
    part = torch.remainder(g.double() / step, 1.0)
    error = (part * (1 - part)).clamp(min=1e-4).sqrt() * step / 2000**0.5
    assert bool(((draws.mean(0) - g.double()).abs() <= 5 * error).all())
    assert bool((draws[:, 0] == 0).all()), "zero in, zero out"
    assert draws.min() >= float(g.min()) - step
    assert draws.max() <= float(g.max()) + step


def test_gradients_draw_by_key_and_count() -> None:
    contents = [MeasuredGradient(INT4, "stochastic", Key(seed)) for seed in (0, 0, 1)]
    g = sample(100)
    first, second, other = (content(g) for content in contents)
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    assert not torch.equal(contents[0](g), first)
    twin = MeasuredGradient(INT4, "stochastic", Key(0))
    twin.load_state_dict(contents[0].state_dict())  # a resumed run draws what an uninterrupted one would have
    assert torch.equal(twin(g), contents[0](g))


def test_degenerate_gradients_are_defined() -> None:
    content = MeasuredGradient(INT8, "stochastic", Key(0))
    assert torch.equal(content(torch.zeros(5)), torch.zeros(5))
    assert torch.equal(content(torch.tensor([0.0, -0.0])), torch.zeros(2))
    constant = content(torch.full((7,), -3.0))
    torch.testing.assert_close(constant, torch.full((7,), -3.0))
    spoilt = torch.tensor([1.0, torch.inf, torch.nan])
    assert torch.equal(content(spoilt)[:2], spoilt[:2])  # a loss scaler must see them
    assert content(spoilt)[2].isnan()
    assert content(torch.zeros(0, 3)).shape == (0, 3)
    nearest = MeasuredGradient(INT4, "nearest_even")
    assert torch.equal(nearest(sample(50)), nearest(sample(50)))


def test_input_ranges_are_means_over_samples() -> None:
    content = MeasuredInput(UINT8).train()
    x = torch.tensor([[0.0, 1.0], [-1.0, 5.0]])
    affine = content.affine(x)
    assert float(content.low) == -0.5
    assert float(content.high) == 3.0
    assert float(affine.scale) == pytest.approx(3.5 / 255)
    y = content(x)
    assert float(y.max()) == pytest.approx(3.0, abs=float(affine.scale))  # 5 is clamped
    assert float(content(torch.zeros(2, 2))[0, 0]) == 0.0
    whole = MeasuredInput(UINT8, over="batch").train()
    assert float(whole(x).max()) == pytest.approx(5.0, abs=float(whole.affine(x).scale))  # nothing is clamped


def test_the_running_range_is_a_mean_in_torchs_meaning() -> None:
    content = MeasuredInput(UINT8, momentum=0.25).train()
    low = high = torch.zeros(())
    for step in range(4):
        x = sample(8, 20, seed=step).abs() * (step + 1)
        content(x)
        new = x.amax(1).mean()
        high = new if step == 0 else 0.75 * high + 0.25 * new
        low = x.amin(1).mean() if step == 0 else 0.75 * low + 0.25 * x.amin(1).mean()
    assert float(content.high) == pytest.approx(float(high), rel=1e-6)
    assert float(content.low) == pytest.approx(float(low), rel=1e-6)
    frozen = content.eval().frozen()
    assert frozen is not None
    x = sample(8, 20)
    assert torch.equal(frozen(x), content(x))


def test_unseen_inputs_take_their_own_range_and_nan_is_refused() -> None:
    content = MeasuredInput(UINT8).eval()
    assert content.frozen() is None
    x = sample(4, 10)
    assert (content(x) - x.clamp(float(x.amin(1).mean()), float(x.amax(1).mean()))).abs().max() < 0.05
    assert int(content.batches) == 0
    with pytest.raises(NumericsError, match="activations to quantize holds nan"):
        content(torch.tensor([[1.0, torch.nan]]))
    assert torch.equal(content(torch.zeros(3, 4)), torch.zeros(3, 4))


@pytest.mark.parametrize("granularity", [PerTensor(), PerChannel()], ids=str)
@given(st.integers(2, 8), st.floats(-3, 3), st.integers(0, 100))
@settings(max_examples=40, deadline=None)
def test_weights_round_to_nearest_within_half_a_step(
    granularity: PerTensor | PerChannel, bits: int, shift: float, seed: int
) -> None:
    """Half a step, and up to half a step more at one end, where zero had to be on the grid; idempotent, monotone."""
    weight = sample(3, 20, seed=seed) + shift
    weight[0, 0], weight[1] = 0.0, 0.25  # a constant filter has a range of one side
    content = MeasuredWeight(IntFormat(bits), granularity)
    q = content(weight)
    scale = content.affine(weight).scale.reshape(-1, 1)
    assert bool(((q - weight).abs() <= scale * 1.001).all())
    assert q[0, 0] == 0.0
    assert torch.isfinite(q).all()
    order = weight[2].argsort()
    assert bool((q[2, order].diff() >= 0).all())
    codes, _ = content.codes(weight)
    assert torch.equal(codes, codes.round())
    again, scales = content.codes(q)  # both end codes are taken, so that the range measured anew is the same
    assert torch.equal(again, codes)
    torch.testing.assert_close(scales, content.affine(weight).scale)


def test_master_weights_keep_small_updates_on_average() -> None:
    layer = GemmLinear(50, 40)
    content = MeasuredWeight(INT8, PerChannel(), IntFormat(6), Key(0))
    with torch.no_grad():
        layer.weight.copy_(sample(40, 50))
        layer.weight[0, :2] = torch.tensor([-4.0, 4.0])  # the ends of the range
    layer.slots.fill("weight", content)
    layer.project_()
    assert layer.weight.unique().numel() <= 64
    before = layer.weight.detach().clone()
    update = 0.01  # a twelfth of a step
    with torch.no_grad():
        layer.weight[1:] += update
    layer.project_()
    moved = (layer.weight.detach() - before)[1:].mean()
    assert float(moved) == pytest.approx(update, abs=0.004)
    nearest_steps = torch.round((before[1:] + update) / (8 / 62)) - torch.round(before[1:] / (8 / 62))
    assert float(nearest_steps.abs().mean()) < 0.2  # rounding to nearest would have moved nearly nothing


def filled(layer: GemmModule, gradients: IntFormat | None, bifurcate: bool, seed: int = 0) -> GemmModule:
    layer.slots.fill("weight", MeasuredWeight(INT8, PerChannel()))
    layer.slots.fill("input", MeasuredInput(UINT8))
    for slot in ("grad_output_input", "grad_output_update"):
        if gradients is not None and (slot == "grad_output_input" or not bifurcate):
            layer.slots.fill(slot, MeasuredGradient(gradients, "stochastic", Key(seed)))
    return layer.train()


def layers() -> list[tuple[GemmModule, Tensor]]:
    return [
        (GemmLinear(30, 20), sample(8, 30)),
        (GemmLinear(30, 20), sample(2, 4, 30)),
        (GemmConv2d(4, 6, 3, stride=2, padding=1, groups=2), sample(3, 4, 7, 7)),
    ]


def backward(layer: GemmModule, x: Tensor, g: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    x = x.clone().requires_grad_()
    layer.weight.grad = None
    y = layer(x)
    y.backward(g)
    assert x.grad is not None
    assert layer.weight.grad is not None
    return y.detach(), x.grad, layer.weight.grad


@pytest.mark.parametrize("index", range(3))
def test_bifurcation_changes_neither_output_nor_weight_gradient(index: int) -> None:
    """Bit for bit: what the layer gives without any quantized gradient."""
    layer, x = layers()[index]
    plain = filled(copy.deepcopy(layer), None, True)
    split = filled(copy.deepcopy(layer), INT4, True)
    single = filled(copy.deepcopy(layer), INT4, False)
    g = sample(*layer(x).shape, seed=5)
    y, dx, dw = backward(plain, x, g)
    y2, dx2, dw2 = backward(split, x, g)
    y3, dx3, dw3 = backward(single, x, g)
    assert torch.equal(y, y2)
    assert torch.equal(y, y3)
    assert torch.equal(dw, dw2)
    assert not torch.equal(dw, dw3)
    assert not torch.equal(dx, dx2)
    assert torch.equal(dx2, dx3), "one copy: the same draws for both products"


@pytest.mark.parametrize("bifurcate", [True, False])
def test_bifurcation_costs_one_forward_and_two_backward_products(bifurcate: bool) -> None:
    """The published code computed each convolution twice forward to have two gradients."""
    layer = filled(GemmLinear(30, 20, bias=False), INT4, bifurcate)
    x = sample(8, 30).requires_grad_()
    counted = CountProducts()
    with counted:
        y = layer(x)
        assert counted.found == ["mm"]
        y.backward(sample(8, 20, seed=1))
    assert counted.found == ["mm"] * 3


class CountProducts(TorchDispatchMode):
    """Names of the matrix products that run."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in ("mm", "addmm", "matmul", "bmm", "linear"):
            self.found.append(name)
        return func(*args, **(kwargs or {}))


def test_an_empty_batch_passes() -> None:
    layer = filled(GemmLinear(6, 5), INT8, True)
    before = layer.slots.weight(layer.weight)
    y = layer(torch.zeros(0, 6))
    y.sum().backward()
    assert y.shape == (0, 5)
    assert layer.weight.grad is not None
    assert not bool(layer.weight.grad.any())
    assert torch.equal(layer.slots.weight(layer.weight), before)


def test_the_weight_gradient_is_the_float_gradient_times_the_quantized_input() -> None:
    layer = filled(GemmLinear(30, 20), INT4, True)
    x, g = sample(8, 30), sample(8, 20, seed=1)
    _, _, dw = backward(layer, x, g)
    twin = MeasuredInput(UINT8).train()
    expected = g.double().t() @ twin(x).double()
    torch.testing.assert_close(dw.double(), expected, rtol=1e-5, atol=1e-5)


def test_the_input_gradient_is_unbiased_over_draws() -> None:
    layer = filled(GemmLinear(12, 20), INT4, True)
    x, g = sample(4, 12), sample(4, 20, seed=1)
    draws = torch.stack([backward(layer, x, g)[1] for _ in range(1500)]).double()
    weight = layer.slots.weight(layer.weight).detach().double()
    expected = g.double() @ weight
    error = draws.std(0) / 1500**0.5
    assert bool(((draws.mean(0) - expected).abs() <= 5 * error + 1e-6).all())


def test_float_checkpoints_load_and_keep_the_ranges() -> None:
    layer = filled(GemmLinear(6, 5), INT8, True)
    layer(sample(4, 6))
    plain = nn.Linear(6, 5)
    high = layer.slots.input.quantizer.high.clone()  # type: ignore[union-attr, operator]
    layer.load_state_dict(plain.state_dict())
    assert torch.equal(layer.slots.input.quantizer.high, high)  # type: ignore[union-attr, arg-type]
    assert torch.equal(layer.weight, plain.weight)


@pytest.mark.parametrize("make", [
    lambda: (GemmLinear(3000, 4, bias=False), 100 * sample(5, 3000).abs()),
    lambda: (GemmConv2d(400, 3, 3, bias=False), 100 * sample(2, 400, 5, 5).abs()),
])  # fmt: skip
def test_the_blocked_backend_sums_codes_exactly(make: object) -> None:
    """Long sums of large codes: equal to int64, where one float32 product is not."""
    layer, x = make()  # type: ignore[operator]
    with torch.no_grad():
        layer.weight.abs_()
    filled(layer, INT8, True)
    layer.slots.fill("backend", BlockedProduct(UINT8, INT8))
    layer(x)
    layer.eval()
    x_codes, x_scale = layer.slots.input.codes(x)
    w_codes, w_scale = layer.slots.weight.codes(layer.weight)
    integers = x_codes.to(torch.int64), w_codes.detach().to(torch.int64)
    if x.dim() == 2:
        exact = integers[0] @ integers[1].t()
        scales = x_scale * w_scale
    else:
        exact = nn.functional.conv2d(integers[0].double(), integers[1].double()).to(torch.int64)
        scales = x_scale * w_scale.reshape(-1, 1, 1)
    assert int(exact.max()) > 2**24
    assert torch.equal(layer(x).detach(), exact.float() * scales)
