"""Which inputs the measure and the synthesis look at: layers called twice, never, by name, or on rows of tokens."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

import pennyweight as pw
from pennyweight.errors import MethodError
from pennyweight.methods.data_free import collect_statistics, load_statistics, save_statistics, statistics_of
from pennyweight.methods.data_free.divergence import gaussian_kl
from pennyweight.methods.data_free.stored_statistics import LayerStatistics
from pennyweight.methods.data_free.synthesize import Synthesis


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Shared(nn.Module):
    """One batch norm, called twice, the second time by keyword, on maps of two sizes; another is never called."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(1)
        self.auxiliary = nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        half = 2 * self.norm(x)[..., ::2, ::2] + 1
        out: Tensor = self.norm(input=half).mean((2, 3)).expand(-1, 10)
        return out


@pytest.fixture
def shared() -> nn.Module:
    model = Shared().eval()
    assert model.norm.running_mean is not None
    model.norm.running_mean.fill_(0.5)
    return model


def called(model: nn.Module) -> dict[str, LayerStatistics]:
    return {name: s for name, s in statistics_of(model).items() if name != "auxiliary"}


def test_calls_of_one_layer_are_pooled_by_values(shared: nn.Module) -> None:
    x, stored = draw(70, 1, 4, 4), called(shared)["norm"]
    first = (x - 0.5) / (1 + stored.eps) ** 0.5
    values = torch.cat([x.flatten(), (2 * first[..., ::2, ::2] + 1).flatten()]).double()
    expected = gaussian_kl(stored, values.mean(), values.var(correction=0))
    found = pw.bns_divergence(shared, x, statistics=called(shared), bootstrap=0)
    assert found.value == pytest.approx(float(expected), rel=1e-5)


def test_a_layer_that_is_never_called_is_named_with_the_way_out(shared: nn.Module) -> None:
    data = pw.load_dataset("digits", "train")
    with pytest.raises(MethodError, match=r"'auxiliary' is never called.*name != 'auxiliary'"):
        pw.bns_divergence(shared, draw(4, 1, 8, 8))
    settings = Synthesis(steps=20, batch_size=8)
    with pytest.raises(MethodError, match="'auxiliary' is never called"):
        pw.synthesize(shared, 4, like=data, settings=settings)
    made = pw.synthesize(shared, 8, like=data, settings=settings, statistics=called(shared))
    assert made.history[0][-1] < made.history[0][0]


@pytest.mark.parametrize("flat", [True, False])
def test_rows_of_tokens_belong_to_their_sample(flat: bool) -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(5, 2)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.layer(x.flatten(0, 1) if flat else x)
            return out

    torch.manual_seed(0)
    model, x = Tokens(), draw(80, 7, 5)
    statistics = collect_statistics(model, [x])
    assert pw.bns_divergence(model, x, statistics=statistics, bootstrap=0).value < 1e-9
    found = pw.bns_divergence(model, x[:40] + 1, statistics=statistics, bootstrap=20)
    assert found.n == 40
    assert found.low <= found.value <= found.high


def test_rows_that_belong_to_no_sample_are_refused() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.layer(x[1:])
            return out

    model, x = Odd(), draw(6, 3)
    with pytest.raises(MethodError, match="5 rows for 6 samples"):
        pw.bns_divergence(model, x, statistics=collect_statistics(model, [x]))


def test_statistics_stay_what_they_were_when_training_goes_on() -> None:
    model = nn.Sequential(nn.BatchNorm1d(3))
    before = statistics_of(model)
    model.train()(draw(8, 3) + 5)
    assert torch.equal(before["0"].mean, torch.zeros(3))


def test_biases_beside_another_norm_are_no_sign_of_folding() -> None:
    convnext = nn.Sequential(nn.Conv2d(1, 4, 3), nn.GroupNorm(1, 4))
    with pytest.raises(MethodError, match="store nothing of their training data"):
        statistics_of(convnext)
    with pytest.raises(MethodError, match="probably folded"):
        statistics_of(nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU()))


def test_finished_batches_belong_to_their_statistics(tmp_path: Path) -> None:
    data, settings = pw.load_dataset("digits", "train"), Synthesis(steps=2, batch_size=4)
    model = nn.Sequential(nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(64, 10)).eval()
    own = statistics_of(model)
    other = {name: LayerStatistics(s.mean + 1, s.var, s.eps) for name, s in own.items()}
    pw.synthesize(model, 4, like=data, settings=settings, folder=tmp_path, statistics=own)
    pw.synthesize(model, 4, like=data, settings=settings, folder=tmp_path)
    with pytest.raises(MethodError, match="statistics differ"):
        pw.synthesize(model, 4, like=data, settings=settings, folder=tmp_path, statistics=other)


@pytest.mark.parametrize("value", [float("inf"), float("nan"), -1.0])
def test_variances_that_are_none_are_refused(value: float, tmp_path: Path) -> None:
    path = tmp_path / "statistics.safetensors"
    facts = {"statistics": json.dumps({"schema": 1, "eps": {"norm": 1e-5}})}
    tensors = {"norm:mean": torch.zeros(1), "norm:var": torch.tensor([value])}
    safetensors.torch.save_file(tensors, path, metadata=facts)
    with pytest.raises(MethodError, match="a variance negative or not finite"):
        load_statistics(path)


def test_a_file_gives_the_statistics_back(tmp_path: Path) -> None:
    before = {"a.b": LayerStatistics(draw(3), draw(3, seed=1).square(), 1e-3)}
    save_statistics(before, tmp_path / "s")
    after = load_statistics(tmp_path / "s")
    assert after["a.b"].eps == 1e-3
    assert torch.equal(after["a.b"].mean, before["a.b"].mean)
    assert torch.equal(after["a.b"].var, before["a.b"].var)


def test_right_data_pass_at_any_number_and_gross_errors_at_none() -> None:
    """Without real data to compare with: running averages of a moving net must not be taken for a wrong domain."""
    data: Any = pw.load_dataset("digits", "train")
    torch.manual_seed(0)
    model = pw.create_model("vgg-small", width=4, input_shape=data.shape)
    pw.train(model, data, pw.Regime.cosine(steps=60, lr=3e-3, batch_size=64, optimizer="adam"), progress=False)
    x = data.normalize(data.images)
    for n in (16, 64, 256, 1024):
        good, bad = pw.preflight(model, x, n=n), pw.preflight(model, 2 * x + 1, n=n)
        assert good.passed, good.message
        assert not bad.passed, bad.message
    strict = pw.preflight(copy.deepcopy(model), x, n=1024, allowance=0.0)
    assert strict.threshold == pytest.approx(pw.preflight(model, x, n=1024).threshold - 0.1)
