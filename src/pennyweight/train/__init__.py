"""Training: regimes, the loop, evaluation, optimisers and checkpoints."""

from pennyweight.train.evaluate import Evaluation, evaluate
from pennyweight.train.loop import TrainResult, train
from pennyweight.train.optim import ShiftAdaMax, build_optimizer
from pennyweight.train.regime import Regime, Settings

__all__ = [
    "Evaluation",
    "Regime",
    "Settings",
    "ShiftAdaMax",
    "TrainResult",
    "build_optimizer",
    "evaluate",
    "train",
]
