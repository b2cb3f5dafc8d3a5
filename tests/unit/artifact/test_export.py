"""What goes into an artifact comes out of it: same numbers, counted bytes, and clear words where it cannot be."""

import errno
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import pennyweight as pw
from pennyweight.errors import ArtifactError, NumericsError

IMAGES = (torch.randint(0, 256, (6, 3, 32, 32), generator=torch.Generator().manual_seed(0)).float() - 128) / 128
DIGITS = IMAGES[:, :1, :8, :8].contiguous()


def settled(model: nn.Module, x: Tensor) -> nn.Module:
    """Batch norms with statistics of their own, in evaluation mode."""
    model.train()
    with torch.no_grad():
        for shift in range(3):
            model(torch.roll(x, shift, -1))
    return model.eval()


def variants() -> dict[str, tuple[nn.Module, Tensor]]:
    rtn8, rtn4 = pw.RoundToNearest(), pw.RoundToNearest(weights="int4", activations="uint4")
    group = pw.RoundToNearest(weights="int3", activations=None, granularity="group:24")
    made: dict[str, tuple[nn.Module, Tensor]] = {}
    for name, model, x, method in [
        ("float mlp", pw.create_model("mlp"), DIGITS, None),
        ("float resnet", pw.create_model("resnet20"), IMAGES, None),
        ("float vgg", pw.create_model("vgg-small", width=8), IMAGES, None),
        ("ghost mlp", pw.create_model("mlp"), DIGITS, pw.GhostBatchNorm(ghost_batch_size=2)),
        ("binary mlp", pw.create_model("mlp", bn_output=True), DIGITS, pw.BNN()),
        ("binary mlp by shifts", pw.create_model("mlp"), DIGITS, pw.BNN(batch_norm="shift")),
        ("binary vgg", pw.create_model("vgg-small", width=8), IMAGES, pw.BNN()),
        ("binary resnet, float ends", pw.create_model("resnet20"), IMAGES, pw.BNN(exclude=("@first", "@last"))),
        ("w8a8 resnet", pw.create_model("resnet20"), IMAGES, rtn8),
        ("w4a4 vgg", pw.create_model("vgg-small", width=8), IMAGES, rtn4),
        ("w3 groups mlp", pw.create_model("mlp"), DIGITS, group),
    ]:
        early = isinstance(method, pw.RoundToNearest)
        if early:
            settled(model, x)
        if method is not None:
            pw.apply_(model, method, data=[x])
        made[name] = (model.eval() if early else settled(model, x), x)
    return made


VARIANTS = variants()


@pytest.mark.parametrize("name", VARIANTS)
def test_round_trip_is_exact(name: str, tmp_path: Path) -> None:
    model, x = VARIANTS[name]
    artifact = pw.export(model, tmp_path / "model.pw", example_input=x[:2], metadata={"seed": 3})
    with torch.inference_mode():
        expected = model(x)
        for packed in (True, False):
            assert torch.equal(artifact.model(packed=packed)(x), expected)
    assert artifact.size_bytes == artifact.path.stat().st_size == sum(artifact.size_breakdown.values())
    assert artifact.manifest["metadata"] == {"seed": 3}
    assert sorted(os.listdir(tmp_path)) == ["model.pw"]
    again = pw.load(artifact.path)
    assert again.manifest == artifact.manifest


def test_what_is_executed_and_what_simulated(tmp_path: Path) -> None:
    def executions(name: str) -> tuple[list[str], str]:
        artifact = pw.export(VARIANTS[name][0], tmp_path / "model.pw")
        return [row.execution for row in artifact.layers], artifact.numerics

    assert executions("float mlp") == (["float"] * 3, "float32 executed")
    assert executions("binary mlp")[0] == ["executed"] * 3
    assert "simulated" in executions("w8a8 resnet")[1]
    assert executions("binary vgg")[0] == ["executed"] * 9
    mixed, words = executions("binary resnet, float ends")
    assert (mixed[0], mixed[-1]) == ("float", "float")
    assert set(mixed[1:-1]) == {"executed"}
    assert "executed" in words
    assert "float" in words


def test_bits_on_disk(tmp_path: Path) -> None:
    artifact = pw.export(VARIANTS["w4a4 vgg"][0], tmp_path / "model.pw")
    weights = sum(torch.Size(row.shape).numel() for row in artifact.layers)
    assert artifact.size_breakdown["codes"] == sum(-(-torch.Size(r.shape).numel() // 2) for r in artifact.layers)
    assert {row.weight_bits for row in artifact.layers} == {4}
    binary = pw.export(VARIANTS["binary mlp"][0], tmp_path / "binary.pw")
    assert [row.weight_bits for row in binary.layers] == [1, 1, 1]
    assert binary.layers[0].shape == (256, 64)
    assert weights > 0


def test_equal_models_give_equal_bytes(tmp_path: Path) -> None:
    model = VARIANTS["binary mlp"][0]
    first, second = (pw.export(model, tmp_path / f"{i}.pw").path.read_bytes() for i in range(2))
    assert first == second


def test_export_leaves_the_model_alone(tmp_path: Path) -> None:
    model = pw.create_model("mlp").train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    pw.export(model, tmp_path / "model.pw", example_input=DIGITS)
    assert model.training
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_nan_is_named_with_its_place(tmp_path: Path) -> None:
    model = pw.create_model("mlp")
    with torch.no_grad():
        model.linear2.weight[3, 5] = torch.nan
    with pytest.raises(NumericsError, match=r"linear2\.weight holds nan at index \(3, 5\)"):
        pw.export(model, tmp_path / "model.pw")
    assert os.listdir(tmp_path) == []


class Custom(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.offset = nn.Parameter(torch.ones(()))
        self.mode = "plain"

    def forward(self, x: Any) -> Any:
        y = self.inner(x)
        if self.mode == "parameter":
            return y + self.offset
        if self.mode == "function":
            return torch.cumsum(y, 0)
        if self.mode == "branch":
            return y if y.sum() > 0 else -y
        if self.mode == "method":
            return y.sort().values
        return y


class TwoInputs(nn.Module):
    def forward(self, x: Any, y: Any) -> Any:
        return x + y


@pytest.mark.parametrize(
    ("mode", "message"),
    [
        ("parameter", "get_attr 'offset'.*module of its own"),
        ("function", "call_function 'cumsum'"),
        ("method", "'sort'"),
    ],
)
def test_what_cannot_be_written_is_named(mode: str, message: str, tmp_path: Path) -> None:
    model = Custom(nn.Linear(2, 2))
    model.mode = mode
    with pytest.raises(ArtifactError, match=message):
        pw.export(model, tmp_path / "model.pw")


def test_other_refusals(tmp_path: Path) -> None:
    branching = Custom(nn.Linear(2, 2))
    branching.mode = "branch"
    with pytest.raises(ValueError, match="branches on tensor values"):
        pw.export(branching, tmp_path / "model.pw")
    with pytest.raises(ArtifactError, match="takes 2 inputs"):
        pw.export(TwoInputs(), tmp_path / "model.pw")
    with pytest.raises(ArtifactError, match="is a Bilinear"):
        pw.export(nn.Sequential(nn.Flatten(), _BilinearSelf()), tmp_path / "model.pw")
    assert os.listdir(tmp_path) == []


class _BilinearSelf(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.core = nn.Bilinear(2, 2, 2)

    def forward(self, x: Any) -> Any:
        return self.core(x, x)


def test_a_copy_that_disagrees_is_not_kept(tmp_path: Path) -> None:
    (tmp_path / "model.pw").write_bytes(b"the old one")
    model = pw.create_model("mlp")
    hook = model.linear3.register_forward_hook(lambda _module, _args, y: y + 1)  # part of no artifact
    with pytest.raises(ArtifactError, match="differs from the original by"):
        pw.export(model, tmp_path / "model.pw", example_input=DIGITS)
    hook.remove()
    assert (tmp_path / "model.pw").read_bytes() == b"the old one"
    assert os.listdir(tmp_path) == ["model.pw"]


def test_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = pw.create_model("mlp")
    path = pw.export(model, tmp_path / "model.pw").path
    before = path.read_bytes()

    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    for example in (None, DIGITS):
        with pytest.raises(ArtifactError, match=r"model\.pw.*No space left"):
            pw.export(pw.create_model("mlp", seed=1), path, example_input=example)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["model.pw"]


def test_half_precision_weights_keep_their_format(tmp_path: Path) -> None:
    model = pw.create_model("mlp").to(torch.bfloat16).eval()
    artifact = pw.export(model, tmp_path / "model.pw", example_input=DIGITS.bfloat16())
    assert {row.weights for row in artifact.layers} == {"bfloat16"}
    assert artifact.size_bytes < 0.6 * pw.export(pw.create_model("mlp"), tmp_path / "float.pw").size_bytes


def test_tensors_lie_as_torch_would_lay_them(tmp_path: Path) -> None:
    # A float product of one row is rounded otherwise where its weight is not aligned.
    artifact = pw.export(pw.create_model("mlp", hidden=(33, 17)).eval(), tmp_path / "model.pw")
    assert all(tensor.data_ptr() % 16 == 0 for tensor in pw.load(artifact.path).tensors.values())
