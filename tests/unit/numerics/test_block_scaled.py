"""Block-scaled formats against ml_dtypes and gfloat, element by element, and at their edges."""

import math
from typing import Any

import gfloat
import ml_dtypes
import numpy as np
import pytest
import torch
from gfloat.formats import (
    format_info_mxfp4_e2m1,
    format_info_mxfp6_e2m3,
    format_info_mxfp6_e3m2,
    format_info_mxfp8_e4m3,
    format_info_mxfp8_e5m2,
    format_info_ocp_e2m1,
    format_info_ocp_e4m3,
)
from numpy.typing import NDArray
from torch import Tensor

from pennyweight.errors import NumericsError
from pennyweight.numerics.block_scaled import block_bits, dequantize_blocks, quantize_blocks, round_to_blocks
from pennyweight.numerics.formats import BlockFormat
from pennyweight.numerics.random import Key

MX: dict[str, tuple[Any, Any]] = {
    "mxfp8e4m3": (ml_dtypes.float8_e4m3fn, format_info_mxfp8_e4m3),
    "mxfp8e5m2": (ml_dtypes.float8_e5m2, format_info_mxfp8_e5m2),
    "mxfp6e3m2": (ml_dtypes.float6_e3m2fn, format_info_mxfp6_e3m2),
    "mxfp6e2m3": (ml_dtypes.float6_e2m3fn, format_info_mxfp6_e2m3),
    "mxfp4": (ml_dtypes.float4_e2m1fn, format_info_mxfp4_e2m1),
}
NAMES = [*MX, "nvfp4"]


def rows(seed: int = 0) -> Tensor:
    """Rows of 32: Gaussian at many sizes, ties, subnormals, values that saturate, zeros of both signs."""
    generator = torch.Generator().manual_seed(seed)
    gaussian = torch.randn(24, 32, generator=generator) * 2.0 ** torch.arange(-12, 12)[:, None]
    ties = (torch.randint(-64, 65, (8, 32), generator=generator) / 32.0) * 4
    saturating = torch.full((1, 32), 1.99)
    tiny = torch.randn(2, 32, generator=generator) * torch.tensor([[2.0**-126], [2.0**-146]])
    huge = torch.randn(1, 32, generator=generator).clamp(-3, 3) * 2.0**125
    zeros = torch.zeros(2, 32)
    zeros[1] = -0.0
    return torch.cat([gaussian, ties, saturating, tiny, huge, zeros])


@pytest.mark.parametrize("name", list(MX))
def test_elements_and_scales_are_those_of_ml_dtypes(name: str) -> None:
    x = rows()
    blocks = quantize_blocks(x, BlockFormat(name))
    wide = x.double().numpy()
    element = BlockFormat(name).element
    for row, codes, scale in zip(wide, blocks.elements.numpy(), blocks.scales.numpy()[:, 0], strict=True):
        largest = np.abs(row).max()
        exponent = -127 if largest == 0 else max(-127, math.frexp(largest)[1] - 1 - math.floor(math.log2(element.max)))
        assert scale == exponent + 127
        assert float(np.array(scale, np.uint8).view(ml_dtypes.float8_e8m0fnu)) == 2.0**exponent
        shares = np.clip(row / 2.0**exponent, -element.max, element.max)  # ml_dtypes does not saturate
        expected = shares.astype(MX[name][0])
        assert np.array_equal(codes, expected.view(np.uint8))
        assert np.array_equal(
            dequantize_blocks(quantize_blocks(torch.tensor(row).float(), BlockFormat(name))).numpy(),
            (expected.astype(np.float64) * 2.0**exponent).astype(np.float32),
        )


@pytest.mark.parametrize("name", list(MX))
def test_values_are_those_of_gfloat(name: str) -> None:
    x = rows(1)
    info = MX[name][1]
    found = round_to_blocks(x, BlockFormat(name))
    for row, values in zip(x.double().numpy(), found.numpy(), strict=True):
        expected = gfloat.quantize_block(info, row, gfloat.compute_scale_amax)
        assert np.array_equal(values, expected.astype(np.float32))


def nvfp4_of_gfloat(x: NDArray[np.float64]) -> NDArray[np.float32]:
    """The tensor's scale in float32, the blocks' in e4m3, elements in e2m1; scales and elements by gfloat."""
    whole = float(np.float32(np.abs(x).max() / (6 * 448)))
    result = []
    for block in x.reshape(-1, 16):
        share = np.abs(block).max() / 6 / whole
        scale = gfloat.round_float(format_info_ocp_e4m3, share, sat=True)
        over = block / (scale * whole) if scale else np.zeros(16)
        result.append([gfloat.round_float(format_info_ocp_e2m1, float(v), sat=True) * scale * whole for v in over])
    return np.array(result).reshape(x.shape).astype(np.float32)


def test_nvfp4_is_that_of_gfloat() -> None:
    for seed, spread in ((0, 1.0), (1, 3.0)):
        x = torch.randn(8, 64, generator=torch.Generator().manual_seed(seed)).mul(spread).exp() - 1.5
        assert np.array_equal(round_to_blocks(x, BlockFormat("nvfp4")).numpy(), nvfp4_of_gfloat(x.double().numpy()))


def test_nvfp4_by_hand() -> None:
    """Largest 2688 = 6 * 448: the tensor's scale is 1, the first block's 448, the second's 1.5 / 6 = 0.25."""
    x = torch.zeros(32)
    x[0], x[1], x[16], x[17] = 2688.0, -900.0, 1.5, 0.1
    blocks = quantize_blocks(x, BlockFormat("nvfp4"))
    assert blocks.tensor_scale is not None
    assert float(blocks.tensor_scale) == 1
    assert blocks.scales.tolist() == [0x7E, 0x28]
    assert dequantize_blocks(blocks)[[0, 1, 16, 17]].tolist() == [2688.0, -896.0, 1.5, 0.125]


@pytest.mark.parametrize("name", NAMES)
def test_quantizing_twice_changes_nothing_and_zero_stays_zero(name: str) -> None:
    format = BlockFormat(name)
    y = round_to_blocks(rows(2)[:24], format)
    if name != "nvfp4":  # whose scales are not powers of two: a second scale may differ by a step
        assert torch.equal(round_to_blocks(y, format), y)
    assert not dequantize_blocks(quantize_blocks(torch.zeros(3, 40), format)).any()


@pytest.mark.parametrize("name", NAMES)
def test_nan_and_infinity_spoil_their_block_alone(name: str) -> None:
    format = BlockFormat(name)
    for bad in (math.nan, math.inf, -math.inf):
        x = torch.ones(2, 3 * format.block_size)
        x[1, format.block_size] = bad
        y = round_to_blocks(x, format)
        spoilt = torch.isnan(y)
        assert bool(spoilt[1, format.block_size : 2 * format.block_size].all())
        assert int(spoilt.sum()) == format.block_size
        assert torch.equal(y[0], round_to_blocks(torch.ones(2, 3 * format.block_size), format)[0])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("length", [0, 1, 31, 33, 70])
def test_ragged_rows_end_in_a_short_block(name: str, length: int) -> None:
    format = BlockFormat(name)
    x = torch.randn(3, length, generator=torch.Generator().manual_seed(length))
    padded = torch.zeros(3, -(-max(length, 1) // 32) * 32)
    padded[:, :length] = x
    blocks = quantize_blocks(x, format)
    assert blocks.elements.shape == x.shape
    assert blocks.scales.shape == (3, -(-length // format.block_size))
    assert torch.equal(dequantize_blocks(blocks), round_to_blocks(padded, format)[:, :length])
    own = 32 if name == "nvfp4" else 0
    assert block_bits(x.shape, format) == blocks.elements.numel() * format.bits + blocks.scales.numel() * 8 + own


def test_blocks_run_along_the_axis_asked_for() -> None:
    x = torch.randn(4, 40, 3, generator=torch.Generator().manual_seed(0))
    format = BlockFormat("mxfp4")
    found = round_to_blocks(x, format, axis=1)
    assert torch.equal(found[:, :, 1], round_to_blocks(x[:, :, 1], format))
    assert round_to_blocks(x.bfloat16(), format).dtype == torch.bfloat16


def test_stochastic_elements_have_no_bias() -> None:
    x = torch.zeros(40000, 32)
    x[:, 0], x[:, 1], x[:, 2] = 4.0, 0.3, -2.6
    y = round_to_blocks(x, BlockFormat("mxfp4"), rounding="stochastic", key=Key(5))
    assert y[:, 1].unique().tolist() == [0.0, 0.5]
    assert y[:, 2].unique().tolist() == [-3.0, -2.0]
    assert float((y.mean(0) - x[0])[:3].abs().max()) < 5 * 0.5 / 200


def test_a_single_number_is_refused() -> None:
    with pytest.raises(NumericsError, match="no blocks for mxfp4"):
        quantize_blocks(torch.tensor(1.0), BlockFormat("mxfp4"))
