"""`AdaQuant`: weights, biases and quantizers of each layer tuned together on a few unlabelled samples."""

from dataclasses import dataclass
from typing import ClassVar

from pennyweight.errors import MethodError
from pennyweight.methods.base import Paper
from pennyweight.methods.reconstruction.adaquant import TUNED, AdaQuantSolver, Rates, Tuned
from pennyweight.methods.reconstruction.base import LayerwiseQuantization
from pennyweight.methods.reconstruction.solver import Solver


@dataclass(frozen=True, kw_only=True)
class AdaQuant(LayerwiseQuantization):
    """Tune each layer's weights, bias, scales and zero point so that its quantized output matches the float one.

    What: batch norm is folded; each layer, or block, is rounded to nearest, then Adam minimises the squared error of
    its output over a small unlabelled calibration set. Weights may move any number of steps of the grid. The best
    state is kept, the start included, so that no unit ends worse than it began.

    When to use: below 8 bits, with some hundred unlabelled samples and minutes to spend; where activations are
    quantized as well, since their ranges are tuned along.

    Claim: less than 1 % of accuracy lost on ImageNet at 4 bits but for the first and last layer (arXiv 2006.10518).

    Measured here: the public CIFAR-10 ResNet-20, float 91.73, first and last layer at 8 bits, 1,000 images, all 10,000
    test images: W4A4 91.06 (rounded 88.95), five draws of the images; W3A3 89.28 (rounded 46.78), three draws
    (`results/post_training_accuracy-*`).

    Caveats: at 2 and 3 bits of weights, learned rounding (`AdaRound`, `QDrop`) is usually better. The arithmetic is
    simulated in float32; storage is real.

    Source: arXiv 2006.10518, section 3.

    Args:
        tune: what is tuned: any of "weight", "bias", "weight_scale", "input_scale".
        rates: learning rates: "relative" to the values' sizes with a cosine schedule, or the "reference" code's
            constants.
        steps: of Adam, a unit.
        batch_size: samples a step.
        keep_best: end with the best state seen; False ends with the last.
    """

    tune: tuple[Tuned, ...] = TUNED
    rates: Rates = "relative"
    steps: int = 1000
    batch_size: int = 50
    keep_best: bool = True

    paper: ClassVar[Paper] = Paper("2006.10518", "Improving Post Training Neural Quantization", 2020)

    def __post_init__(self) -> None:
        """Check the settings."""
        super().__post_init__()
        for name in ("steps", "batch_size"):
            if getattr(self, name) < 1:
                raise MethodError(f"{name}={getattr(self, name)}: must be at least 1")

    def solver(self, *, rehearsal: bool) -> Solver:
        """Adam over what `tune` names."""
        return AdaQuantSolver(
            tune=self.tune,
            rates=self.rates,
            steps=0 if rehearsal else self.steps,
            batch_size=self.batch_size,
            keep_best=self.keep_best,
        )
