"""What a layer costs in a given pair of formats: bytes of weights, bit operations, bytes of activations."""

from collections.abc import Mapping

from pennyweight.errors import MethodError
from pennyweight.methods.allocation.problem import Candidate
from pennyweight.nn.execution import Layer
from pennyweight.numerics.affine import Granularity, PerChannel, PerGroup

RESOURCES = ("size_bytes", "bops", "activation_bytes", "latency_ms")
_SCALE_BYTES = 4
_INPUT_PARAMETERS_BYTES = 8


def costs_of(
    layer: Layer,
    candidate: Candidate,
    granularity: Granularity,
    weight_shape: tuple[int, ...],
    *,
    has_bias: bool,
    latency_ms: float | None = None,
) -> dict[str, float]:
    """Costs of one layer.

    Args:
        layer: its sizes.
        weight_shape: output channels first.
        latency_ms: measured, where there is such a figure.

    Returns:
        "size_bytes": packed codes, float32 scales, float32 bias, scale and zero point of the input. "bops":
        multiply-accumulates times the bits of both operands, a sample (arXiv 1804.10969). "activation_bytes": the
        layer's input at its bits, a sample. "latency_ms" where given.
    """
    weight_bits, input_bits = candidate.bits
    size = -(-weight_bits * layer.weight_numel // 8)
    if candidate.weights is not None:
        size += _SCALE_BYTES * _num_scales(granularity, weight_shape)
    if candidate.activations is not None:
        size += _INPUT_PARAMETERS_BYTES
    size += 4 * weight_shape[0] if has_bias else 0
    costs = {
        "size_bytes": float(size),
        "bops": float(layer.macs * weight_bits * input_bits),
        "activation_bytes": layer.input_numel * input_bits / 8,
    }
    return costs if latency_ms is None else {**costs, "latency_ms": latency_ms}


def _num_scales(granularity: Granularity, weight_shape: tuple[int, ...]) -> int:
    if isinstance(granularity, PerChannel):
        return weight_shape[0]
    if isinstance(granularity, PerGroup):
        rows = 1
        for side in weight_shape[:-1]:
            rows *= side
        return rows * -(-weight_shape[-1] // granularity.group_size)
    return 1


def latency_of(table: Mapping[str, Mapping[str, float]], unit: str, candidate: Candidate) -> float:
    """A measured latency from the user's table: unit, then candidate, to milliseconds.

    Raises:
        MethodError: the table has no such entry, or it is no positive number.
    """
    value = table.get(unit, {}).get(str(candidate))
    if not isinstance(value, int | float) or not value >= 0:
        raise MethodError(f"the latency table says {value!r} for unit {unit!r} as {candidate}: give milliseconds")
    return float(value)
