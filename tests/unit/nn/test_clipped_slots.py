"""Slot contents of quantized networks, and 6-bit gradients whose two products are integers times one scale."""

import copy

import pytest
import torch
from torch import Tensor, nn

from pennyweight import ops
from pennyweight.errors import NumericsError
from pennyweight.nn.gemm import GemmConv2d, GemmLinear
from pennyweight.nn.slots.binary import BinaryWeight
from pennyweight.nn.slots.blocks import BlockScaled
from pennyweight.nn.slots.chain import SlotContent
from pennyweight.nn.slots.clipped import ClippedInput, ClippedWeight, ScaledGradient
from pennyweight.numerics.clipped import linear_quant, log_quant, scaled_codes
from pennyweight.numerics.formats import BinaryFormat, BlockFormat, IntFormat, LogFormat
from pennyweight.numerics.random import Key

INT2N, UINT2, INT6N = IntFormat(2, narrow=True), IntFormat(2, signed=False), IntFormat(6, narrow=True)


def sample(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def filled(layer: GemmLinear | GemmConv2d, weight: SlotContent, entering: SlotContent, key: Key | None) -> None:
    layer.slots.fill("weight", weight)
    layer.slots.fill("input", entering)
    if key is not None:
        for slot in ("grad_output_input", "grad_output_update"):
            layer.slots.fill(slot, ScaledGradient(INT6N, "stochastic", key))


@pytest.mark.parametrize("format", [IntFormat(3), INT2N, LogFormat(4)], ids=str)
def test_contents_are_the_pure_functions(format: IntFormat | LogFormat) -> None:
    x = sample(4, 50)
    quant = linear_quant(x, format) if isinstance(format, IntFormat) else log_quant(x, format)
    for content in (ClippedWeight(format), ClippedInput(format)):
        assert torch.equal(content(x), quant)
        values, scale = content.codes(x)
        if isinstance(format, IntFormat):
            assert scale is not None
            assert torch.equal(values, values.round())
            frozen = content.frozen()
            assert torch.equal(frozen.codes(x)[0], values)
            assert torch.equal(frozen.scale, scale)


def test_latent_weights_are_clipped_learn_faster_and_do_not_decay() -> None:
    content = ClippedWeight(INT2N, lr_scale=3.0)
    weight = nn.Parameter(torch.tensor([-3.0, 0.2, 1.5]))
    with torch.no_grad():
        content.project_(weight)
    torch.testing.assert_close(weight.detach(), torch.tensor([-1.0, 0.2, 1.0]))
    assert (content.lr_scale, content.decays) == (3.0, False)
    with torch.no_grad():
        weight.mul_(2)
        ClippedWeight(INT2N, clip=False).project_(weight)
    assert float(weight.detach().abs().max()) == 2


def test_a_constant_scale_is_no_part_of_the_state() -> None:
    assert not ClippedInput(UINT2).state_dict()
    layer = GemmLinear(3, 2)
    filled(layer, ClippedWeight(INT2N), ClippedInput(UINT2), None)
    layer.load_state_dict(nn.Linear(3, 2).state_dict())


@pytest.mark.parametrize("weights", ["binary", "int4"])
@pytest.mark.parametrize("batch", [1, 33])
def test_both_gradient_products_are_the_bit_planes_exactly(weights: str, batch: int) -> None:
    """What fake quantization computes in float32 is an integer product of codes times one scale, bit for bit."""
    content = BinaryWeight() if weights == "binary" else ClippedWeight(IntFormat(4))
    of_weight = BinaryFormat() if weights == "binary" else IntFormat(4)
    layer = GemmLinear(131, 70, bias=False)
    filled(layer, content, ClippedInput(UINT2), key := Key(7))
    x = sample(batch, 131).requires_grad_()
    g = sample(batch, 70, seed=1) * 3e-4
    layer(x).backward(g)
    codes, scale = scaled_codes(g, INT6N, "stochastic", key.fold(0))
    assert scale is not None
    x_codes, x_scale = ClippedInput(UINT2).codes(x.detach())
    w_codes, w_scale = content.codes(layer.weight.detach())
    assert x_scale is not None
    by_input, by_weight = ops.bitplane_gradients(codes, x_codes, w_codes, (INT6N, UINT2, of_weight))
    forward = x_scale if w_scale is None else x_scale * w_scale
    inside = (x.detach() >= 0) & (x.detach() <= 1)
    assert x.grad is not None
    assert torch.equal(x.grad, by_input.float() * (scale * forward) / x_scale * inside)
    expected = by_weight.float() * (scale * forward)
    if w_scale is not None:
        expected = expected / w_scale * (layer.weight.detach().abs() <= 1)
    assert torch.equal(layer.weight.grad, expected)


def test_a_convolutions_gradients_are_the_bit_planes_exactly() -> None:
    layer = GemmConv2d(5, 6, 3, padding=1, stride=2, bias=False)
    filled(layer, BinaryWeight(), ClippedInput(UINT2), key := Key(3))
    x = sample(2, 5, 9, 9).requires_grad_()
    y = layer(x)
    g = sample(*y.shape, seed=2)
    y.backward(g)
    codes, scale = scaled_codes(g, INT6N, "stochastic", key.fold(0))
    assert scale is not None
    x_codes, x_scale = ClippedInput(UINT2).codes(x.detach())
    assert x_scale is not None
    columns = nn.functional.unfold(x_codes, 3, padding=1, stride=2).transpose(1, 2).reshape(-1, 45)
    rows = codes.permute(0, 2, 3, 1).reshape(-1, 6)
    signs, _ = BinaryWeight().codes(layer.weight.detach())
    by_column, by_weight = ops.bitplane_gradients(rows, columns, signs.reshape(6, 45), (INT6N, UINT2, BinaryFormat()))
    assert torch.equal(layer.weight.grad, (by_weight.float() * (scale * x_scale)).view_as(layer.weight))
    folded = nn.functional.fold(by_column.float().view(2, -1, 45).transpose(1, 2), (9, 9), 3, padding=1, stride=2)
    assert x.grad is not None
    inside = (x.detach() >= 0) & (x.detach() <= 1)
    assert torch.equal(x.grad, folded * (scale * x_scale) / x_scale * inside)


def test_gradients_of_zero_and_without_end() -> None:
    layer = GemmLinear(8, 4, bias=False)
    filled(layer, BinaryWeight(), ClippedInput(UINT2), Key(0))
    layer(sample(3, 8)).backward(torch.zeros(3, 4))
    assert not layer.weight.grad.any()
    layer.weight.grad = None
    layer(sample(3, 8)).backward(torch.full((3, 4), torch.inf))
    assert not bool(torch.isfinite(layer.weight.grad).all())


def test_draws_are_counted_in_the_state() -> None:
    first = ScaledGradient(INT6N, "stochastic", Key(0))
    g = sample(100)
    first(g)
    second = ScaledGradient(INT6N, "stochastic", Key(0))
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    assert torch.equal(first(g), second(g))
    assert not torch.equal(first(g), ScaledGradient(INT6N, "stochastic", Key(0))(g))


def test_a_scale_a_channel_meets_a_scaled_gradient() -> None:
    """A scale that varies along dX's sum goes in before, as with float gradients."""
    from pennyweight.nn.slots.measured import MeasuredWeight
    from pennyweight.numerics.affine import PerChannel

    layer = GemmLinear(20, 6, bias=False)
    layer.slots.fill("weight", MeasuredWeight(IntFormat(8), PerChannel()))
    for slot in ("grad_output_input", "grad_output_update"):
        layer.slots.fill(slot, ScaledGradient(INT6N, "nearest_even"))
    x = sample(5, 20).requires_grad_()
    g = sample(5, 6, seed=1)
    layer(x).backward(g)
    quantized = ScaledGradient(INT6N, "nearest_even")(g)
    weight = layer.slots.weight(layer.weight.detach())
    assert x.grad is not None
    torch.testing.assert_close(x.grad, quantized @ weight)
    torch.testing.assert_close(layer.weight.grad, quantized.t() @ x.detach())


def test_blocks_let_the_gradient_through_and_refuse_what_is_not_finite() -> None:
    content = BlockScaled(BlockFormat("mxfp4"), -1)
    x = sample(3, 40).requires_grad_()
    content(x).sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, torch.ones(3, 40))
    bad = torch.full((2, 2), torch.nan)
    with pytest.raises(NumericsError, match="nan"):
        content(bad)
    assert bool(BlockScaled(BlockFormat("mxfp4"), -1, what=None)(bad).isnan().all())


def test_blocks_draw_by_key_and_count() -> None:
    content = BlockScaled(BlockFormat("mxfp4"), -1, "stochastic", Key(0))
    x = sample(3, 40)
    first, second = content(x), content(x)
    assert not torch.equal(first, second)
    twin = BlockScaled(BlockFormat("mxfp4"), -1, "stochastic", Key(0))
    assert torch.equal(twin(x), first)
