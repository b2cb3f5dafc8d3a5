"""BNN against the paper's algorithm by hand, and what it does to whole nets."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import pennyweight as pw
from oracles.binary_net import binary_layer
from pennyweight.errors import MethodError
from pennyweight.nn.gemm import GemmLinear
from pennyweight.nn.parameter_rules import parameter_rules
from pennyweight.nn.shift_batchnorm import ShiftBatchNorm1d
from pennyweight.nn.slots.binary import BinaryInput
from pennyweight.nn.slots.integer import RunningInput
from pennyweight.numerics.ste import sign, surrogate_sign


def linear(k: int, n: int, **settings: Any) -> nn.Sequential:
    model = nn.Sequential(nn.Linear(k, n))
    pw.apply_(model, pw.BNN(first_input="binary", **settings))
    return model


def test_forward_and_gradients_by_hand() -> None:
    torch.manual_seed(0)
    model = linear(7, 4)
    layer = model[0]
    x = (torch.randn(5, 7) * 1.2).requires_grad_()
    g = torch.randn(5, 4)
    y = model(x)
    y.backward(g)
    expected = binary_layer(
        x.detach().tolist(), layer.weight.detach().tolist(), layer.bias.detach().tolist(), g.tolist()
    )
    assert x.grad is not None
    for got, want in zip((y.detach(), x.grad, layer.weight.grad), expected, strict=True):
        torch.testing.assert_close(got, torch.tensor(want))


def test_learning_rate_scale_of_the_papers_code() -> None:
    layer = linear(1024, 1024)[0]
    rules = parameter_rules(layer)
    assert rules[layer.weight].lr_scale == pytest.approx(36.95, abs=0.005)
    assert not rules[layer.weight].decays
    assert rules[layer.bias].lr_scale == 1.0
    assert parameter_rules(linear(8, 8, glorot_scaling=False)).popitem()[1].lr_scale == 1.0
    conv = nn.Sequential(nn.Conv2d(4, 6, 3))
    pw.apply_(conv, pw.BNN())
    assert parameter_rules(conv)[conv[0].weight].lr_scale == pytest.approx(((9 * 4 + 9 * 6) / 1.5) ** 0.5)


def test_latent_weights_start_as_the_papers_and_keep_their_signs() -> None:
    layer = nn.Linear(200, 300)
    signs = layer.weight.detach() >= 0
    model = nn.Sequential(layer)
    pw.apply_(model, pw.BNN())
    latent = model[0].weight.detach()
    assert torch.equal(latent >= 0, signs)
    assert latent.abs().max() <= 1
    assert float(latent.std()) == pytest.approx(3**-0.5, abs=0.01)  # U(-1, 1)
    constant = nn.Linear(3, 3)
    nn.init.zeros_(constant.weight)
    zeros = nn.Sequential(constant)
    pw.apply_(zeros, pw.BNN())
    assert not zeros[0].weight.any()  # nothing to scale, nothing divided by zero


@pytest.mark.parametrize(("name", "shape", "layers"), [
    ("mlp", (1, 8, 8), 3), ("resnet20", (3, 32, 32), 20), ("vgg-small", (3, 32, 32), 9),
])  # fmt: skip
def test_whole_models(name: str, shape: tuple[int, ...], layers: int) -> None:
    options = {"width": 4} if name != "mlp" else {}
    model = pw.create_model(name, **options)
    applied = pw.apply_(model, pw.BNN())
    gemms = [m for m in model.modules() if hasattr(m, "slots")]
    assert len(gemms) == layers
    assert sum(isinstance(m.slots.input.quantizer, RunningInput) for m in gemms) == 1
    assert isinstance(gemms[0].slots.input.quantizer, RunningInput)
    assert not [m for m in model.modules() if isinstance(m, nn.ReLU)]
    loss = F.cross_entropy(model(torch.randn(4, *shape)), torch.tensor([0, 1, 2, 3]))
    loss.backward()
    for parameter in model.parameters():
        assert parameter.grad is not None
        assert parameter.grad.isfinite().all()
    assert not isinstance(applied, list)
    assert applied.skipped == {}


def test_include_and_exclude() -> None:
    model = pw.create_model("mlp", hidden=(16, 16))
    applied = pw.apply_(model, pw.BNN(exclude=("@first", "@last")))
    assert not isinstance(applied, list)
    assert "linear2" in applied.changed
    assert applied.skipped == {"linear1": "left out by include/exclude", "linear3": "left out by include/exclude"}
    assert isinstance(model.linear2, GemmLinear)
    assert isinstance(model.linear2.slots.input.quantizer, BinaryInput)  # it is not the net's first layer
    assert type(model.linear1) is nn.Linear


def test_shift_batch_norm_preset() -> None:
    model = pw.create_model("mlp", hidden=(16,))
    applied = pw.apply_(model, pw.BNN(batch_norm="shift", stochastic_activations=True))
    assert isinstance(model.bn1, ShiftBatchNorm1d)
    assert not isinstance(applied, list)
    assert "bn1" in applied.changed
    with pytest.raises(MethodError, match=r"GhostBatchNorm and BNN both want 'norm' of module 'bn1'"):
        pw.apply_(model, pw.GhostBatchNorm())


def test_stochastic_neurons_are_reproducible_and_differ_by_layer_and_seed() -> None:
    x = torch.randn(8, 1, 8, 8, generator=torch.Generator().manual_seed(0))

    def outputs(seed: int) -> torch.Tensor:
        model = pw.create_model("mlp", hidden=(32, 32))
        pw.apply_(model, pw.BNN(stochastic_activations=True, seed=seed))
        return torch.stack([model.train()(x) for _ in range(2)])

    assert torch.equal(outputs(0), outputs(0))
    assert not torch.equal(outputs(0), outputs(1))
    assert not torch.equal(outputs(0)[0], outputs(0)[1])


class FunctionalReLU(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.fc, self.kind = nn.Linear(4, 4), kind

    def forward(self, x: Any) -> Any:
        y = self.fc(x)
        return F.relu(y) if self.kind == "F" else torch.relu(y) if self.kind == "torch" else y.relu()


@pytest.mark.parametrize("kind", ["F", "torch", "method"])
def test_functional_rectifiers_are_refused(kind: str) -> None:
    model = FunctionalReLU(kind)
    with pytest.raises(MethodError, match=r"relu\(\) as a function.*make it a module"):
        pw.apply_(model, pw.BNN())
    assert type(model.fc) is nn.Linear


@pytest.mark.parametrize(("ste", "activation"), [
    ("hardtanh", nn.Hardtanh), ("approx", nn.Hardtanh), ("identity", nn.Identity), ("swish", nn.Identity),
])  # fmt: skip
def test_surrogates_reach_every_binary_input_and_are_not_cut_by_the_activation(
    ste: Any, activation: type[nn.Module]
) -> None:
    model = pw.create_model("mlp", hidden=(16, 16))
    pw.apply_(model, pw.BNN(ste=ste))
    assert type(model.relu1) is activation
    assert [m.slots.input.quantizer.ste for m in (model.linear2, model.linear3)] == [ste] * 2
    x = torch.tensor([[-2.0, -0.6, 0.3, 1.5] * 4], requires_grad=True)
    model.linear2(model.relu1(x)).sum().backward()
    reference = x.detach().requires_grad_()
    (surrogate_sign(reference, ste) @ sign(model.linear2.weight.detach()).t()).sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, reference.grad)  # type: ignore[arg-type]


def test_learning_rate_scale_rounded_to_a_power_of_two() -> None:
    rules = parameter_rules(linear(1024, 1024, round_scaling=True)[0])
    assert max(rule.lr_scale for rule in rules.values()) == 32.0  # of 36.95
    with pytest.raises(MethodError, match="round_scaling=True rounds the factor of glorot_scaling"):
        pw.BNN(round_scaling=True, glorot_scaling=False)


def test_a_trained_float_net_keeps_its_signs_loses_accuracy_and_learns_again() -> None:
    data, test = pw.load_dataset("digits"), pw.load_dataset("digits", "test")
    model = pw.create_model("mlp", hidden=(64, 64), bn_output=True)
    regime = pw.Regime.cosine(steps=60, lr=8e-3, batch_size=64, optimizer="adam")
    pw.train(model, data, regime, progress=False, device="cpu")
    trained = pw.evaluate(model, test).accuracy
    signs = {name: sign(p.detach()) for name, p in model.named_parameters() if "linear" in name}
    pw.apply_(model, pw.BNN(save_bits=True))
    for name, parameter in model.named_parameters():
        if name in signs:
            assert torch.equal(sign(parameter.detach()), signs[name])
    converted = pw.evaluate(model, test).accuracy
    pw.train(model, data, regime, progress=False, device="cpu")
    again = pw.evaluate(model, test).accuracy
    assert trained > 0.9
    assert converted < trained - 0.05
    assert again > 0.8


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(("settings", "message"), [
    ({"first_input": "int4"}, "first_input='int4'"), ({"batch_norm": "none"}, "batch_norm='none'"),
    ({"ste": "step"}, "ste='step'"),
])  # fmt: skip
def test_bad_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(MethodError, match=message):
        pw.BNN(**settings)


def test_training_flips_signs_and_keeps_latents_in_bounds() -> None:
    torch.manual_seed(0)
    model = pw.create_model("mlp", input_shape=(1, 4, 4), hidden=(32,), num_classes=2)
    pw.apply_(model, pw.BNN())
    before = model.linear1.weight.detach().sign()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    x = torch.randn(64, 1, 4, 4)
    y = (x.mean((1, 2, 3)) > 0).long()
    losses = []
    for _ in range(40):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        pw.nn.project_(model)
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]
    assert model.linear1.weight.detach().abs().max() <= 1
    assert (model.linear1.weight.detach().sign() != before).any()
