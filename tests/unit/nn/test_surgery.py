"""Finding and replacing modules: globs, edges, shared modules, and words for patterns that match nothing."""

import pytest
import torch
from torch import nn

from pennyweight.errors import MethodError
from pennyweight.models import create_model
from pennyweight.nn.surgery import match, swap_modules_


def net() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 2, 1), nn.ReLU(), nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)), nn.Linear(2, 2)
    )


@pytest.mark.parametrize(
    ("include", "exclude", "expected"),
    [
        (("*",), (), ["0", "2.0", "3"]),
        (("@first",), (), ["0"]),
        (("@last",), (), ["3"]),
        (("*",), ("@first", "@last"), ["2.0"]),
        (("2.*", "0"), (), ["0", "2.0"]),
        (("[03]",), (), ["0", "3"]),
        (("?",), ("3",), ["0"]),
    ],
)
def test_patterns(include: tuple[str, ...], exclude: tuple[str, ...], expected: list[str]) -> None:
    assert list(match(net(), include, exclude)) == expected


def test_targets() -> None:
    assert list(match(net(), targets=(nn.BatchNorm1d,))) == ["2.1"]
    assert list(match(net(), targets=(nn.Linear,), exclude=("@first",))) == ["2.0", "3"]  # the first is no target


def test_what_matches_nothing_is_an_error() -> None:
    with pytest.raises(
        MethodError, match=r"no module of the types LSTM.*BatchNorm1d, Conv2d, Linear, ReLU, Sequential"
    ):
        match(net(), targets=(nn.LSTM,))
    resnet = create_model("resnet20")
    with pytest.raises(MethodError, match=r"'layer1\.0\.conv9' matches no module; did you mean 'layer1\.0\.conv[12]'"):
        match(resnet, ("layer1.0.conv9",))
    with pytest.raises(MethodError, match=r"'head' matches no module"):
        match(resnet, exclude=("head",))
    with pytest.raises(MethodError, match="leaves no module"):
        match(net(), ("3",), ("@last",))


def test_swap_everywhere_a_module_stands() -> None:
    shared = nn.Linear(2, 2)
    model = nn.Sequential(shared, nn.Sequential(shared, nn.ReLU()), shared)
    new = nn.Linear(2, 2)
    swap_modules_(model, {"0": new})
    assert model[0] is new
    assert model[1][0] is new
    assert model[2] is new
    assert list(model.state_dict())[:2] == ["0.weight", "0.bias"]


def test_swap_refusals() -> None:
    model = net()
    with pytest.raises(MethodError, match="the model itself is the Sequential"):
        swap_modules_(model, {"": nn.ReLU()})
    with pytest.raises(MethodError, match=r"no module is called '2\.7'"):
        swap_modules_(model, {"2.7": nn.ReLU()})
    assert isinstance(model[1], nn.ReLU)


def test_tied_parameters_stay_tied() -> None:
    from pennyweight.nn.gemm import as_gemm

    model = nn.ModuleDict({"in": nn.Linear(3, 3), "out": nn.Linear(3, 3)})
    model["out"].weight = model["in"].weight
    swap_modules_(model, {name: as_gemm(layer) for name, layer in match(model).items()})
    assert model["out"].weight is model["in"].weight
    with torch.no_grad():
        model["in"].weight.zero_()
    assert not model["out"].weight.any()
