"""An experiment: products of single bits on tensor cores (mma.m16n8k256), compiled by NVRTC through torch.

No operator uses it. What it is to show on a card: whether the integers are right, and whether the instruction is worth
having there; recent cards may emulate it. Unproven as of this version: written without a card at hand, and Triton's
interpreter cannot run it, so its check does nothing on a CPU.
"""

from typing import Any

import torch
from timing import against, in_turns

from pennyweight.kernels import triton_binary, triton_int8
from pennyweight.ops import reference

# A warp makes 16 x 8 outputs; lane 4 g + t holds rows g and g + 8 of a, column g of b, columns 2 t and 2 t + 1 of c.
# Which bits of k a lane holds is free, as long as a and b agree. Words beyond k are zero in both operands.
SOURCE = r"""
extern "C" __global__ void products(const int* a, const int* b, int* out, int m, int n, int words, int k) {
    const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    const int row = blockIdx.x * 16, column = (blockIdx.y * (blockDim.x / 32) + threadIdx.x / 32) * 8;
    int c0 = 0, c1 = 0, c2 = 0, c3 = 0;
    const int low = row + g, high = row + g + 8, right = column + g;
    for (int w = t; w < words; w += 8) {
        const int a0 = low < m ? a[(long long)low * words + w] : 0, a1 = high < m ? a[(long long)high * words + w] : 0;
        const int a2 = low < m ? a[(long long)low * words + w + 4] : 0;
        const int a3 = high < m ? a[(long long)high * words + w + 4] : 0;
        const int b0 = right < n ? b[(long long)right * words + w] : 0;
        const int b1 = right < n ? b[(long long)right * words + w + 4] : 0;
        asm volatile(
            "mma.sync.aligned.m16n8k256.row.col.s32.b1.b1.s32.xor.popc "
            "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
            : "+r"(c0), "+r"(c1), "+r"(c2), "+r"(c3)
            : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
    }
    const int sums[4] = {c0, c1, c2, c3};
    for (int i = 0; i < 4; ++i) {
        const int r = i < 2 ? low : high, c = column + 2 * t + i % 2;
        if (r < m && c < n) out[(long long)r * n + c] = k - 2 * sums[i];
    }
}
"""
_WARPS = 4
_compiled: list[Any] = []


def whole_steps(words: torch.Tensor) -> torch.Tensor:
    """int32 words, as many a row as whole steps of 256 bits take."""
    narrow = words.contiguous().view(torch.int32)
    return torch.nn.functional.pad(narrow, (0, -narrow.shape[1] % 8)).contiguous()


def product(a: torch.Tensor, b: torch.Tensor, k: int) -> torch.Tensor:
    """The operands of `whole_steps` -> int32 (M, N)."""
    if not _compiled:
        _compiled.append(torch.cuda._compile_kernel(SOURCE, "products"))
    m, n, words = len(a), len(b), a.shape[1]
    out = torch.empty((m, n), dtype=torch.int32, device=a.device)
    grid = (-(-m // 16), -(-n // (8 * _WARPS)), 1)
    _compiled[0](grid=grid, block=(32 * _WARPS, 1, 1), args=[a, b, out, m, n, words, k])
    return out


def operands(m: int, n: int, k: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(m + n + k)
    left, right = (torch.randint(0, 2, (rows, k), generator=generator).to(device) * 2 - 1 for rows in (m, n))
    return left.to(torch.int8), right.to(torch.int8)


def check(device: torch.device, quick: bool) -> int:
    """Against int64 on the CPU; nothing without a card."""
    if device.type == "cpu":
        return 0
    shapes = ((1, 1, 1), (3, 5, 70), (17, 33, 65), (65, 130, 700), (16, 16, 100_000))
    for m, n, k in shapes:
        left, right = operands(m, n, k, device)
        words = (whole_steps(reference.pack_signs(t)) for t in (left, right))
        if not torch.equal(product(*words, k).cpu().long(), left.cpu().long() @ right.cpu().long().t()):
            raise AssertionError(f"{m}x{k} by {k}x{n} differs from int64")
    return len(shapes)


def timings(device: torch.device, quick: bool) -> list[dict[str, Any]]:
    """A row a shape; operands laid out beforehand. The kernel uses no shared memory: it probes the instruction."""
    rows = []
    for side in (1024,) if quick else (1024, 4096, 8192):
        left, right = operands(side, side, side, device)
        words = [reference.pack_signs(t) for t in (left, right)]
        steps = [whole_steps(t) for t in words]
        candidates = {"tensor_cores_b1": lambda s=steps, k=side: product(s[0], s[1], k)}
        candidates["triton_popcount"] = lambda w=words, k=side: triton_binary.binary_matmul(w[0], w[1], k)
        candidates["triton_int8"] = lambda a=left, b=right: triton_int8.int8_matmul(a, b)
        found = against(in_turns(candidates, 10 if quick else 50), "tensor_cores_b1")
        rows.append({"side": side, **found, "tops": 2e-9 * side**3 / found["tensor_cores_b1_ms"]})
    return rows
