"""Biases as integer engines add them: whole numbers of input scale times weight scale, in 32 bits."""

import torch
from torch import nn

from pennyweight.errors import ArtifactError
from pennyweight.nn.gemm import GemmModule
from pennyweight.nn.slots.integer import IntegerInput, IntegerWeight, RunningInput
from pennyweight.nn.slots.stored import StoredCodes
from pennyweight.numerics.affine import PerGroup

# A bias is added to a sum of products; half the range of 32 bits is left for the sum.
_MOST_STEPS = float(1 << 30)


@torch.no_grad()
def align_biases_(model: nn.Module) -> dict[str, float]:
    """Round the bias of each layer that multiplies codes to the steps an integer engine counts in.

    That moves a bias by at most half of input scale times weight scale, far below a step of any activation; but a
    value that lies between two codes may then fall on the other side, and in a deep net such flips spread. A model
    that is aligned before it is measured is exactly the model that its .onnx file holds.

    Weights that are next to nothing beside their bias, whose bias would not fit 32 bits, get a larger scale.

    Returns:
        For each layer the largest change of its bias; layers that lose nothing are among them with 0.

    Raises:
        ArtifactError: a bias does not fit, and the layer's weights are stored codes whose scale cannot change.

    Example:
        >>> import pennyweight as pw
        >>> model, x = pw.create_model("mlp"), torch.rand(4, 1, 8, 8)
        >>> applied = pw.apply_(model, pw.RoundToNearest(), data=[x])
        >>> sorted(align_biases_(model)), max(align_biases_(model).values())
        (['linear1', 'linear2', 'linear3'], 0.0)
    """
    changes = {}
    for fqn, module in model.named_modules():
        if not isinstance(module, GemmModule) or module.bias is None:
            continue
        entering, content = module.slots.input.quantizer, module.slots.weight.quantizer
        if not isinstance(entering, IntegerInput | RunningInput):
            continue
        if isinstance(content, IntegerWeight) and not isinstance(content.granularity, PerGroup):
            least = module.bias.abs() / (_MOST_STEPS * entering.scale)
            content.scale.copy_(torch.maximum(content.scale, least if content.scale.dim() else least.max()))
        elif not isinstance(content, StoredCodes) or content.scale is None:
            continue
        scale = content.scale
        assert isinstance(scale, torch.Tensor)
        step = entering.scale * scale
        steps = (module.bias / step).round()
        if not bool((steps.abs() <= _MOST_STEPS * 1.001).all()):
            raise ArtifactError(
                f"the bias of layer {fqn!r} is up to {float(steps.abs().max()):.3g} times its step, beyond 32 bits: "
                f"export the model the artifact was made of"
            )
        changes[fqn] = float((steps * step - module.bias).abs().max())
        module.bias.copy_(steps * step)
    return changes
