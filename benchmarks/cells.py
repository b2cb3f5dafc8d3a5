"""Measurements that take hours, one by one: each finished cell is a line of a file, and is not measured again."""

import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pennyweight.training import TrainResult

RUNS = Path(__file__).parents[1] / "runs"


class BudgetSpentError(Exception):
    """BUDGET_HOURS is over; run again to go on."""


class Cells:
    """The finished cells of a benchmark.

    Args:
        name: of the file below runs/.
        quick: a file of its own, since its settings are others.
    """

    def __init__(self, name: str, quick: bool) -> None:
        self._path = RUNS / "cells" / f"{name}{'-quick' if quick else ''}.jsonl"
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._found: dict[str, dict[str, Any]] = {}
        self._until = time.time() + 3600 * float(os.environ.get("BUDGET_HOURS", "inf"))
        if self._path.exists():
            for line in self._path.read_text().splitlines():
                try:
                    cell = json.loads(line)
                except ValueError:
                    continue  # a line cut short by a kill is measured again
                self._found[cell["key"]] = cell

    def get(self, settings: Mapping[str, Any], measure: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
        """The cell of these settings, measured now if it was not.

        Raises:
            BudgetSpentError: it was not, and there is no time left.
        """
        key = hashlib.blake2b(json.dumps(settings, sort_keys=True).encode(), digest_size=8).hexdigest()
        if key not in self._found:
            if time.time() > self._until:
                raise BudgetSpentError
            started = time.perf_counter()
            found = dict(measure())
            cell = {"key": key, **settings, **found, "seconds": round(time.perf_counter() - started, 2)}
            with self._path.open("a") as file:
                file.write(json.dumps(cell) + "\n")
            self._found[key] = cell
            shown = ", ".join(f"{name}={_short(value)}" for name, value in cell.items() if name != "key")
            print(shown, flush=True)
        return self._found[key]


def whole(result: TrainResult) -> TrainResult:
    """The result, unless the training was told to stop: that is no result.

    Raises:
        KeyboardInterrupt: it was.
    """
    if result.interrupted:
        raise KeyboardInterrupt
    return result


def _short(value: Any) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
