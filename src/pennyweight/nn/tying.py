"""Parameters that several modules hold, such as a table of tokens and the last layer of a language model."""

from torch import nn


def tied_to(model: nn.Module, layer: nn.Module, role: str = "weight") -> str | None:
    """The name of another module that holds this parameter of the layer too; None where there is none.

    Example:
        >>> table, head = nn.Embedding(5, 3), nn.Linear(3, 5)
        >>> head.weight = table.weight
        >>> tied_to(nn.Sequential(table, head), head)
        '0'
    """
    parameter = getattr(layer, role)
    if parameter is None:
        return None
    for name, other in model.named_modules():
        if other is not layer and any(value is parameter for value in other._parameters.values()):
            return name
    return None
