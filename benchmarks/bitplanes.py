"""Bit-plane products of few bits against torch's float32 and int8 products of the same shape, on one thread.

`ours` starts from float32 activations, as a layer meets them: quantizing, packing into planes and the product are
timed, the weight is laid out beforehand. `product` starts from planes. torch.mm multiplies float32 into a preallocated
result; torch._int_mm multiplies int8 codes that are at hand and takes more than 16 rows only, so it has no figure for
one row.
Pairs are timed in turns, in CPU time of the one thread: on a machine shared with other work a first run by the wall
clock had spreads of up to 14. Before timing, every result must equal the integer product.

Fixed beforehand: no speed is claimed but what is measured; for each of W1A2, W2A2 and W4A4 the headline is the worst
shape's ratio to float32, whether it is above 1 or not.

    python benchmarks/bitplanes.py [--quick] [--save]
"""

import argparse
import time
from typing import Any

import torch
from torch import Tensor

from pennyweight import ops
from pennyweight.numerics.formats import BinaryFormat, IntFormat
from pennyweight.numerics.measure import interleaved
from reporting import headline, save_rows

SHAPES = ((1, 1024, 1024), (32, 1024, 1024), (256, 1024, 1024), (256, 4096, 1024))
FORMATS: dict[str, tuple[IntFormat | BinaryFormat, IntFormat]] = {
    "w1a2": (BinaryFormat(), IntFormat(2)),
    "w2a2": (IntFormat(2, narrow=True), IntFormat(2)),
    "w4a4": (IntFormat(4, narrow=True), IntFormat(4)),
}
SCALE = 0.5


def weight_codes(format: IntFormat | BinaryFormat, n: int, k: int) -> Tensor:
    """Codes of Gaussian weights."""
    w = torch.randn(n, k, generator=torch.Generator().manual_seed(1))
    if isinstance(format, BinaryFormat):
        return torch.where(w >= 0, 1.0, -1.0)
    return (w * format.max / 2).round().clamp(format.min, format.max)


def measure(name: str, shape: tuple[int, int, int], repeats: int) -> dict[str, Any]:
    """One row: ours against both peers."""
    (m, k, n), (of_weight, of_input) = shape, FORMATS[name]
    x = torch.randn(m, k, generator=torch.Generator().manual_seed(0))
    weight = weight_codes(of_weight, n, k)
    packed = ops.prepack_bitplanes(ops.pack_bitplanes(weight, of_weight))
    codes = (x / SCALE).round().clamp(of_input.min, of_input.max)
    planes = ops.pack_bitplanes(codes, of_input)
    out, wide = torch.empty(m, n, dtype=torch.int32), torch.empty(m, n)

    def ours() -> None:
        ops.bitplane_matmul(ops.quantize_bitplanes(x, SCALE, of_input), packed, out=out)

    ours()
    truth = (codes.double() @ weight.double().T).to(torch.int32)
    assert torch.equal(out, truth), "the bit planes and the integer product differ"
    timed = interleaved(lambda: torch.mm(x, weight.T, out=wide), ours, repeats=repeats, clock=time.thread_time)
    product = interleaved(
        ours, lambda: ops.bitplane_matmul(planes, packed, out=out), repeats=repeats, clock=time.thread_time
    )
    row: dict[str, Any] = {
        "arm": name, "m": m, "k": k, "n": n, "backend": ops.current_backend(), "repeats": repeats,
        "float32_us": timed.a_seconds * 1e6, "ours_us": timed.b_seconds * 1e6, "product_us": product.b_seconds * 1e6,
        "over_float32": timed.ratio, "spread": timed.spread, "int8_us": "", "over_int8": "",
        "weight_bytes": packed.panels.numel(), "float32_bytes": 4 * n * k,
    }  # fmt: skip
    if m > 16:
        left, right = codes.to(torch.int8), weight.to(torch.int8).T.contiguous()
        assert torch.equal(torch._int_mm(left, right), truth)
        against = interleaved(
            lambda: torch._int_mm(left, right, out=out), ours, repeats=repeats, clock=time.thread_time
        )
        row |= {"int8_us": against.a_seconds * 1e6, "over_int8": against.ratio}
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer repeats")
    parser.add_argument("--save", action="store_true", help="write the rows under results/")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = [measure(name, shape, 7 if options.quick else 41) for name in FORMATS for shape in SHAPES]
    for row in rows:
        int8 = f"{row['over_int8']:.2f}" if row["over_int8"] else "-"
        print(
            f"{row['arm']} {row['m']:4d} x {row['k']} x {row['n']}: float32 {row['float32_us']:8.0f} us, ours "
            f"{row['ours_us']:7.0f} us (product {row['product_us']:.0f}): {row['over_float32']:.2f} times float32's "
            f"speed, {int8} times int8's, spread {row['spread']:.3f}"
        )
    if options.save:
        print(f"saved {save_rows('bitplanes', rows).name}")
    for name in FORMATS:
        worst = min((row for row in rows if row["arm"] == name), key=lambda row: row["over_float32"])
        figures = (worst["over_float32"], "x", worst["repeats"], worst["spread"], "torch_float32_mm")
        print(headline(f"bitplane_{name}_speedup", *figures))


if __name__ == "__main__":
    main()
