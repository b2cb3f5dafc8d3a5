"""A run stopped from outside, gently and brutally, and the one that goes on. Subprocesses: a signal needs a process."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pennyweight.recipes.run import run

STEPS = 500
SETTINGS = [f"arms={{float: [{{train: {{steps: {STEPS}, lr: 0.01, checkpoint_every: 10}}}}, export]}}"]
TEXT = "name: tiny\nmodel: {name: mlp, hidden: [16]}\ndata: {name: digits}\narms: {float: [export]}\n"


def start(recipe: Path, folder: Path) -> subprocess.Popen[str]:
    """A run in a process of its own; it comes back once it has trained for a while."""
    before = trained(folder)
    command = [sys.executable, "-m", "pennyweight", "run", str(recipe), "--folder", str(folder), "--set", SETTINGS[0]]
    process = subprocess.Popen(
        command,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while trained(folder) < before + 20:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "it does not train"
        time.sleep(0.02)
    return process


def trained(folder: Path) -> int:
    return sum(path.read_bytes().count(b"\n") for path in folder.glob("stages/*-train/metrics.jsonl"))


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("pennyweight.report.write.render_html", lambda report: "")
    path = tmp_path / "tiny.yaml"
    path.write_text(TEXT, encoding="utf-8")
    return path


def test_ctrl_c_then_kill_then_the_end(recipe: Path, tmp_path: Path) -> None:
    folder = tmp_path / "stopped"
    process = start(recipe, folder)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert not out
    assert "To go on: pennyweight run" in err
    assert "Traceback" not in err

    process = start(recipe, folder)
    process.kill()
    process.communicate(timeout=60)
    assert 20 < trained(folder) < STEPS
    assert not list(folder.glob("stages/*/done.json"))

    assert not run(recipe, folder=folder, settings=SETTINGS, progress=False).failures
    run(recipe, folder=tmp_path / "whole", settings=SETTINGS, progress=False)
    assert trained(folder) == STEPS
    whole = sorted((tmp_path / "whole").glob("stages/*/model.*"))
    assert len(whole) == 2
    for path in whole:
        assert path.read_bytes() == (folder / path.relative_to(tmp_path / "whole")).read_bytes()
