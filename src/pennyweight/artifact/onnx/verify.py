"""`verify_onnx`: an .onnx file in ONNX Runtime against the module it was made of."""

import copy
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pennyweight.artifact.onnx.integer_biases import align_biases_
from pennyweight.artifact.onnx.saturation import saturation_warnings
from pennyweight.artifact.onnx.session import MATMUL_OPTION, Outputs, onnxruntime_package, open_session, run
from pennyweight.errors import ArtifactError
from pennyweight.nn.gemm import GemmModule
from pennyweight.nn.slots.integer import IntegerInput

LEAST_AGREEMENT = 0.999
MOST_OWN_ROUNDING = 4.0
_FLOAT_ERROR = 1e-4  # of the largest output, where no activation is quantized
_TIE = 1e-5  # of the largest output: float32 rounding may swap these
_BATCH = 64


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How two computations agree on the same samples.

    Args:
        rows: of outputs: one a sample, or one a token.
        max_difference: largest absolute difference of an output.
        mean_difference: mean absolute difference.
        row_quantiles: the (0.5, 0.9, 0.99) quantiles over rows of a row's largest difference.
        argmax: share of rows whose largest output is the same one; outputs as good as equal count as the same.
        largest: absolute value of an output.
    """

    rows: int
    max_difference: float
    mean_difference: float
    row_quantiles: tuple[float, float, float]
    argmax: float
    largest: float


@dataclass(frozen=True, kw_only=True)
class OnnxCheck:
    """How ONNX Runtime's outputs meet the module's.

    Both compute with the same codes; only float32 roundings differ, by about 1e-7. But where a value falls between two
    codes they may choose different ones, and in a deep net such a flip spreads to many values of that sample. What
    the file may differ in is therefore held against the typical row: its difference is at most one activation step,
    or, in nets so deep that most samples have flips, four times what rows of the module itself differ in when it is
    computed in float64; likewise the share of rows that give the same answer. A wrong file differs in every row.

    Args:
        agreement: the differences.
        step: one activation step of the last quantized layer, which is the scale of the codes that enter it; 1e-4 of
            the largest output where no activations are quantized.
        step_of: that layer's name; "" where there is none.
        steps: the largest difference over the step.
        typical_steps: the median over rows of a row's largest difference, over the step.
        within_step: share of rows that differ by at most one step.
        own_rounding_steps: what the module's float64 and float32 outputs differ in, in a row with flips (the 0.99
            quantile), over the step; None where it was not needed.
        own_argmax: share of rows in which these two give the same answer; None likewise.
        runtime: version of ONNX Runtime.
        warnings: what a reader must know before deploying the file.
    """

    agreement: Agreement
    step: float
    step_of: str
    steps: float
    typical_steps: float
    within_step: float
    own_rounding_steps: float | None
    own_argmax: float | None
    runtime: str
    warnings: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """The typical row differs no more than allowed, and 99.9 % give the same answer; one row may always differ."""
        differing = round((1.0 - self.agreement.argmax) * self.agreement.rows)
        most_steps = max(1.0, MOST_OWN_ROUNDING * (self.own_rounding_steps or 0.0))
        unlike = 0.0 if self.own_argmax is None else MOST_OWN_ROUNDING * (1.0 - self.own_argmax)
        return (
            math.isfinite(self.steps)
            and self.typical_steps <= most_steps
            and differing <= max(1.0, max(1.0 - LEAST_AGREEMENT, unlike) * self.agreement.rows)
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {**asdict(self), "passed": self.passed}


@torch.inference_mode()
def verify_onnx(model: nn.Module, onnx_model: str | Path | bytes, samples: Tensor, *, threads: int = 1) -> OnnxCheck:
    """Run an .onnx file in ONNX Runtime's CPU provider and compare it with the module, sample by sample.

    Args:
        model: the module the file was made of; its biases are rounded as `export_onnx` rounds them. A file for speed
            is compared with `OnnxExport.computed`.
        onnx_model: the file, or its bytes.
        samples: inputs, samples along the first dimension; run in batches of 64 and the first sample alone.
        threads: of ONNX Runtime.

    Returns:
        What was found; whether it is good enough is `passed`.

    Raises:
        ArtifactError: the file cannot be loaded, or gives another shape than the module.
        MissingDependencyError: ONNX Runtime is not installed.
    """
    reference = copy.deepcopy(model).cpu().eval()
    align_biases_(reference)
    session = open_session(onnx_model, threads=threads)
    rows: list[float] = []
    found = agreement(
        lambda batch: reference(batch).numpy(), lambda batch: run(session, batch.numpy()), samples.cpu(), rows
    )
    layer, step = _last_step(reference, samples[:1].cpu())
    if step is None:
        step = _FLOAT_ERROR * max(found.largest, 1.0)
    typical = found.row_quantiles[0] / step
    own = None
    if typical > 1.0 or found.argmax < LEAST_AGREEMENT:
        own = _own_rounding(reference, samples.cpu())
    return OnnxCheck(
        agreement=found,
        step=step,
        step_of=layer,
        steps=found.max_difference / step,
        typical_steps=typical,
        within_step=float(np.mean(np.array(rows) <= step)),
        own_rounding_steps=None if own is None else own.row_quantiles[2] / step,
        own_argmax=None if own is None else own.argmax,
        runtime=str(onnxruntime_package().__version__),
        warnings=(*saturation_warnings(reference), *_weight_only_warnings(reference)),
    )


@torch.inference_mode()
def agreement(
    expected: Callable[[Tensor], Outputs],
    got: Callable[[Tensor], Outputs],
    samples: Tensor,
    row_differences: list[float] | None = None,
) -> Agreement:
    """Compare two computations.

    Args:
        row_differences: extended by each row's largest difference.

    Raises:
        ArtifactError: they give different shapes.
    """
    rows = [] if row_differences is None else row_differences
    total, count, same, largest = 0.0, 0, 0, 0.0
    for batch in (samples[:1], *samples.split(_BATCH)):
        want, have = expected(batch), got(batch)
        if want.shape != have.shape:
            raise ArtifactError(f"the .onnx file gives shape {have.shape} for a batch, the model {want.shape}")
        want, have = (outputs.reshape(-1, outputs.shape[-1]) for outputs in (want, have))
        difference = np.abs(want - have)
        difference[np.isnan(difference)] = math.inf
        rows += difference.max(-1).tolist()
        total, count = total + float(difference.sum()), count + difference.size
        largest = max(largest, float(np.abs(want).max()))
        chosen = np.take_along_axis(want, have.argmax(-1)[:, None], -1)[:, 0]
        same += int((chosen >= want.max(-1) - _TIE * largest).sum())
    half, most, nearly_all = np.quantile(rows, (0.5, 0.9, 0.99), method="lower").tolist()
    return Agreement(
        rows=len(rows),
        max_difference=max(rows),
        mean_difference=total / count,
        row_quantiles=(half, most, nearly_all),
        argmax=same / len(rows),
        largest=largest,
    )


def _weight_only_warnings(model: nn.Module) -> tuple[str, ...]:
    """What a stock session does to matrices whose weights alone are codes; `open_session` asks it not to."""
    found = [
        fqn.removeprefix("calls.").replace("/", ".")
        for fqn, module in model.named_modules()
        if isinstance(module, nn.Linear) and isinstance(module, GemmModule) and module.slots.filled.keys() == {"weight"}
    ]
    if not found:
        return ()
    return (
        f"a session of ONNX Runtime rounds the inputs of {len(found)} layers ({found[0]}, ...) to 8 bits by default: "
        f"to compute what the model does, set add_session_config_entry('{MATMUL_OPTION}', '0') on its SessionOptions",
    )


def _own_rounding(model: nn.Module, samples: Tensor) -> Agreement:
    """The module's outputs in float64 against those in float32."""
    wide = copy.deepcopy(model).double()

    def in_float64(batch: Tensor) -> Outputs:
        outputs: Outputs = wide(batch.double() if batch.is_floating_point() else batch).float().numpy()
        return outputs

    return agreement(lambda batch: model(batch).numpy(), in_float64, samples)


def _last_step(model: nn.Module, sample: Tensor) -> tuple[str, float | None]:
    """Name of the layer that quantizes its input last in the order of execution, and the scale of those codes."""
    last: list[tuple[str, float]] = []
    handles = []
    for fqn, module in model.named_modules():
        if isinstance(module, GemmModule) and isinstance(content := module.slots.input.quantizer, IntegerInput):
            found = (fqn.removeprefix("calls.").replace("/", "."), float(content.scale))
            handles.append(module.register_forward_hook(lambda *_args, found=found: last.append(found)))
    try:
        model(sample)
    finally:
        for handle in handles:
            handle.remove()
    return last[-1] if last else ("", None)
