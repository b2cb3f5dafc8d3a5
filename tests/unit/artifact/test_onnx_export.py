"""Whole nets as .onnx files: what each deployment promises, the integer kernels it ends in, and what is refused."""

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import pennyweight as pw
from pennyweight.artifact.onnx import OnnxExport, align_biases_, export_onnx, verify_onnx
from pennyweight.artifact.onnx.container import pack_int4, read_metadata
from pennyweight.artifact.onnx.saturation import saturating_layers
from pennyweight.artifact.onnx.session import open_session
from pennyweight.errors import ArtifactError, MissingDependencyError, NumericsError, PennyweightError
from pennyweight.nn.shift_batchnorm import ShiftBatchNorm1d

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")


def rand(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


IMAGES, TOKENS = rand(24, 3, 32, 32), (rand(6, 12) * 64).long()
SQUARE: dict[str, Any] = {"input_shape": (3, 32, 32), "num_classes": 9}
LLAMA: dict[str, Any] = {"positions": "rotary", "norm_kind": "rms", "feed_forward": "swiglu"}
NETS: dict[str, tuple[str, dict[str, Any], Tensor]] = {
    "resnet20": ("resnet20", {"width": 8}, IMAGES),
    "vgg": ("vgg-small", {"width": 8}, IMAGES),
    "mobilenet": ("mobilenet-v2", {"width": 0.25, "padding": "end", **SQUARE}, IMAGES),
    "vit": ("vit-tiny", {"width": 32, "depth": 2, "patch_size": 8, **SQUARE}, IMAGES),
    "decoder": ("decoder", {"vocab_size": 64, "width": 32, "depth": 2}, TOKENS),
    "llama": ("decoder", {"vocab_size": 64, "width": 32, "depth": 1, **LLAMA}, TOKENS),
}


def net(name: str) -> tuple[nn.Module, Tensor]:
    """A net whose batch norms have seen something."""
    model_name, options, x = NETS[name]
    model = pw.create_model(model_name, **options).train()
    with torch.no_grad():
        model(x)
    return model.eval(), x


def quantized(name: str, **settings: Any) -> tuple[nn.Module, Tensor]:
    model, x = net(name)
    pw.apply_(model, pw.RoundToNearest(**{"weights": "int7", "activations": "uint8", **settings}), data=[x])
    return model, x


def kinds(path: Path, folder: Path) -> list[str]:
    """The operators ONNX Runtime really executes."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return [node.op_type for node in onnx.load(folder / "optimized.onnx").graph.node]


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("deploy", ["speed", "exact", "size"])
def test_runtime_and_module_agree(name: str, deploy: Any, tmp_path: Path) -> None:
    model, x = quantized(name)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    made = export_onnx(model, tmp_path / "net.onnx", example_input=x[:2], samples=x, deploy=deploy)
    assert made.check is not None
    assert made.check.passed
    assert made.size_bytes == made.path.stat().st_size >= made.weight_bytes
    assert all(value.equal(before[key]) for key, value in model.state_dict().items()), "the model is not changed"
    one = copy.deepcopy(made.computed)(x[:1]).detach().numpy()
    session = open_session(made.path)
    assert session.run(None, {"input": x[:1].numpy()})[0].shape == one.shape


@pytest.mark.parametrize("name", NETS)
def test_float_nets(name: str, tmp_path: Path) -> None:
    model, x = net(name)
    made = export_onnx(model, tmp_path / "net.onnx", example_input=x[:2], samples=x)
    assert made.changed.max_difference == 0.0
    assert made.check is not None
    assert made.check.agreement.max_difference <= 1e-4 * max(1.0, made.check.agreement.largest)


def test_for_speed_every_layer_of_a_residual_net_is_an_integer_kernel(tmp_path: Path) -> None:
    model, x = quantized("resnet20")
    fast = export_onnx(model, tmp_path / "fast.onnx", example_input=x[:2], samples=x)
    found = kinds(fast.path, tmp_path)
    assert found.count("QLinearConv") == 19
    assert found.count("QLinearAdd") == 9
    assert not {"Conv", "FusedConv", "Add", "Relu", "BatchNormalization", "GlobalAveragePool"} & set(found)
    exact = export_onnx(model, tmp_path / "exact.onnx", example_input=x[:2], samples=x, deploy="exact")
    assert kinds(exact.path, tmp_path).count("QLinearConv") < 19
    assert exact.changed.max_difference < fast.changed.max_difference


def test_zeros_around_an_image_become_the_convolutions_own(tmp_path: Path) -> None:
    model, x = quantized("mobilenet")
    found = kinds(export_onnx(model, tmp_path / "net.onnx", example_input=x[:2], samples=x).path, tmp_path)
    assert "Pad" not in found
    assert found.count("QLinearConv") == 52


def test_what_a_net_returns_stays_in_float(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 1), nn.Tanh()).eval()
    pw.apply_(model, pw.RoundToNearest(weights="int7", activations="uint8"), data=[IMAGES])
    made = export_onnx(model[:3].eval(), tmp_path / "net.onnx", example_input=IMAGES[:2], samples=IMAGES)
    assert made.changed.mean_difference < 1e-4 * made.changed.largest  # some codes flip by rounded biases


class Resized(nn.Module):
    def __init__(self, **how: Any) -> None:
        super().__init__()
        self.conv, self.how = nn.Conv2d(3, 4, 3), how

    def forward(self, x: Any) -> Any:
        return nn.functional.interpolate(self.conv(x), **self.how)


@pytest.mark.parametrize("mode", ["nearest", "bilinear"])
@pytest.mark.parametrize("how", [{"size": (13, 9)}, {"size": 53}, {"scale_factor": 1.7}, {"scale_factor": (2, 0.6)}])
def test_other_sizes(mode: str, how: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    made = export_onnx(Resized(mode=mode, **how), tmp_path / "net.onnx", example_input=IMAGES[:2, :, :7, :9])
    assert made.check is not None
    assert made.check.agreement.max_difference < 1e-5


def test_size_halves_the_bytes_of_small_codes(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 512)).eval()
    x = rand(32, 512)
    pw.apply_(model, pw.RoundToNearest(weights="int4", activations="uint8"), data=[x])
    files = [export_onnx(model, tmp_path / "n.onnx", example_input=x, deploy=d) for d in ("exact", "size")]
    codes, scales = 2 * 512 * 512, 2 * 512 * (4 + 4 + 4)  # weight scale, bias, bias scale
    assert files[0].weight_bytes == pytest.approx(codes + scales, rel=0.01)
    assert files[1].weight_bytes == pytest.approx(codes // 2 + scales, rel=0.01)
    assert files[0].check is not None
    assert files[1].check is not None
    assert files[0].check.steps <= 1.0
    assert files[1].check.steps <= 1.0


def test_equal_models_give_equal_bytes_and_the_file_says_what_was_done(tmp_path: Path) -> None:
    model, x = quantized("vgg")
    first, second = (
        export_onnx(model, tmp_path / name, example_input=x[:2], samples=x, metadata={"seed": 3}).path.read_bytes()
        for name in ("a.onnx", "b.onnx")
    )
    assert first == second
    found = read_metadata(first)
    assert found["metadata"] == {"seed": 3}
    assert found["deploy"] == "speed"
    assert "W int7" in found["numerics"]
    assert found["applied"][0]["method"]["weights"] == "int7"
    assert json.dumps(found)


@pytest.mark.parametrize("damage", ["/weight", "/weight_scale", "/input_scale", "/bias"])
def test_a_wrong_file_is_noticed(damage: str, tmp_path: Path) -> None:
    model, x = quantized("vgg")
    made = export_onnx(model, tmp_path / "net.onnx", example_input=x[:2], samples=x)
    file = onnx.load(made.path)
    wrong = [entry for entry in file.graph.initializer if entry.name.endswith(damage)][-1]
    array = onnx.numpy_helper.to_array(wrong)
    far = array.dtype.type(30000 if array.dtype == np.int32 else 3)
    changed = (array * np.float32(0.7) + far).astype(array.dtype)
    wrong.CopyFrom(onnx.numpy_helper.from_array(changed, wrong.name))
    assert made.check is not None
    assert made.check.passed
    assert not verify_onnx(made.computed, file.SerializeToString(), x).passed


def test_a_file_that_disagrees_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pennyweight.artifact.onnx.layers as layers

    (tmp_path / "net.onnx").write_bytes(b"old")
    wrong = lambda module: [0] * 2 * len(module.kernel_size)  # noqa: E731
    monkeypatch.setattr(layers, "_pads", wrong)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    with pytest.raises(ArtifactError, match="ONNX Runtime differs from the module by"):
        export_onnx(model, tmp_path / "net.onnx", example_input=IMAGES)
    assert (tmp_path / "net.onnx").read_bytes() == b"old"
    assert export_onnx(model, tmp_path / "net.onnx", example_input=IMAGES, verify=False).check is None


class Branch(nn.Module):
    def forward(self, x: Any) -> Any:
        return x if x.sum() > 0 else -x


class BatchArithmetic(nn.Module):
    def forward(self, x: Any) -> Any:
        return x * x.size(0)


@pytest.mark.parametrize(
    ("model", "x", "error"),
    [
        (Branch(), rand(2, 3), "branches on tensor values"),
        (BatchArithmetic(), rand(2, 3), "computes with its batch size"),
        (
            nn.Sequential(nn.Linear(3, 2), ShiftBatchNorm1d(2)),
            rand(2, 3),
            "ShiftBatchNorm1d has no operators.*pennyweight",
        ),
        (nn.Linear(3, 2).half(), rand(2, 3), r"weight' is torch.float16: call model.float\(\)"),
        (nn.Linear(3, 2), rand(2, 3).double(), "example_input is torch.float64"),
        (nn.Linear(3, 2), torch.tensor(1.0), "needs at least one sample"),
        (nn.Linear(3, 2), rand(2, 4), "cannot run on input of shape"),
        (nn.BatchNorm1d(3, track_running_stats=False), rand(2, 3), "without running statistics"),
    ],
)
def test_what_cannot_be_written_is_refused(model: nn.Module, x: Tensor, error: str, tmp_path: Path) -> None:
    with pytest.raises(PennyweightError, match=error):
        export_onnx(model, tmp_path / "net.onnx", example_input=x)
    assert not list(tmp_path.iterdir())


def test_binary_layers_have_the_packed_artifact(tmp_path: Path) -> None:
    model = pw.create_model("mlp", hidden=(16,)).eval()
    pw.apply_(model, pw.BNN())
    with pytest.raises(ArtifactError, match=r"which ONNX has no operator for: pennyweight.export"):
        export_onnx(model, tmp_path / "net.onnx", example_input=rand(2, 1, 8, 8))


def test_weights_that_are_not_finite_are_named(tmp_path: Path) -> None:
    model = nn.Linear(3, 2)
    with torch.no_grad():
        model.weight[1, 2] = torch.nan
    with pytest.raises(NumericsError, match="weight"):
        export_onnx(model, tmp_path / "net.onnx", example_input=rand(2, 3))


@pytest.mark.usefixtures("unchecked")
def test_settings_that_do_not_exist_are_answered(tmp_path: Path) -> None:
    wrong: Any = "fast"
    with pytest.raises(ArtifactError, match="deploy='fast': valid are 'speed', 'exact', 'size'"):
        export_onnx(nn.Linear(3, 2), tmp_path / "n.onnx", example_input=rand(2, 3), deploy=wrong)
    with pytest.raises(ArtifactError, match=r"opset=13: valid are 21"):
        export_onnx(nn.Linear(3, 2), tmp_path / "n.onnx", example_input=rand(2, 3), opset=13)


@pytest.mark.parametrize("opset", [21, 22, 23])
def test_opsets(opset: int, tmp_path: Path) -> None:
    model, x = quantized("vgg")
    made = export_onnx(model, tmp_path / "n.onnx", example_input=x[:2], samples=x, opset=opset)
    assert [entry.version for entry in onnx.load(made.path).opset_import] == [opset]


def test_packages_that_are_missing_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    for package, purpose in (("onnxruntime", "run"), ("onnx", "write")):
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(MissingDependencyError, match=rf"'{package}' is needed to {purpose}.*onnx\]"):
            export_onnx(nn.Linear(3, 2), tmp_path / "n.onnx", example_input=rand(2, 3))


@pytest.mark.parametrize("content", [b"", b"rubbish" * 20, b"\x08\x0a"])
def test_files_that_are_no_models_are_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(content)
    with pytest.raises(ArtifactError, match=r"cannot load .*m\.onnx"):
        open_session(tmp_path / "m.onnx")
    with pytest.raises(ArtifactError, match="no file at"):
        open_session(tmp_path / "absent.onnx")


@given(codes=st.lists(st.integers(-8, 7), max_size=33))
def test_four_bit_codes_lie_as_onnx_has_them(codes: list[int]) -> None:
    array = np.array(codes, np.int8)
    tensor = onnx.helper.make_tensor("codes", onnx.TensorProto.INT4, array.shape, pack_int4(array), raw=True)
    assert onnx.numpy_helper.to_array(tensor).astype(np.int8).tolist() == codes


def aligned(model: nn.Module) -> float:
    return max(align_biases_(model).values())


def test_aligned_biases_are_whole_steps_and_stay(tmp_path: Path) -> None:
    model, x = quantized("vgg")
    assert aligned(model) > 0.0
    for module in model.modules():
        slots = getattr(module, "slots", None)
        if slots is not None and slots.input.quantizer is not None and module.bias is not None:
            step = slots.input.quantizer.scale.double() * slots.weight.quantizer.scale.double()
            steps = module.bias.double() / step
            torch.testing.assert_close(steps, steps.round(), rtol=1e-6, atol=1e-6)
    assert aligned(model) == 0.0
    made: OnnxExport = export_onnx(model, tmp_path / "n.onnx", example_input=x[:2], samples=x, deploy="exact")
    assert made.changed.max_difference == 0.0


def test_saturation_is_found_where_two_products_exceed_sixteen_bits() -> None:
    for bits, expected in ((7, 0), (8, 1)):
        model = nn.Sequential(nn.Linear(8, 4)).eval()
        pw.apply_(model, pw.RoundToNearest(weights=f"int{bits}", activations="uint8"), data=[rand(8, 8)])
        assert len(saturating_layers(model)) == expected


def test_weights_alone_come_with_the_option_a_stock_session_needs(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 32)).eval(), rand(16, 6, 32)
    pw.apply_(model, pw.RoundToNearest(weights="int4", activations=None), data=[x])
    made = export_onnx(model, tmp_path / "n.onnx", example_input=x[:2], samples=x, deploy="exact")
    assert made.check is not None
    assert made.check.steps < 1
    assert any("session.qdq_matmulnbits_accuracy_level" in warning for warning in made.check.warnings)
    model, images = quantized("vgg")
    both = export_onnx(model, tmp_path / "n.onnx", example_input=images[:2], samples=images)
    assert both.check is not None
    assert not any("qdq_matmulnbits" in warning for warning in both.check.warnings)
