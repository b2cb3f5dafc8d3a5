"""What AdaRound, QDrop and GPTQ have in common: reproducible to the bit, resumable, never above round to nearest."""

from pathlib import Path
from typing import Any

import pytest
import torch

import pennyweight as pw
from pennyweight.methods.reconstruction.base import LayerwiseQuantization
from unit.methods.fitting import IMAGES, assert_equal, block_net, state_after

SETTINGS: dict[str, Any] = {
    "weights": "int3",
    "activations": "int4",
    "weight_range": "minmax",
    "activation_range": "minmax",
}
METHODS: list[LayerwiseQuantization] = [
    pw.AdaRound(steps=8, **SETTINGS),
    pw.QDrop(steps=8, **SETTINGS),
    pw.GPTQ(**SETTINGS),
]
every = pytest.mark.parametrize("method", METHODS, ids=lambda method: type(method).__name__)


class _Interrupted(BaseException):
    pass


def interrupt_after(units: int, method: LayerwiseQuantization, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the process die, so to speak, when the next unit is begun."""
    kind = type(method.solver(rehearsal=False))
    fit, begun = kind.fit, []

    def dies(self: Any, *args: Any) -> Any:
        begun.append(None)
        if len(begun) > units:
            raise _Interrupted
        return fit(self, *args)

    monkeypatch.setattr(kind, "fit", dies)


@every
def test_an_interrupted_run_goes_on_to_the_same_bits(
    method: LayerwiseQuantization, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = state_after(block_net(), method)
    with monkeypatch.context() as patch:
        interrupt_after(1, method, patch)
        with pytest.raises(_Interrupted):
            state_after(block_net(), method, tmp_path)
    assert len(list(tmp_path.rglob("*.safetensors"))) == 1
    assert_equal(state_after(block_net(), method, tmp_path), whole)
    with monkeypatch.context() as patch:
        interrupt_after(0, method, patch)  # no unit is left to begin
        assert_equal(state_after(block_net(), method, tmp_path), whole)


@every
def test_the_state_of_torchs_generator_changes_nothing(method: LayerwiseQuantization) -> None:
    torch.manual_seed(1)
    one = state_after(block_net(), method)
    torch.manual_seed(2)
    assert_equal(state_after(block_net(), method), one)


@every
def test_no_unit_ends_above_its_start(method: LayerwiseQuantization) -> None:
    applied = pw.apply_(block_net(), method, data=[IMAGES])
    assert not applied.failed
    for row in applied.tables["Units"]:
        assert row["mse after"] <= row["mse before"], row
    assert any(row["status"] == "fitted" for row in applied.tables["Units"])


@every
def test_a_rehearsal_takes_no_steps(method: LayerwiseQuantization) -> None:
    applied = pw.apply_(block_net(), method, data=[IMAGES], rehearsal=True)
    assert not applied.failed
    assert all(row["status"] == "start kept" for row in applied.tables["Units"])
