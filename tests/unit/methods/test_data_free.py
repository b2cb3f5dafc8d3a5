"""Data-free synthesis: the measure against its formula, images that reach it, a model left untouched, refusals."""

import copy
import importlib
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import pennyweight as pw
from pennyweight.errors import MethodError, NumericsError
from pennyweight.methods.data_free import (
    check_leak,
    collect_statistics,
    load_statistics,
    save_statistics,
    statistics_of,
)
from pennyweight.methods.data_free.divergence import gaussian_kl
from pennyweight.methods.data_free.leak import nearest_neighbours
from pennyweight.methods.data_free.stored_statistics import LayerStatistics
from pennyweight.methods.data_free.synthesize import Synthesis
from pennyweight.nn.folding import fold_batchnorm_

synthesize_module = importlib.import_module("pennyweight.methods.data_free.synthesize")


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 8, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 16, 3, padding=1, stride=2, bias=False)
        self.norm2 = nn.BatchNorm2d(16)
        self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm1(self.conv1(x)).relu()
        x = self.norm2(self.conv2(x)).relu()
        out: Tensor = self.head(x.mean((2, 3)))
        return out


@pytest.fixture(scope="module")
def digits() -> Any:
    return pw.load_dataset("digits", "train")


@pytest.fixture(scope="module")
def trained(digits: Any) -> nn.Module:
    """A small net that has learnt the embedded digits."""
    torch.manual_seed(0)
    model = Net()
    pw.train(model, digits, pw.Regime.cosine(steps=300, lr=3e-3, batch_size=64, optimizer="adam"), progress=False)
    return model.eval()


def inputs(dataset: Any, n: int) -> Tensor:
    out: Tensor = dataset.normalize(dataset.images[:n])
    return out


def test_the_formula_is_the_kl_of_two_gaussians() -> None:
    stored = LayerStatistics(draw(5), draw(5, seed=1).square() + 0.1, eps=1e-3)
    mean, var = draw(5, seed=2), draw(5, seed=3).square() + 0.2
    p = torch.distributions.Normal(stored.mean, (stored.var + 1e-3).sqrt())
    q = torch.distributions.Normal(mean, (var + 1e-3).sqrt())
    torch.testing.assert_close(gaussian_kl(stored, mean, var), torch.distributions.kl_divergence(p, q))


def test_it_is_zero_only_where_the_statistics_agree_and_finite_without_variance() -> None:
    stored = LayerStatistics(torch.tensor([1.0, -2.0]), torch.tensor([0.5, 2.0]))
    assert float(gaussian_kl(stored, stored.mean, stored.var).abs().max()) < 1e-6
    assert float(gaussian_kl(stored, stored.mean + 0.1, stored.var).min()) > 0
    quiet = LayerStatistics(torch.zeros(1), torch.zeros(1))
    assert bool(torch.isfinite(gaussian_kl(quiet, torch.zeros(1), torch.zeros(1))).all())


def test_its_gradient() -> None:
    stored = LayerStatistics(draw(3).double(), draw(3, seed=1).double().square() + 0.5)
    x = draw(7, 3, seed=2).double().requires_grad_()

    def loss(values: Tensor) -> Tensor:
        var, mean = torch.var_mean(values, 0, correction=0)
        return gaussian_kl(stored, mean, var).sum()

    assert torch.autograd.gradcheck(loss, (x,))


def test_moments_of_samples_give_what_whole_batches_give(trained: nn.Module, digits: Any) -> None:
    """The measure by one forward in parts, against batch statistics taken from the whole batch at once."""
    x = inputs(digits, 100)
    found = pw.bns_divergence(trained, [x[:30], x[30:]], bootstrap=0)
    seen: dict[str, Tensor] = {}
    handles = [
        module.register_forward_pre_hook(lambda _m, args, name=name: seen.update({name: args[0]}))
        for name, module in trained.named_modules()
        if isinstance(module, nn.BatchNorm2d)
    ]
    with torch.no_grad():
        trained(x)
    for handle in handles:
        handle.remove()
    for name, stored in statistics_of(trained).items():
        rows = seen[name].movedim(1, -1).flatten(0, -2).double()
        expected = gaussian_kl(stored, rows.mean(0), rows.var(0, correction=0)).mean()
        assert found.layers[name] == pytest.approx(float(expected), rel=1e-4)
    assert found.value == pytest.approx(sum(found.layers.values()) / 2)
    assert found.n == 100


def test_it_ranks_real_below_rotated_below_noise(trained: nn.Module, digits: Any) -> None:
    x = inputs(digits, 128)
    noise = draw(128, *digits.shape)
    real, rotated, random = (pw.bns_divergence(trained, images, n=128) for images in (x, x.rot90(1, (2, 3)), noise))
    assert real.high < rotated.low
    assert rotated.value < random.value
    assert real.low <= real.value <= real.high


def test_small_sets_are_farther_by_chance(trained: nn.Module, digits: Any) -> None:
    x = inputs(digits, 512)
    assert pw.bns_divergence(trained, x, n=16).value > pw.bns_divergence(trained, x, n=512).value


def test_preflight_lets_real_data_pass_and_stops_a_wrong_normalization(trained: nn.Module, digits: Any) -> None:
    x = inputs(digits, 1000)
    test = pw.load_dataset("digits", "test")
    good = pw.preflight(trained, inputs(test, 128), real=x)
    assert good.passed, good.message
    wrong = pw.preflight(trained, inputs(test, 128) * 3 + 1, real=x)
    assert not wrong.passed
    assert "wrong normalization or another domain?" in wrong.message
    assert pw.preflight(trained, inputs(test, 128)).source == "simulated"
    assert not pw.preflight(trained, inputs(test, 128) * 3 + 1).passed
    with pytest.raises(MethodError, match=r"fewer than twice the 128.*n=25"):
        pw.preflight(trained, inputs(test, 128), real=x[:50])


def test_equal_subsets_of_the_real_set_rarely_fail(trained: nn.Module, digits: Any) -> None:
    x = inputs(digits, 1200)
    order = torch.randperm(1200, generator=torch.Generator().manual_seed(0))
    passed = [pw.preflight(trained, x[order[i : i + 64]], real=x, draws=100).passed for i in range(0, 1200, 100)]
    assert sum(passed) >= len(passed) - 1


@pytest.mark.parametrize("scheme", ["bns", "bns+inception", "inception", "gaussian"])
def test_synthesis_leaves_the_model_as_it_was(trained: nn.Module, digits: Any, scheme: Any) -> None:
    model = copy.deepcopy(trained)
    model.norm1.train()
    model.head.weight.requires_grad_(False)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    made = pw.synthesize(model, 20, like=digits, settings=Synthesis(scheme=scheme, steps=8, batch_size=16))
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert [m.training for m in (model, model.norm1, model.norm2)] == [False, True, False]
    assert not model.head.weight.requires_grad
    assert model.conv1.weight.requires_grad
    assert all(parameter.grad is None for parameter in model.parameters())
    assert made.dataset.images.shape == (20, *digits.shape)
    assert made.dataset.images.dtype == torch.uint8
    with torch.no_grad():
        assert torch.equal(model.eval()(made.dataset.normalize(made.dataset.images)).argmax(1), made.dataset.labels)


def test_the_divergence_falls_far_below_noise_and_the_bytes_keep_it(trained: nn.Module, digits: Any) -> None:
    settings = Synthesis(steps=150, batch_size=64, patience=0)
    made = pw.synthesize(trained, 64, like=digits, settings=settings)
    history = made.history[0]
    best = [min(history[: step + 1]) for step in range(len(history))]
    assert best == sorted(best, reverse=True)
    assert min(history) < 0.1 * history[0]
    assert made.divergence is not None
    noise = pw.synthesize(trained, 64, like=digits, settings=Synthesis(scheme="gaussian")).dataset
    assert made.divergence < 0.2 * pw.bns_divergence(trained, inputs(noise, 64), bootstrap=0).value


def test_classes_are_what_was_asked_for(trained: nn.Module, digits: Any) -> None:
    made = pw.synthesize(trained, 32, like=digits, settings=Synthesis(scheme="inception", steps=100, batch_size=32))
    assert len(set(made.dataset.labels.tolist())) >= 6


def test_the_class_term_does_not_end_a_batch_when_it_joins(trained: nn.Module, digits: Any) -> None:
    """A heavy one keeps the divergence above what it was before, which is no reason to stop."""
    settings = Synthesis(scheme="bns+inception", steps=300, batch_size=32, patience=50, class_weight=5.0)
    history = pw.synthesize(trained, 32, like=digits, settings=settings).history[0]
    joined = next(step for step, value in enumerate(history) if value < 0.05)
    assert min(history[joined + 5 :]) > min(history[: joined + 5])
    assert len(history) >= joined + 2 * 50


def test_equal_seeds_give_equal_images(trained: nn.Module, digits: Any) -> None:
    one, two, other = (
        pw.synthesize(trained, 16, like=digits, settings=Synthesis(steps=5, batch_size=16, seed=seed)).dataset.images
        for seed in (0, 0, 1)
    )
    assert torch.equal(one, two)
    assert not torch.equal(one, other)


def test_a_killed_synthesis_goes_on_to_the_same_images(
    trained: nn.Module, digits: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Synthesis(steps=5, batch_size=16)
    whole = pw.synthesize(trained, 40, like=digits, settings=settings).dataset.images
    original = synthesize_module._Work.batch

    def dies_at_the_second(self: Any, index: int) -> Any:
        if index == 1:
            raise KeyboardInterrupt
        return original(self, index)

    monkeypatch.setattr(synthesize_module._Work, "batch", dies_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        pw.synthesize(trained, 40, like=digits, settings=settings, folder=tmp_path)
    made: list[int] = []

    def counts(self: Any, index: int) -> Any:
        made.append(index)
        return original(self, index)

    monkeypatch.setattr(synthesize_module._Work, "batch", counts)
    again = pw.synthesize(trained, 40, like=digits, settings=settings, folder=tmp_path).dataset.images
    assert made == [1, 2]
    assert torch.equal(again, whole)
    with pytest.raises(MethodError, match="belongs to another synthesis"):
        pw.synthesize(trained, 40, like=digits, settings=Synthesis(steps=6, batch_size=16), folder=tmp_path)
    (tmp_path / "batch-00000.safetensors").write_bytes(b"rubbish")
    with pytest.raises(MethodError, match="remove it to make the batch again"):
        pw.synthesize(trained, 40, like=digits, settings=settings, folder=tmp_path)


def test_it_stops_where_nothing_falls_any_more(trained: nn.Module, digits: Any) -> None:
    settings = Synthesis(steps=2000, lr=1e-6, batch_size=16, patience=10)
    assert len(pw.synthesize(trained, 16, like=digits, settings=settings).history[0]) < 60


def test_rates_that_explode_are_an_error(trained: nn.Module, digits: Any) -> None:
    model = copy.deepcopy(trained)
    with torch.no_grad():
        model.conv2.weight.mul_(1e30)
    with pytest.raises(NumericsError, match="lower lr"):
        pw.synthesize(model, 16, like=digits, settings=Synthesis(steps=5, batch_size=16))


def test_without_batch_norm_it_says_what_can_be_done(trained: nn.Module, digits: Any) -> None:
    folded = copy.deepcopy(trained)
    fold_batchnorm_(folded)
    with pytest.raises(MethodError, match=r"probably folded into them.*from before folding"):
        pw.synthesize(folded, 4, like=digits)
    with pytest.raises(MethodError, match=r"store nothing of their training data.*load_statistics"):
        pw.bns_divergence(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), draw(4, 1, 8, 8))
    made = pw.synthesize(folded, 4, like=digits, settings=Synthesis(scheme="inception", steps=3, batch_size=4))
    assert made.divergence is None


def test_statistics_travel_in_a_file(trained: nn.Module, digits: Any, tmp_path: Path) -> None:
    """A net without batch norm, and the statistics its owner collected where the data is."""
    folded = copy.deepcopy(trained)
    fold_batchnorm_(folded)
    x = inputs(digits, 600)
    save_statistics(collect_statistics(folded, [x[:300], x[300:]]), tmp_path / "stats.safetensors")
    statistics = load_statistics(tmp_path / "stats.safetensors")
    assert pw.bns_divergence(folded, x, statistics=statistics, bootstrap=0).value < 1e-4
    settings = Synthesis(steps=60, batch_size=32, patience=0)
    made = pw.synthesize(folded, 32, like=digits, settings=settings, statistics=statistics)
    assert min(made.history[0]) < 0.3 * made.history[0][0]
    with pytest.raises(MethodError, match="describe a layer 'conv1'"):
        pw.bns_divergence(nn.Sequential(nn.Linear(4, 4)), draw(4, 4), statistics=statistics)


@pytest.mark.parametrize("content", [b"", b"rubbish", b"\xff" * 64])
def test_files_that_are_no_statistics_are_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(MethodError, match="is no file of statistics"):
        load_statistics(tmp_path / "x")


def test_nearest_neighbours_are_the_nearest() -> None:
    queries, images = draw(300, 2, 3, 3), draw(70, 2, 3, 3, seed=1)
    distance, index = nearest_neighbours(queries, images)
    for i in range(0, 300, 37):
        apart = [float((queries[i] - image).square().mean().sqrt()) for image in images]
        assert int(index[i]) == min(range(70), key=apart.__getitem__)
        assert float(distance[i]) == pytest.approx(min(apart), rel=1e-5)


def test_nearest_neighbours_across_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    queries, images = draw(9, 40), draw(50, 40, seed=1)
    images[33] = queries[4]
    whole = nearest_neighbours(queries, images)
    monkeypatch.setattr("pennyweight.methods.data_free.leak._BLOCK", 7)
    parts = nearest_neighbours(queries, images)
    assert torch.equal(whole[0], parts[0])
    assert torch.equal(whole[1], parts[1])
    assert (float(whole[0][4]), int(whole[1][4])) == (0.0, 33)


def test_a_leak_that_pixels_hide_shows_in_features() -> None:
    training, heldout = draw(200, 1, 8, 8), draw(800, 1, 8, 8, seed=1)
    mirrored = training[:40].flip(3)
    assert not check_leak(mirrored, training, heldout).leaks

    def symmetric(images: Tensor) -> Tensor:
        return images + images.flip(3)

    found = check_leak(mirrored, training, heldout, features=symmetric)
    assert found.leaks
    assert found.nearest.tolist() == list(range(40))


def test_copied_training_images_are_called_a_leak() -> None:
    training, heldout = draw(200, 1, 8, 8), draw(1000, 1, 8, 8, seed=1)
    honest = check_leak(draw(80, 1, 8, 8, seed=2), training, heldout)
    assert not honest.leaks
    copied = check_leak(training[:40] + 0.01 * draw(40, 1, 8, 8, seed=3), training, heldout)
    assert copied.leaks
    assert copied.nearest.tolist() == list(range(40))
    with pytest.raises(MethodError, match="all of one shape"):
        check_leak(draw(3, 1, 4, 4), training, heldout)


@pytest.mark.parametrize("settings", [{"scheme": "dream"}, {"steps": 0}, {"batch_size": 1}, {"lr": 0.0}])
@pytest.mark.usefixtures("unchecked")
def test_bad_settings_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(MethodError):
        Synthesis(**settings)


@pytest.mark.usefixtures("unchecked")
def test_numbers_of_samples_that_make_no_sense_are_refused(trained: nn.Module, digits: Any) -> None:
    images = digits.normalize(digits.images[:16])
    for settings in ({"n": 2.5}, {"n": -1}, {"n": 1}, {"draws": 3}, {"allowance": float("nan")}):
        with pytest.raises(MethodError, match=f"{next(iter(settings))}="):
            pw.preflight(trained, images, **settings)
    with pytest.raises(MethodError, match="bootstrap=-1"):
        pw.bns_divergence(trained, images, bootstrap=-1)
    with pytest.raises(MethodError, match="1 sample has no variance"):
        pw.preflight(trained, images[:1])
    with pytest.raises(MethodError, match=r"n=2\.5"):
        pw.synthesize(trained, 2.5, like=digits)


def test_broken_running_statistics_name_the_module(trained: nn.Module, digits: Any) -> None:
    model = copy.deepcopy(trained)
    name, norm = next((n, m) for n, m in model.named_modules() if isinstance(m, nn.modules.batchnorm._BatchNorm))
    norm.running_var[0] = float("nan")
    with pytest.raises(NumericsError, match=f"running variance of batch norm '{name}'"):
        pw.preflight(model, digits.normalize(digits.images[:8]))


def test_statistics_of_another_shape_or_of_nothing_are_refused(trained: nn.Module, digits: Any, tmp_path: Path) -> None:
    images = digits.normalize(digits.images[:8])
    known = statistics_of(trained)
    name = next(iter(known))
    narrow = {name: LayerStatistics(known[name].mean[:-1], known[name].var[:-1])}
    with pytest.raises(MethodError, match=rf"layer '{name}' are of {len(known[name].mean) - 1} channels"):
        pw.preflight(trained, images, statistics=narrow)
    with pytest.raises(MethodError, match="describe no layer"):
        pw.preflight(trained, images, statistics={})
    save_statistics({}, tmp_path / "empty")
    with pytest.raises(MethodError, match="it describes no layer"):
        load_statistics(tmp_path / "empty")


@pytest.mark.usefixtures("unchecked")
def test_a_path_is_asked_for() -> None:
    with pytest.raises(MethodError, match="reads the file of a path, not a int"):
        load_statistics(3)


def test_images_that_are_no_numbers_have_no_neighbours() -> None:
    images = torch.rand(4, 1, 3, 3)
    broken = images.clone()
    broken[0, 0, 0, 0] = float("nan")
    with pytest.raises(NumericsError, match="heldout images"):
        check_leak(images, images, broken)
