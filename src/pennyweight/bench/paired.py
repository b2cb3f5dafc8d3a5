"""Paired statistics of two classifiers on the same samples."""

from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Any

from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class Paired:
    """How a candidate's right answers meet a reference's.

    Args:
        both_right: samples both got right.
        only_reference: samples only the reference got right.
        only_candidate: samples only the candidate got right.
        n: samples.
        p_value: of McNemar's exact two-sided test that both err equally often.
        ratio_percent: candidate's accuracy over the reference's in percent, five significant digits, half to even;
            None where the reference got nothing right.
    """

    both_right: int
    only_reference: int
    only_candidate: int
    n: int
    p_value: float
    ratio_percent: float | None


def compare(candidate: NDArray[Any], reference: NDArray[Any]) -> Paired:
    """Compare two (n,) bool arrays of right answers, sample by sample."""
    assert candidate.shape == reference.shape, (candidate.shape, reference.shape)
    both = int((candidate & reference).sum())
    only_reference = int((~candidate & reference).sum())
    only_candidate = int((candidate & ~reference).sum())
    return Paired(
        both_right=both,
        only_reference=only_reference,
        only_candidate=only_candidate,
        n=len(candidate),
        p_value=mcnemar(only_reference, only_candidate),
        ratio_percent=_ratio_percent(both + only_candidate, both + only_reference),
    )


def mcnemar(b: int, c: int) -> float:
    """Exact two-sided p-value of b against c discordant pairs: binomial with probability one half.

    Example:
        >>> mcnemar(1, 9)
        0.021484375
    """
    if b + c == 0:
        return 1.0
    from scipy import stats

    return float(stats.binomtest(min(b, c), b + c, 0.5).pvalue)


def exact_interval(successes: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Clopper and Pearson's exact interval of a share."""
    from scipy import stats

    interval = stats.binomtest(successes, n).proportion_ci(confidence, method="exact")
    return float(interval.low), float(interval.high)


def _ratio_percent(candidate: int, reference: int) -> float | None:
    if reference == 0:
        return None
    ratio = Decimal(100 * candidate) / Decimal(reference)
    digits = 5 - (ratio.adjusted() + 1) if ratio else 3
    return float(ratio.quantize(Decimal(1).scaleb(-digits), rounding=ROUND_HALF_EVEN))
