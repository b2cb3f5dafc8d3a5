"""The paper's MNIST net (arXiv 1602.02830: 784 - 3 x 4096 - 10) as packed kernel, as unoptimised kernel and in torch.

The net is binarized and trained for some steps on MNIST's training images, which is enough for weights and thresholds
that were learnt; it is nowhere near the paper's accuracy, which is not the subject. All arms compute the same net:

    packed      the exported artifact, one call of the C++ library: XNOR and popcount
    naive       the products by three plain loops (benchmarks/naive_gemm.cpp, c++ -O3, no packing, no tiles), on float32
                as the paper's baseline kernel, and on int8, which the compiler vectorises; norms and signs by torch
    torch       the same artifact unpacked: products of signs in float32 by torch's sgemm

Margins fixed beforehand: the predictions of all arms are equal on all 10,000 test images (float32 loops: on the first
500, they take minutes); packed at least 7 times the faster naive kernel at the paper's batch of 100, on one thread.

Times are seconds of the one thread that runs (`time.thread_time`), so that other work on the machine counts for nobody.

    python benchmarks/binary_mnist.py [--quick] [--save]      (PENNYWEIGHT_DATA names the data)
"""

import argparse
import ctypes
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import pennyweight as pw
from pennyweight import ops
from pennyweight.nn.gemm import GemmLinear
from pennyweight.numerics.measure import interleaved
from reporting import headline, save_rows

BATCH = 100
SOURCE = Path(__file__).with_name("naive_gemm.cpp")


def trained(steps: int) -> nn.Module:
    """The paper's net after some steps of its training."""
    model = pw.create_model("mlp", input_shape=(1, 28, 28), hidden=(4096,) * 3, bn_output=True, seed=0)
    pw.apply_(model, pw.BNN())
    images = pw.load_dataset("mnist", "train", normalization="centered")
    pw.train(model, images, pw.Regime.cosine(steps=steps, lr=3e-3, batch_size=BATCH, optimizer="adam"), seed=0)
    return model.eval()


def naive_products(folder: str) -> dict[str, Callable[[Tensor, Tensor], Tensor]]:
    """The two plain kernels as functions of codes (M, K) and signs (N, K)."""
    target = Path(folder) / "naive_gemm.so"
    subprocess.run(["c++", "-O3", "-shared", "-fPIC", str(SOURCE), "-o", str(target)], check=True)
    library = ctypes.CDLL(str(target))
    kinds = {"naive_float": (torch.float32, torch.float32), "naive_int8": (torch.int8, torch.int32)}

    def product(name: str) -> Callable[[Tensor, Tensor], Tensor]:
        function, (taken, given) = getattr(library, name), kinds[name]
        function.argtypes, function.restype = [ctypes.c_void_p] * 2 + [ctypes.c_int64] * 3 + [ctypes.c_void_p], None

        def run(x: Tensor, w: Tensor) -> Tensor:
            assert x.dtype == w.dtype == taken
            assert x.is_contiguous()
            assert w.is_contiguous()
            z = torch.empty(len(x), len(w), dtype=given)
            function(x.data_ptr(), w.data_ptr(), len(x), len(w), x.shape[1], z.data_ptr())
            return z.float()

        return run

    return {name: product(name) for name in kinds}


class NaiveNet:
    """The net with its products by a plain kernel; weights are laid out beforehand, one number a sign."""

    def __init__(self, model: nn.Module, product: Callable[[Tensor, Tensor], Tensor], dtype: torch.dtype) -> None:
        self.layers = list(model.children())
        self.product, self.dtype = product, dtype
        self.signs = {
            layer: torch.where(layer.weight >= 0, 1, -1).to(dtype)
            for layer in self.layers
            if isinstance(layer, GemmLinear)
        }

    @torch.inference_mode()
    def __call__(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            if isinstance(layer, GemmLinear):
                codes, _ = layer.slots.input.codes(x)
                x = layer.from_integers(self.product(codes.to(self.dtype).contiguous(), self.signs[layer]))
            else:
                x = layer(x)
        return x


def predictions(net: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    with torch.inference_mode():
        return torch.cat([net(part).argmax(1) for part in images.split(BATCH)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="500 images, 5 training steps, fewer repeats")
    parser.add_argument("--save", action="store_true", help="write the rows under results/")
    options = parser.parse_args()
    torch.set_num_threads(1)
    ops.set_num_threads(1)
    started = time.perf_counter()
    model = trained(5 if options.quick else 40)
    test = pw.load_dataset("mnist", "test", normalization="centered")
    images, labels = test.normalize(test.images), test.labels
    if options.quick:
        images, labels = images[:500], labels[:500]
    with tempfile.TemporaryDirectory() as folder:
        artifact = pw.export(model, Path(folder) / "mnist.pw")
        packed, unpacked = artifact.model(), artifact.model(packed=False)
        kernels = naive_products(folder)
    nets: dict[str, Callable[[Tensor], Tensor]] = {
        "naive_float": NaiveNet(model, kernels["naive_float"], torch.float32),
        "naive_int8": NaiveNet(model, kernels["naive_int8"], torch.int8),
        "torch_unpacked": unpacked,
    }
    found = predictions(packed, images)
    accuracy = float((found == labels).float().mean())
    print(f"{artifact.numerics}; accuracy {100 * accuracy:.2f} after {time.perf_counter() - started:.0f} s")
    compared = {}
    for name, net in nets.items():
        part = images[:500] if name == "naive_float" else images
        compared[name] = len(part)
        assert torch.equal(predictions(net, part), found[: len(part)]), f"predictions of {name} differ"
        print(f"{name}: {len(part)} predictions equal", flush=True)
    batch = images[:BATCH]
    rows: list[dict[str, Any]] = []
    for name, net in nets.items():
        with torch.inference_mode():
            timed = interleaved(
                lambda net=net: net(batch), lambda: packed(batch), repeats=5, warmup=1, clock=time.thread_time
            )
        rows.append({
            "peer": name, "batch": BATCH, "backend": ops.current_backend(), "peer_ms": timed.a_seconds * 1e3,
            "packed_ms": timed.b_seconds * 1e3, "speedup": timed.ratio, "spread": timed.spread, "n": timed.n,
            "predictions_compared": compared[name], "accuracy": accuracy,
        })  # fmt: skip
        print(f"{name:16s} {rows[-1]['peer_ms']:9.1f} ms, packed {rows[-1]['packed_ms']:7.2f} ms, {timed.ratio:7.1f} x")
    if options.save:
        print(f"saved {save_rows('binary_mnist', rows).name}")
    fast = min(rows[:2], key=lambda row: row["peer_ms"])
    print(headline("binary_mnist_vs_naive_speedup", fast["speedup"], "x", fast["n"], fast["spread"], fast["peer"]))


if __name__ == "__main__":
    main()
