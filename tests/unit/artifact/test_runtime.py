"""Packed chains give the module's own logits, bit for bit, whatever the net looks like."""

import itertools
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import pennyweight as pw
from pennyweight import ops
from pennyweight.artifact.runtime import PackedLayers
from pennyweight.nn.gemm import GemmLinear


def perceptron(widths: list[int], seed: int, *, bias: bool, norm: bool, norm_output: bool, dropout: bool) -> nn.Module:
    """Linear layers with whatever may stand between binary ones; batch norms gains of any sign."""
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for number, (k, n) in enumerate(itertools.pairwise(widths)):
        last = number == len(widths) - 2
        layers.append(nn.Linear(k, n, bias=bias))
        if norm_output if last else norm:
            batch_norm = nn.BatchNorm1d(n)
            with torch.no_grad():
                batch_norm.weight.normal_()
                batch_norm.weight[torch.rand(n) < 0.1] = 0.0
                batch_norm.bias.normal_()
                batch_norm.running_mean.normal_().mul_(k**0.5)
                batch_norm.running_var.uniform_(0.1, 2.0 * k)
            layers.append(batch_norm)
        if not last:
            layers.append(nn.ReLU())  # becomes a hard tanh
            if dropout:
                layers.append(nn.Dropout(0.3))
    return nn.Sequential(*layers)


@settings(max_examples=60, deadline=None)
@given(
    widths=st.lists(st.integers(1, 150), min_size=2, max_size=5),
    seed=st.integers(0, 2**31),
    first=st.sampled_from(["int8", "binary"]),
    flags=st.tuples(*[st.booleans()] * 5),
    batch=st.integers(1, 9),
)
def test_packed_equals_unpacked(widths: list[int], seed: int, first: str, flags: tuple[bool, ...], batch: int) -> None:
    bias, norm, norm_output, dropout, shift = flags
    model = perceptron(widths, seed, bias=bias, norm=norm, norm_output=norm_output, dropout=dropout)
    has_norm = any(isinstance(module, nn.BatchNorm1d) for module in model)
    pw.apply_(model, pw.BNN(first_input=first, batch_norm="shift" if shift and has_norm else "keep"))  # type: ignore[arg-type]
    model.eval()
    x = torch.randn(batch, widths[0])
    with TemporaryDirectory() as folder:
        artifact = pw.export(model, Path(folder) / "model.pw")
    packed = artifact.model()
    with torch.inference_mode():
        expected = model(x)
        assert torch.equal(packed(x), expected)
        with ops.use_backend("reference"):
            assert torch.equal(artifact.model()(x), expected)
    assert {row.execution for row in artifact.layers} == {"executed"}
    assert sum(isinstance(module, PackedLayers) for module in packed.modules()) == 1


def packed_parts(model: nn.Module, folder: Path) -> int:
    loaded = pw.export(model.eval(), folder / "model.pw").model()
    return sum(isinstance(module, PackedLayers) for module in loaded.modules())


def binary(*layers: nn.Module) -> nn.Module:
    model = nn.Sequential(*layers)
    pw.apply_(model, pw.BNN(first_input="binary"))
    return model


def test_chains_end_where_they_must(tmp_path: Path) -> None:
    linear = [nn.Linear(8, 8) for _ in range(4)]
    assert packed_parts(binary(linear[0], linear[1], nn.Softmax(-1), linear[2], linear[3]), tmp_path) == 2
    shared = nn.Linear(8, 8)
    assert packed_parts(binary(shared, shared), tmp_path) == 0  # one layer in two places has no one threshold
    tapped = _Tapped()
    pw.apply_(tapped, pw.BNN(first_input="binary"))
    assert packed_parts(tapped, tmp_path) == 2  # the first layer's output is read twice
    x = torch.randn(3, 8)
    assert torch.equal(pw.load(tmp_path / "model.pw").model()(x), tapped(x))


class _Tapped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x):  # type: ignore[no-untyped-def]  # traced: x is a proxy
        y = self.first(x)
        return self.second(y) + y


def test_leading_dimensions(tmp_path: Path) -> None:
    model = binary(nn.Linear(20, 30), nn.Linear(30, 4)).eval()
    x = torch.randn(2, 3, 5, 20)
    packed = pw.export(model, tmp_path / "model.pw").model()
    assert torch.equal(packed(x), model(x))
    assert packed(x).shape == (2, 3, 5, 4)


def test_nan_input_is_refused(tmp_path: Path) -> None:
    model = binary(nn.Linear(4, 2))
    x = torch.zeros(2, 4)
    x[1, 2] = torch.nan
    with pytest.raises(ValueError, match=r"x\[1, 2\] is NaN"):
        pw.export(model.eval(), tmp_path / "model.pw").model()(x)


def test_integers_through_the_epilogue_match_the_layer() -> None:
    """`from_integers`, from which thresholds are found, is the layer's own arithmetic."""
    layer = nn.Linear(9, 5)
    pw.apply_(holder := nn.Sequential(layer), pw.BNN())
    gemm = holder[0]
    assert isinstance(gemm, GemmLinear)
    x = torch.randn(7, 9).clamp(-1, 1)
    codes = torch.round(x * 128).clamp(-128, 127)
    z = codes @ torch.where(layer.weight >= 0, 1.0, -1.0).T
    assert torch.equal(gemm.eval()(x), gemm.from_integers(z))
