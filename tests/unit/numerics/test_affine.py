"""Affine codes against a scalar oracle, granularities, degenerate ranges, gradients, and what is refused."""

import math
from fractions import Fraction

import pytest
import torch
from torch import Tensor

from oracles import affine_scalar
from pennyweight.errors import FormatError, NumericsError
from pennyweight.numerics.affine import (
    AffineParameters,
    Granularity,
    PerChannel,
    PerGroup,
    PerTensor,
    affine_parameters,
    dequantize,
    fake_quantize,
    parse_granularity,
    quantize,
)
from pennyweight.numerics.formats import IntFormat
from pennyweight.numerics.random import Key, normal, uniform
from pennyweight.numerics.ranges import estimate_range

FORMATS = [
    IntFormat(8),
    IntFormat(8, signed=False),
    IntFormat(4, narrow=True),
    IntFormat(2),
    IntFormat(1, signed=False),
]


def own_parameters(x: Tensor, format: IntFormat, granularity: Granularity, symmetric: bool) -> AffineParameters:
    low, high = estimate_range(x, granularity, format, symmetric=symmetric)
    return affine_parameters(low, high, format, granularity, symmetric=symmetric)


def fixed(scale: float, zero_point: int, format: IntFormat) -> AffineParameters:
    return AffineParameters(torch.tensor(scale), torch.tensor(float(zero_point)), format, PerTensor())


@pytest.mark.parametrize("format", FORMATS, ids=str)
@pytest.mark.parametrize("scale", [0.1, 1.0, 3.0])
def test_codes_equal_the_scalar_oracle(format: IntFormat, scale: float) -> None:
    for zero_point in sorted({format.min, 0, 1, format.max}):
        ties = (torch.arange(-20, 20) + 0.5) * scale
        x = torch.cat([normal((200,), Key(zero_point)) * scale * format.num_levels, ties, torch.tensor([3e38, -3e38])])
        expected = [affine_scalar.code(v, scale, zero_point, format.min, format.max) for v in x.tolist()]
        codes = quantize(x, fixed(scale, zero_point, format))
        assert codes.dtype == torch.int32
        assert codes.tolist() == expected
        values = dequantize(codes, fixed(scale, zero_point, format))
        assert values.tolist() == [float(torch.tensor(float(c - zero_point)) * torch.tensor(scale)) for c in expected]


def test_ties_are_even_before_the_zero_point_is_added() -> None:
    x = torch.tensor([0.5, 1.5, 2.5, -0.5])
    assert quantize(x, fixed(1.0, 1, IntFormat(8))).tolist() == [1, 3, 3, 1]
    assert quantize(x, fixed(1.0, 0, IntFormat(8))).tolist() == [0, 2, 2, 0]


@pytest.mark.parametrize("format", FORMATS, ids=str)
@pytest.mark.parametrize(("low", "high"), [(-1.0, 2.0), (0.5, 3.0), (-4.0, -1.0), (-1e-3, 1e3), (-1e30, 1e30)])
def test_scale_and_zero_point_of_a_range(format: IntFormat, low: float, high: float) -> None:
    parameters = affine_parameters(torch.tensor(low), torch.tensor(high), format, PerTensor(), symmetric=False)
    low, high = float(torch.tensor(low)), float(torch.tensor(high))
    exact_zero_point, exact_scale = affine_scalar.zero_point_and_scale(low, high, format.min, format.max)
    assert float(parameters.scale) == pytest.approx(float(exact_scale), rel=1e-6)
    assert abs(Fraction(float(parameters.zero_point)) - exact_zero_point) <= Fraction(501, 1000)
    assert float(parameters.zero_point) == int(parameters.zero_point)
    assert format.min <= int(parameters.zero_point) <= format.max


def test_symmetric_ranges_use_the_larger_end() -> None:
    parameters = affine_parameters(
        torch.tensor([-1.0, -3.0]), torch.tensor([2.0, 1.0]), IntFormat(8), PerChannel(), symmetric=True
    )
    assert parameters.scale.tolist() == pytest.approx([2 / 127, 3 / 127])
    assert parameters.zero_point.tolist() == [0, 0]
    unsigned = IntFormat(4, signed=False)
    parameters = affine_parameters(torch.tensor(0.0), torch.tensor(30.0), unsigned, PerTensor(), symmetric=True)
    assert float(parameters.scale) == 2.0


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("granularity", [PerTensor(), PerChannel(), PerGroup(3), PerGroup(100)], ids=str)
def test_each_scale_sees_only_its_own_values(granularity: Granularity, symmetric: bool) -> None:
    x = normal((4, 2, 7), Key(0)) * torch.tensor([1.0, 10.0, 100.0, 0.0])[:, None, None]
    parameters = own_parameters(x, IntFormat(4), granularity, symmetric)
    values = fake_quantize(x, parameters)
    assert torch.equal(values, dequantize(quantize(x, parameters), parameters))
    if isinstance(granularity, PerTensor):
        pieces = [(x, values)]
    elif isinstance(granularity, PerChannel):
        pieces = list(zip(x, values, strict=True))
    else:
        rows = zip(x.reshape(8, 7), values.reshape(8, 7), strict=True)
        size = granularity.group_size
        pieces = [(a[i : i + size], b[i : i + size]) for a, b in rows for i in range(0, 7, size)]
    assert parameters.scale.numel() == len(pieces)
    for piece, quantized in pieces:
        alone = own_parameters(piece, IntFormat(4), PerTensor(), symmetric)
        assert torch.equal(fake_quantize(piece, alone), quantized)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("granularity", [PerTensor(), PerChannel()], ids=str)
def test_short_dtypes_are_computed_in_float32(dtype: torch.dtype, granularity: Granularity) -> None:
    x = (uniform((3, 500), Key(0)) * 4 - 1).to(dtype)
    parameters = own_parameters(x, IntFormat(8, signed=False), granularity, symmetric=False)
    assert torch.equal(quantize(x, parameters), quantize(x.float(), parameters))
    result = fake_quantize(x, parameters)
    assert result.dtype == dtype
    assert torch.equal(result, fake_quantize(x.float(), parameters).to(dtype))


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("granularity", [PerTensor(), PerChannel(), PerGroup(2)], ids=str)
@pytest.mark.parametrize("value", [0.0, -0.0, 1.0, -5.0, 1e-45, -1e-30, 3.4e38, -3.4e38])
@pytest.mark.parametrize("shape", [(1,), (3, 5), (2, 0), (0,), (0, 3)])
def test_constant_empty_and_one_element_tensors(
    shape: tuple[int, ...], value: float, granularity: Granularity, symmetric: bool
) -> None:
    x = torch.full(shape, value)
    for format in (IntFormat(8), IntFormat(2)):
        parameters = own_parameters(x, format, granularity, symmetric)
        assert bool(torch.isfinite(parameters.scale).all())
        assert bool((parameters.scale > 0).all())
        result = fake_quantize(x, parameters)
        assert result.shape == x.shape
        close = 1e-6 * abs(value) + 1e-37 if abs(value) < 1e38 else 0.51 * abs(value)  # see Deviations
        assert bool(((result - x).abs() <= close).all())


def test_a_number_without_dimensions() -> None:
    x = torch.tensor(2.0)
    assert float(fake_quantize(x, own_parameters(x, IntFormat(8), PerTensor(), True))) == pytest.approx(2.0)
    for granularity in (PerChannel(), PerGroup(4)):
        with pytest.raises(NumericsError, match=f"granularity '{granularity}': use 'tensor'"):
            estimate_range(x, granularity, IntFormat(8))


def test_the_gradient_passes_where_nothing_was_clamped() -> None:
    parameters = fixed(0.5, 1, IntFormat(3))  # codes -4..3, values -2.5..1.0
    x = torch.tensor([-9.0, -2.8, -2.75, -2.5, 0.0, 0.6, 1.0, 1.25, 1.3, 9.0], requires_grad=True)
    y = fake_quantize(x, parameters)
    (gradient,) = torch.autograd.grad((y * 2).sum(), x)
    assert gradient.tolist() == [0, 0, 2, 2, 2, 2, 2, 2, 0, 0]
    assert y.tolist() == [-2.5, -2.5, -2.5, -2.5, 0.0, 0.5, 1.0, 1.0, 1.0, 1.0]
    assert not fake_quantize(x.detach(), parameters).requires_grad


def test_stochastic_codes_are_unbiased_and_stay_inside() -> None:
    n = 50_000
    parameters = fixed(0.5, 3, IntFormat(4, signed=False))
    x = torch.full((n,), 0.6)
    codes = quantize(x, parameters, "stochastic", Key(0))
    assert set(codes.tolist()) == {4, 5}
    assert abs(float(codes.double().mean()) - 4.2) < 5 * math.sqrt(0.16 / n)
    values = fake_quantize(x, parameters, "stochastic", Key(0))
    assert torch.equal(values, dequantize(codes, parameters))
    ends = quantize(torch.tensor([100.0, -100.0, 6.1, -1.6]).repeat(1000), parameters, "stochastic", Key(1))
    assert ends.reshape(-1, 4).unique(dim=0).tolist() == [[15, 0, 15, 0]]
    with pytest.raises(NumericsError, match="key"):
        quantize(x, parameters, "stochastic")


@pytest.mark.parametrize(("bits", "expected"), [(4, 0.9820), (6, 0.99895), (8, 0.99994)])
def test_the_angle_of_a_gaussian_tensor(bits: int, expected: float) -> None:
    """The analytic angle: cos = (1 + step^2 / 12)^-1/2 with step = 2 sqrt(2 ln N) / (2^bits - 1)."""
    n = 200_000
    x = normal((n,), Key(bits))
    y = fake_quantize(x, own_parameters(x, IntFormat(bits), PerTensor(), symmetric=True))
    cosine = float(torch.nn.functional.cosine_similarity(x.double(), y.double(), dim=0))
    step = 2 * math.sqrt(2 * math.log(n)) / (2**bits - 1)
    assert cosine == pytest.approx((1 + step**2 / 12) ** -0.5, abs=0.006 * 16 / 4**bits * 16)
    assert cosine == pytest.approx(expected, abs=0.006 * 16 / 4**bits * 16)


@pytest.mark.parametrize("text", ["tensor", "channel", "group:128"])
def test_granularities_parse_back(text: str) -> None:
    granularity = parse_granularity(text)
    assert str(granularity) == text
    assert parse_granularity(granularity) is granularity


@pytest.mark.parametrize("text", ["", "row", "group", "group:", "group:-1", "group:0"])
def test_unknown_granularities(text: str) -> None:
    with pytest.raises(NumericsError, match=r"granularity|group_size=0"):
        parse_granularity(text)


def test_what_is_refused() -> None:
    low, high = torch.tensor([0.0, -1.0]), torch.tensor([1.0, 1.0])
    with pytest.raises(NumericsError, match=r"cannot hold the negative value -1\.0: use a signed format"):
        affine_parameters(low, high, IntFormat(4, signed=False), PerChannel(), symmetric=True)
    with pytest.raises(NumericsError, match=r"range's low end holds nan at index \(1,\)"):
        affine_parameters(torch.tensor([0.0, math.nan]), high, IntFormat(4), PerChannel(), symmetric=True)
    with pytest.raises(NumericsError, match=r"\[1\.0, 0\.0\] is upside down"):
        affine_parameters(high, low, IntFormat(4), PerChannel(), symmetric=False)
    with pytest.raises(FormatError, match="int32: affine codes take at most 24 bits"):
        affine_parameters(low, high, IntFormat(32), PerChannel(), symmetric=False)
    with pytest.raises(NumericsError, match=r"index \(1, 0\)"):
        quantize(torch.tensor([[0.0], [math.inf]]), fixed(1.0, 0, IntFormat(8)))
    with pytest.raises(NumericsError, match=r"index \(0,\)"):
        fake_quantize(torch.tensor([math.nan]), fixed(1.0, 0, IntFormat(8)))
