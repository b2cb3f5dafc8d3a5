"""The report as one self-contained HTML page: template, style and pictures inside, nothing to load, no script.

The words come from summary.py and verdict.py, the pictures from plots.py, the layout from report.html and report.css.
"""

from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from pennyweight.errors import MissingDependencyError
from pennyweight.report import units
from pennyweight.report.compression_plots import degradation_frontier, unit_errors
from pennyweight.report.plots import (
    accuracy_against_size,
    latency_distribution,
    palette,
    training_accuracy,
    training_loss,
)
from pennyweight.report.record import ArmReport, RunReport
from pennyweight.report.summary import (
    SummaryRow,
    accuracy_change_text,
    accuracy_notes,
    execution_text,
    summary_rows,
)
from pennyweight.report.svg import color_variable
from pennyweight.report.verdict import Verdict, baseline_sentence, verdict


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One figure of the page; `svg` is None when there is nothing to draw, and `caption` then says why."""

    title: str
    svg: str | None
    caption: str


@dataclass(frozen=True, kw_only=True)
class ArmView:
    """An arm with all that is derived from it for the page."""

    arm: ArmReport
    anchor: str
    color: str
    row: SummaryRow
    verdict: Verdict | None
    execution: str
    accuracy_note: str
    change: str
    largest_layer: int


def render_html(report: RunReport) -> str:
    """The page as text.

    Raises:
        MissingDependencyError: matplotlib or jinja2 is not installed.
    """
    try:
        import jinja2
        from markupsafe import Markup
    except ImportError as error:
        raise MissingDependencyError("jinja2", "viz", "write a report's page") from error
    folder = files("pennyweight.report")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "bytes": units.bytes_text,
        "time": units.time_text,
        "seconds": units.seconds_text,
        "percent": units.percent_text,
        "figure": units.value_text,
        "count": units.count_text,
        "plain": _plain,
        "significant": _number_text,
        "cell": _cell_text,
        "columns": lambda rows: list(dict.fromkeys(key for row in rows for key in row)),
        # Only our own style and our own pictures (whose texts are escaped where they are drawn) pass unescaped.
        "trusted": Markup,
    }
    template = environment.from_string(folder.joinpath("report.html").read_text(encoding="utf-8"))
    baseline = report.baseline_arm()
    return template.render(
        report=report,
        css=folder.joinpath("report.css").read_text(encoding="utf-8"),
        arms=_arm_views(report),
        pictures=_pictures(report),
        baseline=baseline,
        baseline_sentence="" if baseline is None else baseline_sentence(baseline),
        has_loadgen=bool(report.scenario_names()),
    )


def _arm_views(report: RunReport) -> list[ArmView]:
    baseline, places = report.baseline_arm(), palette(report)
    return [
        ArmView(
            arm=arm,
            anchor=f"arm-{index}",
            color=color_variable(places[arm.name]),
            row=row,
            verdict=None if baseline is None or arm is baseline else verdict(arm, baseline),
            execution=execution_text(arm),
            accuracy_note=", ".join(accuracy_notes(arm)),
            change=accuracy_change_text(arm),
            largest_layer=max((layer.bytes or 0 for layer in arm.layers), default=0),
        )
        for index, (arm, row) in enumerate(zip(report.arms, summary_rows(report), strict=True))
    ]


def _pictures(report: RunReport) -> list[Picture]:
    pictures = [
        Picture(
            title="Accuracy against size",
            svg=accuracy_against_size(report),
            caption="No arm has both an accuracy and an artifact, so there is nothing to draw.",
        )
    ]
    # Offline hands over everything at once: a query's latency there is its place in the queue.
    scenarios = [name for name in report.scenario_names() if name != "Offline"]
    drawn = [
        Picture(title=f"{name} latency", svg=svg, caption="")
        for name in scenarios
        if (svg := latency_distribution(report, name)) is not None
    ]
    nothing = Picture(title="Latency", svg=None, caption="No arm has latencies to draw: no such benchmark was run.")
    pictures += drawn or [nothing]
    curves = [("Training loss", training_loss(report)), ("Accuracy during training", training_accuracy(report))]
    pictures += [Picture(title=title, svg=svg, caption="") for title, svg in curves if svg is not None]
    if not any(svg for _, svg in curves):
        pictures.append(Picture(title="Training curves", svg=None, caption="No arm recorded a training curve."))
    return [*pictures, *_compression_pictures(report)]


def _compression_pictures(report: RunReport) -> list[Picture]:
    places = palette(report)
    return [
        Picture(title=f"{title}: {arm.name}", svg=svg, caption="")
        for index, arm in enumerate(report.arms)
        for title, draw in (("Bit allocation", degradation_frontier), ("Unit by unit", unit_errors))
        if (svg := draw(arm, places[arm.name], f"{draw.__name__.replace('_', '-')}-{index}")) is not None
    ]


def _plain(value: Any) -> str:
    """A JSON value of a machine or version table, in words."""
    if value is None or value == "":
        return "none known"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(_plain(item) for item in value) or "none"
    if isinstance(value, dict):
        return ", ".join(f"{key}: {_plain(item)}" for key, item in value.items()) or "none"
    return _number_text(value) if isinstance(value, float) else str(value)


def _cell_text(value: Any) -> str:
    """A value of a table: large numbers whole, small ones to four significant digits."""
    if value is None:
        return units.DASH
    if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) < 10_000:
        return _number_text(value)
    return units.words_for_missing(value) or f"{value:,.0f}".replace("-", units.MINUS)


def _number_text(value: Any) -> str:
    """A metric: numbers to four significant digits, texts as they are."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return units.words_for_missing(value) or f"{value:,.4g}".replace("-", units.MINUS)
