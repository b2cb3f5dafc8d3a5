"""MobileNetV2: inverted residuals with depthwise convolutions, the hardest of the classic nets to quantize."""

from typing import Literal, no_type_check

from torch import Tensor, nn

from pennyweight.errors import RecipeError
from pennyweight.models.initialization import initialize_

# Expansion, channels, blocks and stride of the first block, stage by stage: table 2 of the paper.
_STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
_FIRST, _LAST = 32, 1280


class MobileNetV2(nn.Module):
    """MobileNetV2 for images of any size divisible by 32.

    Args:
        num_classes: logits.
        width: multiplier of all channels but the last ones, which are never fewer than 1280.
        input_shape: (C, H, W) of the images.
        padding: of 3 x 3 convolutions with stride 2: "both" sides as torch's models have it, or at the "end" as
            TensorFlow's.
        batch_norm: False builds the net with batch norms folded: convolutions with biases.
        seed: of the initial weights; see `initialize_`.

    Raises:
        RecipeError: a size below its minimum.

    Source: arXiv 1801.04381, table 2.
    """

    def __init__(
        self,
        *,
        num_classes: int = 1000,
        width: float = 1.0,
        input_shape: tuple[int, int, int] = (3, 224, 224),
        padding: Literal["both", "end"] = "both",
        batch_norm: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__()
        channels, height, side = input_shape
        if min(height, side) < 32 or min(num_classes, channels) < 1 or not width > 0:
            raise RecipeError(
                f"mobilenet-v2: num_classes={num_classes}, width={width}, input_shape={input_shape}; needs images of "
                f"at least 32 pixels and positive sizes"
            )
        if padding not in ("both", "end"):
            raise RecipeError(f"mobilenet-v2: padding={padding!r}; valid are 'both' and 'end'")
        end = padding == "end"
        inside = _rounded(_FIRST * width)
        self.stem = _layer(channels, inside, 3, stride=2, pad_end=end, norm=batch_norm)
        blocks = []
        for expansion, outside, count, stride in _STAGES:
            for index in range(count):
                out = _rounded(outside * width)
                blocks.append(_InvertedResidual(inside, out, expansion, 1 if index else stride, end, batch_norm))
                inside = out
        self.blocks = nn.Sequential(*blocks)
        last = max(_LAST, _rounded(_LAST * width))
        self.head = _layer(inside, last, 1, norm=batch_norm)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.dropout = nn.Dropout(0.2)
        self.linear = nn.Linear(last, num_classes)
        initialize_(self, seed)

    @no_type_check  # torch.fx traces it with a proxy in the tensor's place
    def forward(self, x: Tensor) -> Tensor:
        """(batch, C, H, W) -> (batch, num_classes)."""
        x = self.pool(self.head(self.blocks(self.stem(x))))
        logits: Tensor = self.linear(self.dropout(self.flatten(x)))
        return logits


class _InvertedResidual(nn.Module):
    """Expand, filter each channel, project; with a shortcut where sizes allow."""

    def __init__(self, inside: int, outside: int, expansion: int, stride: int, pad_end: bool, norm: bool) -> None:
        super().__init__()
        wide = inside * expansion
        self.expand = _layer(inside, wide, 1, norm=norm) if expansion > 1 else nn.Identity()
        self.depthwise = _layer(wide, wide, 3, stride=stride, groups=wide, pad_end=pad_end, norm=norm)
        self.project = _layer(wide, outside, 1, norm=norm, rectified=False)
        self.shortcut = stride == 1 and inside == outside

    @no_type_check  # torch.fx traces it with a proxy in the tensor's place
    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.project(self.depthwise(self.expand(x)))
        return x + out if self.shortcut else out


def _layer(
    inside: int,
    outside: int,
    kernel: int,
    *,
    stride: int = 1,
    groups: int = 1,
    pad_end: bool = False,
    norm: bool = True,
    rectified: bool = True,
) -> nn.Sequential:
    """Convolution, batch norm, ReLU6, named like that; padding at the end is a module of its own."""
    layer = nn.Sequential()
    at_end = pad_end and stride > 1
    if at_end:
        layer.add_module("pad", nn.ZeroPad2d((0, 1, 0, 1)))
    padding = 0 if at_end else kernel // 2
    layer.add_module("conv", nn.Conv2d(inside, outside, kernel, stride, padding, groups=groups, bias=not norm))
    if norm:
        layer.add_module("bn", nn.BatchNorm2d(outside))
    if rectified:
        layer.add_module("relu", nn.ReLU6())
    return layer


def _rounded(channels: float) -> int:
    """To a multiple of 8, never by more than a tenth down."""
    near = max(8, int(channels + 4) // 8 * 8)
    return near + 8 if near < 0.9 * channels else near
