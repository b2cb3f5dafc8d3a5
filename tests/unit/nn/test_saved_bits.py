"""Saved bits: gradients equal plain autograd's to the bit, and the bytes are those autograd really keeps."""

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import pennyweight as pw
from pennyweight.errors import MethodError
from pennyweight.nn.masked_hardtanh import MaskedHardtanh
from pennyweight.nn.saved_bits import save_bits_, saved_bytes, saves_bits

PRESETS: list[dict[str, Any]] = [
    {},
    {"batch_norm": "shift", "stochastic_activations": True},
    {"ste": "approx"},
    {"ste": "swish"},
    {"ste": "identity"},
]
NETS: dict[str, tuple[dict[str, Any], tuple[int, ...]]] = {
    "mlp": ({"hidden": (40, 40), "bn_output": True, "dropout": 0.3}, (1, 8, 8)),
    "vgg-small": ({"width": 4}, (3, 16, 16)),
    "resnet20": ({"width": 4}, (3, 16, 16)),
}


def pixels(count: int, shape: tuple[int, ...]) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return (torch.randint(0, 256, (count, *shape), generator=generator).float() - 128) / 128


def net(name: str, **settings: Any) -> nn.Module:
    options, shape = NETS[name]
    if name != "resnet20":
        options = {**options, "input_shape": shape}
    model = pw.create_model(name, **options)
    pw.apply_(model, pw.BNN(**settings))
    return model


def steps(model: nn.Module, x: Tensor) -> list[Tensor]:
    """Losses, gradients, buffers and weights of two steps."""
    seen: list[Tensor] = []
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(2):
        torch.manual_seed(step)  # for dropout
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), torch.arange(len(x)) % 10)
        loss.backward()
        seen += [loss.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]
        optimizer.step()
        pw.nn.project_(model)
    return [*seen, *(value.clone() for value in model.state_dict().values())]


@pytest.mark.parametrize(
    ("name", "settings"),
    [("mlp", preset) for preset in PRESETS] + [(name, PRESETS[1]) for name in NETS if name != "mlp"],
)
def test_gradients_are_plain_autograds_to_the_bit(name: str, settings: dict[str, Any]) -> None:
    x = pixels(6, NETS[name][1])
    plain, packed = net(name, **settings), net(name, save_bits=True, **settings)
    found, expected = steps(packed, x), steps(plain, x)
    assert len(found) == len(expected) > 10
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.equal(ours, theirs)
    assert saved_bytes(packed, x) < saved_bytes(plain, x)


@pytest.mark.parametrize("batch", [1, 3])
def test_odd_shapes_strides_and_groups(batch: int) -> None:
    def layers(save_bits: bool) -> nn.Module:
        torch.manual_seed(1)
        model = nn.Sequential(
            nn.Conv2d(3, 7, 3), nn.BatchNorm2d(7), nn.ReLU(), nn.Conv2d(7, 14, 3, stride=2, padding="valid", groups=7),
            nn.BatchNorm2d(14), nn.ReLU(), nn.Conv2d(14, 5, 3, padding=1, padding_mode="reflect"),
        )  # fmt: skip
        pw.apply_(model, pw.BNN(save_bits=save_bits))
        return model

    x = torch.randn(batch, 3, 13, 11)  # a range that is no power of two
    results = []
    for model in (layers(False), layers(True)):
        model(x).square().sum().backward()
        results.append([p.grad for p in model.parameters()])
    for ours, theirs in zip(*results, strict=True):
        assert torch.equal(ours, theirs)


def test_what_a_binary_layer_keeps_is_counted_by_hand() -> None:
    """(linear, norm, tanh, sign, linear) 1024 wide at batch 32."""
    model = nn.Sequential(nn.Linear(1024, 1024, bias=False), nn.BatchNorm1d(1024), nn.ReLU(), nn.Linear(1024, 1024))
    pw.apply_(model, pw.BNN(first_input="binary", save_bits=True))
    x = torch.randn(32, 1024)
    n, weights = 32 * 1024, 1024 * 1024
    small = 1024 * (2 + 4)  # the norm's mean, multiples of 1/32, and its deviation
    weight_bits = 1 * weights // 8  # the first product needs no gradient of its input, so it keeps no weight
    input_bits = n // 8  # the signs of x; x itself asks for no gradient, so no mask
    sums = 2 if model[0](x).aminmax().max - model[0](x).aminmax().min > 510 else 1  # bytes of z
    tanh, sign_mask, signs = n // 8, 0, n // 8  # |hardtanh(x)| <= 1 everywhere: a constant takes nothing
    expected = small + weight_bits + input_bits + sums * n + tanh + sign_mask + signs
    assert saved_bytes(model, x) == expected
    plain = nn.Sequential(nn.Linear(1024, 1024, bias=False), nn.BatchNorm1d(1024), nn.ReLU(), nn.Linear(1024, 1024))
    pw.apply_(plain, pw.BNN(first_input="binary"))
    assert saved_bytes(plain, x) == 1024 * 8 + 4 * weights + 4 * n + (4 + 4 + 1 + 4) * n


def test_evaluation_copies_and_artifacts_are_as_without(tmp_path: Any) -> None:
    x = pixels(4, (1, 8, 8))
    plain, packed = net("mlp"), net("mlp", save_bits=True)
    assert saves_bits(packed)
    assert not saves_bits(plain)
    copied = copy.deepcopy(packed)
    assert saves_bits(copied)
    assert copied.forward.__self__ is copied
    steps(copied, x)
    for model in (plain, packed):
        steps(model, x)
    assert torch.equal(plain.eval()(x), packed.eval()(x))
    assert torch.equal(copied.eval()(x), packed(x))
    sizes = [pw.export(model, tmp_path / f"{i}.pw").path.stat().st_size for i, model in enumerate((plain, packed))]
    assert abs(sizes[0] - sizes[1]) < 64  # the manifest's "save_bits": true and false
    assert torch.equal(pw.load(tmp_path / "1.pw").model()(x), packed(x))


def test_a_forward_of_the_instance_is_refused() -> None:
    model = net("mlp")
    save_bits_(model)
    with pytest.raises(MethodError, match="MLP has a forward of its own"):
        save_bits_(model)


def test_the_hard_tanh_has_torchs_gradient_to_the_bit() -> None:
    x = torch.tensor([-2.0, -1.0, -0.999, -0.0, 0.0, 1.0, 1.0000001, float("nan"), float("inf")])
    g = torch.tensor([1.0, -1.0, 2.0, -3.0, 4.0, -5.0, -1.0, 6.0, 1.0])
    found = []
    for layer in (nn.Hardtanh(), MaskedHardtanh()):
        leaf = x.clone().requires_grad_()
        y = layer(leaf)
        y.backward(g)
        assert leaf.grad is not None
        found.append((y.detach().view(torch.int32), leaf.grad.view(torch.int32)))
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])
