"""The page: complete, self-contained, safe with any text, in words where something is missing, written whole."""
# ruff: noqa: RUF001 (the words carry mathematical signs)

import dataclasses
import errno
import math
import os
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from pennyweight.errors import BenchmarkError, MissingDependencyError
from pennyweight.report import (
    Accuracy,
    ArmReport,
    ClaimBox,
    LayerRow,
    MethodReport,
    RunReport,
    ScenarioReport,
    print_report,
    read_report,
    render_table,
    write_report,
)
from pennyweight.report.html import render_html

HOSTILE = "<script>alert('x')</script><img src=http://evil.example/x onerror=alert(1)>\" onload=\"x"
VOID = {"meta", "link", "br", "img", "hr", "input", "path", "use", "i"}


class Page(HTMLParser):
    """Tags, attributes and visible text of a page; closing tags are held against opening ones."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in {"meta", "br"}:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"style", "defs"} & set(self.open):
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module")
def page(sample_report: RunReport) -> str:
    return render_html(sample_report)


def test_the_page_is_well_formed_and_says_what_it_must(page: str) -> None:
    parsed = Page(page)
    assert parsed.open == []
    for words in (
        "LoadGen measurement; not an MLCommons result.",
        "29.9× smaller",
        "1.77× slower",
        "INVALID",
        "Min duration not satisfied",
        "only float right: 39; only w4a4 right: 5",
        "McNemar p < 0.0001",
        "effectively p90.07",
        "all layers simulated",
        "int8 input by packed signs",
        "excluded by '@last'",
        "Example CPU @ 2.50 GHz",
        "2.13.0+cpu",
        "interquartile range 2.1 % of the median",
        "loading the artifact and warm-up",
        "pennyweight run quickstart --folder runs/demo",
        "cosine, steps: 1500",
        "not part of this recipe",
    ):
        assert words in parsed.text, words
    assert len([tag for tag, _ in parsed.tags if tag == "svg"]) == 4


def test_the_page_loads_nothing(page: str) -> None:
    parsed = Page(page)
    assert not {tag for tag, _ in parsed.tags} & {"script", "link", "img", "iframe", "object", "embed", "base"}
    for tag, attributes in parsed.tags:
        for name, value in attributes.items():
            if name in {"src", "href", "xlink:href", "srcset", "data", "action"}:
                assert (value or "").startswith("#"), (tag, name, value)
            assert not name.startswith("on"), (tag, name)
    style = "".join(re.findall(r"<style>.*?</style>", page, re.DOTALL))
    assert "@import" not in style
    assert "@font-face" not in style
    assert "url(" not in style
    assert "default-src 'none'" in page


def test_links_and_descriptions_lead_somewhere(page: str) -> None:
    parsed = Page(page)
    ids = [attributes["id"] for _, attributes in parsed.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    for _, attributes in parsed.tags:
        for name in ("aria-labelledby", "href", "xlink:href"):
            for target in (attributes.get(name) or "").replace("#", "").split():
                assert target in ids


def test_the_page_is_the_same_bytes_again(page: str, sample_report: RunReport) -> None:
    assert render_html(sample_report) == page


def test_hostile_texts_stay_texts() -> None:
    scenario = ScenarioReport(
        scenario=HOSTILE, metric_name=HOSTILE, value=1.0, unit=HOSTILE, valid=False, reasons=(HOSTILE,),
        p50_ns=1, p90_ns=2, backend=HOSTILE,
    )  # fmt: skip
    arms = tuple(
        ArmReport(
            name=f"{index}{HOSTILE}",
            stages=(HOSTILE,),
            accuracy=Accuracy(value=0.5, n=10, interval=HOSTILE),
            size_bytes=10 + index,
            numerics=HOSTILE,
            executed=HOSTILE,
            layers=(LayerRow(fqn=HOSTILE, type=HOSTILE, format=HOSTILE, note=HOSTILE),),
            scenarios=(scenario,),
            methods=(MethodReport(name=HOSTILE, changed=1, skipped={HOSTILE: HOSTILE}, metrics={HOSTILE: HOSTILE}),),
            notes=(HOSTILE,),
        )
        for index in range(2)
    )
    claim = ClaimBox(
        claim=HOSTILE, paper=HOSTILE, setting=HOSTILE, measured=HOSTILE, verdict="not", command=HOSTILE, n=HOSTILE
    )
    report = RunReport(
        name=HOSTILE, arms=arms, recipe_yaml=HOSTILE, machine={HOSTILE: HOSTILE}, versions={HOSTILE: [HOSTILE]},
        command=HOSTILE, claims=(claim,), excluded=(HOSTILE,), started=HOSTILE,
    )  # fmt: skip
    parsed = Page(render_html(report))
    assert parsed.open == []
    assert not {tag for tag, _ in parsed.tags} & {"script", "img"}
    assert not [name for _, attributes in parsed.tags for name in attributes if name.startswith("on")]
    assert "<script>alert('x')</script>" in parsed.text, "shown, not dropped"
    table = render_table(dataclasses.replace(report, name="[red]x[/red]"))
    assert "[red]x[/red]" in table


def bare_reports() -> dict[str, RunReport]:
    """What a run may lack."""
    nan = math.nan
    broken = ScenarioReport(
        scenario="SingleStream",
        metric_name="p90 latency",
        value=nan,
        unit="ns",
        valid=False,
        reasons=("ran out of generated queries",),
        p50_ns=nan,
        mean_ns=math.inf,
        query_count=None,
    )
    base = ArmReport(name="float", accuracy=Accuracy(value=0.9, n=10), size_bytes=100)
    return {
        "no arms": RunReport(name="x", arms=()),
        "nothing measured": RunReport(name="x", arms=(ArmReport(name="a"), ArmReport(name="b"))),
        "no benchmark": RunReport(name="x", arms=(base, dataclasses.replace(base, name="b"))),
        "invalid and NaN": RunReport(name="x", arms=(base, dataclasses.replace(base, name="b", scenarios=(broken,)))),
        "NaN everywhere": RunReport(
            name="x",
            arms=(
                base,
                ArmReport(
                    name="b",
                    accuracy=Accuracy(value=nan, low=nan, high=nan, n=0),
                    executed=False,
                    layers=(LayerRow(fqn="f", type="t", format="int4", bits=nan),),
                    methods=(MethodReport(name="m", changed=0, metrics={"sqnr": nan}),),
                    seconds=nan,
                ),
            ),
            seconds=nan,
        ),
        "another baseline": RunReport(name="x", arms=(base,), baseline="gone"),
    }


@pytest.mark.parametrize("what", list(bare_reports()))
def test_what_is_missing_is_said_in_words(what: str) -> None:
    report = bare_reports()[what]
    parsed = Page(render_html(report))
    table = render_table(report)
    assert parsed.open == []
    for text in (parsed.text, table):
        assert not re.search(r"\b(None|nan|NaN|inf|Undefined)\b", text.replace(report.name, "")), text


def test_words_for_what_is_missing() -> None:
    reports = bare_reports()
    assert "This run has no arms." in Page(render_html(reports["no arms"])).text
    nothing = Page(render_html(reports["nothing measured"])).text
    assert "No arm has both an accuracy and an artifact" in nothing
    assert "Not benchmarked." in nothing
    assert "No speed was measured in this run." in nothing
    invalid = Page(render_html(reports["invalid and NaN"])).text
    assert "ran out of generated queries" in invalid
    assert "float was not benchmarked" in invalid
    assert "No arm is called “gone”" in Page(render_html(reports["another baseline"])).text


def test_the_table_is_plain_where_there_is_no_terminal(
    sample_report: RunReport, capsys: pytest.CaptureFixture[str]
) -> None:
    print_report(sample_report)
    text = capsys.readouterr().out
    assert "\x1b" not in text
    assert max(map(len, text.splitlines())) <= 110
    for words in ("float", "baseline", "29.9× smaller", "1.77× slower", "INVALID", "not an MLCommons result", "HOLDS"):
        assert words in text
    assert "\x1b[" in render_table(sample_report, color=True)


def test_the_table_fits_a_terminal_that_knows_ascii_only(sample_report: RunReport, tmp_path: Path) -> None:
    with (tmp_path / "table.txt").open("w", encoding="ascii") as file:
        print_report(sample_report, file)
    assert "29.9x smaller" in (tmp_path / "table.txt").read_text(encoding="ascii")


def test_writing_makes_the_page_and_the_data(sample_report: RunReport, tmp_path: Path) -> None:
    page = write_report(sample_report, tmp_path / "deep" / "folder")
    assert page == tmp_path / "deep" / "folder" / "report.html"
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert read_report(page.parent) == sample_report
    assert sorted(path.name for path in page.parent.iterdir()) == ["report.html", "report.json"]


def test_a_full_disk_leaves_the_former_report(
    sample_report: RunReport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_report(sample_report, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(BenchmarkError, match="No space left on device"):
        write_report(dataclasses.replace(sample_report, name="second"), tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("package", ["matplotlib", "jinja2"])
def test_without_the_viz_extra_the_numbers_are_kept(
    package: str, sample_report: RunReport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingDependencyError, match=rf"{package}.*pennyweight\[viz\]"):
        write_report(sample_report, tmp_path)
    assert read_report(tmp_path) == sample_report
    assert not (tmp_path / "report.html").exists()
