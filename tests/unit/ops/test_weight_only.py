"""Weight-only products against the reference, over shapes that fit the kernels' blocks and shapes that do not."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pennyweight.errors import KernelError
from pennyweight.ops.weight_only import pack_weight_only, reference, weight_only_linear


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 1000),
    rows=st.integers(1, 70),
    columns=st.integers(1, 300),
    batch=st.sampled_from([(), (1,), (3,), (2, 17), (0,)]),
    kind=st.sampled_from([(8, None), (4, None), (4, 32), (4, 64), (4, 128), (4, 256)]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
)
def test_it_computes_the_reference(
    seed: int, rows: int, columns: int, batch: tuple[int, ...], kind: tuple[int, int | None], dtype: torch.dtype
) -> None:
    bits, group_size = kind
    generator = torch.Generator().manual_seed(seed)
    half = 2 ** (bits - 1)
    codes = torch.randint(-half, half, (rows, columns), generator=generator)
    groups = () if group_size is None else (-(-columns // group_size),)
    scale = torch.rand((rows, *groups), generator=generator) + 0.1
    x = torch.randn((*batch, columns), generator=generator).to(dtype)
    got = weight_only_linear(x, pack_weight_only(codes, scale, bits=bits))
    expected = reference(x, codes, scale, group_size)
    assert got.dtype == dtype
    assert got.shape == (*batch, rows)
    if got.numel():
        magnitude = float(reference(x.abs(), codes.abs(), scale, group_size).max())
        assert float((got.float() - expected.float()).abs().max()) <= magnitude / 128


def test_sizes() -> None:
    codes = torch.zeros(64, 256, dtype=torch.int32)
    four = pack_weight_only(codes, torch.ones(64, 2), bits=4)
    assert (four.group_size, four.size_bytes) == (128, 64 * 128 + 2 * 2 * 64 * 2)
    assert pack_weight_only(codes, torch.ones(64), bits=8).size_bytes == 64 * 256 + 2 * 64


def test_what_does_not_fit() -> None:
    codes = torch.zeros(16, 64, dtype=torch.int32)
    with pytest.raises(KernelError, match="bits=3"):
        pack_weight_only(codes, torch.ones(16), bits=3)
    with pytest.raises(KernelError, match=r"codes from 0 to 8 do not fit 4 bits: -8..7"):
        pack_weight_only(codes.clone().index_fill_(0, torch.tensor([0]), 8), torch.ones(16), bits=4)
    with pytest.raises(KernelError, match="4 groups for 64 columns"):
        pack_weight_only(codes, torch.ones(16, 4), bits=4)
    with pytest.raises(KernelError, match="for 16 rows of 8-bit codes"):
        pack_weight_only(codes, torch.ones(16, 2), bits=8)
    with pytest.raises(KernelError, match="meets a weight of 64 columns"):
        weight_only_linear(torch.ones(2, 63), pack_weight_only(codes, torch.ones(16), bits=8))
