"""Early stopping: our own count equals the published table, and scipy's incomplete beta."""

import pytest
from scipy import special

from pennyweight.mlperf.statistics import CONFIDENCE, effective_percentile, min_under_latency

OVER = (0, 1, 2, 5, 10, 100, 1000)
TOTAL_QUERIES = {
    0.90: (44, 64, 81, 127, 197, 1246, 10722),
    0.95: (90, 130, 165, 259, 398, 2504, 21483),
    0.97: (152, 219, 277, 433, 667, 4182, 35831),
    0.99: (459, 662, 838, 1307, 2010, 12571, 107569),
    0.999: (4603, 6636, 8403, 13105, 20140, 125826, 1076032),
}


@pytest.mark.parametrize("percentile", TOTAL_QUERIES)
def test_total_queries(percentile: float) -> None:
    found = tuple(min_under_latency(over, percentile) + over for over in OVER)
    assert found == TOTAL_QUERIES[percentile]


@pytest.mark.parametrize(("over", "percentile"), [(0, 0.9), (3, 0.9), (17, 0.95), (40, 0.99), (7, 0.5)])
def test_least_by_incomplete_beta(over: int, percentile: float) -> None:
    under = min_under_latency(over, percentile)
    assert special.betainc(under, over + 1, percentile) <= 1 - CONFIDENCE
    assert special.betainc(under - 1, over + 1, percentile) > 1 - CONFIDENCE


def test_effective_percentile_of_few_queries() -> None:
    assert effective_percentile(63, 0.9) is None
    assert effective_percentile(64, 0.9) == pytest.approx(98.4, abs=0.05)  # nearly the maximum
    assert effective_percentile(1024, 0.9) == pytest.approx(92.2, abs=0.05)
    assert effective_percentile(10_000, 0.9) == pytest.approx(90.7, abs=0.05)
