"""The energy model: parts sum to the total, known layers by hand, and what each arithmetic is charged."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pennyweight.errors import NumericsError
from pennyweight.hardware.energy import (
    HOROWITZ_45NM,
    LayerCounts,
    energy_table,
    layer_energy,
    mac_pj,
    read_pj,
    total_energy,
)

counts = st.builds(
    LayerCounts,
    layer=st.just("x"),
    macs=st.integers(0, 10**9),
    weight_bits=st.integers(1, 32),
    input_bits=st.integers(1, 32),
    weights=st.integers(0, 10**7),
    weight_reads=st.integers(0, 10**8),
    inputs=st.integers(0, 10**7),
    outputs=st.integers(0, 10**7),
)


@given(st.lists(counts, max_size=5))
def test_the_total_is_the_sum_of_its_parts(records: list[LayerCounts]) -> None:
    layers = [layer_energy(one, HOROWITZ_45NM) for one in records]
    total = total_energy(layers)
    assert math.isclose(total.total_pj, math.fsum(x.compute_pj + x.memory_pj for x in layers), abs_tol=1e-9)
    assert total.macs == sum(one.macs for one in records)
    assert all(layer.compute_pj >= 0 and layer.memory_pj >= 0 for layer in layers)


def test_a_layer_by_hand() -> None:
    """784 x 10 float: 7840 MACs of 4.6 pJ; 31,360 bytes of weights in 32 KB, 3,136 of inputs and 40 of outputs in 8."""
    layer = LayerCounts(
        layer="fc", macs=7840, weight_bits=32, input_bits=32, weights=7840, weight_reads=7840, inputs=784, outputs=10
    )
    found = layer_energy(layer, HOROWITZ_45NM)
    assert math.isclose(found.compute_pj, 7840 * (3.7 + 0.9))
    assert math.isclose(found.memory_pj, 7840 / 2 * 20 + 784 / 2 * 10 + 10 / 2 * 10)
    assert found.arithmetic == "float32 multiply and add"


@pytest.mark.parametrize(
    ("weight_bits", "input_bits", "pj", "words"),
    [
        (32, 32, 4.6, "float32 multiply and add"),
        (16, 16, 1.5, "float16 multiply and add"),
        (4, 32, 4.6, "float32 multiply and add"),
        (1, 32, 0.9, "float32 add"),
        (8, 8, 0.2 + 0.1, "int8 x int8 and 32-bit add"),
        (4, 8, 0.1 + 0.1, "int4 x int8 and 32-bit add"),
        (2, 2, 0.2 * 4 / 64 + 0.1, "int2 x int2 and 32-bit add"),
        (1, 8, 0.1, "32-bit add"),
        (1, 1, 2 * 0.03 / 8, "a bit of XNOR and of popcount"),
    ],
)
def test_what_a_multiply_accumulate_is_charged(weight_bits: int, input_bits: int, pj: float, words: str) -> None:
    found, arithmetic = mac_pj(weight_bits, input_bits, HOROWITZ_45NM)
    assert math.isclose(found, pj)
    assert arithmetic == words
    assert math.isclose(mac_pj(input_bits, weight_bits, HOROWITZ_45NM)[0], pj)


@given(st.integers(1, 31), st.integers(1, 32))
def test_more_bits_never_cost_less(bits: int, other: int) -> None:
    assert mac_pj(bits, other, HOROWITZ_45NM)[0] <= mac_pj(bits + 1, other, HOROWITZ_45NM)[0] + 1e-12


def test_memories_by_what_they_must_hold() -> None:
    kilobyte = 8 * 1024
    sizes = [8 * kilobyte, 8 * kilobyte + 1, 32 * kilobyte, 1024 * kilobyte, 1024 * kilobyte + 1]
    assert [read_pj(64, size, HOROWITZ_45NM) for size in sizes] == [10, 20, 20, 100, 1300]
    assert read_pj(0, 0, HOROWITZ_45NM) == 0


def test_wrong_use_is_told() -> None:
    with pytest.raises(NumericsError, match="unknown energy table 'horowitz'; did you mean 'horowitz45nm'"):
        energy_table("horowitz")
    with pytest.raises(NumericsError, match="widths of 0 and 8 bits"):
        mac_pj(0, 8, HOROWITZ_45NM)
    layer = LayerCounts(
        layer="fc", macs=-1, weight_bits=8, input_bits=8, weights=1, weight_reads=1, inputs=1, outputs=1
    )
    with pytest.raises(NumericsError, match="layer 'fc' has negative counts"):
        layer_energy(layer, HOROWITZ_45NM)
    assert energy_table("horowitz45nm").source.startswith("M. Horowitz")
