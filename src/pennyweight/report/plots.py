"""The pictures of a report: accuracy against size, latency distribution, training curves. Each is an SVG string, or
None when the run has nothing to draw (the page says so in words). An arm has one colour and one mark in all of them.
"""

import math
from typing import Any

from pennyweight.report.layout import figure, label_points, lay_out, log_axis
from pennyweight.report.record import ArmReport, Number, RunReport, ScenarioReport
from pennyweight.report.svg import (
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
        fig, axes = figure()
        places = palette(report)
        axes.set_xscale("log")
        low = min(size for _, size, _ in arms)
        high = max(size for _, size, _ in arms)
        log_axis(axes.xaxis, low / 1.5, high * 1.5, bytes_text)
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
        lay_out(fig, axes, "Accuracy on the test set, 95 % interval; up and to the left is better", [])
        reference = None if baseline is None else _size_and_accuracy(baseline)
        if reference is not None:
            axes.axhline(reference[1], color=MUTED, linewidth=1, linestyle=(0, (2, 3)), zorder=1)
        label_points(
            fig,
            axes,
            reference and reference[1],
            [(plain_text(arm.name, 24), x, y, _finite_interval(arm)) for arm, x, y in arms],
        )
        told = "; ".join(
            f"{plain_text(arm.name)}: {percent_text(accuracy)} at {bytes_text(size)}" for arm, size, accuracy in arms
        )
        return to_svg(fig, name="size", title="Accuracy against size", description=told)


def latency_distribution(report: RunReport, scenario: str) -> str | None:
    """Share of queries answered within a time, one line an arm; from three percentiles where nothing finer is known."""
    arms = [(arm, points) for arm in report.arms if len(points := _quantiles(arm.scenario(scenario))) >= 2]
    if not arms:
        return None
    with house_style():
        fig, axes = figure()
        places = palette(report)
        axes.set_xscale("log")
        times = [time for _, points in arms for _, time in points]
        low, high = min(times) / 1.15, max(times) * 1.15
        log_axis(axes.xaxis, low, high, time_text)
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
        lay_out(fig, axes, heading, lines)
        told = "; ".join(
            f"{plain_text(arm.name)}: half within {time_text(_quantile(points, 0.5))}, "
            f"99 % within {time_text(_quantile(points, 0.99))}"
            for arm, points in arms
        )
        name = f"latency-{report.scenario_names().index(scenario)}"
        return to_svg(fig, name=name, title=f"{plain_text(scenario)} latency", description=told)


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
    names = _sharing(curves)
    curves = [curve for curve in curves if curve[0].name in names]
    with house_style():
        fig, axes = figure()
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
                lines.append((names[arm.name], line))
        if len(curves) > len(lines):
            heading += "; one line a seed"
        values = [value for _, _, points in curves for _, value in points]
        if what == "accuracy":
            axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.4g} %" if value <= 1 else "")
        elif min(values) > 0 and max(values) / min(values) > 30:
            axes.set_yscale("log")
            log_axis(axes.yaxis, min(values) / 1.2, max(values) * 1.2, lambda value: f"{value:g}")
            heading += " (log scale)"
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        axes.set_xlabel("Optimiser step")
        lay_out(fig, axes, heading, lines)
        told = "; ".join(
            f"{plain_text(arm.name)}, seed {seed}: {points[0][1]:.3g} at step {points[0][0]:,}, "
            f"{points[-1][1]:.3g} at step {points[-1][0]:,}"
            for arm, seed, points in curves
        )
        return to_svg(fig, name=what, title=title, description=told)


def _sharing(curves: list[tuple[ArmReport, int, list[tuple[int, Number]]]]) -> dict[str, str]:
    """Arms to draw, and what to call their lines: those that share a training are one line with several names."""
    by_arm: dict[str, list[list[tuple[int, Number]]]] = {}
    for arm, _, points in curves:
        by_arm.setdefault(arm.name, []).append(points)
    names: dict[str, list[str]] = {}
    for name, lines in by_arm.items():
        first = next((other for other in names if by_arm[other] == lines), name)
        names.setdefault(first, []).append(plain_text(name, 24))
    return {first: plain_text(", ".join(shared), 48) for first, shared in names.items()}


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
