"""Files that are truncated, flipped, forged or something else altogether: a clear error, and nothing executed."""

import copy
import hashlib
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

import pennyweight as pw
from pennyweight.artifact import manifest as container
from pennyweight.errors import ArtifactError


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = pw.create_model("mlp", hidden=(16, 16))
    pw.apply_(model, pw.BNN())
    return pw.export(model.eval(), tmp_path_factory.mktemp("good") / "model.pw").path


def forged(good: Path, target: Path, change: Any) -> Path:
    """A file with a changed manifest whose digests are right: what an attacker would write."""
    manifest, tensors = container.read(good)
    manifest = copy.deepcopy(manifest)
    change(manifest, tensors)
    manifest["digests"] = {name: container.digest(tensor) for name, tensor in tensors.items()}
    digest = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
    header = json.dumps({"manifest": manifest, "digest": digest})
    target.write_bytes(safetensors.torch.save(tensors, metadata={"pennyweight": header}))
    return target


def test_truncation_anywhere(good: Path, tmp_path: Path) -> None:
    data = good.read_bytes()
    target = tmp_path / "cut.pw"
    for length in [0, 1, 7, 8, 9, 100, *range(200, len(data), len(data) // 23), len(data) - 1]:
        target.write_bytes(data[:length])
        with pytest.raises(ArtifactError, match=r"cut\.pw"):
            pw.load(target)


def test_a_flipped_byte_anywhere(good: Path, tmp_path: Path) -> None:
    data = good.read_bytes()
    target = tmp_path / "flip.pw"
    step = max(1, len(data) // 150)
    for place in range(0, len(data), step):
        target.write_bytes(data[:place] + bytes([data[place] ^ 0x41]) + data[place + 1 :])
        with pytest.raises(ArtifactError):
            pw.load(target)


def test_other_files(good: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no artifact at"):
        pw.load(tmp_path / "missing.pw")
    with pytest.raises(ArtifactError, match="no artifact at"):
        pw.load(tmp_path)
    target = tmp_path / "other.pw"
    target.write_bytes(pickle.dumps({"weight": 1}))
    with pytest.raises(ArtifactError, match="not an artifact"):
        pw.load(target)
    target.write_bytes(safetensors.torch.save({"a": torch.zeros(1)}))
    with pytest.raises(ArtifactError, match="without pennyweight's manifest"):
        pw.load(target)
    target.write_bytes(safetensors.torch.save({"a": torch.zeros(1)}, metadata={"pennyweight": "[1]"}))
    with pytest.raises(ArtifactError, match="damaged"):
        pw.load(target)


def nested(depth: int) -> Any:
    value: Any = {"ref": "x"}
    for _ in range(depth):
        value = {"tuple": [value]}
    return value


CHANGES: dict[str, tuple[Any, str]] = {
    "version": (lambda m, t: m.update(version=99), "version 99"),
    "format": (lambda m, t: m.update(format="other"), "'other' version"),
    "function": (
        lambda m, t: m["program"][0].update(op="function", target="os.system"),
        "unknown function 'os.system'",
    ),
    "method": (lambda m, t: m["program"][0].update(op="method", target="__class__"), "unknown method '__class__'"),
    "op": (lambda m, t: m["program"][0].update(op="eval"), "unknown eval"),
    "module": (lambda m, t: m["program"][0].update(target="nowhere"), "unknown module 'nowhere'"),
    "kind": (lambda m, t: m["modules"]["linear1"].update(kind="lambda"), "unknown kind 'lambda'"),
    "reference": (lambda m, t: m["program"][0].update(args={"tuple": [{"ref": "later"}]}), "no earlier step"),
    "output": (lambda m, t: m.update(output={"ref": "nothing"}), "no step makes"),
    "nesting": (lambda m, t: m["program"][0].update(args=nested(40)), "20 deep"),
    "argument": (lambda m, t: m["program"][0].update(args={"import": "os"}), "malformed argument"),
    "step": (lambda m, t: m["program"].append({"name": "x"}), "malformed step"),
    "program": (lambda m, t: m.update(program="rm"), "not a list"),
    "missing key": (lambda m, t: m.pop("modules"), "modules"),
    "modules type": (lambda m, t: m.update(modules=[1]), "garbles"),
    "tensor names": (lambda m, t: t.pop("linear1.weight.signs"), "weight.signs"),
    "sizes": (lambda m, t: m["modules"]["linear1"]["settings"].update(out_features=7), "linear1"),
    "negative": (lambda m, t: m["modules"]["linear1"]["settings"].update(in_features=-1), "linear1"),
    "huge": (lambda m, t: m["modules"]["linear1"]["settings"].update(in_features=1 << 50), "linear1"),
    "larger than memory": (lambda m, t: m["modules"]["bn1"]["settings"].update(num_features=1 << 33), "bn1"),
    "weight format": (lambda m, t: m["modules"]["linear1"]["weight"].update(format="int99"), "linear1"),
    "input format": (lambda m, t: m["modules"]["linear2"]["input"].update(format="e4m3"), "linear2"),
    "settings type": (lambda m, t: m["modules"]["bn1"]["settings"].update(num_features="many"), "bn1"),
    "signs dtype": (lambda m, t: t.update({"linear1.weight.signs": torch.zeros(3)}), "linear1"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_forged_manifests(name: str, good: Path, tmp_path: Path) -> None:
    change, message = CHANGES[name]
    target = forged(good, tmp_path / "forged.pw", change)
    with pytest.raises(ArtifactError, match=message):
        pw.load(target).model()


def test_an_honest_rewrite_still_loads(good: Path, tmp_path: Path) -> None:
    """The forging tool itself makes valid files, so that the tests above fail for their own reason."""
    x = torch.zeros(2, 1, 8, 8)
    same = forged(good, tmp_path / "same.pw", lambda m, t: None)
    assert torch.equal(pw.load(same).model()(x), pw.load(good).model()(x))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m, t: m["modules"]["linear1"]["accumulator"].update(chunk=16.5), r"chunk=16\.5"),
        (lambda m, t: m["modules"]["linear1"]["accumulator"].update(underflow="no"), "underflow='no'"),
        (lambda m, t: m["modules"]["linear1"]["accumulator"].update(kind="analog"), "'analog'"),
        (lambda m, t: t.update({"linear1.weight.tensor.scale": torch.ones(16, 1)}), r"scale of shape \(16, 1\)"),
        (lambda m, t: t.update({"linear1.weight.scale": t["linear1.weight.scale"][1:]}), "scales of shape"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_forged_accumulators_and_blocks(change: Any, message: str, tmp_path: Path) -> None:
    model = pw.create_model("mlp", hidden=(16, 16))
    pw.apply_(model, [pw.QNN(weights="nvfp4", activations="nvfp4"), pw.LBA()])
    path = pw.export(model.eval(), tmp_path / "blocks.pw").path
    with pytest.raises(ArtifactError, match=message):
        pw.load(forged(path, tmp_path / "forged.pw", change))
