"""Training and fine-tuning in accumulators of few bits (arXiv 2401.14110), at proxy size.

    digits   a perceptron 64-64-64-10 on the embedded digits, from scratch, 270 steps of Adam at 2e-3: five accumulators
             times four estimators of gradients, chunks of 16; 5 seeds for what the claims compare, 3 for the rest
    resnet   the public CIFAR-10 ResNet-20 in 12-bit accumulators (M7E4, biases 12 and 10): accuracy before, and after
             fine-tuning in two stages (40 steps of 32 images without underflow, SGD, cosine from 1e-3; then 10 steps
             with underflow from 1e-4; batch norm's momentum 0.01), on the first 2,000 test images, 3 seeds
    vit      a vision transformer 32 wide of two blocks on the digits, from scratch, 400 steps of Adam at 2e-3, linear
             layers and attention's products in the accumulator; 5 seeds, 3 for what no claim compares
    integers the perceptron again, 3 seeds, uint8 inputs and int8 weights in integer accumulators of 16, 14 and 12 bits:
             `A2Q`, whose sums cannot overflow, against quantization without the bound where they wrap or saturate

Each arm is compared with its peer seed by seed; all intervals are 95 %, Student's t. Fixed before the runs:

- finer gradients recover what tight ranges lose: "recursive-of" above "identity", interval above 0, for both of M4E3
  with biases 7 and 6 (8 bits) and M3E3 with biases 8 and 7 (7 bits);
- 12 bits lose nothing on digits: M7E4 with "identity" within 1 point of float, interval above -1;
- 12 bits on ResNet-20 after fine-tuning within 0.5 points of float, interval above -0.5;
- 12 bits with attention within 1 point of float on the vision transformer, interval above -1.

Everything else is a table without a verdict. Accuracies are of simulated sums.

    python benchmarks/lba_training.py [--part digits|resnet|vit|integers|all] [--quick] [--save]

Resumable: finished cells lie in runs/cells/lba_training.jsonl; BUDGET_HOURS limits a call. `resnet` needs
PENNYWEIGHT_DATA. On one core of a 2-core Xeon about 11, 5, 4 and 2 minutes.
"""

import argparse
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

import pennyweight as pw
from cells import BudgetSpentError, Cells, whole
from pennyweight.models.checkpoint import load_checkpoint
from pennyweight.nn.accumulators import accumulator_rates, accumulators
from pennyweight.numerics.accumulation_gradients import ESTIMATORS
from pennyweight.numerics.measure import interval_mean
from pennyweight.numerics.random import Key
from reporting import headline, save_rows

Settings = Mapping[str, Any] | None  # of `LBA`; None trains in float
FORMATS: dict[str, dict[str, int]] = {
    "M7E4 12/10": {"mantissa": 7, "exponent": 4, "product_bias": 12, "sum_bias": 10},
    "M4E3 7/6": {"mantissa": 4, "exponent": 3, "product_bias": 7, "sum_bias": 6},
    "M3E3 8/7": {"mantissa": 3, "exponent": 3, "product_bias": 8, "sum_bias": 7},
    "M1E3 7/5": {"mantissa": 1, "exponent": 3, "product_bias": 7, "sum_bias": 5},
    "M4E2 3/2": {"mantissa": 4, "exponent": 2, "product_bias": 3, "sum_bias": 2},
}
CLAIMED = ("M4E3 7/6", "M3E3 8/7")
WEIGHTS = "nets/cifar10/resnet20-12fca82f.th"


def digits_arms() -> dict[str, tuple[Settings, int]]:
    """Settings and number of seeds, by name."""
    arms: dict[str, tuple[Settings, int]] = {"digits float": (None, 5)}
    for name, format in FORMATS.items():
        for estimator in ESTIMATORS:
            claimed = name in CLAIMED and estimator in ("identity", "recursive-of")
            seeds = 5 if claimed or (name == "M7E4 12/10" and estimator == "identity") else 3
            arms[f"digits {name} {estimator}"] = ({**format, "estimator": estimator}, seeds)
    return arms


def vit_arms() -> dict[str, tuple[Settings, int]]:
    """Settings and number of seeds, by name."""
    arms: dict[str, tuple[Settings, int]] = {"vit float": (None, 5)}
    for name in ("M7E4 12/10", "M4E3 7/6"):
        arms[f"vit {name}"] = ({**FORMATS[name], "attention": True}, 3 if name in CLAIMED else 5)
    return arms


def integer_arms() -> dict[str, tuple[Settings, int]]:
    """Settings and number of seeds, by name; compared with the float perceptron."""
    arms: dict[str, tuple[Settings, int]] = {"integers float": (None, 3)}
    for bits in (16, 14, 12):
        arms[f"integers A2Q {bits}"] = ({"a2q": bits}, 3)
        for overflow in ("wrap", "saturate"):
            arms[f"integers {overflow} {bits}"] = ({"integer": bits, "overflow": overflow}, 3)
    return arms


def methods(settings: Mapping[str, Any]) -> list[pw.Method]:
    """What an arm's settings stand for."""
    if "a2q" in settings:
        return [pw.A2Q(accumulator_bits=settings["a2q"])]
    if "integer" in settings:
        quantizer = pw.Int8Training(gradients=None, norm="keep", input_range="batch")
        return [quantizer, pw.IntegerAccumulator(bits=settings["integer"], overflow=settings["overflow"])]
    return [pw.LBA(**settings)]


def perceptron(seed: int) -> nn.Module:
    """Without batch norm, which would keep sums small."""
    torch.manual_seed(seed)
    widths = ((64, 64), (64, 64), (64, 10))
    layers = [layer for pair in widths for layer in (nn.Linear(*pair), nn.ReLU())]
    return nn.Sequential(nn.Flatten(), *layers[:-1])


def transformer(seed: int) -> nn.Module:
    """16 tokens of 32 numbers, two blocks of two heads."""
    return pw.create_model("vit-tiny", width=32, depth=2, heads=2, seed=seed)


def from_scratch(make: Callable[[int], nn.Module], settings: Settings, seed: int, steps: int) -> dict[str, Any]:
    """Train one arm on the digits; its accuracy on the test split, and what its accumulators then lose there."""
    train, test = pw.load_dataset("digits"), pw.load_dataset("digits", "test")
    model = make(seed)
    batch = train.normalize(train.images[:64])
    if settings is not None:
        pw.apply_(model, methods(settings), data=[batch])
    regime = pw.Regime(steps=steps, lr=2e-3, schedule="constant", optimizer="adam", batch_size=64)
    order = Key(seed).fold("order").words[0]
    try:
        whole(pw.train(model, train, regime, seed=order, progress=False))
        accuracy, failed = float(pw.evaluate(model, test).accuracy), ""
    except pw.PennyweightError as error:  # weights or outputs that are not finite: the arm guesses
        accuracy, failed = 0.1, type(error).__name__
    return {"accuracy": accuracy, "failed": failed, **losses(model, batch)}


def losses(model: nn.Module, batch: torch.Tensor) -> dict[str, float]:
    """Rates, mean over the accumulators of few bits; none without such."""
    if not list(accumulators(model)):
        return {}
    rates = list(accumulator_rates(model, batch).values())
    return {
        name: sum(getattr(rate, name) for rate in rates) / len(rates)
        for name in ("overflow", "product_underflow", "swamping")
    }


def resnet(settings: Settings, seed: int, steps: tuple[int, int], images: int) -> dict[str, Any]:
    """Accuracy of the public net before and after fine-tuning in two stages."""
    root = os.environ["PENNYWEIGHT_DATA"]
    train, test = (pw.load_dataset("cifar10", split, root=root) for split in ("train", "test"))
    test = test.subset(range(images))
    model = pw.create_model("resnet20")
    load_checkpoint(model, Path(root) / WEIGHTS)
    if settings is None:
        return {"accuracy": float(pw.evaluate(model, test).accuracy)}
    if seed < 0:
        pw.apply_(model, pw.LBA(**settings))
        return {"accuracy": float(pw.evaluate(model, test).accuracy)}
    for norm in (module for module in model.modules() if isinstance(module, nn.BatchNorm2d)):
        norm.momentum = 0.01
    pw.apply_(model, pw.LBA(**settings, underflow=False))
    regimes = [
        pw.Regime.cosine(steps=count, lr=lr, batch_size=32) for count, lr in zip(steps, (1e-3, 1e-4), strict=True)
    ]
    whole(pw.train(model, train, regimes[0], seed=seed, augment=pw.Augment(flip=True), progress=False))
    pw.apply_(model, pw.AccumulatorUnderflow())
    whole(pw.train(model, train, regimes[1], seed=seed + 100, augment=pw.Augment(flip=True), progress=False))
    return {"accuracy": float(pw.evaluate(model, test).accuracy)}


def measured(options: argparse.Namespace, cells: Cells) -> dict[str, list[dict[str, Any]]]:
    """The cells of each arm, seed by seed; those that were finished when time ran out."""
    found: dict[str, list[dict[str, Any]]] = {}

    def cell(arm: str, settings: Settings, seed: int, measure: Callable[[], dict[str, Any]], **more: Any) -> None:
        row = cells.get({"arm": arm, "settings": settings, "seed": seed, **more}, measure)
        found.setdefault(arm, []).append(row)

    try:
        for part, arms, make, steps in (
            ("digits", digits_arms(), perceptron, 270),
            ("vit", vit_arms(), transformer, 400),
            ("integers", integer_arms(), perceptron, 270),
        ):
            if options.part not in (part, "all"):
                continue
            steps = 20 if options.quick else steps
            for seed in range(1 if options.quick else 5):
                for arm, (settings, seeds) in arms.items():
                    if seed < seeds:
                        cell(arm, settings, seed, lambda m=make, s=settings, n=seed, t=steps: from_scratch(m, s, n, t),
                             steps=steps)  # fmt: skip
        if options.part in ("resnet", "all") and "PENNYWEIGHT_DATA" in os.environ:
            images, steps_of = (128, (2, 1)) if options.quick else (2000, (40, 10))
            preset: Settings = FORMATS["M7E4 12/10"]
            cell("resnet float", None, 0, lambda: resnet(None, 0, steps_of, images), images=images)
            cell("resnet M7E4 12/10 before", preset, -1, lambda: resnet(preset, -1, steps_of, images), images=images)
            for seed in range(1 if options.quick else 3):
                cell("resnet M7E4 12/10 after", preset, seed, lambda n=seed: resnet(preset, n, steps_of, images),
                     images=images, steps=steps_of)  # fmt: skip
    except BudgetSpentError:
        print("BUDGET_HOURS is spent; run again to go on")
    return found


def compared(found: Mapping[str, Sequence[Mapping[str, Any]]], arm: str, peer: str) -> dict[str, Any]:
    """Points of `arm` minus those of `peer`, seed by seed; a peer of one value is compared with every seed."""
    own, other = [[100 * row["accuracy"] for row in found[name]] for name in (arm, peer)]
    other = other * len(own) if len(other) == 1 else other
    count = min(len(own), len(other))
    gains = [a - b for a, b in zip(own[:count], other[:count], strict=True)]
    rates = {
        name: sum(row.get(name, 0.0) for row in found[arm]) / len(own)
        for name in ("overflow", "product_underflow", "swamping")
    }
    spread = interval_mean(gains) if count > 1 else None
    return {
        "arm": arm, "peer": peer, "accuracy": sum(own) / len(own), "points": sum(gains) / count,
        "low": spread.low if spread else float("-inf"), "high": spread.high if spread else float("inf"), "n": count,
        **rates,
    }  # fmt: skip


CLAIMS: dict[str, tuple[tuple[str, str, float], ...]] = {
    "finer gradients recover what tight ranges lose": tuple(
        (f"digits {name} recursive-of", f"digits {name} identity", 0.0) for name in CLAIMED
    ),
    "12 bits lose nothing on digits": (("digits M7E4 12/10 identity", "digits float", -1.0),),
    "12 bits on ResNet-20, fine-tuned, within 0.5 points": (("resnet M7E4 12/10 after", "resnet float", -0.5),),
    "12 bits with attention within 1 point": (("vit M7E4 12/10", "vit float", -1.0),),
}


def judge(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """Print the claims' verdicts; the rows they rest on."""
    rows = []
    for claim, pairs in CLAIMS.items():
        if any(arm not in found or peer not in found for arm, peer, _ in pairs):
            continue
        own = [compared(found, arm, peer) for arm, peer, _ in pairs]
        holds = all(row["low"] > margin for row, (_, _, margin) in zip(own, pairs, strict=True))
        shown = "; ".join(f"{row['points']:+.2f} [{row['low']:+.2f}, {row['high']:+.2f}], n={row['n']}" for row in own)
        print(f"CLAIM {claim}: {'holds' if holds else 'not shown'} ({shown})")
        rows += [row | {"claim": claim, "verdict": "holds" if holds else "not shown"} for row in own]
    for name, arm, peer in (
        ("lba_gated_points", "digits M3E3 8/7 recursive-of", "digits M3E3 8/7 identity"),
        ("lba_resnet20_points", "resnet M7E4 12/10 after", "resnet float"),
        ("lba_vit_points", "vit M7E4 12/10", "vit float"),
    ):
        if arm in found and peer in found:
            row = compared(found, arm, peer)
            print(headline(name, row["points"], "points", row["n"], 0.0, peer.split()[-1]))
    return rows


def main() -> None:
    """Measure what is missing, then print and save the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=("digits", "resnet", "vit", "integers", "all"), default="all")
    parser.add_argument("--quick", action="store_true", help="one seed of few steps and images: no result, a trial")
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = measured(options, Cells("lba_training", options.quick))
    claims = judge(found)
    rows = [compared(found, arm, f"{arm.split()[0]} float") | {"claim": "", "verdict": ""} for arm in found]
    for row in rows:
        interval = f"[{row['low']:+6.2f}, {row['high']:+6.2f}]"
        print(f"{row['arm']:34s} {row['accuracy']:6.2f} %  {row['points']:+6.2f} {interval} n={row['n']}")
    if options.save:
        print(f"saved {save_rows('lba_training', [*rows, *claims]).name}")


if __name__ == "__main__":
    main()
