"""The script for GPUs: its checks run in Triton's interpreter, and it says what it needs."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[3] / "benchmarks" / "gpu" / "run_all.py"


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    known = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    return subprocess.run(
        [sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True, env=known | environment, check=False
    )


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
def test_every_part_checks_its_kernel_in_the_interpreter(tmp_path: Path) -> None:
    done = run("--device", "cpu", "--quick", "--out", str(tmp_path), TRITON_INTERPRET="1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "int8_matmul: 6 results equal" in done.stdout
    assert "accumulated_matmul: 4 results equal" in done.stdout
    assert "transposable_masks: 9 results equal" in done.stdout


def test_wrong_calls_are_told_the_way_out(tmp_path: Path) -> None:
    assert "TRITON_INTERPRET=1" in run("--device", "cpu", "--out", str(tmp_path)).stderr
    done = run("nonsense", "--out", str(tmp_path))
    assert done.returncode == 2
    assert "there are int8_matmul" in done.stderr
