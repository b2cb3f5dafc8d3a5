"""The sweep over accumulators: rows that are what one conversion gives, the command, and the picture."""

import csv
import json
import re
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn
from typer.testing import CliRunner

import pennyweight as pw
from pennyweight.bench.accumulator_sweep import accumulator_cost, accumulator_sweep, mantissa_and_exponent
from pennyweight.cli.main import app
from pennyweight.errors import MethodError
from pennyweight.nn.accumulators import accumulator_rates
from pennyweight.numerics.accumulate import AccumulatorSpec


@pytest.fixture(scope="module")
def trained() -> nn.Module:
    model = pw.create_model("mlp", hidden=(16,), seed=0)
    regime = pw.Regime.cosine(steps=60, lr=5e-3, batch_size=64, optimizer="adam")
    pw.train(model, pw.load_dataset("digits"), regime, progress=False)
    return model


def test_rows_are_what_one_conversion_gives(trained: nn.Module) -> None:
    test = pw.load_dataset("digits", "test").subset(range(100))
    inputs = test.normalize(test.images[:32])
    before = {key: value.clone() for key, value in trained.state_dict().items()}
    found = accumulator_sweep(trained, test, inputs, formats=("M7E4", "M1E2"), chunks=(4, 16))
    assert [(row.format, row.chunk) for row in found.rows] == [("M7E4", 4), ("M7E4", 16), ("M1E2", 4), ("M1E2", 16)]
    row = found.rows[3]
    model = pw.create_model("mlp", hidden=(16,))
    model.load_state_dict(before)
    pw.apply_(model, pw.LBA(mantissa=1, exponent=2, product_bias=None, sum_bias=None), data=[inputs])
    assert row.accuracy == pw.evaluate(model, test).accuracy
    assert row.layers == accumulator_rates(model, inputs[:16])
    assert row.swamping == sum(rates.swamping for rates in row.layers.values()) / 2
    assert row.gates == accumulator_cost(AccumulatorSpec(mantissa=1, exponent=2, product_bias=0, sum_bias=0)).gates
    assert found.float_accuracy == pw.evaluate(trained, test).accuracy
    assert row.accuracy < found.rows[1].accuracy + 1e-9
    assert all(torch.equal(value, trained.state_dict()[key]) for key, value in before.items())


def test_formats_are_read_as_papers_write_them() -> None:
    assert mantissa_and_exponent(" m10e5") == (10, 5)
    for wrong in ("E5M10", "M7", "M7E44", "float"):
        with pytest.raises(MethodError, match="write mantissa and exponent bits as in 'M7E4'"):
            mantissa_and_exponent(wrong)


def test_the_command(trained: nn.Module, tmp_path: Path) -> None:
    safetensors.torch.save_file(trained.state_dict(), tmp_path / "net.safetensors")
    (tmp_path / "net.py").write_text(
        "import pennyweight as pw\n\ndef make():\n    return pw.create_model('mlp', hidden=(16,))\n"
    )
    command = ["lba", "sweep", f"{tmp_path / 'net.py'}:make", "--formats", "M7E4,M2E3", "--chunks", "8,16"]
    weighed = [*command, "--weights", str(tmp_path / "net.safetensors"), "--images", "50", "--out", str(tmp_path / "o")]
    done = CliRunner().invoke(app, weighed)
    assert done.exit_code == 0, done.output
    assert len(re.findall(r"^M[72]E[43] +\d+ +(?:8|16) +\d", done.stdout, re.MULTILINE)) == 4
    rows = list(csv.DictReader((tmp_path / "o" / "sweep.csv").read_text().splitlines()))
    assert [row["chunk"] for row in rows] == ["8", "16", "8", "16"]
    layers = json.loads((tmp_path / "o" / "layers.json").read_text())
    assert set(layers["M2E3/8"]) == {"linear1", "linear2"}
    picture = (tmp_path / "o" / "sweep.svg").read_text()
    assert picture.startswith('<svg style="font-family: sans-serif; background: ')
    assert "chunks of 8" in picture
    assert picture.count("M7E4") >= 2  # beside its mark, and for those who cannot see it
    untrained = CliRunner().invoke(app, command)
    assert untrained.exit_code == 2
    assert "has learnt nothing" in untrained.output
    wrong = CliRunner().invoke(app, [*weighed, "--chunks", "8;16"])
    assert "whole numbers with commas between" in wrong.output
