"""`export_onnx`: write a model as one .onnx file that stock runtimes execute. Nothing of it is run by pennyweight."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor, nn

from pennyweight.artifact import manifest, modules, program
from pennyweight.artifact.exporter import require_exportable, require_samples
from pennyweight.artifact.onnx.container import serialize
from pennyweight.artifact.onnx.integer_biases import align_biases_
from pennyweight.artifact.onnx.quantizers import Deploy
from pennyweight.artifact.onnx.residuals import quantize_residuals
from pennyweight.artifact.onnx.translate import translate
from pennyweight.artifact.onnx.verify import Agreement, OnnxCheck, agreement, verify_onnx
from pennyweight.errors import ArtifactError
from pennyweight.methods.base import applications
from pennyweight.nn.accumulators import accumulator_slots
from pennyweight.nn.gemm import GemmModule
from pennyweight.nn.masking import fold_masks_
from pennyweight.numerics.checks import require_finite

OLDEST_OPSET, NEWEST_OPSET = 21, 23


@dataclass(frozen=True, kw_only=True)
class OnnxExport:
    """An .onnx file that was written.

    Args:
        path: the file.
        size_bytes: of the file.
        weight_bytes: of the tensors stored in it: codes, scales, zero points, biases.
        deploy: what it was written for.
        computed: the file's own computation as a torch module, for measuring what it differs in from the model.
        check: how ONNX Runtime's outputs met those of `computed`; None where that was not asked for.
        changed: how the outputs of `computed` met the model's: what rounded biases, and codes of residual sums,
            changed.
    """

    path: Path
    size_bytes: int
    weight_bytes: int
    deploy: Deploy
    computed: nn.Module = field(repr=False)
    check: OnnxCheck | None
    changed: Agreement


def export_onnx(
    model: nn.Module,
    path: str | Path,
    *,
    example_input: Tensor,
    deploy: Deploy = "speed",
    samples: Tensor | None = None,
    opset: int = 21,
    verify: bool = True,
    metadata: Mapping[str, Any] | None = None,
) -> OnnxExport:
    """Write a model as one .onnx file: codes as integers between QuantizeLinear and DequantizeLinear.

    Activations are uint8 codes; those below 8 bits are clipped to their codes, which saves no time. A layer that
    multiplies codes has its bias rounded to 32-bit steps of input scale times weight scale (see `align_biases_`),
    everything else computes as the module does, save what `deploy` says. The batch is free, all other sizes are those
    of the example.

    Args:
        model: as it computes in evaluation mode; it is not changed.
        path: the file; replaced whole or not at all.
        example_input: a batch, samples along the first dimension.
        deploy: "speed" stores all weights as int8, which ONNX Runtime multiplies as integers, and gives outputs of
            convolutions that go into sums or means, and these sums, 8-bit codes, with ranges from `samples`: without
            them a runtime executes these convolutions in float. In a residual net that is another net, whose accuracy
            must be measured: `OnnxExport.computed` is that net, `changed` how far it is from the model. "exact" stores
            int8 too but leaves sums in float32, as the module has them; residual nets are then slower than in float.
            "size" is "exact" with weights of at most 4 bits stored as int4: half the bytes, but convolutions then run
            in float, slower than with float weights (only MatMul has kernels for 4 bits).
        samples: inputs, some hundred, for ranges and for the check; None for the example.
        opset: of the ONNX operators, 21 to 23.
        verify: check that ONNX Runtime and `computed` agree on the samples.
        metadata: plain JSON values to carry along.

    Raises:
        ArtifactError: the model cannot be traced or holds what ONNX has no operators for (binary layers: use
            `pennyweight.export`), or ONNX Runtime's outputs differ by more than `OnnxCheck` allows; nothing is
            written then.
        MissingDependencyError: onnx or onnxruntime is not installed.

    Example:
        >>> import pennyweight as pw, tempfile, torch
        >>> model, x = pw.create_model("mlp"), torch.rand(4, 1, 8, 8)
        >>> applied = pw.apply_(model, pw.RoundToNearest(), data=[x])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     made = pw.export_onnx(model, folder + "/mlp.onnx", example_input=x)
        >>> made.check.passed
        True
    """
    if deploy not in get_args(Deploy):
        raise ArtifactError(f"deploy={deploy!r}: valid are {', '.join(map(repr, get_args(Deploy)))}")
    if not OLDEST_OPSET <= opset <= NEWEST_OPSET:
        raise ArtifactError(
            f"opset={opset}: valid are {OLDEST_OPSET} (the first with 4-bit integers) to {NEWEST_OPSET}"
        )
    for name, inputs in (("example_input", example_input), ("samples", samples)):
        if inputs is not None:
            require_samples(name, inputs)
    path = Path(path)
    original = fold_masks_(modules.named_throughout(copy.deepcopy(model).cpu().eval()))
    _require_float32(original, example_input)
    _require_plain_sums(original)
    samples = (example_input if samples is None else samples).cpu()
    aligned = copy.deepcopy(original)
    align_biases_(aligned)
    input_name, steps, output = program.capture(aligned)
    named = dict(aligned.named_modules())
    require_exportable(named, steps)
    called = {step["target"]: named[step["target"]] for step in steps if step["op"] == "module"}
    if deploy == "speed":
        steps, output, called = quantize_residuals(input_name, steps, output, called, samples)
    graph, entering, leaving = translate(input_name, steps, output, called, example_input.cpu(), deploy)
    data = serialize(
        graph,
        entering,
        leaving,
        input_type=str(example_input.dtype).removeprefix("torch."),
        opset=opset,
        metadata={
            "deploy": deploy,
            "numerics": numerics(aligned),
            "applied": [applied.to_dict() for applied in applications(model)],
            "metadata": dict(metadata or {}),
        },
    )
    computed = program.Program(input_name, steps, output, called).eval()
    check = None
    if verify:
        check = verify_onnx(computed, data, samples)
        _require_agreement(check)
    manifest.replace_file(path, data)
    return OnnxExport(
        path=path,
        size_bytes=len(data),
        weight_bytes=sum(initializer.size_bytes for initializer in graph.initializers.values()),
        deploy=deploy,
        computed=computed,
        check=check,
        changed=agreement(lambda batch: original(batch).numpy(), lambda batch: computed(batch).numpy(), samples),
    )


def _require_float32(model: nn.Module, example_input: Tensor) -> None:
    if example_input.dtype not in (torch.float32, torch.int64):
        raise ArtifactError(f"example_input is {example_input.dtype}: an .onnx file takes float32, or int64 for tokens")
    for name, tensor in model.state_dict().items():
        require_finite(tensor, name)
        if tensor.is_floating_point() and tensor.dtype != torch.float32:
            raise ArtifactError(f"{name!r} is {tensor.dtype}: call model.float() before, .onnx files are float32")


def _require_plain_sums(model: nn.Module) -> None:
    for name, slots in accumulator_slots(model).items():
        if slots.accumulator is not None:
            raise ArtifactError(
                f"{name!r} sums in an accumulator of few bits, for which ONNX has no operator: pennyweight.export "
                f"writes a packed artifact"
            )


def _require_agreement(check: OnnxCheck) -> None:
    if not check.passed:
        of = f"activation steps of {check.step_of!r}" if check.step_of else "times 1e-4 of the largest output"
        own = "" if check.own_rounding_steps is None else f" (float64 in its place by {check.own_rounding_steps:.3g})"
        raise ArtifactError(
            f"ONNX Runtime differs from the module by {check.typical_steps:.3g} {of} in a typical row{own}, at most by "
            f"{check.steps:.3g}, and gives the same answer in {100 * check.agreement.argmax:.2f} % of "
            f"{check.agreement.rows} rows{': ' if check.warnings else ''}{'; '.join(check.warnings)}; verify=False "
            f"writes the file all the same"
        )


def numerics(model: nn.Module) -> str:
    """Formats of the weighted layers in a few words, as an artifact has them."""
    formats = set()
    for module in model.modules():
        if isinstance(module, GemmModule):
            parts = [
                f"{letter} {getattr(chain.quantizer, 'format', 'float32')}"
                for letter, chain in (("W", module.slots.weight), ("A", module.slots.input))
            ]
            formats.add(", ".join(parts))
    return "; ".join(sorted(formats)) or "float32"
