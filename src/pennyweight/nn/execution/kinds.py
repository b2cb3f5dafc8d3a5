"""Which modules and functions play which part in a flow."""

import operator

import torch
import torch.nn.functional as F
from torch import nn

from pennyweight.nn.execution.flow import Kind
from pennyweight.nn.gemm import WEIGHTED

LAYERS = (*WEIGHTED, nn.Embedding, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_PASSES = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout)
_RELU_FUNCTIONS = frozenset((F.relu, F.relu_, torch.relu, torch.relu_))
_ADD_FUNCTIONS = frozenset((operator.add, operator.iadd, torch.add))
_PASS_FUNCTIONS = frozenset((F.dropout, F.dropout2d))


def kind_of_module(module: nn.Module) -> Kind:
    """The part a module plays."""
    if isinstance(module, LAYERS):
        return "layer"
    if isinstance(module, NORMS):
        return "norm"
    if isinstance(module, nn.ReLU):
        return "relu"
    return "pass" if isinstance(module, _PASSES) else "other"


def kind_of_function(function: object) -> Kind:
    """The part a torch function plays."""
    if function in _RELU_FUNCTIONS:
        return "relu"
    if function in _ADD_FUNCTIONS:
        return "add"
    return "pass" if function in _PASS_FUNCTIONS else "other"


def kind_of_method(name: str) -> Kind:
    """The part a tensor method plays."""
    return {"relu": "relu", "relu_": "relu", "add": "add", "add_": "add", "contiguous": "pass"}.get(name, "other")  # type: ignore[return-value]


def kind_of_aten(name: str) -> Kind:
    """The part an operator of an exported program plays, by its name such as "aten.relu.default"."""
    base = name.split(".")[1] if name.startswith("aten.") else name
    if base in ("relu", "relu_"):
        return "relu"
    if base in ("add", "add_"):
        return "add"
    return "pass" if base in ("dropout", "dropout_", "contiguous", "alias", "clone", "detach") else "other"
