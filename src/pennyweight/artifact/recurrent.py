"""Recurrent modules in an artifact: settings of their own, and each gate written as the linear layer it is.

So the table of layers, packed codes, digests and sizes are those of any other layer; loading puts the gates back.
"""

from collections.abc import Mapping

from torch import nn

from pennyweight.errors import ArtifactError
from pennyweight.nn.gemm import GemmLinear
from pennyweight.nn.recurrent import GemmGRU, GemmGRUCell, GemmLSTM, GemmLSTMCell, GemmRNN, GemmRNNCell
from pennyweight.nn.recurrent.torch_names import TorchNames

_LAYER = ("input_size", "hidden_size", "num_layers", "bias", "batch_first", "bidirectional")
"""Dropout between layers plays no part in inference."""
_CELL = ("input_size", "hidden_size", "bias")
MOST_LAYERS = 256
"""A file that asks for more is taken for damaged: modules are made before their tensors are seen."""
RECURRENT: dict[str, tuple[type[nn.Module], tuple[str, ...]]] = {
    "lstm": (GemmLSTM, _LAYER),
    "gru": (GemmGRU, _LAYER),
    "rnn": (GemmRNN, (*_LAYER, "nonlinearity")),
    "lstm_cell": (GemmLSTMCell, _CELL),
    "gru_cell": (GemmGRUCell, _CELL),
    "rnn_cell": (GemmRNNCell, (*_CELL, "nonlinearity")),
}


def with_gates(targets: Mapping[str, nn.Module]) -> dict[str, nn.Module]:
    """The modules a program calls, and behind each recurrent one its gates."""
    found: dict[str, nn.Module] = {}
    for target, module in targets.items():
        found[target] = module
        if isinstance(module, TorchNames):
            found |= {f"{target}.{name}": gate for name, gate in module.gates()}
    return found


def put_gates_(built: Mapping[str, nn.Module]) -> None:
    """Give each recurrent module the gates that were read for it.

    Raises:
        ArtifactError: one is missing, or of another shape.
    """
    for target, module in built.items():
        if not isinstance(module, TorchNames):
            continue
        for name, gate in list(module.gates()):
            read = built.get(f"{target}.{name}")
            shape = (gate.in_features, gate.out_features, gate.bias is None)
            if not isinstance(read, GemmLinear) or (read.in_features, read.out_features, read.bias is None) != shape:
                raise ArtifactError(f"gate {name!r} of {target!r} is missing or of another shape: export it again")
            parent, _, child = name.rpartition(".")
            setattr(module.get_submodule(parent), child, read)
