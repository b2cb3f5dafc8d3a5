"""Scheduled weight masks and pruned gradients inside a layer: gradients, renewal, bits, layouts."""

import copy

import pytest
import torch
from torch import Tensor, nn

from pennyweight.masks.mvue import mvue
from pennyweight.masks.nm import NM, gemm_matrix, is_nm, nm_mask
from pennyweight.nn.gemm import GemmConv2d, GemmLinear
from pennyweight.nn.masking import flip_rates, fold_masks_, weight_masks
from pennyweight.nn.slots.masked import MaskSchedule, NMMask
from pennyweight.nn.slots.pruned_gradient import PrunedGradient
from pennyweight.numerics.random import Key

TWO_OF_FOUR = NM(2, 4)


def sample(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def masked(schedule: MaskSchedule, decay: float = 0.0, axis: int = 1) -> tuple[GemmLinear, NMMask]:
    torch.manual_seed(0)
    layer = GemmLinear(8, 8, bias=False)
    mask = NMMask(layer.weight, TWO_OF_FOUR, axis, schedule, decay)
    layer.slots.fill("weight", mask)
    return layer.train(), mask


def gradient(layer: nn.Module, x: Tensor) -> Tensor:
    layer.zero_grad()
    layer(x).square().sum().backward()
    assert isinstance(layer.weight, nn.Parameter)
    assert layer.weight.grad is not None
    return layer.weight.grad.clone()


def test_forward_multiplies_the_masked_weight_and_backward_is_the_masked_nets_gradient() -> None:
    layer, mask = masked(MaskSchedule(interval=5))
    x = sample(3, 8)
    plain = nn.Linear(8, 8, bias=False)
    with torch.no_grad():
        plain.weight.copy_(layer.weight * nm_mask(layer.weight, TWO_OF_FOUR))
    assert torch.equal(layer(x), plain(x))
    assert torch.equal(gradient(layer, x), gradient(plain, x))  # of pruned weights too: straight-through
    x_grads = []
    for module in (layer, plain):
        leaf = x.clone().requires_grad_()
        module(leaf).square().sum().backward()
        x_grads.append(leaf.grad)
    assert torch.equal(*x_grads)  # type: ignore[arg-type]
    assert int(mask.mask.sum()) == 32


def test_a_mask_that_stays_gives_pruned_weights_no_gradient() -> None:
    straight = gradient(masked(MaskSchedule(interval=5))[0], sample(3, 8))
    layer, mask = masked(MaskSchedule(interval=None))
    assert torch.equal(gradient(layer, sample(3, 8)), torch.where(mask.mask, straight, 0.0))
    layer, mask = masked(MaskSchedule(interval=5, freeze_after=1))
    assert torch.equal(gradient(layer, sample(3, 8)), straight)
    layer.project_()
    assert torch.equal(gradient(layer, sample(3, 8)), torch.where(mask.mask, straight, 0.0))


def test_decay_pulls_pruned_weights_alone() -> None:
    plain = gradient(masked(MaskSchedule())[0], sample(3, 8))
    layer, mask = masked(MaskSchedule(), decay=0.5)
    expected = plain + 0.5 * torch.where(mask.mask, 0.0, layer.weight.detach())
    assert torch.equal(gradient(layer, sample(3, 8)), expected)
    layer.eval()
    assert torch.equal(layer(sample(3, 8)), masked(MaskSchedule())[0](sample(3, 8)))


def moved(layer: GemmLinear, seed: int) -> Tensor:
    """Other weights; what their mask is."""
    with torch.no_grad():
        layer.weight.copy_(sample(8, 8, seed=seed))
    return nm_mask(layer.weight, TWO_OF_FOUR)


def test_the_mask_is_renewed_at_its_interval_and_no_more_once_frozen() -> None:
    layer, mask = masked(MaskSchedule(interval=3, freeze_after=7))
    renewed = []
    for step in range(1, 12):
        before = mask.mask.clone()
        wanted = moved(layer, step)
        layer.project_()
        if not torch.equal(mask.mask, before):
            assert torch.equal(mask.mask, wanted)
            assert float(mask.flip_rate) == pytest.approx(float((wanted != before).float().mean()))
            renewed.append(step)
    assert renewed == [3, 6]
    assert int(mask.steps) == 7


def test_the_interval_follows_the_flip_rate() -> None:
    layer, mask = masked(MaskSchedule(interval=4, flip_bounds=(0.1, 0.2)))
    renewed = []
    for step in range(1, 40):
        if step < 8:
            moved(layer, step)
        layer.project_()
        if float(mask.due - mask.interval) == step:
            renewed.append(step)
    assert renewed == [4, 6, 7, 8, 10, 14, 22, 38]  # 2, 1, 1 steps while all flips, then twice as long each time


def test_masks_are_bits_in_a_checkpoint_and_come_back() -> None:
    layer, mask = masked(MaskSchedule(interval=3))
    moved(layer, 5)
    for _ in range(4):
        layer.project_()
    state = copy.deepcopy(layer.state_dict())
    assert {key: tuple(value.shape) for key, value in state.items() if key.endswith((".bits", ".mask"))} == {
        "slots.weight.mask.bits": (8,)
    }
    twin, other = masked(MaskSchedule(interval=3))
    twin.load_state_dict(state)
    assert torch.equal(other.mask, mask.mask)
    for layers in (layer, twin):
        moved(layers, 6)
        for _ in range(2):
            layers.project_()
    assert torch.equal(other.mask, mask.mask)
    assert torch.equal(other.bits, mask.bits)
    assert int(other.due) == int(mask.due) == 9


@pytest.mark.parametrize("axis", [0, 1])
def test_a_convolutions_mask_runs_over_its_matrix(axis: int) -> None:
    layer = GemmConv2d(8, 12, 3)
    layer.slots.fill("weight", NMMask(layer.weight, TWO_OF_FOUR, axis, MaskSchedule()))
    values = layer.slots.weight(layer.weight).detach()
    assert is_nm(gemm_matrix(values), TWO_OF_FOUR, axis)
    assert float((values != 0).float().mean()) == 0.5
    assert not is_nm(gemm_matrix(values), TWO_OF_FOUR, 1 - axis)


def test_folded_masks_compute_as_before() -> None:
    layer, _ = masked(MaskSchedule())
    model = nn.Sequential(layer)
    x = sample(3, 8)
    expected = model.eval()(x)
    assert list(weight_masks(model)) == list(flip_rates(model)) == ["0"]
    assert fold_masks_(model) is model
    assert not layer.slots.filled
    assert not weight_masks(model)
    assert torch.equal(model(x), expected)
    assert int((layer.weight == 0).sum()) == 32


def content(along: str, channel_dim: int, method: str = "systematic") -> PrunedGradient:
    return PrunedGradient(TWO_OF_FOUR, along, channel_dim, method, Key(0))  # type: ignore[arg-type]


def test_a_linear_layers_gradient_is_pruned_along_tokens_or_channels() -> None:
    g = sample(2, 6, 8)
    flat = g.reshape(12, 8)
    for along, axis in (("tokens", 0), ("channels", 1)):
        pruned = content(along, -1)(g)
        assert torch.equal(pruned.reshape(12, 8), mvue(flat, TWO_OF_FOUR, Key(0).fold(0), axis))


def test_a_convolutions_gradient_is_pruned_over_positions_or_channels() -> None:
    g = sample(2, 8, 3, 4)
    flat = g.permute(0, 2, 3, 1).reshape(24, 8)
    for along, axis in (("tokens", 0), ("channels", 1)):
        pruned = content(along, 1)(g)
        assert pruned.shape == g.shape
        assert torch.equal(pruned.permute(0, 2, 3, 1).reshape(24, 8), mvue(flat, TWO_OF_FOUR, Key(0).fold(0), axis))


def test_each_draw_is_another_and_counted() -> None:
    first, second = content("tokens", -1), content("tokens", -1)
    g = sample(16, 8)
    one, two = first(g), first(g)
    assert not torch.equal(one, two)
    second.load_state_dict(first.state_dict())
    assert torch.equal(first(g), second(g))


def test_what_is_not_finite_or_empty_passes() -> None:
    bad = torch.full((4, 4), torch.inf)
    assert torch.equal(content("tokens", -1)(bad), bad)
    assert content("tokens", -1)(torch.zeros(0, 4)).shape == (0, 4)
    zero = torch.zeros(8, 4)
    assert torch.equal(content("tokens", -1)(zero), zero)
    lone = sample(4)
    assert torch.equal(content("tokens", -1)(lone), lone)  # one token is a group of one


def test_only_the_product_of_the_filled_slot_is_pruned() -> None:
    x, weight = sample(16, 8), sample(8, 8, seed=1)
    found = {}
    for slot in ("none", "grad_output_update", "grad_output_input"):
        layer = GemmLinear(8, 8)
        with torch.no_grad():
            layer.weight.copy_(weight)
            layer.bias.zero_()
        if slot != "none":
            layer.slots.fill(slot, content("tokens" if slot.endswith("update") else "channels", -1, "greedy"))
        leaf = x.clone().requires_grad_()
        layer(leaf).square().sum().backward()
        found[slot] = (leaf.grad, layer.weight.grad, layer.bias.grad)
    dense, update, backward = (found[s] for s in ("none", "grad_output_update", "grad_output_input"))
    assert torch.equal(update[0], dense[0])
    assert not torch.equal(update[1], dense[1])
    assert torch.equal(backward[1], dense[1])
    assert not torch.equal(backward[0], dense[0])
    assert torch.equal(update[2], dense[2])  # the bias gets the dense gradient
    assert torch.equal(backward[2], dense[2])
