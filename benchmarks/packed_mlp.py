"""A packed binary multi-layer perceptron against torch's float one of the same shape: 784 inputs, 3 x 2048, 10 outputs.

The packed one takes float32 images: their int8 codes, the first layer (codes times packed signs), three thresholds, two
binary layers and the output layer are one call. The float one is Linear, BatchNorm1d and ReLU in eval mode, eager, and
the same with the norms folded into the linear layers; the figure is against the faster of the two. Weights are random;
before anything is timed, the sums and the argmax of every sample must equal those of an unpacked torch network.

    python benchmarks/packed_mlp.py [--quick] [--save]
"""

import argparse
import itertools
import os
from typing import Any

import torch
from torch import Tensor, nn

from pennyweight import ops
from pennyweight.numerics.measure import interleaved
from reporting import headline, save_rows

WIDTHS = (784, 2048, 2048, 2048, 10)
SCALE = 1 / 128


class FloatNetwork(nn.Sequential):
    """Linear, norm, activation, three times, and a linear output layer; eval mode."""

    def __init__(self, *, norm: bool) -> None:
        layers: list[nn.Module] = []
        for k, n in itertools.pairwise(WIDTHS[:-1]):
            layers += [nn.Linear(k, n), *([nn.BatchNorm1d(n)] if norm else []), nn.ReLU()]
        super().__init__(*layers, nn.Linear(WIDTHS[-2], WIDTHS[-1]))
        self.eval()


def random_layers(generator: torch.Generator) -> tuple[list[Tensor], list[ops.ChainLayer]]:
    """Random weights, and the same packed, with thresholds inside the spread of the sums they are compared with."""
    weights = [torch.randn(n, k, generator=generator) for k, n in itertools.pairwise(WIDTHS)]
    layers = []
    for i, w in enumerate(weights):
        hidden = i < len(weights) - 1
        spread = 0.5 * w.shape[1] ** 0.5 * (64 if i == 0 else 1)
        threshold = (torch.randn(w.shape[0], generator=generator) * spread).round().to(torch.int32)
        greater = torch.rand(w.shape[0], generator=generator) < 0.8
        layers.append(
            ops.ChainLayer(
                words=ops.pack_signs(w),
                k=w.shape[1],
                threshold=threshold if hidden else None,
                greater=greater if hidden else None,
            )
        )
    return weights, layers


def unpacked(x: Tensor, weights: list[Tensor], layers: list[ops.ChainLayer]) -> Tensor:
    """The same network in plain torch float arithmetic, exact for these widths."""
    x = torch.round(x / SCALE).clamp(-128, 127)
    for w, layer in zip(weights, layers, strict=True):
        z = x @ torch.where(w >= 0, 1.0, -1.0).T
        if layer.threshold is None or layer.greater is None:
            return z
        x = torch.where(torch.where(layer.greater, z >= layer.threshold, z <= layer.threshold), 1.0, -1.0)
    raise AssertionError("the last layer has thresholds")


def packed_bytes(layers: list[ops.ChainLayer]) -> int:
    """Words, thresholds, one direction bit a column, and the scale."""
    total = 4
    for layer in layers:
        total += layer.words.numel() * 8
        if layer.threshold is not None:
            total += layer.threshold.numel() * 4 + -(-layer.threshold.numel() // 8)
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer repeats, under a minute")
    parser.add_argument("--save", action="store_true", help="write the rows under results/")
    options = parser.parse_args()
    repeats = 9 if options.quick else 31

    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    weights, layers = random_layers(generator)
    chain = ops.PackedChain(layers, first="int8", scale=SCALE)
    samples = torch.randn(512 if options.quick else 4096, WIDTHS[0], generator=generator) * 0.5
    expected = unpacked(samples, weights, layers)
    sums = chain.run(samples)
    assert torch.equal(sums, expected.to(torch.int32)), "the packed network's sums are wrong"
    assert torch.equal(sums.argmax(1), expected.argmax(1)), "the packed network's answers are wrong"
    print(f"correct: {len(samples)} samples, sums and argmax equal to the unpacked network's; backend {chain.backend}")

    peers = {"torch_eager_batchnorm": FloatNetwork(norm=True), "torch_eager_folded": FloatNetwork(norm=False)}
    rows: list[dict[str, Any]] = []
    with torch.inference_mode():
        for threads in sorted({1, os.cpu_count() or 1}):
            torch.set_num_threads(threads)
            ops.set_num_threads(threads)
            for batch in (1, 256):
                x = samples[:batch].contiguous()
                out = torch.empty(batch, WIDTHS[-1], dtype=torch.int32)
                for peer, network in peers.items():
                    timed = interleaved(
                        lambda net=network, x=x: net(x), lambda x=x, out=out: chain.run(x, out), repeats=repeats
                    )
                    rows.append(
                        {
                            "batch": batch,
                            "threads": threads,
                            "peer": peer,
                            "backend": chain.backend,
                            "torch_us": timed.a_seconds * 1e6,
                            "ours_us": timed.b_seconds * 1e6,
                            "speedup": timed.ratio,
                            "spread": timed.spread,
                            "n": timed.n,
                        }
                    )
    float_bytes = sum(
        value.numel() * value.element_size() for value in peers["torch_eager_folded"].state_dict().values()
    )
    ratio = float_bytes / packed_bytes(layers)
    print(f"{'batch':>5s} {'threads':>7s} {'peer':22s} {'torch us':>9s} {'ours us':>8s} {'times':>6s} {'spread':>6s}")
    for row in rows:
        print(
            f"{row['batch']:5d} {row['threads']:7d} {row['peer']:22s} {row['torch_us']:9.1f} {row['ours_us']:8.1f} "
            f"{row['speedup']:6.1f} {row['spread']:6.3f}"
        )
    print(f"size: {float_bytes} bytes in float32 (norms folded), {packed_bytes(layers)} packed")
    if options.save:
        size_row = {"batch": 0, "threads": 0, "peer": "float32_bytes_over_packed_bytes", "backend": chain.backend}
        size_row |= {"torch_us": 0, "ours_us": 0, "speedup": ratio, "spread": 0, "n": 1}
        print(f"saved {save_rows('packed_mlp', [*rows, size_row]).name}")
    for threads in sorted({row["threads"] for row in rows}, reverse=True):
        suffix = "" if threads == 1 else "_all_threads"
        for batch in (1, 256):
            row = min(
                (r for r in rows if (r["batch"], r["threads"]) == (batch, threads)), key=lambda r: r["torch_us"]
            )  # the faster peer
            name = f"packed_mlp_speedup_b{batch}{suffix}"
            print(headline(name, row["speedup"], "x", row["n"], row["spread"], row["peer"]))
    print(headline("packed_mlp_size_ratio", ratio, "x", 1, 0.0, "float32_state_dict"))


if __name__ == "__main__":
    main()
