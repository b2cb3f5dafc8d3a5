"""Range BN against batch norm: passes and operations, time, and whether a trained batch norm's net is usable as it is.

- Operations of the forward statistics, counted by definition (`modelled`).
- Time of forward and backward in training mode, interleaved, one thread; three shapes. Reported, without a margin: on
  a CPU torch's batch norm is one fused call and ours is not.
- The public CIFAR-10 ResNet-20, its norms replaced by Range BN with each constant, not trained: accuracy with running
  statistics measured anew by ranges over 2,000 training images. Fixed before the run: with the exact constant it loses
  less than with the repository's and the paper's. Needs PENNYWEIGHT_DATA.

    python benchmarks/range_batchnorm.py [--quick] [--save]
"""

import argparse
import copy
import os
from pathlib import Path
from typing import Any

import torch
from torch import nn

import pennyweight as pw
from pennyweight.data import batch_at
from pennyweight.models import load_checkpoint
from pennyweight.nn.modes import in_mode
from pennyweight.nn.quantized_batchnorm import QuantizedBatchNorm2d
from pennyweight.nn.range_batchnorm import RangeBatchNorm2d
from pennyweight.numerics.measure import interleaved
from reporting import headline, save_rows

WEIGHTS = "nets/cifar10/resnet20-12fca82f.th"
SHAPES = ((64, 16, 32, 32), (64, 64, 8, 8), (256, 32, 16, 16))


def operations() -> list[dict[str, Any]]:
    """Operations on each value for the forward statistics and the normalization, by definition."""
    rows = [
        {"what": "operations a value", "norm": "batch", "adds": 4, "multiplies": 3, "comparisons": 0},
        {"what": "operations a value", "norm": "range", "adds": 3, "multiplies": 2, "comparisons": 2},
    ]
    for row in rows:  # a sum, x - mean, the square and its sum or two comparisons, scaled twice, shifted
        counts = ", ".join(f"{row[name]} {name}" for name in ("adds", "multiplies", "comparisons"))
        print(f"modelled, a value, {row['norm']} norm: {counts}")
    return rows


def times(repeats: int) -> list[dict[str, Any]]:
    """Training-mode forward and backward of the norms."""
    rows = []
    for shape in SHAPES:
        x = torch.randn(*shape).requires_grad_()
        g = torch.randn(*shape)
        plain = nn.BatchNorm2d(shape[1]).train()
        others = {"range": RangeBatchNorm2d(shape[1]), "range, 8 bits": QuantizedBatchNorm2d(shape[1], 8)}
        for name, norm in others.items():
            norm.train()
            found = interleaved(
                lambda norm=norm, x=x, g=g: norm(x).backward(g),
                lambda plain=plain, x=x, g=g: plain(x).backward(g),
                repeats=repeats,
            )
            rows.append({
                "what": "time", "norm": name, "shape": str(shape), "milliseconds": 1e3 * found.a_seconds,
                "ratio": found.ratio, "spread": found.spread, "n": found.n,
            })  # fmt: skip
            print(f"{shape!s:>18} {name:>13}: {1e3 * found.a_seconds:.3g} ms, {found.ratio:.2f} times batch norm's")
    worst = max((row for row in rows if row["norm"] == "range"), key=lambda row: row["ratio"])
    ratio, spread = worst["ratio"], worst["spread"]
    print(headline("range_batchnorm_time_ratio", ratio, "ratio", repeats, spread, "torch.nn.BatchNorm2d"))
    return rows


@torch.no_grad()
def checkpoint(images: int) -> list[dict[str, Any]]:
    """Accuracy of the trained ResNet-20 with running statistics measured by ranges."""
    train = pw.load_dataset("cifar10", "train", root=os.environ["PENNYWEIGHT_DATA"])
    test = pw.load_dataset("cifar10", "test", root=os.environ["PENNYWEIGHT_DATA"])
    trained = pw.create_model("resnet20")
    load_checkpoint(trained, Path(os.environ["PENNYWEIGHT_DATA"]) / WEIGHTS)
    rows = []
    for scale in ("stored", "batch", "exact", "repo", "paper", "calibrated"):
        model = copy.deepcopy(trained)
        if scale == "calibrated":
            batches = batch_at(train, first_sample=0, batch_size=images, seed=0).inputs[:400].split(200)
            pw.apply_(model, pw.RangeBatchNorm(calibrate=True), data=list(batches))
        elif scale not in ("stored", "batch"):
            pw.apply_(model, pw.RangeBatchNorm(scale=scale))  # type: ignore[arg-type]
        if scale != "stored":
            remeasure_(model, batch_at(train, first_sample=0, batch_size=images, seed=0).inputs)
        accuracy = 100 * float(pw.evaluate(model, test).accuracy)
        rows.append({"what": "accuracy", "norm": scale, "value": accuracy})
        print(f"ResNet-20, running statistics {scale:>6}: {accuracy:.2f} %")
    by = {row["norm"]: row["value"] for row in rows}
    verdict = "holds" if by["exact"] > max(by["repo"], by["paper"]) else "not shown"
    print(f"CLAIM the exact constant loses less than the repository's and the paper's: {verdict}")
    print(
        headline("range_batchnorm_checkpoint_points", by["exact"] - by["batch"], "points", 1, 0.0, "batch statistics")
    )
    return rows


def remeasure_(model: nn.Module, images: torch.Tensor) -> None:
    """Replace the running statistics by the mean over batches of what the norms measure themselves."""
    for norm in (module for module in model.modules() if isinstance(module, nn.BatchNorm2d)):
        norm.reset_running_stats()
        norm.momentum = None
    with in_mode(model, training=True):
        for batch in images.split(200):
            model(batch)


def main() -> None:
    """Run the parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few repeats, no ResNet")
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rows = operations() + times(5 if options.quick else 21)
    if "PENNYWEIGHT_DATA" in os.environ and not options.quick:
        rows += checkpoint(2000)
    else:
        print("the trained ResNet-20 was left out: PENNYWEIGHT_DATA is not set, or --quick")
    if options.save:
        columns = dict.fromkeys(key for row in rows for key in row)
        print(save_rows("range_batchnorm", [{key: row.get(key, "") for key in columns} for row in rows]))


if __name__ == "__main__":
    main()
