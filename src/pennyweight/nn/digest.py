"""A digest of a whole model: what it computes, not only its tensors."""

import hashlib
import inspect
import re
import types
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

_ADDRESS = re.compile(r"0x[0-9a-fA-F]+")
_PLAIN = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.Size)


def model_digest(model: nn.Module) -> str:
    """Of parameters, buffers and structure; equal in every process for equal models.

    Structure is each module's class, its `extra_repr`, its plain public attributes, the source of its forward and the
    code of graph modules: two nets of equal tensors that differ in an activation or a stride differ. What a forward
    reads elsewhere, such as a global, is not seen.

    Returns:
        32 hexadecimal digits.

    Example:
        >>> relu, gelu = (nn.Sequential(nn.Identity(), kind()) for kind in (nn.ReLU, nn.GELU))
        >>> model_digest(relu) == model_digest(gelu)
        False
    """
    digest = hashlib.blake2b(tensors_digest(model.state_dict()).encode(), digest_size=16)
    for fqn, module in model.named_modules(remove_duplicate=False):
        digest.update("\0".join((fqn, *_structure(module))).encode())
        digest.update(b"\1")
    return digest.hexdigest()


def tensors_digest(tensors: Mapping[str, Any]) -> str:
    """Of names, dtypes, shapes and bytes, in their order; what is no tensor is left out."""
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in tensors.items():
        if isinstance(tensor, Tensor):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _structure(module: nn.Module) -> list[str]:
    kind = type(module)
    if isinstance(module, fx.GraphModule):
        return ["graph", _ADDRESS.sub("", module.code)]
    settings = [
        f"{name}={_text(value)}"
        for name, value in sorted(vars(module).items())
        if not name.startswith("_") and name != "training" and _is_plain(value)
    ]
    return [f"{kind.__module__}.{kind.__qualname__}", _ADDRESS.sub("", module.extra_repr()), *settings, _source(module)]


def _is_plain(value: Any) -> bool:
    """Numbers, words, functions, and collections of these."""
    if isinstance(value, tuple | list | set | frozenset):
        return all(map(_is_plain, value))
    if isinstance(value, Mapping):
        return all(_is_plain(key) and _is_plain(item) for key, item in value.items())
    return isinstance(value, _PLAIN) or callable(value)


def _text(value: Any) -> str:
    """The same in every process: sets in order, functions by name, no addresses."""
    if isinstance(value, set | frozenset):
        return f"{{{', '.join(sorted(map(_text, value)))}}}"
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(_text, value))}]"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{_text(key)}: {_text(item)}' for key, item in value.items())}}}"
    if callable(value):
        name = f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', type(value).__qualname__)}"
        code = getattr(value, "__code__", None)  # all lambdas have one name
        return f"{name} {_bytecode(code)}" if isinstance(code, types.CodeType) else name
    return _ADDRESS.sub("", repr(value))


def _source(module: nn.Module) -> str:
    """The text of forward; its bytecode where there is no file, such as in a notebook's cell that is gone."""
    forward = vars(module).get("forward", type(module).forward)
    function = getattr(forward, "__func__", forward)
    try:
        return inspect.getsource(function)
    except (OSError, TypeError):
        code = getattr(function, "__code__", None)
        return _bytecode(code) if isinstance(code, types.CodeType) else ""


def _bytecode(code: types.CodeType) -> str:
    constants = [_bytecode(one) if isinstance(one, types.CodeType) else _text(one) for one in code.co_consts]
    return " ".join((code.co_code.hex(), *code.co_names, *constants))
