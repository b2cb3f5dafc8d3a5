"""Whether synthetic images give training images away: nearest neighbours, against those of unseen images."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from pennyweight.errors import MethodError
from pennyweight.numerics.checks import require_finite

_BLOCK = 4096
_PASS = 256
QUANTILE = 0.01
"""Closer than this share of held-out real images is called suspiciously close."""


@dataclass(frozen=True, kw_only=True, eq=False)
class LeakCheck:
    """Distances to the nearest training image.

    Args:
        synthetic: (n,) distance of each synthetic image, Euclidean, root mean square over entries.
        nearest: (n,) which training image that is.
        heldout: (m,) distances of real images the model has not seen.
        threshold: the 1st percentile of these.
        share: of synthetic images closer than that; 1 % is expected of images as real as the held-out ones.
    """

    synthetic: Tensor
    nearest: Tensor
    heldout: Tensor
    threshold: float
    share: float

    @property
    def leaks(self) -> bool:
        """Whether clearly more synthetic images are that close than held-out ones are: over 5 %."""
        return self.share > 0.05


def check_leak(
    synthetic: Tensor, training: Tensor, heldout: Tensor, *, features: Callable[[Tensor], Tensor] | None = None
) -> LeakCheck:
    """Hold synthetic images against training images.

    Pixels alone do not tell much: an image without contrast is near many. Look at a net's features too.

    Args:
        synthetic: (n, ...) images.
        training: (k, ...) of the same kind.
        heldout: (m, ...) real ones that are not among the training images; a percentile needs some hundreds. Near
            copies among these and the training images, which CIFAR-10 has, make the threshold smaller.
        features: what to compare in the place of values, for instance a net without its classifier, in evaluation mode.

    Raises:
        MethodError: shapes differ, or a set is empty.
        NumericsError: a value of the images is not finite.
    """
    for name, images in (("synthetic", synthetic), ("training", training), ("heldout", heldout)):
        if not len(images) or images.shape[1:] != training.shape[1:]:
            raise MethodError(
                f"{name} has the shape {tuple(images.shape)}: at least one image, all of one shape, are needed"
            )
        if images.is_floating_point():
            require_finite(images, f"{name} images")
    if features is not None:
        synthetic, training, heldout = (_seen_through(features, images) for images in (synthetic, training, heldout))
    distance, nearest = nearest_neighbours(synthetic, training)
    apart, _ = nearest_neighbours(heldout, training)
    threshold = float(torch.quantile(apart, QUANTILE))
    share = float((distance < threshold).double().mean())
    return LeakCheck(synthetic=distance, nearest=nearest, heldout=apart, threshold=threshold, share=share)


@torch.no_grad()
def nearest_neighbours(queries: Tensor, images: Tensor) -> tuple[Tensor, Tensor]:
    """Distance (root mean square over entries, float64) and index of the nearest image, exactly.

    Matrix products in float64 find the nearest, whose distance is then taken from the difference itself: to the same
    image it is 0.
    """
    flat = queries.flatten(1).double()
    least = flat.new_full((len(flat),), torch.inf)
    nearest = torch.zeros(len(flat), dtype=torch.int64, device=flat.device)
    for start in range(0, len(images), _BLOCK):
        block = images[start : start + _BLOCK].flatten(1).double()
        # The square of the query's own length is the same for all images.
        found = torch.addmm(block.square().sum(1), flat, block.T, alpha=-2).min(1)
        closer = found.values < least
        least = torch.where(closer, found.values, least)
        nearest = torch.where(closer, found.indices + start, nearest)
    distances = [
        (query - image.double()).square().mean().sqrt()
        for query, image in zip(flat, images.flatten(1)[nearest], strict=True)
    ]
    return torch.stack(distances), nearest


@torch.no_grad()
def _seen_through(features: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    return torch.cat([features(part).flatten(1) for part in images.split(_PASS)])
