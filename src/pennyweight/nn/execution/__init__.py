"""In which order a model runs its weighted layers, how large they are, and what reads what."""

from pennyweight.nn.execution.execute import Execution, Layer, Level, execution_of

__all__ = ["Execution", "Layer", "Level", "execution_of"]
