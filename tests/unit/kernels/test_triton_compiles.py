"""Every Triton kernel becomes machine code without a card: the interpreter takes what the compiler refuses."""

import importlib.util
import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")

_COMPILE = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from pennyweight.kernels import triton_binary, triton_int8, triton_lba, triton_transposable

SIZES = dict.fromkeys(("m", "n", "k"), "i32")
TILE = {"block_m": 64, "block_n": 64}
BITS = ("mask", "product_smallest", "product_largest", "sum_smallest", "sum_largest")
KERNELS = (
    (triton_int8._int8_matmul, {"a": "*i8", "b": "*i8", "out": "*i32"} | SIZES, TILE | {"block_k": 64}),
    (triton_binary._binary_matmul, {"a": "*i32", "b": "*i32", "out": "*i32"} | SIZES | {"words": "i32"},
     TILE | {"native": True}),
    (triton_binary._int8_binary_matmul, {"x": "*i8", "w": "*i32", "out": "*i32"} | SIZES | {"words": "i32"},
     TILE | {"block_words": triton_binary._BLOCK_WORDS}),
    (triton_lba._accumulated_matmul,
     {"x": "*fp32", "columns": "*fp32", "z": "*fp32"} | SIZES | {"chunk": "i32"} | dict.fromkeys(BITS, "i32"),
     {"block_m": triton_lba._BLOCK_M, "block_n": triton_lba._BLOCK_N, "ptx": True}),
    (triton_transposable._exact_of_4, {"scores": "*fp32", "masks": "*fp64", "bits": "*i32", "kept": "*i8",
     "count": "i32"}, {"tiles": triton_transposable._TILES_OF_4, "patterns": triton_transposable._PATTERNS}),
    (triton_transposable._exact_of_8, {"scores": "*fp32", "kept": "*i8", "tied": "*i8", "count": "i32", "n": "i32"},
     {"tiles": triton_transposable._TILES_OF_8}),
)
for kernel, signature, constants in KERNELS:
    signature = signature | dict.fromkeys(constants, "constexpr")
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants)
    assert triton.compile(source, target=GPUTarget("cuda", 90, 32)).asm["cubin"], kernel
print("compiled")
"""


def test_the_compiler_makes_machine_code_for_an_h100() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    found = subprocess.run(
        [sys.executable, "-c", _COMPILE], env=environment, capture_output=True, text=True, check=False
    )
    assert found.stdout.strip() == "compiled", found.stderr[-3000:]
