"""Loading the C++ library by ctypes: signatures, the instruction-set paths it holds and their self-tests.

Nothing here knows tensors; `ops` checks its arguments and passes addresses.
"""

import ctypes
import functools
from dataclasses import dataclass
from pathlib import Path

from pennyweight.errors import KernelError

LIBRARY_FILE = Path(__file__).with_name("libpennyweight_cpu.so")

_int, _i64, _ptr, _text = ctypes.c_int, ctypes.c_int64, ctypes.c_void_p, ctypes.c_char_p
_SIGNATURES: dict[str, tuple[object, tuple[object, ...]]] = {
    "pw_path_name": (_text, (_int,)),
    "pw_path_supported": (_int, (_int,)),
    "pw_path_self_test": (_text, (_int,)),
    "pw_uses_team": (_int, ()),
    "pw_pack_signs": (_i64, (_int, _ptr, _i64, _i64, _ptr, _int)),
    "pw_find_padding": (_i64, (_ptr, _i64, _i64)),
    "pw_panels_bytes": (_i64, (_int, _i64, _i64)),
    "pw_pack_panels": (None, (_int, _ptr, _i64, _i64, _ptr, _int)),
    "pw_product": (None, (_int, _ptr, _i64, _i64, _ptr, _i64, _ptr, _int)),
    "pw_product_words": (None, (_int, _ptr, _i64, _i64, _ptr, _i64, _ptr, _int)),
    "pw_product_threshold": (None, (_int, _ptr, _i64, _i64, _ptr, _i64, _ptr, _ptr, _ptr, _int)),
    "pw_int8_panels_bytes": (_i64, (_int, _i64, _i64)),
    "pw_pack_int8_panels": (None, (_int, _ptr, _i64, _i64, _ptr, _int)),
    "pw_int8_product": (None, (_int, _ptr, _i64, _i64, _ptr, _i64, _ptr, _int)),
    "pw_accumulate": (None, (_int, _ptr, _i64, _i64, _ptr, _i64, _i64, _ptr, _i64, _ptr, _int)),
    "pw_pack_planes": (None, (_ptr, _i64, _i64, _int, _ptr, _ptr, _int)),
    "pw_quantize_planes": (
        _i64,
        (_int, _ptr, _i64, _i64, ctypes.c_float, _int, _int, _int, _int, _ptr, _ptr, _int),
    ),
    "pw_plane_product": (
        None,
        (_int, _ptr, _int, _ptr, _ptr, _i64, _i64, _ptr, _int, _ptr, _ptr, _i64, _ptr, _int),
    ),
    "pw_transposable": (None, (_int, _ptr, _i64, _i64, _i64, _int, _int, _int, _ptr, _int)),
    "pw_philox": (None, (ctypes.c_uint32, ctypes.c_uint32, _i64, _ptr, _int)),
    "pw_nm_mask": (_int, (_ptr, _i64, _i64, _i64, _i64, _int, _ptr, _int)),
    "pw_mvue": (_int, (_ptr, _i64, _i64, _i64, _i64, _int, ctypes.c_uint32, ctypes.c_uint32, _ptr, _int)),
    "pw_chain_create": (_ptr, (_int,)),
    "pw_chain_free": (None, (_ptr,)),
    "pw_chain_add": (None, (_ptr, _int, _ptr, _i64, _i64, _ptr, _ptr)),
    "pw_images_create": (_ptr, (_int,)),
    "pw_images_free": (None, (_ptr,)),
    "pw_images_add": (None, (_ptr, _ptr, _ptr, _ptr, _ptr, _ptr)),
    "pw_images_plan": (_ptr, (_ptr, _ptr)),
    "pw_images_run": (_i64, (_ptr, _ptr, ctypes.c_float, _i64, _int, _ptr, _int)),
    "pw_chain_run": (_i64, (_ptr, _ptr, _int, ctypes.c_float, _i64, _ptr, _int)),
}


@dataclass(frozen=True, kw_only=True)
class CompiledPath:
    """One instruction-set path compiled into the library."""

    name: str
    index: int
    supported: bool


@functools.cache
def library() -> ctypes.CDLL:
    """The loaded library; the same object for the life of the process.

    Raises:
        KernelError: the file is missing or does not load.
    """
    if not LIBRARY_FILE.exists():
        raise KernelError(
            f"the C++ library {LIBRARY_FILE.name} is not built beside {LIBRARY_FILE.parent.name}/library.py: install "
            "pennyweight with a C++ compiler present (pip install -e .), or use the reference backend"
        )
    try:
        loaded = ctypes.CDLL(str(LIBRARY_FILE))
        for name, (result, arguments) in _SIGNATURES.items():
            function = getattr(loaded, name)
            function.restype, function.argtypes = result, arguments
    except (OSError, AttributeError) as error:
        raise KernelError(
            f"the C++ library {LIBRARY_FILE.name} does not load ({error}): rebuild it with pip install -e ."
        ) from error
    return loaded


@functools.cache
def paths() -> tuple[CompiledPath, ...]:
    """The compiled paths, most preferred first; the portable one is last."""
    found = []
    index = 0
    while (name := library().pw_path_name(index)) is not None:
        found.append(CompiledPath(name=name.decode(), index=index, supported=bool(library().pw_path_supported(index))))
        index += 1
    return tuple(found)


@functools.cache
def self_test(path: CompiledPath) -> str | None:
    """What differs between a path and the portable one on this machine; None when nothing does. Runs once a process."""
    assert path.supported, path
    fault = library().pw_path_self_test(path.index)
    return None if fault is None else fault.decode()
