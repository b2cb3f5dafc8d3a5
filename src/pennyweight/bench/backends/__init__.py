"""What `mlperf` is handed: a model behind the referee's `Backend` protocol."""

from pennyweight.bench.backends.onnx_runtime import OnnxRuntimeBackend
from pennyweight.bench.backends.torch_module import TorchBackend

__all__ = ["OnnxRuntimeBackend", "TorchBackend"]
