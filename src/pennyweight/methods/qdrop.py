"""`QDrop`: learned rounding of whole blocks while a random part of the activations stays in float."""

from dataclasses import dataclass
from typing import ClassVar

from pennyweight.errors import MethodError
from pennyweight.methods.adaround import check_learning
from pennyweight.methods.base import Paper
from pennyweight.methods.reconstruction.adaround import CHOSEN, Chosen
from pennyweight.methods.reconstruction.base import LayerwiseQuantization
from pennyweight.methods.reconstruction.qdrop import QDropSolver
from pennyweight.methods.reconstruction.solver import Solver
from pennyweight.methods.reconstruction.unit import UnitKind


@dataclass(frozen=True, kw_only=True)
class QDrop(LayerwiseQuantization):
    """Learn the rounding of whole blocks while random activations stay in float, so that it suits both.

    What: as `AdaRound`, but a block's layers are learned together on the error of the block's output, and in each step
    every activation inside is left in float with a probability. What is learned must then work near the quantized
    activations, not at them alone. States are judged with all activations quantized and hard choices; the best is kept,
    the start included.

    When to use: at 2 to 4 bits of weights and activations together, for nets made of blocks.

    Claim: the first to make 2-bit activations usable without training: ResNet-18 on ImageNet at W2A2 51 % against a
    float 71 % (arXiv 2203.05740 and its code's page).

    Measured here: in the runs that `AdaRound` tells of, the best of all solvers: W2A4 88.55, W3A3 89.61, in 1.5 times
    `AdaRound`'s time (`results/post_training_solvers-*`).

    Caveats: blocks bring this, dropping had no part in it: on 2,000 of the test images W2A4 came to 89.0 with it and to
    89.3 without (`dev/LOG.md`). A block's samples and back-propagation take more memory and time a step than a layer's.
    Layers that are in no block are learned alone. The arithmetic is simulated in float32; storage is real.

    Source: arXiv 2203.05740, section 3.3; arXiv 2102.05426 for blocks.

    Deviations: those of `AdaRound`. A block's input comes from the quantized prefix, or from the float model, as `mode`
    says, and its entries are dropped behind the quantizer like all others; the paper's code also mixes the prefix's
    input with the float model's, entry by entry. The probability is rounded to a multiple of 1/256.

    Args:
        unit: "block" for the smallest modules with several layers, or "layer".
        tune: what is learned: any of "rounding", "bias", "input_scale".
        drop: probability that an activation stays in float in a step, entry by entry; 0 for block-wise `AdaRound`.
        steps: of Adam, a unit; the paper takes 20 000.
        batch_size: samples a step.
        rate: Adam's for the choices at the start; None for 60 / steps.
        regularization: weight of the penalty, see `AdaRound`; 0 for none.
        keep_best: end with the best state seen; False ends with the last.
    """

    unit: UnitKind = "block"
    tune: tuple[Chosen, ...] = CHOSEN
    drop: float = 0.5
    steps: int = 1000
    batch_size: int = 32
    rate: float | None = None
    regularization: float = 0.1
    keep_best: bool = True

    paper: ClassVar[Paper] = Paper(
        "2203.05740", "QDrop: Randomly Dropping Quantization for Extremely Low-bit PTQ", 2022
    )

    def __post_init__(self) -> None:
        """Check the settings."""
        super().__post_init__()
        check_learning(self.steps, self.batch_size, self.rate, self.regularization)
        if not 0 <= self.drop <= 1:
            raise MethodError(f"drop={self.drop}: a probability, in [0, 1]")

    def solver(self, *, rehearsal: bool) -> Solver:
        """Adam over what `tune` names, with a random part of the activations in float."""
        return QDropSolver(
            tune=self.tune,
            drop=self.drop,
            steps=0 if rehearsal else self.steps,
            batch_size=self.batch_size,
            rate=self.rate,
            regularization=self.regularization,
            keep_best=self.keep_best,
        )
