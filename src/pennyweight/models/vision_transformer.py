"""A small transformer encoder that classifies images cut into patches."""

from typing import no_type_check

from torch import Tensor, nn

from pennyweight.errors import RecipeError
from pennyweight.models.initialization import initialize_transformer_
from pennyweight.models.transformer import Block, BlockShape, norm
from pennyweight.nn.positions import LearnedPositions


class VisionTransformer(nn.Module):
    """Patches to tokens, pre-norm blocks, the mean over tokens, a linear classifier.

    Source: arXiv 2010.11929; deviations: mean over tokens instead of a class token, pre-norm throughout.

    Args:
        input_shape: (C, H, W) of the images; the patch size divides H and W.
        num_classes: logits.
        patch_size: side of a patch in pixels.
        width: of a token.
        depth: blocks.
        heads: of each attention.
        hidden: width inside the feed-forward parts; None for 2 * width.
        seed: of the initial weights; see `initialize_transformer_`.

    Raises:
        RecipeError: sizes that do not divide each other.
    """

    def __init__(
        self,
        *,
        input_shape: tuple[int, int, int] = (1, 8, 8),
        num_classes: int = 10,
        patch_size: int = 2,
        width: int = 64,
        depth: int = 4,
        heads: int = 4,
        hidden: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        channels, height, columns = input_shape
        if patch_size < 1 or height % patch_size or columns % patch_size:
            raise RecipeError(f"patch_size={patch_size} must divide the image, {height} x {columns} pixels")
        if depth < 1 or num_classes < 1:
            raise RecipeError(f"depth={depth} and num_classes={num_classes} must be at least 1")
        shape = BlockShape(width=width, heads=heads, kv_heads=heads, hidden=2 * width if hidden is None else hidden)
        self.patches = nn.Conv2d(channels, width, patch_size, stride=patch_size)
        self.positions = LearnedPositions((height // patch_size) * (columns // patch_size), width)
        self.blocks = nn.Sequential(*(Block(shape) for _ in range(depth)))
        self.norm = norm(shape)
        self.classifier = nn.Linear(width, num_classes)
        initialize_transformer_(self, seed, depth=depth, table_std=0.3)

    @no_type_check  # torch.fx traces it with a proxy in the tensor's place
    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, height, width) -> (batch, num_classes)."""
        tokens = self.positions(self.patches(x).flatten(2).transpose(1, 2))
        return self.classifier(self.norm(self.blocks(tokens)).mean(1))
