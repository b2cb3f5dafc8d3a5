"""Quantized training by this library and by its peers: accuracy, time a step, and accumulators of few bits.

A perceptron 784-256-256-10 on MNIST, since torchao's quantized training replaces linear layers alone; Adam, 1e-3, 600
steps of 64 images; every candidate starts from the same weights and sees the same images in the same order, seed by
seed, 3 seeds, 10,000 test images. Every layer and its input have the bits named, the first and last included.

    ours      `Int8Training`: weights by output channel, activations by tensor, both affine, ranges of the batch
    brevitas  QuantLinear: weights by channel, symmetric; inputs by tensor, affine, its learned percentile ranges
    torchao   QATConfig: weights by channel, symmetric; inputs by token, affine, their own extremes (a finer grid)
    qtorch    QPyTorch, block floating point with one exponent a tensor; gradients too at W8A8G8, stochastically
    larq, mptorch  binary nets in TensorFlow; formats of single sums. Asked for, and named with the reason if absent

Fixed before the runs: the settings above; equivalence of ours and each peer is told by the paired difference of test
accuracies and its 95 % interval, without a margin; loss and gain are told alike. The time of a step (forward, backward,
Adam) is measured inside each peer's process in turns with ours at the same formats, one thread: `ours_ratio` is
theirs over ours, above 1 where ours is faster. All arithmetic here is simulated in float32: the times are costs of
simulation, not gains of low precision.

Accumulators, with QPyTorch: products and sums rounded one by one to 10 bits of mantissa and 5 of exponent, K steps of
its `float_quantize` on (M, N), as its users do it, against our C++ kernel. It rounds to nearest and cannot cut, our
kernel cuts and leaves nearest to a slower simulation: speed is compared across roundings, bits at equal rounding with
that simulation. Its numbers are float32 before they are rounded: of 4 million sums of normal numbers of the format, how
many differ from the exact sum rounded once, to even, and how many from the exact sum rounded once with halves away from
zero, which is what its "nearest" turned out to be in a first look; only the latter are rounded twice.

Each peer wants a virtual environment outside the repository; a peer that is missing is a row that says so:

    python -m venv /tmp/peers/brevitas
    /tmp/peers/brevitas/bin/pip install torch==2.13.0 numpy scipy safetensors pyyaml rich typer
    /tmp/peers/brevitas/bin/pip install brevitas        (torchao; qtorch setuptools ninja)

    python benchmarks/training_peers.py [CANDIDATE ...] [--python brevitas=/tmp/peers/brevitas/bin/python ...] [--save]
    --quick: 1 seed of 20 steps: checks, no figures. PENNYWEIGHT_DATA names the data; finished rows stay in runs/cells.
"""

import argparse
import importlib.metadata
import itertools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import pennyweight as pw
from cells import BudgetSpentError, Cells
from int8_training import interval
from pennyweight import ops
from pennyweight.data import batch_at
from pennyweight.numerics.accumulate import AccumulatorSpec
from pennyweight.numerics.measure import interleaved
from reporting import headline, save_rows

SEEDS, STEPS, BATCH = 3, 600, 64
WIDTHS = (784, 256, 256, 10)
TIME_LIMIT_S = 3600
SIZES = (128, 256, 64)  # M, K, N of the accumulators


def perceptron(seed: int, linear: Callable[[int, int], nn.Module] = nn.Linear) -> nn.Sequential:
    """The net from its seed; replacements of linear layers get the weights of torch's own."""
    torch.manual_seed(seed)
    floats = [nn.Linear(inputs, outputs) for inputs, outputs in itertools.pairwise(WIDTHS)]
    layers: list[nn.Module] = [nn.Flatten()]
    for plain in floats:
        layer = linear(plain.in_features, plain.out_features)
        layer.load_state_dict(plain.state_dict(), strict=False)
        layers += [layer, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def in_float(seed: int) -> nn.Module:
    """No quantization."""
    return perceptron(seed)


def ours(seed: int, bits: int, gradients: bool = False) -> nn.Module:
    """This library's method."""
    model = perceptron(seed)
    settings: dict[str, Any] = {"weights": f"int{bits}", "activations": f"uint{bits}", "norm": "keep"}
    gradient = f"int{bits}" if gradients else None
    pw.apply_(model, pw.Int8Training(**settings, gradients=gradient, input_range="batch", seed=seed))
    return model


def brevitas(seed: int, bits: int) -> nn.Module:
    """Its quantized layers."""
    import brevitas.nn as qnn
    from brevitas.quant import Int8WeightPerChannelFloat, ShiftedUint8ActPerTensorFloat

    def linear(inputs: int, outputs: int) -> nn.Module:
        layer: nn.Module = qnn.QuantLinear(
            inputs,
            outputs,
            bias=True,
            weight_quant=Int8WeightPerChannelFloat,
            weight_bit_width=bits,
            input_quant=ShiftedUint8ActPerTensorFloat,
            input_bit_width=bits,
        )
        return layer

    return perceptron(seed, linear)


def torchao(seed: int, bits: int) -> nn.Module:
    """Its fake quantization, prepared for training."""
    from torchao.quantization import quantize_
    from torchao.quantization.qat import IntxFakeQuantizeConfig, QATConfig

    dtype = {4: torch.int4, 8: torch.int8}[bits]
    activations = IntxFakeQuantizeConfig(dtype, "per_token", is_symmetric=False)
    weights = IntxFakeQuantizeConfig(dtype, "per_channel")
    model = perceptron(seed)
    quantize_(model, QATConfig(activation_config=activations, weight_config=weights, step="prepare"))
    return model


class BlockLinear(nn.Linear):
    """A linear layer through QPyTorch's block floating point, as its examples wrap layers."""

    def __init__(self, inputs: int, outputs: int, bits: int, gradients: bool) -> None:
        super().__init__(inputs, outputs)
        from qtorch import BlockFloatingPoint
        from qtorch.quant import Quantizer

        block = BlockFloatingPoint(wl=bits, dim=-1)
        self.operand = Quantizer(forward_number=block, forward_rounding="nearest")
        back = {"backward_number": block, "backward_rounding": "stochastic"} if gradients else {}
        self.output = Quantizer(**back)

    def forward(self, input: Tensor) -> Tensor:
        y = F.linear(self.operand(input), self.operand(self.weight), self.bias)
        result: Tensor = self.output(y)
        return result


def qtorch(seed: int, bits: int, gradients: bool = False) -> nn.Module:
    """Its quantizers around torch's linear layers."""
    return perceptron(seed, lambda inputs, outputs: BlockLinear(inputs, outputs, bits, gradients))


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A row: whose, in which formats, how the net is made, and ours at the same formats for the time."""

    peer: str
    formats: str
    make: Callable[[int], nn.Module] | None
    twin: Callable[[int], nn.Module] | None = None


def _at(make: Callable[..., nn.Module], **settings: Any) -> Callable[[int], nn.Module]:
    return lambda seed: make(seed, **settings)


OURS_4, OURS_8 = _at(ours, bits=4), _at(ours, bits=8, gradients=True)
CANDIDATES = {
    "float": Candidate(peer="ours", formats="float", make=in_float, twin=OURS_4),
    "ours W4A4": Candidate(peer="ours", formats="W4A4", make=OURS_4),
    "ours W8A8G8": Candidate(peer="ours", formats="W8A8G8", make=OURS_8),
    "brevitas W4A4": Candidate(peer="brevitas", formats="W4A4", make=_at(brevitas, bits=4), twin=OURS_4),
    "torchao W4A4": Candidate(peer="torchao", formats="W4A4", make=_at(torchao, bits=4), twin=OURS_4),
    "qtorch W4A4": Candidate(peer="qtorch", formats="W4A4", make=_at(qtorch, bits=4), twin=OURS_4),
    "qtorch W8A8G8": Candidate(peer="qtorch", formats="W8A8G8", make=_at(qtorch, bits=8, gradients=True), twin=OURS_8),
    "qtorch sums": Candidate(peer="qtorch", formats="m10e5 sums", make=None),
    "mptorch": Candidate(peer="mptorch", formats="m10e5 sums", make=None),
    "larq": Candidate(peer="larq", formats="W1A1", make=None),
}
PACKAGES = {"ours": "pennyweight", **{name: name for name in ("brevitas", "torchao", "qtorch", "mptorch", "larq")}}
REASONS = {
    "mptorch": "pip: No matching distribution found for mptorch",
    "larq": "larq 0.14.0 installs; its import: No module named 'tensorflow'; it trains Keras models, not torch's",
}


def step(model: nn.Module, optimizer: torch.optim.Optimizer, images: Tensor, labels: Tensor) -> None:
    """Forward, backward, update."""
    optimizer.zero_grad()
    F.cross_entropy(model(images), labels).backward()
    optimizer.step()


def trained(make: Callable[[int], nn.Module], seed: int, steps: int) -> float:
    """Test accuracy in percent."""
    train, test = pw.load_dataset("mnist"), pw.load_dataset("mnist", "test")
    model = make(seed).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for index in range(steps):
        batch = batch_at(train, first_sample=index * BATCH, batch_size=BATCH, seed=seed)
        step(model, optimizer, batch.inputs, batch.targets)
    model.eval()
    with torch.no_grad():
        outputs = torch.cat([model(part) for part in test.normalize(test.images).split(500)])
    return 100 * float((outputs.argmax(1) == test.labels).double().mean())


def in_turns(make: Callable[[int], nn.Module], twin: Callable[[int], nn.Module], repeats: int) -> dict[str, Any]:
    """Time of a step of the candidate and of ours."""
    batch = batch_at(pw.load_dataset("mnist"), first_sample=0, batch_size=BATCH, seed=0)
    calls = []
    for one in (make, twin):
        model = one(0).train()
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        calls.append(lambda m=model, o=optimizer: step(m, o, batch.inputs, batch.targets))
    found = interleaved(*calls, repeats=repeats)
    return {
        "step_ms": 1e3 * found.a_seconds,
        "ours_step_ms": 1e3 * found.b_seconds,
        "ours_ratio": found.ratio,
        "spread": found.spread,
        "repeats": found.n,
    }


def sums_one_by_one(x: Tensor, columns: Tensor) -> Tensor:
    """(M, K), (K, N) -> (M, N) through QPyTorch, every product and sum rounded to nearest."""
    from qtorch.quant import float_quantize

    total = torch.zeros(len(x), columns.shape[1])
    for k in range(x.shape[1]):
        product = float_quantize(x[:, k, None] * columns[None, k], exp=5, man=10, rounding="nearest")
        total = float_quantize(total + product, exp=5, man=10, rounding="nearest")
    return total


def operands(*shape: int, seed: int) -> Tensor:
    """Signs times 1 to 1.875 in steps of 1/8: no product or sum leaves the normal numbers of either format."""
    generator = torch.Generator().manual_seed(seed)
    values = 1 + torch.randint(0, 8, shape, generator=generator) / 8
    return values * (2 * torch.randint(0, 2, shape, generator=generator) - 1)


def exact_then_away(x: Tensor, columns: Tensor) -> Tensor:
    """The same sums in float64, each rounded once to 10 bits of mantissa, halves away from zero."""
    total = torch.zeros(len(x), columns.shape[1], dtype=torch.float64)
    for k in range(x.shape[1]):
        total = _away(total + _away(x[:, k, None].double() * columns[None, k].double()))
    return total


def _away(values: Tensor) -> Tensor:
    unit = torch.exp2(torch.floor(torch.log2(values.abs().clamp(min=2.0**-14))) - 10)
    return values.sign() * torch.floor(values.abs() / unit + 0.5) * unit


def single_sums(count: int) -> dict[str, float]:
    """Shares of sums of two normal numbers of the format, in percent, that QPyTorch rounds otherwise than once."""
    from qtorch.quant import float_quantize

    generator = torch.Generator().manual_seed(2)
    mantissa = 1 + torch.randint(0, 1024, (2, count), generator=generator) / 1024
    exponent = torch.stack([
        torch.randint(4, 15, (count,), generator=generator), torch.randint(-14, 4, (count,), generator=generator)
    ])  # fmt: skip
    sign = 2.0 * torch.randint(0, 2, (2, count), generator=generator) - 1
    a, b = sign * mantissa * torch.exp2(exponent.float())
    theirs = float_quantize(a + b, exp=5, man=10, rounding="nearest").double()
    exact = a.double() + b.double()
    unit = torch.exp2(torch.floor(torch.log2(exact.abs())) - 10)
    return {
        "not_to_even_percent": 100 * float((theirs != (exact / unit).round() * unit).double().mean()),
        "rounded_twice_percent": 100 * float((theirs != _away(exact)).double().mean()),
    }


def accumulators(quick: bool) -> dict[str, Any]:
    """QPyTorch's sums against ours: bits, double rounding, speed."""
    m, k, n = SIZES
    x, weight = operands(m, k, seed=0), operands(n, k, seed=1)
    columns = weight.t().contiguous()
    spec = AccumulatorSpec(mantissa=10, exponent=5, product_bias=15, sum_bias=15, chunk=k, underflow=False)
    nearest = AccumulatorSpec(**{**vars(spec), "rounding": "nearest_even"})
    theirs = sums_one_by_one(x, columns)
    ours = ops.accumulated_matmul(x, weight, nearest)
    found = interleaved(
        lambda: sums_one_by_one(x, columns),
        lambda: ops.accumulated_matmul(x, weight, spec),
        repeats=3 if quick else 11,
    )
    return {
        "equal_percent": 100 * float((theirs == ours).double().mean()),
        "equal_away_percent": 100 * float((theirs == exact_then_away(x, columns)).double().mean()),
        **single_sums(10_000 if quick else 4_000_000),
        "gmacs": m * k * n / found.a_seconds / 1e9,
        "ours_gmacs": m * k * n / found.b_seconds / 1e9,
        "ours_ratio": found.ratio,
        "spread": found.spread,
        "repeats": found.n,
    }


def child(name: str, quick: bool, result: Path) -> None:
    """One candidate, in this process; writes JSON."""
    torch.set_num_threads(1)
    ops.set_num_threads(1)
    candidate = CANDIDATES[name]
    try:
        if candidate.make is None:
            row = accumulators(quick)
        else:
            seeds, steps = (1, 20) if quick else (SEEDS, STEPS)
            row = {"accuracies": [trained(candidate.make, seed, steps) for seed in range(seeds)]}
            if candidate.twin is not None:
                row |= in_turns(candidate.make, candidate.twin, 3 if quick else 31)
    except ImportError as error:
        result.write_text(json.dumps({"missing": f"{type(error).__name__}: {error}"}))
        return
    packages = sorted({PACKAGES[candidate.peer], "torch"} - {"pennyweight"})
    row["versions_used"] = ", ".join(f"{package} {importlib.metadata.version(package)}" for package in packages)
    result.write_text(json.dumps(row))


class MissingPeerError(Exception):
    """A peer that cannot be imported, or a candidate that failed; the words say why."""


def measured(name: str, python: str, quick: bool) -> dict[str, Any]:
    """A candidate in a process of its own, by the Python that has its peer."""
    peer = CANDIDATES[name].peer
    if peer in REASONS:
        raise MissingPeerError(f"not run: {REASONS[peer]}")
    environment = {
        **os.environ,
        **dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1"),
        "PYTHONPATH": str(Path(pw.__file__).parents[1]),
        "PYTHONWARNINGS": "ignore",
        "PATH": f"{Path(python).parent}{os.pathsep}{os.environ.get('PATH', '')}",  # QPyTorch compiles with its ninja
    }
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.json"
        command = [python, __file__, name, "--child", str(result), *(["--quick"] if quick else [])]
        ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=TIME_LIMIT_S)
        if not result.exists():
            lines = [line for line in ended.stderr.splitlines() if line.strip()]
            raise MissingPeerError(f"failed, exit code {ended.returncode}: {lines[-1] if lines else 'no word'}")
        found: dict[str, Any] = json.loads(result.read_text())
    if "missing" in found:
        raise MissingPeerError(f"not installed: {found['missing']}")
    return found


def rows_of(names: Sequence[str], pythons: dict[str, str], quick: bool) -> list[dict[str, Any]]:
    """A row a candidate, measured now or before."""
    cells = Cells("training_peers", quick)
    rows = []
    for name in names:
        candidate = CANDIDATES[name]
        row: dict[str, Any] = {"peer": candidate.peer, "formats": candidate.formats}
        try:
            python = pythons.get(candidate.peer, sys.executable)
            row = cells.get(row, lambda name=name, python=python: measured(name, python, quick))
            status = "measured"
        except MissingPeerError as error:  # not kept: the next run tries again
            status = str(error)
            print(f"{name}: {status}", flush=True)
        rows.append({**row, "status": status})
    return rows


COLUMNS = (
    *("peer", "formats", "accuracy", "points_to_float", "low", "high", "points_of_ours", "ours_low", "ours_high"),
    *("seeds", "step_ms", "ours_step_ms", "ours_ratio", "spread", "repeats", "gmacs", "ours_gmacs", "equal_percent"),
    *("equal_away_percent", "not_to_even_percent", "rounded_twice_percent", "versions_used", "status"),
)


def table(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """What is printed and saved: paired differences to float, and of ours to the peer at the same formats."""
    accuracies = {(row["peer"], row["formats"]): row["accuracies"] for row in rows if "accuracies" in row}
    found = []
    for row in rows:
        shown: dict[str, Any] = {name: row.get(name, "") for name in COLUMNS}
        if "accuracies" in row:
            mine = row["accuracies"]
            shown |= {"accuracy": sum(mine) / len(mine), "seeds": len(mine)}
            pairs = {"points_to_float": ("ours", "float"), "points_of_ours": ("ours", row["formats"])}
            ends = {"points_to_float": ("low", "high"), "points_of_ours": ("ours_low", "ours_high")}
            for column, key in pairs.items():
                if key in accuracies and key != (row["peer"], row["formats"]):
                    sign = 1 if column == "points_to_float" else -1
                    steps = [sign * (a - b) for a, b in zip(mine, accuracies[key], strict=True)]
                    shown[column], shown[ends[column][0]], shown[ends[column][1]] = interval(steps)
        found.append(shown)
    return found


def show(row: dict[str, Any]) -> None:
    """One line of the table."""
    start = f"{row['peer']:9s} {row['formats']:10s}"
    if row["status"] != "measured":
        print(f"{start} {row['status']}")
        return
    if row["gmacs"] != "":
        print(
            f"{start} {row['gmacs']:.4f} GMAC/s, ours {row['ours_gmacs']:.2f}; {row['equal_percent']:.2f} % of bits "
            f"equal, {row['equal_away_percent']:.2f} % of theirs to exact sums with halves away; of single sums "
            f"{row['not_to_even_percent']:.3f} % not to even, {row['rounded_twice_percent']:.5f} % rounded twice"
        )
        return
    line = f"{start} {row['accuracy']:.2f} %"
    if row["points_to_float"] != "":
        line += f", to float {row['points_to_float']:+.2f} [{row['low']:+.2f}, {row['high']:+.2f}]"
    if row["points_of_ours"] != "":
        line += f", ours above {row['points_of_ours']:+.2f} [{row['ours_low']:+.2f}, {row['ours_high']:+.2f}]"
    if row["ours_ratio"] != "":
        line += f", {row['step_ms']:.2f} ms a step, ours {row['ours_step_ms']:.2f}, ratio {row['ours_ratio']:.2f}"
    print(line)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="CANDIDATE", help=f"of {'; '.join(CANDIDATES)}; all by default")
    parser.add_argument("--python", action="append", default=[], metavar="PEER=PATH", help="the Python that has a peer")
    parser.add_argument("--quick", action="store_true", help="1 seed of 20 steps: checks, no figures")
    parser.add_argument("--save", action="store_true", help="write the rows under results/")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if unknown := sorted(set(options.names) - set(CANDIDATES)):
        parser.error(f"unknown candidate {unknown[0]!r}; valid are {'; '.join(CANDIDATES)}")
    if options.child:
        child(options.names[0], options.quick, options.child)
        return
    if not os.environ.get("PENNYWEIGHT_DATA"):
        print("not run: set PENNYWEIGHT_DATA to the folder with MNIST")
        return
    pythons = dict(pair.partition("=")[::2] for pair in options.python)
    if unknown := sorted(set(pythons) - set(PACKAGES)):
        parser.error(f"--python {unknown[0]}=...: valid are {', '.join(PACKAGES)}")
    try:
        found = table(rows_of(options.names or list(CANDIDATES), pythons, options.quick))
    except BudgetSpentError:
        print("BUDGET_HOURS is over: run again to go on")
        return
    for row in found:
        show(row)
    if options.save and not options.quick:
        print(f"saved {save_rows('training_peers', found).name}")
    for row in found:
        name = f"training_peers_{row['peer']}_{row['formats'].lower().replace(' ', '_')}"
        if row["points_of_ours"] != "":
            half = (row["ours_high"] - row["ours_low"]) / 2
            print(headline(f"{name}_points_ours", row["points_of_ours"], "points", row["seeds"], half, row["peer"]))
        if row["ours_ratio"] != "" and row["formats"] != "float":
            print(headline(f"{name}_ratio", row["ours_ratio"], "x", row["repeats"], row["spread"], row["peer"]))


if __name__ == "__main__":
    main()
