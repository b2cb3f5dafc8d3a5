"""Codes in bytes and signs in words, against one big integer."""

import pytest
import torch

from oracles import bit_strings
from pennyweight.errors import NumericsError
from pennyweight.numerics.packing import pack_bits, pack_signs, unpack_bits, unpack_signs
from pennyweight.numerics.random import Key, randint


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 63, 64, 65, 1000])
def test_every_width_and_ragged_count(bits: int, count: int) -> None:
    codes = randint(0, 2**bits, (count,), Key(bits))
    packed = pack_bits(codes, bits)
    assert packed.dtype == torch.uint8
    assert bytes(packed.tolist()) == bit_strings.pack(codes.tolist(), bits)
    unpacked = unpack_bits(packed, bits, count)
    assert unpacked.dtype == torch.uint8
    assert torch.equal(unpacked.long(), codes)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int32, torch.int64, torch.bool])
def test_any_integer_dtype_and_layout(dtype: torch.dtype) -> None:
    codes = randint(0, 2, (6, 5), Key(0)).to(dtype)
    expected = bit_strings.pack([int(c) for c in codes.t().flatten().tolist()], 1)
    assert bytes(pack_bits(codes.t(), 1).tolist()) == expected


def test_the_input_is_left_alone() -> None:
    codes = torch.arange(16, dtype=torch.uint8)
    packed = pack_bits(codes, 8)
    packed += 1
    assert torch.equal(codes, torch.arange(16, dtype=torch.uint8))
    unpacked = unpack_bits(packed, 8, 16)
    unpacked += 1
    assert packed.tolist() == list(range(1, 17))


@pytest.mark.parametrize("bad", [-1, 8])
def test_codes_that_do_not_fit_are_refused(bad: int) -> None:
    with pytest.raises(NumericsError, match="3 bits hold 0 to 7"):
        pack_bits(torch.tensor([1, bad]), 3)


def test_a_wrong_number_of_bytes_is_refused() -> None:
    packed = pack_bits(torch.arange(5), 3)
    for wrong in (packed[:1], torch.cat([packed, packed])):
        with pytest.raises(NumericsError, match="5 codes of 3 bits take 2 bytes"):
            unpack_bits(wrong, 3, 5)
    with pytest.raises(NumericsError, match="int32"):
        unpack_bits(packed.int(), 3, 5)


@pytest.mark.parametrize("k", [0, 1, 63, 64, 65, 128, 200])
@pytest.mark.parametrize("lead", [(), (1,), (3,), (2, 3), (0,)])
def test_signs_of_every_length(k: int, lead: tuple[int, ...]) -> None:
    x = randint(0, 2, (*lead, k), Key(k)).float() * 2 - 1
    words = pack_signs(x)
    assert words.dtype == torch.int64
    assert words.shape == (*lead, -(-k // 64))
    if k and x.numel():
        assert words.reshape(-1, words.shape[-1]).tolist() == [
            bit_strings.sign_words(r) for r in x.view(-1, k).tolist()
        ]
    assert torch.equal(unpack_signs(words, k), x)


def test_zeros_of_both_signs_are_plus_and_padding_is_0() -> None:
    assert pack_signs(torch.tensor([0.0, -0.0, -1e-45, 1.0])).tolist() == [0b1011]
    assert pack_signs(torch.full((64,), 1.0)).tolist() == [-1]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.int8])
def test_signs_of_other_dtypes_and_strided_input(dtype: torch.dtype) -> None:
    x = randint(-2, 3, (70, 3), Key(4))
    assert torch.equal(pack_signs(x.to(dtype).t()), pack_signs(x.float().t().contiguous()))


def test_strided_words_unpack() -> None:
    x = randint(0, 2, (4, 130), Key(1)).float() * 2 - 1
    words = pack_signs(x)
    spread = torch.stack([words, words], dim=1)[:, 0]
    assert torch.equal(unpack_signs(spread, 130), x)


def test_nan_has_no_sign() -> None:
    with pytest.raises(NumericsError, match=r"NaN at index \(1, 2\)"):
        pack_signs(torch.tensor([[1.0, 2.0, 3.0], [1.0, 2.0, float("nan")]]))
