"""Training: regimes, the loop, evaluation, optimisers and checkpoints.

The package itself can be called, as the function `train`: importing a package makes Python set it as an attribute of
its parent, over the public name `pennyweight.train`.
"""

import sys
import types
from typing import Any

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


class _CallablePackage(types.ModuleType):
    def __call__(self, *args: Any, **kwargs: Any) -> TrainResult:
        return train(*args, **kwargs)


sys.modules[__name__].__class__ = _CallablePackage
