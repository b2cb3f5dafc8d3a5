"""Every GPU path of pennyweight: checked against its oracle, then timed against the best peer on the same card.

Needs torch, triton and numpy alone, and no installation:

    PYTHONPATH=src python3 benchmarks/gpu/run_all.py [PART ...] [--out FOLDER] [--quick]

Each part takes less than 8 minutes and leaves FOLDER/<part>.csv, with the machine and the versions in each row; a part
whose file is there is not run again, so a call that was cut off goes on where it stopped. A wrong result ends the part
with an error, and the others still run; the exit code is 1 if any part failed. `--device cpu` with TRITON_INTERPRET=1
checks the kernels in Triton's interpreter and times nothing.
"""

import argparse
import csv
import importlib
import json
import os
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import torch

from pennyweight.numerics import measure

PARTS = (
    "int8_matmul",
    "accumulated_matmul",
    "binary_matmul",
    "binary_mnist",
    "binary_tensor_cores",
    "transposable_masks",
)
"""Modules beside this file: `check(device, quick)` raises on a wrong result, `timings(device, quick)` gives rows."""


def run(part: str, device: torch.device, quick: bool, path: Path) -> None:
    """Checks and times one part and writes its file, whole or not at all."""
    module = importlib.import_module(part)
    started = time.perf_counter()
    checked = module.check(device, quick)
    print(f"{part}: {checked} results equal their oracle's", flush=True)
    if device.type == "cpu":
        return
    context = {"machine": json.dumps(measure.machine()), "versions": json.dumps(measure.versions())}
    rows: list[dict[str, Any]] = [row | {"checked": checked} | context for row in module.timings(device, quick)]
    for row in rows:
        print("  " + ", ".join(f"{name}={value}" for name, value in row.items() if name not in context), flush=True)
    draft = path.with_suffix(".draft")
    with draft.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(dict.fromkeys(name for row in rows for name in row)))
        writer.writeheader()
        writer.writerows(rows)
    os.replace(draft, path)
    print(f"{part}: {time.perf_counter() - started:.0f} s, {path}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; all by default")
    parser.add_argument("--out", type=Path, default=Path("runs/gpu"), help="folder for the parts' files (runs/gpu)")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu checks through the interpreter")
    parser.add_argument("--quick", action="store_true", help="the smallest shapes")
    options = parser.parse_args()
    if unknown := sorted(set(options.parts) - set(PARTS)):
        parser.error(f"no part {unknown[0]!r}: there are {', '.join(PARTS)}")
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("torch sees no CUDA device; --device cpu with TRITON_INTERPRET=1 checks the kernels without one")
    if options.device == "cpu" and os.environ.get("TRITON_INTERPRET") != "1":
        parser.error("--device cpu needs TRITON_INTERPRET=1 in the environment: compiled kernels run on a GPU alone")
    options.out.mkdir(parents=True, exist_ok=True)
    failed = []
    for part in options.parts or PARTS:
        path = options.out / f"{part}.csv"
        if path.exists():
            print(f"{part}: done before, {path}")
            continue
        try:
            run(part, torch.device(options.device), options.quick, path)
        except Exception:
            traceback.print_exc()
            failed.append(part)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
