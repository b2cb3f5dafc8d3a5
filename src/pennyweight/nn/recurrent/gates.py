"""`Gates`: the two products of a recurrent cell as layers with slots, and the arithmetic that joins them.

A recurrence is two matrix products a step, W x and U h, and elementwise functions of their sums. The products are
`GemmLinear`s, so that every method finds them where it finds all layers; the functions stay float. What enters U is
the last output h, whose range is known: an LSTM's o * tanh(c) and a GRU's mean of tanhs lie in (-1, 1).
"""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from pennyweight.nn.gemm import GemmLinear

Mode = Literal["LSTM", "GRU", "RNN_TANH", "RNN_RELU"]
State = tuple[Tensor, ...]
"""(h,), or (h, c) of an LSTM; each (batch, hidden_size)."""


def lstm_step(x: Tensor, u: Tensor, state: State) -> State:
    """One step of an LSTM: gates in torch's order input, forget, cell, output.

    Args:
        x: (batch, 4 * hidden_size), W x with its bias; `u` likewise, U h.
        state: (h, c).

    Source: Hochreiter and Schmidhuber 1997, with forget gates; the equations of `torch.nn.LSTM`.
    """
    opened, kept, proposed, shown = (x + u).chunk(4, -1)
    c = kept.sigmoid() * state[1] + opened.sigmoid() * proposed.tanh()
    return shown.sigmoid() * c.tanh(), c


def gru_step(x: Tensor, u: Tensor, state: State) -> State:
    """One step of a GRU: gates in torch's order reset, update, new; the reset gate multiplies U h with its bias.

    Args:
        x: (batch, 3 * hidden_size), W x with its bias; `u` likewise, U h.
        state: (h,).

    Source: arXiv 1406.1078, in the form of `torch.nn.GRU`.
    """
    x_reset, x_update, x_new = x.chunk(3, -1)
    u_reset, u_update, u_new = u.chunk(3, -1)
    new = (x_new + (x_reset + u_reset).sigmoid() * u_new).tanh()
    return (new + (x_update + u_update).sigmoid() * (state[0] - new),)


def tanh_step(x: Tensor, u: Tensor, state: State) -> State:
    """One step of the plain recurrence with tanh."""
    return ((x + u).tanh(),)


def relu_step(x: Tensor, u: Tensor, state: State) -> State:
    """One step of the plain recurrence with a rectifier, whose state has no upper bound."""
    return ((x + u).relu(),)


STEPS: dict[Mode, tuple[int, Callable[[Tensor, Tensor, State], State]]] = {
    "LSTM": (4, lstm_step),
    "GRU": (3, gru_step),
    "RNN_TANH": (1, tanh_step),
    "RNN_RELU": (1, relu_step),
}
"""By torch's name of the mode: gates, and the step."""


class Gates(nn.Module):
    """One cell: the products `input` (W) and `hidden` (U), and a step.

    Args:
        mode: torch's name of the kind of cell.
        input_size: of x.
        hidden_size: of h.
        bias: both products have one, as torch's cells do.
    """

    def __init__(self, mode: Mode, input_size: int, hidden_size: int, *, bias: bool = True) -> None:
        super().__init__()
        self.mode = mode
        rows = STEPS[mode][0] * hidden_size
        self.input = GemmLinear(input_size, rows, bias=bias)
        self.hidden = GemmLinear(hidden_size, rows, bias=bias)

    @property
    def is_plain(self) -> bool:
        """Nothing in a slot, and nobody watches a product: torch's own kernel does the same, faster."""
        return not any(
            layer.slots.filled or layer._forward_hooks or layer._forward_pre_hooks
            for layer in (self.input, self.hidden)
        )

    def forward(self, x: Tensor, state: State) -> State:
        """One step: (batch, input_size) and the state before -> the state after."""
        return STEPS[self.mode][1](self.input(x), self.hidden(state[0]), state)

    def unroll(self, x: Tensor, state: State, *, reverse: bool = False) -> tuple[Tensor, State]:
        """All steps of a sequence: W meets all of x in one product, and U's codes are computed once.

        Args:
            x: (batch, steps, input_size).
            state: before the first step.
            reverse: go from the last step to the first.

        Returns:
            The outputs (batch, steps, hidden_size) in the order of x, and the state after the last step taken.
        """
        step = STEPS[self.mode][1]
        projected = self.input(x).unbind(1)
        outputs = []
        with self.hidden.held_weight():
            for one in reversed(projected) if reverse else projected:
                state = step(one, self.hidden(state[0]), state)
                outputs.append(state[0])
        return torch.stack(outputs[::-1] if reverse else outputs, 1), state

    def extra_repr(self) -> str:
        """Shown by print(model)."""
        return f"mode={self.mode}"
