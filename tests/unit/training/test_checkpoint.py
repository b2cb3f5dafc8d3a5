"""Checkpoints: what they refuse, and that a disk or a kill never leaves less than the one of before."""

import errno
import os
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.optim import SGD, Optimizer

from pennyweight.errors import CheckpointError
from pennyweight.training.checkpoint import RunState, load_checkpoint, save_checkpoint

IDENTITY: dict[str, Any] = {"seed": 1, "regime": {"steps": 20, "lr": 0.1}, "model": ["Linear(", "  a", ")"]}
STATE = RunState(step=3, history=(0.5, 0.25, 0.125), seconds=1.5, scaler={})


def trained(width: int = 4) -> tuple[nn.Module, Optimizer]:
    model = nn.Sequential(nn.Linear(4, width), nn.BatchNorm1d(width))
    model.register_buffer("tied", model[0].weight.detach())  # shares memory with the weight
    optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(torch.randn(5, 4)).square().sum().backward()
    optimizer.step()
    return model, optimizer


def save(path: Path, model: nn.Module, optimizer: Optimizer) -> None:
    save_checkpoint(path, model=model, optimizer=optimizer, identity=IDENTITY, state=STATE)


def load(path: Path, identity: dict[str, Any] | None = None, width: int = 4) -> tuple[nn.Module, Optimizer, RunState]:
    model, optimizer = trained(width)
    state = load_checkpoint(path, model=model, optimizer=optimizer, identity=identity or IDENTITY)
    return model, optimizer, state


def test_everything_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "ck"
    model, optimizer = trained()
    save(path, model, optimizer)
    loaded, loaded_optimizer, state = load(path)
    assert state == STATE
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name
    for ours, theirs in zip(model.parameters(), loaded.parameters(), strict=True):
        assert torch.equal(optimizer.state[ours]["momentum_buffer"], loaded_optimizer.state[theirs]["momentum_buffer"])
    assert os.listdir(path.parent) == ["ck"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 2}, "seed is 1 in the checkpoint, 2 now"),
        ({"regime": {"steps": 20, "lr": 0.2}}, r"regime\.lr is 0\.1 in the checkpoint, 0\.2 now"),
        ({"regime": {"steps": 20}}, r"regime\.lr is 0\.1 in the checkpoint, None now"),
        ({"model": ["Linear(", "  b", ")"]}, r"model\[1\] is '  a' in the checkpoint, '  b' now"),
        ({"model": ["Linear("]}, "model is "),
    ],
)
def test_another_run_is_refused_by_its_difference(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    save(tmp_path / "ck", *trained())
    with pytest.raises(CheckpointError, match=message):
        load(tmp_path / "ck", IDENTITY | change)


def test_another_models_tensors_are_refused(tmp_path: Path) -> None:
    save(tmp_path / "ck", *trained())
    with pytest.raises(CheckpointError, match=r"'0.bias' is float32 \(4,\) in the checkpoint, float32 \(5,\)"):
        load(tmp_path / "ck", width=5)


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ck"
    save(path, *trained())
    whole = path.read_bytes()
    for length in [0, 1, 7, 8, 9, 100, len(whole) // 2, len(whole) - 1]:
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match="truncated or no checkpoint"):
            load(path)


def test_every_kind_of_flipped_byte_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ck"
    save(path, *trained())
    whole = path.read_bytes()
    generator = torch.Generator().manual_seed(0)
    places = torch.randint(0, len(whole), (150,), generator=generator).tolist()
    for place in [*places, len(whole) - 1]:
        flipped = bytearray(whole)
        flipped[place] ^= 1
        path.write_bytes(bytes(flipped))
        with pytest.raises(CheckpointError):
            load(path)


def test_a_newer_format_and_a_strangers_file_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "ck"
    with monkeypatch.context() as patch:
        patch.setattr("pennyweight.training.checkpoint.FORMAT_VERSION", 99)
        save(path, *trained())
    with pytest.raises(CheckpointError, match="format version 99, this pennyweight reads 1"):
        load(path)
    save_file({"weight": torch.ones(2)}, path)
    with pytest.raises(CheckpointError, match="no checkpoint of pennyweight"):
        load(path)


def full_by_fsync(patch: pytest.MonkeyPatch) -> None:
    def no_space(_fd: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    patch.setattr(os, "fsync", no_space)


def full_by_write(patch: pytest.MonkeyPatch) -> None:
    # A real refusal of the kernel: no file of this process may grow beyond 2000 bytes.
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


@pytest.mark.parametrize("fill", [full_by_fsync, full_by_write])
def test_a_full_disk_is_named_and_the_checkpoint_of_before_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fill: Callable[[pytest.MonkeyPatch], None]
) -> None:
    path = tmp_path / "ck"
    save(path, *trained(width=4))
    whole = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    model, optimizer = trained(width=300)
    message = ""
    try:
        with monkeypatch.context() as patch:
            fill(patch)
            save(path, model, optimizer)
    except CheckpointError as error:
        message = str(error)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert message.startswith(f"cannot write checkpoint {path}: ")
    assert message.endswith("the one of before is kept")
    assert path.read_bytes() == whole
    assert os.listdir(tmp_path) == ["ck"]


def test_a_kill_while_writing_leaves_the_checkpoint_of_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Killed(BaseException):
        pass

    def die(self: Path, target: Path) -> None:
        raise Killed  # nothing of ours runs after a kill: the part file stays

    path = tmp_path / "ck"
    save(path, *trained())
    whole = path.read_bytes()
    model, optimizer = trained()
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", die)
        with pytest.raises(Killed):
            save(path, model, optimizer)
    assert path.read_bytes() == whole
    save(path, *trained())
    assert os.listdir(tmp_path) == ["ck"]  # the part file was taken over


def test_state_that_is_not_a_tensor_is_refused(tmp_path: Path) -> None:
    class Odd(nn.Linear):
        def get_extra_state(self) -> Any:
            return {"words": 1}

    model = Odd(2, 2)
    with pytest.raises(CheckpointError, match="_extra_state' is a dict"):
        save(tmp_path / "ck", model, SGD(model.parameters(), lr=0.1))


def test_a_path_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CheckpointError, match=r"cannot write checkpoint .*there was none before"):
        save(tmp_path / "file" / "ck", *trained())
