"""Transposable N:M masks: how long they take, against what, and how near to the optimum each solver comes.

Parts:

    speed    4096 x 4096 Gaussian scores into a preallocated bool mask, every solver in C++, beside a copy of the scores
             into warm memory; 2:4 beside the matrix product of tiles with all 90 masks in torch; 1024 x 1024 beside the
             reference's algorithm
    quality  the share of the optimal total each solver keeps, and of lines it fills, on Gaussian scores and on the
             weights of trained nets (ResNet-20 and -56 on CIFAR-10, a small language model; tensors with whole tiles)

The reference is the greedy of the paper's repository with its operations as they are there: all tiles together, one
rank of the sorted scores after another; at each rank entries are split into rows and columns, lines are counted from
the mask anew, and tiles are picked by a Python range. It is slower than the algorithm need be, so a second figure is
against the same order of entries with counts carried along and index tensors (`masks.greedy_keep`). Both return what a
greedy does, ours the optimum.

Margins fixed beforehand, on 2 cores: exact 2:4 in 0.15 s, 4:8 in 1.0 s, 8:16 in 3.5 s, greedy with swaps 4:8 in 0.25 s,
at 4096 x 4096; exact 4:8 at least 100 times the reference at 1024 x 1024. Before anything is timed masks are compared
with the readable truth's and lines are counted.

Excluded: taking absolute values. Included: the check that scores are finite and not negative.

    python benchmarks/transposable_masks.py [speed quality] [--quick] [--save] [--threads 2]
"""

import argparse
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from pennyweight import ops
from pennyweight.data.roots import find_in_roots
from pennyweight.masks.transposable import as_matrices, to_tiles
from pennyweight.masks.transposable_greedy import greedy_keep
from pennyweight.models.llama2c import load_llama2c
from pennyweight.numerics.measure import Comparison, interleaved
from pennyweight.ops import transposable_mask
from reporting import headline, save_rows

PATTERNS = ((2, 4), (4, 8), (8, 16))
SOLVERS = ("exact", "greedy_swap", "greedy_keep", "greedy_prune")
NETS = {"resnet20": "resnet20-12fca82f.th", "resnet56": "resnet56-4bfd9763.th"}
Rows = list[dict[str, Any]]


def gaussian(size: int) -> Tensor:
    return torch.randn(size, size, generator=torch.Generator().manual_seed(0)).abs()


def reference_greedy(tiles: Tensor, n: int, m: int) -> Tensor:
    """(T, m * m) -> mask; stops where the current entry is blocked on both sides in every tile, as there."""
    every = range(len(tiles))
    mask = torch.zeros_like(tiles)
    order = tiles.sort(1, descending=True).indices
    for rank in range(m * m):
        if rank < n:
            mask[every, order[every, rank]] = 1
            continue
        row, column = order // m, order % m
        column_open = mask.view(-1, m, m).sum(1)[every, column[:, rank]] < n
        row_open = mask.view(-1, m, m).sum(2)[every, row[:, rank]] < n
        if not column_open.any() and not row_open.any():
            break
        both = column_open & row_open
        mask[both, order[both][:, rank]] = 1
    return mask


def all_masks_2of4() -> Tensor:
    """(16, 90) in the order of ties: the earliest entries first."""
    bits = torch.arange((1 << 16) - 1, -1, -1)[:, None] >> torch.arange(15, -1, -1) & 1
    tiles = bits.view(-1, 4, 4)
    return bits[((tiles.sum(1) == 2) & (tiles.sum(2) == 2)).all(1)].t().float().contiguous()


def torch_2of4(scores: Tensor, masks: Tensor) -> Tensor:
    """The best of all masks by one matrix product."""
    tiles = to_tiles(scores[None], 4).flatten(1)
    best = masks.t()[(tiles @ masks).argmax(1)]
    size = len(scores)
    return best.view(size // 4, size // 4, 4, 4).transpose(1, 2).reshape(size, size).bool()


def check() -> None:
    """Against the readable truth, on a part; every line of every tile."""
    scores = gaussian(192)
    for n, m in PATTERNS:
        for solver in SOLVERS:
            mask = transposable_mask(scores, n, m, solver=solver)
            with ops.use_backend("reference"):
                assert torch.equal(mask, transposable_mask(scores, n, m, solver=solver)), (n, m, solver)
    masks = all_masks_2of4()
    assert masks.shape == (16, 90)
    assert torch.equal(torch_2of4(scores, masks), transposable_mask(scores, 2, 4)), "the peer finds other masks"
    tiles = to_tiles(scores[None], 8)
    taken = reference_greedy(tiles.flatten(1), 4, 8).view_as(tiles).bool()
    assert not bool((taken & ~greedy_keep(tiles, 4)).any()), "the reference keeps what its order does not allow"


def speed(quick: bool) -> Rows:
    size, repeats = (1024, 5) if quick else (4096, 11)
    scores, copy = gaussian(size), torch.zeros(size, size)
    out = torch.zeros(size, size, dtype=torch.bool)
    rows: Rows = []

    def add(pattern: tuple[int, int], solver: str, side: int, peer: str, timed: Comparison) -> None:
        n, m = pattern
        row = {
            "part": "speed", "pattern": f"{n}:{m}", "solver": solver, "size": side, "backend": ops.current_backend(),
            "threads": torch.get_num_threads(), "ours_ms": timed.a_seconds * 1e3, "peer": peer,
            "peer_ms": timed.b_seconds * 1e3, "ours_over_peer": timed.ratio, "spread": timed.spread, "repeats": timed.n,
        }  # fmt: skip
        rows.append(row)
        print(f"{n}:{m} {solver:12s} {side} {row['ours_ms']:9.2f} ms, {peer} {row['peer_ms']:9.2f} ms", flush=True)

    for n, m in PATTERNS:
        for solver in SOLVERS:
            ours: Callable[[], object] = lambda n=n, m=m, s=solver: transposable_mask(scores, n, m, solver=s, out=out)  # noqa: E731
            add((n, m), solver, size, "clone", interleaved(ours, lambda: copy.copy_(scores), repeats=repeats, warmup=1))
    masks = all_masks_2of4()
    timed = interleaved(
        lambda: transposable_mask(scores, 2, 4, out=out), lambda: torch_2of4(scores, masks), repeats=repeats, warmup=1
    )
    add((2, 4), "exact", size, "torch_90_masks", timed)
    side = 256 if quick else 1024
    small, into = gaussian(side), torch.zeros(side, side, dtype=torch.bool)
    for n, m in PATTERNS:
        tiles = to_tiles(small[None], m)
        peers: dict[str, Callable[[], object]] = {
            "reference": lambda t=tiles, n=n, m=m: reference_greedy(t.flatten(1), n, m),
            "reference_tidied": lambda t=tiles, n=n: greedy_keep(t, n),
        }
        for peer, call in peers.items():
            exact: Callable[[], object] = lambda n=n, m=m: transposable_mask(small, n, m, out=into)  # noqa: E731
            add((n, m), "exact", side, peer, interleaved(exact, call, repeats=3 if quick else 5, warmup=1))
    return rows


def trained_weights(quick: bool) -> dict[str, list[Tensor]]:
    """Tensors of at least two dimensions, by net."""
    folder = find_in_roots("nets", ["nets"], None)
    found: dict[str, list[Tensor]] = {"gaussian": [gaussian(256 if quick else 1024)]}
    for name, file in NETS.items():
        state = torch.load(folder / "cifar10" / file, weights_only=True, map_location="cpu")["state_dict"]
        found[name] = [weight.abs() for weight in state.values() if weight.dim() > 1]
    decoder: nn.Module = load_llama2c(folder / "lm" / "aidreams260K.bin")
    layers = [layer for layer in decoder.modules() if isinstance(layer, nn.Linear)]
    found["llama2c-260k"] = [layer.weight.detach().abs() for layer in layers]
    return dict(list(found.items())[:2]) if quick else found


def quality(quick: bool) -> Rows:
    rows: Rows = []
    for net, weights in trained_weights(quick).items():
        for n, m in PATTERNS:
            fitting = [weight for weight in weights if min(as_matrices(weight).shape[1:]) % m == 0]
            fitting = [weight for weight in fitting if max(as_matrices(weight).shape[1:]) % m == 0]
            if not fitting:
                continue
            best = math.nan
            for solver in (*SOLVERS, "entropic"):
                kept = filled = lines = 0.0
                for weight in fitting:
                    mask = transposable_mask(weight, n, m, solver=solver)
                    kept += float(weight.double()[mask].sum())
                    tiles = to_tiles(as_matrices(mask), m)
                    filled += float((tiles.sum(1) == n).sum() + (tiles.sum(2) == n).sum())
                    lines += 2 * len(tiles) * m
                best = kept if solver == "exact" else best
                everything = sum(float(weight.double().sum()) for weight in fitting)
                row = {
                    "part": "quality", "net": net, "pattern": f"{n}:{m}", "solver": solver, "tensors": len(fitting),
                    "kept_over_optimum": kept / best, "kept_over_all": kept / everything,
                    "lines_filled": filled / lines,
                }  # fmt: skip
                rows.append(row)
                shares = f"{kept / best:.5f} of the optimum, {kept / everything:.4f} of all"
                print(f"{net:13s} {n}:{m:<3d} {solver:12s} {shares}, {filled / lines:.3f} of lines filled", flush=True)
    return rows


def headlines(rows: Rows) -> None:
    def find(pattern: str, solver: str, peer: str) -> dict[str, Any]:
        wanted = {"part": "speed", "pattern": pattern, "solver": solver, "peer": peer}
        return next(row for row in rows if wanted.items() <= row.items())

    for pattern in ("2:4", "4:8", "8:16"):
        name, row = pattern.replace(":", "of"), find(pattern, "exact", "clone")
        ratio = row["ours_over_peer"]
        print(headline(f"transposable_{name}_vs_clone", ratio, "x", row["repeats"], row["spread"], "clone"))
        print(headline(f"transposable_{name}_ms", row["ours_ms"], "ms", row["repeats"], row["spread"], "none"))
    row = find("4:8", "greedy_swap", "clone")
    print(headline("transposable_4of8_swap_ms", row["ours_ms"], "ms", row["repeats"], row["spread"], "none"))
    for name, pattern, peer in (
        ("transposable_4of8_vs_reference_speedup", "4:8", "reference"),
        ("transposable_4of8_vs_tidied_reference_speedup", "4:8", "reference_tidied"),
        ("transposable_2of4_vs_torch_speedup", "2:4", "torch_90_masks"),
    ):
        row = find(pattern, "exact", peer)
        print(headline(name, 1 / row["ours_over_peer"], "x", row["repeats"], row["spread"], peer))


PARTS: dict[str, Callable[[bool], Rows]] = {"speed": speed, "quality": quality}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="all by default")
    parser.add_argument("--quick", action="store_true", help="smaller matrices, fewer repeats and nets")
    parser.add_argument("--save", action="store_true", help="write the rows under results/")
    parser.add_argument("--threads", type=int, default=2, help="of torch and of our kernels (2)")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    check()
    for part in options.parts or PARTS:
        rows = PARTS[part](options.quick)
        if options.save:
            print(f"saved {save_rows(f'transposable_masks_{part}', rows).name}")
        if part == "speed":
            headlines(rows)


if __name__ == "__main__":
    main()
