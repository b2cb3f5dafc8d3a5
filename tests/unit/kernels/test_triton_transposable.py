"""The Triton kernels of transposable masks find the CPU's masks in the interpreter."""

import importlib.util
import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")

_INTERPRETED = """
import torch
from pennyweight.kernels import triton_transposable as kernels
from pennyweight.masks.transposable_exact import exact
from pennyweight.ops.transposable import exact_on_gpu, transposable_mask
torch.set_num_threads(1)
g = torch.Generator().manual_seed(0)
for n, m, count in ((2, 4, 70), (1, 4, 33), (3, 4, 5), (4, 8, 16), (3, 8, 9)):
    tiles = torch.randn(count, m, m, generator=g).abs()
    tiles[1], tiles[2], tiles[3] = 0, tiles[2] * 1e30, tiles[3] * 1e-38
    tiles[4] = (tiles[4] * 2).round()
    masks, tied = kernels.exact(tiles, n)
    expected = exact(tiles, n)
    assert torch.equal(masks[~tied], expected[~tied]), (n, m)
    assert bool(tied[1]) == (m == 8)
    assert not bool(tied[5:].any())
    worth = tiles.double()
    assert torch.allclose((worth * masks).sum((1, 2)), (worth * expected).sum((1, 2)), rtol=1e-12)
    assert bool((masks.sum(1) == n).all() and (masks.sum(2) == n).all())
assert kernels.exact(torch.zeros(0, 8, 8), 4)[0].shape == (0, 8, 8)
scores = (torch.randn(11, 30, generator=g).abs() * 8).round()  # ragged, and ties that the CPU settles
for n, m in ((2, 4), (4, 8), (5, 10)):
    assert torch.equal(exact_on_gpu(scores[None], n, m)[0], transposable_mask(scores, n, m)), (n, m)
print("equal")
"""


def run(script: str, **environment: str) -> subprocess.CompletedProcess[str]:
    known = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    return subprocess.run(
        [sys.executable, "-c", script], env=known | environment, capture_output=True, text=True, check=False
    )


def test_the_kernels_find_the_cpus_masks_in_the_interpreter() -> None:
    found = run(_INTERPRETED, TRITON_INTERPRET="1")
    assert found.stdout.strip() == "equal", found.stderr[-2000:]
