"""Small trainings the tests run here and in processes of their own, and the server that forks those processes.

A forked child pays no import of torch; it finds this file as `unit.training.jobs` because tests/ is on the path.
"""

import hashlib
import json
import multiprocessing
import os
import signal
import socket
import sys
from multiprocessing.forkserver import ensure_running
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import torch
import torch._dynamo  # the first optimiser imports it, 1 s; the server does so once for all children
from torch import nn

from pennyweight.data.dataset import ImageDataset
from pennyweight.data.loader import Batch, batch_at
from pennyweight.data.transforms import Augment
from pennyweight.errors import CheckpointError
from pennyweight.nn.normalization import GhostBatchNorm1d
from pennyweight.training import Regime, TrainResult, train

STEPS = 60
AUGMENT = Augment(crop_padding=1, flip=True)


def tiny_dataset(n: int = 40) -> ImageDataset:
    """Random images of three classes that differ in brightness."""
    generator = torch.Generator().manual_seed(11)
    labels = torch.arange(n) % 3
    images = torch.randint(0, 120, (n, 1, 6, 6), generator=generator) + 60 * labels[:, None, None, None]
    return ImageDataset(
        images=images.to(torch.uint8),
        labels=labels,
        num_classes=3,
        mean=(0.5,),
        std=(0.25,),
        name="tiny",
        split="train",
    )


def tiny_net(*, dropout: float = 0.0, norm: bool = False, ghost_batch_size: int | None = None) -> nn.Module:
    """A two-layer net with the same weights at every call."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        layers: list[nn.Module] = [nn.Flatten(), nn.Linear(36, 16)]
        if ghost_batch_size is not None:
            layers.append(GhostBatchNorm1d(16, ghost_batch_size))
        elif norm:
            layers.append(nn.BatchNorm1d(16))
        return nn.Sequential(*layers, nn.ReLU(), nn.Dropout(dropout), nn.Linear(16, 3))


def fingerprint(model: nn.Module) -> str:
    """sha256 of all bits of the model's state."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode() + value.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def full_training(folder: Path, **changes: Any) -> tuple[nn.Module, TrainResult]:
    """A run with everything a resumption could get wrong: dropout, batch norm, augmentation, copies, momentum."""
    model = tiny_net(dropout=0.2, norm=True)
    regime = Regime.cosine(steps=STEPS, lr=0.05, batch_size=10, warmup_steps=5, weight_decay=1e-3, duplicates=2)
    settings: dict[str, Any] = {
        "seed": 3,
        "augment": AUGMENT,
        "device": "cpu",
        "checkpoint": folder / "run.safetensors",
        "checkpoint_every": 3,
        "log": folder / "metrics.jsonl",
        "progress": False,
    }
    return model, train(model, tiny_dataset(), regime, **(settings | changes))


def share(first_sample: int, batch_size: int, rank: int, world_size: int) -> Batch:
    """Every `world_size`-th sample of a step, also where that does not divide the batch."""
    whole = batch_at(tiny_dataset(), first_sample=first_sample, batch_size=batch_size, seed=0)
    mine = slice(rank, None, world_size)
    return Batch(inputs=whole.inputs[mine], targets=whole.targets[mine], indices=whole.indices[mine])


def rank_training(case: str) -> tuple[nn.Module, TrainResult]:
    """A run that several ranks may share."""
    regime = Regime.cosine(steps=6, lr=0.1, batch_size=7 if case == "uneven" else 8, clip_norm=0.5)
    model = tiny_net(norm=case == "norm")
    if case == "uneven":
        return model, train(model, share, regime, device="cpu", progress=False)
    return model, train(model, tiny_dataset(), regime, augment=AUGMENT, device="cpu", progress=False)


def full_child(folder: str, environment: dict[str, str], checkpoint: str | None = None) -> None:
    """Process: run `full_training` and leave its outcome in result-<rank>.json."""
    torch.set_num_threads(1)
    os.environ |= environment
    outcome: dict[str, Any] = {}
    try:
        changes = {} if checkpoint is None else {"checkpoint": checkpoint}
        model, result = full_training(Path(folder), **changes)
        outcome |= {"fingerprint": fingerprint(model), "steps": result.steps, "interrupted": result.interrupted}
    except CheckpointError as error:
        outcome["error"] = str(error)
    outcome["handler_restored"] = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    (Path(folder) / f"result-{environment.get('RANK', 0)}.json").write_text(json.dumps(outcome))


def as_rank(rank: int, port: int) -> dict[str, str]:
    """The environment torchrun gives one of two processes."""
    place = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    return place | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}


def rank_child(folder: str, environment: dict[str, str], cases: list[str]) -> None:
    """Process: be one of two ranks, as torchrun would start it, and leave losses and weights of each case."""
    torch.set_num_threads(1)
    os.environ |= environment
    for case in cases:
        model, result = rank_training(case)
        state = {"model": model.state_dict(), "losses": torch.tensor(result.history, dtype=torch.float64)}
        torch.save(state, Path(folder) / f"{case}-{environment['RANK']}.pt")


def start(target: Any, *args: Any) -> BaseProcess:
    """Start a function of this file in a process forked from a server that has torch loaded already."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["pytest", "unit.training.jobs"])
    # The server finds what it preloads by PYTHONPATH alone; Python before 3.13 forgets to hand it sys.path.
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(path for path in sys.path if path))
        ensure_running()
    process = context.Process(target=target, args=args)
    process.start()
    return process


def free_port() -> int:
    """A TCP port nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
