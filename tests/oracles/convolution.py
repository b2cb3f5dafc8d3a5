"""A convolution in scalar loops: the pairs each output multiplies, in the order channel, row, column of the kernel."""

from collections.abc import Iterator

from torch import Tensor

Place = tuple[int, ...]


def pairs(
    x: Tensor, weight: Tensor, stride: Place, padding: Place, dilation: Place, groups: int
) -> Iterator[tuple[Place, list[float], list[float]]]:
    """For each output index (sample, channel, row, column): the inputs and the weights, in order; zeros outside."""
    x, weight = x.detach(), weight.detach()
    samples, _, height, width = x.shape
    filters, depth, rows, columns = weight.shape
    out_height = (height + 2 * padding[0] - dilation[0] * (rows - 1) - 1) // stride[0] + 1
    out_width = (width + 2 * padding[1] - dilation[1] * (columns - 1) - 1) // stride[1] + 1
    for n in range(samples):
        for f in range(filters):
            first = f // (filters // groups) * depth
            for top in range(out_height):
                for left in range(out_width):
                    seen, weights = [], []
                    for c in range(depth):
                        for i in range(rows):
                            for j in range(columns):
                                row = top * stride[0] - padding[0] + i * dilation[0]
                                column = left * stride[1] - padding[1] + j * dilation[1]
                                inside = 0 <= row < height and 0 <= column < width
                                seen.append(float(x[n, first + c, row, column]) if inside else 0.0)
                                weights.append(float(weight[f, c, i, j]))
                    yield (n, f, top, left), seen, weights
