"""`SlottedEmbedding`: torch's embedding with a weight slot. A table has no product, so it has no other slot."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from pennyweight.errors import MethodError
from pennyweight.nn.slots.chain import GemmSlots


class EmbeddingSlots(GemmSlots):
    """The slots of a table: only the weight's can be filled."""

    def fill(self, slot: str, content: nn.Module) -> None:
        """Fill the weight slot.

        Raises:
            MethodError: another slot is asked for, or the stage is taken.
        """
        if slot != "weight":
            raise MethodError(
                f"an embedding has no slot {slot!r}, only 'weight': what enters it are indices; exclude it by name"
            )
        super().fill(slot, content)


class SlottedEmbedding(nn.Embedding):
    """`torch.nn.Embedding` with a weight slot; same state-dict keys, shapes and initialisation.

    The rows of the table are to it what output channels are to a linear layer: one scale a row, or one a group of
    values within a row.

    Cost: the slot rounds the whole table in each forward; an artifact stores the codes and only looks them up.
    """

    slots: EmbeddingSlots

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.slots = EmbeddingSlots()

    @classmethod
    def from_module(cls, module: nn.Embedding) -> "SlottedEmbedding":
        """The same table with an empty slot; parameters, hooks and mode are shared with the original."""
        layer = cls.__new__(cls)
        for key, value in module.__dict__.items():
            layer.__dict__[key] = value.copy() if isinstance(value, dict) else value
        layer.slots = EmbeddingSlots()
        layer.slots.train(module.training)
        return layer

    def forward(self, input: Tensor) -> Tensor:
        """Indices (...) -> rows (..., embedding_dim)."""
        if not self.slots.filled:
            return super().forward(input)
        codes, scale = self.slots.weight.codes(self.weight)
        rows = F.embedding(input, codes, self.padding_idx, scale_grad_by_freq=self.scale_grad_by_freq)
        if scale is None:
            return rows
        return rows * (scale[input].unsqueeze(-1) if scale.numel() > 1 else scale)

    def project_(self) -> None:
        """Let the slot's contents project the latent weights."""
        assert isinstance(self.weight, nn.Parameter)
        for content in self.slots.weight.contents():
            content.project_(self.weight)


def as_slotted(module: nn.Module) -> SlottedEmbedding:
    """The module itself when it has a slot already, else its twin with an empty one, sharing the table.

    Raises:
        MethodError: a subclass with behaviour of its own, or a table that changes its rows when they are looked up.
    """
    if isinstance(module, SlottedEmbedding):
        return module
    if type(module) is not nn.Embedding:
        raise MethodError(
            f"cannot give a slot to {type(module).__module__}.{type(module).__qualname__}: only torch's own Embedding "
            f"is replaced, a subclass would lose what it adds; exclude it by name"
        )
    if module.max_norm is not None:
        raise MethodError(
            f"an embedding with max_norm={module.max_norm} rewrites its rows when they are read, which rounded rows "
            f"cannot bear: renormalise the table once, set max_norm=None, or exclude it by name"
        )
    return SlottedEmbedding.from_module(module)
