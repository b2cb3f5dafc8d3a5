"""Packed binary convolutions and a whole packed VGG-small against torch's float32, on one thread.

Layers: 3x3 convolutions with a border of zeros, float images in, float sums out, packing of the activations included.
"ours" is a call of `ops.PackedImages`, the packed runtime; "eager" is the same layer as a user loads it, an exported
artifact called as a module, whose Python dispatch comes on top. The peer is torch's convolution in float32, in the
faster of its two layouts (NCHW, channels last), input and weight laid out beforehand.

Nets: an exported VGG-small (arXiv 1602.02830) against the float module of the same shape in evaluation mode, as trained
and with its batch norms folded, in both layouts; the figure is against the fastest. Then both through the official
LoadGen (SingleStream: one image a query; Offline: batches of 32), three runs each in turns. A binary ResNet-20, whose
residual stream stays in float, is reported without a margin.

Layers and nets are timed in seconds of the one thread that runs (`time.thread_time`), which is the wall clock less what
other processes took of the machine meanwhile; LoadGen's are by the wall clock.

Margins fixed beforehand: every layer at least 4 times torch, at batch 1 and at 32; VGG-small at least 4 times at batch
1 and at 32. Weights and images are random: speed does not depend on them. Before anything is timed, integers and logits
must equal the unpacked binary module's.

    python benchmarks/binary_conv.py [--quick] [--save]
"""

import argparse
import copy
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import pennyweight as pw
from pennyweight import ops
from pennyweight.nn import fold_batchnorm_
from pennyweight.numerics.measure import interleaved
from reporting import headline, save_rows

LAYERS = ((64, 32), (128, 16), (256, 8), (512, 4))
BATCHES = (1, 32)
Peers = dict[str, Callable[[], object]]


@torch.inference_mode()
def against(peers: Peers, ours: Callable[[], object], repeats: int) -> dict[str, Any]:
    """Each peer in turns with ours; the fastest peer's row."""
    rows = []
    for name, call in peers.items():
        timed = interleaved(call, ours, repeats=repeats, clock=time.thread_time)
        rows.append(
            {
                "peer": name, "torch_us": timed.a_seconds * 1e6, "ours_us": timed.b_seconds * 1e6,
                "speedup": timed.ratio, "spread": timed.spread, "n": timed.n,
            }
        )  # fmt: skip
    return min(rows, key=lambda row: row["torch_us"])


def packed(model: nn.Module) -> tuple[pw.Artifact, nn.Module]:
    """A binarized model exported and loaded again."""
    with tempfile.TemporaryDirectory() as folder:
        artifact = pw.export(model.eval(), Path(folder) / f"{type(model).__name__.lower()}.pw")
        return artifact, artifact.model()


def layer_row(channels: int, side: int, batch: int, repeats: int) -> dict[str, Any]:
    x = torch.randn(batch, channels, side, side, generator=torch.Generator().manual_seed(batch))
    binary = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1, bias=False))
    pw.apply_(binary, pw.BNN(first_input="binary"))
    weight = binary[0].weight.detach()
    filters = ops.pack_filters(weight)
    layer = ops.ConvLayer(words=filters, channels=channels, kernel_size=(3, 3), padding=(1, 1, 1, 1))
    runtime = ops.PackedImages([layer], first="binary")
    _, module = packed(binary)
    expected = binary(x)
    assert torch.equal(runtime.run(x, as_float=True), expected), "the packed layer's integers differ from the module's"
    assert torch.equal(module(x), expected), "the artifact's integers differ from the module's"
    last_x, last_weight = (t.contiguous(memory_format=torch.channels_last) for t in (x, weight))
    peers: Peers = {
        "torch_nchw": lambda: F.conv2d(x, weight, padding=1),
        "torch_channels_last": lambda: F.conv2d(last_x, last_weight, padding=1),
    }
    found = against(peers, lambda: runtime.run(x, as_float=True), repeats)
    with torch.inference_mode():
        dispatch = interleaved(
            lambda: module(x), lambda: runtime.run(x, as_float=True), repeats=repeats, clock=time.thread_time
        )
    eager = found["speedup"] / dispatch.ratio
    return {
        "what": f"conv {channels}x{side}x{side}", "batch": batch, "backend": runtime.backend, **found,
        "eager_us": dispatch.a_seconds * 1e6, "eager_speedup": eager,
    }  # fmt: skip


def float_peers(model: nn.Module, x: Tensor) -> Peers:
    """The float module as it is and folded, in both layouts."""
    folded = copy.deepcopy(model)
    fold_batchnorm_(folded)
    peers: Peers = {}
    for name, net in (("batchnorm", model), ("folded", folded.eval())):
        last = copy.deepcopy(net).to(memory_format=torch.channels_last)
        last_x = x.contiguous(memory_format=torch.channels_last)
        peers[f"torch_nchw_{name}"] = lambda net=net: net(x)
        peers[f"torch_channels_last_{name}"] = lambda net=last, x=last_x: net(x)
    return peers


def nets(name: str) -> tuple[nn.Module, pw.Artifact, nn.Module]:
    """The float net, and the binary one packed, checked sample by sample."""
    torch.manual_seed(0)
    model = pw.create_model(name)
    binary = copy.deepcopy(model)
    pw.apply_(binary, pw.BNN())
    for net in (model, binary):  # statistics worth folding
        net.train()
        for _ in range(4):
            net(torch.randn(16, 3, 32, 32))
        net.eval()
    artifact, module = packed(binary)
    x = torch.randn(8, 3, 32, 32).clamp(-1, 1)
    assert torch.equal(module(x), binary(x)), f"logits of the packed {name} differ from the module's"
    assert {row.execution for row in artifact.layers} == {"executed"}
    return model, artifact, module


def net_rows(name: str, repeats: int) -> list[dict[str, Any]]:
    model, _, module = nets(name)
    rows = []
    for batch in BATCHES:
        x = torch.randn(batch, 3, 32, 32).clamp(-1, 1)
        found = against(float_peers(model, x), lambda x=x: module(x), repeats)
        rows.append({"what": name, "batch": batch, "backend": ops.current_backend(), **found})
    return rows


def loadgen_rows(runs: int, seconds: float) -> list[dict[str, Any]]:
    """VGG-small through LoadGen: mean latency of single images, and samples a second in batches of 32."""
    model, artifact, _ = nets("vgg-small")
    fold_batchnorm_(model)
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (256, 3, 32, 32), generator=generator, dtype=torch.uint8)
    data = pw.ImageDataset(
        images=images, labels=torch.arange(256) % 10, num_classes=10, mean=(0.5,) * 3, std=(0.5,) * 3,
        name="random images", split="test",
    )  # fmt: skip
    rows = []
    for scenario, batch in (("SingleStream", 1), ("Offline", 32)):
        times: dict[str, list[float]] = {"float": [], "packed": []}
        for _ in range(runs):
            for name, candidate in (("float", model.eval()), ("packed", artifact)):
                result = pw.benchmark(
                    candidate, data, scenario=scenario, duration_s=seconds, max_batch=batch, threads=1
                ).scenario(scenario)  # fmt: skip
                assert result.valid, f"{scenario} of the {name} net: {result.reasons}"
                rate = result.samples_per_second
                times[name].append(result.mean_ns / 1e3 if batch == 1 else 1e6 / rate)
        ratios = sorted(slow / fast for slow, fast in zip(times["float"], times["packed"], strict=True))
        middle = statistics.median(ratios)
        rows.append({
            "what": f"vgg-small, LoadGen {scenario}, us a sample", "batch": batch, "backend": ops.current_backend(),
            "peer": "torch_nchw_folded", "torch_us": statistics.median(times["float"]),
            "ours_us": statistics.median(times["packed"]), "speedup": middle,
            "spread": (ratios[-1] - ratios[0]) / middle, "n": runs,
        })  # fmt: skip
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer repeats, no LoadGen, under a minute")
    parser.add_argument("--save", action="store_true", help="write the rows under results/")
    options = parser.parse_args()
    torch.set_num_threads(1)
    ops.set_num_threads(1)
    repeats = 5 if options.quick else 21
    rows = [layer_row(channels, side, batch, repeats) for channels, side in LAYERS for batch in BATCHES]
    whole = net_rows("vgg-small", 3 if options.quick else 11)
    rows += whole + net_rows("resnet20", 3 if options.quick else 11)
    if not options.quick:
        rows += loadgen_rows(runs=3, seconds=2.0)
    print(f"{'what':42s} {'batch':>5s} {'torch us':>9s} {'ours us':>9s} {'times':>6s} {'spread':>6s}  eager  peer")
    for row in rows:
        eager = f"{row['eager_speedup']:5.1f}" if "eager_speedup" in row else "     "
        print(
            f"{row['what']:42s} {row['batch']:5d} {row['torch_us']:9.0f} {row['ours_us']:9.0f} {row['speedup']:6.1f} "
            f"{row['spread']:6.3f}  {eager}  {row['peer']}"
        )
    if options.save:
        columns = dict.fromkeys(name for row in rows for name in row)
        print(f"saved {save_rows('binary_conv', [{name: row.get(name, '') for name in columns} for row in rows]).name}")
    worst = min(rows[: len(LAYERS) * len(BATCHES)], key=lambda row: row["speedup"])
    print(headline("binary_conv_speedup", worst["speedup"], "x", worst["n"], worst["spread"], worst["peer"]))
    for row in whole:
        name = f"packed_vgg_speedup_b{row['batch']}"
        print(headline(name, row["speedup"], "x", row["n"], row["spread"], row["peer"]))


if __name__ == "__main__":
    main()
