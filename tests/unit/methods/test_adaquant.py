"""AdaQuant: invariants of the solver on one unit, and of the method on small nets."""

import copy
import itertools
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import pennyweight as pw
from pennyweight.errors import MethodError, NumericsError
from pennyweight.methods.reconstruction.adaquant import AdaQuantSolver
from pennyweight.methods.reconstruction.samples import StoredSamples
from pennyweight.methods.reconstruction.solver import output_errors
from pennyweight.methods.reconstruction.unit import Unit
from pennyweight.methods.rounding import Ranges, round_layer_
from pennyweight.nn.gemm import GemmConv2d, GemmLinear, as_gemm
from pennyweight.nn.slots.integer import IntegerWeight
from pennyweight.numerics.affine import AffineParameters, PerChannel, PerTensor, quantize
from pennyweight.numerics.formats import IntFormat
from pennyweight.numerics.random import Key

KEY = Key(0).fold("test")


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def correlated(n: int, features: int) -> Tensor:
    """Inputs whose features depend on each other, as those of layers do; for white ones round to nearest is best."""
    return draw(n, features) @ draw(features, features, seed=7) + 0.5 * draw(n, 1, seed=8)


def linear_unit(
    x: Tensor, weight: Tensor, *, bits: int = 4, input_bits: int | None = 4, bias: bool = True
) -> tuple[Unit, StoredSamples]:
    """A linear layer, rounded to nearest, and what it should give in float."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias)
    with torch.no_grad():
        layer.weight.copy_(weight)
        targets = layer(x)
    gemm = as_gemm(layer)
    assert isinstance(gemm, GemmLinear)
    input = None if input_bits is None else IntFormat(input_bits)
    round_layer_(gemm, IntFormat(bits), input, x, Ranges())
    return Unit(name="layer", module=gemm, layers={"layer": gemm}), StoredSamples([(x, targets)])


def test_a_unit_ends_below_round_to_nearest() -> None:
    unit, samples = linear_unit(correlated(200, 24), draw(16, 24, seed=1))
    fit = AdaQuantSolver(steps=300).fit(unit, samples, None, KEY)
    assert fit.mse_after < 0.9 * fit.mse_before
    assert output_errors(unit, samples).mse == fit.mse_after, "what was measured is what the frozen layer does"


def test_rates_far_too_large_keep_the_start() -> None:
    unit, samples = linear_unit(draw(64, 8), draw(4, 8, seed=1))
    before = {key: value.clone() for key, value in unit.module.state_dict().items()}
    fit = AdaQuantSolver(steps=20, weight_rate=1e6, tune=("weight",)).fit(unit, samples, None, KEY)
    assert fit.kept_start
    assert fit.mse_after == fit.mse_before
    quantized = quantize(before["weight"], unit.layers["layer"].slots.weight.quantizer.affine)
    after = quantize(unit.module.weight.detach(), unit.layers["layer"].slots.weight.quantizer.affine)
    assert torch.equal(after, quantized)


def test_the_weight_ends_on_its_grid() -> None:
    unit, samples = linear_unit(draw(64, 8), draw(4, 8, seed=1))
    AdaQuantSolver(steps=50).fit(unit, samples, None, KEY)
    layer = unit.layers["layer"]
    content = layer.slots.weight.quantizer
    assert isinstance(content, IntegerWeight)
    torch.testing.assert_close(content(layer.weight.detach()), layer.weight.detach(), rtol=0, atol=0)


@pytest.mark.parametrize("factor", [0.02, 50.0, 2.0**-9, 2.0**12])
def test_relative_rates_do_not_know_the_scale_of_a_layer(factor: float) -> None:
    """A layer whose input is multiplied by k and whose weight is divided by k has the same problem to solve."""
    x, weight = correlated(128, 24), draw(16, 24, seed=1)
    fits = []
    for k in (1.0, factor):
        torch.manual_seed(0)
        unit, samples = linear_unit(x * k, weight / k)
        fits.append(AdaQuantSolver(steps=200).fit(unit, samples, None, KEY))
    one, other = (fit.mse_after / fit.mse_before for fit in fits)
    if math.log2(factor).is_integer():
        assert other == pytest.approx(one, rel=1e-6)
    assert other == pytest.approx(one, rel=0.1)


def test_reference_rates_do_know_it() -> None:
    """The constants of the paper's code fit inputs of about unit size: smaller ones diverge, so they need keep_best."""
    x, weight = draw(128, 24), draw(16, 24, seed=1)
    torch.manual_seed(0)
    unit, samples = linear_unit(x * 0.02, weight / 0.02)
    solver = AdaQuantSolver(steps=200, rates="reference", keep_best=False)
    fit = solver.fit(unit, samples, None, KEY)
    assert fit.mse_after > fit.mse_before


def test_with_the_full_batch_the_order_of_samples_does_not_matter() -> None:
    x, weight = draw(40, 12), draw(6, 12, seed=1)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(3))
    states = []
    for rows in (x, x[order]):
        torch.manual_seed(0)
        unit, samples = linear_unit(rows, weight)
        states.append(AdaQuantSolver(steps=60, batch_size=40).fit(unit, samples, None, KEY))
    assert states[0].mse_after == pytest.approx(states[1].mse_after, rel=1e-3)


def test_at_sixteen_bits_it_finds_the_least_squares_solution() -> None:
    """From a disturbed weight, with only weight and bias to learn: numpy's lstsq is the oracle."""
    x, weight = draw(256, 6), draw(3, 6, seed=1)
    torch.manual_seed(0)
    layer = nn.Linear(6, 3)
    with torch.no_grad():
        layer.weight.copy_(weight)
        target = layer(x) + 0.1 * draw(256, 3, seed=2)
        solution = torch.linalg.lstsq(torch.cat([x, torch.ones(256, 1)], 1).double(), target.double()).solution
        layer.weight.add_(0.3 * draw(3, 6, seed=4))
    gemm = as_gemm(layer)
    assert isinstance(gemm, GemmLinear)
    scale = torch.full((3,), 2.0**-12)
    parameters = AffineParameters(
        scale=scale, zero_point=torch.zeros(3), format=IntFormat(16), granularity=PerChannel()
    )
    gemm.slots.fill("weight", IntegerWeight(parameters))
    unit = Unit(name="layer", module=gemm, layers={"layer": gemm})
    AdaQuantSolver(steps=3000, tune=("weight", "bias"), batch_size=256, weight_rate=1e-2).fit(
        unit, StoredSamples([(x, target)]), None, KEY
    )
    torch.testing.assert_close(gemm.weight.detach().double(), solution[:6].T, rtol=0, atol=2e-3)
    torch.testing.assert_close(gemm.bias.detach().double(), solution[6], rtol=0, atol=2e-3)


def test_no_codes_at_these_scales_beat_brute_force() -> None:
    """One output, four inputs, two bits: 4^4 weights; what the solver finds lies between the best of them and the
    start."""
    x, weight = draw(64, 4), draw(1, 4, seed=1)
    unit, samples = linear_unit(x, weight, bits=2, input_bits=None, bias=False)
    content = unit.layers["layer"].slots.weight.quantizer
    assert isinstance(content, IntegerWeight)
    fit = AdaQuantSolver(steps=400, tune=("weight",), weight_rate=3e-2).fit(unit, samples, None, KEY)
    scale = float(content.scale)
    best = min(
        float((x @ (scale * torch.tensor([codes]).T) - x @ weight.T).square().mean())
        for codes in itertools.product((-2.0, -1.0, 0.0, 1.0), repeat=4)
    )
    assert best <= fit.mse_after * (1 + 1e-6)
    assert fit.mse_after <= fit.mse_before
    assert fit.mse_after <= 1.05 * best


def test_held_out_samples_choose_the_state() -> None:
    """Four samples can be fitted by heart; those held out stop that."""
    x, weight = draw(4, 24), draw(16, 24, seed=1)
    more = draw(200, 24, seed=9)
    torch.manual_seed(0)
    unit, samples = linear_unit(x, weight, bits=3)
    bias = unit.module.bias.detach()
    heldout = StoredSamples([(more, more @ weight.T + bias)])
    fit = AdaQuantSolver(steps=300).fit(unit, samples, heldout, KEY)
    assert fit.heldout_before is not None
    assert fit.heldout_after is not None
    assert fit.heldout_after <= fit.heldout_before


def test_a_loss_that_is_no_number_is_an_error() -> None:
    x = draw(32, 8)
    unit, _ = linear_unit(x, draw(4, 8, seed=1))
    targets = torch.full((32, 4), torch.nan)
    with pytest.raises(NumericsError, match="not finite 3 times"):
        AdaQuantSolver(steps=10).fit(unit, StoredSamples([(x, targets)]), None, KEY)


def test_settings_that_make_no_sense_are_refused() -> None:
    allocation = pw.BitAllocation(candidates=("w8a8", "w4a8"), size_ratio=0.2)
    with pytest.raises(MethodError, match="mixes solutions that were found apart"):
        pw.AdaQuant(weights=allocation, mode="sequential")
    with pytest.raises(MethodError, match="integer formats of 2 to 8 bits"):
        pw.AdaQuant(weights="int12")


# The method, on nets.


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(2, 4, 3, padding=1)
        self.conv2 = nn.Conv2d(4, 4, 3, padding=1)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x).relu()
        x = (x + self.conv2(x)).relu()
        out: Tensor = self.head(x.mean((2, 3)))
        return out


def residual() -> nn.Module:
    torch.manual_seed(0)
    return Residual().eval()


IMAGES = draw(24, 2, 8, 8, seed=5)


def fitted(model: nn.Module, folder: Path | None = None, **settings: Any) -> dict[str, Tensor]:
    model = copy.deepcopy(model)
    method = pw.AdaQuant(**{"steps": 15, "activations": "uint4", **settings})
    pw.apply_(model, method, data=[IMAGES], folder=folder)
    return {key: value.clone() for key, value in model.state_dict().items()}


def assert_equal(one: dict[str, Tensor], two: dict[str, Tensor]) -> None:
    assert one.keys() == two.keys()
    for key, value in one.items():
        assert torch.equal(value, two[key]), key


@pytest.mark.parametrize("cache", ["disk", "recompute"])
@pytest.mark.parametrize("mode", ["parallel", "sequential"])
def test_where_samples_are_kept_changes_no_bit(cache: str, mode: str, tmp_path: Path) -> None:
    assert_equal(
        fitted(residual(), tmp_path / "a", mode=mode, cache="ram"),
        fitted(residual(), tmp_path / "b", mode=mode, cache=cache),
    )


def test_a_tight_memory_gives_the_same_bits(tmp_path: Path) -> None:
    assert_equal(
        fitted(residual(), tmp_path / "a", mode="parallel"),
        fitted(residual(), tmp_path / "b", mode="parallel", max_memory_bytes=10_000),
    )


def test_on_a_single_layer_sequential_is_parallel() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(128, 5)).eval()
    assert_equal(fitted(model, mode="sequential"), fitted(model, mode="parallel"))


def test_behind_a_float_prefix_sequential_is_parallel() -> None:
    settings = {"include": ("head",), "edge_weights": None, "edge_activations": None}
    assert_equal(fitted(residual(), mode="sequential", **settings), fitted(residual(), mode="parallel", **settings))


def test_parallel_units_do_not_know_each_other() -> None:
    every = fitted(residual(), mode="parallel", edge_weights=None, edge_activations=None)
    alone = fitted(residual(), mode="parallel", edge_weights=None, edge_activations=None, include=("conv2",))
    for key in alone:
        if key.startswith("conv2."):
            assert torch.equal(every[key], alone[key]), key


def test_in_sequential_mode_every_sample_comes_from_the_quantized_prefix(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reference code replaced the input of the first calibration batch only."""
    model = residual()
    seen: dict[str, Tensor] = {}
    fit = AdaQuantSolver.fit

    def watches(self: AdaQuantSolver, unit: Unit, samples: StoredSamples, *rest: Any) -> Any:
        seen[unit.name] = torch.cat([x for x, _ in samples])
        return fit(self, unit, samples, *rest)

    monkeypatch.setattr(AdaQuantSolver, "fit", watches)
    pw.apply_(model, pw.AdaQuant(steps=5, activations="uint4", mode="sequential"), data=[IMAGES[:8], IMAGES[8:]])
    with torch.no_grad():
        first = model.conv1(IMAGES).relu()
        second = (first + model.conv2(first)).relu().mean((2, 3))
    torch.testing.assert_close(seen["conv2"], first, rtol=0, atol=1e-5)
    torch.testing.assert_close(seen["head"], second, rtol=0, atol=1e-5)
    float_first = residual().conv1(IMAGES).relu().detach()
    assert all(float((seen["conv2"][i] - float_first[i]).abs().max()) > 1e-3 for i in range(24))


def test_the_first_and_last_layer_by_the_graph_keep_more_bits() -> None:
    model = residual()
    pw.apply_(model, pw.AdaQuant(steps=1, weights="int3", activations="uint4"), data=[IMAGES])
    bits = {
        name: layer.slots.weight.quantizer.format.bits
        for name, layer in model.named_modules()
        if isinstance(layer, GemmConv2d | GemmLinear)
    }
    assert bits == {"conv1": 8, "conv2": 3, "head": 8}


def test_a_journal_of_other_data_is_refused(tmp_path: Path) -> None:
    fitted(residual(), tmp_path)
    with pytest.raises(MethodError, match="calibration"):
        pw.apply_(residual(), pw.AdaQuant(steps=15, activations="uint4"), data=[IMAGES * 2], folder=tmp_path)


class Tanh(Residual):
    """The same tensors with another forward."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.tanh())


def test_a_journal_of_a_net_with_the_same_tensors_and_another_forward_is_refused(tmp_path: Path) -> None:
    fitted(residual(), tmp_path)
    torch.manual_seed(0)
    other = Tanh().eval()
    assert_equal(residual().state_dict(), other.state_dict())
    with pytest.raises(MethodError, match="with other model"):
        pw.apply_(other, pw.AdaQuant(steps=15, activations="uint4"), data=[IMAGES], folder=tmp_path)


def test_a_changed_value_in_a_unit_file_is_noticed(tmp_path: Path) -> None:
    fitted(residual(), tmp_path)
    file = next(tmp_path.rglob("*.safetensors"))
    data = bytearray(file.read_bytes())
    data[-3] ^= 1  # tensors come last
    file.write_bytes(data)
    with pytest.raises(MethodError, match=r"its checksum is not that of its contents.*remove it"):
        fitted(residual(), tmp_path)


def test_names_longer_than_a_file_system_takes_resume(tmp_path: Path) -> None:
    def deep() -> nn.Module:
        torch.manual_seed(0)
        return Named(nn.ModuleDict({"a" * 300 + end: nn.Conv2d(2, 2, 3) for end in "xy"})).eval()

    first = fitted(deep(), tmp_path)
    files = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*.safetensors")}
    assert len(files) == 2
    assert_equal(first, fitted(deep(), tmp_path))
    assert files == {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*.safetensors")}


class Named(nn.Module):
    """Calls its parts in order."""

    def __init__(self, parts: nn.Module) -> None:
        super().__init__()
        self.parts = parts

    def forward(self, x: Tensor) -> Tensor:
        for part in self.parts.children():
            x = part(x)
        return x


def test_a_damaged_unit_file_is_named(tmp_path: Path) -> None:
    fitted(residual(), tmp_path)
    file = next(tmp_path.rglob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:40])
    with pytest.raises(MethodError, match=r"cannot be used .*: remove it"):
        fitted(residual(), tmp_path)


def test_blocks_are_fitted_whole() -> None:
    model = pw.create_model("resnet20", width=4).eval()
    applied = pw.apply_(
        model, pw.AdaQuant(steps=5, unit="block", activations="uint4"), data=[draw(8, 3, 32, 32, seed=6)]
    )
    units = [row["unit"] for row in applied.tables["Units"]]
    assert len(units) < 15
    assert any(row["unit"].count(".") == 1 and "conv" not in row["unit"] for row in applied.tables["Units"])
    assert all(row["mse after"] <= row["mse before"] for row in applied.tables["Units"])


def test_one_and_three_dimensional_convolutions() -> None:
    torch.manual_seed(0)
    for model, x in (
        (
            nn.Sequential(nn.Conv1d(2, 4, 3), nn.ReLU(), nn.Conv1d(4, 2, 3), nn.Flatten(), nn.LazyLinear(3)),
            draw(8, 2, 9),
        ),
        (
            nn.Sequential(nn.Conv3d(2, 4, 2), nn.ReLU(), nn.Conv3d(4, 2, 2), nn.Flatten(), nn.LazyLinear(3)),
            draw(8, 2, 4, 4, 4),
        ),
    ):
        model.eval()(x)
        applied = pw.apply_(model, pw.AdaQuant(steps=5, activations="int4"), data=[x])
        assert len(applied.changed) == 3
        assert not applied.failed


def test_tensor_granularity_works_too() -> None:
    unit, _ = linear_unit(draw(8, 4), draw(2, 4))
    assert isinstance(unit.layers["layer"].slots.input.quantizer.granularity, PerTensor)
    fitted(residual(), granularity="tensor")
