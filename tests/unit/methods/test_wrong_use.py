"""Models and data that methods cannot work with are answered in words, while the model is whole."""

import copy
import dataclasses
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import pennyweight as pw
from pennyweight.errors import MethodError
from pennyweight.methods import applications

IMAGES = torch.randn(8, 1, 8, 8, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(8)
SOLVERS = [
    pw.AdaQuant(weights="int8", activations="int8", steps=2),
    pw.AdaRound(steps=2),
    pw.GPTQ(),
    pw.QDrop(steps=2),
]
QUANTIZERS = [pw.RoundToNearest(), *SOLVERS]


def name_of(method: Any) -> str:
    return type(method).__name__


def net() -> nn.Sequential:
    conv, norm = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4)
    return nn.Sequential(conv, norm, nn.ReLU(), nn.Flatten(), nn.Linear(256, 10)).eval()


class Wrapped(nn.Module):
    """A net in a module that returns something else than its output."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.net, self.kind = net(), kind

    def forward(self, x: Tensor) -> Any:
        y = self.net(x)
        return {"dict": {"y": y}, "object": SimpleNamespace(y=y), "logits": SimpleNamespace(logits=y)}[self.kind]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("method", [*QUANTIZERS, pw.BNN(), pw.RoundToNearest(activations=None)], ids=name_of)
def test_not_in_float32(method: Any, dtype: torch.dtype) -> None:
    model = net().to(dtype)
    with pytest.raises(MethodError, match=rf"layer '\w+' is in {dtype}: quantize the float32 model, model\.float\(\)"):
        pw.apply_(model, method, data=[IMAGES.to(dtype)])
    assert type(model[0]) is nn.Conv2d
    assert applications(model) == ()


@pytest.mark.parametrize(
    ("wrap", "error"),
    [
        (nn.DataParallel, r"the model is wrapped in DataParallel: apply methods to .*, model\.module, and wrap"),
        (
            lambda model: torch.compile(model, backend="eager"),
            r"the model is compiled by torch\.compile.*: apply methods to .*, model\._orig_mod, and compile the result",
        ),
        (
            lambda model: nn.Sequential(model, nn.DataParallel(nn.Linear(10, 10))),
            r"module '1' is wrapped in DataParallel: .*, model\.1\.module, and",
        ),
    ],
    ids=["DataParallel", "compile", "inside"],
)
def test_wrapped(wrap: Any, error: str) -> None:
    with pytest.raises(MethodError, match=error):
        pw.apply_(wrap(net()), pw.RoundToNearest(), data=[IMAGES])


def test_compiled_in_place() -> None:
    model = net()
    model.compile(backend="eager")
    with pytest.raises(MethodError, match=r"the model is compiled, .*apply methods before compile"):
        pw.apply_(model, pw.BNN())


@pytest.mark.filterwarnings("ignore:Lazy modules")
def test_weights_that_are_not_made_yet() -> None:
    model = nn.Sequential(nn.Flatten(), nn.LazyLinear(3))
    with pytest.raises(MethodError, match="module '1' has no weights yet: run the model once on a batch first"):
        pw.apply_(model, pw.RoundToNearest(), data=[IMAGES])
    model(IMAGES)
    pw.apply_(model.eval(), pw.RoundToNearest(), data=[IMAGES])


@pytest.mark.parametrize("method", QUANTIZERS, ids=name_of)
def test_labels_in_place_of_inputs(method: Any) -> None:
    for data in (LABELS, (LABELS, IMAGES)):
        model = net()
        with pytest.raises(
            MethodError, match=r"refuses inputs of torch\.int64, shape .*pass float inputs, without lab"
        ):
            pw.apply_(model, method, data=[data])
        assert type(model[0]) is nn.Conv2d


@pytest.mark.parametrize("method", QUANTIZERS, ids=name_of)
@pytest.mark.parametrize("kind", ["dict", "object", "logits"])
def test_what_the_model_returns_does_not_matter_to_layers(method: Any, kind: str) -> None:
    model = Wrapped(kind)
    applied: Any = pw.apply_(model, method, data=[IMAGES])
    assert set(applied.changed) == {"net.0", "net.4"}
    assert applied.metrics["folded_batchnorms"] == 1


@pytest.mark.parametrize("kind", ["dict", "object"])
def test_where_outputs_are_compared_there_must_be_a_tensor(kind: str) -> None:
    model = Wrapped(kind)
    reference = copy.deepcopy(model)
    with pytest.raises(MethodError, match=r"the model returns a \w+, expected a tensor, logits, .*: wrap it in a mod"):
        pw.apply_(model, [pw.RoundToNearest(), pw.BiasTuning()], data=[IMAGES], reference=reference)


@pytest.mark.parametrize("method", SOLVERS, ids=name_of)
def test_a_weight_that_another_module_reads_is_not_fitted(method: Any) -> None:
    """A table of tokens that is the last layer's weight too: solving the one would change the other."""
    model = pw.create_model("decoder", vocab_size=16, width=8, depth=1, heads=2, tied=True).eval()
    tokens = torch.randint(0, 16, (4, 6), generator=torch.Generator().manual_seed(0))
    before = model.embedding.weight.clone()  # type: ignore[union-attr, operator]
    with pytest.raises(
        MethodError, match=r"'head' shares its weight with 'embedding', .*exclude=\('head',\), or take R"
    ):
        pw.apply_(model, method, data=[tokens])
    assert type(model.head) is nn.Linear
    applied: Any = pw.apply_(model, dataclasses.replace(method, exclude=("head",)), data=[tokens])
    assert len(applied.changed) == 6
    rounded: Any = pw.apply_(model, pw.RoundToNearest(include=("embedding", "head")), data=[tokens])
    assert rounded.changed == ("embedding", "head")
    assert model.head.weight is model.embedding.weight  # type: ignore[union-attr]
    assert model.embedding.weight.equal(before)  # type: ignore[union-attr, operator]
