"""Laws of floor 0 that hold for every input."""

from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from oracles import bit_strings, philox
from oracles.number_formats import FloatTable, nearest_power, round_down, round_nearest
from pennyweight.numerics.affine import (
    AffineParameters,
    Granularity,
    affine_parameters,
    dequantize,
    expand,
    fake_quantize,
    group_rows,
    parse_granularity,
    quantize,
)
from pennyweight.numerics.codec import decode, encode, round_to_format
from pennyweight.numerics.formats import FloatFormat, Format, IntFormat, parse_format
from pennyweight.numerics.packing import pack_bits, pack_signs, unpack_bits, unpack_signs
from pennyweight.numerics.random import Key, permutation, random_bits, uniform
from pennyweight.numerics.ranges import Estimator, estimate_range
from pennyweight.numerics.rounding import round_stochastic
from pennyweight.numerics.shift import ap2
from properties import strategies as own

quick = settings(deadline=None, max_examples=60, derandomize=True)


@dataclass(frozen=True)
class AffineCase:
    """A tensor and how it is to be quantized by its own range, clipped or not."""

    x: Tensor
    format: IntFormat
    granularity: Granularity
    estimator: Estimator
    symmetric: bool

    def parameters(self) -> AffineParameters:
        """The parameters its range gives."""
        low, high = estimate_range(
            self.x,
            self.granularity,
            self.format,
            estimator=self.estimator,
            symmetric=self.symmetric,
            percentile=90.0,
        )
        return affine_parameters(low, high, self.format, self.granularity, symmetric=self.symmetric)


@st.composite
def affine_cases(draw: st.DrawFn, bound: float = own.FLOAT32_MAX) -> AffineCase:
    """Symmetric cases are signed."""
    symmetric = draw(st.booleans())
    return AffineCase(
        x=draw(own.tensors(min_dims=1, bound=bound)),
        format=draw(own.int_formats(signed=True) if symmetric else own.int_formats()),
        granularity=draw(own.granularities()),
        estimator=draw(st.sampled_from(["minmax", "percentile", "mse"])),
        symmetric=symmetric,
    )


@quick
@given(own.formats())
def test_formats_parse_back(format: Format) -> None:
    assert parse_format(str(format)) == format
    assert hash(parse_format(str(format))) == hash(format)


@quick
@given(own.granularities())
def test_granularities_parse_back(granularity: Granularity) -> None:
    assert parse_granularity(str(granularity)) == granularity


@quick
@given(own.formats(), own.tensors())
def test_rounding_to_a_format_is_idempotent_monotone_and_encodable(format: Format, x: Tensor) -> None:
    once = round_to_format(x, format)
    assert once.shape == x.shape
    codes = encode(x, format)
    assert ((codes >= 0) & (codes < 2**format.bits)).all()
    assert torch.equal(decode(codes, format).float().nan_to_num(7.0), once.nan_to_num(7.0))
    finite = once[torch.isfinite(once)]
    assert torch.equal(round_to_format(finite, format), finite)
    assert torch.equal(encode(decode(encode(finite, format), format), format), encode(finite, format))
    order = x.flatten().argsort()
    ordered = once.flatten()[order]
    ordered = ordered[~torch.isnan(ordered)]
    assert (ordered[1:] >= ordered[:-1]).all()


@quick
@given(own.float_formats(), st.lists(own.floats32(), max_size=8), st.data())
def test_float_rounding_is_the_nearest_table_entry(
    format: FloatFormat, values: list[float], data: st.DataObject
) -> None:
    table = FloatTable(
        format.exponent_bits, format.mantissa_bits, format.exponent_bias, format.subnormals, format.specials
    ).table()
    numbers = st.sampled_from([float(value) for value, _ in table])
    middles = st.sampled_from([float((a + b) / 2) for (a, _), (b, _) in pairwise(table)])
    values += data.draw(st.lists(numbers | middles | middles.map(lambda v: -v), max_size=12))
    largest = float(table[-1][0])
    values = [value for value in values if format.saturate or abs(value) <= largest]
    x = torch.tensor(values, dtype=torch.float64)
    assert round_to_format(x, format).tolist() == [float(round_nearest(Fraction(v), table)) for v in values]
    toward_zero = round_to_format(x, format, "toward_zero").tolist()
    assert toward_zero == [float(round_down(Fraction(v), table)) for v in values]


@quick
@given(own.formats(), own.tensors(), own.seeds())
def test_stochastic_rounding_takes_a_neighbour(format: Format, x: Tensor, seed: int) -> None:
    assume(isinstance(format, IntFormat) or (isinstance(format, FloatFormat) and format.saturate))
    low = round_to_format(x.abs(), format, "toward_zero")
    drawn = round_to_format(x.abs(), format, "stochastic", Key(seed))
    assert (drawn >= low).all()
    assert torch.equal(round_to_format(drawn, format), drawn)
    between = torch.where(drawn > low, (drawn.double() + low.double()) / 2, low.double())
    assert ((drawn == low) | (round_to_format(between, format, "toward_zero") == low)).all()


@quick
@given(affine_cases())
def test_affine_is_finite_idempotent_monotone_and_keeps_zero(case: AffineCase) -> None:
    x, parameters = case.x, case.parameters()
    codes = quantize(x, parameters)
    assert ((codes >= parameters.format.min) & (codes <= parameters.format.max)).all()
    values = dequantize(codes, parameters)
    assert torch.isfinite(values).all()
    assert torch.equal(quantize(values, parameters), codes)
    assert torch.equal(fake_quantize(x, parameters), values)
    assert (fake_quantize(torch.zeros_like(x), parameters) == 0).all()
    assert (values * x.sign() >= 0).all(), "no value changes its sign"


@quick
@given(affine_cases(bound=2.0**100))
def test_affine_error_is_at_most_half_a_step_inside(case: AffineCase) -> None:
    x, parameters = case.x, case.parameters()
    format = parameters.format
    scale = expand(parameters.scale, x, parameters.granularity).double()
    zero_point = expand(parameters.zero_point, x, parameters.granularity).double()
    inside = (x >= (format.min - zero_point) * scale) & (x <= (format.max - zero_point) * scale)
    error = (fake_quantize(x, parameters).double() - x.double()).abs()
    slack = 1e-6 * x.double().abs() + 1e-37  # one float32 division and one product
    assert (~inside | (error <= scale / 2 + slack)).all()


@quick
@given(own.tensors(min_dims=1, bound=2.0**100), own.granularities(), own.int_formats(signed=True), st.booleans())
def test_min_max_ranges_clip_nothing(x: Tensor, granularity: Granularity, format: IntFormat, symmetric: bool) -> None:
    low, high = estimate_range(x, granularity, format, symmetric=symmetric)
    parameters = affine_parameters(low, high, format, granularity, symmetric=symmetric)
    scale = expand(parameters.scale, x, granularity).double()
    error = (fake_quantize(x, parameters).double() - x.double()).abs()
    # the zero point is rounded, which moves the grid by at most half a step
    assert (error <= scale * (0.5 if symmetric else 1.0) * (1 + 1e-5) + 1e-37).all()


@quick
@given(own.tensors(min_dims=1, bound=2.0**50), own.int_formats(max_bits=4, signed=True), st.booleans())
def test_least_square_ranges_are_no_worse_than_min_max(x: Tensor, format: IntFormat, symmetric: bool) -> None:
    granularity = parse_granularity("channel")
    errors = {}
    for estimator in ("minmax", "mse"):
        low, high = estimate_range(x, granularity, format, estimator=estimator, symmetric=symmetric)  # type: ignore[arg-type]
        parameters = affine_parameters(low, high, format, granularity, symmetric=symmetric)
        errors[estimator] = group_rows(fake_quantize(x, parameters) - x, granularity).double().square().sum(1)
    assert (errors["mse"] <= errors["minmax"] * (1 + 1e-5)).all()


@quick
@given(own.packed_codes())
def test_packing_equals_one_big_integer(case: tuple[list[int], int]) -> None:
    codes, bits = case
    packed = pack_bits(torch.tensor(codes, dtype=torch.int64), bits)
    assert bytes(packed.tolist()) == bit_strings.pack(codes, bits)
    assert unpack_bits(packed, bits, len(codes)).tolist() == codes


@quick
@given(st.integers(0, 200), own.seeds(), st.sampled_from([(), (2,), (3, 1), (0,)]))
def test_signs_pack_and_unpack(k: int, seed: int, lead: tuple[int, ...]) -> None:
    x = uniform((*lead, k), Key(seed)) - 0.5
    words = pack_signs(x)
    rows = x.reshape(-1, k).tolist() if k else []
    if k:
        assert words.reshape(-1, words.shape[-1]).tolist() == [bit_strings.sign_words(row) for row in rows]
    assert torch.equal(unpack_signs(words, k), torch.where(x >= 0, 1.0, -1.0))


@quick
@given(own.tensors())
def test_ap2_is_the_nearest_power_of_two(x: Tensor) -> None:
    expected = [float(nearest_power(Fraction(v))) if v else 0.0 for v in x.flatten().tolist()]
    expected = [min(max(v, -(2.0**127)), 2.0**127) for v in expected]
    assert ap2(x).flatten().tolist() == expected


@quick
@given(own.seeds(), own.key_paths(), st.integers(0, 40))
def test_random_words_and_orders_equal_the_oracle(seed: int, path: list[int | str], n: int) -> None:
    key = Key(seed).fold(*path)
    assert key.words == philox.key_words(key.seed, key.path)
    assert random_bits((n,), key).tolist() == philox.stream(n, key.words)
    assert permutation(n, key).tolist() == philox.order(n, key.words)


@quick
@given(own.tensors(bound=2.0**20), own.seeds())
def test_stochastic_rounding_law(x: Tensor, seed: int) -> None:
    u = uniform(x.shape, Key(seed)).flatten().tolist()
    expected = []
    for value, draw in zip(x.flatten().tolist(), u, strict=True):
        floor = Fraction(value).__floor__()
        expected.append(float(floor + (Fraction(draw) < Fraction(value) - floor)))
    assert round_stochastic(x, Key(seed)).flatten().tolist() == expected
