"""Quantized networks at proxy size (arXiv 1609.07061): the order of bit widths, and 6-bit gradients.

VGG-small a sixteenth as wide as the paper's (8, 16 and 32 channels, 64 units, batch norm on the logits) on CIFAR-10:
250 steps of 64 images, flips, Adam with a cosine from 6e-3 for every arm; the paper has 500 epochs. Weights and
activations of all layers are quantized, first and last included; images are 8-bit integers. Every arm of a seed sees
the same images in the same order. `--data digits` asks the same of a perceptron (2 x 256, 400 steps of 64) without a
verdict.

Chosen before the claims, one seed (100), 250 steps on the first 45,000 training images, accuracy on the last 5,000. For
activations the symmetric levels "int2n" (-1, 0, 1): at twice the width 49.3 % with 1-bit weights, where "int2" had 46.1
and "uint2" after rectifiers 46.6. For weights of 2 bits "int2" (-1, -1/2, 0, 1/2): 43.6 % where "int2n" had 41.5. The
learning rate is bnn-cifar10-small's.

Fixed before the runs, on the 10,000 test images, 5 seeds, arms compared seed by seed, 95 % intervals of Student's t:

- order: W1A1 < W1A2 < W2A2 < W4A4. Each of the three differences: holds, when its interval lies above 0; partly, when
  its mean does; not, otherwise.
- W4A4 is near float: the interval of the difference lies above -2 points (holds), or its mean does (partly).
- 6-bit gradients ("int6n", stochastic, both backward products) are as good as float ones with W1A2: the same, -2
  points.

    python benchmarks/qnn.py [--quick] [--save] [--seeds 5] [--data cifar10|digits]

Resumable: finished cells lie in runs/cells/qnn.jsonl; BUDGET_HOURS limits a call.
"""

import argparse
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

import pennyweight as pw
from cells import BudgetSpentError, Cells, whole
from reporting import headline, save_rows

T_975 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)  # for 2 to 10 seeds
MARGIN = 2.0
ARMS: dict[str, dict[str, str] | None] = {
    "float": None,
    "w1a1": {"weights": "binary", "activations": "binary"},
    "w1a2": {"weights": "binary", "activations": "int2n"},
    "w2a2": {"weights": "int2", "activations": "int2n"},
    "w4a4": {"weights": "int4n", "activations": "int4n"},
    "w1a2g6": {"weights": "binary", "activations": "int2n", "gradients": "int6n"},
}
ORDER = (("w1a1", "w1a2"), ("w1a2", "w2a2"), ("w2a2", "w4a4"))
NEAR = (("w4a4", "float"), ("w1a2g6", "w1a2"))
MODELS: dict[str, dict[str, Any]] = {
    "cifar10": {"name": "vgg-small", "width": 8, "bn_output": True},
    "digits": {"name": "mlp", "hidden": (256, 256), "bn_output": True},
}
TRAINING = {"cifar10": (250, 64, 6e-3), "digits": (400, 64, 3e-3)}  # steps, images of a step, learning rate


def measure(settings: Mapping[str, str] | None, seed: int, steps: int, data: str) -> dict[str, Any]:
    """Train one arm and evaluate it on the test split."""
    model = pw.create_model(**MODELS[data], seed=seed)
    if settings is not None:
        pw.apply_(model, pw.QNN(**settings, seed=seed))  # type: ignore[arg-type]
    _, batch_size, lr = TRAINING[data]
    regime = pw.Regime.cosine(steps=steps, lr=lr, batch_size=batch_size, optimizer="adam")
    augment = pw.Augment(flip=True) if data == "cifar10" else None
    try:
        train, test = (pw.load_dataset(data, split, normalization="centered") for split in ("train", "test"))
        whole(pw.train(model, train, regime, seed=seed, augment=augment, progress=False))
        return {"accuracy": float(pw.evaluate(model, test).accuracy), "failed": ""}
    except pw.PennyweightError as error:  # weights or outputs that are not finite: the arm guesses
        return {"accuracy": 0.1, "failed": type(error).__name__}


def compared(found: Mapping[str, Sequence[float]], arm: str, peer: str) -> dict[str, Any]:
    """Points of `arm` minus those of `peer`, seed by seed, with the interval of their mean."""
    count = min(len(found[arm]), len(found[peer]))
    points = torch.tensor([100 * (a - b) for a, b in zip(found[arm], found[peer], strict=False)], dtype=torch.float64)
    mean, half = float(points.mean()), math.inf
    if count > 1:
        half = T_975[min(count, 10) - 2] * float(points.std()) / count**0.5
    return {
        "arm": arm, "peer": peer, "accuracy": 100 * sum(found[arm]) / len(found[arm]), "points": mean,
        "low": mean - half, "high": mean + half, "n": count,
        "per_seed": " ".join(f"{100 * value:.2f}" for value in found[arm]),
    }  # fmt: skip


def verdict(row: Mapping[str, Any], least: float) -> str:
    """By the rule of the module's docstring."""
    return "holds" if row["low"] > least else "partly" if row["points"] > least else "not"


def rows_of(found: Mapping[str, Sequence[float]], data: str) -> list[dict[str, Any]]:
    """The judged comparisons, then every arm against float."""
    judged = [(higher, lower, 0.0, f"{lower} < {higher}") for lower, higher in ORDER]
    judged += [(arm, peer, -MARGIN, f"{arm} at most {MARGIN:g} points below {peer}") for arm, peer in NEAR]
    rows = []
    for arm, peer, least, claim in judged:
        row = compared(found, arm, peer)
        given = verdict(row, least) if data == "cifar10" else "reported"
        rows.append({"data": data, "claim": claim, "verdict": given, **row})
    others = [arm for arm in ARMS if (arm, "float") not in NEAR]
    return rows + [
        {"data": data, "claim": "", "verdict": "reported", **compared(found, arm, "float")} for arm in others
    ]


def main() -> None:
    """Measure what is missing, then print and save the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="2 seeds of 20 steps on digits")
    parser.add_argument("--save", action="store_true", help="write the rows under results/")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--data", choices=tuple(MODELS), default="cifar10", help="cifar10 is below PENNYWEIGHT_DATA")
    options = parser.parse_args()
    torch.set_num_threads(1)
    data, seeds, steps = options.data, options.seeds, TRAINING[options.data][0]
    if options.quick:
        data, seeds, steps = "digits", 2, 20
    cells = Cells("qnn", options.quick)
    found: dict[str, list[float]] = {name: [] for name in ARMS}
    try:
        for seed in range(seeds):
            for name, settings in ARMS.items():
                cell = cells.get(
                    {"data": data, "arm": name, "settings": settings, "seed": seed, "steps": steps},
                    lambda settings=settings, seed=seed: measure(settings, seed, steps, data),
                )
                found[name].append(cell["accuracy"])
    except BudgetSpentError:
        print("BUDGET_HOURS is spent; run again to go on")
    if not all(found.values()):
        return
    rows = rows_of(found, data)
    for row in rows:
        print(
            f"{row['arm']:>7} against {row['peer']:<6} {row['accuracy']:6.2f} %  {row['points']:+.2f} points "
            f"[{row['low']:+.2f}, {row['high']:+.2f}], {row['n']} seeds  {row['claim']}: {row['verdict']}"
        )
    if options.save:
        print(f"saved {save_rows(f'qnn_{data}', rows).name}")
    for row in rows[: len(ORDER) + len(NEAR)]:
        name = f"qnn_{row['arm']}_over_{row['peer']}_points"
        print(headline(name, row["points"], "points", row["n"], 0.0, row["peer"]))


if __name__ == "__main__":
    main()
