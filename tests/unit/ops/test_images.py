"""Runs of packed convolutions equal the oracle layer by layer: thresholds, pooling of bits, codes, bits handed on."""

import pickle
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from oracles.binary_conv import convolve, pool, signs
from oracles.signs import pack
from pennyweight import ops
from pennyweight.errors import KernelError

SCALE = 0.0625


def layer(channels: int, filters: int, seed: int, *, hidden: bool, **settings: Any) -> tuple[ops.ConvLayer, np.ndarray]:
    """A layer with thresholds on all sides of its sums, some out of reach; and its weights."""
    generator = torch.Generator().manual_seed(seed)
    groups = settings.get("groups", 1)
    kernel = settings.pop("kernel_size", (3, 3))
    w = torch.randn(filters, channels // groups, *kernel, generator=generator)
    if hidden:
        spread = max(2, int(w[0].numel() ** 0.5))
        threshold = torch.randint(-spread, spread + 1, (filters,), generator=generator, dtype=torch.int32)
        ends = torch.iinfo(torch.int32)
        threshold[:1], threshold[1:2] = ends.max, ends.min
        settings |= {
            "threshold": threshold,
            "greater": torch.rand(filters, generator=generator) < 0.5,
            "all_of_window": torch.rand(filters, generator=generator) < 0.5,
        }
    return ops.ConvLayer(words=ops.pack_filters(w), channels=channels, kernel_size=kernel, **settings), w.numpy()


def truth(x: np.ndarray, layers: list[tuple[ops.ConvLayer, np.ndarray]]) -> np.ndarray:
    """Integers or signs through all layers: sums of the last, or its bits packed pixel by pixel."""
    for one, w in layers:
        z = convolve(x, signs(w), one.stride, one.padding, one.dilation, one.groups, one.pad_value)
        if one.threshold is None:
            return z
        limit = one.threshold.numpy().astype(np.int64)[:, None, None]
        assert one.greater is not None
        assert one.all_of_window is not None
        bits = np.where(one.greater.numpy()[:, None, None], z >= limit, z <= limit)
        if (p := one.pooling) is not None:
            reference = torch.nn.MaxPool2d(p.kernel_size, p.stride, p.padding, p.dilation, ceil_mode=p.ceil_mode)
            out = tuple(reference(torch.zeros(z.shape)).shape[2:])
            assert p.output_size((z.shape[2], z.shape[3])) == out
            bits = pool(bits, one.all_of_window.numpy(), p.kernel_size, p.stride, p.padding, p.dilation, out)
        x = np.where(bits, 1, -1)
    return pack(x.transpose(0, 2, 3, 1).reshape(len(x), -1))


POOLINGS = (
    None,
    ops.Pooling(kernel_size=(2, 2), stride=(2, 2)),
    ops.Pooling(kernel_size=(3, 2), stride=(2, 1), padding=(1, 0)),
    ops.Pooling(kernel_size=(2, 2), stride=(2, 2), ceil_mode=True),
    ops.Pooling(kernel_size=(2, 2), stride=(1, 2), dilation=(2, 1)),
)


@settings(max_examples=30, deadline=None)
@given(
    widths=st.lists(st.sampled_from([1, 5, 40, 64, 96, 130]), min_size=2, max_size=3),
    first=st.sampled_from(["int8", "binary"]),
    channels=st.sampled_from([1, 3, 6, 64]),
    choice=st.integers(0, 10_000),
    batch=st.integers(1, 10),
    bits=st.booleans(),
)
def test_every_backend_equals_the_oracle(
    widths: list[int], first: str, channels: int, choice: int, batch: int, bits: bool
) -> None:
    rng = np.random.default_rng(choice)
    layers = []
    for number, filters in enumerate(widths):
        hidden = bits or number < len(widths) - 1
        kernel = (int(rng.integers(1, 4)), int(rng.integers(1, 4)))
        chosen: dict[str, Any] = {
            "kernel_size": kernel,
            "padding": tuple(int(v) for v in rng.integers(0, 3, 4)),
            "stride": (1, int(rng.integers(1, 3))),
            "pooling": POOLINGS[int(rng.integers(len(POOLINGS)))] if hidden else None,
        }
        if number > 0 and rng.random() < 0.3 and channels % 2 == 0 and filters % 2 == 0:
            chosen["groups"] = 2
        layers.append(layer(channels, filters, choice + number, hidden=hidden, **chosen))
        channels = filters
    x = torch.randn(batch, layers[0][0].channels, 9, 11, generator=torch.Generator().manual_seed(choice)) * 4
    codes = np.clip(np.round(x.numpy() / np.float32(SCALE)), -128, 127).astype(np.int64)
    try:
        expected = truth(codes if first == "int8" else signs(x.numpy()), layers)
    except (ValueError, RuntimeError):  # no pixel is left
        expected = None
    for backend in ops.available_backends():
        with ops.use_backend(backend):
            net = ops.PackedImages([one for one, _ in layers], first=first, scale=SCALE)  # type: ignore[arg-type]
            if expected is None or 0 in expected.shape:
                with pytest.raises(KernelError, match="too small"):
                    net.run(x)
                continue
            assert np.array_equal(net.run(x).numpy(), expected), backend


def test_sums_as_float_threads_copies_and_sizes() -> None:
    first, _ = layer(3, 64, 0, hidden=True, padding=(1, 1, 1, 1), pooling=POOLINGS[1])
    second, _ = layer(64, 130, 1, hidden=False, padding=(1, 1, 1, 1))
    net = ops.PackedImages([first, second], first="int8", scale=SCALE)
    x = torch.randn(11, 3, 24, 16, generator=torch.Generator().manual_seed(0))
    expected = net.run(x)
    assert torch.equal(net.run(x, as_float=True), expected.float())
    assert net.run(x, as_float=True).dtype == torch.float32
    assert torch.equal(pickle.loads(pickle.dumps(net)).run(x), expected)
    assert torch.equal(net.run(x.to(memory_format=torch.channels_last)), expected)
    other = net.run(x[:, :, :8, :10])  # another size of images on the same net, and the first one again
    assert other.shape == (11, 130, 4, 5)
    assert torch.equal(net.run(x), expected)
    try:
        for threads in (2, 3):
            ops.set_num_threads(threads)
            assert torch.equal(net.run(x), expected)
            assert torch.equal(torch.cat([net.run(one[None]) for one in x]), expected)
    finally:
        ops.set_num_threads(None)
    assert net.run(x[:0]).shape == (0, 130, 12, 8)


def test_one_image_on_several_threads() -> None:
    """Work large enough that each layer is split, in rows of pixels and in columns."""
    for size, channels in ((40, 128), (4, 1024)):
        one, _ = layer(channels, channels, 0, hidden=True, padding=(1, 1, 1, 1), pooling=POOLINGS[1])
        last, _ = layer(channels, channels, 1, hidden=False, padding=(1, 1, 1, 1))
        grouped, _ = layer(channels, channels, 2, hidden=True, padding=(1, 1, 1, 1), groups=2)
        net = ops.PackedImages([grouped, one, last], first="binary")
        x = torch.randn(1, channels, size, size)
        results = []
        try:
            for threads in (1, 2, 3):
                ops.set_num_threads(threads)
                results.append(net.run(x))
        finally:
            ops.set_num_threads(None)
        assert torch.equal(results[0], results[1])
        assert torch.equal(results[0], results[2])


@pytest.mark.parametrize("first", ["int8", "binary"])
def test_nan_is_refused_with_its_place(first: str) -> None:
    one, _ = layer(3, 64, 0, hidden=False)
    net = ops.PackedImages([one], first=first, scale=SCALE)  # type: ignore[arg-type]
    x = torch.zeros(20, 3, 5, 7)
    x[17, 2, 4, 1] = torch.nan
    x[19, 0, 0, 0] = torch.nan
    with pytest.raises(KernelError, match=r"x\[17, 2, 4, 1\] is NaN"):
        net.run(x)


@pytest.mark.usefixtures("unchecked")
def test_refusals() -> None:
    one, _ = layer(3, 4, 0, hidden=True)
    last, _ = layer(4, 2, 1, hidden=False)
    other, _ = layer(5, 2, 1, hidden=False)
    cases: list[tuple[list[ops.ConvLayer], dict[str, Any], str]] = [
        ([], {}, "layers is empty"),
        ([one, other], {"scale": 1.0}, "4 come from the layer before"),
        ([last, last], {"scale": 1.0}, "lacks thresholds"),
        ([one], {}, "give their step"),
        ([one], {"scale": -1.0}, "scale is -1.0"),
        ([one], {"first": "int4", "scale": 1.0}, "first is 'int4'"),
        ([layer(3, 4, 0, hidden=False, pooling=POOLINGS[1])[0]], {"scale": 1.0}, "bits are pooled"),
        ([layer(3, 4, 0, hidden=False, pad_value=1)[0]], {"scale": 1.0}, "the border holds 0"),
    ]
    for layers, arguments, words in cases:
        with pytest.raises(KernelError, match=words):
            ops.PackedImages(layers, **arguments)
    dirty = ops.ConvLayer(words=torch.full((2, 9), -1), channels=3, kernel_size=(3, 3))
    with pytest.raises(KernelError, match="padding bits must be 0"):
        ops.PackedImages([dirty], first="binary")
