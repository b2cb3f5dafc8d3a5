"""`train`: the loop. Read `_steps` first; the rest prepares it.

Time is counted in optimiser steps and every draw is keyed by (seed, step, rank) or by the sample, so that a run killed
at any moment and resumed from its checkpoint equals an uninterrupted one bit for bit: on the same machine, torch and
number of ranks and threads, and on a GPU as far as torch's kernels are deterministic there.
"""

import os
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from pennyweight.data.dataset import ImageDataset
from pennyweight.data.transforms import Augment
from pennyweight.errors import RecipeError, did_you_mean
from pennyweight.nn.modes import in_mode
from pennyweight.nn.projection import project_
from pennyweight.numerics.random import Key
from pennyweight.training.batches import BatchSource, Draw, batches_of
from pennyweight.training.distributed import join_ranks
from pennyweight.training.interrupt import StopRequest
from pennyweight.training.journal import Journal
from pennyweight.training.log import MetricsLog
from pennyweight.training.objective import Objective, objective_of, one_a_sample
from pennyweight.training.optim import build_optimizer, set_settings_
from pennyweight.training.progress import Progress
from pennyweight.training.regime import Regime
from pennyweight.training.run import Run, run_identity

Precision = Literal["float32", "bfloat16", "float16"]
PRECISIONS: dict[str, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
STEPS_PER_SETTLING_ON_GPU = 16
"""A GPU's losses are fetched together this often; fetching each one would make it wait for Python."""


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """What a call of `train` came to.

    Args:
        steps: optimiser steps done, those before a resumption included.
        images_seen: images that went through the net, copies counted.
        final_loss: loss of the last step.
        seconds: wall-clock time over all sessions.
        history: loss of each step from 0.
        interrupted: stopped by Ctrl-C or SIGTERM; call again with the same arguments to go on.
    """

    steps: int
    images_seen: int
    final_loss: float
    seconds: float
    history: tuple[float, ...]
    interrupted: bool


def train(
    model: nn.Module,
    data: ImageDataset | BatchSource,
    regime: Regime,
    *,
    seed: int = 0,
    objective: str | Objective = "cross_entropy",
    augment: Augment | None = None,
    device: torch.device | str | None = None,
    precision: Precision = "float32",
    compile: bool = False,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_every: int | None = None,
    log: str | os.PathLike[str] | None = None,
    progress: bool = True,
) -> TrainResult:
    """Train a model in place by a regime.

    The first Ctrl-C or SIGTERM lets the step in work finish, writes a checkpoint and returns with `interrupted=True`; a
    second Ctrl-C interrupts at once. Under torchrun the ranks share each step's samples and average gradients; only
    rank 0 writes and shows. The global random state is given back as it was; the model stays on the device.

    Args:
        model: moved to the device; all of it is put in training mode meanwhile.
        data: a data set, or a function of (first_sample, batch_size, rank, world_size) that gives a rank's batch.
        regime: what holds at each step, and how many there are.
        seed: root of the order of samples, augmentation and dropout.
        objective: "cross_entropy", "squared_hinge", or a function of (model, batch) that gives one loss a sample.
        augment: random changes of the images; None makes none.
        device: None takes the process's GPU where there is one, else the CPU.
        precision: of matrix products under autocast; parameters stay as they are.
        compile: run the forward and backward pass through `torch.compile`.
        checkpoint: file to resume from if it exists, and to write to; None keeps none.
        checkpoint_every: steps between checkpoints; None makes ten in a run. The last step always writes one.
        log: file for one JSON record a step; None keeps none.
        progress: show a bar on a terminal, a few lines elsewhere.

    Returns:
        Losses, counts and times of the whole run.

    Raises:
        RecipeError: an unknown objective, precision or device, or settings that do not go with the data.
        CheckpointError: the checkpoint belongs to another run, is damaged or cannot be written.
        NumericsError: the loss or a weight is not finite; the checkpoint of before is kept.

    Example:
        >>> import pennyweight as pw
        >>> regime = pw.Regime.cosine(steps=20, lr=0.1, batch_size=32)
        >>> result = pw.train(pw.create_model("mlp"), pw.load_dataset("digits"), regime, progress=False)
        >>> result.steps, result.images_seen, result.interrupted
        (20, 640, False)
    """
    _check_words(precision, checkpoint_every)
    losses_of = objective_of(objective)
    ranks = join_ranks(device)
    draw = batches_of(data, regime, seed, augment, ranks)
    every = checkpoint_every or max(1, regime.steps // 10)
    with ExitStack() as stack:
        gpus = [ranks.device.index] if ranks.device.type == "cuda" else []
        stack.enter_context(torch.random.fork_rng(devices=gpus))
        stack.enter_context(in_mode(model.to(ranks.device), training=True))
        run = Run(
            regime=regime,
            seed=seed,
            ranks=ranks,
            model=model,
            optimizer=build_optimizer(model, regime),
            scaler=torch.amp.GradScaler(ranks.device.type, enabled=precision == "float16"),
            precision=PRECISIONS[precision],
            path=None if checkpoint is None else Path(checkpoint),
            every=every,
            identity=run_identity(model, data, regime, seed, objective, augment, precision),
        )
        state = run.resume()
        writes = ranks.rank == 0
        journal = Journal(
            history=state.history,
            images=sum(regime(step).batch_size * regime(step).duplicates for step in range(state.step)),
            seconds=state.seconds,
            log=MetricsLog(Path(log), state.step) if log is not None and writes else None,
            progress=Progress(regime.steps, state.step, shown=progress and writes),
        )
        stack.enter_context(journal)
        stop = stack.enter_context(StopRequest())
        forward = ranks.wrap(model)
        if compile:
            forward = torch.compile(forward)  # type: ignore[assignment]  # a module again, by another type
        _steps(run, state.step, forward, losses_of, draw, journal, stop)
        return TrainResult(
            steps=len(journal.history),
            images_seen=journal.images_seen,
            final_loss=journal.history[-1],
            seconds=journal.seconds,
            history=tuple(journal.history),
            interrupted=stop.requested or len(journal.history) < regime.steps,
        )


def _steps(
    run: Run,
    start: int,
    forward: nn.Module,
    losses_of: Objective,
    draw: Draw,
    journal: Journal,
    stop: StopRequest,
) -> None:
    """The loop itself."""
    regime, optimizer, scaler, device = run.regime, run.optimizer, run.scaler, run.ranks.device
    settle_every = STEPS_PER_SETTLING_ON_GPU if device.type == "cuda" else 1
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    first_sample = regime.first_sample(start)
    for step in range(start, regime.steps):
        settings = regime(step)
        set_settings_(optimizer, settings)
        _seed_global_state(Key(run.seed).fold("train step", step, run.ranks.rank), device)  # for dropout

        batch = draw(first_sample, settings)
        with torch.autocast(device.type, run.precision, enabled=run.precision != torch.float32):
            losses = losses_of(forward, batch)
        loss = run.ranks.reduce(one_a_sample(losses), stop.requested)
        scaler.scale(loss.backward).backward()
        if regime.clip_norm is not None:
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(parameters, regime.clip_norm)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        project_(run.model)

        first_sample += settings.batch_size
        journal.note(step, settings, loss.mean)
        done = step + 1
        due = done % run.every == 0 or done == regime.steps
        if due or done % settle_every == 0:
            journal.settle()
            stopping = bool(loss.stop)
            if due or stopping:
                run.save(journal)
            if stopping:
                break


def _seed_global_state(key: Key, device: torch.device) -> None:
    """Make torch's global random state a function of the key.

    `torch.manual_seed` would queue a call for each absent accelerator at every step, and never forget one.
    """
    low, high = key.words
    torch.default_generator.manual_seed(high << 32 | low)
    if device.type == "cuda":
        torch.cuda.default_generators[device.index].manual_seed(high << 32 | low)


def _check_words(precision: str, checkpoint_every: int | None) -> None:
    if precision not in PRECISIONS:
        raise RecipeError(f"unknown precision {precision!r}: {did_you_mean(precision, PRECISIONS)}")
    if checkpoint_every is not None and checkpoint_every < 1:
        raise RecipeError(f"checkpoint_every={checkpoint_every}: must be at least 1, or None")
