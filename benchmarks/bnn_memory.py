"""What a binary net keeps for its backward pass: in bits (`BNN(save_bits=True)`) against plain autograd.

Three figures for each net and preset, both arms of the same weights on the same batch:

    saved      bytes of all tensors autograd keeps of one forward pass in training mode, counted tensor by tensor; and
               of these the activations' alone, as what twice the batch keeps more
    resident   growth of a fresh process's resident memory from before that forward pass to after it, and the largest
               within forward and backward pass; on a GPU what torch has allocated
    time       forward and backward pass, interleaved in one process: what packing costs

Checked first: loss and all gradients equal to the bit. Margins fixed beforehand: at least 5 times fewer bytes of
activations in the worst of the settings below, resident memory after the forward pass at least 3 times less; time is
reported.

    python benchmarks/bnn_memory.py [--quick] [--save]
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import pennyweight as pw
from pennyweight.nn.saved_bits import saved_bytes
from pennyweight.numerics.measure import interleaved
from reporting import headline, save_rows

NETS: dict[str, tuple[dict[str, Any], tuple[int, ...], int]] = {  # options, images, batch
    "vgg-small": ({"width": 128, "bn_output": True}, (3, 32, 32), 16),
    "mlp": ({"input_shape": (1, 28, 28), "hidden": (2048, 2048, 2048), "bn_output": True}, (1, 28, 28), 200),
    "resnet20": ({}, (3, 32, 32), 50),
}
PRESETS: dict[str, dict[str, Any]] = {
    "adam": {},
    "shift": {"batch_norm": "shift", "stochastic_activations": True},
}
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def made(net: str, preset: str, save_bits: bool, batch: int) -> tuple[nn.Module, Tensor, Tensor]:
    """Model, images and labels."""
    options, shape, _ = NETS[net]
    model = pw.create_model(net, **options)
    pw.apply_(model, pw.BNN(save_bits=save_bits, **PRESETS[preset]))
    generator = torch.Generator().manual_seed(0)
    images = (torch.randint(0, 256, (batch, *shape), generator=generator).float() - 128) / 128
    return model.to(DEVICE).train(), images.to(DEVICE), (torch.arange(batch) % 10).to(DEVICE)


def step(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Forward and backward pass."""
    model.zero_grad()
    loss = F.cross_entropy(model(images), labels)
    loss.backward()
    return loss.detach()


def timed(model: nn.Module, images: Tensor, labels: Tensor) -> None:
    """A step to its end, also on a GPU."""
    step(model, images, labels)
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def check(net: str, preset: str) -> None:
    """Loss and gradients do not differ by a bit."""
    found = []
    for save_bits in (False, True):
        model, images, labels = made(net, preset, save_bits, 4)
        found.append([step(model, images, labels), *(p.grad for p in model.parameters() if p.grad is not None)])
    for plain, packed in zip(*found, strict=True):
        assert torch.equal(plain, packed), f"{net}, {preset}: a gradient differs"


def resident_bytes() -> int:
    """Of this process now; of torch on a GPU."""
    if DEVICE == "cuda":
        return int(torch.cuda.memory_allocated())
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")


def forget_peak() -> None:
    """Making a model takes more than a step; its peak must not count."""
    if DEVICE == "cuda":
        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peak_bytes() -> int:
    """The largest since."""
    if DEVICE == "cuda":
        return int(torch.cuda.max_memory_allocated())
    status = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) << 10 for line in status if line.startswith("VmHWM"))


def measure_resident(net: str, preset: str, save_bits: bool, batch: int) -> dict[str, int]:
    """Growth of memory in this process, which has to be a fresh one."""
    step(*made(net, preset, save_bits, 2))  # what is loaded once
    model, images, labels = made(net, preset, save_bits, batch)
    forget_peak()
    before = resident_bytes()
    loss = F.cross_entropy(model(images), labels)
    after = resident_bytes()
    loss.backward()
    return {"after_forward": after - before, "peak": peak_bytes() - before}


def in_fresh_process(net: str, preset: str, save_bits: bool, batch: int) -> dict[str, int]:
    """The same, elsewhere; freed memory goes back to the system at once."""
    command = [sys.executable, __file__, "--child", json.dumps([net, preset, save_bits, batch])]
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    output = subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout
    found: dict[str, int] = json.loads(output.splitlines()[-1])
    return found


def row(net: str, preset: str, batch: int, repeats: int) -> dict[str, Any]:
    """One line of the table."""
    check(net, preset)
    arms = [made(net, preset, save_bits, batch) for save_bits in (False, True)]
    saved = [saved_bytes(model, images) for model, images, _ in arms]
    half = [saved_bytes(model, images[: batch // 2]) for model, images, _ in arms]
    activations = [2 * (whole - part) for whole, part in zip(saved, half, strict=True)]
    times = interleaved(lambda: timed(*arms[1]), lambda: timed(*arms[0]), repeats=repeats, warmup=1)
    resident = [in_fresh_process(net, preset, save_bits, batch) for save_bits in (False, True)]
    return {
        "net": net,
        "preset": preset,
        "batch": batch,
        "saved_bytes_plain": saved[0],
        "saved_bytes_bits": saved[1],
        "activation_bytes_plain": activations[0],
        "activation_bytes_bits": activations[1],
        "activation_ratio": activations[0] / activations[1],
        "resident_after_forward_plain": resident[0]["after_forward"],
        "resident_after_forward_bits": resident[1]["after_forward"],
        "resident_ratio": resident[0]["after_forward"] / max(resident[1]["after_forward"], 1),
        "peak_plain": resident[0]["peak"],
        "peak_bits": resident[1]["peak"],
        "step_time_ratio": times.ratio,
        "repeats": repeats,
        "spread": times.spread,
        "device": DEVICE,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a quarter of each batch, fewer repeats")
    parser.add_argument("--save", action="store_true", help="write the rows under results/")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.backends.cudnn.deterministic = True  # two runs of one arm must agree before two arms can
    if options.child:
        print(json.dumps(measure_resident(*json.loads(options.child))))
        return
    rows = []
    for net, (_, _, batch) in NETS.items():
        for preset in PRESETS:
            found = row(net, preset, batch // 4 if options.quick else batch, 3 if options.quick else 5)
            rows.append(found)
            print(
                f"{net:10s} {preset:6s} saved {found['saved_bytes_plain'] / 2**20:7.1f} -> "
                f"{found['saved_bytes_bits'] / 2**20:6.1f} MiB, of activations {found['activation_ratio']:.2f} times "
                f"less; resident "
                f"{found['resident_after_forward_plain'] / 2**20:7.1f} -> "
                f"{found['resident_after_forward_bits'] / 2**20:6.1f} MiB ({found['resident_ratio']:.2f}); peak "
                f"{found['peak_plain'] / 2**20:7.1f} -> {found['peak_bits'] / 2**20:6.1f} MiB; a step takes "
                f"{found['step_time_ratio']:.2f} times as long (spread {found['spread']:.2f})",
                flush=True,
            )
    if options.save:
        print(f"saved {save_rows('bnn_memory', rows).name}")
    worst = min(rows, key=lambda found: found["activation_ratio"])
    least = min(rows, key=lambda found: found["resident_ratio"])
    slowest = max(rows, key=lambda found: found["step_time_ratio"])
    n = worst["repeats"]
    print(headline("bnn_saved_activation_ratio", worst["activation_ratio"], "x", 1, 0.0, "autograd"))
    print(headline("bnn_resident_memory_ratio", least["resident_ratio"], "x", 1, 0.0, "autograd"))
    print(headline("bnn_saved_bits_step_time", slowest["step_time_ratio"], "x", n, slowest["spread"], "autograd"))


if __name__ == "__main__":
    main()
