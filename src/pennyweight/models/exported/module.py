"""`ExportedModule`: a graph of calls with the layers it calls, whose copies keep everything."""

import copy
from typing import Any

from torch import fx


class ExportedModule(fx.GraphModule):
    """A `torch.fx.GraphModule` that a copy leaves as it is.

    torch's own takes into a copy only what the graph reads, and its state dict then has all buffers.
    """

    def __init__(self) -> None:
        super().__init__({}, fx.Graph(), class_name="ExportedModule")

    def __deepcopy__(self, memo: dict[int, Any]) -> "ExportedModule":
        """A copy with a class, and so a compiled forward, of its own, as torch's graph modules have."""
        copied: ExportedModule = type(self).__new__(type(self))
        memo[id(self)] = copied
        vars(copied).update(copy.deepcopy(vars(self), memo))
        copied.graph = copied._graph
        return copied
