"""How many samples determine a layer's weights: counted against the rank of its least-squares problem."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import pennyweight as pw
from pennyweight.methods.reconstruction.min_samples import min_samples

RANDOM = torch.Generator().manual_seed(0)
LAYERS: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "linear": (nn.Linear(20, 3), (20,)),
    "tokens": (nn.Linear(20, 3), (6, 20)),
    "conv": (nn.Conv2d(5, 4, 3), (5, 5, 5)),
    "strided": (nn.Conv2d(5, 4, 3, stride=2, padding=1), (5, 6, 6)),
    "grouped": (nn.Conv2d(6, 4, 3, groups=2), (6, 4, 4)),
    "conv1d": (nn.Conv1d(7, 2, 3), (7, 5)),
}


def equations(layer: nn.Module, x: Tensor) -> Tensor:
    """The matrix whose product with one channel's weights is that channel's output."""
    if isinstance(layer, nn.Linear):
        return x.reshape(-1, x.shape[-1])
    wide = x if x.dim() == 4 else x[:, :, None]
    assert isinstance(layer, nn.Conv1d | nn.Conv2d)
    kernel = layer.kernel_size if len(layer.kernel_size) == 2 else (1, *layer.kernel_size)
    stride = layer.stride if len(layer.stride) == 2 else (1, *layer.stride)
    padding = (0, 0) if isinstance(layer.padding, str) or len(layer.padding) == 1 else layer.padding
    patches = F.unfold(wide[:, : wide.shape[1] // layer.groups], kernel, padding=padding, stride=stride)
    return patches.transpose(1, 2).reshape(-1, patches.shape[1])


@pytest.mark.parametrize("name", LAYERS)
def test_with_so_many_samples_the_problem_has_full_rank_and_with_one_fewer_not(name: str) -> None:
    layer, shape = LAYERS[name]
    x = torch.randn((64, *shape), generator=RANDOM)
    needed = min_samples(nn.Sequential(layer), ["0"], x[:2])["0"]
    weights = layer.weight[0].numel()  # type: ignore[union-attr, index, operator]
    assert len(equations(layer, x[:needed])) >= weights
    assert needed == 1 or len(equations(layer, x[: needed - 1])) < weights
    assert int(torch.linalg.matrix_rank(equations(layer, x[: needed + 3]).double())) == weights


def test_of_the_specification() -> None:
    net = nn.Sequential(nn.Conv2d(512, 8, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    assert min_samples(net, ["0"], torch.zeros(1, 512, 7, 7)) == {"0": 95}  # 4608 / 49


def test_the_units_table_says_who_was_short() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5)).eval()
    x = torch.randn((16, 3, 8, 8), generator=RANDOM)
    applied = pw.apply_(model, pw.AdaQuant(weights="int4", activations="uint8", steps=1), data=[x])
    assert not isinstance(applied, list)
    assert [(row["samples"], row["samples needed"]) for row in applied.tables["Units"]] == [(16, 1), (16, 144)]
    assert applied.metrics["units_short_of_samples"] == 1
    assert applied.metrics["samples_needed"] == 144
    assert applied.metrics["samples_needed_by"] == "3"
