"""Attention's operands in integers, against the product of hand-rounded operands."""

import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import pennyweight as pw
from pennyweight.errors import ArtifactError, MethodError


class Attention(nn.Module):
    """Written out, as older models have it."""

    def __init__(self, operator: bool = False) -> None:
        super().__init__()
        self.operator = operator
        self.query = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        query = self.query(x)
        if self.operator:
            return (query @ x.transpose(1, 2)).softmax(-1) @ x
        scores = torch.matmul(query, x.transpose(1, 2)) / 2.0
        return torch.matmul(scores.softmax(-1), x)


def rounded(x: Tensor, like: Tensor) -> Tensor:
    """int8 codes over the min and max of `like`, by hand."""
    low, high = min(float(like.min()), 0.0), max(float(like.max()), 0.0)
    step = (high - low) / 255
    zero = -128 - round(low / step)
    return ((x / step).round() + zero).clamp(-128, 127).sub(zero) * step


def net(operator: bool = False) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(Attention(operator)).eval()


@torch.no_grad()
def test_codes_by_hand() -> None:
    model, x = net(), torch.randn(6, 5, 4)
    query = model[0].query(x)  # type: ignore[index]
    scores = torch.matmul(rounded(query, query), rounded(x.transpose(1, 2), x)) / 2.0
    seen = (torch.matmul(query, x.transpose(1, 2)) / 2.0).softmax(-1)
    expected = torch.matmul(rounded(scores.softmax(-1), seen), rounded(x, x))
    applied = pw.apply_(model, pw.QuantizeAttention(activation_range="minmax"), data=[x])
    assert not isinstance(applied, list)
    assert applied.changed == ("0",)
    assert applied.metrics["products"] == 2
    assert float(applied.metrics["0.products.0.left.sqnr_db"]) > 35
    torch.testing.assert_close(model(x), expected, rtol=0, atol=float(seen.max()) / 255 * 4)
    assert float((model(x) - expected).abs().median()) < 1e-6


def test_fewer_bits_hurt_more() -> None:
    torch.manual_seed(0)
    x = torch.randn(6, 5, 4)
    expected, errors = net()(x), []
    for bits in (8, 6, 4, 2):
        model = net()
        pw.apply_(model, pw.QuantizeAttention(activations=f"int{bits}"), data=[x])
        errors.append(float((model(x) - expected).detach().square().mean()))
    assert errors == sorted(errors)


class Masked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 4)
        self.attention = MaskedAttention()
        with torch.no_grad():
            self.embedding.weight[0] = 50.0  # padding

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.attention(self.embedding(input_ids)[:, None], attention_mask)


class MaskedAttention(nn.Module):
    def forward(self, x: Tensor, attention_mask: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(x, x, x, attn_mask=attention_mask[:, None, None, :].bool())


def test_padding_does_not_widen_the_range() -> None:
    batch = {"input_ids": torch.tensor([[1, 2, 0], [3, 4, 1]]), "attention_mask": torch.tensor([[1, 1, 0], [1, 1, 1]])}
    model = Masked().eval()
    pw.apply_(model, pw.QuantizeAttention(activation_range="minmax"), data=[batch])
    product = model.get_submodule("attention.products.0")
    for name in ("query", "key", "value"):
        scale = product.get_submodule(name).quantizer.scale  # type: ignore[union-attr]
        assert float(scale) * 255 < 20, name
    assert model(**batch).isfinite().all()


def test_with_rounded_layers_in_any_order(tmp_path: Path) -> None:
    torch.manual_seed(0)
    x = torch.randn(6, 5, 4)
    both = [pw.RoundToNearest(), pw.QuantizeAttention()]
    for methods in (both, both[::-1]):
        model = net()
        records = pw.apply_(model, methods, data=[x])
        assert isinstance(records, list)
        artifact = pw.export(model, tmp_path / "attention.pw", example_input=x)
        assert artifact.model()(x).equal(model(x))
        assert artifact.manifest["modules"]["0.products.0"]["kind"] == "matmul_product"


def test_an_export_that_would_lose_the_quantizers_is_refused(tmp_path: Path) -> None:
    model, x = net(operator=True), torch.randn(6, 5, 4)
    pw.apply_(model, pw.QuantizeAttention(), data=[x])
    with pytest.raises(ArtifactError, match=r"matmul"):
        pw.export(model, tmp_path / "attention.pw")
    assert not (tmp_path / "attention.pw").exists()


def test_refusals_leave_the_model_whole() -> None:
    x = torch.randn(6, 5, 4)
    with pytest.raises(MethodError, match=r"no matching module multiplies two activations.*made of: Linear, Seq"):
        pw.apply_(nn.Sequential(nn.Linear(4, 4)), pw.QuantizeAttention(), data=[x])
    with pytest.raises(MethodError, match=r"in its own forward: .*wrap the model"):
        pw.apply_(Attention(), pw.QuantizeAttention(), data=[x])
    with pytest.raises(MethodError, match="activations='e4m3'"):
        pw.QuantizeAttention(activations="e4m3")
    with pytest.raises(MethodError, match="max_samples=0"):
        pw.QuantizeAttention(max_samples=0)
    model, twin = net(), net()
    x[3, 2, 1] = math.inf
    with pytest.raises(pw.PennyweightError, match="inf"):
        pw.apply_(model, pw.QuantizeAttention(), data=[torch.randn(6, 5, 4), x])
    assert not [name for name, _ in model.named_modules() if "products" in name]
    assert "forward" not in vars(model[0])  # type: ignore[index]
    assert model(x[:2]).equal(twin(x[:2]))


def test_left_out_modules_are_named() -> None:
    x = torch.randn(6, 5, 4)
    model = nn.Sequential(Attention(), Attention())
    applied = pw.apply_(model, pw.QuantizeAttention(exclude=("0",)), data=[x])
    assert not isinstance(applied, list)
    assert applied.changed == ("1",)
    assert applied.skipped == {"0": "left out by include/exclude"}
