"""How each kind of module is written into an artifact and built again: two tables, no code in the file.

Weighted layers store their weights as packed codes of their slot's format; every other module stores plain settings.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from pennyweight.artifact import grids
from pennyweight.artifact.accumulators import decode_accumulator, encode_accumulator
from pennyweight.artifact.recurrent import MOST_LAYERS, RECURRENT
from pennyweight.errors import ArtifactError
from pennyweight.nn.embedding import SlottedEmbedding
from pennyweight.nn.gemm import GemmConv1d, GemmConv2d, GemmConv3d, GemmLinear, GemmModule
from pennyweight.nn.masked_hardtanh import MaskedHardtanh
from pennyweight.nn.normalization import GHOST_OF
from pennyweight.nn.positions import LearnedPositions, RotaryPositions
from pennyweight.nn.products import PRODUCTS
from pennyweight.nn.quantized_batchnorm import QuantizedBatchNorm1d, QuantizedBatchNorm2d
from pennyweight.nn.range_batchnorm import RANGE_OF
from pennyweight.nn.shift_batchnorm import ShiftBatchNorm1d, ShiftBatchNorm2d
from pennyweight.nn.slots.binary import BinaryInput, BinaryWeight
from pennyweight.nn.slots.blocks import BlockScaled
from pennyweight.nn.slots.bounded_weight import BoundedWeight
from pennyweight.nn.slots.chain import SlotChain, SlotContent
from pennyweight.nn.slots.clipped import ClippedInput, ClippedWeight
from pennyweight.nn.slots.exact_integer import BlockedProduct
from pennyweight.nn.slots.integer import IntegerInput, IntegerWeight, RunningInput
from pennyweight.nn.slots.measured import MeasuredInput, MeasuredWeight
from pennyweight.nn.slots.stored import StoredCodes
from pennyweight.nn.summed_product import SummedProduct
from pennyweight.numerics.affine import (
    AffineParameters,
    PerChannel,
    PerGroup,
    PerTensor,
    dequantize,
    expand,
    parameter_shape,
    parse_granularity,
    quantize,
)
from pennyweight.numerics.checks import require_finite
from pennyweight.numerics.formats import IntFormat, parse_format
from pennyweight.numerics.packing import pack_bits, pack_signs, unpack_bits, unpack_signs

Spec = dict[str, Any]
Tensors = dict[str, Tensor]

_LINEAR = ("in_features", "out_features")
_CONV = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups", "padding_mode")
WEIGHTED: dict[str, tuple[type[nn.Module], tuple[str, ...]]] = {
    "linear": (GemmLinear, _LINEAR),
    "conv1d": (GemmConv1d, _CONV),
    "conv2d": (GemmConv2d, _CONV),
    "conv3d": (GemmConv3d, _CONV),
    "embedding": (SlottedEmbedding, ("num_embeddings", "embedding_dim", "padding_idx")),
}
_BATCH_NORM = ("num_features", "eps", "momentum", "affine", "track_running_stats")
PLAIN: dict[str, tuple[type[nn.Module], tuple[str, ...]]] = {
    "adaptive_avg_pool1d": (nn.AdaptiveAvgPool1d, ("output_size",)),
    "adaptive_avg_pool2d": (nn.AdaptiveAvgPool2d, ("output_size",)),
    "avg_pool2d": (nn.AvgPool2d, ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad")),
    "batch_norm1d": (nn.BatchNorm1d, _BATCH_NORM),
    "batch_norm2d": (nn.BatchNorm2d, _BATCH_NORM),
    "batch_norm3d": (nn.BatchNorm3d, _BATCH_NORM),
    "dropout": (nn.Dropout, ("p",)),
    "flatten": (nn.Flatten, ("start_dim", "end_dim")),
    "gelu": (nn.GELU, ("approximate",)),
    "group_norm": (nn.GroupNorm, ("num_groups", "num_channels", "eps", "affine")),
    "hardswish": (nn.Hardswish, ()),
    "hardtanh": (nn.Hardtanh, ("min_val", "max_val")),
    "identity": (nn.Identity, ()),
    "layer_norm": (nn.LayerNorm, ("normalized_shape", "eps", "elementwise_affine")),
    "leaky_relu": (nn.LeakyReLU, ("negative_slope",)),
    "learned_positions": (LearnedPositions, ("max_length", "width")),
    "max_pool1d": (nn.MaxPool1d, ("kernel_size", "stride", "padding", "dilation", "ceil_mode")),
    "max_pool2d": (nn.MaxPool2d, ("kernel_size", "stride", "padding", "dilation", "ceil_mode")),
    "quantized_batch_norm1d": (QuantizedBatchNorm1d, (*_BATCH_NORM, "bits")),
    "quantized_batch_norm2d": (QuantizedBatchNorm2d, (*_BATCH_NORM, "bits")),
    "relu": (nn.ReLU, ()),
    "relu6": (nn.ReLU6, ()),
    "rms_norm": (nn.RMSNorm, ("normalized_shape", "eps", "elementwise_affine")),
    "rotary_positions": (RotaryPositions, ("head_dim", "max_length", "base")),
    "shift_batch_norm1d": (ShiftBatchNorm1d, _BATCH_NORM),
    "shift_batch_norm2d": (ShiftBatchNorm2d, _BATCH_NORM),
    "sigmoid": (nn.Sigmoid, ()),
    "silu": (nn.SiLU, ()),
    "softmax": (nn.Softmax, ("dim",)),
    "tanh": (nn.Tanh, ()),
    "zero_pad1d": (nn.ZeroPad1d, ("padding",)),
    "zero_pad2d": (nn.ZeroPad2d, ("padding",)),
    **{name: (product, ()) for name, product in PRODUCTS.items()},
}
KINDS = WEIGHTED | PLAIN | RECURRENT
_FLOATS = {"float64": 64, "float32": 32, "float16": 16, "bfloat16": 16}
# Layers that differ from torch's only while training are written as torch's.
_WRITTEN_AS: dict[type[nn.Module], type[nn.Module]] = {
    **{ghost: plain for plain, ghost in (*GHOST_OF.items(), *RANGE_OF.items())},
    nn.Linear: GemmLinear,
    nn.Conv1d: GemmConv1d,
    nn.Conv2d: GemmConv2d,
    nn.Conv3d: GemmConv3d,
    nn.Embedding: SlottedEmbedding,
    MaskedHardtanh: nn.Hardtanh,
    **dict.fromkeys((nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout), nn.Dropout),
}
_KINDS = {kind: name for name, (kind, _) in KINDS.items()}


def named_throughout(model: nn.Module) -> nn.Module:
    """The model, or a bare layer in a container: steps call modules by name, and a lone layer has none."""
    is_bare = isinstance(model, nn.RNNBase | nn.RNNCellBase) or _WRITTEN_AS.get(type(model), type(model)) in _KINDS
    return nn.Sequential(model) if is_bare else model


def kind_of(fqn: str, module: nn.Module) -> str:
    """The module's name in the tables.

    Raises:
        ArtifactError: it is in neither.
    """
    kind = _KINDS.get(_WRITTEN_AS.get(type(module), type(module)))
    if kind is None:
        raise ArtifactError(
            f"module {fqn!r} is a {type(module).__name__}, which an artifact cannot hold; it can hold "
            f"{', '.join(sorted(_KINDS.values()))}, and any module made of these whose forward can be traced"
        )
    return kind


def encode(fqn: str, module: nn.Module) -> tuple[Spec, Tensors]:
    """A module as plain data and named tensors.

    Raises:
        ArtifactError: its kind is in neither table, or a slot holds something an artifact cannot express.
        NumericsError: one of its tensors is not finite.
    """
    kind = kind_of(fqn, module)
    for name, tensor in module.state_dict().items():
        require_finite(tensor, f"{fqn}.{name}")
    _, attributes = KINDS[kind]
    spec: Spec = {"kind": kind, "settings": {name: plain(getattr(module, name)) for name in attributes}}
    if kind in RECURRENT:  # its gates are written as modules of their own
        return spec, {}
    if kind in PRODUCTS:
        spec |= _operands(module) | _product_accumulators(module)
        return spec, {f"{fqn}.{name}": t for name, t in _operand_tensors(module).items()}
    if kind not in WEIGHTED:
        _require_measured(fqn, module)
        state = {name: tensor for name, tensor in module.state_dict().items() if name != "gain"}  # of training alone
        return spec, {f"{fqn}.{name}": tensor for name, tensor in state.items()}
    tensors: Tensors = {}
    if kind != "embedding":
        spec["settings"]["bias"] = module.bias is not None
        if isinstance(module.bias, Tensor):
            tensors[f"{fqn}.bias"] = module.bias.detach()
    assert isinstance(module.weight, Tensor)
    _require_measured(fqn, module)
    weight_content, input_content = contents(fqn, module)
    spec["weight"], stored = _encode_weight(weight_content, module.weight.detach())
    tensors |= {f"{fqn}.{name}": tensor for name, tensor in stored.items()}
    if input_content is not None:
        spec["input"], stored = _encode_input(input_content)
        tensors |= {f"{fqn}.{name}": tensor for name, tensor in stored.items()}
    if isinstance(module, GemmModule) and module.slots.accumulator is not None:
        spec["accumulator"] = encode_accumulator(module.slots.accumulator)
    if isinstance(module, GemmModule) and module.slots.backend is not None:
        spec["exact"] = True  # the one backend that `contents` lets pass
    return spec, tensors


def tie(fqn: str, owner: str, specs: Mapping[str, Spec], stored: Tensors, tensors: Tensors) -> Tensors:
    """Store a weight that two modules share once, where both write it alike.

    Args:
        fqn: the module written now; its spec then names the owner.
        owner: the module that was written before and holds the same weight.
        specs: of both modules.
        stored: tensors of the module written now.
        tensors: all tensors written before.

    Returns:
        The tensors that remain to be stored for the module.
    """
    weights = {name: tensor for name, tensor in stored.items() if name.startswith(f"{fqn}.weight")}
    same = {name: tensors.get(owner + name.removeprefix(fqn)) for name in weights}
    if specs[fqn].get("weight") != specs[owner].get("weight") or any(
        (twin := same[name]) is None or not torch.equal(twin, tensor) for name, tensor in weights.items()
    ):
        return {name: tensor.clone() for name, tensor in stored.items()}  # a file holds no two names of one memory
    specs[fqn]["tied_to"] = owner
    return {name: tensor for name, tensor in stored.items() if name not in weights}


def decode(fqn: str, spec: Spec, tensors: Mapping[str, Tensor]) -> nn.Module:
    """The module an `encode` wrote, in evaluation mode.

    Raises:
        ArtifactError: the kind is unknown, settings are wrong, or a tensor is missing or of the wrong shape.
    """
    own = {name[len(fqn) + 1 :]: tensor for name, tensor in tensors.items() if name.startswith(f"{fqn}.")}
    owner = f"{spec.get('tied_to', fqn)}."
    own |= {name[len(owner) :]: tensor for name, tensor in tensors.items() if name.startswith(f"{owner}weight")}
    try:
        kind, attributes = KINDS[spec["kind"]]
        settings = {name: unplain(spec["settings"][name]) for name in attributes}
        weighted = spec["kind"] in WEIGHTED
        assert settings.get("num_layers", 1) <= MOST_LAYERS, f"{settings['num_layers']} layers"
        has_bias = weighted and spec["kind"] != "embedding"
        # On the meta device: a file's settings allocate nothing, only its tensors do, once their shapes fit.
        with torch.device("meta"):
            module = kind(**settings, **({"bias": spec["settings"]["bias"]} if has_bias else {}))
        if weighted:
            _decode_weighted(module, spec, own)
        elif spec["kind"] in PRODUCTS:
            _decode_product(module, spec, own)
        elif spec["kind"] not in RECURRENT:
            module.load_state_dict(own, assign=True)
    except (KeyError, TypeError, RuntimeError, ValueError, AssertionError) as error:
        raise ArtifactError(f"module {fqn!r} of the artifact cannot be built ({error}): export it again") from error
    return module.eval()


def plain(value: Any) -> Any:
    return {"tuple": [plain(item) for item in value]} if isinstance(value, tuple) else value


def unplain(value: Any) -> Any:
    return tuple(unplain(item) for item in value["tuple"]) if isinstance(value, dict) else value


def contents(fqn: str, module: nn.Module) -> tuple[SlotContent | None, SlotContent | None]:
    """The quantizers of weight and input; gradient slots play no part in inference."""
    if not isinstance(module, GemmModule | SlottedEmbedding):
        return None, None
    odd: list[str] = [] if isinstance(module.slots.backend, BlockedProduct | None) else ["backend"]
    for slot in ("weight", "input"):
        odd += [f"{slot}.{stage}" for stage in getattr(module.slots, slot) if stage != "quantize"]
    if odd:
        raise ArtifactError(f"layer {fqn!r} fills {', '.join(odd)}, which an artifact cannot express")
    return module.slots.weight.quantizer, module.slots.input.quantizer


def _require_measured(fqn: str, module: nn.Module) -> None:
    if any(isinstance(content, MeasuredInput) and content.frozen() is None for content in module.modules()):
        raise ArtifactError(
            f"the input range of {fqn!r} was never measured: train the model, or give apply_ calibration data"
        )


def _encode_weight(content: SlotContent | None, weight: Tensor) -> tuple[Spec, Tensors]:
    if content is None:
        return {"format": str(weight.dtype).removeprefix("torch.")}, {"weight": weight}
    if isinstance(content, BinaryWeight):
        return {"format": "binary"}, {"weight.signs": pack_signs(weight.reshape(weight.shape[0], -1))}
    if isinstance(content, ClippedWeight | BlockScaled) and grids.is_grid(content.format):
        return grids.encode_weight(content, weight)
    if isinstance(content, MeasuredWeight):
        content = content.frozen(weight)
    if isinstance(content, ClippedWeight):
        content = content.frozen()
    if isinstance(content, BoundedWeight):
        codes = content.codes(weight)[0].to(torch.int64) - content.format.min
        spec = {"format": str(content.format), "granularity": str(PerChannel())}
        return spec, {"weight.codes": pack_bits(codes, content.format.bits), "weight.scale": content.scale}
    if isinstance(content, IntegerWeight):
        codes = quantize(weight, content.affine).to(torch.int64) - content.format.min
        spec = {"format": str(content.format), "granularity": str(content.granularity)}
        tensors = {"weight.codes": pack_bits(codes, content.format.bits), "weight.scale": content.scale}
        if bool(content.zero_point.any()):  # symmetric codes have none, and a byte saved a group is a byte saved
            tensors["weight.zero_point"] = content.zero_point.to(torch.int32)
        return spec, tensors
    raise ArtifactError(f"weights quantized by {type(content).__name__} cannot be exported")


def _encode_input(content: SlotContent | None) -> tuple[Spec, Tensors]:
    if isinstance(content, BinaryInput):
        return {"format": "binary"}, {}
    if isinstance(content, RunningInput):
        return {"format": str(content.format), "range": "running"}, {"input.absmax": content.absmax}
    if isinstance(content, ClippedInput | BlockScaled) and grids.is_grid(content.format):
        return grids.encode_input(content), {}
    if isinstance(content, MeasuredInput | ClippedInput):
        content = content.frozen()
    if isinstance(content, IntegerInput):
        tensors = {"input.scale": content.scale, "input.zero_point": content.zero_point.to(torch.int32)}
        return {"format": str(content.format), "range": "calibrated"}, tensors
    raise ArtifactError(f"activations quantized by {type(content).__name__} cannot be exported")


def _decode_weighted(module: nn.Module, spec: Spec, own: Mapping[str, Tensor]) -> None:
    assert isinstance(module, GemmModule | SlottedEmbedding)
    weight, content = _decode_weight(spec["weight"], own, module.weight.shape)
    assert weight.shape == module.weight.shape, f"weight of shape {tuple(weight.shape)}"
    module.weight = nn.Parameter(weight, requires_grad=False)
    if isinstance(module, GemmModule) and module.bias is not None:
        assert own["bias"].shape == module.bias.shape, f"bias of shape {tuple(own['bias'].shape)}"
        module.bias = nn.Parameter(own["bias"], requires_grad=False)
    if content is not None:
        module.slots.fill("weight", content)
    if "input" in spec:
        module.slots.fill("input", _decode_input(spec["input"], own))
    if "accumulator" in spec:
        module.slots.fill("accumulator", decode_accumulator(spec["accumulator"]))
    if spec.get("exact"):
        inputs, weights = (parse_format(spec[side]["format"]) for side in ("input", "weight"))
        assert isinstance(inputs, IntFormat), f"exact sums of {inputs}"
        assert isinstance(weights, IntFormat), f"exact sums of {weights}"
        module.slots.fill("backend", BlockedProduct(inputs, weights))


def _quantizers(product: nn.Module) -> dict[str, SlotContent]:
    chains = {name: chain for name, chain in product.named_children() if isinstance(chain, SlotChain)}
    return {name: chain.quantizer for name, chain in chains.items() if chain.quantizer is not None}


def _operands(product: nn.Module) -> Spec:
    return {"operands": {name: _encode_input(content)[0] for name, content in _quantizers(product).items()}}


def _operand_tensors(product: nn.Module) -> Tensors:
    encoded = {name: _encode_input(content)[1] for name, content in _quantizers(product).items()}
    return {f"{name}.{key}": tensor for name, tensors in encoded.items() for key, tensor in tensors.items()}


def _product_accumulators(product: nn.Module) -> Spec:
    sums = {name: child for name, child in product.named_children() if isinstance(child, SummedProduct)}
    found = {name: encode_accumulator(s.accumulator) for name, s in sums.items() if s.accumulator is not None}
    return {"accumulators": found} if found else {}


def _decode_product(product: nn.Module, spec: Spec, own: Mapping[str, Tensor]) -> None:
    for name, accumulator in spec.get("accumulators", {}).items():
        summed = dict(product.named_children())[name]
        assert isinstance(summed, SummedProduct), name
        summed.accumulator = decode_accumulator(accumulator)
    for name, operand in spec["operands"].items():
        chain = dict(product.named_children())[name]
        assert isinstance(chain, SlotChain)
        tensors = {key.removeprefix(f"{name}."): tensor for key, tensor in own.items() if key.startswith(f"{name}.")}
        chain.fill(_decode_input(operand, tensors), name)


def _decode_weight(spec: Spec, own: Mapping[str, Tensor], shape: torch.Size) -> tuple[Tensor, SlotContent | None]:
    """The weight as the layer shall hold it: values, or codes with what says their scale."""
    if spec["format"] in _FLOATS:
        return own["weight"], None
    if spec["format"] == "binary":
        return unpack_signs(own["weight.signs"], shape[1:].numel()).reshape(shape), StoredCodes(None)
    format = parse_format(spec["format"])
    if grids.is_grid(format):
        return grids.decode_weight(spec, format, own, shape), StoredCodes(None)
    assert isinstance(format, IntFormat), f"weight format {format}"
    codes = unpack_bits(own["weight.codes"], format.bits, shape.numel()).to(torch.int64) + format.min
    codes = codes.reshape(shape)
    scale = own["weight.scale"]
    zero_point = own["weight.zero_point"].float() if "weight.zero_point" in own else torch.zeros_like(scale)
    granularity = parse_granularity(spec["granularity"])
    expected = parameter_shape(torch.empty(shape, device="meta"), granularity)
    assert scale.shape == zero_point.shape == expected, f"scales of shape {tuple(scale.shape)}"
    if isinstance(granularity, PerGroup):  # a scale that changes along the sum cannot be taken out of it
        return dequantize(codes, AffineParameters(scale, zero_point, format, granularity)), StoredCodes(None)
    return codes - expand(zero_point, codes, granularity), StoredCodes(scale)


def _decode_input(spec: Spec, own: Mapping[str, Tensor]) -> SlotContent:
    format = parse_format(spec["format"])
    if str(format) == "binary":
        return BinaryInput()
    if grids.is_grid(format):
        return grids.decode_input(spec, format)
    assert isinstance(format, IntFormat), f"input format {format}"
    if spec["range"] == "running":
        content = RunningInput(format)
        content.absmax.copy_(own["input.absmax"])
        return content
    zero_point = own["input.zero_point"].float()
    return IntegerInput(AffineParameters(own["input.scale"], zero_point, format, PerTensor()))


def weight_bits(format: str) -> int:
    """Bits a stored weight takes in a format of `encode`."""
    return _FLOATS[format] if format in _FLOATS else parse_format(format).bits
