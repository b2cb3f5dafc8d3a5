"""`GemmLSTMCell`, `GemmGRUCell`, `GemmRNNCell`: torch's single steps with slots in their gates."""

from typing import Any, ClassVar, TypeVar

from torch import Tensor, nn

from pennyweight.errors import MethodError
from pennyweight.nn.recurrent.gates import Gates, Mode
from pennyweight.nn.recurrent.torch_names import TorchNames, gates_of

T = TypeVar("T", bound="_GemmCell")


class _GemmCell(TorchNames):
    """What the three cells share."""

    torch_kind: ClassVar[type[nn.RNNCellBase]]
    hidden_size: int
    cell: Gates

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        nn.Module.__init__(self)
        self._take(self.torch_kind(*args, **kwargs))

    @classmethod
    def from_module(cls: type[T], module: nn.RNNCellBase) -> T:
        """The same cell with empty slots; parameters, hooks and mode are shared with the original."""
        layer = cls.__new__(cls)
        nn.Module.__init__(layer)
        layer._take(module)
        return layer

    def _take(self, module: nn.RNNCellBase) -> None:
        for key, value in module.__dict__.items():
            if key not in ("_parameters", "_modules"):
                self.__dict__[key] = value.copy() if isinstance(value, dict) else value
        self._parameters.update({name: None for name, value in module._parameters.items() if value is None})
        self.cell, ours = gates_of(_mode(module), module._parameters, "")
        self.cell.train(module.training)
        self._ours = {theirs: f"cell.{inner}" for theirs, inner in ours.items()}

    def forward(self, input: Tensor, hx: Any = None) -> Any:
        """(batch, input_size), or one (input_size), and the state before -> the state after; None is zeros."""
        if self.cell.is_plain:
            return super().forward(input, hx)  # torch's cell is next in the order of resolution
        if input.dim() not in (1, 2):
            raise MethodError(f"a recurrent cell takes (batch, features) or (features,); got {tuple(input.shape)}")
        is_single = input.dim() == 1
        x = input[None] if is_single else input
        is_lstm = self.cell.mode == "LSTM"
        if hx is None:
            before = tuple(x.new_zeros(len(x), self.hidden_size) for _ in range(2 if is_lstm else 1))
        else:
            before = tuple(hx) if is_lstm else (hx,)
            before = tuple(part[None] for part in before) if is_single else before
        after = self.cell(x, before)
        after = tuple(part[0] for part in after) if is_single else after
        return after if is_lstm else after[0]


def _mode(module: nn.RNNCellBase) -> Mode:
    if isinstance(module, nn.RNNCell):
        return "RNN_TANH" if module.nonlinearity == "tanh" else "RNN_RELU"
    return "LSTM" if isinstance(module, nn.LSTMCell) else "GRU"


class GemmLSTMCell(_GemmCell, nn.LSTMCell):
    """`torch.nn.LSTMCell` with slots in its gates; same state-dict keys, shapes and initialisation."""

    torch_kind = nn.LSTMCell


class GemmGRUCell(_GemmCell, nn.GRUCell):
    """`torch.nn.GRUCell` with slots in its gates; same state-dict keys, shapes and initialisation."""

    torch_kind = nn.GRUCell


class GemmRNNCell(_GemmCell, nn.RNNCell):
    """`torch.nn.RNNCell` with slots in its gates; same state-dict keys, shapes and initialisation."""

    torch_kind = nn.RNNCell
