"""QDrop: learned rounding with activations dropped; on blocks, and what is left of it without dropping."""

import pytest
import torch
from torch import Tensor

import pennyweight as pw
from pennyweight.errors import MethodError
from pennyweight.methods.reconstruction.adaround import AdaRoundSolver
from pennyweight.methods.reconstruction.qdrop import QDropSolver
from pennyweight.methods.reconstruction.solver import output_errors
from pennyweight.nn.slots.integer import IntegerInput
from pennyweight.nn.slots.learned_rounding import DroppedInput
from unit.methods.fitting import IMAGES, KEY, block_net, codes_of, correlated, draw, linear_unit


def state(layer: torch.nn.Module) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in layer.state_dict().items()}


def test_a_unit_ends_below_round_to_nearest() -> None:
    unit, samples = linear_unit(correlated(200, 24), draw(16, 24, seed=1), bits=2)
    fit = QDropSolver(steps=300).fit(unit, samples, None, KEY)
    assert fit.mse_after < 0.9 * fit.mse_before
    assert output_errors(unit, samples).mse == fit.mse_after, "judged with all activations quantized"
    assert type(unit.layers["layer"].slots.input.quantizer) is IntegerInput


def test_without_dropping_it_is_adaround() -> None:
    states = []
    for solver in (QDropSolver(steps=50, drop=0.0), AdaRoundSolver(steps=50)):
        unit, samples = linear_unit(correlated(60, 12), draw(5, 12, seed=1), bits=2)
        solver.fit(unit, samples, None, KEY)
        states.append(state(unit.module))
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())


def test_dropping_changes_what_is_found_and_the_key_decides_it() -> None:
    codes = []
    for drop, key in ((0.5, KEY), (0.5, KEY), (0.5, KEY.fold(1)), (0.0, KEY)):
        unit, samples = linear_unit(correlated(60, 12), draw(16, 12, seed=1), bits=2, input_bits=3)
        QDropSolver(steps=60, drop=drop, batch_size=60).fit(unit, samples, None, key)
        codes.append(state(unit.module))
    same, other_key, none = ([torch.equal(v, c[k]) for k, v in codes[0].items()] for c in codes[1:])
    assert all(same)
    assert not all(other_key), "with the full batch the key decides dropping alone"
    assert not all(none)


def test_each_step_drops_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = []
    codes = DroppedInput.codes

    def watch(self: DroppedInput, x: Tensor) -> tuple[Tensor, Tensor | None]:
        keys.append(self.key)
        return codes(self, x)

    monkeypatch.setattr(DroppedInput, "codes", watch)
    unit, samples = linear_unit(correlated(60, 12), draw(5, 12, seed=1))
    QDropSolver(steps=10).fit(unit, samples, None, KEY)
    assert len({key for key in keys if key is not None}) == 10
    assert keys[0] is None
    assert keys[-1] is None


def test_blocks_are_fitted_whole() -> None:
    applied = pw.apply_(block_net(), pw.QDrop(weights="int3", activations="int4", steps=5), data=[IMAGES])
    rows = applied.tables["Units"]
    assert [row["unit"] for row in rows] == ["stem", "block1", "block2", "head"]
    assert all(row["mse after"] <= row["mse before"] for row in rows)
    assert not applied.failed


def test_with_float_activations_nothing_is_dropped() -> None:
    unit, samples = linear_unit(correlated(60, 12), draw(5, 12, seed=1), bits=2, input_bits=None)
    other, _ = linear_unit(correlated(60, 12), draw(5, 12, seed=1), bits=2, input_bits=None)
    QDropSolver(steps=50).fit(unit, samples, None, KEY)
    AdaRoundSolver(steps=50).fit(other, samples, None, KEY)
    assert torch.equal(codes_of(unit.layers["layer"]), codes_of(other.layers["layer"]))


def test_settings_that_make_no_sense_are_refused(unchecked: None) -> None:
    with pytest.raises(MethodError, match=r"drop=1\.5"):
        pw.QDrop(drop=1.5)
    with pytest.raises(MethodError, match="batch_size=0"):
        pw.QDrop(batch_size=0)
    with pytest.raises(MethodError, match="mixes solutions that were found apart"):
        pw.QDrop(weights=pw.BitAllocation(candidates=("w8a8", "w4a8"), size_ratio=0.2))
