"""`evaluate`: accuracy and loss over a whole data set, with the interval of the accuracy."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pennyweight.data.dataset import ImageDataset
from pennyweight.data.loader import Batch, eval_batches
from pennyweight.errors import DataError, NumericsError
from pennyweight.nn.modes import in_mode
from pennyweight.nn.objectives import objective_named
from pennyweight.numerics.measure import Interval, interval_proportion


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What a classifier achieved on a data set.

    Args:
        accuracy: fraction of samples whose highest output is their class.
        loss: mean over samples.
        n: samples.
        interval: of the accuracy at 95 % confidence (Wilson), for samples drawn like these.
        predictions: (n,) int64 on the CPU, in the data's order.
    """

    accuracy: float
    loss: float
    n: int
    interval: Interval
    predictions: Tensor


def evaluate(
    model: nn.Module | Callable[[Tensor], Tensor],
    data: ImageDataset | Iterable[Batch],
    *,
    batch_size: int = 128,
    device: torch.device | str | None = None,
    objective: str = "cross_entropy",
) -> Evaluation:
    """Classify all samples in evaluation mode; each module gets back the mode it had.

    Under torchrun each rank evaluates everything; after `train` their models are equal.

    Args:
        model: a module, or any function from images to outputs (batch, classes).
        data: a data set, or batches of one.
        batch_size: samples at a time, at least 1; does not change the result of a sample. Activations of the default
            stay in a CPU's caches: 500 take half as long again.
        device: None takes the device the model is on; another one moves it there.
        objective: whose mean is reported as the loss.

    Raises:
        DataError: there are no samples.
        NumericsError: an output is NaN.

    Example:
        >>> import pennyweight as pw
        >>> evaluation = pw.evaluate(pw.create_model("mlp"), pw.load_dataset("digits", "test"))
        >>> evaluation.interval.low <= evaluation.accuracy <= evaluation.interval.high
        True
    """
    loss_of = objective_named(objective)
    if isinstance(model, nn.Module):
        if device is not None:
            model.to(device)
        first = next(iter((*model.parameters(), *model.buffers())), None)
        device = first.device if first is not None else device
        with in_mode(model, training=False):
            return _evaluate(model, data, batch_size, device, loss_of)
    return _evaluate(model, data, batch_size, device, loss_of)


@torch.no_grad()
def _evaluate(
    model: Callable[[Tensor], Tensor],
    data: ImageDataset | Iterable[Batch],
    batch_size: int,
    device: torch.device | str | None,
    loss_of: Callable[[Tensor, Tensor], Tensor],
) -> Evaluation:
    if batch_size < 1:
        raise DataError(f"batch_size={batch_size}: must be at least 1")
    place = torch.device("cpu" if device is None else device)
    batches = eval_batches(data, batch_size, device=place) if isinstance(data, ImageDataset) else data
    predictions, targets, losses = [], [], []
    for batch in batches:
        outputs = model(batch.inputs.to(place)).float()
        wanted = batch.targets.to(outputs.device)
        losses.append(loss_of(outputs, wanted).double().cpu())
        if outputs.isnan().any():
            raise NumericsError(
                f"{int(outputs.isnan().sum())} of {outputs.numel()} outputs of the model are NaN, first at batch "
                f"{len(losses) - 1}: look for NaN in its weights and in the data"
            )
        predictions.append(outputs.argmax(1).cpu())
        targets.append(wanted.cpu())
    if not predictions:
        raise DataError("no samples to evaluate: the data set is empty")
    predicted = torch.cat(predictions)
    correct = int((predicted == torch.cat(targets)).sum())
    n = len(predicted)
    return Evaluation(
        accuracy=correct / n,
        loss=float(torch.cat(losses).mean()),
        n=n,
        interval=interval_proportion(correct, n),
        predictions=predicted,
    )
