"""The metrics file: whole lines, each step once, also after a kill."""

import contextlib
import json
import os
from pathlib import Path

import pytest

from pennyweight.errors import CheckpointError
from pennyweight.training.log import MetricsLog


def steps_in(path: Path) -> list[int]:
    return [json.loads(line)["step"] for line in path.read_text().splitlines()]


def write(path: Path, start: int, stop: int) -> None:
    log = MetricsLog(path, start)
    for step in range(start, stop):
        log.write({"step": step})
    log.close()


def test_records_are_on_the_disk_at_once(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "a" / "log", 0)
    log.write({"step": 0, "loss": 0.5})
    assert json.loads((tmp_path / "a" / "log").read_text()) == {"schema": 1, "step": 0, "loss": 0.5}
    log.close()


def test_resuming_takes_out_steps_that_will_be_done_again(tmp_path: Path) -> None:
    path = tmp_path / "log"
    write(path, 0, 9)
    write(path, 6, 12)
    assert steps_in(path) == list(range(12))


def test_a_line_torn_by_a_kill_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "log"
    write(path, 0, 5)
    path.write_bytes(path.read_bytes()[:-4])
    write(path, 4, 6)
    assert steps_in(path) == list(range(6))


def test_a_fresh_run_starts_the_file_afresh(tmp_path: Path) -> None:
    write(tmp_path / "log", 0, 9)
    write(tmp_path / "log", 0, 2)
    assert steps_in(tmp_path / "log") == [0, 1]


def test_a_path_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot write metrics to "):
        MetricsLog(tmp_path, 0)
    if Path("/dev/full").exists():
        log = MetricsLog(tmp_path / "log", 0)
        log.close()
        log._file = os.fdopen(os.open("/dev/full", os.O_WRONLY), "w", buffering=1)
        with pytest.raises(CheckpointError, match=r"cannot write metrics to .*No space left"):
            log.write({"step": 0})
        with contextlib.suppress(OSError):
            log.close()  # what could not be written is still in the buffer
