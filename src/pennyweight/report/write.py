"""A report as files in a folder: report.json, then report.html, each whole or not at all."""

import os
import tempfile
from pathlib import Path

from pennyweight.errors import BenchmarkError
from pennyweight.report.html import render_html
from pennyweight.report.json_report import report_to_json
from pennyweight.report.record import RunReport


def write_report(report: RunReport, folder: Path) -> Path:
    """Write report.json and report.html; returns the path of the page.

    The JSON goes first and needs no optional package, so that the numbers are kept where the page cannot be drawn.

    Raises:
        MissingDependencyError: matplotlib or jinja2 is not installed.
        BenchmarkError: the folder cannot be written (read-only, disk full); a former report is left as it was.
    """
    page = folder / "report.html"
    _write_atomically(folder / "report.json", report_to_json(report))
    _write_atomically(page, render_html(report))
    return page


def _write_atomically(path: Path, text: str) -> None:
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Beside the target: a rename is atomic only within one file system.
        with tempfile.NamedTemporaryFile(
            "w", encoding="utf-8", newline="\n", dir=path.parent, prefix=f".{path.name}.", delete=False
        ) as file:
            temporary = Path(file.name)
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)  # a temporary file is private; a report is for showing
        temporary.replace(path)
    except OSError as error:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        raise BenchmarkError(
            f"cannot write {str(path)!r}: {error.strerror or error}; free space or choose another folder"
        ) from error
