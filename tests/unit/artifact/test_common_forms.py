"""What users' forwards are written with: functions in place, dropouts, groups, several outputs; in both files."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import pennyweight as pw
from pennyweight.errors import ArtifactError

X = torch.randn(8, 3, 6, 6, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """A convolution, the form in question, a head."""

    def __init__(self, form: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.form, self.head = nn.Conv2d(3, 8, 3, padding=1), form, nn.Linear(8 * 36, 4)

    def forward(self, x: Any) -> Any:
        return self.head(self.form(self.conv(x)).flatten(1))


class Written(nn.Module):
    """A form as a function of x and of whether it trains."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Any) -> Any:
        return self.function(x, self.training)


def read_later(x: Any, _training: bool) -> Any:
    y = x * 2
    y.relu_()
    return y + x  # y is what relu_ left in it


def group_norm() -> nn.Module:
    norm = nn.GroupNorm(4, 8)
    with torch.no_grad():
        norm.weight.uniform_(0.5, 2)
        norm.bias.uniform_(-1, 1)
    return norm


FORMS = {
    "leaky relu": nn.LeakyReLU(0.2),
    "F.leaky_relu": Written(lambda x, _: F.leaky_relu(x, 0.3)),
    "F.relu6": Written(lambda x, _: F.relu6(3 * x)),
    "F.hardswish": Written(lambda x, _: F.hardswish(x)),
    "relu_": Written(lambda x, _: x.relu_()),
    "relu_ read later": Written(read_later),
    "F.dropout": Written(lambda x, training: F.dropout(x, 0.5, training)),
    "F.dropout by name": Written(lambda x, training: F.dropout(x, p=0.5, training=training)),
    "dropout2d": nn.Dropout2d(),
    "alpha dropout": nn.AlphaDropout(),
    "group norm": group_norm(),
    "group norm without parameters": nn.GroupNorm(2, 8, affine=False),
}


@pytest.mark.parametrize("name", FORMS)
def test_both_files_compute_what_the_module_does(name: str, tmp_path: Path) -> None:
    model = Net(copy.deepcopy(FORMS[name])).eval()
    pw.apply_(model, pw.RoundToNearest(), data=[X])
    with torch.no_grad():
        expected = model(X.clone())
    artifact = pw.export(model, tmp_path / "net.pw", example_input=X)
    torch.testing.assert_close(artifact.model()(X.clone()), expected, rtol=0, atol=1e-6)
    pytest.importorskip("onnxruntime")
    made = pw.export_onnx(model, tmp_path / "net.onnx", example_input=X, samples=X)
    assert made.check is not None
    assert made.check.passed


def test_dropout_that_never_stops_is_refused(tmp_path: Path) -> None:
    model = Net(Written(lambda x, _: F.dropout(x))).eval()
    with pytest.raises(ArtifactError, match=r"drops in evaluation mode too: call F\.dropout"):
        pw.export(model, tmp_path / "net.pw")


class Several(Net):
    """Returns a mapping that holds a tuple."""

    def forward(self, x: Any) -> Any:
        logits = super().forward(x)
        return {"logits": logits, "both": (logits, logits * 2)}


def test_several_outputs_go_into_an_artifact_and_not_into_onnx(tmp_path: Path) -> None:
    model = Several(nn.ReLU()).eval()
    outputs = pw.export(model, tmp_path / "net.pw", example_input=X).model()(X)
    torch.testing.assert_close(outputs["both"][1], 2 * model(X)["logits"].detach())
    pytest.importorskip("onnxruntime")
    with pytest.raises(ArtifactError, match=r"returns a dict: .* one tensor: wrap it"):
        pw.export_onnx(model, tmp_path / "net.onnx", example_input=X)


@pytest.mark.usefixtures("unchecked")
def test_examples_are_batches_of_numbers(tmp_path: Path) -> None:
    model = Net(nn.ReLU()).eval()
    for example, message in (
        (X[:0], "at least one sample"),
        ([X], "is a list: one tensor"),
        (X / 0, "example_input holds"),
    ):
        with pytest.raises(pw.PennyweightError, match=message):
            pw.export(model, tmp_path / "net.pw", example_input=example)
    pytest.importorskip("onnxruntime")
    with pytest.raises(ArtifactError, match="samples of shape"):
        pw.export_onnx(model, tmp_path / "net.onnx", example_input=X, samples=X[:0])
