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


UNITS = """name: units
data: {name: digits}
model: {name: mlp, hidden: [64, 64, 64, 64]}
arms:
  small:
    - train: {regime: cosine, steps: 50, lr: 3.0e-3, batch_size: 64, optimizer: adam}
    - apply: {AdaQuant: {weights: int3, activations: uint4, steps: 400, max_samples: 256}}
    - apply: {StatisticsTuning: {max_samples: 256}}
    - export
"""


@pytest.mark.slow
@pytest.mark.parametrize("kill_after", [1, 3])
def test_a_kill_between_units_changes_no_bit(kill_after: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """kill -9 once so many units are on disk; the run that goes on gives the artifact of an uninterrupted one."""
    monkeypatch.setattr("pennyweight.report.write.render_html", lambda report: "")
    recipe = tmp_path / "units.yaml"
    recipe.write_text(UNITS, encoding="utf-8")
    folder = tmp_path / "killed"
    process = subprocess.Popen(
        [sys.executable, "-m", "pennyweight", "run", str(recipe), "--folder", str(folder), "--quiet"],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 120
    while len(list(folder.glob("stages/*/parts/*/units/*.safetensors"))) < kill_after:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "it fits no unit"
        time.sleep(0.005)
    process.kill()
    process.communicate(timeout=60)
    left = len(list(folder.glob("stages/*/parts/*/units/*.safetensors")))
    assert kill_after <= left < 5

    assert not run(recipe, folder=folder, progress=False).failures
    run(recipe, folder=tmp_path / "whole", progress=False)
    (whole,) = (tmp_path / "whole").glob("stages/*-export/model.pw")
    assert whole.read_bytes() == (folder / whole.relative_to(tmp_path / "whole")).read_bytes()
