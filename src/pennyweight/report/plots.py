"""The pictures of a report: accuracy against size, latency distribution, training curves. Each is an SVG string, or
None when the run has nothing to draw (the page says so in words). An arm has one colour and one mark in all of them.
"""

import math
from typing import Any

from pennyweight.report.labels import Box, log_ticks, place_labels
from pennyweight.report.record import ArmReport, Number, RunReport, ScenarioReport
from pennyweight.report.svg import (
    INK,
    LINE_STYLES,
    MARKERS,
    MUTED,
    PAPER,
    arm_color,
    house_style,
    plain_text,
    to_svg,
)
from pennyweight.report.units import bytes_text, percent_text, time_text

# Inches; the page scales them.
WIDTH, PLOT_HEIGHT = 5.6, 2.9
LEFT, RIGHT, BOTTOM, HEADING, LEGEND_ROW = 0.64, 0.14, 0.53, 0.4, 0.2


def palette(report: RunReport) -> dict[str, int]:
    """Place of every arm in the palette: 0 for the baseline, the others in order."""
    baseline = report.baseline_arm()
    others = [arm.name for arm in report.arms if arm is not baseline]
    places = {name: index for index, name in enumerate(others, 1)}
    if baseline is not None:
        places[baseline.name] = 0
    return places


def accuracy_against_size(report: RunReport) -> str | None:
    """Accuracy with its interval over bytes on disk; the baseline's accuracy is a dashed line."""
    arms = [(arm, *point) for arm in report.arms if (point := _size_and_accuracy(arm)) is not None]
    if not arms:
        return None
    with house_style():
        figure, axes = _figure()
        places = palette(report)
        axes.set_xscale("log")
        low = min(size for _, size, _ in arms)
        high = max(size for _, size, _ in arms)
        _log_axis(axes.xaxis, low / 1.5, high * 1.5, bytes_text)
        axes.set_xlim(low / 1.5, high * 1.5)
        ends = [end for arm, _, accuracy in arms for end in (accuracy, *_finite_interval(arm))]
        margin = max(0.12 * (max(ends) - min(ends)), 0.005)
        axes.set_ylim(max(0.0, min(ends) - margin), min(1.0 + margin / 2, max(ends) + margin))
        axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.4g} %" if value <= 1 else "")
        baseline = report.baseline_arm()
        for arm, size, accuracy in arms:
            color = arm_color(places[arm.name])
            interval = _finite_interval(arm)
            if interval:
                axes.vlines(size, *interval, color=color, linewidth=1.6, alpha=0.75, zorder=2)
                axes.plot([size, size], interval, "_", color=color, markersize=8, markeredgewidth=1.6, zorder=2)
            mark = MARKERS[places[arm.name] % len(MARKERS)]
            axes.plot(size, accuracy, mark, color=color, markersize=10, markeredgecolor=PAPER, zorder=3)
        axes.set_xlabel("Size on disk (log scale), everything counted")
        _lay_out(figure, axes, "Accuracy on the test set, 95 % interval; up and to the left is better", [])
        reference = None if baseline is None else _size_and_accuracy(baseline)
        if reference is not None:
            axes.axhline(reference[1], color=MUTED, linewidth=1, linestyle=(0, (2, 3)), zorder=1)
        _label_points(
            figure,
            axes,
            reference and reference[1],
            [(plain_text(arm.name, 24), x, y, _finite_interval(arm)) for arm, x, y in arms],
        )
        told = "; ".join(
            f"{plain_text(arm.name)}: {percent_text(accuracy)} at {bytes_text(size)}" for arm, size, accuracy in arms
        )
        return to_svg(figure, name="size", title="Accuracy against size", description=told)


def latency_distribution(report: RunReport, scenario: str) -> str | None:
    """Share of queries answered within a time, one line an arm; from three percentiles where nothing finer is known."""
    arms = [(arm, points) for arm in report.arms if len(points := _quantiles(arm.scenario(scenario))) >= 2]
    if not arms:
        return None
    with house_style():
        figure, axes = _figure()
        places = palette(report)
        axes.set_xscale("log")
        times = [time for _, points in arms for _, time in points]
        low, high = min(times) / 1.15, max(times) * 1.15
        _log_axis(axes.xaxis, low, high, time_text)
        axes.set_xlim(low, high)
        axes.set_ylim(0, 1.02)
        axes.set_yticks([0, 0.25, 0.5, 0.75, 0.9, 0.99])
        axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.3g} %")
        lines: list[tuple[str, Any]] = []
        for arm, points in arms:
            result = arm.scenario(scenario)
            label = plain_text(arm.name, 24) + ("" if result is None or result.valid else " (INVALID)")
            (line,) = axes.plot(
                [time for _, time in points],
                [share for share, _ in points],
                color=arm_color(places[arm.name]),
                linestyle=LINE_STYLES[places[arm.name] % len(LINE_STYLES)],
                linewidth=2.2,
                solid_capstyle="round",
            )
            lines.append((label, line))
        axes.set_xlabel("Latency of a query (log scale)")
        heading = f"Share of {plain_text(scenario, 24)} queries answered within a time; left is better"
        _lay_out(figure, axes, heading, lines)
        told = "; ".join(
            f"{plain_text(arm.name)}: half within {time_text(_quantile(points, 0.5))}, "
            f"99 % within {time_text(_quantile(points, 0.99))}"
            for arm, points in arms
        )
        name = f"latency-{report.scenario_names().index(scenario)}"
        return to_svg(figure, name=name, title=f"{plain_text(scenario)} latency", description=told)


def training_loss(report: RunReport) -> str | None:
    """Training loss over optimiser steps, one line a seed."""
    return _curves(report, "loss", "Training loss", "Lower is better")


def training_accuracy(report: RunReport) -> str | None:
    """Accuracy during training over optimiser steps, one line a seed."""
    return _curves(report, "accuracy", "Accuracy during training", "Higher is better")


def _curves(report: RunReport, what: str, title: str, heading: str) -> str | None:
    curves = [
        (arm, seed, points)
        for arm in report.arms
        for seed in dict.fromkeys(point.seed for point in arm.curve)
        if len(points := _curve(arm, what, seed)) > 1  # one point is no curve; the summary shows it
    ]
    if not curves:
        return None
    with house_style():
        figure, axes = _figure()
        places = palette(report)
        lines: list[tuple[str, Any]] = []
        named: list[ArmReport] = []
        for arm, _, points in curves:
            many = sum(other is arm for other, _, _ in curves) > 1
            (line,) = axes.plot(
                [step for step, _ in points],
                [value for _, value in points],
                color=arm_color(places[arm.name]),
                linestyle=LINE_STYLES[places[arm.name] % len(LINE_STYLES)],
                linewidth=1.3 if many else 2.0,
                alpha=0.8 if many else 1.0,
                marker="o" if len(points) == 1 else "",
            )
            if arm not in named:
                named.append(arm)
                lines.append((plain_text(arm.name, 24), line))
        if len(curves) > len(lines):
            heading += "; one line a seed"
        values = [value for _, _, points in curves for _, value in points]
        if what == "accuracy":
            axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.4g} %" if value <= 1 else "")
        elif min(values) > 0 and max(values) / min(values) > 30:
            axes.set_yscale("log")
            _log_axis(axes.yaxis, min(values) / 1.2, max(values) * 1.2, lambda value: f"{value:g}")
            heading += " (log scale)"
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        axes.set_xlabel("Optimiser step")
        _lay_out(figure, axes, heading, lines)
        told = "; ".join(
            f"{plain_text(arm.name)}, seed {seed}: {points[0][1]:.3g} at step {points[0][0]:,}, "
            f"{points[-1][1]:.3g} at step {points[-1][0]:,}"
            for arm, seed, points in curves
        )
        return to_svg(figure, name=what, title=title, description=told)


def _figure() -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, PLOT_HEIGHT))
    return figure, figure.add_axes((0, 0, 1, 1))


def _lay_out(figure: Any, axes: Any, heading: str, lines: list[tuple[str, Any]]) -> None:
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


def _log_axis(axis: Any, low: Number, high: Number, words: Any) -> None:
    from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

    ticks = log_ticks(low, high)
    axis.set_major_locator(FixedLocator(ticks))
    axis.set_major_formatter(FixedFormatter([words(tick).replace(".00", "").replace(".0 ", " ") for tick in ticks]))
    axis.set_minor_locator(NullLocator())


def _label_points(
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


def _size_and_accuracy(arm: ArmReport) -> tuple[Number, Number] | None:
    if not arm.size_bytes or arm.size_bytes < 0 or arm.accuracy is None or not math.isfinite(arm.accuracy.value):
        return None
    return float(arm.size_bytes), arm.accuracy.value


def _finite_interval(arm: ArmReport) -> tuple[Number, Number] | tuple[()]:
    if arm.accuracy is None or arm.accuracy.low is None or arm.accuracy.high is None:
        return ()
    low, high = arm.accuracy.low, arm.accuracy.high
    return (low, high) if math.isfinite(low) and math.isfinite(high) else ()


def _quantiles(result: ScenarioReport | None) -> list[tuple[Number, Number]]:
    """(share, ns) points that can be drawn on a logarithmic axis, ascending."""
    if result is None:
        return []
    points: list[tuple[Number, Number]] = list(result.quantiles)
    if not points:
        three = ((0.5, result.p50_ns), (0.9, result.p90_ns), (0.99, result.p99_ns))
        points = [(share, time) for share, time in three if time is not None]
    return sorted((share, time) for share, time in points if math.isfinite(time) and time > 0)


def _quantile(points: list[tuple[Number, Number]], share: Number) -> Number:
    """The known point nearest to a share."""
    return min(points, key=lambda point: abs(point[0] - share))[1]


def _curve(arm: ArmReport, what: str, seed: int) -> list[tuple[int, Number]]:
    points = [(point.step, getattr(point, what)) for point in arm.curve if point.seed == seed]
    return [(step, value) for step, value in points if value is not None and math.isfinite(value)]
