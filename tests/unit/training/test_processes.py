"""What only processes can prove: kill -9, signals from outside, and two ranks that equal one."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from pennyweight.data.loader import Batch, batch_at
from pennyweight.training import Regime, TrainResult, train
from unit.training.jobs import (
    AUGMENT,
    STEPS,
    as_rank,
    fingerprint,
    free_port,
    full_child,
    full_training,
    rank_child,
    rank_training,
    start,
    tiny_dataset,
    tiny_net,
)

PATIENCE = 60.0


def wait_for_step(folder: Path, step: int, process: BaseProcess) -> bool:
    """Wait until the metrics file has the record of a step; False when the process ended before."""
    deadline = time.monotonic() + PATIENCE
    log = folder / "metrics.jsonl"
    while time.monotonic() < deadline:
        if log.exists() and f'"step": {step},' in log.read_text(errors="replace"):
            return True
        if not process.is_alive():
            return False
        time.sleep(0.0005)
    raise AssertionError(f"no step {step} within {PATIENCE} s")


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> str:
    model, _ = full_training(tmp_path_factory.mktemp("uninterrupted"))
    return fingerprint(model)


def test_kill_9_at_random_moments_changes_nothing(tmp_path: Path, uninterrupted: str) -> None:
    moments = random.Random(20)
    kills = 0
    for step in sorted(moments.sample(range(1, STEPS - 4), 5)):
        process = start(full_child, str(tmp_path), {})
        if wait_for_step(tmp_path, step, process):
            time.sleep(moments.uniform(0.0, 0.003))
            assert process.pid is not None
            os.kill(process.pid, signal.SIGKILL)
        process.join(PATIENCE)
        kills += process.exitcode == -signal.SIGKILL
    process = start(full_child, str(tmp_path), {})
    process.join(PATIENCE)
    assert process.exitcode == 0
    assert kills >= 3
    outcome = json.loads((tmp_path / "result-0.json").read_text())
    assert outcome["fingerprint"] == uninterrupted
    steps = [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(STEPS))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_from_outside_ends_cleanly_and_the_run_goes_on(
    tmp_path: Path, uninterrupted: str, number: int
) -> None:
    process = start(full_child, str(tmp_path), {})
    assert wait_for_step(tmp_path, 10, process)
    assert process.pid is not None
    os.kill(process.pid, number)
    process.join(PATIENCE)
    assert process.exitcode == 0
    outcome = json.loads((tmp_path / "result-0.json").read_text())
    assert outcome["interrupted"]
    assert outcome["handler_restored"]
    assert 10 < outcome["steps"] < STEPS
    model, result = full_training(tmp_path)
    assert result.steps == STEPS
    assert fingerprint(model) == uninterrupted


def test_two_ranks_give_the_losses_of_one(tmp_path: Path) -> None:
    cases = ["even", "uneven", "norm"]
    port = free_port()
    processes = [start(rank_child, str(tmp_path), as_rank(rank, port), cases) for rank in range(2)]
    for process in processes:
        process.join(PATIENCE)
    assert [process.exitcode for process in processes] == [0, 0]
    for case in cases:
        first, second = (torch.load(tmp_path / f"{case}-{rank}.pt", weights_only=True) for rank in range(2))
        assert torch.equal(first["losses"], second["losses"])
        for name, value in first["model"].items():
            assert torch.equal(value, second["model"][name]), f"{case}: ranks differ in {name}"
        model, result = one_process_with_rank_groups() if case == "norm" else rank_training(case)
        losses = torch.tensor(result.history, dtype=torch.float64)
        torch.testing.assert_close(first["losses"], losses, rtol=0.0, atol=1e-6)
        for name, value in model.state_dict().items():
            torch.testing.assert_close(first["model"][name], value, rtol=1e-5, atol=1e-6, msg=f"{case}: {name}")


def one_process_with_rank_groups() -> tuple[nn.Module, TrainResult]:
    """One process whose ghost batches of 4 are what the two ranks' batch norms saw."""

    def both_shares(first_sample: int, batch_size: int, rank: int, world_size: int) -> Batch:
        position = {"first_sample": first_sample, "batch_size": batch_size, "seed": 0, "augment": AUGMENT}
        parts = [batch_at(tiny_dataset(), **position, rank=share, world_size=2) for share in range(2)]
        return Batch(
            inputs=torch.cat([part.inputs for part in parts]),
            targets=torch.cat([part.targets for part in parts]),
            indices=torch.cat([part.indices for part in parts]),
        )

    model = tiny_net(ghost_batch_size=4)
    regime = Regime.cosine(steps=6, lr=0.1, batch_size=8, clip_norm=0.5)
    return model, train(model, both_shares, regime, device="cpu", progress=False)


def start_two(folder: Path, checkpoint: str | None = None) -> list[BaseProcess]:
    port = free_port()
    return [start(full_child, str(folder), as_rank(rank, port), checkpoint) for rank in range(2)]


def outcomes(folder: Path, processes: list[BaseProcess]) -> list[dict[str, Any]]:
    for process in processes:
        process.join(PATIENCE)
    assert [process.exitcode for process in processes] == [0, 0]
    return [json.loads((folder / f"result-{rank}.json").read_text()) for rank in range(2)]


def test_a_signal_to_one_rank_stops_both_at_the_same_step(tmp_path: Path) -> None:
    processes = start_two(tmp_path)
    assert wait_for_step(tmp_path, 10, processes[0])
    assert processes[1].pid is not None
    os.kill(processes[1].pid, signal.SIGINT)
    first, second = outcomes(tmp_path, processes)
    assert first == second
    assert first["interrupted"]
    assert 10 < first["steps"] < STEPS
    first, second = outcomes(tmp_path, start_two(tmp_path))
    assert first == second
    assert (first["interrupted"], first["steps"]) == (False, STEPS)


def test_a_checkpoint_rank_0_cannot_write_stops_both(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    first, second = outcomes(tmp_path, start_two(tmp_path, str(tmp_path / "file" / "ck")))
    assert "cannot write checkpoint" in first["error"]
    assert "rank 0 could not write checkpoint" in second["error"]


@pytest.mark.slow
def test_torchrun_itself(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import os, sys, torch\n"
        f"sys.path.insert(0, {str(Path(__file__).parents[2])!r})\n"
        "from pathlib import Path\n"
        "from unit.training.jobs import fingerprint, full_training\n"
        "torch.set_num_threads(1)\n"
        "folder = Path(sys.argv[1])\n"
        "first, result = full_training(folder)\n"
        "again, loaded = full_training(folder)\n"
        "assert loaded.history == result.history\n"
        "assert fingerprint(again) == fingerprint(first)\n"
        "(folder / f'rank{os.environ[\"RANK\"]}').write_text(f'{fingerprint(again)} {result.steps}')\n"
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    done = subprocess.run([*command, str(tmp_path / "run")], capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stderr
    first, second = ((tmp_path / "run" / f"rank{rank}").read_text() for rank in range(2))
    assert first == second
    assert first.endswith(f" {STEPS}")
