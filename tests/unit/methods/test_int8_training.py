"""`Int8Training` and `RangeBatchNorm`: slots, ablations, refusals, conversion of trained nets, export."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import pennyweight as pw
from pennyweight.errors import ArtifactError, MethodError
from pennyweight.nn.gemm import GemmConv2d
from pennyweight.nn.quantized_batchnorm import QuantizedBatchNorm2d
from pennyweight.nn.range_batchnorm import RangeBatchNorm2d

IMAGES = (torch.randint(0, 256, (32, 1, 8, 8), generator=torch.Generator().manual_seed(0)).float() - 128) / 128


def net(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 12, 3, stride=2), nn.BatchNorm2d(12), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 10),
    )  # fmt: skip
    with torch.no_grad():
        for _ in range(30):
            model.train()(IMAGES)
    return model


def gradients(model: nn.Module) -> dict[str, Tensor]:
    model.train()
    model.zero_grad()
    nn.functional.cross_entropy(model(IMAGES), torch.arange(32) % 10).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def applied(**settings: Any) -> nn.Module:
    model = net()
    pw.apply_(model, pw.Int8Training(**settings))
    return model


def test_every_layer_first_and_last_included_is_quantized() -> None:
    model = applied()
    layer = model[0]
    assert isinstance(layer, GemmConv2d)
    assert layer.slots.filled == {
        "weight": ("MeasuredWeight",), "input": ("MeasuredInput",), "grad_output_input": ("MeasuredGradient",),
    }  # fmt: skip
    assert set(model[8].slots.filled) == set(layer.slots.filled)  # type: ignore[arg-type, union-attr]
    assert isinstance(model[1], QuantizedBatchNorm2d)
    assert model[1].statistic == "range"


def test_eight_bits_are_near_float_in_output_and_gradients() -> None:
    model = applied(norm="keep")
    plain = net()
    found, expected = gradients(model), gradients(plain)
    for name, gradient in expected.items():
        if name in ("0.bias", "3.bias"):
            continue  # a bias before batch norm has a gradient of zero and rounding errors
        cosine = torch.cosine_similarity(found[name].flatten(), gradient.flatten(), dim=0)
        assert cosine > 0.98, name


def test_the_last_layers_weight_gradient_sees_no_gradient_quantization() -> None:
    """Nothing is between the loss and the last layer: bit for bit what float gradients give."""
    split = gradients(applied(gradients="int4"))
    floats = gradients(applied(gradients=None))
    single = gradients(applied(gradients="int4", bifurcate=False))
    assert torch.equal(split["8.weight"], floats["8.weight"])
    assert not torch.equal(single["8.weight"], floats["8.weight"])
    assert not torch.equal(split["0.weight"], floats["0.weight"])


def test_equal_seeds_give_equal_runs_and_other_seeds_others() -> None:
    first, second, other = (gradients(applied(gradients="int4", seed=seed)) for seed in (0, 0, 1))
    assert torch.equal(first["0.weight"], second["0.weight"])
    assert not torch.equal(first["0.weight"], other["0.weight"])


def test_layers_left_out_are_named() -> None:
    model = net()
    record = pw.apply_(model, pw.Int8Training(exclude=("@first", "@last"), norm="keep"))
    assert not isinstance(record, list)
    assert record.changed == ("3",)
    assert set(record.skipped) == {"0", "8"}


def test_norms_follow_the_patterns_and_those_in_float_are_named() -> None:
    model = net()
    record = pw.apply_(model, pw.Int8Training(exclude=("1",)))
    assert not isinstance(record, list)
    assert type(model[1]) is nn.BatchNorm2d
    assert isinstance(model[4], QuantizedBatchNorm2d)
    assert record.skipped == {"1": "left out by include/exclude"}
    model = net()
    pw.apply_(model, [pw.GhostBatchNorm(ghost_batch_size=8, include=("1",)), pw.Int8Training(exclude=("1",))])
    assert gradients(model)
    others = nn.Sequential(nn.Conv3d(1, 2, 1), nn.BatchNorm3d(2), nn.Flatten(), nn.LayerNorm(2), nn.Linear(2, 2))
    record = pw.apply_(others, pw.Int8Training())
    assert not isinstance(record, list)
    assert set(record.skipped) == {"1", "3"}
    assert "BatchNorm3d stays in float" in record.skipped["1"]
    with pytest.raises(MethodError, match=r"matches batch norms alone"):
        pw.apply_(net(), pw.Int8Training(include=("1", "4")))
    with pytest.raises(MethodError, match=r"no module of the types Linear"):
        pw.apply_(nn.Sequential(nn.BatchNorm1d(3)), pw.Int8Training())


def test_a_second_method_learns_which_pattern_ends_the_collision() -> None:
    """The remedy the message names works: it did not while norms knew no patterns."""
    model = net()
    pw.apply_(model, pw.GhostBatchNorm(ghost_batch_size=8))
    with pytest.raises(MethodError, match=r"exclude=\('1',\)"):
        pw.apply_(model, pw.Int8Training())
    pw.apply_(model, pw.Int8Training(exclude=("1", "4")))


@pytest.mark.parametrize(("settings", "message"), [
    ({"weights": "int9"}, "weights"),
    ({"activations": "e4m3"}, "activations"),
    ({"bifurcate": False, "update_gradients": "int8"}, "bifurcate=False"),
    ({"bifurcate": False, "gradients": None}, "bifurcate=False"),
    ({"norm": "keep", "norm_bits": 4}, "norm='keep'"),
    ({"norm": "keep", "norm_gradient_bits": 6}, "norm='keep'"),
    ({"grad_rounding": "toward_zero"}, "grad_rounding"),
    ({"granularity": "group:8"}, "granularity"),
    ({"norm": "layer"}, "norm='layer'"),
    ({"input_range": "epoch"}, "input_range='epoch'"),
    ({"norm_bits": 16}, "norm_bits=16"),
    ({"master": "int32"}, "master='int32'"),
    ({"master": "int16", "weights": None}, "master='int16'"),
    ({"num_chunks": 0}, "num_chunks=0"),
    ({"scale": "half"}, "scale='half'"),
    ({"exact": True, "weights": None}, "exact=True"),
])  # fmt: skip
@pytest.mark.usefixtures("unchecked")
def test_wrong_settings_are_refused_with_their_value(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(pw.PennyweightError, match=message):
        pw.Int8Training(**settings)


def test_master_weights_lie_on_their_grid_after_a_step() -> None:
    model = applied(master="int6", norm="keep")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    gradients(model)
    optimizer.step()
    pw.nn.project_(model)
    layer = model[3]
    assert isinstance(layer, GemmConv2d)
    assert layer.weight.unique().numel() <= 64


def test_exact_integers_equal_float_sums_where_these_are_exact() -> None:
    """Sums of this net stay below 2^24."""
    plain, exact = applied(norm="keep"), applied(norm="keep", exact=True)
    found, expected = gradients(exact), gradients(plain)
    assert all(torch.equal(found[name], gradient) for name, gradient in expected.items())


def test_it_trains_digits_at_eight_bits() -> None:
    model = net()
    pw.apply_(model, pw.Int8Training())
    regime = pw.Regime.cosine(steps=150, lr=0.1, batch_size=64)
    pw.train(model, pw.load_dataset("digits"), regime, progress=False)
    assert float(pw.evaluate(model, pw.load_dataset("digits", "test")).accuracy) > 0.85


def test_a_trained_float_net_is_converted_and_exported(tmp_path: Path) -> None:
    plain = net().eval()
    model = copy.deepcopy(plain)
    pw.apply_(model, pw.Int8Training(), data=[IMAGES])
    model.eval()
    with torch.inference_mode():
        cosine = torch.cosine_similarity(model(IMAGES).flatten(), plain(IMAGES).flatten(), dim=0)
    assert cosine > 0.99
    artifact = pw.export(model, tmp_path / "net.pw", example_input=IMAGES)
    with torch.inference_mode():
        assert torch.equal(artifact.model()(IMAGES), model(IMAGES))


def test_without_a_range_nothing_is_exported(tmp_path: Path) -> None:
    model = applied()
    with pytest.raises(ArtifactError, match="never measured: train the model, or give apply_ calibration data"):
        pw.export(model, tmp_path / "net.pw")


def test_range_batch_norm_converts_fits_and_folds(tmp_path: Path) -> None:
    plain = net().eval()
    model = copy.deepcopy(plain)
    pw.apply_(model, pw.RangeBatchNorm(calibrate=True), data=[IMAGES])
    assert isinstance(model[1], RangeBatchNorm2d)
    assert model[1].gain is not None
    with torch.inference_mode():
        assert torch.equal(model.eval()(IMAGES), plain(IMAGES))
    artifact = pw.export(model, tmp_path / "net.pw", example_input=IMAGES)
    with torch.inference_mode():
        assert torch.equal(artifact.model()(IMAGES), plain(IMAGES))


def test_fitted_constants_make_batch_statistics_equal_batch_norms() -> None:
    """Without noise of sampling: the data calibrated with is the batch normalized."""
    plain = net().train()
    model = copy.deepcopy(plain).eval()
    pw.apply_(model, pw.RangeBatchNorm(calibrate=True, num_chunks=4, include=("1",)), data=[IMAGES])
    x = plain[0](IMAGES).detach()
    torch.testing.assert_close(model[1].train()(x), plain[1](x), atol=1e-3, rtol=1e-3)


def test_norms_with_behaviour_of_their_own_stay() -> None:
    model = net()
    pw.apply_(model, pw.GhostBatchNorm(ghost_batch_size=8, include=("1",)))
    record = pw.apply_(model, pw.RangeBatchNorm(include=("4",), bits=6, ghost_batch_size=16))
    assert not isinstance(record, list)
    assert record.changed == ("4",)
    with pytest.raises(MethodError, match="both want 'norm' of module '1'"):
        pw.apply_(model, pw.Int8Training())
    pw.apply_(model, pw.Int8Training(norm="keep"))  # composes through the slots
    assert gradients(model)


def test_gradients_alone_join_another_methods_weights() -> None:
    """Binary weights and activations by one method, 4-bit gradients by the other, on the same layers."""
    model = net()
    pw.apply_(model, [pw.BNN(), pw.Int8Training(weights=None, activations=None, gradients="int4", norm="keep")])
    layer = model[3]
    assert isinstance(layer, GemmConv2d)
    assert layer.slots.filled == {
        "weight": ("BinaryWeight",), "input": ("BinaryInput",), "grad_output_input": ("MeasuredGradient",),
    }  # fmt: skip
    twin = net()
    pw.apply_(twin, pw.BNN())
    found, expected = gradients(model), gradients(twin)
    assert torch.equal(found["8.weight"], expected["8.weight"])
    assert not torch.equal(found["0.weight"], expected["0.weight"])


def test_exact_sums_are_exported(tmp_path: Path) -> None:
    model, x = nn.Sequential(nn.Linear(5000, 3), nn.Linear(3, 2)), torch.rand(4, 5000, generator=torch.manual_seed(0))
    nn.init.uniform_(model[0].weight, 0.5, 1.0)  # sums of codes beyond 2^24, where float32 rounds
    pw.apply_(model, pw.Int8Training(exact=True, norm="keep"), data=[x])
    artifact = pw.export(model.eval(), tmp_path / "net.pw", example_input=x)
    with torch.inference_mode():
        assert torch.equal(artifact.model()(x), model(x))
