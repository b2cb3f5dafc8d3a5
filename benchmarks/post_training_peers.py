"""Post-training quantization of the public CIFAR-10 ResNet-20 by this library and by its peers, in one table.

Everyone gets the same float weights, the same 512 unlabelled training images (seed 0) and all 10,000 test images, and
runs in a process of its own on one thread; the rows of a table come from one run on one machine.

    ours          RoundToNearest, with StatisticsTuning where it is advised; AdaQuant, AdaRound and GPTQ; a file in
                  ONNX Runtime
    onnxruntime   quantize_static, QDQ, a scale a channel, on the pre-processed float file
    nncf          nncf.quantize with its fast bias correction, run by OpenVINO; at 4 bits simulated by NNCF itself
    brevitas      the flow of its own ImageNet example: equalisation, calibration, then bias correction; at 4 bits also
                  GPTQ, or learned rounding, before the correction
    torchao       PT2E with the X86 Inductor quantizer, compiled
    neural        Intel Neural Compressor's static quantization, which is PT2E as well, compiled

Fixed before the figures were seen: the candidates; that methods with steps take their default number of steps (1,000 a
layer for AdaQuant, AdaRound and Brevitas' learned rounding; "adaquant 200" takes the 200 of our recipes); that
ours in the headlines is RoundToNearest at W8A8 and AdaQuant at W4A4, and that the peer it meets is the one that did
best on the test images, which favours the peer. Weights have a scale a channel, the first and last layer have 8 bits.

What is not equal, as far as it cannot be set: ours and Brevitas quantize what enters convolutions and linear layers;
ONNX Runtime, NNCF, torchao and Neural Compressor quantize residual sums too. At W4A4 NNCF is told to leave the sums
alone; it has no bits by layer, so that its first and last layer, and the pooling, stay in float, to its favour, and its
weights' ranges are their extremes, where ours and Brevitas' have the least squared error. Brevitas' learned rounding
computes in float32, not in its default float16, which processors are slow at, and takes 50 images a step, as ours,
where its default is one.

Columns: accuracy in percent with Wilson's interval; points below float, with McNemar's exact p-value, since all answer
the same images; quantize_s, wall time from the float model (ONNX Runtime: file) to one that answers, and cpu_s, the
processor's time in it, which other work on the machine disturbs less; peak_rss_gb, the process's peak in that time, and
start_rss_gb, its size before, imports included; code_bytes, computed: the weights' codes, and 4 bytes a channel for
each of scale and bias; file_bytes of what is exported, where a candidate exports. "executed" arithmetic runs on
integers (float's row: on floats), "simulated" on floats that lie on the grid.

Left out: imports, reading data, exporting, compiling for a backend, evaluation. Not applicable: torchao's quantize_
(8-bit dynamic, 8- and 4-bit weight-only) serves linear layers, and this net has one, of 640 weights; its PT2E
quantizer, ONNX Runtime's and Neural Compressor's static flow know 8-bit activations alone, so none has a row at W4A4.
One draw of the calibration images: differences between draws are in `post_training.py`.

Each peer wants a virtual environment outside the repository; a peer that is missing is a row that says so:

    python -m venv /tmp/peers/nncf
    /tmp/peers/nncf/bin/pip install torch==2.13.0
    /tmp/peers/nncf/bin/pip install "torch==2.13.0" -e ".[onnx]" onnxscript nncf openvino
    (the others instead of the last two: brevitas accelerate tqdm; torchao; neural-compressor-pt)

    python benchmarks/post_training_peers.py [CANDIDATE ...] [--python nncf=/tmp/peers/nncf/bin/python ...] [--save]
    --quick: one candidate a peer, few images and steps. PENNYWEIGHT_DATA names the data; BUDGET_HOURS=0.5 stops in
    time; finished rows stay in runs/cells and are not measured again.
"""

import argparse
import copy
import dataclasses
import json
import math
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import pennyweight as pw
from cells import BudgetSpentError, Cells
from onnxruntime_int8 import quantized_by_onnx_runtime
from pennyweight.bench.paired import compare
from pennyweight.data import batch_at
from pennyweight.errors import MissingDependencyError
from pennyweight.methods import Method
from pennyweight.numerics.measure import interval_proportion
from post_training import Bench, rounded
from reporting import headline, save_rows

IMAGES, STEPS = 512, 1000
BATCH = 64
"""Images answered at a time; graphs that were captured for this many get the last ones filled up."""
CALIBRATION, TEST, RESULT = "calibration.pt", "test.pt", "result.json"
TIME_LIMIT_S = 3 * 3600
PACKAGES = {
    "ours": ("pennyweight",),
    "onnxruntime": ("onnxruntime",),
    "nncf": ("nncf", "openvino"),
    "brevitas": ("brevitas",),
    "torchao": ("torchao",),
    "neural": ("neural-compressor-pt", "torchao"),
}
OURS = {"W8A8": "rounded", "W4A4": "adaquant"}
"""Fixed beforehand: which of ours meets the best of the peers."""
Predict = Callable[[Tensor], Tensor]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Quantized:
    """What a candidate made.

    Args:
        predict: (B, 3, 32, 32) -> logits.
        arithmetic: "executed" or "simulated", and by what.
        files: exported.
    """

    predict: Predict
    arithmetic: str
    files: tuple[Path, ...] = ()


class Work:
    """What a candidate gets, and the clock around what it does.

    Args:
        shared: folder with what the parent prepared: the same for every candidate.
        folder: for files.
        quick: few steps.
    """

    def __init__(self, shared: Path, folder: Path, quick: bool) -> None:
        self.folder = folder
        self.quick = quick
        given = torch.load(shared / CALIBRATION)
        self.images: Tensor = given["images"]
        self.net = pw.create_model("resnet20")
        self.net.load_state_dict(given["state"])
        self.net.eval()
        self.measured: dict[str, float] = {}

    def steps(self, steps: int) -> int:
        """Of optimisation."""
        return min(steps, 4) if self.quick else steps

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Around the quantization alone: after the imports, before any export."""
        forget_peak()
        start = memory_gb("VmRSS")
        wall, processor = time.perf_counter(), time.process_time()
        yield
        self.measured = {
            "quantize_s": time.perf_counter() - wall,
            "cpu_s": time.process_time() - processor,
            "peak_rss_gb": memory_gb("VmHWM"),
            "start_rss_gb": start,
        }

    def code_bytes(self, bits: int, edge_bits: int) -> int:
        """Of the weights' codes, and 4 bytes a channel for each of scale and bias."""
        layers = [layer for layer in self.net.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
        widths = [edge_bits, *[bits] * (len(layers) - 2), edge_bits]
        sizes = (layer.weight.numel() * n / 8 + 8 * len(layer.weight) for layer, n in zip(layers, widths, strict=True))
        return math.ceil(sum(sizes))


def forget_peak() -> None:
    """Start this process's peak of memory anew, where Linux lets us."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def memory_gb(kind: str) -> float:
    """This process's memory now, "VmRSS", or at its peak, "VmHWM"; the peak where the system has no /proc."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    return int(next(line for line in lines if line.startswith(f"{kind}:")).split()[1]) * 1024 / 1e9


# Ours


def ours(work: Work, methods: Sequence[Method]) -> Quantized:
    """Methods one after another; the file is the library's own."""
    with work.timed():
        model = copy.deepcopy(work.net)
        pw.apply_(model, list(methods), data=[work.images], reference=work.net)
    file = work.folder / "ours.pw"
    pw.export(model, file, example_input=work.images[:2])
    return Quantized(predict=model, arithmetic="simulated (torch)", files=(file,))


def ours_executed(work: Work) -> Quantized:
    """Rounding at 8 bits, as a file for ONNX Runtime."""
    with work.timed():
        model = copy.deepcopy(work.net)
        pw.apply_(model, rounded("W8A8"), data=[work.images], reference=work.net)
    file = work.folder / "ours.onnx"
    pw.export_onnx(model, file, example_input=work.images[:2], samples=work.images, deploy="speed")
    return Quantized(predict=in_onnx_runtime(file), arithmetic="executed (ONNX Runtime)", files=(file,))


def solver(method: type[Any], bits: int, **settings: Any) -> Method:
    """A layer-wise method with 8 bits in the first and last layer."""
    made: Method = method(weights=f"int{bits}", activations=f"uint{bits}", edge_activations="uint8", **settings)
    return made


def in_float(work: Work) -> Quantized:
    """The net as it is."""
    with work.timed():
        pass
    return Quantized(predict=work.net, arithmetic="executed (torch)")


# Peers


def onnx_runtime(work: Work) -> Quantized:
    """As `onnxruntime_int8.py` does."""
    import onnxruntime.quantization  # noqa: F401  # what is loaded now is not timed

    floating = pw.export_onnx(work.net, work.folder / "float.onnx", example_input=work.images[:2], deploy="exact")
    with work.timed():
        quantized_by_onnx_runtime(floating.path, work.images, work.folder)
    file = work.folder / "theirs.onnx"
    return Quantized(predict=in_onnx_runtime(file), arithmetic="executed (ONNX Runtime)", files=(file,))


def in_onnx_runtime(file: Path) -> Predict:
    """A file as a function."""
    from pennyweight.artifact.onnx import open_session, run

    session = open_session(file)
    return lambda images: torch.as_tensor(run(session, images.numpy()))


def nncf_8(work: Work) -> Quantized:
    """The documented flow: a torch model quantized, converted and run by OpenVINO."""
    import nncf
    import openvino

    with work.timed():
        images = work.images.split(1)
        model = nncf.quantize(copy.deepcopy(work.net), nncf.Dataset(images), subset_size=len(images))
    converted = openvino.convert_model(model, example_input=work.images[:1], input=[-1, 3, 32, 32])
    file = work.folder / "nncf.xml"
    openvino.save_model(converted, file)
    compiled = openvino.compile_model(converted, "CPU", {"INFERENCE_NUM_THREADS": 1, "PERFORMANCE_HINT": "LATENCY"})
    return Quantized(
        predict=lambda batch: torch.as_tensor(np.asarray(compiled(batch.numpy())[0])),
        arithmetic="executed (OpenVINO)",
        files=(file, file.with_suffix(".bin")),
    )


def nncf_4(work: Work) -> Quantized:
    """Four bits for what enters the inner convolutions, ranges by squared error, for the one target NNCF allows."""
    import nncf
    from nncf.quantization.advanced_parameters import AdvancedQuantizationParameters, QuantizationParameters
    from nncf.quantization.range_estimator import RangeEstimatorParametersSet

    four = QuantizationParameters(num_bits=4)
    with work.timed():
        images = work.images.split(1)
        model = nncf.quantize(
            copy.deepcopy(work.net),
            nncf.Dataset(images),
            subset_size=len(images),
            target_device=nncf.TargetDevice.NPU,
            ignored_scope=nncf.IgnoredScope(patterns=["^conv1/.*", "^layer.*/add/.*", "^pool/.*", "^linear/.*"]),
            advanced_parameters=AdvancedQuantizationParameters(
                activations_quantization_params=four,
                weights_quantization_params=four,
                activations_range_estimator_params=RangeEstimatorParametersSet.HISTOGRAM,
            ),
        )
    return Quantized(predict=model, arithmetic="simulated (torch)")


def brevitas(work: Work, bits: int, ranges: str, learn: str = "") -> Quantized:
    """The flow of Brevitas' ImageNet example, layer by layer, with affine activations.

    Args:
        bits: of all layers but the first and last, which have 8.
        ranges: how they are estimated: "stats" or "mse".
        learn: what comes before the bias correction: "gptq", "learned round" or nothing.
    """
    from brevitas.graph.quantize import layerwise_quantize, preprocess_for_quantize
    from brevitas_examples.imagenet_classification.ptq import ptq_common as flow
    from dependencies import value

    if learn == "learned round":
        from brevitas_examples.common.learned_round.learned_round_trainer import LearnedRoundTrainer, get_blocks
        from brevitas_examples.imagenet_classification.ptq import learned_round_utils as rounding

    def width(module: nn.Module) -> int:
        is_edge = isinstance(module, nn.Linear) or module.in_channels == 3
        return 8 if is_edge else bits

    with work.timed():
        batches = [(images, torch.zeros(len(images))) for images in work.images.split(64)]
        model = preprocess_for_quantize(
            copy.deepcopy(work.net), equalize_iters=20, equalize_merge_bias=True, merge_bn=True
        )
        _, layers, _, _ = flow.create_quant_maps(
            dtype=torch.float32,
            bias_bit_width=32,
            weight_bit_width=value(width),
            weight_param_method=ranges,
            weight_scale_type="float_scale",
            weight_quant_type="sym",
            weight_quant_granularity="per_channel",
            weight_narrow_range=False,
            weight_quant_format="int",
            act_quant_format="int",
            act_bit_width=value(width),
            act_scale_type="float_scale",
            act_scale_computation_type="static",
            act_param_method=ranges,
            act_quant_type="asym",
            act_quant_granularity="per_tensor",
            act_quant_percentile=99.999,
        )
        model = layerwise_quantize(model, compute_layer_map=layers)
        with torch.no_grad():
            model(batches[0][0])
        flow.calibrate(batches, model)
        if learn == "gptq":
            flow.apply_gptq(batches, model)
        elif learn == "learned round":
            settings = argparse.Namespace(
                learned_round="hard_sigmoid",
                learned_round_loss="regularised_mse",
                learned_round_iters=work.steps(STEPS),
                learned_round_lr=1e-3,
                learned_round_lr_scheduler=None,
                learned_round_batch_size=50,
            )
            config = rounding.parse_args_to_dataclass(settings)
            config.training_args.use_amp = False
            LearnedRoundTrainer(config=config).train(
                model=model,
                model_forward=rounding.vision_forward,
                block_forward=rounding.vision_block_forward,
                data_loader=batches,
                cache=rounding.CacheVision(),
                get_blocks_fn=lambda net: get_blocks(net, rounding.is_layer),
                keep_gpu=True,
            )
        flow.apply_bias_correction(batches, model)
    return Quantized(predict=model.eval(), arithmetic="simulated (torch)")


def torchao(work: Work) -> Quantized:
    """PT2E as its page shows it: captured, observed, converted, compiled."""
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
    from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

    with work.timed(), torch.no_grad():
        batches = work.images.split(BATCH)
        captured = torch.export.export(copy.deepcopy(work.net), (batches[0],)).module()
        quantizer = x86.X86InductorQuantizer().set_global(x86.get_default_x86_inductor_quantization_config())
        prepared = prepare_pt2e(captured, quantizer)
        for images in batches:
            prepared(images)
        converted = convert_pt2e(prepared)
    return compiled_by_inductor(work, converted)


def neural_compressor(work: Work) -> Quantized:
    """Its static quantization, whose engine is PT2E."""
    from neural_compressor.torch.export import export
    from neural_compressor.torch.quantization import convert, get_default_static_config, prepare

    with work.timed(), torch.no_grad():
        batches = work.images.split(BATCH)
        exported = export(copy.deepcopy(work.net), example_inputs=(batches[0],))
        prepared = prepare(exported, quant_config=get_default_static_config())
        for images in batches:
            prepared(images)
        converted = convert(prepared)
    return compiled_by_inductor(work, converted)


def compiled_by_inductor(work: Work, converted: nn.Module) -> Quantized:
    """A PT2E model as Inductor runs it, and the file that torch.export makes of it."""
    import torch._inductor.config as inductor

    file = work.folder / "pt2e.pt2"
    torch.export.save(torch.export.export(converted, (work.images[:BATCH],)), file)
    inductor.freezing = True
    compiled = torch.compile(converted)

    def predict(images: Tensor) -> Tensor:
        filled = torch.cat([images, images.new_zeros(BATCH - len(images), *images.shape[1:])])
        return compiled(filled)[: len(images)]

    return Quantized(predict=predict, arithmetic="executed (Inductor)", files=(file,))


# The table


@dataclasses.dataclass(frozen=True, kw_only=True)
class Candidate:
    """A row.

    Args:
        method: what is done, in a few words.
        peer: whose it is, a key of `PACKAGES`.
        formats: of weights and activations.
        make: does it.
        edge_bits: of the first and last layer.
        in_quick: whether --quick runs it.
    """

    method: str
    peer: str
    formats: str
    make: Callable[[Work], Quantized]
    edge_bits: int = 8
    in_quick: bool = False

    @property
    def name(self) -> str:
        """As on the command line."""
        return f"{self.peer} {self.formats} {self.method}"

    @property
    def bits(self) -> int:
        """Of the weights."""
        return 32 if self.formats == "float" else int(self.formats[1])


def _candidates() -> Iterator[Candidate]:
    def of(peer: str, formats: str, method: str, make: Callable[[Work], Quantized], **settings: Any) -> Candidate:
        return Candidate(method=method, peer=peer, formats=formats, make=make, **settings)

    def stepped(method: type[Any], bits: int, steps: int = STEPS) -> Callable[[Work], Quantized]:
        return lambda work: ours(work, [solver(method, bits, steps=work.steps(steps))])

    quick = {"in_quick": True}
    tuned = [*rounded("W4A4"), pw.StatisticsTuning()]
    yield of("ours", "float", "none", in_float, edge_bits=32, **quick)
    yield of("ours", "W8A8", "rounded", lambda work: ours(work, rounded("W8A8")), **quick)
    yield of("ours", "W8A8", "rounded, in ONNX Runtime", ours_executed)
    yield of("ours", "W8A8", "adaquant 200", stepped(pw.AdaQuant, 8, 200))
    yield of("onnxruntime", "W8A8", "quantize_static", onnx_runtime, **quick)
    yield of("nncf", "W8A8", "quantize", nncf_8, **quick)
    yield of("brevitas", "W8A8", "calibrated", lambda work: brevitas(work, 8, "stats"))
    yield of("torchao", "W8A8", "pt2e", torchao, **quick)
    yield of("neural", "W8A8", "static", neural_compressor)
    yield of("ours", "W4A4", "rounded", lambda work: ours(work, rounded("W4A4")))
    yield of("ours", "W4A4", "rounded, statistics", lambda work: ours(work, tuned))
    yield of("ours", "W4A4", "gptq", lambda work: ours(work, [solver(pw.GPTQ, 4)]))
    yield of("ours", "W4A4", "adaround", stepped(pw.AdaRound, 4))
    yield of("ours", "W4A4", "adaquant 200", stepped(pw.AdaQuant, 4, 200))
    yield of("ours", "W4A4", "adaquant", stepped(pw.AdaQuant, 4), **quick)
    yield of("nncf", "W4A4", "quantize", nncf_4, edge_bits=32)
    yield of("brevitas", "W4A4", "calibrated", lambda work: brevitas(work, 4, "mse"), **quick)
    yield of("brevitas", "W4A4", "gptq", lambda work: brevitas(work, 4, "mse", "gptq"))
    yield of("brevitas", "W4A4", "learned round", lambda work: brevitas(work, 4, "mse", "learned round"))


CANDIDATES = {candidate.name: candidate for candidate in _candidates()}


def prepare(shared: Path, root: Path, quick: bool) -> None:
    """Net, calibration and test images as every candidate reads them."""
    bench = Bench(root=root, quick=quick)
    images = batch_at(bench.train, first_sample=0, batch_size=64 if quick else IMAGES, seed=0).inputs
    torch.save({"state": bench.net().state_dict(), "images": images.clone()}, shared / CALIBRATION)
    test = bench.test
    torch.save({"images": test.normalize(test.images), "labels": test.labels.clone()}, shared / TEST)


def right_answers(predict: Predict, test: dict[str, Tensor]) -> NDArray[np.bool_]:
    """(n,) whether each test image is answered rightly."""
    with torch.no_grad():
        found = torch.cat([predict(images).argmax(1) for images in test["images"].split(BATCH)])
    right: NDArray[np.bool_] = (found == test["labels"]).numpy()
    return right


def child(name: str, quick: bool, shared: Path) -> None:
    """One candidate, in this process; writes JSON."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    candidate = CANDIDATES[name]
    with tempfile.TemporaryDirectory() as folder:
        work = Work(shared, Path(folder), quick)
        try:
            found = candidate.make(work)
        except (ImportError, MissingDependencyError) as error:
            (shared / RESULT).write_text(json.dumps({"missing": f"{type(error).__name__}: {error}"}))
            return
        right = right_answers(found.predict, torch.load(shared / TEST))
        row = {
            "n": len(right),
            "right": np.packbits(right).tobytes().hex(),
            **work.measured,
            "code_bytes": work.code_bytes(candidate.bits, candidate.edge_bits),
            "file_bytes": sum(file.stat().st_size for file in found.files) or "",
            "file": "+".join(file.suffix.removeprefix(".") for file in found.files),
            "arithmetic": found.arithmetic,
        }
    (shared / RESULT).write_text(json.dumps(row))


class MissingPeerError(Exception):
    """A peer that cannot be imported, or a candidate that failed; the words say why."""


def measured(candidate: Candidate, python: str, quick: bool, shared: Path) -> dict[str, Any]:
    """A candidate in a process of its own."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "TORCHINDUCTOR_COMPILE_THREADS"), "1")
    source = str(Path(pw.__file__).parents[1])
    quiet = {"PYTHONPATH": source, "PYTHONWARNINGS": "ignore", "NNCF_CI": "1"}  # the last: no calls home to wait for
    command = [python, __file__, candidate.name, "--child", str(shared), *(["--quick"] if quick else [])]
    result = shared / RESULT
    result.unlink(missing_ok=True)
    ended = subprocess.run(
        command, env={**os.environ, **threads, **quiet}, capture_output=True, text=True, timeout=TIME_LIMIT_S
    )
    if not result.exists():
        lines = [line for line in ended.stderr.splitlines() if line.strip()]
        raise MissingPeerError(f"failed, exit code {ended.returncode}: {lines[-1] if lines else 'no word'}")
    found = json.loads(result.read_text())
    if "missing" in found:
        raise MissingPeerError(f"not installed: {found['missing']}")
    return dict(found)


LIST_PACKAGES = """
import importlib.metadata, json
found = importlib.metadata.distributions()
print(json.dumps({one.metadata["Name"].lower().replace("_", "-"): one.version for one in found}))
"""


def versions(peer: str, python: str) -> str:
    """Of the peer's packages and torch in that Python; empty where the peer is not installed."""
    try:
        asked = subprocess.run([python, "-c", LIST_PACKAGES], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    found = {**json.loads(asked.stdout), "pennyweight": pw.__version__}
    if PACKAGES[peer][0] not in found:
        return ""
    return ", ".join(f"{name} {found[name]}" for name in (*PACKAGES[peer], "torch") if name in found)


def rows_of(names: Sequence[str], pythons: dict[str, str], quick: bool, root: Path) -> list[dict[str, Any]]:
    """A row a candidate, measured now or before; with its right answers."""
    cells = Cells("post_training_peers", quick)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        shared = Path(folder)
        prepare(shared, root, quick)
        for name in names:
            candidate = CANDIDATES[name]
            python = pythons.get(candidate.peer, sys.executable)
            found = versions(candidate.peer, python)
            row: dict[str, Any] = {
                "peer": candidate.peer,
                "method": candidate.method,
                "formats": candidate.formats,
                "edge_bits": candidate.edge_bits,
                "versions": found,
            }
            try:
                if not found:
                    raise MissingPeerError(f"not installed: {python} has no package {PACKAGES[candidate.peer][0]}")
                row = cells.get(row, lambda c=candidate, p=python: measured(c, p, quick, shared))
                status = "measured"
            except MissingPeerError as error:  # not kept: the next run tries again
                status = str(error)
                print(f"{name}: {status}", flush=True)
            rows.append({**row, "status": status})
    return rows


def answers(row: dict[str, Any]) -> NDArray[np.bool_]:
    """(n,) which test images the row answered rightly."""
    return np.unpackbits(np.frombuffer(bytes.fromhex(row["right"]), np.uint8), count=row["n"]).astype(bool)


COLUMNS = (
    *("peer", "method", "formats", "edge_bits", "accuracy", "low", "high", "n", "drop_points", "p_value"),
    *("quantize_s", "cpu_s", "peak_rss_gb", "start_rss_gb", "code_bytes", "file_bytes", "file"),
    *("arithmetic", "versions", "status"),
)


def table(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """What is printed and saved."""
    floating = next((answers(row) for row in rows if row["formats"] == "float" and "right" in row), None)
    found = []
    for row in rows:
        shown: dict[str, Any] = {name: row.get(name, "") for name in COLUMNS}
        if "right" in row:
            right = answers(row)
            share = interval_proportion(int(right.sum()), len(right))
            shown |= {"accuracy": 100 * share.value, "low": 100 * share.low, "high": 100 * share.high}
            if floating is not None and row["formats"] != "float":
                shown["drop_points"] = 100 * float(floating.mean() - right.mean())
                shown["p_value"] = compare(right, floating).p_value
        found.append(shown)
    return found


def show(row: dict[str, Any]) -> None:
    """One line of the table."""
    start = f"{row['peer']:11s} {row['formats']:5s} {row['method']:24s}"
    if row["status"] != "measured":
        print(f"{start} {row['status']}")
        return
    drop = "" if row["drop_points"] == "" else f"{row['drop_points']:+.2f} (p={row['p_value']:.2g})"
    accuracy = f"{row['accuracy']:.2f} [{row['low']:.2f}, {row['high']:.2f}]"
    seconds = f"{row['quantize_s']:7.1f} {row['cpu_s']:7.1f}"
    memory = f"{row['peak_rss_gb']:5.2f} {row['start_rss_gb']:5.2f}"
    size = f"{row['code_bytes']:8d} {row['file_bytes']!s:>8s} {row['file']:7s}"
    print(f"{start} {accuracy} {drop:18s} {seconds} {memory} {size} {row['arithmetic']}")


def conclude(rows: Sequence[dict[str, Any]]) -> None:
    """Ours against float and against the best peer at the same formats, image by image."""
    done = [row for row in rows if "right" in row]
    floating = next((answers(row) for row in done if row["formats"] == "float"), None)
    for formats, method in OURS.items():
        name = f"peers_{formats.lower()}"
        same = [row for row in done if row["formats"] == formats]
        mine = next((row for row in same if (row["peer"], row["method"]) == ("ours", method)), None)
        if mine is None or floating is None:
            continue
        right = answers(mine)
        print(headline(f"{name}_drop_points_ours", *_difference(floating, right), "float32"))
        if peers := [row for row in same if row["peer"] != "ours"]:
            best = max(peers, key=lambda row: answers(row).sum())
            other = answers(best)
            print(
                f"{formats}: ours, {method}, {100 * right.mean():.2f} %; best peer, {best['peer']} {best['method']}, "
                f"{100 * other.mean():.2f} %; McNemar p = {compare(right, other).p_value:.2g}"
            )
            label = f"{best['peer']}_{best['method']}".replace(" ", "_")
            print(headline(f"{name}_drop_points_best_peer", *_difference(floating, other), "float32"))
            print(headline(f"{name}_lead_points_ours", *_difference(right, other), label))


def _difference(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> tuple[float, str, int, float]:
    """Points by which a is above b, the unit, images, and half the paired 95 % interval."""
    steps = a.astype(float) - b.astype(float)
    return 100 * float(steps.mean()), "points", len(steps), 196 * float(steps.std()) / math.sqrt(len(steps))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="CANDIDATE", help=f"of {'; '.join(CANDIDATES)}; all by default")
    parser.add_argument("--python", action="append", default=[], metavar="PEER=PATH", help="the Python that has a peer")
    parser.add_argument("--quick", action="store_true", help="few candidates, images and steps: checks, no figures")
    parser.add_argument("--save", action="store_true", help="write the rows under results/")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if unknown := sorted(set(options.names) - set(CANDIDATES)):
        parser.error(f"unknown candidate {unknown[0]!r}; valid are {'; '.join(CANDIDATES)}")
    if options.child:
        child(options.names[0], options.quick, options.child)
        return
    root = os.environ.get("PENNYWEIGHT_DATA")
    if not root or not (Path(root) / "nets" / "cifar10").is_dir():
        print("not run: set PENNYWEIGHT_DATA to the folder with CIFAR-10 and the public nets")
        return
    pythons = dict(pair.partition("=")[::2] for pair in options.python)
    if unknown := sorted(set(pythons) - set(PACKAGES)):
        parser.error(f"--python {unknown[0]}=...: valid are {', '.join(PACKAGES)}")
    names = options.names or [one.name for one in CANDIDATES.values() if one.in_quick or not options.quick]
    try:
        rows = rows_of(names, pythons, options.quick, Path(root))
    except BudgetSpentError:
        print("BUDGET_HOURS is over: run again to go on")
        return
    found = table(rows)
    head = f"{'peer':11s} {'form.':5s} {'method':24s} {'accuracy':20s} {'points below float':18s}"
    print(f"{head} {'wall s':>7s} {'cpu s':>7s} {'peak':>5s} {'start':>5s} {'codes B':>8s} {'file B':>8s}")
    for row in found:
        show(row)
    if options.save and not options.quick:
        print(f"saved {save_rows('post_training_peers', found).name}")
    conclude(rows)


if __name__ == "__main__":
    main()
