"""ONNX Runtime on the CPU with fixed threads, and what its processor does to 8-bit products."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pennyweight.errors import ArtifactError, MissingDependencyError
from pennyweight.numerics.measure import machine

Outputs = NDArray[np.float32]
MATMUL_OPTION = "session.qdq_matmulnbits_accuracy_level"
"""Precision of the inputs of matrices whose weights alone are codes: "0" leaves them as they are."""


def onnxruntime_package() -> Any:
    """The onnxruntime package.

    Raises:
        MissingDependencyError: it is not installed.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingDependencyError("onnxruntime", "onnx", "run .onnx files") from error
    return onnxruntime


def open_session(model: str | Path | bytes, *, threads: int = 1) -> Any:
    """An inference session of ONNX Runtime's CPU provider.

    Args:
        model: a file, or its bytes.
        threads: within an operator; operators run one after the other.

    Raises:
        ArtifactError: the file is missing, or ONNX Runtime refuses it.
        MissingDependencyError: ONNX Runtime is not installed.
    """
    runtime = onnxruntime_package()
    if not isinstance(model, bytes) and not Path(model).is_file():
        raise ArtifactError(f"no file at {model}: make one with pennyweight.export_onnx(model, path, ...)")
    options = runtime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3  # errors: warnings are about its own optimiser
    # By default ONNX Runtime rounds the inputs of products with grouped weights to 8 bits, which no model asks for.
    options.add_session_config_entry(MATMUL_OPTION, "0")
    try:
        return runtime.InferenceSession(
            model if isinstance(model, bytes) else str(model), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # its exception classes share no base but this
        what = "the exported model" if isinstance(model, bytes) else model
        raise ArtifactError(
            f"ONNX Runtime {runtime.__version__} cannot load {what}: {str(error).strip()[:500]}"
        ) from error


def run(session: Any, batch: NDArray[Any]) -> Outputs:
    """The first output for a batch.

    Raises:
        ArtifactError: ONNX Runtime refuses it.
    """
    try:
        outputs = session.run(None, {session.get_inputs()[0].name: batch})[0]
    except Exception as error:  # ONNX Runtime's exceptions share no class
        raise ArtifactError(f"ONNX Runtime fails on a batch of shape {batch.shape}: {error}") from error
    return np.asarray(outputs)


def saturates() -> bool:
    """Whether this processor's products of uint8 and int8 can overflow the 16 bits two of them are summed in.

    x86 processors with AVX2 or AVX-512 but without VNNI add two products in 16 bits and saturate. A sum of a code up
    to 255 times a weight code beyond +-64 can reach that.
    """
    isa = set(machine()["isa"])
    return "avx2" in isa and not isa & {"avx_vnni", "avx512_vnni", "amx_int8"}
