"""`load_llama2c`: weights in llama2.c's first file format ("version 0") into our decoder. Nothing is unpickled."""

import math
import os
import struct
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from pennyweight.errors import CheckpointError, RecipeError
from pennyweight.models.decoder import Decoder

_HEADER = struct.Struct("<7i")
_LARGEST = 1 << 24  # of any size in the header: beyond it the file is something else


def load_llama2c(path: str | os.PathLike[str]) -> Decoder:
    """A decoder from a file of seven int32 sizes and then float32 weights, all little-endian.

    The sizes are width, hidden, depth, heads, kv_heads, vocabulary (negative: the head has a weight of its own) and
    length. The weights of one kind lie together, layer after layer; two tables of rotary angles, which we compute
    ourselves, lie unused near the end.

    Raises:
        CheckpointError: the file is missing, of another length than its header asks for, or not such a file.
    """
    file = Path(path).expanduser()
    try:
        data = file.read_bytes()
    except OSError as error:
        raise CheckpointError(f"checkpoint {file} cannot be read ({error.strerror})") from error
    if len(data) < _HEADER.size:
        raise CheckpointError(f"checkpoint {file} has {len(data)} bytes: it is truncated, or no llama2.c file")
    width, hidden, depth, heads, kv_heads, signed_vocabulary, length = _HEADER.unpack_from(data)
    vocab_size, tied = abs(signed_vocabulary), signed_vocabulary > 0
    sizes = (width, hidden, depth, heads, kv_heads, vocab_size, length)
    plausible = all(1 <= size <= _LARGEST for size in sizes) and width % heads == 0
    blocks = _blocks(width, hidden, depth, kv_heads * (width // heads), vocab_size) if plausible else {}
    unused = length * (width // heads) if plausible else 0
    numbers = sum(math.prod(shape) for shape in blocks.values()) + unused + (0 if tied else vocab_size * width)
    if not plausible or len(data) != _HEADER.size + 4 * numbers:
        raise CheckpointError(
            f"checkpoint {file} has {len(data)} bytes, its header of sizes {sizes} asks for "
            f"{_HEADER.size + 4 * numbers}: it is truncated, or no llama2.c file"
        )
    flat = torch.from_numpy(np.frombuffer(data, "<f4", offset=_HEADER.size).astype(np.float32))
    found, place = {}, 0
    for name, shape in blocks.items():
        found[name] = flat[place : place + math.prod(shape)].reshape(shape)
        place += math.prod(shape)
    head = found["embedding"] if tied else flat[place + unused :].reshape(vocab_size, width)
    try:
        model = Decoder(
            vocab_size=vocab_size,
            max_length=length,
            width=width,
            depth=depth,
            heads=heads,
            kv_heads=kv_heads,
            hidden=hidden,
            positions="rotary",
            norm_kind="rms",
            feed_forward="swiglu",
            bias=False,
            tied=tied,
        )
    except RecipeError as error:
        raise CheckpointError(f"checkpoint {file}: {error}") from error
    _fill(model, found, head)
    return model.eval()


def _blocks(width: int, hidden: int, depth: int, kv_width: int, vocab_size: int) -> dict[str, tuple[int, ...]]:
    """What the file holds before the rotary tables, in order; the names are those of a block's parts."""
    return {
        "embedding": (vocab_size, width),
        "attention_norm": (depth, width),
        "attention.query": (depth, width, width),
        "attention.key": (depth, kv_width, width),
        "attention.value": (depth, kv_width, width),
        "attention.output": (depth, width, width),
        "feed_forward_norm": (depth, width),
        "feed_forward.gate": (depth, hidden, width),
        "feed_forward.down": (depth, width, hidden),
        "feed_forward.up": (depth, hidden, width),
        "norm": (width,),
    }


@torch.no_grad()
def _fill(model: Decoder, found: dict[str, Tensor], head: Tensor) -> None:
    model.embedding.weight.copy_(found["embedding"])
    _weight(model.norm).copy_(found["norm"])
    model.head.weight.copy_(head)
    for name, weights in found.items():
        if name not in ("embedding", "norm"):
            for block, weight in zip(model.blocks, weights, strict=True):
                _weight(block.get_submodule(name)).copy_(weight)


def _weight(module: nn.Module) -> Tensor:
    assert isinstance(module.weight, Tensor)
    return module.weight
