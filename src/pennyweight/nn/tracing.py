"""A model as a graph of module calls, by torch.fx."""

from torch import fx, nn

from pennyweight.errors import MethodError


class LeafTracer(fx.Tracer):
    """Traces a model down to torch's and our layers, which stay whole."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Our own modules are leaves like torch's."""
        return m.__module__.startswith("pennyweight.nn.") or super().is_leaf_module(m, module_qualified_name)


def trace(model: nn.Module) -> fx.Graph:
    """The model's graph of module calls.

    Raises:
        MethodError: the forward function branches on tensor values, so that there is no single graph.
    """
    try:
        return LeafTracer().trace(model)
    except Exception as error:  # whatever a forward raises when it is handed symbols
        reason = " ".join(str(error).split())[:200]
        raise MethodError(
            f"{type(model).__name__} cannot be traced ({reason}): its forward function branches on tensor values or "
            f"sizes, or returns an object; move the branch into a module of its own or write it with torch functions, "
            f"and return tensors"
        ) from error
