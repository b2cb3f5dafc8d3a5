"""Energy of whole models: counts by hand, the artifact as its model, the command."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import pennyweight as pw
from pennyweight.bench.energy import energy_of
from pennyweight.cli.main import app
from pennyweight.errors import MethodError
from pennyweight.hardware.energy import LayerCounts
from pennyweight.nn.operation_counts import operation_counts

IMAGES = torch.zeros(2, 1, 8, 8)


def test_counts_of_a_convolution_and_a_linear_layer() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 25, 7))
    conv, linear = operation_counts(model, torch.zeros(2, 3, 5, 5))
    assert conv == LayerCounts(
        layer="0", macs=27 * 100, weight_bits=32, input_bits=32, weights=108, weight_reads=108, inputs=75, outputs=100
    )
    assert (linear.macs, linear.weight_reads, linear.inputs, linear.outputs) == (700, 700, 100, 7)


def test_counts_of_a_recurrent_net_are_those_of_its_steps() -> None:
    model = pw.create_model("lstm", vocab_size=20, width=6, hidden_size=5, num_layers=1)
    table, inner, hidden, decoder = operation_counts(model, torch.zeros((2, 9), dtype=torch.int64))
    assert type(model.lstm) is nn.LSTM, "counting leaves the model alone"
    assert [row.layer for row in (inner, hidden, decoder)] == ["lstm.l0.input", "lstm.l0.hidden", "decoder"]
    assert (table.macs, table.weights, table.weight_reads, table.inputs) == (0, 120, 9 * 6, 0)
    assert (inner.macs, inner.weight_reads) == (9 * 20 * 6, 20 * 6)
    assert (hidden.macs, hidden.weight_reads, hidden.inputs) == (9 * 20 * 5, 9 * 20 * 5, 9 * 5)
    assert decoder.macs == 9 * 5 * 20


@pytest.mark.parametrize("method", [pw.BNN(), pw.RoundToNearest(weights="int4"), pw.Int8Training()])
def test_an_artifact_costs_what_its_model_costs(method: Any, tmp_path: Path) -> None:
    model = pw.create_model("mlp", hidden=(16, 16)).eval()
    in_float = energy_of(model, IMAGES)
    pw.apply_(model, method, data=[torch.rand(4, 1, 8, 8)])
    found = energy_of(model, IMAGES)
    artifact = pw.export(model.eval(), tmp_path / "mlp.pw")
    assert energy_of(artifact, IMAGES).layers == found.layers
    assert found.total.total_pj < in_float.total.total_pj
    assert found.total.macs == in_float.total.macs == 64 * 16 + 16 * 16 + 160
    assert found.kind == "modelled"


def test_gates_of_an_artifact_have_their_names(tmp_path: Path) -> None:
    model = pw.create_model("lstm", vocab_size=20, width=6, hidden_size=5, num_layers=2).eval()
    tokens = torch.randint(0, 20, (2, 9))
    pw.apply_(model, pw.RoundToNearest(weights="int3"), data=[tokens])
    artifact = pw.export(model, tmp_path / "lstm.pw")
    assert energy_of(artifact, tokens).layers == energy_of(model, tokens).layers
    with pytest.raises(MethodError, match="StoredCodes, which has no number of bits: of an artifact give"):
        energy_of(artifact.model(), tokens)


def test_the_command_prints_the_table_and_says_that_it_is_modelled(tmp_path: Path) -> None:
    path = pw.export(pw.create_model("mlp", hidden=(8,)), tmp_path / "mlp.pw").path
    shown = CliRunner().invoke(app, ["energy", str(path)])
    assert shown.exit_code == 0, shown.output
    assert "modelled, not measured; table horowitz45nm" in shown.output
    assert [line.split()[0] for line in shown.output.splitlines()[2:]] == ["linear1", "linear2", "total"]
    found = json.loads(CliRunner().invoke(app, ["energy", str(path), "--json"]).output)
    assert found["total"]["macs"] == 64 * 8 + 80
