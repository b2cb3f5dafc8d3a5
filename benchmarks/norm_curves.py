"""The picture of normalization in few bits: points below float over bits, by ranges and by squares, from saved rows.

Reads the rows that `int8_training.py --part norm` or `--part sweep` saved, the newest of each data set, and draws one
panel a data set. Nothing is measured here.

    python benchmarks/norm_curves.py [--to docs/norm-bits.svg]
"""

import argparse
import csv
import re
from pathlib import Path

from pennyweight.report.svg import arm_color, house_style
from reporting import RESULTS

Point = tuple[int, float, float, float]
KINDS = {"norm-range": "Range BN", "norm-batch": "batch norm, squares rounded"}
LOWEST = -12.0
"""Points; what is further below float, as nets that guess are, is drawn at this edge."""


def newest() -> dict[str, Path]:
    """The newest file with norms' rows by data set."""
    files = sorted(RESULTS.glob("int8_training_*.csv"), key=lambda path: path.stem[-8:])
    found = {}
    for path in files:
        match = re.match(r"int8_training_(?:norm|sweep)_([a-z0-9]+)-", path.name)
        if match:
            found[match[1]] = path
    return found


def curves(path: Path) -> dict[str, list[Point]]:
    """Bits, points against float and their interval, by kind of norm."""
    found: dict[str, list[Point]] = {kind: [] for kind in KINDS}
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            match = re.fullmatch(r"(norm-range|norm-batch)(\d+)", row["arm"])
            if match and row["peer"] == "float":
                found[match[1]].append((int(match[2]), *(float(row[name]) for name in ("points", "low", "high"))))
    return {kind: sorted(points) for kind, points in found.items() if points}


def draw(files: dict[str, Path], to: Path) -> None:
    """One panel a data set."""
    with house_style():
        from matplotlib.figure import Figure

        figure = Figure(figsize=(4.2 * len(files), 3.2), layout="constrained")
        panels = figure.subplots(1, len(files), squeeze=False)[0]
        for axes, (data, path) in zip(panels, files.items(), strict=True):
            for index, (kind, points) in enumerate(curves(path).items(), 1):
                bits = [point[0] for point in points]
                values, lows, highs = ([max(LOWEST, point[i]) for point in points] for i in (1, 2, 3))
                axes.plot(bits, values, marker="os"[index - 1], color=arm_color(index), label=KINDS[kind])
                axes.fill_between(bits, lows, [min(high, 3.0) for high in highs], color=arm_color(index), alpha=0.15)
            axes.axhline(0, color=arm_color(0), linestyle="--", label="float batch norm")
            axes.set(title=data, xlabel="bits of the normalization", ylabel="points against float", ylim=(LOWEST, 3))
            axes.set_xticks(sorted({point[0] for points in curves(path).values() for point in points}))
        panels[0].legend(loc="lower right", fontsize="small")
        figure.savefig(to, metadata={"Date": None} if to.suffix == ".svg" else None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--to", type=Path, default=RESULTS.parent / "docs" / "norm-bits.svg", help="the picture")
    options = parser.parse_args()
    files = newest()
    if not files:
        print("not drawn: int8_training.py --part norm --save first")
        return
    draw(files, options.to)
    print(f"{options.to.name}: {', '.join(path.name for path in files.values())}")


if __name__ == "__main__":
    main()
