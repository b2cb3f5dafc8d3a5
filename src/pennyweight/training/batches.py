"""Where a step's samples come from: a data set, or a function of one's own."""

from collections.abc import Callable

from pennyweight.data.dataset import ImageDataset
from pennyweight.data.loader import Batch, batch_at
from pennyweight.data.transforms import Augment
from pennyweight.errors import RecipeError
from pennyweight.training.distributed import Ranks
from pennyweight.training.regime import Regime, Settings

BatchSource = Callable[[int, int, int, int], Batch]
"""(first_sample, batch_size, rank, world_size) -> this rank's samples of the step; a pure function."""


Draw = Callable[[int, Settings], Batch]
"""(first_sample, settings) -> this rank's samples, on its device."""


def batches_of(
    data: ImageDataset | BatchSource, regime: Regime, seed: int, augment: Augment | None, ranks: Ranks
) -> Draw:
    """This rank's samples as a function of the position in the stream and the step's settings.

    Raises:
        RecipeError: settings that only a data set can follow, with a function of one's own.
    """
    if isinstance(data, ImageDataset):
        dataset = data.to(ranks.device)  # once: bytes are few, and batches are then gathered and augmented there

        def draw(first_sample: int, settings: Settings) -> Batch:
            return batch_at(
                dataset,
                first_sample=first_sample,
                batch_size=settings.batch_size,
                seed=seed,
                augment=augment,
                copies=settings.duplicates,
                image_size=settings.image_size,
                rank=ranks.rank,
                world_size=ranks.world_size,
                device=ranks.device,
            )

        return draw
    if augment is not None or regime.duplicates != 1 or regime.image_size is not None:
        raise RecipeError(
            "augment, duplicates and image_size need an ImageDataset: a function that gives batches must apply them "
            "itself"
        )
    source = data

    def draw_from_source(first_sample: int, settings: Settings) -> Batch:
        batch = source(first_sample, settings.batch_size, ranks.rank, ranks.world_size)
        return Batch(
            inputs=batch.inputs.to(ranks.device),
            targets=batch.targets.to(ranks.device),
            indices=batch.indices.to(ranks.device),
        )

    return draw_from_source
