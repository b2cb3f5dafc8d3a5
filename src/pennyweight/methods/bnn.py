"""`BNN`: binary weights and activations."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from pennyweight.errors import MethodError
from pennyweight.methods.base import Applied, Context, Method, Paper
from pennyweight.methods.latent import glorot_lr_scale, rectifiers, refuse_functional_rectifiers, spread_latent_
from pennyweight.nn.gemm import WEIGHTED, GemmModule, as_gemm
from pennyweight.nn.masked_hardtanh import MaskedHardtanh
from pennyweight.nn.saved_bits import save_bits_
from pennyweight.nn.shift_batchnorm import SHIFT_OF
from pennyweight.nn.slots.binary import BinaryInput, BinaryWeight
from pennyweight.nn.slots.integer import RunningInput
from pennyweight.nn.surgery import match, swap_modules_
from pennyweight.numerics.checks import require_finite
from pennyweight.numerics.formats import IntFormat
from pennyweight.numerics.random import Key
from pennyweight.numerics.shift import ap2
from pennyweight.numerics.ste import Surrogate


@dataclass(frozen=True, kw_only=True)
class BNN(Method):
    """Binarize weights and activations to +1 and -1, with latent float weights for training.

    What: each matched Linear and convolution multiplies sign(W) by sign(x). Gradients pass the weight's sign unchanged
    and the activation's where |x| <= 1; latent weights are clipped to [-1, 1] after each step. Activation modules
    between layers become hard tanh, because the sign of a rectified value is always +1. The net's first layer sees
    8-bit integers instead of signs. Latent weights start with the spread of U(-1, 1) and keep their signs.

    When to use: nets with batch norm before each activation, when 1-bit storage and popcount arithmetic are the aim.
    Train from scratch; a net trained in float loses its accuracy until it is trained again.

    Claim: nearly state of the art on MNIST, CIFAR-10 and SVHN (arXiv 1602.02830).

    Measured here: MNIST, MLP 3x512, 20 epochs: 98.20 against 98.58 in float, 0.37 points lost [0.12, 0.62], 3 seeds;
    MLP 3x256, 6 epochs, 97.64 in float: by Adam 0.69 points lost [0.53, 0.85], by shifts and stochastic neurons 0.68
    [0.22, 1.14]; VGG small at an eighth of the width after 2 epochs of CIFAR-10 is 17 points behind
    (`results/claims-*`). A packed MLP runs 8.5 times as fast as float at batch 256 (`results/packed_mlp-*`).
    `save_bits` keeps 6 to 9.6 times fewer bytes of activations, for 1.4 to 2.2 times the time of a step
    (`results/bnn_memory-*`).

    Caveats: without batch norm it hardly trains. Narrow nets lose most. Dropout before a binary layer does not drop,
    since the sign of the zero it puts is +1. The packed runtime executes linear layers and 2-D convolutions on words of
    64 signs; others run unpacked, and the artifact says which. `save_bits` costs time, and gains little with "approx"
    and "swish", whose gradients need the value itself.

    Source: arXiv 1602.02830, algorithm 1; learning-rate scaling from its code.

    Args:
        stochastic_activations: draw activations' signs while training instead of taking them.
        first_input: what the net's first weighted layer receives: "int8" or "binary".
        batch_norm: "keep" the net's, or "shift" to replace it by shift-based batch norm.
        glorot_scaling: multiply each latent weight's learning rate by sqrt((fan_in + fan_out) / 1.5).
        round_scaling: round that factor to a power of two, as the code of the paper's CIFAR-10 net does.
        clip: clip latent weights to [-1, 1] after each step.
        ste: gradient of the activations' sign: "hardtanh" (the paper's), "identity", "approx" or "swish"; see
            `numerics.ste.surrogate_sign`. With "identity" and "swish", which reach beyond [-1, 1], activation modules
            become identities.
        save_bits: keep for the backward pass signs, masks and integer sums in bits instead of float32, see
            `nn.saved_bits`: the same gradients from a fraction of the memory, for some time.
        seed: root of the stochastic draws.
    """

    stochastic_activations: bool = False
    first_input: Literal["int8", "binary"] = "int8"
    batch_norm: Literal["keep", "shift"] = "keep"
    glorot_scaling: bool = True
    round_scaling: bool = False
    clip: bool = True
    ste: Surrogate = "hardtanh"
    save_bits: bool = False
    seed: int = 0

    targets: ClassVar[tuple[type[nn.Module], ...]] = WEIGHTED
    # The mask too: the sign of a pruned weight would be +1.
    touches: ClassVar[frozenset[str]] = frozenset({"gemm.weight.quantize", "gemm.weight.mask", "gemm.input.quantize"})
    paper: ClassVar[Paper] = Paper("1602.02830", "Binarized Neural Networks", 2016)

    def __post_init__(self) -> None:
        """Check the settings."""
        super().__post_init__()
        if self.round_scaling and not self.glorot_scaling:
            raise MethodError("round_scaling=True rounds the factor of glorot_scaling, which is False: set one of them")

    def claims(self, model: nn.Module) -> dict[str, frozenset[str]]:
        """The layers' operand slots, and the batch norms where they are replaced."""
        claims = super().claims(model)
        norms = self._norms(model) if self.batch_norm == "shift" else {}
        return claims | dict.fromkeys(norms, frozenset({"norm"}))

    def _norms(self, model: nn.Module) -> dict[str, nn.Module]:
        return {fqn: module for fqn, module in model.named_modules() if type(module) in SHIFT_OF}

    def _apply(self, model: nn.Module, context: Context) -> Applied:
        refuse_functional_rectifiers(model)
        layers = match(model, self.include, self.exclude, self.targets)
        for fqn, layer in layers.items():
            assert isinstance(layer.weight, Tensor)
            require_finite(layer.weight, f"weight of layer {fqn!r}")
        first = next(fqn for fqn, module in model.named_modules() if isinstance(module, WEIGHTED))
        swaps: dict[str, nn.Module] = {fqn: as_gemm(layer) for fqn, layer in layers.items()}
        for fqn, layer in swaps.items():
            self._binarize(fqn, layer, is_first=fqn == first)
        swaps |= {fqn: self._activation() for fqn in rectifiers(model)}
        if self.batch_norm == "shift":
            for fqn, norm in self._norms(model).items():
                assert isinstance(norm, nn.modules.batchnorm._BatchNorm)
                swaps[fqn] = SHIFT_OF[type(norm)].from_module(norm)
        if self.save_bits:
            save_bits_(model)
        swap_modules_(model, swaps)
        return Applied(method=self, changed=tuple(swaps))

    def _activation(self) -> nn.Module:
        if self.ste in ("identity", "swish"):
            return nn.Identity()
        return MaskedHardtanh() if self.save_bits else nn.Hardtanh()

    def _binarize(self, fqn: str, layer: nn.Module, is_first: bool) -> None:
        assert isinstance(layer, GemmModule)
        lr_scale = glorot_lr_scale(layer.weight) if self.glorot_scaling else 1.0
        if self.round_scaling:
            lr_scale = float(ap2(torch.tensor(lr_scale, dtype=torch.float64)))
        layer.slots.fill("weight", BinaryWeight(clip=self.clip, lr_scale=lr_scale))
        if is_first and self.first_input == "int8":
            layer.slots.fill("input", RunningInput(IntFormat(8)))
        else:
            key = Key(self.seed).fold("binary input", fqn) if self.stochastic_activations else None
            layer.slots.fill("input", BinaryInput(stochastic=self.stochastic_activations, key=key, ste=self.ste))
        spread_latent_(layer.weight)
