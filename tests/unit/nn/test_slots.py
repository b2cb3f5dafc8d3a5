"""Binary and integer slot contents: exact values, straight-through gradients, ranges, projections and counters."""

import pytest
import torch
from torch import Tensor, nn

from pennyweight.errors import NumericsError
from pennyweight.nn.gemm import GemmLinear, as_gemm
from pennyweight.nn.parameter_rules import parameter_rules
from pennyweight.nn.projection import attach_projections, project_
from pennyweight.nn.slots.binary import BinaryInput, BinaryWeight
from pennyweight.nn.slots.integer import IntegerInput, IntegerWeight, RunningInput
from pennyweight.nn.slots.stored import StoredCodes
from pennyweight.numerics.affine import AffineParameters, PerChannel, PerGroup, PerTensor, affine_parameters
from pennyweight.numerics.formats import IntFormat
from pennyweight.numerics.random import Key

INT8 = IntFormat(8)


def tensor_parameters(
    low: float, high: float, format: IntFormat = INT8, *, symmetric: bool = False
) -> AffineParameters:
    return affine_parameters(torch.tensor(low), torch.tensor(high), format, PerTensor(), symmetric=symmetric)


def test_binary_weight_values_gradient_and_clip() -> None:
    content = BinaryWeight()
    weight = nn.Parameter(torch.tensor([-2.0, -0.5, -0.0, 0.0, 0.5, 2.0]))
    content(weight).backward(torch.arange(6.0))
    assert content(weight).tolist() == [-1, -1, 1, 1, 1, 1]
    assert weight.grad is not None
    assert weight.grad.tolist() == [0, 1, 2, 3, 4, 5]  # the identity, beyond |w| = 1 too
    with torch.no_grad():
        content.project_(weight)
        assert weight.tolist() == [-1, -0.5, 0, 0, 0.5, 1]
        weight.mul_(3)
        BinaryWeight(clip=False).project_(weight)
        assert weight.abs().max() == 3


def test_binary_input_mask_at_the_boundary() -> None:
    one_up = float(torch.nextafter(torch.tensor(1.0), torch.tensor(2.0)))
    x = torch.tensor([-one_up, -1.0, 0.0, 1.0, one_up], requires_grad=True)
    y = BinaryInput()(x)
    y.sum().backward()
    assert y.tolist() == [-1, -1, 1, 1, 1]
    assert x.grad is not None
    assert x.grad.tolist() == [0, 1, 1, 1, 0]


def test_stochastic_neurons() -> None:
    content = BinaryInput(stochastic=True, key=Key(3))
    x = torch.linspace(-1.5, 1.5, 7).repeat(4000, 1)
    y = content.train()(x)
    assert set(y.unique().tolist()) == {-1.0, 1.0}
    probability = ((x[0] + 1) / 2).clamp(0, 1)
    error = ((y + 1) / 2).mean(0) - probability
    assert (error.abs() <= 5 * (probability * (1 - probability) / 4000).sqrt() + 1e-9).all()
    assert not torch.equal(content(x), y)  # the counter moved on
    resumed = BinaryInput(stochastic=True, key=Key(3))
    resumed.load_state_dict(content.state_dict())
    assert torch.equal(resumed(x), content(x))  # and travels in the checkpoint
    assert torch.equal(content.eval()(x), BinaryInput()(x))


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("granularity", [PerTensor(), PerChannel()])
def test_integer_product_is_the_integers_product(symmetric: bool, granularity: PerTensor | PerChannel) -> None:
    """The layer's sums are those of Python integers, scaled once at the end."""
    generator = torch.Generator().manual_seed(0)
    layer = GemmLinear(40, 5)
    rows = layer.weight.detach() if isinstance(granularity, PerChannel) else layer.weight.detach().reshape(1, -1)
    low, high = rows.amin(-1), rows.amax(-1)
    if isinstance(granularity, PerTensor):
        low, high = low[0], high[0]
    weights = affine_parameters(low, high, IntFormat(4), granularity, symmetric=symmetric)
    inputs = tensor_parameters(-0.7, 3.0)
    layer.slots.fill("weight", IntegerWeight(weights))
    layer.slots.fill("input", IntegerInput(inputs))
    x = torch.randn(6, 40, generator=generator) * 2
    y = layer(x).detach()

    sx, zx = float(inputs.scale), int(inputs.zero_point)
    for i in range(6):
        for j in range(5):
            pick = j if isinstance(granularity, PerChannel) else ()
            sw, zw = float(weights.scale[pick]), int(weights.zero_point[pick])
            total = 0
            for k in range(40):
                cx = max(-128, min(127, round(float(torch.tensor(float(x[i, k])) / inputs.scale)) + zx))
                cw = max(-8, min(7, round(float(layer.weight.detach()[j, k] / weights.scale[pick])) + zw))
                total += (cx - zx) * (cw - zw)
            assert float(y[i, j]) == pytest.approx(total * sx * sw + float(layer.bias.detach()[j]), rel=1e-5, abs=1e-6)


def test_integer_gradients_stop_where_values_were_clamped() -> None:
    content = IntegerInput(tensor_parameters(-1.0, 1.0, IntFormat(4), symmetric=True))
    x = torch.tensor([-5.0, -0.5, 0.0, 0.9, 5.0], requires_grad=True)
    content(x).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [0, 1, 1, 1, 0]


def test_grouped_weights() -> None:
    layer = GemmLinear(10, 3, bias=False)
    low, high = torch.full((3, 3), -0.3), torch.full((3, 3), 0.3)
    parameters = affine_parameters(low, high, IntFormat(4), PerGroup(4), symmetric=True)
    layer.slots.fill("weight", IntegerWeight(parameters))
    x = torch.eye(10, requires_grad=True)
    y = layer(x)
    expected = (layer.weight.detach() / (0.3 / 7)).round().clamp(-8, 7) * (0.3 / 7)
    torch.testing.assert_close(y.t().detach(), expected)
    y.sum().backward()
    assert layer.weight.grad is not None
    torch.testing.assert_close(layer.weight.grad, torch.ones(3, 10))


def test_running_input_is_exact_on_centred_pixels_and_grows() -> None:
    content = RunningInput(INT8)
    pixels = (torch.arange(256.0) - 128) / 128
    codes, scale = content.codes(pixels)
    assert codes.tolist() == list(range(-128, 128))
    assert float(scale) == 1 / 128  # type: ignore[arg-type]
    content.train()(torch.tensor([0.1, -4.0]))
    assert float(content.absmax) == 4.0
    content.eval()(torch.tensor([100.0]))
    assert float(content.absmax) == 4.0  # evaluation only looks
    assert content(torch.tensor([100.0])).item() == pytest.approx(127 * 4 / 128)
    assert content.train()(torch.zeros(0, 3)).shape == (0, 3)
    for bad in (torch.nan, torch.inf):  # would stay in the range for good
        with pytest.raises(NumericsError, match=r"the input to quantize holds \w+ at index \(1,\)"):
            content(torch.tensor([0.5, bad]))
    assert float(content.absmax) == 4.0


@pytest.mark.parametrize("content", [BinaryInput(), BinaryInput(stochastic=True, key=Key(0)), BinaryWeight()])
def test_nan_has_no_sign_and_infinity_has_one(content: BinaryInput | BinaryWeight) -> None:
    assert content(torch.tensor([torch.inf, -torch.inf])).tolist() == [1.0, -1.0]
    with pytest.raises(NumericsError, match=r"binarize holds NaN at index \(1, 0\)"):
        content(torch.tensor([[0.0, 1.0], [torch.nan, 2.0]]))
    assert content.codes(torch.zeros(0))[0].shape == (0,)


def test_stored_codes_are_the_quantized_layer() -> None:
    torch.manual_seed(0)
    layer = GemmLinear(12, 4)
    weight = layer.weight.detach()
    parameters = affine_parameters(weight.amin(1), weight.amax(1), IntFormat(4), PerChannel(), symmetric=True)
    content = IntegerWeight(parameters)
    layer.slots.fill("weight", content)
    twin = GemmLinear(12, 4)
    codes, scale = content.codes(weight)
    twin.load_state_dict({"weight": codes, "bias": layer.bias.detach()}, strict=False)
    twin.slots.fill("weight", StoredCodes(scale))
    x = torch.randn(3, 12)
    assert torch.equal(twin(x), layer(x))
    torch.testing.assert_close(twin.slots.weight(twin.weight), layer.slots.weight(layer.weight))


def test_projection_in_ones_own_loop_and_by_hook() -> None:
    def trained(by_hook: bool) -> Tensor:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 3), as_gemm(nn.Linear(3, 2)))
        model[1].slots.fill("weight", BinaryWeight())
        optimizer = torch.optim.SGD(model.parameters(), lr=5.0)
        handle = attach_projections(optimizer, model) if by_hook else None
        for _ in range(3):
            optimizer.zero_grad()
            model(torch.ones(4, 3)).square().sum().backward()
            optimizer.step()
            if not by_hook:
                project_(model)
        if handle is not None:
            handle.remove()
        assert model[1].weight.detach().abs().max() == 1.0
        assert model[0].weight.detach().abs().max() > 1.0  # only latent binary weights are clipped
        return model[1].weight.detach()

    assert torch.equal(trained(True), trained(False))


def test_rules_for_the_optimiser() -> None:
    model = nn.Sequential(nn.Linear(3, 3), as_gemm(nn.Linear(3, 2)))
    model[1].slots.fill("weight", BinaryWeight(lr_scale=3.0))
    rules = parameter_rules(model)
    assert list(rules) == list(model.parameters())
    assert (rules[model[1].weight].lr_scale, rules[model[1].weight].decays) == (3.0, False)
    assert {(rule.lr_scale, rule.decays) for p, rule in rules.items() if p is not model[1].weight} == {(1.0, True)}
