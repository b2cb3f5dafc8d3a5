"""`GPTQ`: weights rounded column by column, each error made up for by the columns to come; no descent."""

from dataclasses import dataclass
from typing import ClassVar

from pennyweight.errors import MethodError
from pennyweight.methods.base import Paper
from pennyweight.methods.reconstruction.base import LayerwiseQuantization
from pennyweight.methods.reconstruction.gptq import GPTQSolver
from pennyweight.methods.reconstruction.solver import Solver


@dataclass(frozen=True, kw_only=True)
class GPTQ(LayerwiseQuantization):
    """Round weights column by column, letting the columns to come make up for each one's error.

    What: batch norm is folded; X^T X is summed up over what each layer receives. The columns of its weight are rounded
    one after another, and each one's error is spread over those not yet rounded so that the output changes least; in
    closed form, by the Cholesky factor of the inverse. A unit that would end worse than round to nearest keeps the
    start.

    When to use: weights at 3 or 4 bits, wide layers, transformers: seconds a layer, no learning rates, nothing kept of
    the samples but a matrix a layer. With "group:N" and `act_order` it is what most 4-bit language models are made by.

    Claim: models of 175 billion parameters at 3 and 4 bits with hardly any loss (arXiv 2210.17323).

    Measured here: in the runs that `AdaRound` tells of, in a third of the time: W3A3 86.39 (88.44 after
    `StatisticsTuning`), W2A4 31.78 (80.81) (`results/post_training_solvers-*`).

    Caveats: activations keep their round-to-nearest quantizers, and biases stay: with activations at 4 bits and below
    `AdaQuant`, `AdaRound` and `QDrop` do better. It makes up for the rounding of its own layer, not for errors of the
    layers before it. `act_order` helped at 2 bits: 52.9 against 34.2 at W2A4, on 2,000 images. Time grows with the cube
    of a row's length.

    Source: arXiv 2210.17323, algorithm 1; arXiv 2208.11580 for convolutions.

    Deviations: scales are those of the start, groups' too, not chosen anew as columns change. Columns that see nothing
    but zeros are rounded to nearest, not set to zero, and do not count for the damping. Inputs are taken behind their
    quantizer. Factors are computed in float64.

    Args:
        damping: share of the Hessian's mean diagonal added to its diagonal; at 0 inputs must span all columns.
        act_order: take columns in falling order of the power they see, not as they come.
        block_size: columns after which the rest of the weight is updated at once; decides speed alone.
        keep_best: keep the start where a unit's error has not fallen.
    """

    damping: float = 0.01
    act_order: bool = False
    block_size: int = 128
    keep_best: bool = True

    paper: ClassVar[Paper] = Paper(
        "2210.17323", "GPTQ: Accurate Post-Training Quantization for Generative Models", 2022
    )

    def __post_init__(self) -> None:
        """Check the settings."""
        super().__post_init__()
        if not self.damping >= 0:
            raise MethodError(f"damping={self.damping}: must be at least 0")
        if self.block_size < 1:
            raise MethodError(f"block_size={self.block_size}: must be at least 1")

    def solver(self, *, rehearsal: bool) -> Solver:
        """Columns in order; a rehearsal gathers the Hessians only."""
        return GPTQSolver(
            damping=self.damping,
            act_order=self.act_order,
            block_size=self.block_size,
            keep_best=self.keep_best,
            sweep=not rehearsal,
        )
