"""Statistics of binary weights: how often kernels repeat, and how many signs flip while training."""

import torch
from torch import Tensor, nn

from pennyweight.nn.gemm import GemmModule
from pennyweight.nn.slots.binary import BinaryWeight
from pennyweight.numerics.packing import pack_bits

Row = dict[str, float | int | str]


def binary_layers(model: nn.Module) -> dict[str, GemmModule]:
    """The layers whose weights are signs, by name."""
    return {
        fqn: module
        for fqn, module in model.named_modules()
        if isinstance(module, GemmModule) and isinstance(module.slots.weight.quantizer, BinaryWeight)
    }


@torch.no_grad()
def kernel_repetition(model: nn.Module) -> list[Row]:
    """A row for each binary convolution: how many of its kernels are different, and what repetition could save.

    A kernel is the part of a filter that sees one input channel; a kernel and its inverse count as one, since the
    response to one is minus that to the other. A layer of 3x3 kernels thus has at most 256 different ones.

    Returns:
        layer; kernels; unique, over the whole layer; unique_percent; popcount_saving: kernels over the sum over input
        channels of the different kernels that see the channel, the factor by which fewer XNOR-popcounts would do where
        each response is computed once and shared by all filters. Modelled: nothing here executes so.

    Source: arXiv 1602.02830, section 3.2.

    Example:
        >>> import pennyweight as pw
        >>> conv = nn.Conv2d(2, 4, 1, bias=False)  # 1x1 kernels are +1 or -1: one, with its inverse
        >>> model = nn.Sequential(conv)
        >>> _ = pw.apply_(model, pw.BNN())
        >>> kernel_repetition(model)[0]["popcount_saving"]
        4.0
    """
    rows: list[Row] = []
    for fqn, layer in binary_layers(model).items():
        weight = layer.weight.detach()
        if weight.dim() < 3:
            continue
        groups = int(getattr(layer, "groups", 1))
        signs = (weight.flatten(2) >= 0).to(torch.int8)  # (filters, channels of a group, taps)
        kernels = (signs ^ signs[..., :1]).flatten(0, 1)  # the first tap of each made 0: inverses become equal
        channel = torch.arange(weight.shape[1], device=weight.device).repeat(len(weight))
        channel += (
            torch.arange(len(weight), device=weight.device).repeat_interleave(weight.shape[1])
            // (len(weight) // groups)
            * weight.shape[1]
        )
        seen = torch.cat([channel[:, None], kernels.to(channel.dtype)], 1)
        unique, by_channel = len(kernels.unique(dim=0)), len(seen.unique(dim=0))
        rows.append({
            "layer": fqn,
            "kernels": len(kernels),
            "unique": unique,
            "unique_percent": 100 * unique / len(kernels),
            "popcount_saving": len(kernels) / by_channel,
        })  # fmt: skip
    return rows


class FlipRate:
    """Shares of binary weights whose sign changed, by layer, from one call of `rates` to the next.

    It keeps one bit a weight. Called once a step it gives the flip rate of a step.

    Args:
        model: one with binary layers; nothing of it is changed.

    Example:
        >>> import pennyweight as pw
        >>> model = nn.Sequential(nn.Linear(2, 2, bias=False))
        >>> _ = pw.apply_(model, pw.BNN())
        >>> flips = FlipRate(model)
        >>> _ = model[0].weight.data[0].neg_()
        >>> flips.rates(), flips.rates()
        ({'0': 0.5}, {'0': 0.0})
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._before = self._signs()

    def _signs(self) -> dict[str, Tensor]:
        layers = binary_layers(self._model)
        return {fqn: pack_bits((layer.weight.detach() >= 0).to(torch.uint8), 1) for fqn, layer in layers.items()}

    def rates(self) -> dict[str, float]:
        """The share of each layer's weights that flipped since the last call, or since the beginning."""
        now, before = self._signs(), self._before
        self._before = now
        layers = binary_layers(self._model)
        return {
            fqn: _ones(bits ^ before[fqn]) / layers[fqn].weight.numel() for fqn, bits in now.items() if fqn in before
        }


def _ones(packed: Tensor) -> int:
    shifts = torch.arange(8, dtype=torch.uint8, device=packed.device)
    return int(((packed[:, None] >> shifts) & 1).sum())
