"""VGG-small: the layers of the paper, in the order binarization wants."""

import pytest
import torch
from torch import nn

from pennyweight.errors import RecipeError
from pennyweight.models import VGGSmall


def test_widths_are_the_papers() -> None:
    with torch.device("meta"):
        layers = [m for m in VGGSmall().modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    widths = [m.out_channels if isinstance(m, nn.Conv2d) else m.out_features for m in layers]
    assert widths == [128, 128, 256, 256, 512, 512, 1024, 1024, 10]
    assert layers[6].in_features == 512 * 4 * 4


def test_pooling_comes_before_the_norm() -> None:
    names = [name for name, _ in VGGSmall(width=2).named_children()]
    assert names[:7] == ["conv1", "bn1", "relu1", "conv2", "pool2", "bn2", "relu2"]
    assert names[-4:] == ["linear2", "bn8", "relu8", "linear3"]


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 8, 8), (1, 28, 28), (2, 17, 9)])
def test_image_shapes(shape: tuple[int, int, int]) -> None:
    assert VGGSmall(width=2, input_shape=shape, bn_output=True)(torch.zeros(2, *shape)).shape == (2, 10)


@pytest.mark.parametrize("options", [{"input_shape": (3, 7, 32)}, {"width": 0}, {"num_classes": 0}])
def test_impossible_options(options: dict[str, object]) -> None:
    with pytest.raises(RecipeError, match="vgg-small"):
        VGGSmall(**options)
