"""Round-to-nearest against integer arithmetic by hand; its calibration, its refusals."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import pennyweight as pw
from pennyweight.errors import MethodError, NumericsError
from pennyweight.methods.calibration import MAX_VALUES, observe_inputs
from pennyweight.numerics.block_scaled import round_to_blocks
from pennyweight.numerics.formats import BlockFormat


def test_minmax_codes_by_hand() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(9, 3)
    weight, bias = layer.weight.detach().clone(), layer.bias.detach().clone()
    model = nn.Sequential(layer)
    x = torch.rand(20, 9) * 3 - 1
    method = pw.RoundToNearest(weights="int5", activations="int6", weight_range="minmax", activation_range="minmax")
    pw.apply_(model, method, data=[x])
    low, high = min(float(x.min()), 0.0), max(float(x.max()), 0.0)
    step = (high - low) / 63
    zero = -32 - round(low / step)
    for row in range(3):
        scale = float(weight[row].abs().max()) / 15
        for sample in range(4):
            total = sum(
                (min(31, max(-32, round(float(x[sample, k]) / step) + zero)) - zero)
                * round(float(weight[row, k]) / scale)
                for k in range(9)
            )
            got = float(model(x).detach()[sample, row])
            assert got == pytest.approx(total * scale * step + float(bias[row]), rel=1e-4, abs=1e-5)


def trained() -> tuple[nn.Module, Any]:
    data = pw.load_dataset("digits", "train")
    model = pw.create_model("mlp", hidden=(32, 32))
    pw.train(model, data, pw.Regime.cosine(steps=150, lr=3e-3, batch_size=64, optimizer="adam"), progress=False)
    return model.eval(), data


def test_eight_bits_keep_the_answers_and_more_bits_are_better() -> None:
    model, data = trained()
    x = data.normalize(data.images)
    with torch.no_grad():
        expected = model(x)
    errors, agreements = [], []
    for bits in (8, 6, 4, 3):
        twin, _ = trained()
        method = pw.RoundToNearest(weights=f"int{bits}", activations=f"uint{bits}" if bits < 8 else "int8")
        applied = pw.apply_(twin, method, data=[x[:256]])
        with torch.no_grad():
            got = twin(x)
        errors.append(float((got - expected).square().mean()))
        agreements.append(float((got.argmax(1) == expected.argmax(1)).float().mean()))
        assert not isinstance(applied, list)
        assert applied.metrics["folded_batchnorms"] == 2
        assert float(applied.metrics["linear2.weight_sqnr_db"]) > 5 * bits - 8
    assert errors == sorted(errors)
    assert agreements[0] > 0.995


def test_weights_alone_need_no_data_and_groups_need_linear() -> None:
    model = pw.create_model("mlp").eval()
    pw.apply_(model, pw.RoundToNearest(activations=None, granularity="group:16"))
    assert model.linear1.slots.weight.quantizer.scale.shape == (256, 4)
    with pytest.raises(MethodError, match=r"'group:16' is for Linear layers and embeddings; 'conv1' is"):
        pw.apply_(pw.create_model("resnet20"), pw.RoundToNearest(activations=None, granularity="group:16"))


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(("settings", "message"), [
    ({"weights": "int9"}, "weights='int9'.*2 to 8 bits"),
    ({"weights": "e4m3"}, "integer formats"),
    ({"activations": "int1"}, "int1"),
    ({"weights": "nonsense"}, "names no number format"),
    ({"weights": None, "activations": None}, "nothing to round"),
    ({"granularity": "row"}, "granularity 'row'"),
    ({"weight_range": "best"}, "weight_range='best'"),
    ({"max_samples": 0}, "max_samples=0"),
])  # fmt: skip
def test_bad_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pw.RoundToNearest(**settings)


def test_bad_calibration_data() -> None:
    x = torch.randn(4, 1, 8, 8)
    x[2, 0, 1, 1] = torch.inf
    with pytest.raises(NumericsError, match=r"calibration data holds inf at index \(2, 0, 1, 1\)"):
        pw.apply_(pw.create_model("mlp"), pw.RoundToNearest(), data=[x])
    model = pw.create_model("mlp")
    with pytest.raises(MethodError, match="holds no sample"):
        pw.apply_(model, pw.RoundToNearest(), data=[])
    assert isinstance(model.bn1, nn.BatchNorm1d)  # a refused call leaves the model whole


class Unused(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.used, self.spare = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Any) -> Any:
        return self.used(x)


def test_a_layer_that_is_never_called_is_named() -> None:
    applied = pw.apply_(Unused(), pw.RoundToNearest(), data=[torch.randn(4, 4)])
    assert applied.changed == ("used",)
    assert applied.skipped == {"spare": "the model's forward never calls it"}
    with pytest.raises(MethodError, match="none of spare received calibration data"):
        pw.apply_(Unused(), pw.RoundToNearest(include=("spare",)), data=[torch.randn(4, 4)])


class Mixed(nn.Module):
    """Weights that are no Linear layer's, and one the model holds itself."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 4), nn.Linear(4, 4)
        self.lstm = nn.LSTM(4, 4, batch_first=True)
        self.norm = nn.LayerNorm((3, 4))
        self.table = nn.Parameter(torch.zeros(3, 4))

    def forward(self, x: Any) -> Any:
        return self.last(self.norm(self.lstm(self.first(x) + self.table)[0]))


@pytest.mark.parametrize(
    "method", [pw.RoundToNearest(exclude=("last",)), pw.GPTQ(exclude=("last",))], ids=["rtn", "gptq"]
)
def test_weights_that_stay_in_float_are_named(method: pw.Method) -> None:
    name = type(method).__name__
    model = Mixed().eval()
    applied = pw.apply_(model, method, data=[torch.randn(8, 3, 4)])
    lstm = {} if name == "RoundToNearest" else {"lstm": f"{name} takes no LSTM: 128 values stay in float"}
    assert applied.skipped == lstm | {
        "last": "left out by include/exclude",
        "table": f"{name} takes no Mixed: 12 values stay in float",
    }
    again = pw.apply_(model, pw.RoundToNearest(include=("last",)), data=[torch.randn(8, 3, 4)])
    assert "first" not in again.skipped  # an earlier method has put it on a grid


def test_observation_is_bounded_keeps_extremes_and_gives_everything_back() -> None:
    model = nn.Sequential(nn.Linear(1000, 2)).train()
    x = torch.randn(2000, 1000)
    x[1234, 567] = 50.0
    seen = observe_inputs(model, ["0"], [(part, torch.zeros(1)) for part in x.split(500)], max_samples=1700)["0"]
    assert seen.numel() <= MAX_VALUES + 8
    assert float(seen.max()) == 50.0
    assert model.training
    assert not model[0]._forward_pre_hooks
    few = observe_inputs(model, ["0"], [x[:3]], max_samples=2)["0"]
    assert torch.equal(few, x[:2].flatten())


def test_block_formats_round_without_data_and_are_stored_with_their_scales(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 5))
    plain = copy.deepcopy(model)
    x = torch.randn(4, 3, 4, 4)
    record = pw.apply_(model, pw.RoundToNearest(weights="mxfp6e2m3", activations="mxfp8e4m3"))
    assert not isinstance(record, list)
    assert record.metrics["3.weight_sqnr_db"] > 20
    hidden = F.conv2d(
        round_to_blocks(x, BlockFormat("mxfp8e4m3"), axis=1),
        round_to_blocks(plain[0].weight, BlockFormat("mxfp6e2m3"), axis=1),
        plain[0].bias,
    )
    y = F.linear(
        round_to_blocks(hidden.relu().flatten(1), BlockFormat("mxfp8e4m3")),
        round_to_blocks(plain[3].weight, BlockFormat("mxfp6e2m3")),
        plain[3].bias,
    )
    torch.testing.assert_close(model(x), y)
    artifact = pw.export(model.eval(), tmp_path / "net.pw", example_input=x)
    assert torch.equal(artifact.model()(x), model(x))


def test_a_table_in_blocks(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(10, 40), nn.Linear(40, 3))
    table = model[0].weight.detach().clone()
    pw.apply_(model, pw.RoundToNearest(weights="nvfp4", activations=None, include=("0",)))
    tokens = torch.tensor([[1, 9, 1]])
    assert torch.equal(model[0](tokens), round_to_blocks(table, BlockFormat("nvfp4"))[tokens])


def test_blocks_have_a_granularity_of_their_own() -> None:
    with pytest.raises(MethodError, match="granularity='tensor' has no effect: mxfp4 has blocks"):
        pw.RoundToNearest(weights="mxfp4", activations=None, granularity="tensor")
