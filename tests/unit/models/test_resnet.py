"""The CIFAR residual networks: sizes, names, shortcut."""

import pytest
import torch
from torch import nn

from pennyweight.errors import RecipeError
from pennyweight.models import CifarResNet
from pennyweight.models.resnet import SubsampleShortcut

PARAMETERS = {20: 269_722, 32: 464_154, 44: 658_586, 56: 853_018}  # counted on the public checkpoints


@pytest.mark.parametrize("depth", PARAMETERS)
def test_parameter_counts_are_those_of_the_public_nets(depth: int) -> None:
    assert sum(p.numel() for p in CifarResNet(depth).parameters()) == PARAMETERS[depth]


def test_state_dict_names_are_those_of_the_public_nets() -> None:
    names = set(CifarResNet(20).state_dict())
    assert {"conv1.weight", "bn1.running_var", "layer2.0.conv2.weight", "layer3.2.bn2.bias", "linear.bias"} <= names
    assert not any("shortcut" in name or "pool" in name or "relu" in name for name in names)


def test_shortcut_subsamples_and_pads_with_zeros_on_both_sides() -> None:
    x = torch.rand(2, 3, 5, 4)
    y = SubsampleShortcut(2, (1, 2))(x)
    assert y.shape == (2, 6, 3, 2)
    assert y[:, 1:4].equal(x[:, :, ::2, ::2])
    assert y[:, [0, 4, 5]].count_nonzero() == 0


@pytest.mark.parametrize(("width", "size"), [(16, 32), (5, 8), (1, 7)])
def test_any_width_and_image_size(width: int, size: int) -> None:
    model = CifarResNet(8, width=width, num_classes=7, input_shape=(1, size, size))
    assert model(torch.zeros(2, 1, size, size)).shape == (2, 7)


def test_every_activation_is_a_module_of_its_own() -> None:
    names = [name for name, m in CifarResNet(8).named_modules(remove_duplicate=False) if isinstance(m, nn.ReLU)]
    assert len(names) == 1 + 3 * 2


@pytest.mark.parametrize(
    "options", [{"depth": 21}, {"depth": 2}, {"depth": 20, "width": 0}, {"depth": 8, "num_classes": 0}]
)
def test_impossible_options(options: dict[str, int]) -> None:
    with pytest.raises(RecipeError, match="resnet"):
        CifarResNet(**options)
