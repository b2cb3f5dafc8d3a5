"""`pennyweight lba sweep`: accuracy, losses and modelled cost of a net over accumulators of few bits."""

import csv
import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer


def sweep(
    model: Annotated[str, typer.Argument(help="A model, as recipes name it: resnet20, net.py:make, ...")],
    weights: Annotated[Path | None, typer.Option("--weights", help="Float checkpoint of the model.")] = None,
    data: Annotated[str, typer.Option("--data", help="Data set whose test split is used.")] = "digits",
    root: Annotated[Path | None, typer.Option("--root", help="Folder of the data sets.")] = None,
    formats: Annotated[
        str, typer.Option("--formats", help="Mantissa and exponent bits, comma between.")
    ] = "M10E5,M7E4,M5E4,M4E3,M3E3,M2E3",
    chunks: Annotated[str, typer.Option("--chunks", help="Products summed from 0, comma between.")] = "16",
    attention: Annotated[bool, typer.Option("--attention", help="Sum attention's products so too.")] = False,
    images: Annotated[int, typer.Option("--images", min=1, help="Test images at most.")] = 1000,
    out: Annotated[Path | None, typer.Option("--out", help="Folder for sweep.csv, layers.json and sweep.svg.")] = None,
) -> None:
    """Convert a trained net to accumulators of few bits, without training, and show what each costs."""
    from pennyweight.bench.accumulator_sweep import accumulator_sweep
    from pennyweight.errors import RecipeError
    from pennyweight.recipes.resolve import resolve
    from pennyweight.recipes.state import fresh_model
    from pennyweight.recipes.work import CalibrationBatches
    from pennyweight.recipes.yaml_reader import Document

    given: dict[str, Any] = {
        "name": "lba-sweep",
        "data": {"name": data, "root": None if root is None else str(root)},
        "model": {"name": model, "weights": None if weights is None else str(weights.resolve())},
        "arms": {"float": ["export"]},
    }
    recipe = resolve(Document(given, {}, "lba sweep"))
    if not recipe.model.has_learnt:
        raise RecipeError(f"model {model!r} has learnt nothing: give its checkpoint, --weights FILE")
    if not all(part.strip().isdigit() for part in chunks.split(",")):
        raise RecipeError(f"--chunks {chunks!r}: whole numbers with commas between, such as 8,16,32")
    test = recipe.data.test
    found = accumulator_sweep(
        fresh_model(recipe.model, recipe.data, 0),
        test.subset(range(min(images, len(test)))),
        CalibrationBatches(recipe.data.train, 0, 64)[0],
        formats=formats.split(","),
        chunks=[int(part) for part in chunks.split(",")],
        attention=attention,
        note=lambda row: print(f"{row.format}, chunks of {row.chunk}: done", file=sys.stderr, flush=True),
    )
    print(f"float32: {100 * found.float_accuracy:.2f} %, n = {found.n}")
    print("format  bits  chunk  accuracy [95 %]            overflow  underflow  swamping  gates  energy*")
    for row in found.rows:
        interval = f"{100 * row.accuracy:6.2f} % [{100 * row.low:.2f}, {100 * row.high:.2f}]"
        rates = f"{row.overflow:8.5f}  {row.product_underflow:9.5f}  {row.swamping:8.5f}"
        print(
            f"{row.format:6s}  {row.bits:4d}  {row.chunk:5d}  {interval:25s}  {rates}  {row.gates:5d}  {row.energy:.3f}"
        )
    print("* of an addition against float32; gates and energy are modelled. Sums are simulated, biases measured.")
    if out is not None:
        from pennyweight.report.accumulator_plots import accuracy_against_energy
        from pennyweight.report.svg import standalone

        out.mkdir(parents=True, exist_ok=True)
        rows = [row.to_dict() for row in found.rows]
        with (out / "sweep.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, fieldnames=list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        layers = {f"{row.format}/{row.chunk}": {n: vars(r) for n, r in row.layers.items()} for row in found.rows}
        (out / "layers.json").write_text(json.dumps(layers, indent=1), encoding="utf-8")
        picture = accuracy_against_energy(rows, found.float_accuracy, f"{model} in accumulators of few bits")
        (out / "sweep.svg").write_text(standalone(picture), encoding="utf-8")
