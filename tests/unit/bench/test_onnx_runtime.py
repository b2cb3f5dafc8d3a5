"""An .onnx file in the referee's hands: ours and another program's; on the command line; as a recipe's result."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import pennyweight as pw
from pennyweight.bench.backends import OnnxRuntimeBackend
from pennyweight.cli.main import app
from pennyweight.data import ImageDataset
from pennyweight.errors import ArtifactError, BenchmarkError, RecipeError
from pennyweight.recipes.rehearsal import rehearse
from pennyweight.recipes.resolve import resolve
from pennyweight.recipes.run import run
from pennyweight.recipes.summary import build_report
from pennyweight.recipes.yaml_reader import parse_yaml

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

RECIPE = """\
name: tiny
model: {name: mlp, hidden: [16]}
data: {name: digits}
arms:
  float:
    - train: &train {regime: cosine, steps: 8, lr: 3.0e-3, batch_size: 32, optimizer: adam}
    - export: {onnx: speed}
    - bench: &bench {runtime: onnx, duration_s: 0.05}
  w8a8:
    - train: *train
    - apply: {RoundToNearest: {}}
    - export: {onnx: speed}
    - bench: *bench
"""


@pytest.fixture
def made(tmp_path: Path) -> tuple[pw.Artifact, Any, ImageDataset, nn.Module]:
    data = pw.load_dataset("digits", "test")
    assert isinstance(data, ImageDataset)
    images = data.normalize(data.images)
    model = pw.create_model("mlp", hidden=(32,)).eval()
    pw.apply_(model, pw.RoundToNearest(), data=[images])
    return (
        pw.export(model, tmp_path / "net.pw"),
        pw.export_onnx(model, tmp_path / "net.onnx", example_input=images),
        data,
        model,
    )


def test_loadgen_finds_the_modules_answers(made: Any) -> None:
    _, file, data, model = made
    result = pw.benchmark(file, data, reference=model, duration_s=0.05)
    with torch.no_grad():
        expected = model(data.normalize(data.images)).argmax(1)
    assert np.mean(np.array(result.predictions) == expected.numpy()) >= 0.995
    assert result.size_bytes == file.path.stat().st_size
    assert result.numerics == "W int8, A int8, executed by ONNX Runtime, for speed"
    assert "onnxruntime" in result.versions
    assert all(one.value and one.value > 0 for one in result.scenarios)


def test_another_programs_file(tmp_path: Path) -> None:
    x = onnx.helper.make_tensor_value_info("pixels", onnx.TensorProto.FLOAT, ["n", 1, 8, 8])
    y = onnx.helper.make_tensor_value_info("scores", onnx.TensorProto.FLOAT, ["n", 64])
    graph = onnx.helper.make_graph([onnx.helper.make_node("Flatten", ["pixels"], ["scores"])], "other", [x], [y])
    opsets = [onnx.helper.make_opsetid("", 21)]
    onnx.save(onnx.helper.make_model(graph, ir_version=10, opset_imports=opsets), tmp_path / "o.onnx")
    backend = OnnxRuntimeBackend(tmp_path / "o.onnx")
    images = np.random.default_rng(0).random((5, 1, 8, 8), np.float32)
    backend.prepare(images, 5)
    assert backend.infer(images).tolist() == images.reshape(5, -1).argmax(1).tolist()
    assert backend.numerics == "formats not stated in the file, executed by ONNX Runtime"


def test_wrong_files_and_shapes_are_named(made: Any, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no file at"):
        OnnxRuntimeBackend(tmp_path / "gone.onnx")
    with pytest.raises(BenchmarkError, match="threads=0"):
        OnnxRuntimeBackend(made[1].path, threads=0)
    with pytest.raises(ArtifactError, match=r"ONNX Runtime fails on a batch of shape \(3, 1, 9, 9\)"):
        OnnxRuntimeBackend(made[1].path).infer(np.zeros((3, 1, 9, 9), np.float32))


def test_on_the_command_line(made: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        app(["bench", str(made[1].path), "--duration-s", "0.05", "--reference", str(made[0].path), "--json"])
    assert ended.value.code == 0
    found = json.loads(capsys.readouterr().out)
    assert found["paired"]["only_candidate"] + found["paired"]["only_reference"] <= 2
    assert found["numerics"].endswith("for speed")


def test_a_recipe_measures_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pennyweight.report.write.render_html", lambda report: "")
    path = tmp_path / "tiny.yaml"
    path.write_text(RECIPE, encoding="utf-8")
    run(path, folder=tmp_path / "run", progress=False)
    report = build_report(tmp_path / "run")
    by_name = {arm.name: arm for arm in report.arms}
    files = {file.stat().st_size for file in (tmp_path / "run").rglob("model.onnx")}
    assert {arm.size_bytes for arm in report.arms} == files
    assert {layer.executed for layer in by_name["w8a8"].layers} == {"executed"}
    assert {layer.executed for layer in by_name["float"].layers} == {"float"}
    assert any("model.onnx for speed" in note for note in by_name["w8a8"].notes)


@pytest.mark.parametrize(
    ("old", "new"),
    [("export: {onnx: speed}", "export: {}"), ("    - export: {onnx: speed}\n    - bench", "    - bench")],
)
def test_a_recipe_without_the_file_is_refused_beforehand(old: str, new: str) -> None:
    with pytest.raises(RecipeError, match=r"arm 'float', stage . \(bench\): runtime is onnx, but no export before it"):
        rehearse(resolve(parse_yaml(RECIPE.replace(old, new), "x.yaml")))


def foreign(path: Path, nodes: list[Any], inputs: list[Any], outputs: list[Any]) -> Path:
    """Another program's file."""
    graph = onnx.helper.make_graph(nodes, "g", inputs, outputs)
    opset = onnx.helper.make_opsetid("", 21)
    onnx.save(onnx.helper.make_model(graph, opset_imports=[opset], ir_version=10), path)
    return path


def value(name: str, shape: list[Any], kind: int = 1) -> Any:
    return onnx.helper.make_tensor_value_info(name, kind, shape)


def test_files_that_are_no_classifiers_are_refused_in_words(tmp_path: Path) -> None:
    def node(*inputs: str, op: str = "Flatten") -> Any:
        return onnx.helper.make_node(op, list(inputs), ["y"])

    image, out = [None, 1, 8, 8], value("y", [None, 64])
    cases: dict[str, tuple[list[Any], list[Any], str]] = {
        "two": ([node("x", "z", op="Add")], [value("x", image), value("z", image)], "inputs .'x', 'z'. and outputs"),
        "int64": ([node("x")], [value("x", image, 7)], r"takes tensor\(int64\), and the samples are float32"),
        "fixed": ([node("x")], [value("x", [4, 1, 8, 8])], "fixed to batches of 4: export it with a free"),
    }
    for name, (nodes, inputs, message) in cases.items():
        outputs = [value("y", image) if name == "two" else value("y", [None, 64], 7 if name == "int64" else 1)]
        with pytest.raises(BenchmarkError, match=message):
            OnnxRuntimeBackend(foreign(tmp_path / f"{name}.onnx", nodes, inputs, outputs))
    data = pw.load_dataset("digits", "test")
    assert isinstance(data, ImageDataset)
    broken = foreign(
        tmp_path / "nan.onnx",
        [onnx.helper.make_node("Flatten", ["x"], ["f"]), onnx.helper.make_node("Sqrt", ["f"], ["y"])],
        [value("x", image)],
        [out],
    )
    with pytest.raises(BenchmarkError, match="answers NaN or infinity for"):
        pw.benchmark(OnnxRuntimeBackend(broken), data, scenarios=())


def test_a_batch_fixed_to_one_runs_sample_by_sample_and_surplus_classes_are_a_warning(tmp_path: Path) -> None:
    data = pw.load_dataset("digits", "test")
    assert isinstance(data, ImageDataset)
    path = foreign(
        tmp_path / "one.onnx",
        [onnx.helper.make_node("Flatten", ["x"], ["y"])],
        [value("x", [1, 1, 8, 8])],
        [value("y", [1, 64])],
    )
    result = pw.benchmark(OnnxRuntimeBackend(path), data, scenarios=())
    expected = data.normalize(data.images).flatten(1).argmax(1)
    assert result.predictions == tuple(expected.tolist())
    assert "answers 64 classes, and digits has 10" in result.warnings[-1]


def test_fewer_classes_than_the_data_has_are_refused() -> None:
    data = pw.load_dataset("digits", "test")
    assert isinstance(data, ImageDataset)
    with pytest.raises(BenchmarkError, match="answers 3 classes, and digits has 10"):
        pw.benchmark(nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), data, scenarios=())
