"""The Knowledge Within (arXiv 1912.01274): what a net's batch norms know of its training data, put to use."""

from pennyweight.methods.data_free.divergence import Divergence, Preflight, bns_divergence, preflight
from pennyweight.methods.data_free.leak import LeakCheck, check_leak
from pennyweight.methods.data_free.stored_statistics import (
    StoredStatistics,
    collect_statistics,
    load_statistics,
    save_statistics,
    statistics_of,
)
from pennyweight.methods.data_free.synthesize import Scheme, Synthesis, Synthesized, synthesize

__all__ = [
    "Divergence",
    "LeakCheck",
    "Preflight",
    "Scheme",
    "StoredStatistics",
    "Synthesis",
    "Synthesized",
    "bns_divergence",
    "check_leak",
    "collect_statistics",
    "load_statistics",
    "preflight",
    "save_statistics",
    "statistics_of",
    "synthesize",
]
