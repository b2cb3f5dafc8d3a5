"""pennyweight: neural networks that are cheap to train and to run, with an honest measure of what was gained.

The public names, sorted. They load on first use (PEP 562), so that the command line answers `--help` without torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pennyweight.artifact import Artifact, export, load
    from pennyweight.artifact.onnx import export_onnx
    from pennyweight.bench.energy import energy_of
    from pennyweight.bench.model import benchmark
    from pennyweight.data import Augment, ImageDataset, load_dataset
    from pennyweight.errors import PennyweightError
    from pennyweight.methods import (
        A2Q,
        BNN,
        GPTQ,
        LBA,
        MVUE,
        QNN,
        AccumulatorUnderflow,
        AdaQuant,
        AdaRound,
        Applied,
        BiasCorrection,
        BiasTuning,
        BitAllocation,
        GhostBatchNorm,
        Int8Training,
        IntegerAccumulator,
        Method,
        NMSparsity,
        QDrop,
        QuantizeAttention,
        RangeBatchNorm,
        RoundToNearest,
        StatisticsTuning,
        apply_,
    )
    from pennyweight.methods.data_free import Synthesis, bns_divergence, preflight, synthesize
    from pennyweight.models import create_model, list_models
    from pennyweight.numerics import parse_format
    from pennyweight.recipes.run import run
    from pennyweight.training import Distillation, Regime, evaluate, train

__version__ = "0.1.0"

_HOMES = {
    "A2Q": "pennyweight.methods",
    "AccumulatorUnderflow": "pennyweight.methods",
    "BNN": "pennyweight.methods",
    "AdaQuant": "pennyweight.methods",
    "AdaRound": "pennyweight.methods",
    "Applied": "pennyweight.methods",
    "Artifact": "pennyweight.artifact",
    "Augment": "pennyweight.data",
    "BiasCorrection": "pennyweight.methods",
    "BiasTuning": "pennyweight.methods",
    "BitAllocation": "pennyweight.methods",
    "Distillation": "pennyweight.training",
    "GPTQ": "pennyweight.methods",
    "GhostBatchNorm": "pennyweight.methods",
    "Int8Training": "pennyweight.methods",
    "IntegerAccumulator": "pennyweight.methods",
    "ImageDataset": "pennyweight.data",
    "LBA": "pennyweight.methods",
    "MVUE": "pennyweight.methods",
    "Method": "pennyweight.methods",
    "NMSparsity": "pennyweight.methods",
    "PennyweightError": "pennyweight.errors",
    "Regime": "pennyweight.training",
    "QDrop": "pennyweight.methods",
    "QNN": "pennyweight.methods",
    "QuantizeAttention": "pennyweight.methods",
    "RangeBatchNorm": "pennyweight.methods",
    "RoundToNearest": "pennyweight.methods",
    "StatisticsTuning": "pennyweight.methods",
    "Synthesis": "pennyweight.methods.data_free",
    "apply_": "pennyweight.methods",
    "benchmark": "pennyweight.bench.model",
    "bns_divergence": "pennyweight.methods.data_free",
    "create_model": "pennyweight.models",
    "energy_of": "pennyweight.bench.energy",
    "evaluate": "pennyweight.training",
    "export": "pennyweight.artifact",
    "export_onnx": "pennyweight.artifact.onnx",
    "list_models": "pennyweight.models",
    "load": "pennyweight.artifact",
    "load_dataset": "pennyweight.data",
    "parse_format": "pennyweight.numerics",
    "preflight": "pennyweight.methods.data_free",
    "run": "pennyweight.recipes.run",
    "synthesize": "pennyweight.methods.data_free",
    "train": "pennyweight.training",
}

__all__ = [
    "A2Q",
    "BNN",
    "GPTQ",
    "LBA",
    "MVUE",
    "QNN",
    "AccumulatorUnderflow",
    "AdaQuant",
    "AdaRound",
    "Applied",
    "Artifact",
    "Augment",
    "BiasCorrection",
    "BiasTuning",
    "BitAllocation",
    "Distillation",
    "GhostBatchNorm",
    "ImageDataset",
    "Int8Training",
    "IntegerAccumulator",
    "Method",
    "NMSparsity",
    "PennyweightError",
    "QDrop",
    "QuantizeAttention",
    "RangeBatchNorm",
    "Regime",
    "RoundToNearest",
    "StatisticsTuning",
    "Synthesis",
    "apply_",
    "benchmark",
    "bns_divergence",
    "create_model",
    "energy_of",
    "evaluate",
    "export",
    "export_onnx",
    "list_models",
    "load",
    "load_dataset",
    "parse_format",
    "preflight",
    "run",
    "synthesize",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'pennyweight' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
