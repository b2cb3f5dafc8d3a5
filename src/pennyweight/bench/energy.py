"""`energy_of`: the modelled energy of one inference of a model or artifact, layer by layer."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from pennyweight.artifact import Artifact
from pennyweight.artifact.modules import weight_bits as bits_of
from pennyweight.hardware.energy import LayerCounts, LayerEnergy, energy_table, layer_energy, total_energy
from pennyweight.nn.calling import Batch
from pennyweight.nn.operation_counts import Bits, operation_counts


@dataclass(frozen=True, kw_only=True)
class EnergyReport:
    """Modelled, not measured.

    Args:
        table: name of the table of energies.
        source: where its figures are from.
        layers: in order of execution.
        total: their sum.
    """

    table: str
    source: str
    layers: tuple[LayerEnergy, ...]
    total: LayerEnergy
    kind: str = "modelled"

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return dataclasses.asdict(self)


def energy_of(candidate: nn.Module | Artifact, batch: Batch, *, table: str = "horowitz45nm") -> EnergyReport:
    """Model the energy of one inference: arithmetic of the weighted layers, and their memory traffic.

    Args:
        candidate: a module, whose slots say how many bits its operands have, or an artifact.
        batch: an example input.
        table: name of the energies; see `hardware.energy.TABLES`.

    Raises:
        NumericsError: no such table.
        MethodError: no weighted layer runs, or a slot's content has no number of bits.

    Example:
        >>> import torch, pennyweight as pw
        >>> model, images = pw.create_model("mlp"), torch.zeros(2, 1, 8, 8)
        >>> in_float = energy_of(model, images).total.total_pj
        >>> _ = pw.apply_(model, pw.BNN())
        >>> energy_of(model, images).total.total_pj < in_float / 10
        True
    """
    energies = energy_table(table)
    counts = _of_artifact(candidate, batch) if isinstance(candidate, Artifact) else operation_counts(candidate, batch)
    layers = tuple(layer_energy(one, energies) for one in counts)
    return EnergyReport(table=energies.name, source=energies.source, layers=layers, total=total_energy(layers))


def _of_artifact(artifact: Artifact, batch: Batch) -> list[LayerCounts]:
    """Counts by the names the layers had in the model; the bits are those of the file."""
    program = artifact.model(packed=False)
    names = {_named_as(fqn): fqn for fqn, _ in program.named_modules()}
    bits: Mapping[str, Bits] = {names[row.fqn]: (row.weight_bits, bits_of(row.inputs)) for row in artifact.layers}
    counts = operation_counts(program, batch, bits)
    return [dataclasses.replace(one, layer=_named_as(one.layer)) for one in counts]


def _named_as(fqn: str) -> str:
    """A program keeps its modules under `calls`, with slashes for dots."""
    return fqn.removeprefix("calls.").replace("/", ".")
