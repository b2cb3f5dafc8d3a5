"""Files for stock runtimes: a model as ONNX with its codes as integers, and the proof that ONNX Runtime agrees."""

from pennyweight.artifact.onnx.container import read_metadata
from pennyweight.artifact.onnx.exporter import OnnxExport, export_onnx
from pennyweight.artifact.onnx.integer_biases import align_biases_
from pennyweight.artifact.onnx.quantizers import Deploy
from pennyweight.artifact.onnx.session import open_session, run
from pennyweight.artifact.onnx.verify import Agreement, OnnxCheck, verify_onnx

__all__ = [
    "Agreement",
    "Deploy",
    "OnnxCheck",
    "OnnxExport",
    "align_biases_",
    "export_onnx",
    "open_session",
    "read_metadata",
    "run",
    "verify_onnx",
]
