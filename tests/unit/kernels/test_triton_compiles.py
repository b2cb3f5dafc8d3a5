"""Every Triton kernel is compiled for a GPU, ahead of time and without one: the interpreter accepts more than that."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

# In a process of its own: the shape checks of these tests wrap functions, and Triton reads their source.
_COMPILED = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from pennyweight.kernels.triton_int8 import _int8_matmul
from pennyweight.kernels.triton_lba import _accumulated_matmul

def ptx(kernel, pointers, constants):
    types = dict.fromkeys(kernel.arg_names, "i32") | pointers | dict.fromkeys(constants, "constexpr")
    source = ASTSource(kernel, signature=types, constexprs=constants)
    return triton.compile(source, target=GPUTarget("cuda", 90, 32)).asm["ptx"]

found = ptx(_int8_matmul, {"a": "*i8", "b": "*i8", "out": "*i32"}, dict.fromkeys(("block_m", "block_n", "block_k"), 64))
assert "mma" in found, "int8 products run on tensor cores"
pointers = dict.fromkeys(("x", "columns", "z"), "*fp32")
found = ptx(_accumulated_matmul, pointers, {"block_m": 32, "block_n": 64, "ptx": True})
assert found.count("add.rz.f32") == 2 * found.count("mul.rz.f32") > 0, "products and sums are cut by PTX"
assert "fma.rn.f32" not in found, "a fused product would skip its rounding"
assert "ftz" not in found
print("compiled")
"""


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
def test_every_kernel_compiles_for_a_gpu(tmp_path: Path) -> None:
    known = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment = known | {"TRITON_CACHE_DIR": str(tmp_path)}
    found = subprocess.run([sys.executable, "-c", _COMPILED], env=environment, capture_output=True, text=True)
    assert found.stdout.strip() == "compiled", found.stderr[-2000:]
