"""The paper's MNIST net (arXiv 1602.02830: 784 - 3 x 4096 - 10) on a GPU: packed, by an unoptimised kernel, by cuBLAS.

Weights, thresholds and images are random, of the net's shape: equality and speed do not depend on them. The unoptimised
kernel is one thread an output that adds one product of floats after another, without tiles or shared memory.
"""

import itertools
from typing import Any

import torch
from timing import against, in_turns

from pennyweight import ops
from pennyweight.kernels import triton_binary
from pennyweight.kernels.triton_int8 import jit, tl, triton
from pennyweight.ops import reference

WIDTHS = (784, 4096, 4096, 4096, 10)
_BLOCK = 128


@jit
def _naive(x: Any, w: Any, out: Any, n: Any, k: Any, block: tl.constexpr) -> None:
    """One row of out[m, n] = x[m, k] . w[n, k] in float32, an output a thread."""
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * block + tl.arange(0, block)
    total = tl.zeros((block,), dtype=tl.float32)
    for step in range(k):
        total += tl.load(x + row * k + step) * tl.load(w + columns.to(tl.int64) * k + step, mask=columns < n, other=0.0)
    tl.store(out + row * n + columns, total, mask=columns < n)


def naive(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    out = torch.empty((len(x), len(w)), device=x.device)
    _naive[(len(x), triton.cdiv(len(w), _BLOCK))](x, w, out, len(w), x.shape[1], _BLOCK)
    return out


class Net:
    """The net's random weights in every form, and its forward passes."""

    def __init__(self, widths: tuple[int, ...], device: torch.device) -> None:
        generator = torch.Generator().manual_seed(0)
        pairs = list(itertools.pairwise(widths))
        self.signs = [torch.randint(0, 2, (n, k), generator=generator).to(device) * 2.0 - 1 for k, n in pairs]
        self.words = [reference.pack_signs(w) for w in self.signs]
        spread = [70.0 * k**0.5 if number == 0 else k**0.5 for number, (k, _) in enumerate(pairs)]
        self.thresholds = [
            torch.randint(-int(s), int(s) + 1, (n,), generator=generator, dtype=torch.int32).to(device)
            for s, (_, n) in zip(spread, pairs[:-1], strict=False)
        ]
        self.greater = [(torch.rand(len(t), generator=generator) < 0.5).to(device) for t in self.thresholds]

    def packed(self, codes: torch.Tensor) -> torch.Tensor:
        z = triton_binary.int8_binary_matmul(codes, self.words[0], codes.shape[1])
        for number, (threshold, greater) in enumerate(zip(self.thresholds, self.greater, strict=True)):
            bits = reference.threshold_bits(z, threshold, greater)
            z = triton_binary.binary_matmul(bits, self.words[number + 1], self.signs[number + 1].shape[1])
        return z

    def plain(self, codes: torch.Tensor, product: Any) -> torch.Tensor:
        x = codes.float()
        for number, w in enumerate(self.signs):
            z = product(x, w)
            if number < len(self.thresholds):
                threshold, greater = self.thresholds[number], self.greater[number]
                x = torch.where(torch.where(greater, z >= threshold, z <= threshold), 1.0, -1.0)
        return z

    def chain(self) -> ops.PackedChain:
        """The same net in the CPU's packed runtime."""
        layers = []
        for number, (words, w) in enumerate(zip(self.words, self.signs, strict=True)):
            hidden = number < len(self.thresholds)
            layers.append(
                ops.ChainLayer(
                    words=words.cpu(),
                    k=w.shape[1],
                    threshold=self.thresholds[number].cpu() if hidden else None,
                    greater=self.greater[number].cpu() if hidden else None,
                )
            )
        return ops.PackedChain(layers, first="int8")


def images(count: int, width: int, device: torch.device) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(-128, 128, (count, width), generator=generator).to(device, torch.int8)


def check(device: torch.device, quick: bool) -> int:
    """Every logit of every arm against the CPU's packed runtime, 10,000 images (a small net in the interpreter)."""
    small = device.type == "cpu"
    widths, count = ((70, 96, 65, 10), 5) if small else (WIDTHS, 500 if quick else 10_000)
    net, x = Net(widths, device), images(count, widths[0], device)
    expected = net.chain().run(x.cpu())
    for part, truth in zip(x.split(500), expected.split(500), strict=True):
        arms = {"packed": net.packed(part), "naive": net.plain(part, naive)}
        arms["cublas"] = net.plain(part, lambda a, b: a @ b.t())
        for name, logits in arms.items():
            if not torch.equal(logits.cpu().to(torch.int32), truth):
                raise AssertionError(f"logits of {name} differ from the CPU's")
    return 3 * count


def timings(device: torch.device, quick: bool) -> list[dict[str, Any]]:
    """A row a batch: against the unoptimised kernel, and cuBLAS in float32 and bfloat16 beside it."""
    net, rows = Net(WIDTHS, device), []
    for batch in (100,) if quick else (100, 10_000):
        x = images(batch, WIDTHS[0], device)
        candidates = {"packed": lambda x=x: net.packed(x), "naive": lambda x=x: net.plain(x, naive)}
        found = against(in_turns(candidates, 5 if quick else 20), "packed")
        candidates = {"packed": lambda x=x: net.packed(x), "cublas": lambda x=x: net.plain(x, lambda a, b: a @ b.t())}
        candidates["bfloat16"] = lambda x=x: net.plain(x, lambda a, b: (a.bfloat16() @ b.bfloat16().t()).float())
        other = against(in_turns(candidates, 5 if quick else 20), "packed")
        rows.append({"batch": batch, **found, "torch_peer": other["peer"], "torch_speedup": other["speedup"]})
    return rows
