"""`QNN`: what fills which slot, policies, refusals, export on bit planes, resumption."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import pennyweight as pw
from pennyweight import ops
from pennyweight.artifact.planes import BitPlaneLinear
from pennyweight.artifact.runtime import PackedLayers
from pennyweight.data.loader import Batch
from pennyweight.errors import ArtifactError, MethodError
from pennyweight.nn.gemm import GemmConv2d, GemmLinear
from pennyweight.numerics.block_scaled import block_bits
from pennyweight.numerics.formats import BlockFormat

IMAGES = (torch.randint(0, 256, (32, 1, 8, 8), generator=torch.Generator().manual_seed(0)).float() - 128) / 128


def net(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 12, 3, stride=2), nn.BatchNorm2d(12), nn.ReLU(),
        nn.Flatten(), nn.Linear(108, 33), nn.BatchNorm1d(33), nn.ReLU(), nn.Linear(33, 10),
    )  # fmt: skip


def perceptron(seed: int = 0, bias: bool = True) -> nn.Module:
    torch.manual_seed(seed)
    layers: list[nn.Module] = [nn.Flatten()]
    for k, n in ((64, 65), (65, 33), (33, 129)):
        layers += [nn.Linear(k, n, bias=bias), nn.BatchNorm1d(n), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(129, 10))


def trained(model: nn.Module, steps: int = 5) -> nn.Module:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model.train()(IMAGES), torch.arange(32) % 10).backward()
        optimizer.step()
        pw.nn.project_(model)
    return model.eval()


def slots(layer: Any) -> dict[str, tuple[str, ...]]:
    assert isinstance(layer, GemmLinear | GemmConv2d)
    return layer.slots.filled


def test_the_papers_policy_quantizes_every_layer() -> None:
    model = net()
    record = pw.apply_(model, pw.QNN(gradients="int6n"))
    assert not isinstance(record, list)
    gradients = {"grad_output_input": ("ScaledGradient",), "grad_output_update": ("ScaledGradient",)}
    assert slots(model[0]) == {"weight": ("BinaryWeight",), "input": ("RunningInput",), **gradients}
    for index in (3, 7, 10):
        assert slots(model[index]) == {"weight": ("BinaryWeight",), "input": ("ClippedInput",), **gradients}
    assert not record.skipped
    assert record.metrics["latent_weights"] == "float32"
    assert sum(isinstance(module, nn.Hardtanh) for module in model) == 3


def test_the_ends_may_stay_float_or_take_eight_bits_and_the_record_says_so() -> None:
    model = net()
    record = pw.apply_(model, pw.QNN(first_last="float"))
    assert not isinstance(record, list)
    assert record.skipped == {
        "0": "the first layer stays float: first_last='float'",
        "10": "the last layer stays float: first_last='float'",
    }
    assert type(model[0]) is nn.Conv2d
    model = net()
    pw.apply_(model, pw.QNN(first_last="int8"))
    assert slots(model[0]) == {"weight": ("MeasuredWeight",), "input": ("RunningInput",)}
    assert slots(model[10]) == {"weight": ("MeasuredWeight",), "input": ("MeasuredInput",)}
    with pytest.raises(MethodError, match="leaves no module to quantize"):
        pw.apply_(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), pw.QNN(first_last="float"))


@pytest.mark.parametrize(
    ("settings", "weight", "entering", "hard_tanh"),
    [
        ({"weights": "int2n", "activations": "uint2"}, "ClippedWeight", "ClippedInput", False),
        ({"weights": "log3", "activations": "log4"}, "ClippedWeight", "ClippedInput", True),
        ({"weights": "binary", "activations": "binary"}, "BinaryWeight", "BinaryInput", True),
        ({"weights": "mxfp4", "activations": "mxfp8e4m3"}, "BlockScaled", "BlockScaled", False),
        ({"weights": "int8", "activations": "int8"}, "ClippedWeight", "ClippedInput", True),
    ],
)
def test_formats_choose_the_contents(settings: dict[str, Any], weight: str, entering: str, hard_tanh: bool) -> None:
    model = net()
    pw.apply_(model, pw.QNN(**settings))
    assert slots(model[3]) == {"weight": (weight,), "input": (entering,)}
    assert any(isinstance(module, nn.Hardtanh) for module in model) is hard_tanh


def test_one_role_alone_leaves_the_others() -> None:
    model = net()
    pw.apply_(model, pw.QNN(weights=None, activations=None, gradients="log5"))
    assert set(slots(model[3])) == {"grad_output_input", "grad_output_update"}
    expected, found = (m.train()(IMAGES) for m in (net(), model))
    assert torch.equal(found, expected)


def test_a_gradients_two_products_take_one_copy_drawn_by_seed() -> None:
    def gradients(seed: int) -> Tensor:
        model = net()
        pw.apply_(model, pw.QNN(gradients="int2n", seed=seed))
        nn.functional.cross_entropy(model.train()(IMAGES), torch.arange(32) % 10).backward()
        layer: Any = model[10]
        draws = [layer.slots.grad_output_input.quantizer, layer.slots.grad_output_update.quantizer]
        assert draws[0].key == draws[1].key
        found: Tensor = layer.weight.grad
        return found

    assert torch.equal(gradients(0), gradients(0))
    assert not torch.equal(gradients(0), gradients(1))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weights": "int1"}, "int1"),
        ({"weights": "uint4"}, "weights='uint4': takes 'binary', 'int2' to 'int8'"),
        ({"weights": "int9"}, "weights='int9'"),
        ({"activations": "e4m3"}, r"activations='e4m3'.*'uint1' to 'uint8'"),
        ({"activations": "log4x3"}, "activations='log4x3'"),
        ({"gradients": "uint6"}, "gradients='uint6'"),
        ({"weights": None, "activations": None}, "nothing to quantize"),
        ({"grad_rounding": "nearest_even"}, "no effect: give gradients="),
        ({"grad_rounding": "toward_zero", "gradients": "int6"}, "grad_rounding='toward_zero'"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(pw.PennyweightError, match=message):
        pw.QNN(**settings)


def test_functional_rectifiers_are_refused_only_where_signs_matter() -> None:
    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.b(torch.relu(self.a(x)))
            return y

    with pytest.raises(MethodError, match=r"calls relu\(\) as a function"):
        pw.apply_(Functional(), pw.QNN(activations="int2"))
    pw.apply_(Functional(), pw.QNN(activations="uint2"))


@pytest.mark.parametrize("backend", ops.available_backends())
@pytest.mark.parametrize(
    ("weights", "activations"),
    [
        ("binary", "int2"),
        ("binary", "uint1"),
        ("int2n", "uint2"),
        ("int4", "int4n"),
        ("int3", "binary"),
        ("int4n", "uint4"),
    ],
)
def test_packed_layers_give_the_modules_output_to_the_bit(
    weights: str, activations: str, backend: str, tmp_path: Path
) -> None:
    model = perceptron()
    pw.apply_(model, pw.QNN(weights=weights, activations=activations))
    trained(model)
    artifact = pw.export(model, tmp_path / "net.pw", example_input=IMAGES)
    with ops.use_backend(backend), torch.inference_mode():
        packed = artifact.model()
        assert sum(isinstance(module, BitPlaneLinear) for module in packed.modules()) == 3
        assert torch.equal(packed(IMAGES), model(IMAGES))
        assert torch.equal(packed(IMAGES[:1]), model(IMAGES[:1]))
        assert torch.equal(artifact.model(packed=False)(IMAGES), model(IMAGES))
    rows = {row.fqn: row for row in artifact.layers}
    assert [rows[name].execution for name in ("4", "7", "10")] == ["executed"] * 3
    assert (rows["4"].weights, rows["4"].inputs) == (weights, activations)


def test_a_first_layer_of_images_and_signs_keeps_its_chain(tmp_path: Path) -> None:
    model = perceptron()
    pw.apply_(model, pw.QNN(weights="binary", activations="int2"))
    trained(model)
    packed = pw.export(model, tmp_path / "net.pw").model()
    kinds = [type(module) for module in packed.modules()]
    assert (kinds.count(PackedLayers), kinds.count(BitPlaneLinear)) == (1, 3)
    with torch.inference_mode():
        assert torch.equal(packed(IMAGES), model(IMAGES))


def test_rounding_to_nearest_with_four_bits_and_zero_points_runs_on_planes(tmp_path: Path) -> None:
    model = perceptron(bias=False).eval()
    pw.apply_(model, pw.RoundToNearest(weights="int4", activations="uint4"), data=[IMAGES])
    artifact = pw.export(model, tmp_path / "net.pw")
    packed = artifact.model()
    assert sum(isinstance(module, BitPlaneLinear) for module in packed.modules()) == 4
    with torch.inference_mode():
        assert torch.equal(packed(IMAGES), model(IMAGES))


@pytest.mark.parametrize("weights", ["log4", "mxfp4", "mxfp6e3m2", "mxfp8e5m2", "nvfp4"])
@pytest.mark.parametrize("activations", ["log4", "mxfp8e4m3", "nvfp4"])
def test_grids_of_floats_are_stored_packed_and_run_simulated(weights: str, activations: str, tmp_path: Path) -> None:
    model = net()
    pw.apply_(model, pw.QNN(weights=weights, activations=activations))
    trained(model, steps=2)
    artifact = pw.export(model, tmp_path / "net.pw", example_input=IMAGES)
    with torch.inference_mode():
        assert torch.equal(artifact.model()(IMAGES), model(IMAGES))
    row = next(row for row in artifact.layers if row.fqn == "7")
    assert (row.execution, row.weights, row.inputs) == ("simulated", weights, activations)
    if weights != "log4":
        format = BlockFormat(weights)
        assert (
            row.size_bytes
            == -(-33 * 108 * format.bits // 8) + (block_bits((33, 108), format) - 33 * 108 * format.bits) // 8 + 33 * 4
        )
        assert artifact.size_breakdown["scales"] > 0


def test_onnx_refuses_what_it_cannot_say(tmp_path: Path) -> None:
    model = perceptron()
    pw.apply_(model, pw.QNN(weights="mxfp4", activations=None))
    with pytest.raises(ArtifactError, match="BlockScaled"):
        pw.export_onnx(model.eval(), tmp_path / "net.onnx", example_input=IMAGES)


class StoppedError(Exception):
    """The end of a first part."""


def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    regime = pw.Regime.cosine(steps=8, lr=0.01, batch_size=32)

    def run(name: str, limit: int) -> nn.Module:
        def source(first_sample: int, batch_size: int, rank: int, world_size: int) -> Batch:
            if first_sample >= limit * batch_size:
                raise StoppedError
            return Batch(
                inputs=IMAGES + 0.01 * first_sample / batch_size,
                targets=torch.arange(32) % 10,
                indices=torch.arange(32),
            )

        model = perceptron()
        pw.apply_(model, pw.QNN(gradients="int6n"))
        pw.train(
            model,
            source,
            regime,
            checkpoint=tmp_path / name,
            checkpoint_every=5,
            progress=False,  # type: ignore[arg-type]
        )
        return model

    whole = run("whole", 8)
    layer: Any = whole[4]
    assert int(layer.slots.grad_output_input.quantizer.draws) == 8
    with pytest.raises(StoppedError):
        run("parts", 5)
    resumed = run("parts", 8).state_dict()
    for name, tensor in whole.state_dict().items():
        assert torch.equal(resumed[name], tensor), name
