"""`pack_weight_only_`: linear layers whose weights alone are quantized, on kernels that read the packed codes."""

import torch
from torch import Tensor, nn

from pennyweight.errors import MethodError
from pennyweight.nn.gemm import GemmLinear
from pennyweight.nn.slots.integer import IntegerWeight
from pennyweight.nn.surgery import swap_modules_
from pennyweight.numerics.affine import PerGroup, PerTensor, quantize
from pennyweight.ops.weight_only import pack_weight_only, weight_only_linear

_GROUP_SIZES = (32, 64, 128, 256)


class WeightOnlyLinear(nn.Module):
    """A linear layer for inference on packed codes of 4 or 8 bits; activations are rounded to bfloat16.

    The packed tensors are no buffers: their layout belongs to this machine, and files are what artifacts are for.

    Args:
        layer: whose weight slot holds symmetric codes; it shares the bias.
    """

    def __init__(self, layer: GemmLinear) -> None:
        super().__init__()
        content = layer.slots.weight.quantizer
        assert isinstance(content, IntegerWeight)
        codes = quantize(layer.weight.detach(), content.affine)
        scale = content.scale.expand(len(codes)) if isinstance(content.granularity, PerTensor) else content.scale
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.packed = pack_weight_only(codes, scale, bits=content.format.bits)
        self.bias = layer.bias

    def forward(self, input: Tensor) -> Tensor:
        """(..., in_features) -> (..., out_features)."""
        y = weight_only_linear(input, self.packed)
        return y if self.bias is None else y + self.bias

    def extra_repr(self) -> str:
        """Shown by print(model)."""
        return f"in_features={self.in_features}, out_features={self.out_features}, bits={self.packed.bits}"


def pack_weight_only_(model: nn.Module) -> list[str]:
    """Put `WeightOnlyLinear` in the place of each linear layer whose weights alone are symmetric 4- or 8-bit codes.

    For decoding on a CPU, where it is faster the larger the layers are: with 4 bits a width of 64 is slower than
    float32, 768 several times faster. The model must afterwards only be used for inference, and outputs differ by the
    rounding of activations and scales to bfloat16.

    Returns:
        Names of the layers that were packed; all others stay.

    Raises:
        MethodError: there is not one such layer.
    """
    packed = {
        fqn: WeightOnlyLinear(module)
        for fqn, module in model.named_modules()
        if isinstance(module, GemmLinear) and _can_pack(module)
    }
    if not packed:
        raise MethodError(
            "no linear layer has weights of 4 or 8 bits and float activations: first apply "
            "RoundToNearest(weights='int4', activations=None, granularity='group:128')"
        )
    swap_modules_(model, packed)
    return list(packed)


def _can_pack(layer: GemmLinear) -> bool:
    content = layer.slots.weight.quantizer
    if layer.slots.filled.keys() != {"weight"} or not isinstance(content, IntegerWeight):
        return False
    grouped = isinstance(content.granularity, PerGroup)
    if grouped and (content.format.bits != 4 or content.granularity.group_size not in _GROUP_SIZES):  # type: ignore[union-attr]
        return False
    return (
        layer.weight.device.type == "cpu"
        and content.format.signed
        and content.format.bits in (4, 8)
        and not bool(torch.count_nonzero(content.zero_point))
    )
