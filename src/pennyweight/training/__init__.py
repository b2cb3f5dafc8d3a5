"""Training: regimes, the loop, evaluation, optimisers and checkpoints.

The folder is not called `train`, because Python sets an imported package as an attribute of its parent, over the public
function `pennyweight.train`.
"""

from pennyweight.training.distillation import Distillation
from pennyweight.training.evaluate import Evaluation, evaluate
from pennyweight.training.loop import TrainResult, train
from pennyweight.training.optim import ShiftAdaMax, build_optimizer
from pennyweight.training.regime import Regime, Settings

__all__ = [
    "Distillation",
    "Evaluation",
    "Regime",
    "Settings",
    "ShiftAdaMax",
    "TrainResult",
    "build_optimizer",
    "evaluate",
    "train",
]
