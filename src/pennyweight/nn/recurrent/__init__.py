"""Recurrent cells and layers over gates with slots, and the surgery that puts them in the place of torch's."""

from pennyweight.nn.recurrent.cells import GemmGRUCell, GemmLSTMCell, GemmRNNCell
from pennyweight.nn.recurrent.gates import Gates, State
from pennyweight.nn.recurrent.layers import GemmGRU, GemmLSTM, GemmRNN
from pennyweight.nn.recurrent.surgery import RECURRENT, slot_recurrent_

__all__ = [
    "RECURRENT",
    "Gates",
    "GemmGRU",
    "GemmGRUCell",
    "GemmLSTM",
    "GemmLSTMCell",
    "GemmRNN",
    "GemmRNNCell",
    "State",
    "slot_recurrent_",
]
