"""8-bit nets in ONNX Runtime against the same nets in float, through LoadGen: files of ours and of its own quantizer.

Candidates, all .onnx files on one thread but the last:

    float            the net as it is
    ours speed       W8A8 rounded to nearest, ranges from 512 training images; residual sums in 8-bit codes
    ours exact       the same, sums in float as our module computes them
    ours size W4A8   4-bit weights, stored in 4 bits
    theirs           onnxruntime.quantization.quantize_static on the float file, one scale a channel, same images
    torch float      the eager module

Nets: the public CIFAR-10 ResNet-20 and -56, whose accuracy is measured on all 10,000 test images by LoadGen's accuracy
mode; and MobileNetV2 with fresh weights at 224 pixels, of which only the time means anything. Each repeat runs every
candidate once, so that a machine that slows down slows all; a speed-up is the median over repeats of the ratio within
a repeat. Loading, warm-up and normalisation of the images are excluded.

    python benchmarks/onnxruntime_int8.py [--quick] [--save]      PENNYWEIGHT_DATA names the data
"""

import argparse
import copy
import os
import statistics
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import pennyweight as pw
from pennyweight.data import ImageDataset, batch_at
from pennyweight.models import load_checkpoint
from pennyweight.numerics.measure import relative_spread
from reporting import headline, save_rows

PUBLIC = {"resnet20": "resnet20-12fca82f.th", "resnet56": "resnet56-4bfd9763.th"}
SCENARIOS = ("SingleStream", "Offline")


@dataclass(frozen=True, kw_only=True)
class Net:
    """A float net with images to calibrate on and to measure on."""

    name: str
    model: nn.Module
    calibration: Tensor
    test: ImageDataset
    has_learnt: bool


def nets(root: Path, quick: bool) -> Iterator[Net]:
    train, test = (pw.load_dataset("cifar10", split, root) for split in ("train", "test"))
    assert isinstance(train, ImageDataset)
    assert isinstance(test, ImageDataset)
    images = batch_at(train, first_sample=0, batch_size=64 if quick else 512, seed=0).inputs
    for name in ("resnet20",) if quick else tuple(PUBLIC):
        model = pw.create_model(name)
        load_checkpoint(model, root / "nets" / "cifar10" / PUBLIC[name])
        shown = test.subset(range(256)) if quick else test
        yield Net(name=name, model=model.eval(), calibration=images, test=shown, has_learnt=True)
    large = ImageDataset(
        images=torch.randint(0, 256, (32, 3, 224, 224), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)),
        labels=torch.arange(32),
        num_classes=1000,
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        name="noise",
        split="test",
    )
    model = pw.create_model("mobilenet-v2").eval()
    yield Net(name="mobilenet-v2", model=model, calibration=large.normalize(large.images), test=large, has_learnt=False)


def candidates(net: Net, folder: Path) -> dict[str, Any]:
    """What is measured, by name: files, each checked against the module it was made of, and the module."""

    def quantized(weights: str) -> nn.Module:
        model = copy.deepcopy(net.model)
        pw.apply_(model, pw.RoundToNearest(weights=weights, activations="uint8"), data=[net.calibration])
        return model

    def exported(model: nn.Module, name: str, deploy: Any) -> Any:
        path = folder / f"{name.replace(' ', '-')}.onnx"
        return pw.export_onnx(model, path, example_input=net.calibration[:2], samples=net.calibration, deploy=deploy)

    w8a8 = quantized("int8")
    floating = exported(net.model, "float", "exact")
    return {
        "float": floating,
        "ours speed": exported(w8a8, "ours speed", "speed"),
        "ours exact": exported(w8a8, "ours exact", "exact"),
        "ours size W4A8": exported(quantized("int4"), "ours size W4A8", "size"),
        "theirs": quantized_by_onnx_runtime(floating.path, net.calibration, folder),
        "torch float": net.model,
    }


def quantized_by_onnx_runtime(float_file: Path, images: Tensor, folder: Path) -> Any:
    """ONNX Runtime's static quantization as its documentation advises it: optimised first, then QDQ."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    from pennyweight.bench.backends import OnnxRuntimeBackend

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.batches = iter(images.split(32))

        def get_next(self) -> dict[str, Any] | None:
            batch = next(self.batches, None)
            return None if batch is None else {"input": batch.numpy()}

    prepared, path = folder / "prepared.onnx", folder / "theirs.onnx"
    quant_pre_process(float_file, prepared, skip_symbolic_shape=True)
    quantize_static(
        prepared,
        path,
        Reader(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )
    return OnnxRuntimeBackend(path)


def measured(net: Net, quick: bool) -> list[dict[str, Any]]:
    """One row a candidate: accuracy, bytes, and speed against the float file."""
    repeats, seconds = (2, 0.05) if quick else (9, 0.4)
    with tempfile.TemporaryDirectory() as folder:
        found = candidates(net, Path(folder))
        accuracies = {name: pw.benchmark(one, net.test, scenarios=()) for name, one in found.items()}
        some = net.test.subset(range(min(64, len(net.test))))
        values: dict[tuple[str, str], list[float]] = {}
        for _ in range(repeats):
            for name, one in found.items():
                result = pw.benchmark(one, some, scenarios=SCENARIOS, duration_s=seconds, max_batch=32)
                for scenario in result.scenarios:
                    assert scenario.value is not None, scenario.reasons
                    rate = scenario.value if scenario.scenario == "Offline" else 1e9 / scenario.value
                    values.setdefault((name, scenario.scenario), []).append(rate)
    return [_row(net, name, accuracies[name], values) for name in found]


def _row(net: Net, name: str, accuracy: Any, values: dict[tuple[str, str], list[float]]) -> dict[str, Any]:
    row: dict[str, Any] = {
        "net": net.name,
        "candidate": name,
        "accuracy": 100 * accuracy.accuracy if net.has_learnt else None,
        "size_bytes": accuracy.size_bytes,
    }
    for scenario in SCENARIOS:
        own = values[name, scenario]
        ratios = [rate / base for rate, base in zip(own, values["float", scenario], strict=True)]
        row |= {
            f"{scenario}_per_s": statistics.median(own),
            f"{scenario}_speedup": statistics.median(ratios),
            f"{scenario}_spread": relative_spread(ratios),
        }
    return row | {"n": len(values[name, "Offline"])}


def headlines(rows: list[dict[str, Any]]) -> Iterator[str]:
    """One line a net and scenario, of the file for speed."""
    for row in rows:
        if row["candidate"] == "ours speed":
            suffix = "" if row["net"] == "resnet20" else f"_{row['net'].replace('-', '_')}"
            for scenario, name in (("SingleStream", ""), ("Offline", "_offline")):
                value, spread = row[f"{scenario}_speedup"], row[f"{scenario}_spread"]
                yield headline(f"int8_ort_speedup{name}{suffix}", value, "x", row["n"], spread, "onnxruntime_float")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few images and repeats, under a minute")
    parser.add_argument("--save", action="store_true", help="write the rows under results/")
    options = parser.parse_args()
    root = os.environ.get("PENNYWEIGHT_DATA")
    if not root:
        sys.exit("PENNYWEIGHT_DATA does not name the data: ResNet-20's weights and CIFAR-10 are needed")
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    print(f"{'net':13s} {'candidate':15s} {'accuracy':>8s} {'bytes':>9s} {'latency':>17s} {'throughput':>17s}")
    for net in nets(Path(root), options.quick):
        for row in measured(net, options.quick):
            rows.append(row)
            accuracy = "" if row["accuracy"] is None else f"{row['accuracy']:.2f}"
            shown = " ".join(f"{row[f'{s}_speedup']:9.2f} +-{row[f'{s}_spread']:5.3f}" for s in SCENARIOS)
            size = row["size_bytes"] or ""
            print(f"{row['net']:13s} {row['candidate']:15s} {accuracy:>8s} {size!s:>9s} {shown}", flush=True)
    if options.save:
        print(f"saved {save_rows('onnxruntime_int8', rows).name}")
    for line in headlines(rows):
        print(line)


if __name__ == "__main__":
    main()
