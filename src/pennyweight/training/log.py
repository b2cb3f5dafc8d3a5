"""`metrics.jsonl`: one line of JSON for each optimiser step, on the disk at once."""

import json
import os
from pathlib import Path
from typing import Any

from pennyweight.errors import CheckpointError

SCHEMA = 1


class MetricsLog:
    """Appends records to a file; steps from `start` on, left by a session that died, are first taken out.

    Thus the file of a run that was killed and resumed has each step once, as that of an uninterrupted one.

    Args:
        path: the file; its folder is made.
        start: the step the run goes on from; 0 starts the file afresh.

    Raises:
        CheckpointError: the file cannot be written.
    """

    def __init__(self, path: Path, start: int) -> None:
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            kept = _lines_before(path, start) if path.exists() and start > 0 else []
            partial = path.with_name(path.name + ".partial")
            partial.write_text("".join(kept), encoding="utf-8")
            partial.replace(path)
            self._file = path.open("a", encoding="utf-8")
        except OSError as error:
            raise self._refusal(error) from error

    def write(self, record: dict[str, Any]) -> None:
        """Append one record.

        Raises:
            CheckpointError: the disk is full.
        """
        try:
            self._file.write(json.dumps({"schema": SCHEMA, **record}, allow_nan=False) + "\n")
            self._file.flush()
        except OSError as error:
            raise self._refusal(error) from error

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _refusal(self, error: OSError) -> CheckpointError:
        return CheckpointError(f"cannot write metrics to {os.fspath(self.path)}: {error.strerror or error}")


def _lines_before(path: Path, start: int) -> list[str]:
    """Whole lines of steps below `start`; a line torn by a kill ends the file."""
    kept = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True):
        try:
            step = json.loads(line)["step"]
        except (ValueError, KeyError, TypeError):
            break
        if line.endswith("\n") and step < start:
            kept.append(line)
    return kept
