"""GPTQ against the loop of Optimal Brain Quantization, scalar by scalar, and where both must equal rounding."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

import pennyweight as pw
from oracles.rounding_search import brain_surgeon_codes
from pennyweight.errors import MethodError, NumericsError
from pennyweight.methods.reconstruction.gptq import GPTQSolver, Grid, gptq_codes
from pennyweight.methods.reconstruction.hessian import input_hessians, unfolded
from pennyweight.methods.reconstruction.solver import output_errors
from pennyweight.methods.reconstruction.unit import Unit
from pennyweight.methods.rounding import Ranges
from pennyweight.nn.gemm import as_gemm
from pennyweight.numerics.affine import expand, quantize
from unit.methods.fitting import KEY, codes_of, correlated, draw, linear_unit, unit_of


def grid_of(scale: Tensor, bits: int) -> Grid:
    low = torch.full_like(scale, -(2.0 ** (bits - 1)))
    return Grid(scale=scale, low=low, high=-low - 1)


def by_the_loop(
    weight: Tensor, hessian: Tensor, scale: Tensor, bits: int, damping: float, order: Sequence[int] | None = None
) -> Tensor:
    rows = [
        brain_surgeon_codes(row, hessian.tolist(), s, -(2 ** (bits - 1)), 2 ** (bits - 1) - 1, damping, order)
        for row, s in zip(weight.tolist(), scale.tolist(), strict=True)
    ]
    return torch.tensor(rows, dtype=torch.float64)


@pytest.mark.parametrize("act_order", [False, True])
@pytest.mark.parametrize("block_size", [1, 5, 128])
@pytest.mark.parametrize("bits", [2, 4])
def test_codes_are_those_of_the_loop(bits: int, block_size: int, act_order: bool) -> None:
    x, weight = correlated(50, 12).double(), draw(5, 12, seed=1).double()
    hessian = x.T @ x
    scale = (weight.abs().amax(1, keepdim=True) / (2 ** (bits - 1) - 1)).expand_as(weight) * 0.8
    codes = gptq_codes(weight, hessian, grid_of(scale, bits), damping=0.01, act_order=act_order, block_size=block_size)
    order = torch.argsort(hessian.diagonal(), descending=True).tolist() if act_order else None
    assert torch.equal(codes, by_the_loop(weight, hessian, scale, bits, 0.01, order))
    nearest = torch.round(weight / scale).clamp(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    assert not torch.equal(codes, nearest)
    left, right = (((codes_ * scale - weight) @ x.T).square().sum() for codes_ in (codes, nearest))
    assert float(left) < float(right)


@pytest.mark.parametrize("granularity", ["tensor", "channel", "group:5"])
def test_a_layers_codes_are_those_of_the_loop(granularity: str) -> None:
    x, weight = correlated(60, 12), draw(5, 12, seed=1)
    unit, samples = linear_unit(x, weight, bits=3, input_bits=4, ranges=Ranges(granularity=granularity))
    layer = unit.layers["layer"]
    affine, seen = layer.slots.weight.quantizer.affine, layer.slots.input.codes(x)[0].double()
    scale = expand(affine.scale, weight, affine.granularity).expand_as(weight).double()
    fit = GPTQSolver().fit(unit, samples, None, KEY)
    expected = by_the_loop(weight.double(), seen.T @ seen, scale, 3, 0.01)
    assert torch.equal(codes_of(layer).double(), expected)
    assert fit.mse_after < fit.mse_before
    assert output_errors(unit, samples).mse == fit.mse_after
    on_grid = layer.slots.weight(layer.weight.detach())
    torch.testing.assert_close(on_grid, layer.weight.detach(), rtol=0, atol=0)


def test_with_an_identity_for_a_hessian_it_rounds_to_nearest() -> None:
    """Uncorrelated inputs of equal power: no column can make up for another."""
    unit, samples = linear_unit(torch.eye(24) * 7, draw(16, 24, seed=1), input_bits=4)
    nearest = codes_of(unit.layers["layer"])
    hessian = input_hessians(unit, unit.layers["layer"], samples)[0]
    assert torch.equal(hessian, torch.diag(hessian.diagonal())), "an identity but for its factor"
    fit = GPTQSolver().fit(unit, samples, None, KEY)
    assert torch.equal(codes_of(unit.layers["layer"]), nearest)
    assert fit.kept_start
    assert fit.mse_after == fit.mse_before


def test_columns_that_see_nothing_are_rounded_to_nearest() -> None:
    x, weight = correlated(60, 12), draw(5, 12, seed=1)
    x[:, [2, 7]] = 0.0
    unit, samples = linear_unit(x, weight, bits=3)
    layer = unit.layers["layer"]
    nearest = codes_of(layer)
    GPTQSolver(keep_best=False).fit(unit, samples, None, KEY)
    assert torch.equal(codes_of(layer)[:, [2, 7]], nearest[:, [2, 7]])
    alive = [i for i in range(12) if i not in (2, 7)]
    alone, alone_samples = linear_unit(x[:, alive], weight[:, alive], bits=3)
    content = alone.layers["layer"].slots.weight.quantizer
    content.scale.copy_(layer.slots.weight.quantizer.scale)
    GPTQSolver(keep_best=False).fit(alone, alone_samples, None, KEY)
    assert torch.equal(codes_of(layer)[:, alive], codes_of(alone.layers["layer"])), "and change nothing for the others"


def test_inputs_that_are_all_zero_leave_the_start() -> None:
    unit, samples = linear_unit(torch.zeros(8, 6), draw(4, 6, seed=1))
    assert GPTQSolver().fit(unit, samples, None, KEY).kept_start


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Conv2d(4, 6, 3, padding=1, stride=2, groups=2), (3, 4, 9, 8)),
        (nn.Conv2d(3, 4, (3, 1), padding="same", dilation=2), (2, 3, 7, 6)),
        (nn.Conv2d(3, 4, 3, padding=2, padding_mode="reflect"), (2, 3, 7, 6)),
        (nn.Conv2d(4, 4, 3, padding=1, groups=4), (2, 4, 5, 5)),
        (nn.Conv1d(3, 4, 3, stride=2), (2, 3, 9)),
        (nn.Conv3d(2, 4, 2, padding=1), (2, 2, 3, 4, 3)),
        (nn.Linear(5, 3), (2, 4, 5)),
    ],
)
def test_unfolded_inputs_times_the_flattened_weight_are_the_output(layer: nn.Module, shape: tuple[int, ...]) -> None:
    x = draw(*shape)
    gemm = as_gemm(layer)
    rows = unfolded(gemm, x)
    weight = gemm.weight.detach().flatten(1).unflatten(0, (len(rows), -1))  # groups, outputs, columns
    got = (rows @ weight.mT).movedim(0, 1).flatten(1)  # rows, outputs
    with torch.no_grad():
        expected = gemm(x) - gemm.bias.reshape(-1, *[1] * (gemm.weight.dim() - 2))
    expected = expected.flatten(0, -2) if isinstance(layer, nn.Linear) else expected.movedim(1, -1).flatten(0, -2)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


def test_grouped_convolutions_are_solved_group_by_group() -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(4, 6, 3, groups=2)
    x = correlated(10, 4 * 36).reshape(10, 4, 6, 6)
    unit, samples = unit_of(layer, x, bits=3)
    GPTQSolver(keep_best=False).fit(unit, samples, None, KEY)
    whole = codes_of(unit.layers["layer"])
    for group in range(2):
        part = nn.Conv2d(2, 3, 3)
        with torch.no_grad():
            part.weight.copy_(layer_weight(group))
        part_unit, part_samples = unit_of(part, x[:, 2 * group : 2 * group + 2], bits=3)
        part_unit.layers["layer"].slots.input["quantize"] = unit.layers["layer"].slots.input.quantizer
        GPTQSolver(keep_best=False).fit(part_unit, part_samples, None, KEY)
        assert torch.equal(whole[3 * group : 3 * group + 3], codes_of(part_unit.layers["layer"]))


def layer_weight(group: int) -> Tensor:
    torch.manual_seed(0)
    return nn.Conv2d(4, 6, 3, groups=2).weight.detach()[3 * group : 3 * group + 3]


def test_layers_of_a_block_are_solved_in_order() -> None:
    torch.manual_seed(0)
    block = nn.Sequential(nn.Linear(12, 10), nn.ReLU(), nn.Linear(10, 6))
    x = correlated(80, 12)
    with torch.no_grad():
        hidden, targets = block[:2](x), block(x)
    first, first_samples = unit_of(block[0], x, bits=3)
    second, _ = unit_of(block[2], hidden, bits=3)
    layers = {"first": first.layers["layer"], "second": second.layers["layer"]}
    module = nn.Sequential(layers["first"], nn.ReLU(), layers["second"])
    samples = type(first_samples)([(x, targets)])
    seen: list[Tensor] = []
    fit = GPTQSolver(damping=0.1).fit(Unit(name="block", module=module, layers=layers), samples, None, KEY)
    handle = layers["second"].register_forward_pre_hook(lambda _m, args: seen.append(args[0]))
    module(x)
    handle.remove()
    assert fit.mse_after < fit.mse_before
    hessian = input_hessians(Unit(name="block", module=module, layers=layers), layers["second"], samples)[0]
    codes = layers["second"].slots.input.codes(seen[0])[0].detach()
    torch.testing.assert_close(hessian, (codes.T @ codes).double())


def test_held_out_samples_choose() -> None:
    x, more, weight = correlated(4, 24), draw(200, 24, seed=9), draw(16, 24, seed=1)
    unit, samples = linear_unit(x, weight, bits=3)
    heldout = type(samples)([(more, more @ weight.T + unit.module.bias.detach())])
    fit = GPTQSolver().fit(unit, samples, heldout, KEY)
    assert fit.heldout_after is not None
    assert fit.heldout_before is not None
    assert fit.heldout_after <= fit.heldout_before


def test_a_hessian_that_cannot_be_factored_is_an_error() -> None:
    unit, samples = linear_unit(torch.ones(4, 6), draw(3, 6, seed=1), input_bits=None)
    with pytest.raises(NumericsError, match=r"6 columns cannot be factored with damping=0\.0"):
        GPTQSolver(damping=0.0).fit(unit, samples, None, KEY)


def test_settings_that_make_no_sense_are_refused() -> None:
    with pytest.raises(MethodError, match="damping=-1"):
        pw.GPTQ(damping=-1.0)
    with pytest.raises(MethodError, match="block_size=0"):
        pw.GPTQ(block_size=0)


def test_a_rehearsal_leaves_the_weights() -> None:
    unit, samples = linear_unit(correlated(60, 12), draw(5, 12, seed=1))
    nearest = codes_of(unit.layers["layer"])
    fit = pw.GPTQ().solver(rehearsal=True).fit(unit, samples, None, KEY)
    assert torch.equal(codes_of(unit.layers["layer"]), nearest)
    assert fit.kept_start
    assert quantize(torch.zeros(5, 12), unit.layers["layer"].slots.weight.quantizer.affine).sum() == 0
