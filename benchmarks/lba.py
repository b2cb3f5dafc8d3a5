"""Products in accumulators of few bits: the C++ kernel against the chunk-vectorised simulation in torch.

The peer is the simulation as one would write it in torch: all chunks at once, one step of every chunk at a time, in
float32 with the mantissa cut by a mask on the bits, which for operands of few bits gives the same values (checked). Our
own truth, `numerics.accumulate`, computes in float64 and is slower; no peer we know has chunks and cuts towards zero.

Margins fixed beforehand: at least 30 times the simulation, on one thread, in the worst of the shapes; at least 1.2 GMAC
a second on one core; equal bits on one and on two threads.

Excluded: packing the weight is part of our call, transposing it for the peer is not part of its.

    python benchmarks/lba.py [--quick] [--save]
"""

import argparse
from typing import Any

import torch
from torch import Tensor

from pennyweight import ops
from pennyweight.numerics.accumulate import AccumulatorSpec
from pennyweight.numerics.measure import interleaved
from reporting import headline, save_rows

SPEC = AccumulatorSpec()
SHAPES = {
    "ResNet-20, 16 channels": (1024, 144, 16),
    "ResNet-20, 64 channels": (256, 576, 64),
    "linear": (128, 1024, 512),
}


def few_bits(*shape: int, seed: int) -> Tensor:
    """Operands of 8-bit floats: their products are exact in float32."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return (x.view(torch.int32) & ~0x7FFFF).view(torch.float32)


def cut(x: Tensor, smallest: float, largest: float) -> Tensor:
    """To the format's mantissa and range."""
    mask = -1 << (23 - SPEC.mantissa)
    x = (x.view(torch.int32) & mask).view(torch.float32).clamp_(-largest, largest)
    return torch.where(x.abs() < smallest, 0.0, x)


def simulated(x: Tensor, columns: Tensor) -> Tensor:
    """(M, K) and (K, N), K a multiple of the chunk -> (M, N)."""
    wide_x = x.reshape(len(x), -1, SPEC.chunk)
    wide_w = columns.reshape(-1, SPEC.chunk, columns.shape[1])
    sums = torch.zeros(len(x), wide_x.shape[1], columns.shape[1])
    for step in range(SPEC.chunk):
        products = wide_x[:, :, step, None] * wide_w[None, :, step]
        sums = cut(
            sums + cut(products, SPEC.smallest_product, SPEC.largest_product), SPEC.smallest_sum, SPEC.largest_sum
        )
    total = torch.zeros(len(x), columns.shape[1])
    for chunk in range(sums.shape[1]):
        total = cut(total + sums[:, chunk], SPEC.smallest_sum, SPEC.largest_sum)
    return total


def measure(name: str, shape: tuple[int, int, int], repeats: int) -> dict[str, Any]:
    m, k, n = shape
    x, weight = few_bits(m, k, seed=0), few_bits(n, k, seed=1)
    columns = weight.t().contiguous()
    ours = []
    for threads in (1, 2):
        ops.set_num_threads(threads)
        ours.append(ops.accumulated_matmul(x, weight, SPEC))
    assert torch.equal(ours[0].view(torch.int32), ours[1].view(torch.int32)), "the thread count changed a bit"
    assert torch.equal(ours[0], simulated(x, columns)), "the kernel and the simulation differ"
    ops.set_num_threads(1)
    torch.set_num_threads(1)
    timed = interleaved(lambda: simulated(x, columns), lambda: ops.accumulated_matmul(x, weight, SPEC), repeats=repeats)
    return {
        "shape": name, "m": m, "k": k, "n": n, "backend": ops.current_backend(), "torch_ms": timed.a_seconds * 1e3,
        "ours_ms": timed.b_seconds * 1e3, "speedup": timed.ratio, "spread": timed.spread, "repeats": repeats,
        "gmacs": m * k * n / timed.b_seconds / 1e9,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer repeats")
    parser.add_argument("--save", action="store_true", help="write the rows under results/")
    options = parser.parse_args()
    rows = [measure(name, shape, 5 if options.quick else 21) for name, shape in SHAPES.items()]
    for row in rows:
        times = f"torch {row['torch_ms']:8.2f} ms, C++ {row['ours_ms']:7.3f} ms, {row['speedup']:6.1f} times"
        print(f"{row['shape']:24s} {times}, {row['gmacs']:.2f} GMAC/s, spread {row['spread']:.3f}")
    if options.save:
        print(f"saved {save_rows('lba', rows).name}")
    worst = min(rows, key=lambda row: row["speedup"])
    slow = min(rows, key=lambda row: row["gmacs"])
    print(headline("lba_speedup", worst["speedup"], "x", worst["repeats"], worst["spread"], "torch_chunk_vectorised"))
    print(headline("lba_gmacs_per_core", slow["gmacs"], "GMAC/s", slow["repeats"], slow["spread"], "none"))


if __name__ == "__main__":
    main()
