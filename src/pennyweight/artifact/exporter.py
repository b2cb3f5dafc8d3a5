"""`export`: write a model as one packed file. Reading it back is `artifact.load`."""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pennyweight.artifact import manifest as container
from pennyweight.artifact import modules, program
from pennyweight.artifact.loaded import Artifact, load
from pennyweight.artifact.recurrent import with_gates
from pennyweight.errors import ArtifactError
from pennyweight.methods.base import applications
from pennyweight.nn.masking import fold_masks_
from pennyweight.nn.products import PRODUCTS
from pennyweight.nn.recurrent import slot_recurrent_
from pennyweight.numerics.checks import require_finite


def export(
    model: nn.Module,
    path: str | Path,
    *,
    example_input: Tensor | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> Artifact:
    """Write a model's graph, packed weights and the record of what was applied to it.

    The model itself is not changed; it is written as it computes in evaluation mode. Equal models give equal bytes.

    Args:
        path: the file; by custom it ends in ".pw". Replaced whole or not at all.
        example_input: a batch; when given, the file is loaded again and must give the same output, or nothing is kept.
        metadata: plain JSON values to carry along, such as seed and data set.

    Returns:
        The artifact, as `load` returns it.

    Raises:
        ArtifactError: the model cannot be traced or holds what an artifact cannot, the disk is full, or the loaded
            copy disagrees with the model.
        NumericsError: a weight is NaN or infinite; named with its place.

    Example:
        >>> import pennyweight as pw, tempfile, torch
        >>> model = pw.create_model("mlp")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     artifact = pw.export(model, folder + "/mlp.pw", example_input=torch.zeros(1, 1, 8, 8))
        >>> artifact.numerics
        'float32 executed'
    """
    path = Path(path)
    if example_input is not None:
        require_samples("example_input", example_input)
    frozen = fold_masks_(modules.named_throughout(copy.deepcopy(model).cpu().eval()))
    slot_recurrent_(frozen)
    input_name, steps, output = program.capture(frozen)
    named = dict(frozen.named_modules())
    require_exportable(named, steps)
    specs: dict[str, modules.Spec] = {}
    tensors: dict[str, Tensor] = {}
    called = {step["target"]: named[step["target"]] for step in steps if step["op"] == "module"}
    for target, module in with_gates(called).items():
        specs[target], stored = modules.encode(target, module)
        owner = next((other for other in specs if _tied(named[target], named[other])), target)
        tensors |= modules.tie(target, owner, specs, stored, tensors) if owner != target else stored
    content = {
        "input": input_name,
        "program": steps,
        "output": output,
        "modules": specs,
        "applied": [applied.to_dict() for applied in applications(model)],
        "metadata": dict(metadata or {}),
    }
    if example_input is None:
        container.write(path, content, tensors)
        return load(path)
    trial = path.with_name(path.name + ".trial")
    try:
        container.write(trial, content, tensors)
        _compare(frozen, load(trial), example_input.cpu())
        trial.replace(path)
    finally:
        trial.unlink(missing_ok=True)
    return load(path)


def _tied(module: nn.Module, other: nn.Module) -> bool:
    """Whether two modules share one weight."""
    weight = getattr(module, "weight", None)
    return isinstance(weight, Tensor) and weight is getattr(other, "weight", None)


def require_exportable(named: Mapping[str, nn.Module], steps: list[program.Step]) -> None:
    """Refuse what a program of steps would compute otherwise than the model: better no file than a wrong one."""
    called = {step["target"] for step in steps if step["op"] == "module"}
    for fqn, module in named.items():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is None:
            raise ArtifactError(
                f"{fqn!r} is a batch norm without running statistics, whose outputs depend on the rest of the batch: "
                f"train it with track_running_stats=True"
            )
        # Tracing sees a product written `a @ b` as the operator, past its quantizers.
        if type(module) in PRODUCTS.values() and fqn not in called:
            raise ArtifactError(
                f"the quantized product {fqn!r} is not in the traced model: write it as torch.matmul(a, b) or "
                f"scaled_dot_product_attention instead of `a @ b` or a method, or leave attention in float"
            )


def require_samples(name: str, inputs: Tensor) -> None:
    """Refuse what is no batch of inputs.

    Raises:
        ArtifactError: no tensor, or one without samples.
        NumericsError: a value is not finite.
    """
    if not isinstance(inputs, Tensor):
        raise ArtifactError(
            f"{name} is a {type(inputs).__name__}: one tensor of inputs, samples along its first dimension"
        )
    if inputs.dim() == 0 or len(inputs) == 0:
        raise ArtifactError(f"{name} of shape {tuple(inputs.shape)}: it needs at least one sample")
    if inputs.is_floating_point():
        require_finite(inputs, name)


@torch.inference_mode()
def _compare(model: nn.Module, artifact: Artifact, example_input: Tensor) -> None:
    _compare_outputs(model(example_input), artifact.model()(example_input))


def _compare_outputs(expected: Any, got: Any) -> None:
    """All tensors a model returns, alone or in tuples and mappings."""
    if isinstance(expected, Tensor):
        _compare_tensors(expected, got)
    elif isinstance(expected, Mapping):
        for name, value in expected.items():
            _compare_outputs(value, got[name])
    elif isinstance(expected, tuple | list):
        for value, other in zip(expected, got, strict=True):
            _compare_outputs(value, other)


def _compare_tensors(expected: Tensor, got: Tensor) -> None:
    if expected.shape != got.shape:
        raise ArtifactError(f"the exported model gives shape {tuple(got.shape)}, the original {tuple(expected.shape)}")
    error = float((expected - got).abs().max()) if expected.numel() else 0.0
    scale = float(expected.abs().max()) if expected.numel() else 1.0
    if not error <= 1e-5 * max(scale, 1.0):
        raise ArtifactError(
            f"the exported model differs from the original by {error:.3g} on the example input (outputs up to "
            f"{scale:.3g}): does its forward depend on training mode, random numbers or the batch?"
        )
