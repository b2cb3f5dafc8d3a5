"""Recurrent nets in an artifact: packed gates, the same numbers after loading, hostile files refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

import pennyweight as pw
from pennyweight.artifact import manifest as container
from pennyweight.errors import ArtifactError

TOKENS = torch.randint(0, 20, (3, 7), generator=torch.Generator().manual_seed(0))


def language_model(**options: Any) -> nn.Module:
    return pw.create_model("lstm", vocab_size=20, width=8, hidden_size=8, **options).eval()


METHODS: dict[str, Any] = {
    "float": None,
    "w4a4": pw.Int8Training(weights="int4", activations="uint4", gradients=None, norm="keep"),
    "rounded": pw.RoundToNearest(weights="int3", activations="int8"),
    "binary": pw.BNN(exclude=("decoder",)),
}


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("tied", [False, True])
def test_the_loaded_model_equals_the_module(name: str, tied: bool, tmp_path: Path) -> None:
    model = language_model(tied=tied, dropout=0.5)
    if METHODS[name] is not None:
        pw.apply_(model, METHODS[name], data=[TOKENS])
    artifact = pw.export(model.eval(), tmp_path / "lstm.pw", example_input=TOKENS)
    with torch.inference_mode():
        assert torch.equal(artifact.model()(TOKENS), model(TOKENS))
        assert torch.equal(pw.load(artifact.path).model()(TOKENS[:1, :3]), model(TOKENS[:1, :3]))


def test_gates_are_layers_of_the_table_and_packed(tmp_path: Path) -> None:
    model = language_model()
    float_size = pw.export(model, tmp_path / "float.pw").size_breakdown["parameters"]
    pw.apply_(model, METHODS["rounded"], data=[TOKENS])
    artifact = pw.export(model.eval(), tmp_path / "lstm.pw")
    rows = {row.fqn: row for row in artifact.layers}
    assert rows["lstm.l1.hidden"].shape == (32, 8)
    assert rows["lstm.l1.hidden"].weights == "int3"
    assert rows["lstm.l1.hidden"].execution == "simulated"
    assert artifact.size_breakdown["codes"] == 2 * 2 * 32 * 8 * 3 // 8 + 2 * 20 * 8 * 3 // 8
    assert float_size == 4 * sum(parameter.numel() for parameter in model.parameters())


class Cells(nn.Module):
    """Two cells by hand over one step, and layers of the other kinds."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(4, 6, bidirectional=True, batch_first=True)
        self.rnn = nn.RNN(12, 5, nonlinearity="relu", batch_first=True, bias=False)
        self.cell = nn.LSTMCell(5, 3)
        self.other = nn.GRUCell(3, 3, bias=False)
        self.last = nn.RNNCell(3, 2, nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.gru(x)
        y, _ = self.rnn(y)
        h, _ = self.cell(y[:, 0])
        return self.last(self.other(h))


def test_all_kinds_of_recurrent_modules(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, x = Cells().eval(), torch.randn(2, 5, 4)
    for step in range(2):
        artifact = pw.export(model.eval(), tmp_path / f"{step}.pw", example_input=x)
        with torch.inference_mode():
            assert torch.equal(artifact.model()(x), model(x))
        if step == 0:
            pw.apply_(model, pw.RoundToNearest(), data=[x])


def test_a_bare_layer_and_what_has_no_gates(tmp_path: Path) -> None:
    x = torch.randn(5, 2, 4)
    layer = nn.LSTM(4, 3)
    y, (h, _) = pw.export(layer, tmp_path / "bare.pw", example_input=x).model()(x)
    assert torch.equal(y, layer(x)[0])
    assert h.shape == (1, 2, 3)
    with pytest.raises(ArtifactError, match="'0' is a LSTM, which an artifact cannot hold"):
        pw.export(nn.LSTM(4, 3, proj_size=2), tmp_path / "projected.pw")


@pytest.mark.parametrize(
    ("change", "answer"),
    [
        (lambda specs: specs.pop("lstm.l0.hidden"), r"gate 'l0.hidden' of 'lstm' is missing"),
        (lambda specs: specs["lstm"]["settings"].update(hidden_size=7), "of another shape"),
        (lambda specs: specs["lstm"]["settings"].update(num_layers=10**9), "1000000000 layers"),
        (lambda specs: specs["lstm"]["settings"].update(num_layers="two"), "cannot be built"),
        (lambda specs: specs["lstm"]["settings"].pop("input_size"), "cannot be built"),
        (lambda specs: specs["lstm"].update(kind="gru"), "of another shape"),
    ],
)
def test_hostile_files_are_refused(change: Any, answer: str, tmp_path: Path) -> None:
    path = pw.export(language_model(), tmp_path / "lstm.pw").path
    with safetensors.safe_open(path, "pt") as file:
        content = json.loads(file.metadata()["pennyweight"])["manifest"]
    change(content["modules"])
    for key in ("format", "version", "digests"):
        content.pop(key)
    container.write(path, content, safetensors.torch.load_file(path))
    with pytest.raises(ArtifactError, match=answer):
        pw.load(path)
