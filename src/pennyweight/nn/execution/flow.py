"""The flow of values through a model as a plain graph, whoever found it, and the questions methods ask of it."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

Kind = Literal["input", "output", "layer", "norm", "relu", "add", "pass", "other"]

Step = Callable[[int], Sequence[int]]
"""From an operation's position to those of its neighbours in one direction."""


@dataclass(frozen=True)
class Op:
    """One operation.

    Args:
        kind: "layer" has weights, "norm" is a batch norm, "pass" hands its input on unchanged in evaluation mode.
        fqn: the module's name for layers and norms, else "".
        inputs: positions of the operations whose values it reads.
    """

    kind: Kind
    fqn: str
    inputs: tuple[int, ...]


class Flow:
    """Operations in order of execution.

    Args:
        ops: each reads only earlier ones.
        complete: whether every reader of every value is among them.
    """

    def __init__(self, ops: Sequence[Op], *, complete: bool) -> None:
        self.ops = list(ops)
        self.complete = complete
        self._readers: list[list[int]] = [[] for _ in self.ops]
        for position, op in enumerate(self.ops):
            for source in op.inputs:
                self._readers[source].append(position)

    def calls(self, fqn: str) -> list[int]:
        """Positions of a module's calls."""
        return [position for position, op in enumerate(self.ops) if op.fqn == fqn]

    def norms(self) -> list[tuple[str, str]]:
        """(layer, norm) pairs where the norm alone reads the layer's output and both run once."""
        pairs = []
        for position, op in enumerate(self.ops):
            if op.kind != "norm" or not op.inputs or len(self.calls(op.fqn)) != 1:
                continue
            source = op.inputs[0]
            layer = self.ops[source]
            alone = self._readers[source] == [position]
            if layer.kind == "layer" and alone and len(self.calls(layer.fqn)) == 1:
                pairs.append((layer.fqn, op.fqn))
        return pairs

    def rectified(self, fqn: str) -> bool:
        """Whether only ReLUs read the layer's output, behind norms and what passes values on."""
        readers = [reader for position in self.calls(fqn) for reader in self._effective_readers(position)]
        return self.complete and bool(readers) and all(self.ops[reader].kind == "relu" for reader in readers)

    def _effective_readers(self, position: int) -> Iterator[int]:
        for reader in self._readers[position]:
            if self.ops[reader].kind in ("norm", "pass"):
                yield from self._effective_readers(reader)
            else:
                yield reader

    def source(self, fqn: str) -> int | None:
        """Position of what the layer's first call reads, behind what passes values on; None where unknown."""
        position = self.calls(fqn)[0]
        while self.ops[position].inputs:
            position = self.ops[position].inputs[0]
            if self.ops[position].kind != "pass":
                return position
        return None

    def summed(self) -> list[set[str]]:
        """Groups of layers whose outputs end in one sum, transitively."""
        groups: list[set[str]] = []
        for position, op in enumerate(self.ops):
            if op.kind != "add":
                continue
            found = {self.ops[p].fqn for p in self._producers(position)}
            if len(op.inputs) > 1 and found:
                joined = [group for group in groups if group & found]
                groups = [group for group in groups if not group & found]
                groups.append(found.union(*joined))
        return [group for group in groups if len(group) > 1]

    def _producers(self, position: int) -> set[int]:
        """Layers whose values arrive here, behind sums and operations on single values."""
        return self._walk(position, lambda p: self.ops[p].inputs, through=("add", "norm", "relu", "pass"))

    def first(self) -> list[str]:
        """Layers that a model input reaches, and no other layer's value."""
        return self._edges("input", self._reads, self._is_read_by)

    def last(self) -> list[str]:
        """Layers whose values reach an output, and no other layer."""
        return self._edges("output", self._is_read_by, self._reads)

    def _reads(self, position: int) -> Sequence[int]:
        return self.ops[position].inputs

    def _is_read_by(self, position: int) -> Sequence[int]:
        return self._readers[position]

    def _edges(self, kind: Kind, outward: Step, inward: Step) -> list[str]:
        """Layers met on the way in from operations of a kind, with no layer on their own way out."""
        everything: tuple[Kind, ...] = ("add", "norm", "relu", "pass", "other")
        found: set[int] = set()
        for position, op in enumerate(self.ops):
            if op.kind == kind:
                found |= self._walk(position, inward, through=everything)
        outermost = (p for p in sorted(found) if not self._walk(p, outward, through=everything))
        return list(dict.fromkeys(self.ops[p].fqn for p in outermost))

    def _walk(self, start: int, step: Step, *, through: tuple[Kind, ...]) -> set[int]:
        """The first layers met on all ways from an operation."""
        seen: set[int] = set()
        found: set[int] = set()
        todo = list(step(start))
        while todo:
            position = todo.pop()
            if position in seen:
                continue
            seen.add(position)
            if self.ops[position].kind == "layer":
                found.add(position)
            elif self.ops[position].kind in through:
                todo.extend(step(position))
        return found
