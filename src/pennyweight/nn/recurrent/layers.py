"""`GemmLSTM`, `GemmGRU`, `GemmRNN`: torch's recurrent layers with slots in every gate.

With nothing in a slot torch's own kernel runs. With something in one, each layer and direction is unrolled in Python:
the simulation is slower than torch's kernel, like every other.
"""

from typing import Any, ClassVar, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from pennyweight.errors import MethodError
from pennyweight.nn.recurrent.gates import Gates, State
from pennyweight.nn.recurrent.torch_names import TorchNames, gates_of

T = TypeVar("T", bound="_GemmRecurrent")


class _GemmRecurrent(TorchNames):
    """What the three layers share: gates in the place of flat weights, and the way through layers and directions."""

    torch_kind: ClassVar[type[nn.RNNBase]]
    mode: Any
    num_layers: int
    hidden_size: int
    bidirectional: bool
    batch_first: bool
    dropout: float
    _gate_names: tuple[str, ...]
    """A child for each layer and direction, in torch's order: l0, l0_reverse, l1, ..."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        nn.Module.__init__(self)
        self._take(self.torch_kind(*args, **kwargs))

    @classmethod
    def from_module(cls: type[T], module: nn.RNNBase) -> T:
        """The same layer with empty slots; parameters, hooks and mode are shared with the original.

        Raises:
            MethodError: an LSTM with projections, whose third product has no gate here.
        """
        layer = cls.__new__(cls)
        nn.Module.__init__(layer)
        layer._take(module)
        return layer

    def _take(self, module: nn.RNNBase) -> None:
        if module.proj_size:
            raise MethodError(
                f"an LSTM with proj_size={module.proj_size} has a projection that is no gate: exclude it, or put an "
                f"nn.Linear behind an LSTM without one"
            )
        parameters = dict(module._parameters)
        for key, value in module.__dict__.items():
            if key not in ("_parameters", "_modules", "_flat_weights", "_flat_weight_refs"):
                self.__dict__[key] = value.copy() if isinstance(value, dict) else value
        self._flat_weights_names: list[str] = []  # torch would keep a copy of the weights up to date by them
        self._flat_weight_refs: list[Any] = []
        self._ours = {}
        names = []
        for number in range(module.num_layers):
            for suffix in ("", "_reverse")[: 2 if module.bidirectional else 1]:
                name = f"l{number}{suffix}"
                gates, ours = gates_of(module.mode, parameters, f"_{name}")
                self.add_module(name, gates.train(module.training))
                self._ours |= {theirs: f"{name}.{inner}" for theirs, inner in ours.items()}
                names.append(name)
        self._gate_names = tuple(names)

    @property
    def _flat_weights(self) -> list[Tensor]:
        """What torch's forward hands to its kernel."""
        return [self.get_parameter(name) for name in self._ours.values()]

    def _init_flat_weights(self) -> None:
        """Torch calls it when parameters were moved; ours are looked up when they are needed."""

    def flatten_parameters(self) -> None:
        """Nothing to do: the parameters belong to the gates."""

    def _replicate_for_data_parallel(self) -> Any:
        return nn.Module._replicate_for_data_parallel(self)

    def forward(self, input: Any, hx: Any = None) -> Any:
        """As torch's layer: (steps, batch, input_size) -> outputs and the state after; `batch_first` swaps the two.

        Args:
            input: a padded batch, or one sequence (steps, input_size).
            hx: the state before, (layers * directions, batch, hidden_size), or a pair of them for an LSTM; None for
                zeros. Handing the state of one window to the next carries it on.

        Raises:
            MethodError: a packed sequence meets filled slots.
        """
        cells = [self._cell(name) for name in self._gate_names]
        if all(gates.is_plain for gates in cells):
            return super().forward(input, hx)  # torch's layer is next in the order of resolution
        if isinstance(input, PackedSequence):
            raise MethodError(
                "packed sequences do not pass gates with filled slots: give padded ones, and mask what is padding"
            )
        is_single = input.dim() == 2
        x = input.unsqueeze(0) if is_single else input if self.batch_first else input.transpose(0, 1)
        if x.dim() != 3 or x.shape[1] == 0:
            raise MethodError(
                f"a recurrent layer takes (steps, batch, features) or (steps, features), at least one "
                f"step; got {tuple(input.shape)}"
            )
        state = self._state(x, hx, is_single)
        y, after = self._through_layers(x, state, cells)
        if is_single:
            y, after = y.squeeze(0), tuple(part.squeeze(1) for part in after)
        elif not self.batch_first:
            y = y.transpose(0, 1)
        return y, after if self.mode == "LSTM" else after[0]

    def _cell(self, name: str) -> Gates:
        gates = self._modules[name]
        assert isinstance(gates, Gates)
        return gates

    def _state(self, x: Tensor, hx: Any, is_single: bool) -> State:
        """The state as a tuple of (layers * directions, batch, hidden_size)."""
        shape = (len(self._gate_names), len(x), self.hidden_size)
        parts = 2 if self.mode == "LSTM" else 1
        if hx is None:
            return tuple(x.new_zeros(shape) for _ in range(parts))
        given = tuple(hx) if self.mode == "LSTM" else (hx,)
        given = tuple(part.unsqueeze(1) for part in given) if is_single else given
        if len(given) != parts or any(tuple(part.shape) != shape for part in given):
            raise MethodError(
                f"the state has parts of shape {[tuple(part.shape) for part in given]}, expected {parts} of {shape}"
            )
        return given

    def _through_layers(self, x: Tensor, state: State, cells: list[Gates]) -> tuple[Tensor, State]:
        directions = 2 if self.bidirectional else 1
        finals: list[State] = []
        for number in range(self.num_layers):
            outputs = []
            for direction in range(directions):
                index = number * directions + direction
                before = tuple(part[index] for part in state)
                y, final = cells[index].unroll(x, before, reverse=direction == 1)
                outputs.append(y)
                finals.append(final)
            x = torch.cat(outputs, -1) if directions == 2 else outputs[0]
            if self.dropout and self.training and number < self.num_layers - 1:
                x = F.dropout(x.transpose(0, 1).contiguous(), self.dropout).transpose(0, 1)  # torch's draws
        return x, tuple(torch.stack(parts) for parts in zip(*finals, strict=True))


class GemmLSTM(_GemmRecurrent, nn.LSTM):  # type: ignore[misc]  # torch's flat weights are looked up here
    """`torch.nn.LSTM` with slots in its gates; same state-dict keys, shapes and initialisation.

    Example:
        >>> lstm = GemmLSTM(4, 8, num_layers=2)
        >>> y, (h, c) = lstm(torch.zeros(5, 3, 4))
        >>> tuple(y.shape), tuple(c.shape), [name for name, _ in lstm.gates()]
        ((5, 3, 8), (2, 3, 8), ['l0.input', 'l0.hidden', 'l1.input', 'l1.hidden'])
    """

    torch_kind = nn.LSTM


class GemmGRU(_GemmRecurrent, nn.GRU):  # type: ignore[misc]  # torch's flat weights are looked up here
    """`torch.nn.GRU` with slots in its gates; same state-dict keys, shapes and initialisation."""

    torch_kind = nn.GRU


class GemmRNN(_GemmRecurrent, nn.RNN):  # type: ignore[misc]  # torch's flat weights are looked up here
    """`torch.nn.RNN`, tanh or relu, with slots in its gates; same state-dict keys, shapes and initialisation."""

    torch_kind = nn.RNN
