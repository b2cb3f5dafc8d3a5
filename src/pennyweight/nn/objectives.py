"""Loss functions of classifiers: what a training step minimises.

Each gives one loss a sample; the training loop divides their sum by the samples of the whole step, so that ragged
batches, copies and ranks agree. Objectives that need more than outputs and targets are functions of (model, batch)
and live with their system.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch.nn.functional as F
from torch import Tensor

from pennyweight.errors import NumericsError, RecipeError, did_you_mean


def cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of the softmax of `outputs`, for each sample.

    Args:
        outputs: (batch, classes), logits.
        targets: (batch,), int64, class numbers from 0.

    Returns:
        (batch,), in nats.

    Example:
        >>> import torch
        >>> cross_entropy(torch.zeros(1, 4), torch.tensor([2]))  # ln 4: no idea which of four
        tensor([1.3863])
    """
    _check_shapes(outputs, targets)
    return F.cross_entropy(outputs, targets, reduction="none")


def squared_hinge(outputs: Tensor, targets: Tensor) -> Tensor:
    """Squared hinge loss of one-against-all margins, for each sample: the L2-SVM objective of binarized nets.

    The mean over classes of max(0, 1 - t o)^2, with t = +1 for the sample's class and -1 for all others; the mean over
    a batch of it is the loss of the paper's code, and its gradient with respect to o is -2 t max(0, 1 - t o) / numel.

    Args:
        outputs: (batch, classes), margins.
        targets: (batch,), int64, class numbers from 0.

    Returns:
        (batch,), at least float32.

    Source: arXiv 1602.02830, section 2.1 (L2-SVM output layer); mean over classes as in the paper's code.
    Deviations: none.

    Example:
        >>> import torch
        >>> squared_hinge(torch.tensor([[2.0, -0.5]]), torch.tensor([0]))  # only the second margin is too small
        tensor([0.1250])
    """
    _check_shapes(outputs, targets)
    # float32 signs: half-precision outputs of autocast are promoted, float64 stays
    signs = F.one_hot(targets, outputs.shape[1]).float() * 2.0 - 1.0
    return (1.0 - signs * outputs).clamp_min(0.0).square().mean(1)


SampleLosses = Callable[[Tensor, Tensor], Tensor]
"""(outputs, targets) -> one loss a sample."""

OBJECTIVES: Mapping[str, SampleLosses] = MappingProxyType(
    {"cross_entropy": cross_entropy, "squared_hinge": squared_hinge}
)


def objective_named(name: str) -> SampleLosses:
    """The loss function of that name.

    Raises:
        RecipeError: no such name; the message has the nearest one.
    """
    if name not in OBJECTIVES:
        raise RecipeError(f"unknown objective {name!r}: {did_you_mean(name, OBJECTIVES)}")
    return OBJECTIVES[name]


def _check_shapes(outputs: Tensor, targets: Tensor) -> None:
    if outputs.dim() != 2 or targets.shape != outputs.shape[:1]:
        raise NumericsError(
            f"a classifier's loss needs outputs (batch, classes) and targets (batch,), got {tuple(outputs.shape)} and "
            f"{tuple(targets.shape)}; for other shapes pass objective=<function of (model, batch)>"
        )
