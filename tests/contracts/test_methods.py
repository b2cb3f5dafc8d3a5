"""What every method must do, looped over all of them: a new one is held to it by being exported."""

import copy
import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import pennyweight as pw
import pennyweight.methods
from pennyweight.errors import MethodError, NumericsError
from pennyweight.methods import Method, applications

METHODS: list[type[Method]] = sorted(
    (
        value
        for name in pennyweight.methods.__all__
        if isinstance(value := getattr(pennyweight.methods, name), type)
        and issubclass(value, Method)
        and value is not Method
    ),
    key=lambda kind: kind.__name__,
)
QUICK: dict[str, dict[str, Any]] = {
    "AdaQuant": {"steps": 10},
    "AdaRound": {"steps": 10},
    "BiasTuning": {"steps": 10},
    "QDrop": {"steps": 10},
}
"""Settings that keep slow methods short here."""
BEFORE: dict[str, dict[str, Any]] = {
    "AccumulatorUnderflow": {"LBA": {"underflow": False}},
    "IntegerAccumulator": {"RoundToNearest": {}},
}
"""Methods that change what others made, and those others."""
IMAGES = (torch.randint(0, 256, (16, 3, 16, 16), generator=torch.Generator().manual_seed(0)).float() - 128) / 128


def every() -> pytest.MarkDecorator:
    return pytest.mark.parametrize("kind", METHODS, ids=lambda kind: kind.__name__)


def made(kind: type[Method], **settings: Any) -> Method:
    return kind(**{**QUICK.get(kind.__name__, {}), **settings})


def float_net(seed: int = 0, kind: type[Method] | None = None) -> nn.Module:
    """A small net with convolutions, batch norms and a linear head, its statistics settled; or one with attention."""
    if kind is not None and "attention" in kind.touches:
        return pw.create_model("vit-tiny", width=16, depth=1, heads=2, patch_size=4, input_shape=(3, 16, 16), seed=seed)
    model = pw.create_model("vgg-small", width=4, input_shape=(3, 16, 16), seed=seed).train()
    with torch.no_grad():
        for _ in range(3):
            model(IMAGES)
    return model


def net(seed: int = 0, kind: type[Method] | None = None) -> nn.Module:
    """What the method is for: a float net, or one at four bits for methods that compare with the float net."""
    model = float_net(seed, kind)
    if kind is not None and kind().needs_reference():
        pw.apply_(model, pw.RoundToNearest(weights="int4", activations="uint4"), data=[IMAGES])
    for name, settings in BEFORE.get(kind.__name__, {}).items() if kind is not None else ():
        pw.apply_(model, getattr(pw, name)(**settings), data=[IMAGES])
    return model


def extras(kind: type[Method], seed: int = 0) -> dict[str, Any]:
    """What `apply_` takes beside model and method."""
    return {"data": [IMAGES], "reference": float_net(seed, kind) if kind().needs_reference() else None}


def records_before(kind: type[Method]) -> int:
    return int(kind().needs_reference()) + len(BEFORE.get(kind.__name__, {}))


def applied_net(kind: type[Method]) -> nn.Module:
    model = net(kind=kind)
    pw.apply_(model, made(kind), **extras(kind))
    return model.eval()


def outputs(model: nn.Module) -> Tensor:
    with torch.inference_mode():
        return model.eval()(IMAGES)


def test_there_are_methods() -> None:
    assert {kind.__name__ for kind in METHODS} >= {"BNN", "GhostBatchNorm", "RoundToNearest"}


@every()
def test_is_a_frozen_keyword_only_dataclass(kind: type[Method]) -> None:
    method = kind()
    with pytest.raises(dataclasses.FrozenInstanceError):
        method.include = ("x",)  # type: ignore[misc]
    with pytest.raises(TypeError):
        kind(("*",))  # type: ignore[misc]
    assert hash(method) == hash(kind())


@every()
@pytest.mark.usefixtures("unchecked")
def test_every_setting_refuses_another_type(kind: type[Method]) -> None:
    for field in dataclasses.fields(kind):
        with pytest.raises(MethodError, match=rf"^{field.name}=<object object at .*>: "):
            kind(**{field.name: object()})


@every()
def test_has_a_card(kind: type[Method]) -> None:
    card = kind.card()
    for heading in ("What:", "When to use:", "Caveats:", "Source:", "Args:"):
        assert heading in card.text, f"the card of {kind.__name__} lacks {heading!r}"
    assert card.touches
    assert card.paper.arxiv.replace(".", "").isdigit()
    assert 2010 < card.paper.year < 2100


@every()
def test_settings_survive_plain_values(kind: type[Method]) -> None:
    method = kind(exclude=("a.*", "@last"))
    plain = json.loads(json.dumps(method.to_dict()))
    assert plain.pop("name") == kind.__name__
    rebuilt = kind(**{key: tuple(value) if isinstance(value, list) else value for key, value in plain.items()})
    assert rebuilt == method


@every()
def test_says_what_it_changed(kind: type[Method]) -> None:
    model = net(kind=kind)
    before = dict(model.named_modules())
    applied = pw.apply_(model, made(kind), **extras(kind))
    assert not isinstance(applied, list)
    after = dict(model.named_modules())
    assert applied.changed
    swapped = {name for name, module in before.items() if after.get(name) is not module}
    unnamed = {name for name in swapped if not isinstance(after.get(name), nn.Identity)} - set(applied.changed)
    assert not unnamed, f"changed without saying so: {unnamed}"
    assert set(applied.changed) <= set(after)
    assert applications(model)[records_before(kind) :] == (applied,)
    assert applied.seconds > 0
    json.dumps(applied.to_dict())


@every()
def test_refuses_a_second_application(kind: type[Method]) -> None:
    model = applied_net(kind)
    expected = outputs(model)
    with pytest.raises(
        MethodError, match=f"{kind.__name__} and {kind.__name__}|no module of the types|leaves no module"
    ):
        pw.apply_(model, made(kind), **extras(kind))
    assert torch.equal(outputs(model), expected)
    assert len(applications(model)) == records_before(kind) + 1


@every()
def test_nothing_matched_is_an_error(kind: type[Method]) -> None:
    with pytest.raises(MethodError, match=r"made of: .*ReLU"):
        pw.apply_(nn.Sequential(nn.ReLU()), made(kind), **extras(kind))
    with pytest.raises(MethodError, match=r"'nowhere\.\*' matches no module"):
        pw.apply_(net(kind=kind), made(kind, include=("nowhere.*",)), **extras(kind))


@every()
def test_needed_data_is_asked_for(kind: type[Method]) -> None:
    if not kind().needs_data():
        pytest.skip(f"{kind.__name__} needs no data")
    model = net(kind=kind)
    expected = outputs(model)
    with pytest.raises(MethodError, match=f"{kind.__name__} needs calibration data"):
        pw.apply_(model, kind())
    assert torch.equal(outputs(model), expected)


@every()
def test_a_needed_reference_is_asked_for(kind: type[Method]) -> None:
    if not kind().needs_reference():
        pytest.skip(f"{kind.__name__} compares with nothing")
    model = net(kind=kind)
    expected = outputs(model)
    with pytest.raises(MethodError, match=f"{kind.__name__} compares with the float model"):
        pw.apply_(model, kind(), data=[IMAGES])
    assert torch.equal(outputs(model), expected)


@every()
def test_a_deep_copy_behaves_equal(kind: type[Method]) -> None:
    model = applied_net(kind)
    twin = copy.deepcopy(model)
    assert torch.equal(outputs(twin), outputs(model))
    assert applications(twin) == applications(model)
    with torch.no_grad():
        next(twin.parameters()).add_(1.0)
    assert not torch.equal(next(twin.parameters()), next(model.parameters()))


@every()
def test_a_float_checkpoint_still_loads(kind: type[Method]) -> None:
    model = applied_net(kind)
    other = float_net(seed=1, kind=kind)
    missing = {key for key in other.state_dict() if key not in model.state_dict()}
    if missing:
        # batch norm that was folded is gone for good; everything else must be where it was
        assert all("bn" in key for key in missing), missing
        state = {key: value for key, value in other.state_dict().items() if key not in missing}
        loaded = model.load_state_dict(state, strict=False)
        assert not loaded.unexpected_keys
        assert all(key.endswith("bias") for key in loaded.missing_keys)
    else:
        model.load_state_dict(other.state_dict())
        for key, value in other.state_dict().items():
            assert torch.equal(model.state_dict()[key], value)


@every()
def test_its_own_state_loads_into_a_twin(kind: type[Method]) -> None:
    model = applied_net(kind)
    twin = net(seed=3, kind=kind)
    pw.apply_(twin, made(kind), **extras(kind, seed=3))
    twin.load_state_dict(model.state_dict())
    assert torch.equal(outputs(twin), outputs(model))


@every()
def test_the_artifact_gives_the_modules_output(kind: type[Method], tmp_path: Path) -> None:
    model = applied_net(kind)
    artifact = pw.export(model, tmp_path / "model.pw", example_input=IMAGES[:2])
    assert torch.equal(outputs(artifact.model()), outputs(model))
    assert artifact.manifest["applied"][-1]["method"]["name"] == kind.__name__


@every()
def test_one_step_of_training_works(kind: type[Method]) -> None:
    model = applied_net(kind).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    model(IMAGES).square().mean().backward()
    grads = [parameter.grad for parameter in model.parameters()]
    assert any(grad is not None and bool(grad.abs().sum() > 0) for grad in grads)
    assert all(grad is None or bool(torch.isfinite(grad).all()) for grad in grads)
    optimizer.step()
    pw.nn.project_(model)


@every()
def test_nan_weights_are_refused_where_weights_are_read(kind: type[Method]) -> None:
    if "gemm.weight.quantize" not in kind.touches:
        pytest.skip(f"{kind.__name__} reads no weights")
    model = net()
    name, layer = next((n, m) for n, m in model.named_modules() if isinstance(m, nn.Linear))
    with torch.no_grad():
        layer.weight[1, 2] = torch.nan
    with pytest.raises(NumericsError, match=rf"weight of layer '{name}' holds nan at index \(1, 2\)"):
        pw.apply_(model, made(kind), data=[IMAGES])


COMPOSE = [
    ("GhostBatchNorm", "BNN"),
    ("RangeBatchNorm", "BNN"),
    ("GhostBatchNorm", "QNN"),
    ("LBA", "BNN"),
    ("LBA", "GhostBatchNorm"),
    ("LBA", "QNN"),
    ("NMSparsity", "MVUE"),
    ("NMSparsity", "GhostBatchNorm"),
    ("MVUE", "Int8Training"),
]
COLLIDE = [
    ("LBA", "A2Q"),
    ("BNN", "RoundToNearest"),
    ("RoundToNearest", "BNN"),
    ("BNN", "Int8Training"),
    ("Int8Training", "BNN"),
    ("QNN", "BNN"),
    ("Int8Training", "QNN"),
    ("NMSparsity", "BNN"),  # the sign of a pruned weight would be +1
    ("NMSparsity", "QNN"),
]


def by_name(name: str) -> Method:
    return made(getattr(pennyweight.methods, name))


@pytest.mark.parametrize(("first", "second"), COMPOSE)
def test_pairs_that_compose(first: str, second: str) -> None:
    together, apart = net(), net()
    records = pw.apply_(together, [by_name(first), by_name(second)], data=[IMAGES])
    assert isinstance(records, list)
    for name in (second, first):
        pw.apply_(apart, by_name(name), data=[IMAGES])
    assert torch.equal(outputs(together), outputs(apart))  # the order of calls does not matter


@pytest.mark.parametrize(("first", "second"), COLLIDE)
@pytest.mark.parametrize("in_one_call", [True, False])
def test_pairs_that_collide(first: str, second: str, in_one_call: bool) -> None:
    model = net()
    if not in_one_call:
        pw.apply_(model, by_name(first), data=[IMAGES])
    expected = outputs(model)
    methods = [by_name(first), by_name(second)] if in_one_call else by_name(second)
    with pytest.raises(MethodError, match=rf"{second} and {first} both want .*exclude="):
        pw.apply_(model, methods, data=[IMAGES])
    assert torch.equal(outputs(model), expected), "a refused call must leave the model whole"


def test_ghost_batch_norm_before_folding() -> None:
    """Round-to-nearest folds ghost batch norms like any other: a net trained with them is quantized as usual."""
    model = net()
    pw.apply_(model, pw.GhostBatchNorm(ghost_batch_size=4))
    pw.apply_(model, pw.RoundToNearest(), data=[IMAGES])
    plain = net()
    pw.apply_(plain, pw.RoundToNearest(), data=[IMAGES])
    assert torch.equal(outputs(model), outputs(plain))
