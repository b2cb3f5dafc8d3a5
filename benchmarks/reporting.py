"""What the benchmark scripts share: rows saved as CSV under results/, and headline lines. Nothing is measured here."""

import csv
import datetime
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from pennyweight.numerics import measure

RESULTS = Path(__file__).parents[1] / "results"


def save_rows(what: str, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Writes rows to results/<what>-<machine>-<torch>-<date>.csv, each with the machine and the versions."""
    machine = measure.machine()
    slug = re.sub(r"[^a-z0-9]+", "-", f"{machine['cpu']} {machine['cores']}core".lower()).strip("-")
    stamp = datetime.datetime.now(datetime.UTC).strftime("%Y%m%d")
    path = RESULTS / f"{what}-{slug}-torch{torch.__version__.split('+')[0]}-{stamp}.csv"
    path.parent.mkdir(exist_ok=True)
    context = {"machine": json.dumps(machine), "versions": json.dumps(measure.versions())}
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=[*rows[0], *context])
        writer.writeheader()
        writer.writerows({**row, **context} for row in rows)
    return path


def headline(name: str, value: float, unit: str, n: int, spread: float, peer: str) -> str:
    """One line a program can read; names stay what they are once published."""
    return f"HEADLINE {name} {value:.4g} {unit} n={n} spread={spread:.3f} vs={peer}"
