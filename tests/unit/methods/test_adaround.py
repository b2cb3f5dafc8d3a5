"""AdaRound: against every way to round a tiny layer; its penalty; what the method does on nets."""

import itertools
import math

import pytest
import torch
from torch import nn

import pennyweight as pw
from oracles.rounding_search import best_rounding
from pennyweight.errors import MethodError
from pennyweight.methods.reconstruction.adaquant import AdaQuantSolver
from pennyweight.methods.reconstruction.adaround import AdaRoundSolver, RoundingSchedule
from pennyweight.methods.reconstruction.solver import output_errors
from pennyweight.nn.slots.integer import IntegerInput, IntegerWeight
from unit.methods.fitting import KEY, codes_of, correlated, draw, linear_unit, unit_of


def test_no_rounding_beats_brute_force_and_this_one_comes_close() -> None:
    """Eight weights, 256 roundings: descent finds the best in most cases, and cuts most of what rounding to nearest
    loses to it."""
    starts, ends = [], []
    for bits, seed in itertools.product((2, 4), range(5)):
        x, weight = draw(40, 8, seed=seed) @ (torch.eye(8) + 0.3 * draw(8, 8, seed=seed + 50)), draw(1, 8, seed=seed)
        unit, samples = linear_unit(x, weight, bits=bits, input_bits=None, bias=False)
        scale = float(unit.layers["layer"].slots.weight.quantizer.scale)
        solver = AdaRoundSolver(steps=150, tune=("rounding",), batch_size=40)
        fit = solver.fit(unit, samples, None, KEY)
        codes = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
        best, _ = best_rounding(x.tolist(), (x @ weight.T)[:, 0].tolist(), weight[0].tolist(), scale, *codes)
        assert fit.mse_after >= best * (1 - 1e-5)
        assert fit.mse_after <= fit.mse_before
        starts.append(fit.mse_before / best - 1)
        ends.append(fit.mse_after / best - 1)
    assert sum(excess < 1e-5 for excess in ends) >= 7
    assert sum(ends) < 0.3 * sum(starts)


def test_a_unit_ends_below_round_to_nearest_and_below_adaquant_at_two_bits() -> None:
    x, weight = correlated(200, 24), draw(16, 24, seed=1)
    errors = []
    for solver in (AdaRoundSolver(steps=300), AdaQuantSolver(steps=300)):
        unit, samples = linear_unit(x, weight, bits=2)
        fit = solver.fit(unit, samples, None, KEY)
        assert output_errors(unit, samples).mse == fit.mse_after, "what was measured is what the frozen layer does"
        errors.append(fit.mse_after / fit.mse_before)
    assert errors[0] < 0.9
    assert errors[0] < errors[1]


def test_each_weight_goes_to_one_of_its_two_neighbours() -> None:
    x, weight = correlated(100, 24), draw(16, 24, seed=1)
    unit, samples = linear_unit(x, weight, bits=3)
    layer = unit.layers["layer"]
    scale = layer.slots.weight.quantizer.scale[:, None].clone()
    fit = AdaRoundSolver(steps=200).fit(unit, samples, None, KEY)
    content, input = layer.slots.weight.quantizer, layer.slots.input.quantizer
    assert type(content) is IntegerWeight
    assert type(input) is IntegerInput
    assert torch.equal(content.scale[:, None], scale), "the scales of weights stay"
    torch.testing.assert_close(content(layer.weight.detach()), layer.weight.detach(), rtol=0, atol=0)
    floor = (weight / scale).floor().clamp(-4, 2)
    ups = codes_of(layer) - floor
    assert set(ups.unique().tolist()) == {0.0, 1.0}
    assert not fit.kept_start


@pytest.mark.parametrize("factor", [2.0**-9, 50.0])
def test_the_scale_of_a_layer_does_not_matter(factor: float) -> None:
    """A layer whose input is multiplied by k and whose weight is divided by k has the same problem; likewise one
    whose outputs are all multiplied."""
    x, weight = correlated(128, 24), draw(16, 24, seed=1)
    fits = []
    for inner, outer in ((1.0, 1.0), (factor, 1.0), (1.0, factor)):
        unit, samples = linear_unit(x * inner, weight / inner * outer, bias=False, bits=3)
        fits.append(AdaRoundSolver(steps=100).fit(unit, samples, None, KEY))
    one, *others = (fit.mse_after / fit.mse_before for fit in fits)
    for other in others:
        assert other == pytest.approx(one, rel=1e-5 if math.log2(factor).is_integer() else 0.1)


def test_a_rate_far_too_large_never_ends_above_the_start() -> None:
    unit, samples = linear_unit(draw(64, 8), draw(4, 8, seed=1))
    nearest = codes_of(unit.layers["layer"])
    fit = AdaRoundSolver(steps=20, rate=1e4, tune=("rounding",)).fit(unit, samples, None, KEY)
    assert fit.mse_after <= fit.mse_before
    if fit.kept_start:
        assert torch.equal(codes_of(unit.layers["layer"]), nearest)


def test_without_steps_it_is_round_to_nearest() -> None:
    unit, samples = linear_unit(draw(64, 8), draw(4, 8, seed=1))
    layer = unit.layers["layer"]
    nearest = codes_of(layer)
    before = output_errors(unit, samples).mse
    fit = pw.AdaRound().solver(rehearsal=True).fit(unit, samples, None, KEY)
    assert fit.kept_start
    assert torch.equal(codes_of(layer), nearest)
    assert output_errors(unit, samples).mse == before == fit.mse_after


def test_the_penalty_makes_weights_decide() -> None:
    """What is learned softly and what is judged hard then hardly differ, so the last state needs no choosing."""
    x, weight = correlated(200, 24), draw(16, 24, seed=1)
    errors = []
    for regularization in (0.01, 0.0):
        unit, samples = linear_unit(x, weight, bits=2)
        solver = AdaRoundSolver(steps=300, regularization=regularization, keep_best=False)
        errors.append(solver.fit(unit, samples, None, KEY).mse_after)
    assert errors[0] < errors[1]


def test_the_exponent_falls_behind_the_warm_up() -> None:
    schedule = RoundingSchedule(steps=100, weight=0.01)
    betas = [schedule.beta(step) for step in range(100)]
    assert betas[:20] == [None] * 20
    assert betas[20] == 20.0
    assert all(a > b for a, b in itertools.pairwise(betas[20:]))
    assert 2.0 < betas[-1] < 2.1
    assert RoundingSchedule(steps=100, weight=0.0).beta(50) is None


@pytest.mark.parametrize("tuned", ["bias", "input_scale"])
def test_what_is_not_tuned_stays(tuned: str) -> None:
    unit, samples = linear_unit(correlated(100, 24), draw(16, 24, seed=1), bits=3)
    layer = unit.layers["layer"]
    bias, scale = layer.bias.detach().clone(), layer.slots.input.quantizer.scale.clone()
    AdaRoundSolver(steps=100, tune=("rounding", tuned)).fit(unit, samples, None, KEY)
    assert torch.equal(layer.bias.detach(), bias) == (tuned != "bias")
    assert torch.equal(layer.slots.input.quantizer.scale, scale) == (tuned != "input_scale")


def test_biases_and_scales_alone_are_fitted_to_the_nearest_codes() -> None:
    unit, samples = linear_unit(correlated(100, 24), draw(16, 24, seed=1), bits=2)
    nearest = codes_of(unit.layers["layer"])
    fit = AdaRoundSolver(steps=100, tune=("bias", "input_scale")).fit(unit, samples, None, KEY)
    assert torch.equal(codes_of(unit.layers["layer"]), nearest)
    assert fit.mse_after < fit.mse_before


def test_groups_of_inputs_and_convolutions() -> None:
    from pennyweight.methods.rounding import Ranges

    unit, samples = linear_unit(correlated(80, 12), draw(5, 12, seed=1), bits=3, ranges=Ranges(granularity="group:5"))
    fit = AdaRoundSolver(steps=100).fit(unit, samples, None, KEY)
    assert fit.mse_after < fit.mse_before
    torch.manual_seed(0)
    for layer, x in (
        (nn.Conv1d(3, 4, 3), draw(8, 3, 9)),
        (nn.Conv2d(4, 6, 3, groups=2, padding=1), draw(8, 4, 7, 7)),
        (nn.Conv3d(2, 4, 2), draw(8, 2, 4, 4, 4)),
    ):
        unit, samples = unit_of(layer, x, bits=2)
        fit = AdaRoundSolver(steps=100).fit(unit, samples, None, KEY)
        assert fit.mse_after < fit.mse_before
        assert output_errors(unit, samples).mse == fit.mse_after


def test_settings_that_make_no_sense_are_refused(unchecked: None) -> None:
    with pytest.raises(MethodError, match=r"tune=\('weight',\): takes a tuple, each one of 'rounding'"):
        pw.AdaRound(tune=("weight",))
    with pytest.raises(MethodError, match="steps=0"):
        pw.AdaRound(steps=0)
    with pytest.raises(MethodError, match="rate=0"):
        pw.AdaRound(rate=0.0)
    with pytest.raises(MethodError, match="regularization=-1"):
        pw.AdaRound(regularization=-1.0)
