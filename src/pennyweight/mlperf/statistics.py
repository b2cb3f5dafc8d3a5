"""LoadGen's early-stopping statistics, computed on our own: an oracle for its verdicts, and the effective percentile.

Source: MLPerf Inference rules, early stopping (confidence 99 %, tolerance 0).
"""

import math
from functools import lru_cache

CONFIDENCE = 0.99


def _log_binomial_tail(n: int, q: float, t: int) -> float:
    """log P[Binomial(n, q) <= t]."""
    log_q, log_p = math.log(q), math.log1p(-q)
    terms = [
        math.lgamma(n + 1) - math.lgamma(i + 1) - math.lgamma(n - i + 1) + i * log_q + (n - i) * log_p
        for i in range(min(t, n) + 1)
    ]
    top = max(terms)
    return top + math.log(math.fsum(math.exp(term - top) for term in terms))


@lru_cache(maxsize=4096)
def min_under_latency(over: int, percentile: float) -> int:
    """The fewest queries under a latency that, beside `over` above it, prove the percentile.

    Example:
        >>> min_under_latency(0, 0.9), min_under_latency(1, 0.9)
        (44, 63)
    """
    limit = math.log(1.0 - CONFIDENCE)
    low, high = 0, max(64, 4 * (over + 1))
    while _log_binomial_tail(high + over, 1.0 - percentile, over) > limit:
        high *= 2
    while high - low > 1:
        middle = (low + high) // 2
        if _log_binomial_tail(middle + over, 1.0 - percentile, over) > limit:
            low = middle
        else:
            high = middle
    return high


def effective_percentile(queries: int, percentile: float) -> float | None:
    """The percentile, in percent, of the latency that early stopping reports; None with too few queries.

    Early stopping drops the t - 1 slowest queries and reports the slowest left, t being the largest count over that
    the number of queries can afford. With few queries that is nearly the maximum.
    """
    if queries < min_under_latency(1, percentile) + 1:
        return None
    high = 2
    while min_under_latency(high, percentile) + high <= queries:
        high *= 2
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        if min_under_latency(middle, percentile) + middle <= queries:
            low = middle
        else:
            high = middle
    return 100.0 * (queries - low) / queries
