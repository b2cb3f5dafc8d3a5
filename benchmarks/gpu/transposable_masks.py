"""Optimal transposable masks on a GPU: Triton against all 90 masks at once in torch, and against an entropic solver."""

import statistics
from typing import Any

import torch
from timing import against, in_turns
from torch import Tensor

from pennyweight.kernels import triton_transposable
from pennyweight.masks.transposable import to_tiles
from pennyweight.masks.transposable_entropic import entropic
from pennyweight.masks.transposable_exact import exact
from pennyweight.ops.transposable import exact_on_gpu, transposable_mask

PATTERNS = ((2, 4), (1, 4), (4, 8), (3, 8))
SIZES = (4096, 8192)


def scores_of(rows: int, columns: int, device: torch.device) -> Tensor:
    generator = torch.Generator().manual_seed(rows + columns)
    return torch.randn(rows, columns, generator=generator).abs().to(device)


def check(device: torch.device, quick: bool) -> int:
    """Against the CPU's masks: ragged, with ties, all zero, of very different sizes; a layer."""
    shapes = [(17, 29)] if quick or device.type == "cpu" else [(17, 29), (1000, 1024), (4096, 4096)]
    checked = 0
    for rows, columns in shapes:
        plain = scores_of(rows, columns, device)
        kinds = {"plain": plain, "tied": (plain * 2).round(), "scaled": plain * 1e30, "zero": plain * 0}
        for name, scores in kinds.items():
            for n, m in PATTERNS[::2] if device.type == "cpu" else PATTERNS:
                expected = transposable_mask(scores.cpu(), n, m)
                if not torch.equal(exact_on_gpu(scores[None], n, m)[0].cpu(), expected):
                    raise AssertionError(f"{n}:{m} masks of {name} scores {rows} x {columns} differ from the CPU's")
                checked += 1
    few = to_tiles(scores_of(16, 16, device)[None], 8)
    if not torch.equal(triton_transposable.exact(few, 4)[0].cpu(), exact(few.cpu(), 4)):
        raise AssertionError("4:8 differs from the readable truth")
    return checked + 1


def torch_2of4(scores: Tensor) -> Tensor:
    """The best of all masks of each tile by one matrix product; in float32, so near ties may go either way."""
    masks = triton_transposable._masks_of_4(2, scores.device)[0][:16, :90].float()
    best = masks.t()[(to_tiles(scores[None], 4).flatten(1) @ masks).argmax(1)]
    return best.bool()


def timings(device: torch.device, quick: bool) -> list[dict[str, Any]]:
    """Scores to mask, both in the matrix's layout; beside a copy of the scores."""
    rows = []
    repeats = 10 if quick else 30
    for size in SIZES[:1] if quick else SIZES:
        scores = scores_of(size, size, device)
        copy = torch.empty_like(scores)
        for n, m in ((2, 4), (4, 8)):
            candidates = {"triton_exact": lambda s=scores, n=n, m=m: exact_on_gpu(s[None], n, m)}
            if m == 4:
                candidates["torch_90_masks"] = lambda s=scores: torch_2of4(s)
            else:
                candidates["torch_entropic"] = lambda s=scores, n=n, m=m: entropic(to_tiles(s[None], m), n)
            found = against(in_turns(candidates, repeats), "triton_exact")
            clone = statistics.median(in_turns({"clone": lambda s=scores, c=copy: c.copy_(s)}, repeats)["clone"])
            rows.append({"pattern": f"{n}:{m}", "size": size, **found, "clone_ms": clone})
    return rows
