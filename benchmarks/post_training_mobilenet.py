"""MobileNetV2 after training, on 1,000 photographs: a part of `post_training.py`, and its child processes.

The net: weights that were 8-bit integers once, with batch norms folded, so it is no float baseline for 8-bit weights
and has no statistics of its own; the photographs behave like training images. Only differences to the same net in
float on the same photographs mean anything: 200 of them calibrate (AdaQuant reads 64), 800 test, and intervals are of
paired proportions at n = 800. Every row is a child process on one thread that quantizes in torch, writes an .onnx file
that computes what the module computes (deploy="exact", checked on 32 photographs) and answers in ONNX Runtime, which
is five times faster than the simulation; where ONNX Runtime and the module do not agree on these, the file is refused,
the module answers itself, and the row's `refused` says why. First and last layer keep 8 bits.

Margins fixed beforehand: W8A8 loses at most 1 point; every child stays below 4 GB at its peak.

    python benchmarks/post_training_mobilenet.py PIPELINE [--quick]      one child: prints JSON
"""

import argparse
import copy
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import pennyweight as pw
from cells import Cells
from pennyweight.artifact.onnx import open_session
from pennyweight.artifact.onnx import run as run_session
from pennyweight.data import ImageDataset
from pennyweight.errors import ArtifactError
from pennyweight.methods import Method
from pennyweight.nn.gemm import GemmModule

CALIBRATION, MARGIN_POINTS, LIMIT_GB = 200, 1.0, 4.0
LAYERS = (nn.Conv2d, nn.Linear)


def float_net(root: Path) -> nn.Module:
    """The public net with its integers times their scales."""
    file = torch.load(root / "nets" / "imagenet" / "mobilenet_v2_1.0_224_quant.pt", weights_only=True)
    model = pw.create_model("mobilenet-v2", padding="end", batch_norm=False, num_classes=1001).eval()
    layers = [module for module in model.modules() if isinstance(module, LAYERS)]
    stored = [op for op in file["ops"] if "weight" in op]
    with torch.no_grad():
        for layer, op in zip(layers, stored, strict=True):
            weight = (op["weight"].float() - op["w_zero"].view(-1, 1, 1, 1)) * op["w_scale"].view(-1, 1, 1, 1)
            assert layer.bias is not None
            layer.weight.copy_(weight.reshape(layer.weight.shape))
            layer.bias.copy_(op["bias_q"].float() * op["b_scale"])
    return model


def photographs(root: Path) -> tuple[Tensor, ImageDataset]:
    """Inputs to calibrate on, and the test images; which is which is drawn once."""
    every = pw.load_dataset(
        "image-folder", "all", root, path="imagenet-sample-1000", size=224, normalization="centered"
    )
    assert isinstance(every, ImageDataset)
    order = torch.randperm(len(every), generator=torch.Generator().manual_seed(0)).tolist()
    chosen = every.subset(order[:CALIBRATION])
    return chosen.normalize(chosen.images), every.subset(order[CALIBRATION:])


def rounded(weights: str, activations: str) -> list[Method]:
    return [
        pw.RoundToNearest(weights=weights, activations=activations, exclude=("@first", "@last")),
        pw.RoundToNearest(weights="int8", activations="uint8", include=("@first", "@last")),
    ]


def adaquant(weights: str, activations: str, steps: int) -> list[Method]:
    return [
        pw.AdaQuant(
            weights=weights,
            activations=activations,
            edge_activations="uint8",
            steps=steps,
            batch_size=16,
            max_samples=64,
        )
    ]


def mixed() -> list[Method]:
    """At the bytes of 5-bit weights throughout."""
    budget = pw.BitAllocation(candidates=("w8a8", "w6a8", "w5a8", "w4a8"), size_ratio=5 / 32 + 0.0125, max_samples=32)
    return [pw.RoundToNearest(weights=budget)]


def pipelines(quick: bool) -> dict[str, list[Method]]:
    """What is done to the net, by name."""
    statistics, bias = pw.StatisticsTuning(max_samples=64), pw.BiasTuning(steps=20, batch_size=16, max_samples=64)
    steps = 2 if quick else 60
    found: dict[str, list[Method]] = {"float": []}
    for name, weights, activations in (
        ("W8A8", "int8", "uint8"),
        ("W8A6", "int8", "uint6"),
        ("W5A8", "int5", "uint8"),
        ("W4A8", "int4", "uint8"),
    ):
        found[f"{name} rounded"] = rounded(weights, activations)
        found[f"{name} rounded+statistics"] = [*rounded(weights, activations), statistics]
    found["mixed rounded"] = mixed()
    found["mixed rounded+statistics"] = [*mixed(), statistics]
    found["W4A8 rounded+statistics+bias"] = [*rounded("int4", "uint8"), statistics, bias]
    found["W4A8 adaquant"] = adaquant("int4", "uint8", steps)
    found["W4A8 adaquant+statistics"] = [*adaquant("int4", "uint8", steps), statistics]
    if quick:
        return {name: found[name] for name in ("float", "W8A6 rounded+statistics", "W4A8 adaquant")}
    return found


def child(name: str, root: Path, quick: bool) -> dict[str, Any]:
    """One pipeline in this process."""
    calibration, test = photographs(root)
    if quick:
        calibration, test = calibration[:8], test.subset(range(16))
    reference = float_net(root)
    model = copy.deepcopy(reference)
    started = time.perf_counter()
    for method in pipelines(quick)[name]:
        pw.apply_(model, method, data=list(calibration.split(32)), reference=reference)
    seconds = time.perf_counter() - started
    refused = ""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "net.onnx"
        try:
            pw.export_onnx(model, file, example_input=calibration[:2], samples=calibration[:32], deploy="exact")
            session = open_session(file)
            right = answers(lambda inputs: run_session(session, inputs.numpy()), test)
        except ArtifactError as error:
            refused = str(error)
            right = answers(lambda inputs: model(inputs).numpy(), test)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
    return {"right": right, "bytes": weight_bytes(model), "fit_s": seconds, "peak_rss_gb": peak, "refused": refused}


@torch.no_grad()
def answers(run: Callable[[Tensor], Any], test: ImageDataset) -> list[bool]:
    """Which photographs are named rightly; the net's first output is the background."""
    found = [
        run(test.normalize(test.images[start : start + 32]))[:, 1:].argmax(-1) for start in range(0, len(test), 32)
    ]
    return (np.concatenate(found) == test.labels.numpy()).tolist()


def weight_bytes(model: nn.Module) -> float:
    """Of weight codes, without scales."""
    bits = 0
    for module in model.modules():
        if isinstance(module, LAYERS):
            content = module.slots.weight.quantizer if isinstance(module, GemmModule) else None
            bits += module.weight.numel() * (32 if content is None else content.format.bits)
    return bits / 8


def mobilenet(bench: Any, cells: Cells) -> list[dict[str, Any]]:
    """The pipelines, each in a child process, against float on the same photographs."""
    rows: list[dict[str, Any]] = []
    reference: list[bool] = []
    for name in pipelines(bench.quick):

        def run(name: str = name) -> Mapping[str, Any]:
            command = [sys.executable, __file__, name, *(["--quick"] if bench.quick else [])]
            environment = {**os.environ, "PENNYWEIGHT_DATA": str(bench.root), "OMP_NUM_THREADS": "1"}
            done = subprocess.run(command, check=False, env=environment, capture_output=True, text=True)
            if done.returncode:
                raise RuntimeError(f"{name}: the child process ended with {done.returncode}: {done.stderr[-2000:]}")
            found = json.loads(done.stdout.splitlines()[-1])
            return {**found, "right": "".join("01"[one] for one in found["right"])}

        cell = cells.get({"pipeline": name, "calibration": CALIBRATION}, run)
        right = [one == "1" for one in cell["right"]]
        reference = reference or right
        rows.append(row(cell, right, reference))
    return rows


def row(cell: Mapping[str, Any], right: Sequence[bool], reference: Sequence[bool]) -> dict[str, Any]:
    """A cell with its difference to float and the interval of paired proportions."""
    n = len(right)
    difference = np.array(right, float) - np.array(reference, float)
    half = 1.96 * float(difference.std()) / n**0.5
    found = {key: value for key, value in cell.items() if key != "right"}
    return found | {
        "accuracy": 100 * sum(right) / n,
        "n": n,
        "difference": 100 * float(difference.mean()),
        "low": 100 * (float(difference.mean()) - half),
        "high": 100 * (float(difference.mean()) + half),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pipeline", help="of those in pipelines()")
    parser.add_argument("--quick", action="store_true", help="few photographs and steps")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(json.dumps(child(options.pipeline, Path(os.environ["PENNYWEIGHT_DATA"]), options.quick)))


if __name__ == "__main__":
    main()
