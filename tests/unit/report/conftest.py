"""A realistic report of the demo's shape, made up: four arms, two scenarios, three claims."""

import math

import pytest

from pennyweight.report import (
    Accuracy,
    ArmReport,
    ClaimBox,
    Comparison,
    CurvePoint,
    LayerRow,
    MethodReport,
    RunReport,
    ScenarioReport,
    SizeBreakdown,
)

SHAPES = {"features.0": (1024, 64), "features.3": (1024, 1024), "features.6": (1024, 1024), "classifier": (10, 1024)}
RECIPE = """\
name: quickstart
data: {name: digits}
model: {name: mlp, hidden: [1024, 1024, 1024]}
seeds: [0, 1]
arms:
  float:
    - train: {regime: {kind: cosine, steps: 1500, lr: 0.01, optimizer: adam}}
    - export: {}
    - bench: {scenarios: [SingleStream, Offline]}
"""


def _latencies(median_ns: float) -> tuple[tuple[float, float], ...]:
    """Quantiles of a lognormal body with a heavy tail, as a shared machine gives."""
    points = []
    for index in range(1, 200):
        share = index / 200
        logit = math.log(share / (1 - share))
        points.append((share, median_ns * math.exp(0.035 * logit + 0.12 * share**12)))
    return (*points, (0.999, points[-1][1] * 1.9))


def _stream(median_ns: float, backend: str) -> ScenarioReport:
    quantiles = _latencies(median_ns)
    return ScenarioReport(
        scenario="SingleStream",
        metric_name="p90 latency",
        value=quantiles[179][1],
        unit="ns",
        valid=True,
        p50_ns=quantiles[99][1],
        p90_ns=quantiles[179][1],
        p99_ns=quantiles[197][1],
        mean_ns=median_ns * 1.04,
        effective_percentile=90.07,
        query_count=round(4e9 / median_ns),
        quantiles=quantiles,
        overhead_ns=4100.0,
        runs=3,
        spread=0.021,
        backend=backend,
    )


def _offline(rate: float, backend: str, valid: bool = True) -> ScenarioReport:
    return ScenarioReport(
        scenario="Offline",
        metric_name="throughput",
        value=rate,
        unit="samples/s",
        valid=valid,
        reasons=() if valid else ("Min duration not satisfied: 3.2 s of 4 s; the expected rate was set too low",),
        query_count=24576,
        backend=backend,
    )


def _layers(formats: dict[str, tuple[str, float, str, str]]) -> tuple[LayerRow, ...]:
    rows = []
    for fqn, (spec, bits, executed, note) in formats.items():
        rows_, columns = SHAPES[fqn]
        rows.append(
            LayerRow(
                fqn=fqn,
                type="GemmLinear",
                format=spec,
                bits=bits,
                shape=(rows_, columns),
                bytes=math.ceil(rows_ * columns * bits / 8) + 4 * rows_,
                executed=executed,  # type: ignore[arg-type]
                note=note,
            )
        )
    return tuple(rows)


def _curve(start: float, end: float, accuracy: float, seed: int) -> tuple[CurvePoint, ...]:
    return tuple(
        CurvePoint(
            step=step,
            loss=end + (start - end) * math.exp(-step / 180) * (1 + 0.1 * math.sin(step / 23 + seed)),
            accuracy=accuracy - (accuracy - 0.1) * math.exp(-step / 150) if step % 150 == 0 else None,
            seed=seed,
        )
        for step in range(0, 1501, 25)
    )


@pytest.fixture(scope="session")
def sample_report() -> RunReport:
    """Four arms: float, binary, W8A8, W4A4; the last is slower than float, and its Offline run is INVALID."""
    everything = dict.fromkeys(SHAPES, ("float32", 32.0, "float", ""))
    binary = {
        "features.0": ("binary, int8 input", 1.0, "executed", "int8 input by packed signs"),
        "features.3": ("binary", 1.0, "executed", "batch norm folded into integer thresholds"),
        "features.6": ("binary", 1.0, "executed", "batch norm folded into integer thresholds"),
        "classifier": ("binary", 1.0, "executed", ""),
    }
    w8a8 = dict.fromkeys(SHAPES, ("int8 per channel, int8 activations", 8.0, "executed", ""))
    w4a4 = dict.fromkeys(SHAPES, ("int4 per channel, uint4 activations", 4.0, "simulated", "no 4-bit kernel")) | {
        "classifier": ("int8 per channel, int8 activations", 8.0, "simulated", "last layer kept at 8 bits")
    }
    arms = (
        ArmReport(
            name="float",
            stages=(
                "train: 1,500 steps of Adam, cosine from 0.01, batch 128",
                "export",
                "bench: SingleStream, Offline",
            ),
            accuracy=Accuracy(
                value=0.9722,
                low=0.9496,
                high=0.9848,
                n=360,
                seeds=(0, 1),
                per_seed=(0.9694, 0.975),
                interval="95 % Wilson",
            ),
            size_bytes=8_742_912,
            size=SizeBreakdown(codes=8_691_712, scales=49_192, parameters=0, other=2_008),
            numerics="float32 weights and activations",
            executed=True,
            layers=_layers(everything),
            scenarios=(_stream(412_000, "torch eager, 1 thread"), _offline(21_900, "torch eager, 1 thread")),
            curve=_curve(2.3, 0.004, 0.972, 0) + _curve(2.3, 0.005, 0.975, 1),
            seconds=31.2,
        ),
        ArmReport(
            name="binary",
            stages=(
                "apply: BNN(weights='binary', activations='binary')",
                "train: 1,500 steps of Adam, cosine from 0.003, batch 128",
                "export: packed",
                "bench: SingleStream, Offline",
            ),
            accuracy=Accuracy(
                value=0.9611,
                low=0.9358,
                high=0.9767,
                n=360,
                seeds=(0, 1),
                per_seed=(0.9583, 0.9639),
                interval="95 % Wilson",
            ),
            comparison=Comparison(reference="float", only_reference=13, only_candidate=5, n=720, p_value=0.096),
            size_bytes=292_864,
            size=SizeBreakdown(codes=271_616, scales=18_504, parameters=0, other=2_744),
            numerics="1-bit weights and activations, int8 input",
            executed=True,
            layers=_layers(binary),
            scenarios=(_stream(38_600, "packed, 1 thread, AVX2"), _offline(318_000, "packed, 1 thread, AVX2")),
            methods=(
                MethodReport(
                    name="BNN(weights='binary', activations='binary', stochastic=False)",
                    changed=7,
                    skipped={"features.1": "batch norm before a binary activation stays float until export"},
                    metrics={"latent_clip": 1.0, "learning_rate_scale": "Glorot"},
                ),
            ),
            curve=_curve(3.8, 0.11, 0.961, 0) + _curve(3.7, 0.12, 0.964, 1),
            seconds=58.4,
        ),
        ArmReport(
            name="w8a8",
            stages=(
                "train: shared with float",
                "apply: RoundToNearest(weights='int8', activations='int8')",
                "export",
                "bench",
            ),
            accuracy=Accuracy(
                value=0.9722,
                low=0.9496,
                high=0.9848,
                n=360,
                seeds=(0, 1),
                per_seed=(0.9694, 0.975),
                interval="95 % Wilson",
            ),
            comparison=Comparison(reference="float", only_reference=1, only_candidate=1, n=720, p_value=1.0),
            size_bytes=2_243_584,
            size=SizeBreakdown(codes=2_172_928, scales=67_624, parameters=0, other=3_032),
            numerics="8-bit weights per channel, 8-bit activations per tensor",
            executed=True,
            layers=_layers(w8a8),
            scenarios=(_stream(405_000, "torch eager, 1 thread"), _offline(24_300, "torch eager, 1 thread")),
            methods=(
                MethodReport(
                    name="RoundToNearest(weights='int8', activations='int8')",
                    changed=4,
                    metrics={"weight_sqnr_db": 41.27, "activation_sqnr_db": 38.9},
                ),
            ),
            seconds=12.0,
        ),
        ArmReport(
            name="w4a4",
            stages=(
                "train: shared with float",
                "apply: RoundToNearest(weights='int4', activations='uint4')",
                "export",
                "bench",
            ),
            accuracy=Accuracy(
                value=0.9250,
                low=0.8931,
                high=0.9479,
                n=360,
                seeds=(0, 1),
                per_seed=(0.9194, 0.9306),
                interval="95 % Wilson",
            ),
            comparison=Comparison(reference="float", only_reference=39, only_candidate=5, n=720, p_value=2.4e-7),
            size_bytes=1_160_192,
            size=SizeBreakdown(codes=1_091_584, scales=65_576, parameters=0, other=3_032),
            numerics="4-bit weights per channel, 4-bit activations per tensor, last layer 8-bit",
            executed=False,
            layers=_layers(w4a4),
            scenarios=(
                _stream(731_000, "torch eager, 1 thread"),
                _offline(15_100, "torch eager, 1 thread", valid=False),
            ),
            methods=(
                MethodReport(
                    name="RoundToNearest(weights='int4', activations='uint4')",
                    changed=3,
                    skipped={"classifier": "excluded by '@last'"},
                    metrics={"weight_sqnr_db": 17.4, "activation_sqnr_db": 15.2},
                ),
            ),
            seconds=14.5,
        ),
    )
    return RunReport(
        name="quickstart",
        arms=arms,
        recipe_yaml=RECIPE,
        seeds=(0, 1),
        machine={
            "processor": "Example CPU @ 2.50 GHz",
            "cores": 2,
            "isa": ["avx2", "fma"],
            "memory_gib": 7.8,
            "accelerator": None,
            "load_before": 0.31,
            "load_after": 1.04,
        },
        versions={"pennyweight": "0.1.0", "python": "3.11.2", "torch": "2.13.0+cpu", "loadgen": "6.0.17"},
        command="pennyweight run quickstart --folder runs/demo",
        claims=(
            ClaimBox(
                claim="Nets with weights and activations of 1 bit reach nearly the accuracy of float nets.",
                paper="Binarized Neural Networks, arXiv 1602.02830",
                setting="MLP 64-1024-1024-1024-10 on digits (a proxy; the paper trains on MNIST)",
                measured="1.1 points less [0.1 more, 2.3 less]",
                verdict="holds",
                command="pennyweight run quickstart",
                n="360 test samples, 2 seeds",
            ),
            ClaimBox(
                claim="A binary matrix kernel runs an MNIST net 7 times faster.",
                paper="Binarized Neural Networks, arXiv 1602.02830",
                setting="packed MLP on a CPU core against float32 of the same library; the paper uses a GPU",
                measured="10.7 times at batch 1, 14.5 times offline",
                verdict="partly",
                command="python benchmarks/packed_mlp.py",
                n=103_627,
            ),
            ClaimBox(
                claim="Gradients of 6 bits train as well as float ones.",
                paper="Quantized Neural Networks, arXiv 1609.07061",
                setting="not part of this recipe",
                measured="",
                verdict="not run",
            ),
        ),
        excluded=("loading the artifact and warm-up", "normalising the images", "training time in the speed figures"),
        started="2026-01-15 10:32 UTC",
        seconds=131.0,
    )
