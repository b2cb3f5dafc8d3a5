"""Binary slot contents: latent weights and activations of which only the sign enters the product."""

from typing import ClassVar

import torch
from torch import Tensor, nn

from pennyweight.nn.slots.chain import Codes, SlotContent, Stage
from pennyweight.numerics.checks import require_signs
from pennyweight.numerics.random import Key
from pennyweight.numerics.ste import Surrogate, sign_ste, stochastic_sign_ste, surrogate_sign


class BinaryWeight(SlotContent):
    """sign(W) of latent weights W; the gradient passes to W unchanged, and W is clipped to [-1, 1] after each step.

    Without the clip the latent weights drift away without any effect on the product, and never flip back. They take no
    weight decay, which would only make signs flip.

    Args:
        clip: project the latent weights.
        lr_scale: multiplies their learning rate.

    Source: arXiv 1602.02830, algorithm 1.
    """

    stage: ClassVar[Stage] = "quantize"
    decays = False
    is_sign = True

    def __init__(self, *, clip: bool = True, lr_scale: float = 1.0) -> None:
        super().__init__()
        self.clip = clip
        self.lr_scale = lr_scale

    def codes(self, x: Tensor) -> Codes:
        """+1 or -1 for each weight; sign(0) = +1.

        Raises:
            NumericsError: a weight is NaN.
        """
        require_signs(x, "the weight to binarize")
        return sign_ste(x, clip=False), None

    def forward(self, x: Tensor) -> Tensor:
        """The binary weights."""
        return self.codes(x)[0]

    def project_(self, parameter: nn.Parameter) -> None:
        """Clip the latent weights to [-1, 1]."""
        if self.clip:
            parameter.clamp_(-1.0, 1.0)

    def extra_repr(self) -> str:
        """Shown by print(model)."""
        return f"clip={self.clip}, lr_scale={self.lr_scale:.4g}"


class BinaryInput(SlotContent):
    """sign(x) of activations; the gradient passes where |x| <= 1, as through a hard tanh, or by another surrogate.

    Args:
        stochastic: while training draw +1 with probability clip((x + 1) / 2, 0, 1); always deterministic in
            evaluation.
        key: root of the counter-based draws; a buffer counts them, so that a resumed run draws what an uninterrupted
            one would have.
        ste: the gradient, see `numerics.ste.surrogate_sign`.

    Source: arXiv 1602.02830, section 1.1 and equation 4.
    """

    stage: ClassVar[Stage] = "quantize"
    draws: Tensor

    def __init__(self, *, stochastic: bool = False, key: Key | None = None, ste: Surrogate = "hardtanh") -> None:
        super().__init__()
        assert key is not None or not stochastic, "stochastic binarization needs a key"
        self.stochastic = stochastic
        self.key = key
        self.ste: Surrogate = ste
        if stochastic:
            self.register_buffer("draws", torch.zeros((), dtype=torch.int64))

    def codes(self, x: Tensor) -> Codes:
        """+1 or -1 for each activation.

        Raises:
            NumericsError: an activation is NaN.
        """
        require_signs(x, "the activations to binarize")
        if not (self.stochastic and self.training):
            return surrogate_sign(x, self.ste), None
        assert self.key is not None
        key = self.key.fold(int(self.draws))
        self.draws += 1
        return stochastic_sign_ste(x, key, self.ste), None

    def forward(self, x: Tensor) -> Tensor:
        """The binary activations."""
        return self.codes(x)[0]

    def extra_repr(self) -> str:
        """Shown by print(model)."""
        return f"stochastic={self.stochastic}, ste={self.ste!r}"
