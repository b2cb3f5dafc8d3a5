"""Floor 3: the methods, one idea a file; each class docstring is the method's card."""

from pennyweight.methods.a2q import A2Q
from pennyweight.methods.accumulator_underflow import AccumulatorUnderflow
from pennyweight.methods.adaquant import AdaQuant
from pennyweight.methods.adaround import AdaRound
from pennyweight.methods.allocation.allocation import BitAllocation
from pennyweight.methods.base import Applied, Card, Method, Paper, applications, apply_
from pennyweight.methods.bias_correction import BiasCorrection
from pennyweight.methods.bias_tuning import BiasTuning
from pennyweight.methods.bnn import BNN
from pennyweight.methods.ghost_batchnorm import GhostBatchNorm
from pennyweight.methods.gptq import GPTQ
from pennyweight.methods.int8_training import Int8Training
from pennyweight.methods.integer_accumulator import IntegerAccumulator
from pennyweight.methods.lba import LBA
from pennyweight.methods.mvue import MVUE
from pennyweight.methods.nm_sparsity import NMSparsity
from pennyweight.methods.qdrop import QDrop
from pennyweight.methods.qnn import QNN
from pennyweight.methods.quantize_attention import QuantizeAttention
from pennyweight.methods.range_batchnorm import RangeBatchNorm
from pennyweight.methods.round_to_nearest import RoundToNearest
from pennyweight.methods.statistics_tuning import StatisticsTuning

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
    "BiasCorrection",
    "BiasTuning",
    "BitAllocation",
    "Card",
    "GhostBatchNorm",
    "Int8Training",
    "IntegerAccumulator",
    "Method",
    "NMSparsity",
    "Paper",
    "QDrop",
    "QuantizeAttention",
    "RangeBatchNorm",
    "RoundToNearest",
    "StatisticsTuning",
    "applications",
    "apply_",
]
