"""N:M masks and unbiased pruning of 4096 x 4096 matrices, each beside its peer and beside a copy of the matrix.

Peers, in the same run: for masks by magnitude `torch.topk` within groups and a scatter into a boolean mask; for
unbiased 2:4 the paper's two draws a group with `torch.multinomial`, without replacement, and the division by the
probability of being kept, as it has to be written in torch. `vs_clone` is the time over that of a `copy_` into warm
memory. We write into preallocated memory: masks as packed bits, pruned gradients dense.

Margins fixed beforehand: `nm_2of4_vs_clone` at most 4, `nm_2of4_vs_topk_speedup` at least 8,
`mvue_2of4_vs_torch_speedup` at least 15, `mvue_2of4_vs_clone` at most 6. Leads: 2:4 masks in 0.02 s and 2:4 pruning in
0.03 s on two cores.

Checked before anything is timed: masks against topk's where no magnitudes tie, pruning against the reference, bit for
bit, on one and on two threads. The peer's drawn values are checked to average to the matrix.

    python benchmarks/masks.py [--quick] [--save] [--threads 2]
"""

import argparse
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pennyweight import ops
from pennyweight.masks import mvue as pruning
from pennyweight.masks.nm import NM
from pennyweight.masks.packed import unpack_mask
from pennyweight.numerics.measure import interleaved
from pennyweight.numerics.random import Key
from pennyweight.ops.nm_masks import mvue, nm_mask_bits
from reporting import headline, save_rows

KEY = Key(0).fold("benchmark")


def topk_mask(x: Tensor, pattern: NM, out: Tensor) -> Tensor:
    """(R, C), C a multiple of m -> (R, C) bool."""
    groups = x.abs().view(-1, pattern.m)
    places = torch.topk(groups, pattern.n, dim=1, sorted=False).indices
    out.zero_().view(-1, pattern.m).scatter_(1, places, True)
    return out


def two_draws(x: Tensor, out: Tensor) -> Tensor:
    """Unbiased 2:4 with torch's own sampler; a group of zeros would be refused by it."""
    groups = x.view(-1, 4)
    sizes = groups.abs()
    total = sizes.sum(1, keepdim=True)
    ratios = sizes / (total - sizes)
    kept = sizes / total * (1 + ratios.sum(1, keepdim=True) - ratios)
    places = torch.multinomial(sizes, 2)
    out.zero_().view(-1, 4).scatter_(1, places, (groups / kept).gather(1, places))
    return out


def row(job: str, peer: str, theirs: Callable[[], Any], ours: Callable[[], Any], repeats: int) -> dict[str, Any]:
    timed = interleaved(theirs, ours, repeats=repeats)
    return {
        "job": job, "peer": peer, "peer_ms": timed.a_seconds * 1e3, "ours_ms": timed.b_seconds * 1e3,
        "peer_over_ours": timed.ratio, "spread": timed.spread, "repeats": repeats,
    }  # fmt: skip


def check(x: Tensor) -> None:
    part = x[:256].contiguous()
    found = []
    for threads in (1, 2):
        ops.set_num_threads(threads)
        found.append((nm_mask_bits(part, NM(2, 4)), mvue(part, NM(2, 4), KEY)))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True)), "the thread count changed a bit"
    bits, pruned = found[0]
    mask = unpack_mask(bits, part.shape[1])
    assert torch.equal(mask, topk_mask(part, NM(2, 4), torch.empty_like(mask))), "mask and topk differ"
    assert torch.equal(pruned, pruning.mvue(part, NM(2, 4), KEY)), "kernel and reference differ"
    mean = sum(two_draws(part, torch.empty_like(part)) for _ in range(20)) / 20
    assert abs(float((mean * part).sum() / part.square().sum()) - 1) < 0.01, "the peer is biased"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer repeats, and 1024 x 1024")
    parser.add_argument("--save", action="store_true", help="write the rows under results/")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    side, repeats = (1024, 5) if options.quick else (4096, 9)
    x = torch.randn(side, side, generator=torch.Generator().manual_seed(0))
    check(x)
    torch.set_num_threads(options.threads)
    ops.set_num_threads(None)
    dense, mask = torch.empty_like(x), torch.empty(side, side, dtype=torch.bool)
    bits = torch.empty(side, side // 8, dtype=torch.uint8)

    def clone() -> Tensor:
        return dense.copy_(x)

    rows = []
    for pattern in (NM(2, 4), NM(4, 8), NM(8, 16)):
        for axis in (1, 0):
            job = f"mask {pattern} axis {axis}"
            rows.append(row(job, "copy", clone, lambda p=pattern, a=axis: nm_mask_bits(x, p, a, bits), repeats))
            job = f"mvue {pattern} axis {axis}"
            rows.append(row(job, "copy", clone, lambda p=pattern, a=axis: mvue(x, p, KEY, a, out=dense), repeats))
    rows.append(row("mask 2:4 axis 1", "torch_topk", lambda: topk_mask(x, NM(2, 4), mask),
                    lambda: nm_mask_bits(x, NM(2, 4), 1, bits), repeats))  # fmt: skip
    rows.append(row("mvue 2:4 axis 1", "torch_multinomial", lambda: two_draws(x, dense),
                    lambda: mvue(x, NM(2, 4), KEY, 1, out=dense), repeats))  # fmt: skip
    for one in rows:
        one |= {"side": side, "threads": options.threads}
        print(f"{one['job']:18s} {one['ours_ms']:9.2f} ms, {one['peer']:17s} {one['peer_ms']:9.2f} ms, "
              f"ratio {one['peer_over_ours']:7.2f}, spread {one['spread']:.3f}")  # fmt: skip
    if options.save:
        print(f"saved {save_rows('masks', rows).name}")
    for name, job, peer in (
        ("nm_2of4_vs_clone", "mask 2:4 axis 1", "copy"),
        ("nm_2of4_vs_topk_speedup", "mask 2:4 axis 1", "torch_topk"),
        ("mvue_2of4_vs_clone", "mvue 2:4 axis 1", "copy"),
        ("mvue_2of4_vs_torch_speedup", "mvue 2:4 axis 1", "torch_multinomial"),
    ):
        one = next(r for r in rows if (r["job"], r["peer"]) == (job, peer))
        value = 1 / one["peer_over_ours"] if peer == "copy" else one["peer_over_ours"]
        print(headline(name, value, "x", repeats, one["spread"], peer))


if __name__ == "__main__":
    main()
