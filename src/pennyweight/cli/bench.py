"""`pennyweight bench`: one packed artifact or .onnx file through LoadGen."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer


def bench(
    artifact: Annotated[Path, typer.Argument(help="A packed artifact (.pw), or an .onnx file.")],
    data: Annotated[str, typer.Option("--data", help="Data set whose test split is used.")] = "digits",
    root: Annotated[Path | None, typer.Option("--root", help="Folder of the data sets.")] = None,
    scenario: Annotated[
        list[str] | None, typer.Option("--scenario", help="SingleStream or Offline; repeatable. Both by default.")
    ] = None,
    duration_s: Annotated[float, typer.Option("--duration-s", min=0.001, help="Least seconds a scenario.")] = 2.0,
    max_batch: Annotated[int, typer.Option("--max-batch", min=1, help="Samples a call in Offline.")] = 256,
    threads: Annotated[int, typer.Option("--threads", min=1, help="The model computes with.")] = 1,
    reference: Annotated[Path | None, typer.Option("--reference", help="File to compare accuracy with.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the whole result as JSON.")] = False,
) -> None:
    """Measure accuracy, latency and throughput of one artifact or .onnx file."""
    from pennyweight.bench.model import benchmark
    from pennyweight.recipes.convert import Place, build
    from pennyweight.recipes.stages.bench import BenchStage
    from pennyweight.recipes.work import Data
    from pennyweight.recipes.yaml_reader import Document

    given: dict[str, Any] = {"duration_s": duration_s, "max_batch": max_batch, "threads": threads}
    if scenario:
        given["scenarios"] = list(scenario)
    settings = build(BenchStage, given, Place(Document(given, {}, "bench")))
    result = benchmark(
        _candidate(artifact, threads),
        Data(name=data, root=None if root is None else str(root)).test,
        reference=None if reference is None else _candidate(reference, threads),
        scenarios=settings.scenarios,
        duration_s=settings.duration_s,
        max_batch=settings.max_batch,
        threads=settings.threads,
        progress=lambda text: print(text, file=sys.stderr, flush=True),
    )
    if as_json:
        print(json.dumps(result.to_dict()))
        return
    size = "" if result.size_bytes is None else f", {result.size_bytes} bytes"
    print(f"{artifact}: {result.numerics}{size}, {result.threads} thread{'s' if result.threads > 1 else ''}")
    low, high = 100 * result.accuracy_low, 100 * result.accuracy_high
    print(f"accuracy      {100 * result.accuracy:.2f} %  [{low:.2f}, {high:.2f}], n = {result.n}")
    if result.paired is not None:
        pair = result.paired
        print(
            f"against {result.reference}: right alone {pair.only_candidate}, wrong alone {pair.only_reference}, "
            f"p = {pair.p_value:.3g}"
        )
    for found in result.scenarios:
        value = "no figure" if found.value is None else f"{found.value:.6g} {found.unit}"
        queries = "1 query" if found.query_count == 1 else f"{found.query_count} queries"
        verdict = "valid" if found.valid else f"INVALID: {'; '.join(found.reasons)}"
        print(f"{found.scenario:<13} {value}  ({found.metric_name}, {queries}, {verdict})")
    for warning in result.warnings:
        print(f"warning: {warning}")
    print("LoadGen measurement; not an MLCommons result.")


def _candidate(path: Path, threads: int) -> Any:
    from pennyweight.artifact import load
    from pennyweight.bench.backends import OnnxRuntimeBackend

    return OnnxRuntimeBackend(path, threads=threads) if path.suffix == ".onnx" else load(path)
