"""`NMSparsity` and `MVUE`: what they fill and skip, refusals, composition, resumption, recipes' nets that train."""

import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import pennyweight as pw
from pennyweight.data.loader import Batch, batch_at
from pennyweight.errors import MethodError, NumericsError
from pennyweight.masks.nm import NM, gemm_matrix, is_nm
from pennyweight.nn.masking import weight_masks

IMAGES = torch.randn(32, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def net(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 12, 3, stride=2), nn.ReLU(),
        nn.Conv2d(12, 12, 3, groups=12), nn.Flatten(), nn.Linear(12, 12), nn.ReLU(), nn.Linear(12, 10),
    )  # fmt: skip


def gradients(model: nn.Module) -> dict[str, Tensor]:
    model.train()
    model.zero_grad()
    nn.functional.cross_entropy(model(IMAGES), torch.arange(32) % 10).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def record(model: nn.Module, method: pw.Method) -> pw.Applied:
    found = pw.apply_(model, method)
    assert isinstance(found, pw.Applied)
    return found


@pytest.mark.parametrize("groups", ["input", "output"])
@pytest.mark.parametrize("pattern", ["1:2", "2:4", "4:8"])
def test_every_layer_that_has_groups_is_masked_and_the_others_are_named(groups: str, pattern: str) -> None:
    model = net()
    found = record(model, pw.NMSparsity(pattern=pattern, groups=groups))  # type: ignore[arg-type]
    assert found.changed == (("2", "6", "8") if groups == "input" else ("0", "2", "6", "8"))
    assert "4" in found.skipped
    for fqn, mask in weight_masks(model).items():
        assert is_nm(gemm_matrix(mask.mask), NM.parse(pattern), 1 if groups == "input" else 0), fqn


def test_patterns_that_fit_nowhere_are_refused() -> None:
    model = nn.Sequential(nn.Linear(3, 3))
    with pytest.raises(MethodError, match="3 inputs a group make no group of 4"):
        pw.apply_(model, pw.NMSparsity())
    assert type(model[0]) is nn.Linear


@pytest.mark.parametrize(("settings", "message"), [
    ({"pattern": "4:4"}, "pattern='4:4'"),
    ({"pattern": "half"}, "pattern='half'"),
    ({"refresh_every": 0}, "refresh_every=0"),
    ({"freeze_after": 0}, "freeze_after=0"),
    ({"refresh_every": None, "decay": 0.1}, "keeps the first mask"),
    ({"flip_bounds": (0.3, 0.2)}, "flip_bounds"),
    ({"decay": -1.0}, "decay=-1"),
    ({"groups": "both"}, "groups='both'"),
])  # fmt: skip
@pytest.mark.usefixtures("unchecked")
def test_wrong_settings_are_refused_with_their_value(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(MethodError, match=message):
        pw.NMSparsity(**settings)


@pytest.mark.parametrize(("settings", "message"), [
    ({"pattern": "2:2"}, "pattern='2:2'"),
    ({"pattern": "4:8", "method": "approximate"}, "draws two elements"),
    ({"products": "forward"}, "products='forward'"),
    ({"method": "random"}, "method='random'"),
])  # fmt: skip
@pytest.mark.usefixtures("unchecked")
def test_wrong_settings_of_mvue_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(MethodError, match=message):
        pw.MVUE(**settings)


def test_weights_that_are_not_finite_are_refused_by_name() -> None:
    model = net()
    with torch.no_grad():
        model[6].weight[1, 2] = torch.nan  # type: ignore[index, union-attr, operator]
    with pytest.raises(NumericsError, match=r"weight of layer '6' holds nan at index \(1, 2\)"):
        pw.apply_(model, pw.NMSparsity())
    assert type(model[2]) is nn.Conv2d


def test_mvue_fills_the_slots_of_its_products_between_first_and_last() -> None:
    for products, slots in (("update", {"grad_output_update"}), ("backward", {"grad_output_input"}),
                            ("both", {"grad_output_update", "grad_output_input"})):  # fmt: skip
        model = net()
        found = record(model, pw.MVUE(products=products))  # type: ignore[arg-type]
        assert found.changed == (("2", "4", "6") if products == "update" else ("2", "6"))
        assert set(model[6].slots.filled) == slots  # type: ignore[arg-type, union-attr]
    assert "4" in found.skipped


def test_the_forward_stays_and_gradients_average_to_the_dense_ones() -> None:
    plain, model = net(), net()
    pw.apply_(model, pw.MVUE(products="both"))
    assert torch.equal(model(IMAGES), plain(IMAGES))
    dense = gradients(plain)
    total: dict[str, Tensor] = {}
    draws = 64
    for _ in range(draws):
        for name, g in gradients(model).items():
            total[name] = total.get(name, torch.zeros_like(g)) + g / draws
    single = gradients(model)
    for name in ("0.weight", "2.weight", "6.weight"):
        error = (total[name] - dense[name]).norm() / (single[name] - dense[name]).norm()
        assert error < 4 / draws**0.5, name  # the mean of n draws is nearer by about sqrt(n)
    assert torch.equal(single["8.weight"], dense["8.weight"])
    assert torch.equal(single["6.bias"], dense["6.bias"])


def test_with_eight_bit_gradients_pruning_comes_first_and_rounding_keeps_zeros() -> None:
    orders = [(pw.Int8Training(norm="keep", update_gradients="int8"), pw.MVUE(products="both"))]
    orders.append(orders[0][::-1])  # type: ignore[arg-type]
    found = []
    for methods in orders:
        model = net()
        for method in methods:
            pw.apply_(model, method)
        chain = model[6].slots.grad_output_update  # type: ignore[union-attr]
        assert [type(c).__name__ for c in chain.contents()] == ["PrunedGradient", "MeasuredGradient"]  # type: ignore[operator, union-attr]
        rounded = chain(torch.randn(16, 12, generator=torch.Generator().manual_seed(1)))  # type: ignore[operator]
        assert is_nm(rounded, NM(2, 4), 0)
        found.append(gradients(model))
    assert all(torch.equal(found[0][name], g) for name, g in found[1].items())


def test_masks_and_eight_bit_weights_share_a_slot_and_pruned_weights_are_code_zero() -> None:
    model = net()
    pw.apply_(model, [pw.NMSparsity(), pw.Int8Training(norm="keep"), pw.MVUE()])
    values = model[6].slots.weight(model[6].weight)  # type: ignore[operator, union-attr]
    assert is_nm(values, NM(2, 4))
    assert all(bool(torch.isfinite(g).all()) for g in gradients(model).values())


def test_a_second_mask_is_refused() -> None:
    model = net()
    pw.apply_(model, pw.NMSparsity())
    with pytest.raises(MethodError, match=r"NMSparsity and NMSparsity both want 'gemm.weight.mask'"):
        pw.apply_(model, pw.NMSparsity())


def sparse_mlp() -> nn.Module:
    model = pw.create_model("mlp", hidden=(32, 32), seed=0)
    pw.apply_(model, [pw.NMSparsity(refresh_every=3, decay=1e-3), pw.MVUE(products="both")])
    return model


def digits_until(step: int) -> Any:
    """A source of the digits that asks the run to stop at a step."""
    data = pw.load_dataset("digits")

    def digits(first_sample: int, batch_size: int, rank: int, world_size: int) -> Batch:
        if first_sample == step * batch_size:
            signal.raise_signal(signal.SIGINT)
        return batch_at(data, first_sample=first_sample, batch_size=batch_size, seed=0)

    return digits


def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(tmp_path: Path) -> None:
    regime = pw.Regime.cosine(steps=20, lr=0.1, batch_size=16)
    whole = sparse_mlp()
    pw.train(whole, digits_until(10**9), regime, progress=False)
    interrupted = pw.train(sparse_mlp(), digits_until(11), regime, progress=False, checkpoint=tmp_path / "c.pt")
    assert interrupted.interrupted
    resumed = sparse_mlp()
    result = pw.train(resumed, digits_until(10**9), regime, progress=False, checkpoint=tmp_path / "c.pt")
    assert not result.interrupted
    for (name, a), (_, b) in zip(whole.state_dict().items(), resumed.state_dict().items(), strict=True):
        assert torch.equal(a, b), name
    for (name, a), (_, b) in zip(weight_masks(whole).items(), weight_masks(resumed).items(), strict=True):
        assert torch.equal(a.mask, b.mask), name


def test_sparse_weights_and_gradients_train_on_digits_and_export(tmp_path: Path) -> None:
    model = pw.create_model("mlp", hidden=(64, 64), seed=0)
    pw.apply_(model, [pw.NMSparsity(), pw.MVUE()])
    pw.train(model, pw.load_dataset("digits"), pw.Regime.cosine(steps=150, lr=0.1, batch_size=64), progress=False)
    assert float(pw.evaluate(model, pw.load_dataset("digits", "test")).accuracy) > 0.9
    artifact = pw.export(model, tmp_path / "net.pw", example_input=IMAGES)
    weights = [m.weight for m in artifact.model().modules() if isinstance(m, nn.Linear)]
    assert len(weights) == 3
    assert all(is_nm(weight, NM(2, 4)) for weight in weights)
