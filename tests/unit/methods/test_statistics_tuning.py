"""Statistics tuning, bias correction and bias tuning: what they promise, on a small net with known statistics."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import pennyweight as pw
from pennyweight.errors import MethodError
from pennyweight.methods.retarget import Matching, retarget_
from pennyweight.methods.statistics import ChannelStatistics, channel_rows, measured_statistics, move_between
from pennyweight.nn.execution import execution_of
from pennyweight.nn.folding import fold_batchnorm_
from pennyweight.nn.gemm import GemmConv2d, GemmLinear
from pennyweight.numerics.affine import quantize

SHAPE = (2, 10, 10)


def images(n: int, seed: int = 0) -> Tensor:
    return torch.randn(n, *SHAPE, generator=torch.Generator().manual_seed(seed))


class Net(nn.Module):
    """Two convolutions with batch norm, a shortcut, and a head."""

    def __init__(self, norm: bool = True) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(2, 6, 3, padding=1, bias=not norm)
        self.norm1 = nn.BatchNorm2d(6) if norm else nn.Identity()
        self.conv2 = nn.Conv2d(6, 6, 3, padding=1, bias=not norm)
        self.norm2 = nn.BatchNorm2d(6) if norm else nn.Identity()
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm1(self.conv1(x)).relu()
        x = (x + self.norm2(self.conv2(x))).relu()
        out: Tensor = self.head(x.mean((2, 3)))
        return out


def net(norm: bool = True) -> Net:
    torch.manual_seed(0)
    model = Net(norm)
    if norm:
        with torch.no_grad():
            for bn in (model.norm1, model.norm2):
                bn.weight.uniform_(0.5, 1.5).mul_(torch.tensor([1, -1, 1, 1, -1, 1.0]))
                bn.bias.uniform_(-0.5, 0.5)
        model.train()
        for seed in range(40):
            model(images(64, seed + 100))
    return model.eval()


def rounded(model: nn.Module, **settings: Any) -> nn.Module:
    student = copy.deepcopy(model)
    pw.apply_(student, pw.RoundToNearest(weights="int3", activations="uint4", **settings), data=[images(64)])
    return student


def codes_of(model: nn.Module) -> dict[str, Tensor]:
    return {
        name: quantize(layer.weight.detach(), layer.slots.weight.quantizer.affine)
        for name, layer in model.named_modules()
        if isinstance(layer, GemmConv2d | GemmLinear)
    }


def statistics(model: nn.Module, batch: Tensor) -> dict[str, ChannelStatistics]:
    return measured_statistics(model, ["conv1", "conv2", "head"], [batch])


def test_measured_statistics_equal_the_plain_ones() -> None:
    model, batch = net(), images(32)
    outputs: list[Tensor] = []
    model.conv2.register_forward_hook(lambda _m, _a, out: outputs.append(out))
    found = measured_statistics(model, ["conv2"], [batch[:20], batch[20:]])["conv2"]
    rows = channel_rows(model.conv2, torch.cat(outputs)).double()
    torch.testing.assert_close(found.mean, rows.mean(0))
    torch.testing.assert_close(found.std, rows.std(0, correction=0))


def test_codes_stay_and_statistics_become_the_targets() -> None:
    reference, batch = net(), images(256, 1)
    model = rounded(reference)
    before = codes_of(model)
    tuning = pw.StatisticsTuning(target="batchnorm", clip=(0.01, 100.0))
    applied = pw.apply_(model, tuning, data=[batch], reference=reference)
    assert applied.changed == ("conv1", "conv2")
    assert applied.skipped == {"head": "no batch norm follows it in the float model"}
    for name, codes in codes_of(model).items():
        assert torch.equal(codes, before[name]), f"{name}: an integer code moved"
    found = statistics(model, batch)
    for name, norm in (("conv1", reference.norm1), ("conv2", reference.norm2)):
        spread = norm.weight.detach().abs() * (norm.running_var / (norm.running_var + norm.eps)).sqrt()
        torch.testing.assert_close(found[name].mean, norm.bias.detach().double(), rtol=0, atol=1e-3)
        torch.testing.assert_close(found[name].std, spread.double(), rtol=1e-3, atol=1e-3)


def test_a_second_time_changes_next_to_nothing() -> None:
    reference, batch = net(), images(256, 1)
    model = rounded(reference)
    tuning = pw.StatisticsTuning(clip=(0.01, 100.0))
    pw.apply_(model, tuning, data=[batch], reference=reference)
    again = copy.deepcopy(model)
    del again.__dict__["_pennyweight_applied"]
    pw.apply_(again, tuning, data=[batch], reference=reference)
    for (name, one), two in zip(model.state_dict().items(), again.state_dict().values(), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-4, msg=lambda text, name=name: f"{name}: {text}")


def test_on_a_float_net_it_is_nearly_the_identity_the_more_so_with_more_samples() -> None:
    """The statistics batch norm stored are those of its training inputs; other samples of the same scatter around."""
    reference = net()
    distances = []
    for count in (32, 2048):
        model = copy.deepcopy(reference)
        fold_batchnorm_(model)
        folded = copy.deepcopy(model)
        tuning = pw.StatisticsTuning(target="batchnorm", max_samples=count)
        pw.apply_(model, tuning, data=[images(count, 5)], reference=reference)
        ratio = (model.conv1.weight / folded.conv1.weight).detach()
        distances.append(float((ratio - 1).abs().max()))
    assert distances[1] < 0.05
    assert distances[1] < distances[0]


def test_a_scaled_and_shifted_channel_is_put_right() -> None:
    reference, batch = net(), images(128, 2)
    model = copy.deepcopy(reference)
    fold_batchnorm_(model)
    wanted = statistics(model, batch)["conv2"]
    with torch.no_grad():
        model.conv2.weight[3] *= 1.7
        model.conv2.bias[3] += 0.9
    pw.apply_(model, pw.StatisticsTuning(), data=[batch], reference=reference)
    found = statistics(model, batch)["conv2"]
    torch.testing.assert_close(found.mean, wanted.mean, rtol=0, atol=1e-4)
    torch.testing.assert_close(found.std, wanted.std, rtol=1e-4, atol=1e-4)


def test_strength_41_is_five_batches_of_momentum_a_tenth() -> None:
    """The paper's code: running statistics that start at the target see five batches and are folded in."""
    measured = ChannelStatistics(torch.tensor([2.0, -1.0]).double(), torch.tensor([3.0, 0.5]).double())
    target = ChannelStatistics(torch.tensor([0.5, 0.0]).double(), torch.tensor([1.0, 1.0]).double())
    running_mean, running_var = target.mean.clone(), target.std.square()
    for _ in range(5):
        running_mean = 0.9 * running_mean + 0.1 * measured.mean
        running_var = 0.9 * running_var + 0.1 * measured.std.square()
    move = move_between(measured, target, strength=1 - 0.9**5, spread=True, clip=(1e-9, 1e9), min_std=0.0)
    torch.testing.assert_close(move.mean, running_mean)
    torch.testing.assert_close(move.gain, target.std / running_var.sqrt())
    assert pytest.approx(0.41, abs=1e-3) == 1 - 0.9**5


def test_gains_are_cut_and_quiet_channels_left() -> None:
    measured = ChannelStatistics(torch.zeros(3).double(), torch.tensor([1.0, 1.0, 1e-7]).double())
    target = ChannelStatistics(torch.ones(3).double(), torch.tensor([5.0, 1.2, 1.0]).double())
    move = move_between(measured, target, strength=1.0, spread=True, clip=(0.5, 2.0), min_std=1e-5)
    assert move.gain.tolist() == [2.0, pytest.approx(1.2), 1.0]
    assert (move.clipped, move.left) == (1, 1)
    assert move.target.tolist() == [1.0, 1.0, 0.0]


def test_one_forward_and_a_pass_a_layer_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    reference, batch = net(), images(96, 3)
    one, two = rounded(reference), rounded(reference)
    pw.apply_(one, pw.StatisticsTuning(), data=[batch], reference=reference)
    monkeypatch.setattr("pennyweight.methods.retarget.available_bytes", lambda: 0)
    pw.apply_(two, pw.StatisticsTuning(), data=[batch], reference=reference)
    for key, value in one.state_dict().items():
        torch.testing.assert_close(two.state_dict()[key], value, rtol=1e-4, atol=1e-5)


def test_what_is_measured_is_what_the_moved_layer_then_does() -> None:
    """Each layer is moved while the only forward runs; a fresh forward must see the same statistics."""
    reference, batch = net(norm=False), images(64, 4)
    model = rounded(reference)
    targets = statistics(reference, batch)
    matching = Matching(strength=1.0, spread=True, clip=(1e-3, 1e3), min_std=1e-6)
    retarget_(model, targets, batch, execution_of(model, batch[:2]), matching)
    found = statistics(model, batch)
    for name in targets:
        torch.testing.assert_close(found[name].mean, targets[name].mean, rtol=0, atol=1e-4)
        torch.testing.assert_close(found[name].std, targets[name].std, rtol=1e-3, atol=1e-4)


def test_one_scale_for_the_tensor_matches_the_mean_alone_and_says_so() -> None:
    reference, batch = net(), images(64, 1)
    model = rounded(reference, granularity="tensor")
    before = codes_of(model)
    applied = pw.apply_(model, pw.StatisticsTuning(), data=[batch], reference=reference)
    assert applied.metrics["conv1.mean_only"] == "one scale for the whole weight"
    assert all(torch.equal(codes, before[name]) for name, codes in codes_of(model).items())


def test_a_net_without_batch_norm_takes_the_float_nets_statistics() -> None:
    reference, batch = net(norm=False), images(128, 1)
    model = rounded(reference)
    with pytest.raises(MethodError, match="pass the model from before folding"):
        pw.apply_(model, pw.StatisticsTuning(target="batchnorm"), data=[batch], reference=reference)
    pw.apply_(model, pw.StatisticsTuning(clip=(0.01, 100.0)), data=[batch], reference=reference)
    wanted, found = statistics(reference, batch), statistics(model, batch)
    for name in wanted:
        torch.testing.assert_close(found[name].std, wanted[name].std, rtol=1e-3, atol=1e-4)


def test_bias_correction_takes_out_the_mean_error() -> None:
    reference, batch = net(norm=False), images(128, 1)
    model = rounded(reference)
    wanted = statistics(reference, batch)
    assert any(float((statistics(model, batch)[n].mean - wanted[n].mean).abs().max()) > 1e-2 for n in wanted)
    weights = copy.deepcopy(codes_of(model))
    pw.apply_(model, pw.BiasCorrection(), data=[batch], reference=reference)
    found = statistics(model, batch)
    for name in wanted:
        torch.testing.assert_close(found[name].mean, wanted[name].mean, rtol=0, atol=1e-4)
    assert all(torch.equal(codes, weights[name]) for name, codes in codes_of(model).items())


def test_bias_tuning_never_ends_worse_and_moves_biases_alone() -> None:
    reference, batch = net(), images(128, 1)
    for lr in (1e-2, 1e4):  # the second is far too large: the start must be kept
        model = rounded(reference)
        before = {key: value.clone() for key, value in model.state_dict().items()}
        applied = pw.apply_(model, pw.BiasTuning(lr=lr, steps=40), data=[batch], reference=reference)
        kl_before, kl_after = applied.metrics["kl_before"], applied.metrics["kl_after"]
        assert isinstance(kl_before, float)
        assert isinstance(kl_after, float)
        assert kl_after < kl_before if lr < 1 else kl_after == kl_before
        for key, value in model.state_dict().items():
            if not key.endswith("bias"):
                assert torch.equal(value, before[key]), key
        assert all(parameter.requires_grad for parameter in model.parameters())


def test_layers_that_run_twice_are_left_with_the_reason() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.shared = nn.Conv2d(2, 2, 3, padding=1)
            self.head = nn.Linear(2, 3)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.head(self.shared(self.shared(x).relu()).mean((2, 3)))
            return out

    torch.manual_seed(0)
    reference = Twice().eval()
    model = rounded(reference)
    applied = pw.apply_(model, pw.StatisticsTuning(), data=[images(32)], reference=reference)
    assert applied.skipped == {"shared": "runs 2 times a forward"}
    assert applied.changed == ("head",)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"target": "nowhere"}, "'float', 'batchnorm'"),
        ({"strength": 0.0}, r"a share in \(0, 1\]"),
        ({"clip": (2.0, 3.0)}, "the least gain lies in"),
        ({"max_samples": 1}, "at least 2 samples"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_bad_settings_are_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(MethodError, match=words):
        pw.StatisticsTuning(**settings)


def test_a_reference_of_another_net_is_refused() -> None:
    model = rounded(net())
    with pytest.raises(MethodError, match="the reference has no layer 'conv1'"):
        pw.apply_(model, pw.BiasCorrection(), data=[images(8)], reference=nn.Sequential(nn.Conv2d(2, 4, 3)))


class Tied(nn.Module):
    """A language model whose head reads the table; a second pair of layers shares a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(7, 6)
        self.inner, self.twin = nn.Linear(6, 6), nn.Linear(6, 6)
        self.twin.bias = self.inner.bias
        self.head = nn.Linear(6, 7)
        self.head.weight = self.table.weight

    def forward(self, tokens: Tensor) -> Tensor:
        out: Tensor = self.head(self.twin(self.inner(self.table(tokens).mean(1)).relu()))
        return out


def test_what_other_modules_hold_too_is_left_as_it_is() -> None:
    torch.manual_seed(0)
    reference = Tied().eval()
    model = copy.deepcopy(reference)
    tokens = torch.randint(0, 7, (64, 5))
    pw.apply_(model, pw.RoundToNearest(weights="int3", activations="uint4"), data=[tokens])
    table = model.table(tokens).clone()
    applied = pw.apply_(model, pw.StatisticsTuning(), data=[tokens], reference=reference)
    assert applied.changed == ("head",)
    assert applied.skipped == {"inner": "its bias is that of 'twin' too", "twin": "its bias is that of 'inner' too"}
    assert applied.metrics["head.mean_only"] == "its weight is that of 'table' too"
    assert torch.equal(model.table(tokens), table)
    with torch.no_grad():
        measured = (model(tokens) - reference(tokens)).mean(0).abs().max()
    assert float(measured) < 1e-5
