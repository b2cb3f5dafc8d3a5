"""Timing on a GPU: candidates in turns, each repeat measured by the card's own events."""

import statistics
from collections.abc import Callable, Mapping
from typing import Any

import torch

WARM_UP = 5


def in_turns(candidates: Mapping[str, Callable[[], Any]], repeats: int) -> dict[str, list[float]]:
    """Milliseconds a call, by candidate; the second-level cache is overwritten before each."""
    flush = torch.empty(64 << 20, dtype=torch.int32, device="cuda")
    for call in candidates.values():
        for _ in range(WARM_UP):
            call()
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(repeats):
        for name, call in candidates.items():
            flush.zero_()
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
            call()
            end.record()
            torch.cuda.synchronize()
            times[name].append(start.elapsed_time(end))
    return times


def against(times: Mapping[str, list[float]], ours: str) -> dict[str, Any]:
    """Medians, and ours against the fastest other: the median of the ratios of turns, with their spread."""
    medians = {name: statistics.median(values) for name, values in times.items()}
    best = min((name for name in times if name != ours), key=medians.__getitem__)
    ratios = sorted(peer / own for own, peer in zip(times[ours], times[best], strict=True))
    quarter = len(ratios) // 4
    middle = statistics.median(ratios)
    return {
        **{f"{name}_ms": value for name, value in medians.items()},
        "peer": best,
        "speedup": middle,
        "spread": (ratios[-1 - quarter] - ratios[quarter]) / middle,
        "n": len(ratios),
    }
