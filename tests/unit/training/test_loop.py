"""The loop against a loop written by hand, bit-exact resumption, and what it refuses."""

import importlib
import json
import math
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import pennyweight as pw
from oracles.plain_loop import plain_loop
from pennyweight.data.loader import Batch, batch_at
from pennyweight.errors import CheckpointError, NumericsError, RecipeError
from pennyweight.nn.objectives import squared_hinge
from pennyweight.training import Regime, TrainResult, train
from unit.training.jobs import fingerprint, full_training, tiny_dataset, tiny_net


def quiet(model: nn.Module, regime: Regime, data: Any = None, **settings: Any) -> TrainResult:
    return train(model, tiny_dataset() if data is None else data, regime, device="cpu", progress=False, **settings)


def batches_of(regime: Regime, seed: int) -> list[tuple[Tensor, Tensor]]:
    drawn = []
    for step in range(regime.steps):
        size = regime.batch_size
        batch = batch_at(tiny_dataset(), first_sample=step * size, batch_size=size, seed=seed)
        drawn.append((batch.inputs, batch.targets))
    return drawn


@pytest.mark.parametrize("clip_norm", [None, 0.3])
def test_losses_are_those_of_a_loop_written_by_hand(clip_norm: float | None) -> None:
    regime = Regime.milestones(
        steps=25, lr=0.2, milestone_steps=(15,), batch_size=16, weight_decay=1e-3, clip_norm=clip_norm
    )
    model, twin = tiny_net(norm=True), tiny_net(norm=True)
    result = quiet(model, regime, seed=4)
    lrs = [0.2] * 15 + [0.2 * 0.1] * 10
    expected = plain_loop(twin, batches_of(regime, 4), lrs, momentum=0.9, weight_decay=1e-3, clip_norm=clip_norm)
    if clip_norm is None:
        assert result.history == tuple(expected)  # not a bit of difference
        assert fingerprint(model) == fingerprint(twin)
    assert result.history == pytest.approx(expected, rel=1e-6)


def test_the_result_counts_what_was_done() -> None:
    result = quiet(tiny_net(), Regime.constant(steps=5, lr=0.1, batch_size=8, duplicates=3))
    assert (result.steps, result.images_seen, result.interrupted) == (5, 120, False)
    assert result.final_loss == result.history[-1]
    assert len(result.history) == 5
    assert result.seconds > 0.0


def test_training_learns_and_leaves_mode_and_random_state_alone() -> None:
    model = tiny_net(dropout=0.1)
    model[3].eval()
    torch.manual_seed(5)
    before = torch.get_rng_state()
    result = quiet(model, Regime.constant(steps=60, lr=0.1, batch_size=20))
    assert torch.equal(torch.get_rng_state(), before)
    assert model.training
    assert not model[3].training
    assert result.final_loss < 0.3 * result.history[0]


def test_runs_are_a_function_of_the_seed(tmp_path: Path) -> None:
    one, _ = full_training(tmp_path / "a")
    torch.manual_seed(99)  # the global state must not matter
    two, _ = full_training(tmp_path / "b")
    other, _ = full_training(tmp_path / "c", seed=4)
    assert fingerprint(one) == fingerprint(two)
    assert fingerprint(one) != fingerprint(other)


class Stopped(Exception):  # noqa: N818  # an event of the test, not an error
    pass


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw", "shift_adamax"])
@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_nine_steps_then_eleven_are_twenty_bit_for_bit(tmp_path: Path, optimizer: Any, precision: Any) -> None:
    regime = Regime.cosine(steps=20, lr=2.0**-6, batch_size=9, optimizer=optimizer)

    def at_most(limit: int) -> Any:
        def source(first_sample: int, batch_size: int, rank: int, world_size: int) -> Batch:
            if first_sample >= limit * 9:
                raise Stopped
            return batch_at(tiny_dataset(), first_sample=first_sample, batch_size=batch_size, seed=0)

        return source

    def run(model: nn.Module, name: str, limit: int) -> TrainResult:
        path = tmp_path / name
        return quiet(
            model, regime, at_most(limit), checkpoint=path, checkpoint_every=9, objective=_hinge, precision=precision
        )

    whole = tiny_net(dropout=0.3, norm=True)
    expected = run(whole, "whole", 20)
    with pytest.raises(Stopped):
        run(tiny_net(dropout=0.3, norm=True), "parts", 9)
    resumed = tiny_net(dropout=0.3, norm=True)
    with torch.no_grad():
        resumed[1].weight.zero_()  # whatever the model holds, the checkpoint replaces it
    result = run(resumed, "parts", 20)
    assert result.history == expected.history
    assert fingerprint(resumed) == fingerprint(whole)


def _hinge(model: nn.Module, batch: Batch) -> Tensor:
    return squared_hinge(model(batch.inputs), batch.targets)


def test_a_finished_run_is_only_loaded(tmp_path: Path) -> None:
    model, result = full_training(tmp_path)
    again, second = full_training(tmp_path)
    assert fingerprint(again) == fingerprint(model)
    assert (second.history, second.images_seen) == (result.history, result.images_seen)


def interrupting_source(step: int, number: int) -> Any:
    def source(first_sample: int, batch_size: int, rank: int, world_size: int) -> Batch:
        if first_sample == step * batch_size:
            signal.raise_signal(number)
        return batch_at(tiny_dataset(), first_sample=first_sample, batch_size=batch_size, seed=0)

    return source


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_after_the_step_with_a_checkpoint(tmp_path: Path, number: int) -> None:
    regime = Regime.constant(steps=10, lr=0.1, batch_size=8)
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    model, settings = tiny_net(), {"checkpoint": tmp_path / "ck", "checkpoint_every": 100}
    result = quiet(model, regime, interrupting_source(4, number), **settings)
    assert (result.interrupted, result.steps) == (True, 5)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers
    resumed = quiet(model, regime, interrupting_source(-1, number), **settings)
    assert (resumed.interrupted, resumed.steps) == (False, 10)
    assert resumed.history == quiet(tiny_net(), regime, interrupting_source(-1, number)).history


def test_a_second_ctrl_c_interrupts_at_once() -> None:
    def impatient(first_sample: int, batch_size: int, rank: int, world_size: int) -> Batch:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        raise AssertionError("unreachable")

    with pytest.raises(KeyboardInterrupt):
        quiet(tiny_net(), Regime.constant(steps=3, lr=0.1), impatient)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_training_works_outside_the_main_thread() -> None:
    results = []
    thread = threading.Thread(target=lambda: results.append(quiet(tiny_net(), Regime.constant(steps=3, lr=0.1))))
    thread.start()
    thread.join()
    assert results[0].steps == 3


def test_the_public_name_is_a_function_whatever_was_imported_first() -> None:
    regime = pw.Regime.constant(steps=1, lr=0.1)
    assert pw.train(tiny_net(), tiny_dataset(), regime, device="cpu", progress=False).steps == 1
    importlib.import_module("pennyweight.training")
    assert pw.train(tiny_net(), tiny_dataset(), regime, device="cpu", progress=False).steps == 1


def test_metrics_hold_each_step_once(tmp_path: Path) -> None:
    _, result = full_training(tmp_path)
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records] == list(range(60))
    assert [record["loss"] for record in records] == list(result.history)
    assert records[0] | {"seconds": 0} == {
        "schema": 1,
        "step": 0,
        "loss": result.history[0],
        "lr": 0.05 / 5,
        "batch_size": 10,
        "images_seen": 20,
        "seconds": 0,
    }


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_checkpoint(tmp_path: Path) -> None:
    def poisoned(first_sample: int, batch_size: int, rank: int, world_size: int) -> Batch:
        batch = batch_at(tiny_dataset(), first_sample=first_sample, batch_size=batch_size, seed=0)
        inputs = batch.inputs * (math.nan if first_sample >= 7 * batch_size else 1.0)
        return Batch(inputs=inputs, targets=batch.targets, indices=batch.indices)

    regime = Regime.constant(steps=20, lr=0.125, batch_size=8)
    path = tmp_path / "ck"
    with pytest.raises(NumericsError, match=r"the loss is nan at step 7 \(learning rate 0\.125\)"):
        quiet(tiny_net(), regime, poisoned, checkpoint=path, checkpoint_every=5)
    good = quiet(tiny_net(), Regime.constant(steps=5, lr=0.125, batch_size=8))
    with pytest.raises(NumericsError, match="at step 7"):  # it goes on from step 5, not from the start
        quiet(tiny_net(), regime, poisoned, checkpoint=path, checkpoint_every=5, log=tmp_path / "log")
    assert [json.loads(line)["step"] for line in (tmp_path / "log").read_text().splitlines()] == [5, 6]
    assert len(good.history) == 5


def test_nan_in_the_weights_is_found_at_step_0() -> None:
    model = tiny_net()
    with torch.no_grad():
        model[1].weight[3, 5] = math.nan
    with pytest.raises(NumericsError, match="the loss is nan at step 0"):
        quiet(model, Regime.constant(steps=3, lr=0.1))


def test_weights_gone_bad_in_the_last_step_are_not_stored(tmp_path: Path) -> None:
    class Bad(nn.Module):  # a finite loss with a gradient that is not
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(3))

        def forward(self, x: Tensor) -> Tensor:
            return (self.weight.abs() + 0.0).sqrt().expand(len(x), 3) * 1.0

    with pytest.raises(NumericsError, match="weight 'weight' is not finite after step 0"):
        quiet(Bad(), Regime.constant(steps=1, lr=0.1), checkpoint=tmp_path / "ck")
    assert not (tmp_path / "ck").exists()


def test_projections_run_after_each_step() -> None:
    class Clipped(nn.Linear):
        def project_(self) -> None:
            self.weight.clamp_(-0.01, 0.01)

    model = nn.Sequential(nn.Flatten(), Clipped(36, 3))
    quiet(model, Regime.constant(steps=2, lr=5.0, batch_size=8))
    assert model[1].weight.abs().max() <= 0.01


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_mixed_precision_stays_close_to_float32(precision: Any) -> None:
    regime = Regime.constant(steps=10, lr=0.05, batch_size=16, clip_norm=1.0)
    model = tiny_net()
    result = quiet(model, regime, precision=precision)
    assert result.history == pytest.approx(quiet(tiny_net(), regime).history, abs=0.05)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_progress_without_a_terminal_is_a_few_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    train(tiny_net(), tiny_dataset(), Regime.constant(steps=30, lr=0.1, batch_size=8), device="cpu")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 10
    assert lines[-1].startswith("step 30/30  loss ")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"objective": "hinge"}, "unknown objective 'hinge'"),
        ({"device": "cuda:97"}, "device 'cuda:97' cannot be used"),
        ({"checkpoint_every": 0}, "checkpoint_every=0"),
        ({"objective": lambda model, batch: model(batch.inputs).sum()}, r"one loss a sample.*gave \(\)"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    regime = Regime.constant(steps=2, lr=0.1)
    with pytest.raises(RecipeError, match=message):
        train(tiny_net(), tiny_dataset(), regime, **({"device": "cpu", "progress": False} | settings))


def test_copies_of_a_users_own_batches_are_refused() -> None:
    def source(first_sample: int, batch_size: int, rank: int, world_size: int) -> Batch:
        raise AssertionError("not called")

    with pytest.raises(RecipeError, match="duplicates and image_size need an ImageDataset"):
        quiet(tiny_net(), Regime.constant(steps=2, lr=0.1, duplicates=2), source)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 8}, "seed is 3 in the checkpoint, 8 now"),
        ({"precision": "bfloat16"}, "precision is 'float32' in the checkpoint, 'bfloat16' now"),
        ({"augment": None}, r"augment is .*crop_padding=1.* in the checkpoint, None now"),
        ({"objective": "squared_hinge"}, "objective is 'cross_entropy' in the checkpoint, 'squared_hinge' now"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    full_training(tmp_path)
    with pytest.raises(CheckpointError, match=message):
        full_training(tmp_path, **change)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the compiler's own
def test_compiled_training_agrees_with_eager() -> None:
    regime = Regime.constant(steps=5, lr=0.05, batch_size=16)
    model, eager = tiny_net(norm=True), tiny_net(norm=True)
    history = quiet(model, regime, compile=True).history
    assert history == pytest.approx(quiet(eager, regime).history, abs=1e-5)
    assert list(model.state_dict()) == list(eager.state_dict())
