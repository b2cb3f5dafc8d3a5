"""What a run tells while it goes on: lines on standard error, the same with times in log.txt, and the time left."""

import sys
import traceback
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

from pennyweight.recipes.plan import Step


def now() -> str:
    """The time, ISO 8601, UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")


class Journal:
    """Writes to log.txt and, where wanted, to standard error.

    Args:
        path: of log.txt; None writes no file.
        shown: whether to show lines too.
    """

    def __init__(self, path: Path | None, shown: bool) -> None:
        self._path = path
        self._shown = shown

    def say(self, text: str) -> None:
        """One line for the reader and the log."""
        if self._shown:
            print(text, file=sys.stderr, flush=True)
        self.note(text)

    def note(self, text: str) -> None:
        """One line for the log alone."""
        if self._path is not None:
            try:
                with self._path.open("a", encoding="utf-8") as file:
                    file.write(f"{now()} {text}\n")
            except OSError:
                return  # a full disk is reported by what writes results; a log line is not worth the run

    def note_error(self, error: BaseException) -> None:
        """The whole traceback, for the log alone."""
        self.note("".join(traceback.format_exception(error)).rstrip())


class Pace:
    """Learns from finished stages how long the others will take."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}
        self._amounts: dict[str, float] = {}

    def learn(self, step: Step, seconds: float) -> None:
        """A stage took that long."""
        kind = step.stage.kind
        self._seconds[kind] = self._seconds.get(kind, 0.0) + seconds
        self._amounts[kind] = self._amounts.get(kind, 0.0) + step.stage.amount()

    def left(self, steps: Iterable[Step]) -> float | None:
        """Seconds the steps will take; None while there is a kind of which nothing is known."""
        total = 0.0
        for step in steps:
            kind = step.stage.kind
            rate = step.stage.seconds_per_unit
            if kind in self._seconds:
                rate = self._seconds[kind] / max(self._amounts[kind], 1e-9)
            if rate is None:
                return None
            total += rate * step.stage.amount()
        return total


def duration(seconds: float) -> str:
    """Seconds as a person says them.

    Example:
        >>> duration(4.2), duration(125), duration(7320)
        ('4 s', '2 min 5 s', '2 h 2 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s" if whole % 60 else f"{whole // 60} min"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
