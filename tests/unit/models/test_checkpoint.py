"""Loading weights: the public nets, and files that must be refused whole."""

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from pennyweight.errors import CheckpointError
from pennyweight.models import MLP, create_model, load_checkpoint


@pytest.mark.parametrize("suffix", [".th", ".pt", ".pth", ".ckpt", ".safetensors"])
def test_what_was_saved_is_loaded(tmp_path: Path, suffix: str) -> None:
    source, target = MLP(seed=1), MLP(seed=2)
    path = tmp_path / f"net{suffix}"
    if suffix == ".safetensors":
        save_file(source.state_dict(), path)
    else:
        torch.save(source.state_dict(), path)
    load_checkpoint(target, path)
    assert all(target.state_dict()[key].equal(value) for key, value in source.state_dict().items())


@pytest.mark.parametrize("key", ["state_dict", "model", "model_state_dict"])
def test_nested_and_prefixed_names_are_found(tmp_path: Path, key: str) -> None:
    source, target = MLP(seed=1), MLP(seed=2)
    state = {f"module.{name}": value for name, value in source.state_dict().items()}
    torch.save({key: state, "best_prec1": 91.7}, tmp_path / "net.th")
    load_checkpoint(target, tmp_path / "net.th")
    assert target.linear2.weight.equal(source.linear2.weight)


def test_batch_counters_may_be_absent(tmp_path: Path) -> None:
    state = {k: v for k, v in MLP(seed=1).state_dict().items() if "num_batches" not in k}
    torch.save(state, tmp_path / "net.pt")
    load_checkpoint(MLP(), tmp_path / "net.pt")


def test_all_that_does_not_fit_is_named_and_nothing_loaded(tmp_path: Path) -> None:
    state = MLP(hidden=(32, 256)).state_dict()
    del state["bn2.weight"]
    state["extra"] = torch.zeros(1)
    torch.save(state, tmp_path / "net.pt")
    target = MLP()
    before = {key: value.clone() for key, value in target.state_dict().items()}
    with pytest.raises(CheckpointError, match=r"'linear1\.weight' has shape \(32, 64\) in the file and \(256, 64\)"):
        load_checkpoint(target, tmp_path / "net.pt")
    with pytest.raises(CheckpointError, match=r"does not fit MLP: .*; and \d+ more"):
        load_checkpoint(target, tmp_path / "net.pt")
    assert all(value.equal(before[key]) for key, value in target.state_dict().items())


@pytest.mark.parametrize(
    ("change", "message"), [("extra", "'extra' is not in the model"), ("", "'linear3.bias' is missing")]
)
def test_missing_and_left_over_names(tmp_path: Path, change: str, message: str) -> None:
    state = MLP().state_dict()
    if change:
        state[change] = torch.zeros(1)
    else:
        del state["linear3.bias"]
    torch.save(state, tmp_path / "net.pt")
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(MLP(), tmp_path / "net.pt")


class Hostile:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.path}",)


def test_a_hostile_checkpoint_is_refused_and_not_executed(tmp_path: Path) -> None:
    torch.save({"state_dict": Hostile(tmp_path / "executed")}, tmp_path / "net.th")
    with pytest.raises(CheckpointError, match="damaged or holds more than tensors"):
        load_checkpoint(MLP(), tmp_path / "net.th")
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("suffix", [".th", ".safetensors"])
@pytest.mark.parametrize("content", [b"", b"text", bytes(100)])
def test_damaged_files(tmp_path: Path, suffix: str, content: bytes) -> None:
    path = tmp_path / f"net{suffix}"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="is damaged"):
        load_checkpoint(MLP(), path)


@pytest.mark.parametrize("cut", [10, 1000, -10])
def test_truncated_files(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "net.pt"
    torch.save(MLP().state_dict(), path)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(CheckpointError, match="is damaged"):
        load_checkpoint(MLP(), path)


@pytest.mark.parametrize(
    ("content", "message"),
    [([1], "holds a list"), ({}, "holds a dict"), ({"a": 1}, "entry 'a' is a int"), ({3: torch.zeros(1)}, "entry 3")],
)
def test_files_without_a_dictionary_of_tensors(tmp_path: Path, content: object, message: str) -> None:
    torch.save(content, tmp_path / "net.pt")
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(MLP(), tmp_path / "net.pt")


def test_missing_file_and_unknown_kind(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="does not exist"):
        load_checkpoint(MLP(), tmp_path / "none.pt")
    (tmp_path / "net.onnx").write_bytes(b"x")
    with pytest.raises(CheckpointError, match=r"unknown kind '\.onnx'"):
        load_checkpoint(MLP(), tmp_path / "net.onnx")


def public_net(data_root: Path, name: str) -> Path:
    found = sorted((data_root / "nets" / "cifar10").glob(f"{name}-*.th"))
    if not found:
        pytest.skip(f"nets/cifar10 holds no {name}")
    return found[0]


@pytest.mark.parametrize("name", ["resnet20", "resnet32", "resnet44", "resnet56"])
def test_the_public_nets_load(data_root: Path, name: str) -> None:
    model = create_model(name)
    load_checkpoint(model, public_net(data_root, name))
    assert model.bn1.running_var.ne(1).all()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "percent"), [("resnet20", 91.73), ("resnet32", 92.63), ("resnet44", 93.10), ("resnet56", 93.39)]
)
def test_the_public_nets_reach_their_accuracy(data_root: Path, name: str, percent: float) -> None:
    from pennyweight.data import eval_batches, load_dataset

    model = create_model(name).eval()
    load_checkpoint(model, public_net(data_root, name))
    test = load_dataset("cifar10", split="test", root=data_root)
    with torch.inference_mode():
        right = sum(int((model(b.inputs).argmax(1) == b.targets).sum()) for b in eval_batches(test, 500))
    assert right / len(test) * 100 == pytest.approx(percent, abs=0.015)  # one image is 0.01
