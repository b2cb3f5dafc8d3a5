"""Convolutions of signs equal a count window by window on every backend: borders, strides, groups, odd channels."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from oracles.binary_conv import convolve, signs
from pennyweight import ops
from pennyweight.errors import KernelError

PAIRS = st.tuples(st.integers(1, 3), st.integers(1, 3))


def numbers(*shape: int, seed: int) -> torch.Tensor:
    """Floats with zeros of both signs, infinities and the smallest there are."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    awkward = torch.tensor([-0.0, 0.0, torch.inf, -torch.inf, 1e-45, -1e-45])
    place = torch.randint(0, 24, shape, generator=torch.Generator().manual_seed(seed + 1))
    return torch.where(place < 6, awkward[place.clamp(max=5)], x)


@settings(max_examples=40, deadline=None)
@given(
    groups=st.sampled_from([1, 1, 2, 3]),
    share=st.sampled_from([1, 3, 31, 64, 65, 70, 128]),
    filters=st.sampled_from([1, 2, 17, 66]),
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    stride=PAIRS,
    padding=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    dilation=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    room=st.tuples(st.integers(0, 4), st.integers(0, 4)),
    pad_value=st.sampled_from([0, 0, 1, -1]),
    batch=st.integers(1, 3),
    seed=st.integers(0, 1000),
)
def test_every_backend_equals_the_windows(
    groups: int,
    share: int,
    filters: int,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    room: tuple[int, int],
    pad_value: int,
    batch: int,
    seed: int,
) -> None:
    height, width = (dilation[axis] * (kernel[axis] - 1) + 1 + room[axis] for axis in (0, 1))
    x = numbers(batch, groups * share, height, width, seed=seed)
    w = numbers(groups * filters, share, *kernel, seed=seed + 7)
    around = (padding[0], padding[0], padding[1], padding[1])
    expected = convolve(signs(x.numpy()), signs(w.numpy()), stride, around, dilation, groups, pad_value)
    arguments = {
        "stride": stride, "padding": padding, "dilation": dilation, "groups": groups, "pad_value": pad_value,
    }  # fmt: skip
    for backend in ops.available_backends():
        with ops.use_backend(backend):
            assert np.array_equal(ops.binary_conv2d(x, w, **arguments).numpy(), expected), backend  # type: ignore[arg-type]


def test_neither_threads_nor_the_split_of_a_batch_change_an_integer() -> None:
    x, w = numbers(6, 128, 20, 20, seed=0), numbers(192, 128, 3, 3, seed=1)
    results = []
    try:
        for threads in (1, 2, 5):
            ops.set_num_threads(threads)
            results.append(ops.binary_conv2d(x, w, padding=1))
            results.append(torch.cat([ops.binary_conv2d(part, w, padding=1) for part in x.split([1, 2, 3])]))
    finally:
        ops.set_num_threads(None)
    assert all(torch.equal(result, results[0]) for result in results)


def test_other_types_and_layouts() -> None:
    x, w = numbers(2, 70, 5, 6, seed=0), numbers(9, 70, 3, 3, seed=1)
    expected = ops.binary_conv2d(x, w, padding=1)
    for changed in (
        x.to(memory_format=torch.channels_last),
        x.double(),
        torch.where(x >= 0, 3, -3),
        torch.where(x >= 0, 1, -1).to(torch.int8),
        torch.where(x >= 0, 1.0, -1.0).bfloat16(),
        torch.where(x >= 0, 1.0, -1.0).half(),
    ):
        assert torch.equal(ops.binary_conv2d(changed, w, padding=1), expected), changed.dtype
    assert ops.binary_conv2d(x[:0], w, padding=1).shape == (0, 9, 5, 6)
    assert torch.equal(ops.binary_conv2d(x.flip(3), w.flip(3), padding=1), expected.flip(3))


@pytest.mark.parametrize("backend", ops.available_backends())
def test_nan_is_refused_with_its_place(backend: str) -> None:
    x, w = numbers(2, 5, 4, 4, seed=0), numbers(3, 5, 3, 3, seed=1)
    x[1, 4, 2, 3] = torch.nan
    with ops.use_backend(backend):
        with pytest.raises(KernelError, match=r"x\[1, 4, 2, 3\] is NaN"):
            ops.binary_conv2d(x, w)
        with pytest.raises(KernelError, match=r"x\[1, 4, 2, 3\] is NaN"):
            ops.binary_conv2d(x.double(), w)
    w[0, 0, 0, 0] = torch.nan
    with pytest.raises(KernelError, match="NaN"):
        ops.binary_conv2d(x[:1], w)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"x": torch.zeros(2, 4, 4)}, "batch, channels, height, width"),
        ({"x": torch.zeros(1, 4, 4, 4)}, r"expected float32 \(batch, 3"),
        ({"x": torch.zeros(1, 3, 2, 4)}, "2x4 pixels are too small"),
        ({"weight": torch.zeros(0, 3, 3, 3)}, "none may be 0"),
        ({"groups": 0}, "0 groups"),
        ({"groups": 2}, "groups must divide both"),
        ({"stride": 0}, "stride"),
        ({"padding": (1, 2, 3)}, "padding"),
        ({"padding": -1}, "none negative"),
        ({"dilation": 1.5}, "dilation"),
        ({"pad_value": 2}, "pad_value is 2"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_refusals(arguments: dict[str, object], words: str) -> None:
    given: dict[str, object] = {"x": torch.zeros(1, 3, 4, 4), "weight": torch.zeros(5, 3, 3, 3)} | arguments
    with pytest.raises((KernelError, TypeError), match=words):
        ops.binary_conv2d(**given)  # type: ignore[arg-type]
