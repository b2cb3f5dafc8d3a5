"""How every picture of a report is laid out: size, heading, names, logarithmic ticks, labels beside marks."""

import math
import re
from typing import Any

from pennyweight.report.labels import Box, log_ticks, place_labels
from pennyweight.report.record import Number
from pennyweight.report.svg import INK, MUTED

# Inches; the page scales them.
WIDTH, PLOT_HEIGHT = 5.6, 2.9
LEFT, RIGHT, BOTTOM, HEADING, LEGEND_ROW = 0.64, 0.14, 0.53, 0.4, 0.2


def figure() -> tuple[Any, Any]:
    """An empty picture and its axes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, PLOT_HEIGHT))
    return figure, figure.add_axes((0, 0, 1, 1))


def lay_out(figure: Any, axes: Any, heading: str, lines: list[tuple[str, Any]]) -> None:
    """Set the heading (what the y axis shows, where it is read first), the names below it, and the plot below those.

    The picture grows with the rows of names; the plot keeps its size.
    """
    rows = 0
    if lines:
        # matplotlib drops names that begin with an underscore; a character without width saves them.
        names = [name if not name.startswith("_") else f"\N{ZERO WIDTH SPACE}{name}" for name, _ in lines]
        widest = 5.6 * max(map(len, names)) + 45  # points: letters, the sample of the line, the gap
        columns = max(1, min(len(names), int(72 * WIDTH / widest)))
        rows = math.ceil(len(names) / columns)
    height = BOTTOM + PLOT_HEIGHT + LEGEND_ROW * rows + HEADING
    figure.set_size_inches(WIDTH, height)
    axes.set_position((LEFT / WIDTH, BOTTOM / height, (WIDTH - LEFT - RIGHT) / WIDTH, PLOT_HEIGHT / height))
    figure.text(0, 1 - 0.13 / height, heading, color=MUTED, fontsize=9.5, va="center")
    if lines:
        figure.legend(
            [line for _, line in lines],
            names,
            loc="upper left",
            bbox_to_anchor=(-0.012, 1 - 0.21 / height),
            ncols=columns,
            handlelength=2.6,
        )


def log_axis(axis: Any, low: Number, high: Number, words: Any) -> None:
    """Round numbers as ticks between the ends, said in words."""
    from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

    ticks = log_ticks(low, high)
    axis.set_major_locator(FixedLocator(ticks))
    axis.set_major_formatter(FixedFormatter([re.sub(r"\.0+(?=\s|$)", "", words(tick)) for tick in ticks]))
    axis.set_minor_locator(NullLocator())


def label_points(
    figure: Any,
    axes: Any,
    reference: Number | None,
    points: list[tuple[str, Number, Number, tuple[Number, Number] | tuple[()]]],
) -> None:
    """Write the names beside the marks, off the reference line; a thin line leads to a name that had to move away."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    renderer: Any = FigureCanvasAgg(figure).get_renderer()
    anchors, sizes, obstacles = [], [], []
    for name, x, y, interval in points:
        px, py = axes.transData.transform((x, y))
        probe = axes.text(0, 0, name, fontsize=10.5, fontweight="bold")
        extent = probe.get_window_extent(renderer)
        probe.remove()
        anchors.append((float(px), float(py)))
        sizes.append((extent.width, extent.height))
        obstacles.append(Box(px - 6, py - 6, px + 6, py + 6))
        if interval:
            bottom, top = (float(axes.transData.transform((x, end))[1]) for end in interval)
            obstacles.append(Box(px - 5, bottom, px + 5, top))
    area = axes.get_window_extent(renderer)
    frame = Box(area.x0, area.y0, area.x1, area.y1)
    if reference is not None:
        level = float(axes.transData.transform((points[0][1], reference))[1])
        obstacles.append(Box(frame.left, level - 1, frame.right, level + 1))
    to_data = axes.transData.inverted().transform
    for (name, *_), (px, py), box in zip(points, anchors, place_labels(anchors, sizes, obstacles, frame), strict=True):
        middle = (box.bottom + box.top) / 2
        near_x = min(max(px, box.left), box.right)
        if math.hypot(near_x - px, middle - py) > 22:
            (x0, x1), (y0, y1) = zip(to_data((px, py)), to_data((near_x, middle)), strict=True)
            axes.plot([x0, x1], [y0, y1], color=MUTED, linewidth=0.7, zorder=1)
        x, y = to_data((box.left, middle))
        axes.text(x, y, name, fontsize=10.5, fontweight="bold", va="center", color=INK, zorder=4)
