"""Triton's products of packed signs, in its interpreter, equal the CPU's and the oracle's integers."""

import importlib.util
import os
import subprocess
import sys

import pytest

_INTERPRETED = """
import sys
import numpy as np
import torch
sys.path.insert(0, sys.argv[1])
from oracles.signs import pack, product
from pennyweight import ops
from pennyweight.kernels.triton_binary import binary_matmul, int8_binary_matmul

for m, n, k in ((1, 1, 1), (3, 5, 70), (65, 66, 64), (17, 130, 200), (1, 1, 128), (2, 3, 0), (0, 3, 5)):
    g = torch.Generator().manual_seed(m + n + k)
    a, b = torch.randn(m, k, generator=g), torch.randn(n, k, generator=g)
    a[:, ::3] = -0.0
    codes = torch.randint(-128, 128, (m, k), generator=g).to(torch.int8)
    left, right = torch.from_numpy(pack(a.numpy())), torch.from_numpy(pack(b.numpy()))
    signs = torch.from_numpy(product(a.numpy(), b.numpy()))
    found = binary_matmul(left, right, k)
    assert torch.equal(found.long(), signs), (m, n, k)
    assert torch.equal(found, ops.binary_matmul(left, right, k)), (m, n, k)
    found = int8_binary_matmul(codes, right, k)
    truth = codes.numpy().astype(np.int64) @ np.where(b.numpy() >= 0, 1, -1).T
    assert torch.equal(found.long(), torch.from_numpy(truth)), (m, n, k)
    assert torch.equal(found, ops.int8_binary_matmul(codes, right, k)), (m, n, k)
ones = torch.full((1, 3), -1)
assert int(binary_matmul(ones, ones, 192)) == 192
assert int(binary_matmul(ones, torch.zeros(1, 3, dtype=torch.int64), 192)) == -192
print("equal")
"""


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
def test_tritons_kernels_give_the_same_integers_in_its_interpreter() -> None:
    tests = os.path.join(os.path.dirname(__file__), "..", "..")
    command = [sys.executable, "-c", _INTERPRETED, tests]
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    found = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert found.stdout.strip() == "equal", found.stderr[-2000:]
