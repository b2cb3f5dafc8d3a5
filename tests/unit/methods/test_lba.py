"""`LBA` and `AccumulatorUnderflow`: what they fill, what they measure, what they meet on a layer, what they refuse."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import pennyweight as pw
from pennyweight.errors import ArtifactError, MethodError, NumericsError
from pennyweight.nn.accumulators import accumulator_rates, accumulators
from pennyweight.numerics.accumulate import AccumulatorSpec, accumulate

X = torch.randn(6, 12, generator=torch.Generator().manual_seed(1))


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(12, 10), nn.ReLU(), nn.Linear(10, 4)).eval()


def applied(model: nn.Module, *methods: Any, data: Any = X) -> nn.Module:
    pw.apply_(model, list(methods), data=[data])
    return model.eval()


def by_hand(model: nn.Sequential, x: Tensor, first: AccumulatorSpec, second: AccumulatorSpec) -> Tensor:
    hidden = (accumulate(x, model[0].weight, first) + model[0].bias).relu()  # type: ignore[arg-type]
    return accumulate(hidden, model[2].weight, second) + model[2].bias  # type: ignore[arg-type]


def test_every_layer_sums_in_the_format() -> None:
    model = applied(net(), pw.LBA(mantissa=3, exponent=3, product_bias=6, sum_bias=5, chunk=5))
    spec = AccumulatorSpec(mantissa=3, exponent=3, product_bias=6, sum_bias=5, chunk=5)
    assert torch.equal(model(X), by_hand(net(), X, spec, spec))
    only = applied(net(), pw.LBA(mantissa=3, exponent=3, product_bias=6, sum_bias=5, chunk=5, include=("2",)))
    assert [name for name, _ in accumulators(only)] == ["2"]


def partial_sums(x: Tensor, weight: Tensor, chunk: int) -> tuple[list[float], list[float]]:
    """All exact products, and all exact sums within chunks and of chunks."""
    products, sums = [], []
    for row in x.double().tolist():
        for column in weight.double().tolist():
            terms = [a * b for a, b in zip(row, column, strict=True)]
            chunks = [terms[start : start + chunk] for start in range(0, len(terms), chunk)]
            products += terms
            sums += [sum(part[:end]) for part in chunks for end in range(1, len(part) + 1)]
            sums += [sum(map(sum, chunks[:end])) for end in range(1, len(chunks) + 1)]
    return products, sums


@pytest.mark.parametrize("share", [0.0, 1e-3, 0.05, 0.4])
def test_calibrated_biases_reach_the_share_asked_for(share: float) -> None:
    model = nn.Sequential(net()[0])
    method = pw.LBA(product_bias=None, sum_bias=None, overflow_share=share, chunk=4, mantissa=4)
    record = pw.apply_(model, method, data=[X])
    assert not isinstance(record, list)
    ((name, content),) = accumulators(model)
    spec = content.spec
    assert record.metrics == {f"{name}.product_bias": spec.product_bias, f"{name}.sum_bias": spec.sum_bias}
    for values, largest in zip(
        partial_sums(X, net()[0].weight, 4), (spec.largest_product, spec.largest_sum), strict=True
    ):
        beyond = [sum(abs(value) > end for value in values) / len(values) for end in (largest, largest / 2)]
        assert beyond[0] <= share < beyond[1], "one step finer would already saturate more"
    rates = accumulator_rates(model, X)[name]
    assert rates.product_overflow <= share
    assert rates.overflow <= share + 0.01


def test_one_bias_may_be_given_and_the_other_measured() -> None:
    model = applied(net(), pw.LBA(product_bias=None, sum_bias=9))
    assert {content.spec.sum_bias for _, content in accumulators(model)} == {9}


def test_measured_biases_belong_to_the_state_and_given_ones_do_not() -> None:
    measured = pw.LBA(product_bias=None, sum_bias=None)
    model, twin = applied(net(), measured), applied(net(), measured, data=100 * X)
    assert not torch.equal(twin(X), model(X))
    twin.load_state_dict(model.state_dict())
    assert torch.equal(twin(X), model(X))
    twin.load_state_dict(net().state_dict())  # a float checkpoint leaves them
    assert torch.equal(twin(X), model(X))
    assert set(applied(net(), pw.LBA()).state_dict()) == set(net().state_dict())


def test_layers_that_are_never_called_are_skipped() -> None:
    class Idle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.idle = nn.Linear(12, 2), nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.used(x)
            return y

    record = pw.apply_(Idle(), pw.LBA(product_bias=None, sum_bias=None), data=[X])
    assert not isinstance(record, list)
    assert record.changed == ("used",)
    assert record.skipped == {"idle": "the model's forward never calls it"}


def test_integer_codes_are_summed_as_codes() -> None:
    """Round-to-nearest first: what the accumulator meets are codes, and scales come after the sum."""
    quantized = applied(net(), pw.RoundToNearest(weights="int4", activations="uint4"))
    exact = quantized(X)
    wide = pw.LBA(mantissa=20, exponent=6, product_bias=None, sum_bias=None)
    assert torch.equal(applied(copy.deepcopy(quantized), wide)(X), exact), "20 bits hold every sum of 4-bit codes"
    narrow = applied(copy.deepcopy(quantized), pw.LBA(mantissa=2, exponent=3, product_bias=None, sum_bias=None))
    layer: Any = narrow[0]  # type: ignore[index]
    codes, scale = layer.slots.input.codes(X)
    weights, weight_scale = layer.slots.weight.codes(layer.weight)
    expected = accumulate(codes, weights, layer.slots.accumulator.spec) * (scale * weight_scale) + layer.bias
    assert torch.equal(layer(X), expected)
    assert not torch.equal(narrow(X), exact)


def test_biases_for_values_are_refused_on_codes() -> None:
    model = applied(net(), pw.RoundToNearest())
    with pytest.raises(MethodError, match=r"layer '0' multiplies integer codes, up to 65025; product_bias=12 ends at "):
        pw.apply_(model, pw.LBA())
    with pytest.raises(MethodError, match=r"up to 65025; sum_bias=10 ends at 63.75: product_bias=None, sum_bias=None"):
        pw.apply_(model, pw.LBA(product_bias=None), data=[X])


def test_it_meets_8_bit_training_on_one_layer() -> None:
    model = applied(net(), pw.Int8Training(norm="keep"), pw.LBA(product_bias=None, sum_bias=None)).train()
    model(X).square().mean().backward()
    assert all(p.grad is not None and bool(torch.isfinite(p.grad).all()) for p in model.parameters())
    exact = applied(net(), pw.Int8Training(norm="keep", exact=True))
    with pytest.raises(MethodError, match=r"LBA and Int8Training both want 'gemm.backend' of module '0'"):
        pw.apply_(exact, pw.LBA())


def test_attention_is_summed_too_and_meets_integer_operands() -> None:
    model = pw.create_model("vit-tiny", depth=1, width=16, heads=2).eval()
    x = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    wide = pw.LBA(mantissa=20, exponent=6, product_bias=None, sum_bias=None, attention=True)
    narrow = pw.LBA(mantissa=2, exponent=3, product_bias=None, sum_bias=None, attention=True)
    layers_alone = pw.LBA(mantissa=2, exponent=3, product_bias=None, sum_bias=None)
    torch.testing.assert_close(applied(copy.deepcopy(model), wide, data=x)(x), model(x), atol=1e-4, rtol=1e-4)
    both = applied(copy.deepcopy(model), narrow, data=x)
    names = [name for name, _ in accumulators(both) if ".products." in name]
    owner = "blocks.0.attention.products.0"
    assert names == [f"{owner}.scores", f"{owner}.output"]
    assert not torch.equal(both(x), applied(copy.deepcopy(model), layers_alone, data=x)(x))
    ways = [applied(copy.deepcopy(model), *order, data=x) for order in (
        (pw.QuantizeAttention(), wide), (wide, pw.QuantizeAttention()))]  # fmt: skip
    torch.testing.assert_close(ways[0](x), ways[1](x), atol=0.01, rtol=0.01)  # ranges are measured apart
    assert not torch.allclose(ways[0](x), model(x), atol=1e-4)
    assert len(list(accumulators(ways[0]))) == len(list(accumulators(ways[1]))) == 10


def test_a_failure_leaves_attention_as_it_was() -> None:
    model = pw.create_model("vit-tiny", depth=1, width=16, heads=2).eval()
    x = torch.randn(3, 1, 8, 8)
    expected = model(x)
    with pytest.raises(NumericsError, match="calibration data holds nan"):
        applied(model, pw.LBA(attention=True, product_bias=None, sum_bias=None), data=torch.full_like(x, torch.nan))
    assert torch.equal(model(x), expected)
    assert not any("products" in name for name, _ in model.named_modules())
    with pytest.raises(MethodError, match="no matching module multiplies two activations"):
        applied(net(), pw.LBA(attention=True))


def test_an_artifact_sums_alike_and_says_so(tmp_path: Path) -> None:
    vit = pw.create_model("vit-tiny", depth=1, width=16, heads=2).eval()
    image = torch.randn(3, 1, 8, 8)
    narrow = pw.LBA(mantissa=3, exponent=3, product_bias=None, sum_bias=None, attention=True, estimator="recursive-of")
    for model, x in ((applied(vit, narrow, data=image), image),
                     (applied(net(), pw.RoundToNearest(), pw.LBA(product_bias=None, sum_bias=None)), X),
                     (applied(net(), pw.BNN(), pw.LBA(mantissa=2)), X)):  # fmt: skip
        artifact = pw.export(model, tmp_path / "net.pw", example_input=x)
        assert torch.equal(pw.load(tmp_path / "net.pw").model()(x), model(x))
        assert ", sums M" in artifact.numerics
        assert "simulated" in artifact.numerics


def test_onnx_has_no_such_sums(tmp_path: Path) -> None:
    for model, x, name in ((applied(net(), pw.LBA()), X, "0"),):
        with pytest.raises(ArtifactError, match=f"'{name}' sums in an accumulator of few bits"):
            pw.export_onnx(model, tmp_path / "net.onnx", example_input=x)
        assert not (tmp_path / "net.onnx").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"mantissa": 0}, "mantissa=0"), ({"estimator": "recursive-diff"}, "estimator='recursive-diff': valid are"),
     ({"overflow_share": 1.0}, "overflow_share=1.0"), ({"max_samples": 0}, "max_samples=0"),
     ({"rounding": "up"}, "rounding='up'"), ({"product_bias": 101}, "product_bias=101")],
)  # fmt: skip
@pytest.mark.usefixtures("unchecked")
def test_wrong_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(MethodError, match=message):
        pw.LBA(**settings)


def test_two_stages() -> None:
    model = applied(net(), pw.LBA(underflow=False, mantissa=3, exponent=2, product_bias=1, sum_bias=0))
    once = model(X)
    record = pw.apply_(model, pw.AccumulatorUnderflow(rates=True), data=[X])
    assert not isinstance(record, list)
    assert record.changed == ("0", "2")
    assert all(row["product_underflow"] > 0 for row in record.tables["losses of accumulators"])
    assert not torch.equal(model(X), once)
    direct = applied(net(), pw.LBA(mantissa=3, exponent=2, product_bias=1, sum_bias=0))
    assert torch.equal(model(X), direct(X))
    with pytest.raises(MethodError, match=r"apply LBA\(underflow=False\) first"):
        pw.apply_(applied(net(), pw.Int8Training(norm="keep")), pw.AccumulatorUnderflow())
