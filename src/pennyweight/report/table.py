"""The report as a terminal table: colour where the terminal has it, plain text where the output is a file or a pipe."""

import io
import os
import shutil
import sys
from typing import TextIO

from pennyweight.report.record import RunReport
from pennyweight.report.summary import Cell, summary_rows
from pennyweight.report.units import MINUS, TIMES
from pennyweight.report.verdict import Kind, baseline_sentence, verdict

_STYLE: dict[Kind, str] = {"better": "green", "worse": "red", "same": "", "unknown": "dim"}
_CLAIM_STYLE = {"holds": "green", "partly": "yellow", "not": "red", "not run": "dim"}


def render_table(report: RunReport, *, width: int = 110, color: bool = False, ascii_only: bool = False) -> str:
    """The summary table, one verdict sentence an arm, and the claims, as text.

    Args:
        report: what to show.
        width: columns of the terminal.
        color: with ANSI colours.
        ascii_only: lines of plain characters, for terminals that know no others.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    # Every text of the user's goes in as Text: rich reads no markup in it.
    out = io.StringIO()
    console = Console(
        file=out,
        width=width,
        force_terminal=color,
        color_system="standard" if color else None,
        legacy_windows=False,
        highlight=False,
        emoji=False,
    )
    console.print(Text(report.name, style="bold"))
    rows = summary_rows(report)
    lines = box.ASCII2 if ascii_only else box.SIMPLE_HEAD
    table = Table(box=lines, pad_edge=False, show_lines=ascii_only)
    table.add_column("Arm", overflow="fold", min_width=6)
    for cell in rows[0].cells if rows else ():
        table.add_column(Text(cell.heading), justify="left" if cell.heading == "Arithmetic" else "right")
    for row in rows:
        name = Text(row.name, style="bold")
        if row.is_baseline:
            name.append("\nbaseline", style="dim")
        table.add_row(name, *(Text.assemble(*_cell_parts(cell)) for cell in row.cells))
    console.print(table if rows else Text("This run has no arms."))

    baseline = report.baseline_arm()
    if baseline is not None:
        console.print(Text(baseline_sentence(baseline)))
        for arm in report.arms:
            if arm is not baseline:
                console.print(Text(verdict(arm, baseline).sentence))
    for claim in report.claims:
        line = Text.assemble((claim.verdict.upper(), _CLAIM_STYLE[claim.verdict]), " ", claim.claim)
        console.print(line.append(f" Measured: {claim.measured}" if claim.measured else ""))
    if report.scenario_names():
        console.print(Text("LoadGen measurement; not an MLCommons result.", style="dim"))
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()) + "\n"


def print_report(report: RunReport, file: TextIO | None = None) -> None:
    """Print the terminal table; coloured and fitted to a terminal, plain and 110 columns wide elsewhere."""
    file = file or sys.stdout
    terminal = file.isatty()
    encoding = getattr(file, "encoding", None) or "utf-8"
    unicode = encoding.lower().replace("-", "").startswith("utf")
    text = render_table(
        report,
        width=shutil.get_terminal_size().columns if terminal else 110,
        color=terminal and "NO_COLOR" not in os.environ,
        ascii_only=not unicode,
    )
    if not unicode:
        # A terminal that cannot show a character gets its nearest plain one, never a traceback.
        plain = text.translate(str.maketrans(TIMES + MINUS + "µ", "x-u"))
        text = plain.encode(encoding, errors="replace").decode(encoding)
    file.write(text)


def _cell_parts(cell: Cell) -> list[tuple[str, str]]:
    """(text, style) pieces of a cell, one below the other."""
    parts = [(cell.text, "")]
    parts += [("\n" + note, "red" if note == "INVALID" else "dim") for note in cell.notes]
    if cell.against:
        parts.append(("\n" + cell.against, _STYLE[cell.kind]))
    return parts
