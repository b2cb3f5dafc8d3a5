"""Packed convolutional nets give the module's own integers and outputs, bit for bit, whatever the net looks like."""

from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

import pennyweight as pw
from pennyweight import ops
from pennyweight.artifact.packed import PackedConvolutions
from pennyweight.nn.gemm import GemmConv2d, GemmLinear


def hard_norm(norm: nn.modules.batchnorm._BatchNorm, fan_in: int, generator: torch.Generator) -> nn.Module:
    """Gains of both signs and zero, means and deviations that put thresholds among the sums."""
    n = norm.num_features
    assert norm.running_mean is not None
    assert norm.running_var is not None
    with torch.no_grad():
        norm.weight.copy_(torch.randn(n, generator=generator))
        norm.weight[torch.rand(n, generator=generator) < 0.1] = 0.0
        norm.bias.copy_(torch.randn(n, generator=generator))
        norm.running_mean.copy_(torch.randn(n, generator=generator) * fan_in**0.5)
        norm.running_var.copy_(torch.rand(n, generator=generator) * 2 * fan_in + 0.1)
    return norm


def harden(model: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            hard_norm(module, 9 * module.num_features, generator)


GAPS = ("norm", "pool norm", "norm pool", "norm pool norm", "pool", "norm hardtanh pool norm", "")


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@settings(max_examples=50, deadline=None)
@given(
    widths=st.lists(st.sampled_from([1, 3, 8, 33, 64, 70]), min_size=1, max_size=3),
    gap=st.sampled_from(GAPS),
    tail=st.sampled_from([(), (10,), (20, 7)]),
    first=st.sampled_from(["int8", "binary"]),
    kernel=st.integers(1, 3),
    padding=st.sampled_from([0, 1, "same"]),
    stride=st.integers(1, 2),
    flags=st.tuples(*[st.booleans()] * 4),
    batch=st.integers(1, 5),
    seed=st.integers(0, 2**20),
)
def test_packed_equals_unpacked(
    widths: list[int],
    gap: str,
    tail: tuple[int, ...],
    first: str,
    kernel: int,
    padding: int | str,
    stride: int,
    flags: tuple[bool, ...],
    batch: int,
    seed: int,
) -> None:
    bias, shift, dilated, grouped = flags
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    channels, layers, x = 4, [], torch.randn(batch, 4, 13, 11, generator=generator)
    for number, width in enumerate(widths):
        size = {"stride": 1 if padding == "same" or number else stride, "dilation": 2 if dilated and not number else 1}
        groups = 2 if grouped and channels % 2 == width % 2 == 0 else 1
        layers.append(nn.Conv2d(channels, width, kernel, padding=padding, bias=bias, groups=groups, **size))  # type: ignore[arg-type]
        for what in gap.split() if number < len(widths) - 1 or tail else []:
            module = {"pool": nn.MaxPool2d(2, 1), "hardtanh": nn.Hardtanh(), "norm": nn.BatchNorm2d(width)}[what]
            layers.append(hard_norm(module, kernel**2 * channels, generator) if what == "norm" else module)  # type: ignore[arg-type]
        channels = width
    try:
        features = nn.Sequential(*layers, nn.Flatten()).eval()(x).shape[1]
    except RuntimeError:  # no pixel is left
        return
    if tail:
        layers.append(nn.Flatten())
        for number, width in enumerate(tail):
            layers += [nn.ReLU()] if number else []
            layers.append(nn.Linear(features, width, bias=bias))
            features = width
            if number < len(tail) - 1:
                layers.append(hard_norm(nn.BatchNorm1d(width), features, generator))  # type: ignore[arg-type]
    model = nn.Sequential(*layers)
    has_norm = any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in layers)
    pw.apply_(model, pw.BNN(first_input=first, batch_norm="shift" if shift and has_norm else "keep"))  # type: ignore[arg-type]
    model.eval()
    with TemporaryDirectory() as folder:
        artifact = pw.export(model, Path(folder) / "model.pw")
    packed = artifact.model()
    assert {row.execution for row in artifact.layers} == {"executed"}
    assert sum(isinstance(module, PackedConvolutions) for module in packed.modules()) == 1
    with torch.inference_mode():
        expected = model(x)
        assert torch.equal(packed(x), expected)
        with ops.use_backend("reference"):
            assert torch.equal(artifact.model()(x), expected)


def pre_activations(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """What each weighted layer of the torch module gives, by name."""
    found: dict[str, Tensor] = {}
    for name, layer in model.named_modules():
        if isinstance(layer, GemmConv2d | GemmLinear):
            layer.register_forward_hook(lambda _m, _i, y, name=name: found.update({name: y}))
    with torch.inference_mode():
        model(x)
    return found


@pytest.mark.parametrize("norm", ["keep", "shift"])
@pytest.mark.parametrize(("width", "shape"), [(16, (3, 32, 32)), (11, (1, 17, 24)), (64, (3, 8, 8))])
def test_every_sum_of_vgg_is_the_modules(norm: str, width: int, shape: tuple[int, int, int], tmp_path: Path) -> None:
    """Each layer's integers, with the layers before it packed: no float stands between them."""
    model = pw.create_model("vgg-small", width=width, input_shape=shape)
    pw.apply_(model, pw.BNN(batch_norm=norm))  # type: ignore[arg-type]
    harden(model, seed=width)
    model.eval()
    x = torch.randn(3, *shape, generator=torch.Generator().manual_seed(1)).clamp(-1, 1)
    expected = pre_activations(model, x)
    convolutions, linears, between, gap = [], [], [], []
    for name, module in model.named_children():
        if isinstance(module, GemmConv2d | GemmLinear):
            between += [list(gap)] if convolutions else []
            (convolutions if isinstance(module, GemmConv2d) else linears).append(module)
            gap = []
            part = PackedConvolutions(convolutions, linears, between)
            y = part.images.run(x)
            z = y if part.chain is None else part.chain.run(y)
            assert z.dtype == torch.int32
            assert torch.equal(module.from_integers(z.to(torch.float32)), expected[name]), name
        elif not isinstance(module, nn.Flatten):
            gap.append(module)
    packed = pw.export(model, tmp_path / "vgg.pw").model()
    assert list(packed.calls) == ["packed:conv1"]
    with torch.inference_mode():
        assert torch.equal(packed(x), model(x))
        assert torch.equal(packed(x[:1]), model(x[:1]))


@pytest.mark.parametrize("norm", ["keep", "shift"])
def test_residual_networks_keep_their_stream_and_pack_their_blocks(norm: str, tmp_path: Path) -> None:
    model = pw.create_model("resnet20", width=12)
    pw.apply_(model, pw.BNN(batch_norm=norm))  # type: ignore[arg-type]
    harden(model, seed=3)
    model.eval()
    artifact = pw.export(model, tmp_path / "resnet.pw")
    assert {row.execution for row in artifact.layers} == {"executed"}
    packed = artifact.model()
    # the first convolution, nine blocks of two convolutions each in one call, the classifier
    assert sum(isinstance(module, PackedConvolutions) for module in packed.modules()) == 10
    x = torch.randn(3, 3, 32, 32)
    with torch.inference_mode():
        assert torch.equal(packed(x), model(x))
        assert torch.equal(packed(x[:1]), model(x[:1]))


def parts(model: nn.Module, folder: Path, x: Tensor) -> int:
    """How many packed steps a binarized model has, after its outputs were compared."""
    pw.apply_(model, pw.BNN(first_input="binary"))
    packed = pw.export(model.eval(), folder / "model.pw").model()
    with torch.inference_mode():
        assert torch.equal(packed(x), model(x))
    return sum(isinstance(module, PackedConvolutions) for module in packed.modules())


class _Flattens(nn.Module):
    def __init__(self, how: str) -> None:
        super().__init__()
        self.conv, self.linear, self.how = nn.Conv2d(2, 3, 3), nn.Linear(12, 5), how

    def forward(self, x):  # type: ignore[no-untyped-def]  # traced: x is a proxy
        y = self.conv(x)
        if self.how == "function":
            y = torch.flatten(y, 1)
        elif self.how == "keyword":
            y = torch.flatten(y, start_dim=1, end_dim=-1)
        elif self.how == "method":
            y = y.flatten(1)
        else:
            y = y.flatten(2).flatten(1, 2)
        return self.linear(y)


@pytest.mark.parametrize("how", ["function", "keyword", "method", "twice"])
def test_ways_to_flatten(how: str, tmp_path: Path) -> None:
    model, x = _Flattens(how), torch.randn(2, 2, 4, 4)
    assert parts(model, tmp_path, x) == 1
    layers = pw.load(tmp_path / "model.pw").layers
    assert [row.execution for row in layers] == ["executed", "executed"]


class _Functional(nn.Module):
    def __init__(self, **pooling: object) -> None:
        super().__init__()
        self.first, self.norm, self.second = nn.Conv2d(2, 65, 3), nn.BatchNorm2d(65), nn.Conv2d(65, 5, 2)
        self.pooling = pooling

    def forward(self, x):  # type: ignore[no-untyped-def]  # traced: x is a proxy
        y = F.hardtanh(self.norm(F.max_pool2d(self.first(x), 2, **self.pooling)), -0.5, max_val=0.5, inplace=True)
        return self.second(y)


@pytest.mark.parametrize("pooling", [{}, {"stride": 1}, {"stride": (2, 1), "padding": (1, 0), "ceil_mode": True}])
def test_functions_stand_for_modules(pooling: dict[str, object], tmp_path: Path) -> None:
    model = _Functional(**pooling)
    harden(model, seed=1)
    assert parts(model, tmp_path, torch.randn(3, 2, 8, 9)) == 1


def test_chains_end_where_they_must(tmp_path: Path) -> None:
    x = torch.randn(2, 4, 8, 8)
    conv = [nn.Conv2d(4, 4, 3, padding=1) for _ in range(9)]
    assert parts(nn.Sequential(conv[0], nn.AvgPool2d(2), conv[1]), tmp_path, x) == 2
    assert parts(nn.Sequential(conv[2], nn.MaxPool2d(2), nn.MaxPool2d(2), conv[3]), tmp_path, x) == 2
    assert parts(nn.Sequential(conv[4], nn.Linear(8, 3)), tmp_path, x) == 1  # rows of pixels are no channels
    circular = nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular")
    assert parts(nn.Sequential(conv[5], circular, conv[6]), tmp_path, x) == 2
    assert [row.execution for row in pw.load(tmp_path / "model.pw").layers] == ["executed", "simulated", "executed"]
    norm = nn.BatchNorm1d(256)  # another gain for each pixel: no threshold a channel
    assert parts(nn.Sequential(conv[7], nn.Flatten(), norm, nn.Linear(256, 3)), tmp_path, x) == 1


def test_one_image_without_a_batch_and_other_sizes(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(3, 70, 3, padding=1), nn.Hardtanh(), nn.Conv2d(70, 5, 3, stride=2))
    pw.apply_(model, pw.BNN())
    packed = pw.export(model.eval(), tmp_path / "model.pw").model()
    with torch.inference_mode():
        for shape in ((3, 9, 9), (2, 3, 9, 9), (2, 3, 5, 12), (0, 3, 5, 12)):
            x = torch.randn(shape)
            assert torch.equal(packed(x), model(x))


def test_nan_input_is_refused(tmp_path: Path) -> None:
    model = pw.create_model("vgg-small", width=4, input_shape=(1, 8, 8))
    pw.apply_(model, pw.BNN())
    packed = pw.export(model.eval(), tmp_path / "model.pw").model()
    x = torch.zeros(2, 1, 8, 8)
    x[1, 0, 3, 4] = torch.nan
    with pytest.raises(ValueError, match=r"x\[1, 0, 3, 4\] is NaN"):
        packed(x)


def test_zeros_of_both_signs_are_plus_one(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(1, 1, 3, bias=False))
    pw.apply_(model, pw.BNN(first_input="binary"))
    packed = pw.export(model.eval(), tmp_path / "model.pw").model()
    assert torch.equal(packed(torch.full((1, 1, 3, 3), -0.0)), packed(torch.ones(1, 1, 3, 3)))
