"""From the JSON of a run folder to the report's records; nothing is measured or computed anew but comparisons."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pennyweight.bench.paired import compare
from pennyweight.errors import RecipeError
from pennyweight.methods import BitAllocation
from pennyweight.numerics.measure import interval_mean
from pennyweight.recipes.files import read_json
from pennyweight.recipes.stages import STAGES
from pennyweight.recipes.stages.accuracy import read_correct
from pennyweight.recipes.stages.apply import public_methods
from pennyweight.report import (
    Accuracy,
    ArmReport,
    ClaimBox,
    Comparison,
    CurvePoint,
    LayerRow,
    MethodReport,
    RunReport,
    ScenarioReport,
    SizeBreakdown,
    claim_box,
)

Stages = Sequence[Mapping[str, Any]]
"""What the finished stages of an arm and seed wrote, in order."""


def build_report(folder: Path) -> RunReport:
    """The report of a run folder.

    Raises:
        RecipeError: the folder holds no finished run, or a file of it is damaged.
    """
    if not (folder / "run.json").is_file():
        raise RecipeError(f"{folder} holds no finished run: there is no run.json; `pennyweight run` makes one")
    facts = read_json(folder / "run.json")
    try:
        arms = {name: read_json(folder / "arms" / f"{name}.json") for name in facts["arms"]}
        seeds = tuple(facts["seeds"])
        by_seed = {name: {seed: arm["seeds"].get(str(seed), []) for seed in seeds} for name, arm in arms.items()}
        right = {name: _correct(folder, by_seed[name]) for name in arms}
        reports = tuple(
            _arm(name, arms[name]["error"], by_seed[name], facts["baseline"], right) for name in facts["arms"]
        )
        resolved = folder / "resolved.yaml"
        return RunReport(
            name=facts["name"],
            arms=reports,
            baseline=facts["baseline"],
            recipe_yaml=resolved.read_text(encoding="utf-8") if resolved.is_file() else "",
            seeds=seeds,
            machine=facts["machine"],
            versions=facts["versions"],
            command=facts["command"],
            claims=tuple(_claim_box(claim, reports, facts["command"]) for claim in facts["claims"]),
            excluded=_excluded(by_seed),
            started=facts["started"],
            seconds=_seconds(by_seed),
        )
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise RecipeError(
            f"the JSON in {folder} is damaged ({type(error).__name__}: {error}): run the recipe again, "
            f"it keeps what is done"
        ) from error


def _claim_box(claim: Mapping[str, Any], arms: Sequence[ArmReport], command: str) -> ClaimBox:
    return claim_box(
        claim["claim"],
        claim["paper"],
        claim["setting"],
        next((arm for arm in arms if arm.name == claim["arm"]), None),
        margin_points=claim["max_drop_points"],
        command=command,
    )


def _arm(
    name: str,
    error: str | None,
    by_seed: Mapping[int, Stages],
    baseline: str,
    right: Mapping[str, Mapping[int, NDArray[np.bool_]]],
) -> ArmReport:
    first = next(iter(by_seed.values()))
    exported = _of_final_model(first, "size_bytes")
    measured = _of_final_model(first, "benchmark")
    benchmark = measured["benchmark"] if measured else None
    notes = [f"failed: {error}"] if error else []
    notes += [f"layer {layer} failed: {reason}" for layer, reason in failed_layers(first).items()]
    notes += [_samples_note(one["metrics"]) for one in _records(first) if "units_short_of_samples" in one["metrics"]]
    notes += benchmark["warnings"] if benchmark else []
    notes += [_onnx_note(stage["record"]["onnx"]) for stage in first if "onnx" in stage["record"]]
    notes += [_synthesis_note(stage["record"]["synthesized"]) for stage in first if "synthesized" in stage["record"]]
    notes += _perplexity_notes(by_seed)
    missing = [str(seed) for seed, stages in by_seed.items() if not _accuracies(stages)]
    if missing and not error:
        notes.append(f"no accuracy for seed {', '.join(missing)}: no stage measured it")
    if len(by_seed) > 1 and (exported or benchmark):
        notes.append(f"size, layers and benchmark are those of seed {next(iter(by_seed))}")
    if exported is None and any("size_bytes" in stage["record"] for stage in first):
        notes.append("no size: the model was changed after its export; export it again")
    if measured is None and any("benchmark" in stage["record"] for stage in first):
        notes.append("no benchmark: the model was changed after it; measure again")
    compared = name != baseline and baseline in right
    if exported and measured and measured.get("runtime") == "onnx":
        exported = _as_onnx_runtime_has_it(exported, measured["benchmark"])
    return ArmReport(
        name=name,
        stages=tuple(stage["title"] for stage in first),
        accuracy=_accuracy(by_seed),
        comparison=_comparison(baseline, right[baseline], right[name]) if compared else None,
        size_bytes=exported["size_bytes"] if exported else None,
        size=_size(exported["size"]) if exported and exported["size"] else None,
        numerics=exported["numerics"] if exported else "a module in torch, not exported",
        layers=tuple(_layer(row) for row in exported["layers"]) if exported else (),
        scenarios=tuple(_scenario(result, benchmark) for result in benchmark["scenarios"]) if benchmark else (),
        methods=tuple(method for stage in first for method in _methods(stage["record"])),
        curve=tuple(point for seed, stages in by_seed.items() for point in _curve(seed, stages)),
        seconds=sum(stage["seconds"] for stages in by_seed.values() for stage in stages) or None,
        notes=tuple(notes),
    )


def _as_onnx_runtime_has_it(exported: Mapping[str, Any], benchmark: Mapping[str, Any]) -> Mapping[str, Any]:
    """The record of an export with the .onnx file that was measured in the artifact's place.

    For speed, every layer with codes on both sides is an integer kernel of the runtime.
    """
    executed = exported["onnx"]["deploy"] == "speed"
    layers = [
        row | {"execution": "executed"} if executed and row["inputs"] != "float32" else row
        for row in exported["layers"]
    ]
    return {
        "size_bytes": benchmark["size_bytes"],
        "size": None,
        "numerics": benchmark["numerics"],
        "layers": layers,
    }


def _of_final_model(stages: Stages, key: str) -> Mapping[str, Any] | None:
    """The last record that has the key, if it is of the model as the arm leaves it and not of an earlier one."""
    for stage in reversed(stages):
        if key in stage["record"]:
            found: Mapping[str, Any] = stage["record"]
            return found
        if STAGES[stage["kind"]].changes_model:
            return None
    return None


def _accuracies(stages: Stages) -> list[Mapping[str, Any]]:
    return [stage["record"]["accuracy"] for stage in stages if stage["record"].get("accuracy")]


def _accuracy(by_seed: Mapping[int, Stages]) -> Accuracy | None:
    """One seed: the interval over test samples. Several: mean, and the t interval over seeds, which has both noises."""
    found = {seed: accuracies[-1] for seed, stages in by_seed.items() if (accuracies := _accuracies(stages))}
    if not found:
        return None
    values = [accuracy["value"] for accuracy in found.values()]
    n = next(iter(found.values()))["n"]
    if len(found) == 1:
        ((seed, one),) = found.items()
        kind = "95 %, over test samples"
        return Accuracy(
            value=one["value"],
            low=one["low"],
            high=one["high"],
            n=n,
            seeds=(seed,),
            per_seed=(one["value"],),
            interval=kind,
        )
    interval = interval_mean(values)
    return Accuracy(
        value=interval.value,
        low=max(0.0, interval.low),
        high=min(1.0, interval.high),
        n=n,
        seeds=tuple(found),
        per_seed=tuple(values),
        interval="95 % t interval over seeds",
    )


def _perplexity_notes(by_seed: Mapping[int, Stages]) -> list[str]:
    """Of a language model: its perplexity, beside the share of next tokens it guesses."""
    last = [accuracies[-1] for stages in by_seed.values() if (accuracies := _accuracies(stages))]
    found = [one for one in last if "perplexity" in one]
    if not found:
        return []
    value, low, high = (found[0][key] for key in ("perplexity", "perplexity_low", "perplexity_high"))
    kind = "over stretches of the test text"
    if len(found) > 1:
        interval = interval_mean([math.log(one["perplexity"]) for one in found])
        value, low, high = (math.exp(min(end, 709.0)) for end in (interval.value, interval.low, interval.high))
        kind = f"t interval over {len(found)} seeds, of its logarithm"
    return [
        f"perplexity {value:.2f} [{low:.2f}, {high:.2f}], 95 %, {kind}; accuracy is the share of next tokens guessed"
    ]


def _correct(folder: Path, by_seed: Mapping[int, Stages]) -> dict[int, NDArray[np.bool_]]:
    """Which test samples each seed's net got right, at the last stage that measured it."""
    found = {}
    for seed, stages in by_seed.items():
        measured = [stage for stage in stages if stage["record"].get("accuracy")]
        right = read_correct(folder / measured[-1]["folder"]) if measured else None
        if right is not None:
            found[seed] = right
    return found


def _comparison(
    baseline: str, reference: Mapping[int, NDArray[np.bool_]], candidate: Mapping[int, NDArray[np.bool_]]
) -> Comparison | None:
    """Paired, sample by sample; with several seeds the seed is the unit, for nets differ more than samples tell."""
    seeds = [seed for seed in reference if seed in candidate and len(reference[seed]) == len(candidate[seed])]
    if not seeds:
        return None
    pairs = [compare(candidate[seed], reference[seed]) for seed in seeds]
    n = sum(pair.n for pair in pairs)
    only_reference = sum(pair.only_reference for pair in pairs)
    only_candidate = sum(pair.only_candidate for pair in pairs)
    if len(pairs) == 1:
        return Comparison(
            reference=baseline,
            only_reference=only_reference,
            only_candidate=only_candidate,
            n=n,
            p_value=pairs[0].p_value,
        )
    interval = interval_mean([(pair.only_candidate - pair.only_reference) / pair.n for pair in pairs])
    return Comparison(
        reference=baseline,
        only_reference=only_reference,
        only_candidate=only_candidate,
        n=n,
        difference=interval.value,
        low=interval.low,
        high=interval.high,
    )


def _size(size: Mapping[str, int]) -> SizeBreakdown:
    return SizeBreakdown(
        codes=size["codes"], scales=size["scales"], parameters=size["parameters"], other=size["manifest"]
    )


def _layer(row: Mapping[str, Any]) -> LayerRow:
    inputs = "" if row["inputs"] == "float32" else f", inputs {row['inputs']}"
    return LayerRow(
        fqn=row["fqn"],
        type=row["kind"],
        format=f"{row['weights']}{inputs}",
        bits=row["weight_bits"],
        shape=tuple(row["shape"]),
        bytes=row["size_bytes"],
        executed=row["execution"],
    )


def _scenario(result: Mapping[str, Any], benchmark: Mapping[str, Any]) -> ScenarioReport:
    threads = benchmark["threads"]
    return ScenarioReport(
        scenario=result["scenario"],
        metric_name=result["metric_name"],
        value=result["value"],
        unit=result["unit"],
        valid=result["valid"],
        reasons=tuple(result["reasons"]),
        p50_ns=result["p50_ns"],
        p90_ns=result["p90_ns"],
        p99_ns=result["p99_ns"],
        mean_ns=result["mean_ns"],
        effective_percentile=result["effective_percentile"],
        query_count=result["query_count"],
        quantiles=tuple((q, ns) for q, ns in result["quantiles"]),
        overhead_ns=benchmark["overhead_ns"] if result["scenario"] == "SingleStream" else None,
        backend=f"{benchmark['numerics']}; {threads} {'thread' if threads == 1 else 'threads'}",
    )


def _methods(record: Mapping[str, Any]) -> list[MethodReport]:
    found = record.get("methods", ())
    tables = record.get("tables") or [{} for _ in found]
    return [_method(method, rows) for method, rows in zip(found, tables, strict=True)]


def _method(found: Mapping[str, Any], tables: Mapping[str, Sequence[Mapping[str, Any]]]) -> MethodReport:
    settings = dict(found["method"])
    name = settings.pop("name")
    shown = ", ".join(f"{key}={_shown(value)}" for key, value in _differing(name, settings).items())
    metrics = found["metrics"]
    if tables:  # which hold what there is to say layer by layer
        layers = {layer for layer in found["changed"] if any(key.startswith(f"{layer}.") for key in metrics)}
        metrics = {key: value for key, value in metrics.items() if key.rpartition(".")[0] not in layers}
    return MethodReport(
        name=f"{name}({shown})",
        changed=len(found["changed"]),
        skipped=found["skipped"],
        failed=found["failed"],
        metrics=metrics,
        tables={title: tuple(rows) for title, rows in tables.items() if rows},
    )


def _differing(name: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that are not the method's defaults; all, where the method is none of ours."""
    kind = public_methods().get(name)
    usual = {} if kind is None else {field.name: field.default for field in dataclasses.fields(kind)}
    return {key: value for key, value in settings.items() if key not in usual or value != _plain(usual[key])}


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _shown(value: Any) -> str:
    """A setting in a line; of nested settings only those that say something."""
    if isinstance(value, Mapping):
        usual = {field.name: _plain(field.default) for field in dataclasses.fields(BitAllocation)}
        said = {key: item for key, item in value.items() if key not in usual or item != usual[key]}
        return "{" + ", ".join(f"{key}: {_shown(item)}" for key, item in said.items()) + "}"
    return "[" + ", ".join(map(str, value)) + "]" if isinstance(value, list) else repr(value)


def _onnx_note(found: Mapping[str, Any]) -> str:
    """The .onnx file beside the artifact, in a line."""
    check, changed = found["check"], found["changed"]
    told = (
        f"model.onnx for {found['deploy']}: {found['size_bytes']} bytes, accuracy {100 * found['accuracy']:.2f} % in "
        f"ONNX Runtime {check['runtime']}; its answer is the model's on {100 * changed['argmax']:.1f} % of "
        f"{changed['rows']} training images"
    )
    return "; ".join([told, *check["warnings"]])


def _synthesis_note(found: Mapping[str, Any]) -> str:
    note = f"calibrated and trained from here on with {found['n']:,} synthesized images ({found['scheme']}), none real"
    if "divergence" in found:
        note += f"; divergence {found['divergence']:.3g}, sets of this size are trusted up to {found['threshold']:.3g}"
    return note


def failed_layers(stages: Stages) -> dict[str, str]:
    """Layers of an arm where a method failed, with the reason."""
    return {name: reason for method in _records(stages) for name, reason in method["failed"].items()}


def _records(stages: Stages) -> list[Mapping[str, Any]]:
    """What the methods of all stages did."""
    return [method for stage in stages for method in stage["record"].get("methods", ())]


def _samples_note(metrics: Mapping[str, Any]) -> str:
    units = metrics["units_short_of_samples"]
    return (
        f"{units} unit{'s' if units > 1 else ''} had more weights to fit than equations: {metrics['samples']} samples "
        f"were given, {metrics['samples_needed_by']} needs {metrics['samples_needed']}; such fits may not carry over "
        f"to other data"
    )


def _curve(seed: int, stages: Stages) -> list[CurvePoint]:
    """Losses of all train stages, one after the other, with the accuracy at the end of each."""
    points: list[CurvePoint] = []
    start = 0
    for stage in stages:
        record = stage["record"]
        if "curve" not in record:
            continue
        points += [CurvePoint(step=start + step, loss=loss, seed=seed) for step, loss in record["curve"]]
        start += record["steps"]
        accuracy = record.get("accuracy")
        if accuracy:
            points.append(CurvePoint(step=start, accuracy=accuracy["value"], seed=seed))
    return points


def _excluded(by_seed: Mapping[str, Mapping[int, Stages]]) -> tuple[str, ...]:
    found: dict[str, None] = {}
    for seeds in by_seed.values():
        for stages in seeds.values():
            for stage in stages:
                found |= dict.fromkeys(stage["record"].get("benchmark", {}).get("excluded", ()))
    return tuple(found)


def _seconds(by_seed: Mapping[str, Mapping[int, Stages]]) -> float:
    """Time of all stages, each counted once."""
    seconds = {
        stage["folder"]: stage["seconds"] for seeds in by_seed.values() for stages in seeds.values() for stage in stages
    }
    return math.fsum(seconds.values())
