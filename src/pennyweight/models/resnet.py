"""The CIFAR residual networks, with the names and shortcut of the public checkpoints, which load as they are."""

from typing import no_type_check

import torch.nn.functional as F
from torch import Tensor, nn

from pennyweight.errors import RecipeError
from pennyweight.models.initialization import initialize_


class SubsampleShortcut(nn.Module):
    """The shortcut without weights (option A): every second pixel, and zeros for the channels that are new.

    Args:
        stride: step of the subsampling.
        padding: zero channels put before and after the existing ones.

    Source: arXiv 1512.03385, section 3.3 (A); the zeros on both sides are the public checkpoints' way.
    """

    def __init__(self, stride: int, padding: tuple[int, int]) -> None:
        super().__init__()
        self.stride = stride
        self.padding = padding

    @no_type_check  # torch.fx traces it with a proxy in the tensor's place
    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, sum(padding) + C, ceil(H / stride), ceil(W / stride))."""
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, *self.padding))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut around them."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu2 = nn.ReLU()
        self.shortcut: nn.Module
        if stride != 1 or in_channels != channels:
            new = channels - in_channels
            self.shortcut = SubsampleShortcut(stride, (new // 2, new - new // 2))
        else:
            self.shortcut = nn.Identity()

    @no_type_check  # torch.fx traces it with a proxy in the tensor's place
    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, channels, ceil(H / stride), ceil(W / stride))."""
        y = self.relu1(self.bn1(self.conv1(x)))
        return self.relu2(self.bn2(self.conv2(y)) + self.shortcut(x))


class CifarResNet(nn.Module):
    """ResNet for small images: one 3x3 convolution, three stages of basic blocks, global mean, one linear layer.

    Args:
        depth: 6 n + 2 layers for n blocks a stage: 20, 32, 44, 56, ...
        num_classes: logits.
        width: channels of the first stage; the others have twice and four times as many.
        input_shape: (C, H, W) of the images; any H and W will do.
        seed: of the initial weights; see `initialize_`.

    Raises:
        RecipeError: a depth that is not 6 n + 2, or a size below 1.

    Source: arXiv 1512.03385, section 4.2; state-dict names as in the checkpoints of akamaster/pytorch_resnet_cifar10.
    """

    def __init__(
        self,
        depth: int,
        *,
        num_classes: int = 10,
        width: int = 16,
        input_shape: tuple[int, int, int] = (3, 32, 32),
        seed: int = 0,
    ) -> None:
        super().__init__()
        if depth < 8 or depth % 6 != 2:
            raise RecipeError(f"resnet: depth={depth} is not 6 n + 2 (8, 14, 20, 26, ...)")
        if min(num_classes, width, *input_shape) < 1:
            raise RecipeError(
                f"resnet: num_classes={num_classes}, width={width}, input_shape={input_shape} must all be at least 1"
            )
        blocks = depth // 6
        self.conv1 = nn.Conv2d(input_shape[0], width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()
        self.layer1 = _stage(width, width, blocks, stride=1)
        self.layer2 = _stage(width, 2 * width, blocks, stride=2)
        self.layer3 = _stage(2 * width, 4 * width, blocks, stride=2)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.linear = nn.Linear(4 * width, num_classes)
        initialize_(self, seed)

    @no_type_check  # torch.fx traces it with a proxy in the tensor's place
    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) normalised images -> (B, num_classes) logits."""
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(self.flatten(self.pool(x)))


def _stage(in_channels: int, channels: int, blocks: int, stride: int) -> nn.Sequential:
    first = BasicBlock(in_channels, channels, stride)
    return nn.Sequential(first, *(BasicBlock(channels, channels, 1) for _ in range(blocks - 1)))
