"""Energy of an inference from counts of operations and a named table of energies; modelled, never measured.

Pure functions of plain records: what the operations of a model are is found elsewhere (`nn.operation_counts`).
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from pennyweight.errors import NumericsError, did_you_mean


@dataclass(frozen=True, kw_only=True)
class EnergyTable:
    """Energies of one process, in picojoules; a parameter of every estimate, named in every result.

    Args:
        name: in results.
        source: where the figures are from, and how sure they are.
        int_add_pj: (bits, energy) of integer additions, rising.
        int_multiply_pj: (bits, energy) of integer multiplications, rising.
        float_add_pj: by bits.
        float_multiply_pj: by bits.
        memory_pj: (bytes, energy of reading 64 bits) of on-chip memories, rising.
        dram_pj: of reading 64 bits from DRAM.
    """

    name: str
    source: str
    int_add_pj: tuple[tuple[int, float], ...]
    int_multiply_pj: tuple[tuple[int, float], ...]
    float_add_pj: Mapping[int, float]
    float_multiply_pj: Mapping[int, float]
    memory_pj: tuple[tuple[int, float], ...]
    dram_pj: float


HOROWITZ_45NM = EnergyTable(
    name="horowitz45nm",
    source="M. Horowitz, Computing's energy problem, ISSCC 2014: 45 nm, 0.9 V; figures as widely repeated, not checked "
    "against the paper; DRAM is the low end of its range",
    int_add_pj=((8, 0.03), (32, 0.1)),
    int_multiply_pj=((8, 0.2), (32, 3.1)),
    float_add_pj=MappingProxyType({16: 0.4, 32: 0.9}),
    float_multiply_pj=MappingProxyType({16: 1.1, 32: 3.7}),
    memory_pj=((8 << 10, 10.0), (32 << 10, 20.0), (1 << 20, 100.0)),
    dram_pj=1300.0,
)
TABLES: Mapping[str, EnergyTable] = MappingProxyType({table.name: table for table in (HOROWITZ_45NM,)})


@dataclass(frozen=True, kw_only=True)
class LayerCounts:
    """What one layer does in one inference.

    Args:
        layer: its name.
        macs: multiply-accumulates.
        weight_bits: of a stored weight; 16 and more are floats, 1 is a sign.
        input_bits: of an input of the product; likewise.
        weights: values stored.
        weight_reads: values read: all of them once a call, of a table the rows that are looked up.
        inputs: values read; `outputs` written, in float32.
    """

    layer: str
    macs: int
    weight_bits: int
    input_bits: int
    weights: int
    weight_reads: int
    inputs: int
    outputs: int


@dataclass(frozen=True, kw_only=True)
class LayerEnergy:
    """Modelled picojoules of one layer, or of all together.

    Args:
        layer: its name; "total" for the sum.
        arithmetic: what was charged for a multiply-accumulate, in words.
        macs: multiply-accumulates.
        compute_pj: of arithmetic; `memory_pj` of reading weights and inputs and writing outputs.
    """

    layer: str
    arithmetic: str
    macs: int
    compute_pj: float
    memory_pj: float

    @property
    def total_pj(self) -> float:
        """Both parts."""
        return self.compute_pj + self.memory_pj


def energy_table(name: str) -> EnergyTable:
    """The table of that name.

    Raises:
        NumericsError: there is none.
    """
    if name not in TABLES:
        raise NumericsError(f"unknown energy table {name!r}; {did_you_mean(name, TABLES)}")
    return TABLES[name]


def mac_pj(weight_bits: int, input_bits: int, table: EnergyTable) -> tuple[float, str]:
    """Energy of one multiply-accumulate, and what it was taken for.

    Floats are multiplied and added at the wider operand; with a sign they are only added. Two signs are one bit of a
    word of XNOR and of popcount: each is charged as a bit of an integer addition. A sign with integers adds or
    subtracts. Integers multiply at the product of their widths, an array of adders growing as that, and are summed in
    32 bits.

    Raises:
        NumericsError: a width below 1.

    Deviations: the table has 8 and 32 bits; between and below, additions are scaled linearly and multiplications by
    the product of widths, which is this model's assumption.

    Example:
        >>> mac_pj(1, 8, HOROWITZ_45NM)
        (0.1, '32-bit add')
    """
    if min(weight_bits, input_bits) < 1:
        raise NumericsError(f"widths of {weight_bits} and {input_bits} bits: operands have at least one")
    wide, is_signed = max(weight_bits, input_bits), 1 in (weight_bits, input_bits)
    if wide >= 16:
        width = 16 if wide == 16 else 32
        if is_signed:
            return table.float_add_pj[width], f"float{width} add"
        return table.float_multiply_pj[width] + table.float_add_pj[width], f"float{width} multiply and add"
    if weight_bits == input_bits == 1:
        return 2 * _scaled(table.int_add_pj, 1), "a bit of XNOR and of popcount"
    accumulate = _scaled(table.int_add_pj, 32)
    if is_signed:
        return accumulate, "32-bit add"
    bits, pj = table.int_multiply_pj[0]
    return pj * weight_bits * input_bits / bits**2 + accumulate, f"int{weight_bits} x int{input_bits} and 32-bit add"


def _scaled(energies: tuple[tuple[int, float], ...], bits: int) -> float:
    """The energy at a width of the table, or in proportion to the next one up."""
    known, pj = next(((b, e) for b, e in energies if b >= bits), energies[-1])
    return pj * bits / known


def read_pj(bits: float, stored_bits: float, table: EnergyTable) -> float:
    """Energy of reading so many bits from the smallest memory of the table that holds a whole of `stored_bits`."""
    size = next((pj for held, pj in table.memory_pj if stored_bits <= 8 * held), table.dram_pj)
    return bits / 64 * size


def layer_energy(counts: LayerCounts, table: EnergyTable) -> LayerEnergy:
    """The modelled energy of one layer; weights, inputs and outputs lie each in the smallest memory that holds them.

    Raises:
        NumericsError: a count below 0, or a width below 1.
    """
    pj, arithmetic = mac_pj(counts.weight_bits, counts.input_bits, table)
    if min(counts.macs, counts.weights, counts.weight_reads, counts.inputs, counts.outputs) < 0:
        raise NumericsError(f"layer {counts.layer!r} has negative counts: {counts}")
    inputs, outputs = counts.inputs * counts.input_bits, counts.outputs * 32
    memory = read_pj(counts.weight_reads * counts.weight_bits, counts.weights * counts.weight_bits, table)
    memory += read_pj(inputs, inputs, table) + read_pj(outputs, outputs, table)
    return LayerEnergy(
        layer=counts.layer, arithmetic=arithmetic, macs=counts.macs, compute_pj=counts.macs * pj, memory_pj=memory
    )


def total_energy(layers: Iterable[LayerEnergy]) -> LayerEnergy:
    """The sum of layers."""
    found = list(layers)
    return LayerEnergy(
        layer="total",
        arithmetic="",
        macs=sum(layer.macs for layer in found),
        compute_pj=math.fsum(layer.compute_pj for layer in found),
        memory_pj=math.fsum(layer.memory_pj for layer in found),
    )
