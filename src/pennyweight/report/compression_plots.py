"""Pictures of how a net was compressed: the plans of a bit allocation, and each unit's error before and after."""

import math
from collections.abc import Mapping
from typing import Any

from pennyweight.report.layout import figure, lay_out, log_axis
from pennyweight.report.record import ArmReport
from pennyweight.report.svg import INK, MUTED, PAPER, arm_color, house_style, plain_text, to_svg
from pennyweight.report.units import bytes_text

Rows = tuple[Mapping[str, Any], ...]
_KINDS = {"plan": "plan of the integer programme", "uniform": "the same formats everywhere", "random": "random plans"}


def degradation_frontier(arm: ArmReport, place: int, name: str) -> str | None:
    """Measured degradation over bytes: the programme's plans against uniform and random ones; None without such."""
    rows = next((rows for method in arm.methods if len(rows := method.table("Frontier")) > 1), ())
    points = {kind: _points(rows, kind) for kind in _KINDS}
    if sum(map(len, points.values())) < 2:
        return None
    with house_style():
        fig, axes = figure()
        axes.set_xscale("log")
        axes.set_yscale("log")
        sizes = [size for found in points.values() for size, _ in found]
        values = [value for found in points.values() for _, value in found]
        log_axis(axes.xaxis, min(sizes) / 1.2, max(sizes) * 1.2, bytes_text)
        axes.set_xlim(min(sizes) / 1.2, max(sizes) * 1.2)
        log_axis(axes.yaxis, min(values) / 2, max(values) * 2, lambda value: f"{value:g}")
        axes.set_ylim(min(values) / 2, max(values) * 2)
        lines: list[tuple[str, Any]] = []
        looks = {
            "plan": {"marker": "o", "color": arm_color(place), "markersize": 9, "linestyle": "-", "zorder": 3},
            "uniform": {"marker": "s", "color": INK, "markersize": 7, "linestyle": "", "zorder": 2},
            "random": {"marker": "x", "color": MUTED, "markersize": 5, "linestyle": "", "zorder": 1},
        }
        for kind, found in points.items():
            if found:
                x, y = zip(*sorted(found), strict=True)
                (line,) = axes.plot(x, y, markeredgecolor=PAPER if kind != "random" else MUTED, **looks[kind])
                lines.append((_KINDS[kind], line))
        axes.set_xlabel("Bytes of the allocated layers (log scale)")
        lay_out(fig, axes, "Degradation of the whole net, measured (log scale); down and to the left is better", lines)
        told = "; ".join(
            f"{_KINDS[kind]}: " + ", ".join(f"{value:.3g} at {bytes_text(size)}" for size, value in found[:12])
            for kind, found in points.items()
            if found
        )
        return to_svg(fig, name=name, title=f"Bit allocation of {plain_text(arm.name)}", description=told)


def unit_errors(arm: ArmReport, place: int, name: str) -> str | None:
    """Mean squared error of each unit's output before and after it was fitted; None where no units were fitted."""
    rows = next((rows for method in arm.methods if (rows := method.table("Units"))), ())
    fitted = [
        (str(row["unit"]), float(row["mse before"]), float(row["mse after"]))
        for row in rows
        if min(row.get("mse before") or 0, row.get("mse after") or 0) > 0
    ]
    if len(fitted) < 2:
        return None
    with house_style():
        fig, axes = figure()
        axes.set_yscale("log")
        numbers = range(1, len(fitted) + 1)
        before, after = [b for _, b, _ in fitted], [a for _, _, a in fitted]
        low, high = min(after + before) / 1.5, max(after + before) * 1.5
        log_axis(axes.yaxis, low, high, lambda value: f"{value:g}")
        axes.set_ylim(low, high)
        axes.vlines(numbers, after, before, color=MUTED, linewidth=1, zorder=1)
        (start,) = axes.plot(numbers, before, "o", color=MUTED, markersize=5, zorder=2)
        (end,) = axes.plot(numbers, after, "o", color=arm_color(place), markersize=7, markeredgecolor=PAPER, zorder=3)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set_xlabel("Unit, in the order of execution")
        heading = "Mean squared error of each unit's output (log scale); lower is better"
        lay_out(fig, axes, heading, [("rounded to nearest", start), ("fitted", end)])
        gain = math.exp(sum(math.log(a / b) for _, b, a in fitted) / len(fitted))
        told = f"{len(fitted)} units; on geometric average the error after is {gain:.3g} of that before"
        return to_svg(fig, name=name, title=f"Units of {plain_text(arm.name)}", description=told)


def _points(rows: Rows, kind: str) -> list[tuple[float, float]]:
    """(bytes, degradation); the base itself, whose degradation is zero by definition, has no place on a log axis."""
    return [
        (float(row["size_bytes"]), float(row["measured"]))
        for row in rows
        if row.get("kind") == kind and (row.get("measured") or 0) > 0
    ]
