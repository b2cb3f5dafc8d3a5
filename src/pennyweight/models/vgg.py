"""VGG-small, the convolutional network of the binarized-network papers."""

from torch import nn

from pennyweight.errors import RecipeError
from pennyweight.models.initialization import initialize_


class VGGSmall(nn.Sequential):
    """2x128C3-P2-2x256C3-P2-2x512C3-P2-1024-1024-classes, each layer followed by (pooling,) batch norm and ReLU.

    Pooling comes before the batch norm, so that in a binarized network the sign is taken of normalised sums rather
    than pooled signs, which would nearly all be +1. Layers are named conv1, pool2, bn1, relu1, ..., linear1, bn7, ....

    Args:
        num_classes: logits.
        width: channels of the first two convolutions (128 in the papers); all other widths are multiples of it.
        input_shape: (C, H, W) of the images, H and W at least 8 for three poolings.
        bn_output: batch norm on the logits too, as binarized networks use.
        seed: of the initial weights; see `initialize_`.

    Raises:
        RecipeError: a size below its minimum.

    Source: arXiv 1602.02830, section 2.3 (CIFAR-10).
    """

    def __init__(
        self,
        *,
        num_classes: int = 10,
        width: int = 128,
        input_shape: tuple[int, int, int] = (3, 32, 32),
        bn_output: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        channels, height, side = input_shape
        if min(height, side) < 8 or min(num_classes, width, channels) < 1:
            raise RecipeError(
                f"vgg-small: num_classes={num_classes}, width={width}, input_shape={input_shape}: images must be at "
                "least 8x8, the rest at least 1"
            )
        for number, multiple in enumerate((1, 1, 2, 2, 4, 4), start=1):
            self.add_module(f"conv{number}", nn.Conv2d(channels, multiple * width, 3, padding=1, bias=False))
            channels = multiple * width
            if number % 2 == 0:
                self.add_module(f"pool{number}", nn.MaxPool2d(2))
            self.add_module(f"bn{number}", nn.BatchNorm2d(channels))
            self.add_module(f"relu{number}", nn.ReLU())
        self.add_module("flatten", nn.Flatten())
        features = channels * (height // 8) * (side // 8)
        for number in (1, 2):
            self.add_module(f"linear{number}", nn.Linear(features, 8 * width, bias=False))
            features = 8 * width
            self.add_module(f"bn{number + 6}", nn.BatchNorm1d(features))
            self.add_module(f"relu{number + 6}", nn.ReLU())
        self.add_module("linear3", nn.Linear(features, num_classes, bias=not bn_output))
        if bn_output:
            self.add_module("bn9", nn.BatchNorm1d(num_classes))
        initialize_(self, seed)
