"""A packed binary perceptron against the float one of the same shape, both as a user gets them: 784 - 3 x 2048 - 10.

The packed one is an exported artifact called on float images: int8 codes of the pixels, the first layer (codes times
packed signs), thresholds, two binary layers and the output layer are one call of the C++ library. The float one is the
eager module in evaluation mode, with batch norm as trained and with it folded; the figure is against the faster of the
two. Weights are those of a few training steps on random images: speed and size do not depend on their values.

Before anything is timed, logits of every sample must equal those of the unpacked binary module bit for bit.

    python benchmarks/packed_mlp.py [--quick] [--save]
"""

import argparse
import copy
import os
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import pennyweight as pw
from pennyweight import ops
from pennyweight.nn import fold_batchnorm_, project_
from pennyweight.numerics.measure import interleaved
from reporting import headline, save_rows

HIDDEN = (2048, 2048, 2048)


def settle(model: nn.Module, images: Tensor) -> None:
    """Some steps on random labels, so that batch norm has statistics and weights have moved."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    model.train()
    for step in range(4):
        batch = images[64 * step : 64 * (step + 1)]
        loss = nn.functional.cross_entropy(model(batch), torch.arange(len(batch)) % 10)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        project_(model)
    model.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer repeats, under a minute")
    parser.add_argument("--save", action="store_true", help="write the rows under results/")
    options = parser.parse_args()
    repeats = 9 if options.quick else 31

    torch.manual_seed(0)
    images = (torch.randint(0, 256, (512 if options.quick else 4096, 1, 28, 28)).float() - 128) / 128
    unfolded = pw.create_model("mlp", input_shape=(1, 28, 28), hidden=HIDDEN)
    binary = copy.deepcopy(unfolded)
    pw.apply_(binary, pw.BNN())
    for model in (unfolded, binary):
        settle(model, images)
    folded = copy.deepcopy(unfolded)
    fold_batchnorm_(folded)
    peers = {"torch_eager_batchnorm": unfolded, "torch_eager_folded": folded.eval()}

    with tempfile.TemporaryDirectory() as folder:
        float_bytes = pw.export(folded, Path(folder) / "float.pw").size_bytes
        artifact = pw.export(binary, Path(folder) / "binary.pw", example_input=images[:4])
    packed = artifact.model()
    backend = next(module.chain.backend for module in packed.modules() if hasattr(module, "chain"))
    with torch.inference_mode():
        expected = torch.cat([binary(part) for part in images.split(512)])
        assert torch.equal(packed(images), expected), "the packed network's logits differ from the module's"
        print(f"correct: logits of {len(images)} samples equal bit for bit; backend {backend}; {artifact.numerics}")
        rows = [
            measure(peer, network, packed, images[:batch], threads, repeats, backend)
            for threads in sorted({1, os.cpu_count() or 1})
            for batch in (1, 256)
            for peer, network in peers.items()
        ]
    ratio = float_bytes / artifact.size_bytes
    print(f"{'batch':>5s} {'threads':>7s} {'peer':22s} {'torch us':>9s} {'ours us':>8s} {'times':>6s} {'spread':>6s}")
    for row in rows:
        print(
            f"{row['batch']:5d} {row['threads']:7d} {row['peer']:22s} {row['torch_us']:9.1f} {row['ours_us']:8.1f} "
            f"{row['speedup']:6.1f} {row['spread']:6.3f}"
        )
    print(f"size on disk: {float_bytes} bytes as a float artifact, {artifact.size_bytes} packed")
    if options.save:
        size = {
            "batch": 0,
            "threads": 0,
            "peer": "float_artifact_bytes",
            "backend": backend,
            "torch_us": 0,
            "ours_us": 0,
        }
        print(f"saved {save_rows('packed_mlp', [*rows, size | {'speedup': ratio, 'spread': 0, 'n': 1}]).name}")
    for threads in sorted({row["threads"] for row in rows}, reverse=True):
        for batch in (1, 256):
            same = [row for row in rows if (row["batch"], row["threads"]) == (batch, threads)]
            row = min(same, key=lambda candidate: candidate["torch_us"])  # the faster peer
            name = f"packed_mlp_speedup_b{batch}" + ("" if threads == 1 else "_all_threads")
            print(headline(name, row["speedup"], "x", row["n"], row["spread"], row["peer"]))
    print(headline("packed_mlp_size_ratio", ratio, "x", 1, 0.0, "float_artifact"))


def measure(
    peer: str, network: nn.Module, packed: nn.Module, x: Tensor, threads: int, repeats: int, backend: str
) -> dict[str, Any]:
    """One row: a float network and the packed one in turns on the same batch."""
    torch.set_num_threads(threads)
    ops.set_num_threads(threads)
    timed = interleaved(lambda: network(x), lambda: packed(x), repeats=repeats)
    return {
        "batch": len(x),
        "threads": threads,
        "peer": peer,
        "backend": backend,
        "torch_us": timed.a_seconds * 1e6,
        "ours_us": timed.b_seconds * 1e6,
        "speedup": timed.ratio,
        "spread": timed.spread,
        "n": timed.n,
    }


if __name__ == "__main__":
    main()
