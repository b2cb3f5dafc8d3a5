"""Kernel repetition by brute force, and flips that were made by hand."""

from collections.abc import Iterator

import pytest
import torch
from torch import nn

import pennyweight as pw
from pennyweight.data.loader import Batch
from pennyweight.nn.binary_statistics import FlipRate, binary_layers, kernel_repetition
from pennyweight.nn.objectives import cross_entropy


def binary_conv(*args: int, seed: int = 0, **options: int) -> nn.Sequential:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Conv2d(*args, **options))  # type: ignore[arg-type]
    pw.apply_(model, pw.BNN(first_input="binary"))
    return model


def kernels_of(conv: nn.Module) -> Iterator[tuple[int, tuple[bool, ...]]]:
    """(input channel, signs with the inverse folded in) of each kernel."""
    weight = conv.weight.detach()
    assert isinstance(weight, torch.Tensor)
    per_group = weight.shape[1]
    for out in range(len(weight)):
        group = out * int(conv.groups) // len(weight)  # type: ignore[call-overload]
        for i in range(per_group):
            taps = tuple(value >= 0 for value in weight[out, i].flatten().tolist())
            yield group * per_group + i, min(taps, tuple(not tap for tap in taps))


@pytest.mark.parametrize(("args", "groups"), [((3, 40, 3), 1), ((8, 24, 3), 4), ((5, 5, 1), 5), ((2, 30, 5), 2)])
def test_brute_force(args: tuple[int, ...], groups: int) -> None:
    model = binary_conv(*args, groups=groups)
    (row,) = kernel_repetition(model)
    kernels = list(kernels_of(model[0]))
    unique = len({taps for _, taps in kernels})
    assert (row["layer"], row["kernels"], row["unique"]) == ("0", len(kernels), unique)
    assert row["unique_percent"] == pytest.approx(100 * unique / len(kernels))
    assert row["popcount_saving"] == pytest.approx(len(kernels) / len(set(kernels)))


def test_all_3x3_kernels_are_256_with_their_inverses() -> None:
    model = binary_conv(1, 512, 3)
    with torch.no_grad():
        codes = torch.arange(512)
        model[0].weight.copy_(((codes[:, None] >> torch.arange(9)) & 1).float().mul(2).sub(1).view(512, 1, 3, 3))
    (row,) = kernel_repetition(model)
    assert (row["unique"], row["popcount_saving"]) == (256, 2.0)


def test_linear_layers_have_no_kernels_and_float_layers_no_signs() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(2, 2))
    assert kernel_repetition(model) == []
    assert FlipRate(model).rates() == {}
    pw.apply_(model, pw.BNN(exclude=("0",)))
    assert list(binary_layers(model)) == ["2"]
    assert kernel_repetition(model) == []


def test_flip_rates_count_signs_not_sizes() -> None:
    model = binary_conv(3, 7, 3)
    flips = FlipRate(model)
    weight = model[0].weight
    with torch.no_grad():
        weight.mul_(0.5)
        assert flips.rates() == {"0": 0.0}
        weight.view(-1)[:10].neg_()
        weight.view(-1)[20:23].neg_()
    assert flips.rates() == {"0": 13 / weight.numel()}
    assert flips.rates() == {"0": 0.0}


def test_an_objective_that_logs_flips_sees_every_step() -> None:
    model = pw.create_model("mlp", hidden=(16,), bn_output=True)
    pw.apply_(model, pw.BNN())
    flips, log = FlipRate(model), []

    def objective(net: nn.Module, batch: Batch) -> torch.Tensor:
        log.append(flips.rates())
        return cross_entropy(net(batch.inputs), batch.targets)

    regime = pw.Regime.constant(steps=4, lr=0.02, batch_size=32, optimizer="adam")
    pw.train(model, pw.load_dataset("digits"), regime, objective=objective, progress=False, device="cpu")
    log.append(flips.rates())
    assert [list(rates) for rates in log] == [["linear1", "linear2"]] * 5
    assert set(log[0].values()) == {0.0}
    assert all(0.0 < rates["linear1"] < 0.5 for rates in log[1:])
