"""`slot_recurrent_`: torch's recurrent modules inside a model become their twins, whose gates methods can find."""

from typing import Any

from torch import nn

from pennyweight.nn.recurrent.cells import GemmGRUCell, GemmLSTMCell, GemmRNNCell
from pennyweight.nn.recurrent.layers import GemmGRU, GemmLSTM, GemmRNN
from pennyweight.nn.surgery import swap_modules_

RECURRENT: dict[type[nn.Module], Any] = {
    nn.LSTM: GemmLSTM,
    nn.GRU: GemmGRU,
    nn.RNN: GemmRNN,
    nn.LSTMCell: GemmLSTMCell,
    nn.GRUCell: GemmGRUCell,
    nn.RNNCell: GemmRNNCell,
}
"""The twin of each of torch's modules."""


def slot_recurrent_(model: nn.Module) -> list[str]:
    """Replace torch's recurrent modules by twins with slots, which compute the same and have the same state-dict keys.

    Left alone, and named by the methods as weights that stay float: subclasses, which would lose what they add, LSTMs
    with projections, and the model itself, which cannot be replaced inside itself.

    Returns:
        The names of what was replaced.

    Example:
        >>> model = nn.Sequential(nn.Embedding(10, 4), nn.LSTM(4, 8, batch_first=True))
        >>> slot_recurrent_(model)
        ['1']
    """
    found = {
        fqn: RECURRENT[type(module)].from_module(module)
        for fqn, module in model.named_modules()
        if fqn and type(module) in RECURRENT and not getattr(module, "proj_size", 0)
    }
    swap_modules_(model, found)
    return list(found)
