"""Programs of torch.export as models of torch's layers: equal to the original, and nothing in the file is run."""

import copy
import io
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.export import Dim

import pennyweight as pw
from pennyweight.errors import RecipeError
from pennyweight.nn.execution import execution_of


class Mixed(nn.Module):
    """Layers, plain functions, loose parameters, constants, in-place changes, a layer called twice, two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding="same")
        self.relu = nn.ReLU(inplace=True)
        self.drop = nn.Dropout(0.3)
        self.depthwise = nn.Conv2d(8, 8, 3, groups=8, bias=False, padding=1, padding_mode="reflect")
        self.group_norm = nn.GroupNorm(2, 8)
        self.up = nn.ConvTranspose2d(8, 4, 2, stride=2)
        self.scale = nn.Parameter(torch.randn(4, 1, 1))
        self.loose = nn.Parameter(torch.randn(5, 4))
        self.norm = nn.BatchNorm2d(8, affine=False)
        self.linear = nn.Linear(5, 5)
        self.register_buffer("ramp", torch.arange(5.0), persistent=False)

    def forward(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        y = self.relu(self.conv(x))
        y = y + self.drop(self.norm(self.group_norm(self.depthwise(y))))
        y = torch.cat([y[:, :4], y[:, 4:] * 2], 1)
        y.add_(0.5)  # and the result of the call is not read
        z = self.up(F.max_pool2d(y, 2)) * self.scale
        z = F.linear(F.interpolate(z, scale_factor=2, mode="nearest").mean((2, 3)), self.loose)
        first, second = z.split([2, 3], 1)
        z = self.linear(self.linear(torch.cat([second, first], 1))) + self.ramp + torch.tensor([1.0, 2, 3, 4, 5])
        return z.softmax(-1), {"again": z.view(x.shape[0], -1)}


IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
SMALL = IMAGES[:, :, :8, :8]
GREY = IMAGES[:, :1, :8, :8]
FLAT = torch.ones(2, 4)
TOKENS = torch.randint(0, 64, (2, 16), generator=torch.Generator().manual_seed(0))
CASES: dict[str, tuple[Callable[[], nn.Module], Tensor]] = {
    "mixed": (Mixed, SMALL),
    "resnet": (lambda: pw.create_model("resnet20", width=4), IMAGES),
    "mlp": (lambda: pw.create_model("mlp", dropout=0.1), GREY),
    "vit": (lambda: pw.create_model("vit-tiny", input_shape=(1, 8, 8), patch_size=2, depth=2), GREY),
    "decoder": (lambda: pw.create_model("decoder", vocab_size=64, depth=2, tied=True), TOKENS),
    "llama": (
        lambda: pw.create_model(
            "decoder", vocab_size=64, depth=1, positions="rotary", norm_kind="rms", feed_forward="swiglu", bias=False
        ),
        TOKENS,
    ),
}


def save(model: nn.Module, x: Tensor, path: Path, *, fixed: bool = False) -> str:
    program = torch.export.export(model, (x,), dynamic_shapes=None if fixed else ({0: Dim("batch")},))
    torch.export.save(program, path)
    return str(path)


def settled(make: Callable[[], nn.Module], x: Tensor) -> nn.Module:
    """A model whose batch norms have seen something."""
    torch.manual_seed(0)
    model = make().train()
    with torch.no_grad():
        model(x)
    return model.eval()


def first(output: Any) -> Tensor:
    found: Tensor = output[0] if isinstance(output, tuple) else output
    return found


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_equal_to_the_original_and_to_torchs_own_reading(case: str, tmp_path: Path) -> None:
    make, x = CASES[case]
    model = settled(make, x)
    path = save(model, x, tmp_path / "net.pt2")
    found = pw.create_model(path)
    torch.testing.assert_close(first(found(x)), first(model(x)), rtol=0, atol=1e-6)
    theirs = torch.export.load(path).module()
    more = torch.cat([x, x[:1]])  # another number of samples
    torch.testing.assert_close(first(found(more)), first(theirs(more)), rtol=0, atol=1e-6)
    kinds = (nn.Linear, nn.Conv2d, nn.Embedding, nn.BatchNorm1d, nn.BatchNorm2d, nn.LayerNorm)
    layers = {name: type(m) for name, m in model.named_modules() if isinstance(m, kinds)}
    assert {n: type(m) for n, m in found.named_modules() if isinstance(m, kinds) and n != "loose"} == layers
    if case != "mixed":  # whose loose weight became a layer's
        assert set(found.state_dict()) == set(model.state_dict())
    assert execution_of(found, x).level == "fx"


def test_shared_weights_stay_shared(tmp_path: Path) -> None:
    make, x = CASES["decoder"]
    found: Any = pw.create_model(save(settled(make, x), x, tmp_path / "net.pt2"))
    assert found.head.weight is found.embedding.weight


class Tied(nn.Module):
    """Two layers of one weight, a weight nobody reads, and names that the program's own values have too."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.unread = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)
        self.two.weight = self.one.weight
        self.mul = nn.Parameter(torch.full((4,), 3.0))
        self.register_buffer("linear", torch.full((4,), 5.0))
        self.register_buffer("kept", torch.ones(4), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.two((self.one(x) * self.mul).relu() + self.linear + self.kept)


def test_names_are_the_models_own_and_copies_keep_them(tmp_path: Path) -> None:
    model = Tied().eval()
    found = pw.create_model(save(model, FLAT, tmp_path / "net.pt2"))
    for net in (found, copy.deepcopy(found), copy.deepcopy(copy.deepcopy(found))):
        assert net(FLAT).equal(model(FLAT))
        assert set(net.state_dict()) == set(model.state_dict())
        assert net.one is not net.two
        assert net.one.weight is net.two.weight  # type: ignore[union-attr]
        net.load_state_dict(model.state_dict())
    assert copy.deepcopy(found).one.weight is not found.one.weight  # type: ignore[union-attr]


@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")  # torch's own decomposing warns
def test_a_decomposed_program_that_changes_state(tmp_path: Path) -> None:
    program = torch.export.export(Stateful().eval(), (FLAT,), dynamic_shapes=({0: Dim("batch")},))
    torch.export.save(program.run_decompositions({}), tmp_path / "net.pt2")
    with pytest.raises(RecipeError, match="its forward changes state, 'seen'"):
        pw.create_model(str(tmp_path / "net.pt2"))


@torch.no_grad()
def test_methods_and_export_do_with_it_what_they_do_with_the_original(tmp_path: Path) -> None:
    make, x = CASES["resnet"]
    model = settled(make, x)
    found = pw.create_model(save(model, x, tmp_path / "net.pt2"))
    records = [pw.apply_(net, pw.RoundToNearest(weights="int4"), data=[x]) for net in (model, found)]
    assert set(records[0].changed) == set(records[1].changed)  # type: ignore[union-attr]
    assert records[0].metrics["folded_batchnorms"] == records[1].metrics["folded_batchnorms"] == 19  # type: ignore[union-attr]
    assert found.eval()(x).equal(model.eval()(x))
    artifact = pw.export(found, tmp_path / "net.pw", example_input=x)
    torch.testing.assert_close(artifact.model()(x), model(x), rtol=0, atol=1e-5)


def test_it_can_be_trained_and_saved(tmp_path: Path) -> None:
    make, x = CASES["resnet"]
    found = pw.create_model(save(settled(make, x), x, tmp_path / "net.pt2")).train()
    before = found.bn1.running_mean.clone()  # type: ignore[union-attr, operator]
    found(x).sum().backward()
    assert all(parameter.grad is not None for parameter in found.parameters())
    assert not found.bn1.running_mean.equal(before)  # type: ignore[union-attr, operator]


class Stateful(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.seen.add_(1)
        return self.linear(x) + self.seen


class Cached(Stateful):
    """Writes through a view, as caches of keys and values do."""

    def forward(self, x: Tensor) -> Tensor:
        self.seen.view(1)[:1].copy_(x.sum().view(1))
        return self.linear(x) + self.seen


class Branch(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cond(x.sum() > 0, lambda y: self.linear(y), lambda y: y * 2.0, (x,))


@pytest.mark.parametrize(
    ("model", "fixed", "error"),
    [
        (nn.Linear(4, 4).eval(), True, r"batch is fixed: input 'input' has 2 samples; .*dynamic_shapes=\{'input': \{0"),
        (nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)), False, r"training mode: export model\.eval\(\)"),
        (nn.Sequential(nn.Linear(4, 4), nn.Dropout()), False, r"training mode: export model\.eval\(\)"),
        (nn.ReLU().eval(), False, "has no linear or convolutional layer"),
        (Stateful().eval(), False, "its forward changes state, 'seen'"),
        (Cached().eval(), False, "its forward changes state, 'seen'"),
        (Branch().eval(), False, "control flow"),
    ],
)
def test_refused(model: nn.Module, fixed: bool, error: str, tmp_path: Path) -> None:
    path = save(model, FLAT, tmp_path / "net.pt2", fixed=fixed)
    with pytest.raises(RecipeError, match=error):
        pw.create_model(path)


def rewritten(path: str, change: Callable[[str, bytes], bytes | None]) -> str:
    """The archive with records changed, or left out."""
    content = io.BytesIO()
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(content, "w") as new:
        for name in old.namelist():
            data = change(name, old.read(name))
            if data is not None:
                new.writestr(name, data)
    Path(path).write_bytes(content.getvalue())
    return path


class Bomb:
    """Unpickled, it leaves a file behind."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return open, (self.path, "w")


def hostile(kind: str, mark: Path) -> Callable[[str, bytes], bytes | None]:
    def change(name: str, data: bytes) -> bytes | None:
        if kind == "example inputs" and "sample_inputs" in name:
            return pickle.dumps(Bomb(str(mark)))
        if kind == "weights" and name.endswith("weights_config.json"):
            config = json.loads(data)
            for payload in config["config"].values():
                payload["use_pickle"] = True
            return json.dumps(config).encode()
        if kind == "weights" and name.endswith("weights/weight_0"):
            return pickle.dumps(Bomb(str(mark)))
        if name.endswith("models/model.json"):
            content = json.loads(data)
            node = content["graph_module"]["graph"]["nodes"][-1]
            text = {"name": "f", "kind": 1, "arg": {"as_string": str(mark)}}
            if kind == "function":
                node["target"], node["inputs"] = "torch.serialization.os.mkdir", [text]
            if kind == "operator":
                node["target"], node["inputs"] = "torch.ops.aten.from_file.default", [text]
            if kind == "expression":
                content["graph_module"]["graph"]["sym_int_values"]["s0"] = {
                    "as_expr": {"expr_str": f"open({str(mark)!r}, 'w')", "hint": None}
                }
            return json.dumps(content).encode()
        return data

    return change


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        ("example inputs", None),
        ("expression", None),
        ("weights", "is a pickled object, which is not loaded"),
        ("function", r"calls 'torch\.serialization\.os\.mkdir': only aten's operators"),
        ("operator", "is given the text"),
    ],
)
def test_nothing_in_the_file_is_run(kind: str, error: str | None, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    path = rewritten(save(nn.Linear(4, 4).eval(), FLAT, tmp_path / "net.pt2"), hostile(kind, mark))
    if error is None:
        pw.create_model(path)(FLAT)
    else:
        with pytest.raises(RecipeError, match=error):
            pw.create_model(path)(FLAT)
    assert not mark.exists()


@pytest.mark.parametrize("keep", [0, 100, 3000])
def test_a_cut_file(keep: int, tmp_path: Path) -> None:
    path = Path(save(nn.Linear(4, 4).eval(), FLAT, tmp_path / "net.pt2"))
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(RecipeError, match=r"net\.pt2: it cannot be read .*save it again"):
        pw.create_model(str(path))


@pytest.mark.parametrize(
    ("old", "new", "error"),
    [
        (b'"major": 8', b'"major": 9', "of schema 9, and 8 is read"),
        (b'"name": "linear"', b'"nam": "linear"', r"damaged, or of a kind that is not known \(KeyError"),
        (b'"sizes": [{"as_int": 4}, {"as_int": 4}]', b'"sizes": [{"as_int": 4}, {"as_int": 9}]', "damaged"),
        (b"aten.linear.default", b"aten.no_such.default", "'no_such.default', which torch .* does not have"),
    ],
)
def test_a_damaged_file(old: bytes, new: bytes, error: str, tmp_path: Path) -> None:
    path = save(nn.Linear(4, 4).eval(), FLAT, tmp_path / "net.pt2")
    with pytest.raises(RecipeError, match=error):
        pw.create_model(rewritten(path, lambda _, data: data.replace(old, new)))


def test_what_is_left_out_is_missed(tmp_path: Path) -> None:
    path = save(nn.Linear(4, 4).eval(), FLAT, tmp_path / "net.pt2")
    for record in ("weight_0", "weights_config.json", "model.json"):
        with pytest.raises(RecipeError, match="save it again"):
            pw.create_model(rewritten(path, lambda name, data, end=record: None if name.endswith(end) else data))  # type: ignore[misc]
