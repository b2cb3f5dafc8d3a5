"""The cost model: parts add up to the whole, and more bits never cost less."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pennyweight.bench.accumulator_sweep import accumulator_cost
from pennyweight.hardware import float_accumulator_cost, integer_accumulator_cost
from pennyweight.numerics.accumulate import AccumulatorSpec
from pennyweight.numerics.integer_accumulate import IntAccumulatorSpec


def test_the_preset_by_hand() -> None:
    """M7E4: 8 bits of significand, 11 with guards, 4 rows of multiplexers each way."""
    cost = accumulator_cost(AccumulatorSpec())
    assert cost.full_adders == 4 + 11 + 4
    assert cost.multiplexers == 2 * 8 + 4 * 11 + 11 + 4 * 11 + 2 * 11
    assert cost.comparators == 2 * 2 * 4
    assert cost.plain_gates == 11 + 2 * 11
    assert cost.flip_flops == 2 * 12
    assert cost.half_adders == 0
    assert cost.gates == 5 * 19 + 3 * 137 + 2 * 16 + 33 + 6 * 24
    assert cost.energy_fj() == cost.gates * (1 + 1 / 16)
    assert cost.energy_fj(gate_fj=0.5) == cost.energy_fj() / 2


def test_an_integer_accumulator_by_hand() -> None:
    assert integer_accumulator_cost(16).gates == 16 * (5 + 6)
    assert integer_accumulator_cost(16, saturates=True).gates == 16 * (5 + 6 + 3) + 3
    for overflow in ("wrap", "saturate"):
        spec = IntAccumulatorSpec(bits=12, overflow=overflow)  # type: ignore[arg-type]
        assert accumulator_cost(spec) == integer_accumulator_cost(12, saturates=overflow == "saturate")


@given(st.integers(1, 22), st.integers(1, 6), st.integers(1, 64))
def test_more_bits_cost_more_and_longer_chunks_less(mantissa: int, exponent: int, chunk: int) -> None:
    cost = float_accumulator_cost(mantissa, exponent, chunk=chunk)
    assert float_accumulator_cost(mantissa + 1, exponent, chunk=chunk).gates > cost.gates
    assert float_accumulator_cost(mantissa, exponent + 1, chunk=chunk).gates > cost.gates
    assert float_accumulator_cost(mantissa, exponent, chunk=chunk + 1).energy_fj() < cost.energy_fj()
    assert float_accumulator_cost(mantissa, exponent, chunk=chunk, nearest=True).gates > cost.gates
    assert float_accumulator_cost(mantissa, exponent).gates < cost.gates


@pytest.mark.parametrize("underflow", [True, False])
def test_rounding_is_counted_and_a_switch_of_the_simulation_is_not(underflow: bool) -> None:
    cut, nearest = (accumulator_cost(AccumulatorSpec(rounding=how, underflow=underflow))  # type: ignore[arg-type]
                    for how in ("toward_zero", "nearest_even"))  # fmt: skip
    assert nearest.gates - cut.gates == 2 * 2 * 8
    assert cut == accumulator_cost(AccumulatorSpec())
