"""What a step minimises, as a function of the model and a batch; loss functions proper are in `nn.objectives`."""

from collections.abc import Callable

from torch import Tensor, nn

from pennyweight.data.loader import Batch
from pennyweight.errors import RecipeError
from pennyweight.nn.objectives import objective_named

Objective = Callable[[nn.Module, Batch], Tensor]
"""(model, batch) -> one loss a sample, having called the model once."""


def objective_of(objective: str | Objective) -> Objective:
    """The objective of that name, or the function itself.

    Raises:
        RecipeError: no such name.
    """
    if not isinstance(objective, str):
        return objective
    loss_of = objective_named(objective)
    return lambda model, batch: loss_of(model(batch.inputs), batch.targets)


def one_a_sample(losses: Tensor) -> Tensor:
    """The losses themselves, once they are seen to be one for each sample.

    Raises:
        RecipeError: they are of another shape.
    """
    if losses.dim() != 1 or not len(losses):
        raise RecipeError(
            f"an objective gives one loss a sample, of shape (batch,); this one gave {tuple(losses.shape)}: "
            f"leave the mean to the loop, which divides by the samples of all ranks"
        )
    return losses
