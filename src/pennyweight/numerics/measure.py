"""Measurements that say how they came about: unit, n, spread, machine, versions; intervals; interleaved timing."""

import math
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

_ISA_OF_INTEREST = (
    "sse4_2", "popcnt", "avx", "avx2", "fma", "avx_vnni", "avx512f", "avx512bw", "avx512vl", "avx512_vnni",
    "avx512_vpopcntdq", "amx_int8", "amx_bf16", "asimd", "asimddp", "sve",
)  # fmt: skip
_PACKAGES = ("torch", "numpy", "scipy", "safetensors", "mlcommons-loadgen", "onnxruntime", "triton")


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """A number that may be published.

    Args:
        value: the figure, a median or a mean.
        unit: of the value, such as "ms" or "ratio".
        n: how many independent repeats stand behind it.
        spread: interquartile range over median, or the half width of the interval `spread_kind` names.
        spread_kind: what `spread` is.
        machine: what it ran on, see `machine`.
        versions: of the software, see `versions`.
        excluded: what the figure leaves out, such as "model loading".
        modelled: True for a figure computed from a cost model, not measured.
    """

    value: float
    unit: str
    n: int
    spread: float
    spread_kind: str = "iqr/median"
    machine: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    excluded: str = ""
    modelled: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def machine() -> dict[str, Any]:
    """The machine in the words of a report: processor, cores, memory, instruction sets, accelerator, load.

    Host and user names are left out on purpose.
    """
    import torch

    accelerator = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    flags = _cpu_flags()
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count() or 1,
        "memory_gib": _memory_gib(),
        "isa": [name for name in _ISA_OF_INTEREST if name in flags],
        "accelerator": accelerator,
        "system": f"{platform.system()} {platform.machine()}",
        "load_average": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
    }


def _cpu_info(key: str) -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == key:
                return value.strip()
    except OSError:
        pass  # not Linux
    return ""


def _cpu_model() -> str:
    return _cpu_info("model name") or platform.processor() or platform.machine()


def _cpu_flags() -> set[str]:
    return set((_cpu_info("flags") or _cpu_info("Features")).split())


def _memory_gib() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (ValueError, OSError, AttributeError):
        return None


def versions() -> dict[str, str]:
    """Versions of Python, pennyweight and the packages a figure can depend on, as far as installed."""
    found = {"python": platform.python_version()}
    for package in ("pennyweight", *_PACKAGES):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


@dataclass(frozen=True)
class Interval:
    """An estimate with its two-sided confidence interval."""

    value: float
    low: float
    high: float
    confidence: float
    n: int


def interval_mean(values: Sequence[float], confidence: float = 0.95) -> Interval:
    """Mean of independent values with Student's t interval; with one value the interval is unbounded."""
    n = len(values)
    assert n >= 1, "a mean needs at least one value"
    mean = statistics.fmean(values)
    if n == 1:
        return Interval(mean, -math.inf, math.inf, confidence, n)
    from scipy import stats

    half = float(stats.t.ppf((1 + confidence) / 2, n - 1)) * statistics.stdev(values) / math.sqrt(n)
    return Interval(mean, mean - half, mean + half, confidence, n)


def interval_proportion(successes: int, n: int, confidence: float = 0.95) -> Interval:
    """A share with Wilson's interval, which stays inside [0, 1] and is sound for few samples.

    Example:
        >>> interval = interval_proportion(9, 10)
        >>> round(interval.low, 3), round(interval.high, 3)
        (0.596, 0.982)
    """
    assert 0 <= successes <= n, (successes, n)
    if n == 0:
        return Interval(math.nan, 0.0, 1.0, confidence, 0)
    z = statistics.NormalDist().inv_cdf((1 + confidence) / 2)
    share = successes / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return Interval(share, max(0.0, centre - half), min(1.0, centre + half), confidence, n)


@dataclass(frozen=True)
class Comparison:
    """Two things timed in turns.

    Args:
        a_seconds: median of A.
        b_seconds: median of B.
        ratio: median over pairs of A's time over B's: how many times faster B is.
        spread: interquartile range of that ratio over its median.
        n: pairs.
    """

    a_seconds: float
    b_seconds: float
    ratio: float
    spread: float
    n: int


def relative_spread(values: Sequence[float]) -> float:
    """Interquartile range over the median's size; 0 for fewer than two values or equal ones."""
    if len(values) < 2:
        return 0.0
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    if high == low:
        return 0.0
    return (high - low) / abs(middle) if middle else math.inf


def interleaved(
    a: Callable[[], object],
    b: Callable[[], object],
    *,
    repeats: int = 21,
    warmup: int = 2,
    min_seconds: float = 0.005,
    clock: Callable[[], float] = time.perf_counter,
) -> Comparison:
    """Time A and B in turns, A B A B ..., so that a machine that slows down slows both.

    Args:
        repeats: pairs.
        warmup: calls of each before the first pair.
        min_seconds: each timing repeats its call until it lasts at least this long.
        clock: seconds so far. `time.thread_time` leaves out what other processes take of a busy machine; it sees the
            calling thread alone, so it is for calls that use no other.
    """
    for _ in range(warmup):
        a()
        b()
    loops = [max(1, math.ceil(min_seconds / max(_time(f, 1, clock), 1e-9))) for f in (a, b)]
    pairs = [(_time(a, loops[0], clock), _time(b, loops[1], clock)) for _ in range(repeats)]
    ratios = [first / second for first, second in pairs]
    return Comparison(
        a_seconds=statistics.median(first for first, _ in pairs),
        b_seconds=statistics.median(second for _, second in pairs),
        ratio=statistics.median(ratios),
        spread=relative_spread(ratios),
        n=repeats,
    )


def _time(call: Callable[[], object], loops: int, clock: Callable[[], float]) -> float:
    started = clock()
    for _ in range(loops):
        call()
    return (clock() - started) / loops
