"""The picture of a sweep over accumulators: accuracy against modelled energy."""

from collections.abc import Mapping, Sequence
from typing import Any

from pennyweight.report.layout import figure, label_points, lay_out
from pennyweight.report.svg import MARKERS, MUTED, PAPER, arm_color, house_style, plain_text, to_svg
from pennyweight.report.units import percent_text


def accuracy_against_energy(rows: Sequence[Mapping[str, Any]], float_accuracy: float, title: str) -> str:
    """Accuracy of each format over its energy as a share of float32's; one colour and mark a length of chunk.

    Args:
        rows: with format, chunk, energy, accuracy, low and high.
        float_accuracy: a dashed line.
        title: what was swept.
    """
    chunks = list(dict.fromkeys(int(row["chunk"]) for row in rows))
    with house_style():
        fig, axes = figure()
        ends = [float_accuracy, *(float(row[end]) for row in rows for end in ("low", "high"))]
        margin = max(0.06 * (max(ends) - min(ends)), 0.005)
        axes.set_ylim(max(0.0, min(ends) - margin), min(1.0 + margin / 2, max(ends) + margin))
        energies = [float(row["energy"]) for row in rows]
        axes.set_xlim(0.85 * min(energies), 1.1 * max(energies))
        axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.4g} %" if value <= 1 else "")
        axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.3g} %")
        lines: list[tuple[str, Any]] = []
        for place, chunk in enumerate(chunks, 1):
            own = [row for row in rows if int(row["chunk"]) == chunk]
            color = arm_color(place)
            for row in own:
                axes.vlines(row["energy"], row["low"], row["high"], color=color, linewidth=1.6, alpha=0.75, zorder=2)
            (line,) = axes.plot(
                [row["energy"] for row in own],
                [row["accuracy"] for row in own],
                MARKERS[(place - 1) % len(MARKERS)],
                color=color,
                markersize=8,
                markeredgecolor=PAPER,
                zorder=3,
            )
            lines.append((f"chunks of {chunk}", line))
        axes.set_xlabel("Energy of an addition against float32, modelled")
        lay_out(fig, axes, "Accuracy, 95 % interval; up and to the left is better", lines if len(chunks) > 1 else [])
        axes.axhline(float_accuracy, color=MUTED, linewidth=1, linestyle=(0, (2, 3)), zorder=1)
        named = [row for row in rows if int(row["chunk"]) == chunks[0]]
        points: Any = [
            (plain_text(str(row["format"]), 24), row["energy"], row["accuracy"], (row["low"], row["high"]))
            for row in named
        ]
        label_points(fig, axes, float_accuracy, points)
        told = "; ".join(
            f"{row['format']}, chunks of {row['chunk']}: {percent_text(row['accuracy'])} at "
            f"{percent_text(row['energy'])} of float32's energy, modelled"
            for row in rows
        )
        return to_svg(fig, name="accumulators", title=plain_text(title), description=told)
