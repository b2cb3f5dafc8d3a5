"""Whether synthetic images give training images away: nearest neighbours, against those of unseen images."""

from dataclasses import dataclass

import torch
from torch import Tensor

from pennyweight.errors import MethodError

_BLOCK = 256
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


def check_leak(synthetic: Tensor, training: Tensor, heldout: Tensor) -> LeakCheck:
    """Hold synthetic images against training images.

    Args:
        synthetic: (n, ...) images, or features of them.
        training: (k, ...) of the same kind.
        heldout: (m, ...) real ones that are not among the training images; a percentile needs some hundreds.

    Raises:
        MethodError: shapes differ, or a set is empty.
    """
    for name, images in (("synthetic", synthetic), ("training", training), ("heldout", heldout)):
        if not len(images) or images.shape[1:] != training.shape[1:]:
            raise MethodError(
                f"{name} has the shape {tuple(images.shape)}: at least one image, all of one shape, are needed"
            )
    distance, nearest = nearest_neighbours(synthetic, training)
    apart, _ = nearest_neighbours(heldout, training)
    threshold = float(torch.quantile(apart.double(), QUANTILE))
    share = float((distance < threshold).double().mean())
    return LeakCheck(synthetic=distance, nearest=nearest, heldout=apart, threshold=threshold, share=share)


def nearest_neighbours(queries: Tensor, images: Tensor) -> tuple[Tensor, Tensor]:
    """Distance (root mean square over entries) and index of the nearest image, exactly, block by block."""
    flat = images.flatten(1).float()
    distances, indices = [], []
    for start in range(0, len(queries), _BLOCK):
        block = queries[start : start + _BLOCK].flatten(1).float()
        found = torch.cdist(block, flat, compute_mode="donot_use_mm_for_euclid_dist").min(1)
        distances.append(found.values / flat.shape[1] ** 0.5)
        indices.append(found.indices)
    return torch.cat(distances), torch.cat(indices)
