"""`GhostBatchNorm`: the shortest method, and the pattern for those that swap whole modules."""

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from pennyweight.errors import MethodError
from pennyweight.methods.base import Applied, Context, Method, Paper
from pennyweight.nn.normalization import GHOST_OF, GhostStatistics
from pennyweight.nn.surgery import match, swap_modules_


@dataclass(frozen=True, kw_only=True)
class GhostBatchNorm(Method):
    """Normalise each small ghost batch of a large batch by its own statistics.

    What: every batch norm computes mean and variance over groups of `ghost_batch_size` consecutive samples while
    training; evaluation is unchanged. State-dict keys, parameters and buffers stay those of the batch norm.

    When to use: training with batches of many hundreds or thousands of samples. Below about twice the ghost size it
    changes nothing.

    Claim: narrows the generalisation gap of large batches without more updates (arXiv 1705.08741).

    Caveats: noisier statistics can cost accuracy on batches that are small already. Under data parallelism groups are
    formed on each rank.

    Source: arXiv 1705.08741, section 4.

    Args:
        ghost_batch_size: samples a group, at least 1.
        statistics: how running statistics move, see `nn.normalization.ghost_batch_norm`.
    """

    ghost_batch_size: int = 32
    statistics: GhostStatistics = "average"

    targets: ClassVar[tuple[type[nn.Module], ...]] = tuple(GHOST_OF)
    touches: ClassVar[frozenset[str]] = frozenset({"norm"})
    paper: ClassVar[Paper] = Paper("1705.08741", "Train longer, generalize better", 2017)

    def __post_init__(self) -> None:
        """Check the settings."""
        super().__post_init__()
        if self.ghost_batch_size < 1:
            raise MethodError(f"ghost_batch_size={self.ghost_batch_size}: a ghost batch holds at least 1 sample")

    def _apply(self, model: nn.Module, context: Context) -> Applied:
        swaps: dict[str, nn.Module] = {}
        skipped: dict[str, str] = {}
        for fqn, norm in match(model, self.include, self.exclude, self.targets).items():
            kind = GHOST_OF.get(type(norm))
            if kind is None:
                skipped[fqn] = f"{type(norm).__name__} is a batch norm with behaviour of its own"
            else:
                assert isinstance(norm, nn.modules.batchnorm._BatchNorm)
                swaps[fqn] = kind.from_module(norm, self.ghost_batch_size, self.statistics)
        swap_modules_(model, swaps)
        return Applied(method=self, changed=tuple(swaps), skipped=skipped)
