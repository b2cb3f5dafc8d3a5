"""Products of activations: found wherever they are called, put through modules of their own, never leaked."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from oracles import attention as oracle
from pennyweight.errors import MethodError
from pennyweight.nn.products import (
    AttentionProduct,
    MatmulProduct,
    attach_products_,
    detach_products_,
    find_products,
)
from pennyweight.nn.slots.chain import SlotChain
from pennyweight.nn.slots.integer import IntegerInput
from pennyweight.numerics.affine import AffineParameters, PerTensor
from pennyweight.numerics.formats import IntFormat


def modes_entered() -> int:
    return torch._C._len_torch_function_stack()


@pytest.fixture(autouse=True)
def no_mode_is_left_behind() -> Any:
    before = modes_entered()
    yield
    assert modes_entered() == before


def eight_bits(scale: float, zero_point: int) -> IntegerInput:
    return IntegerInput(
        AffineParameters(torch.tensor(scale), torch.tensor(float(zero_point)), IntFormat(8), PerTensor())
    )


OPERANDS = {"query": (0.02, 3), "key": (0.03, -5), "probability": (1 / 255, -128), "value": (0.025, 10)}


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    n=st.integers(1, 4),
    m=st.integers(1, 5),
    groups=st.sampled_from([(1, 1), (2, 2), (4, 2), (4, 1)]),
    mask=st.sampled_from(["none", "bool", "float", "causal"]),
    scale=st.sampled_from([None, 0.3]),
    quantized=st.booleans(),
)
def test_attention_equals_loops(
    seed: int, n: int, m: int, groups: tuple[int, int], mask: str, scale: float | None, quantized: bool
) -> None:
    generator = torch.Generator().manual_seed(seed)
    heads, kv_heads = groups
    query = torch.randn(heads, n, 6, generator=generator)
    key, value = torch.randn(kv_heads, m, 6, generator=generator), torch.randn(kv_heads, m, 3, generator=generator)
    attn_mask = None
    if mask == "bool":
        attn_mask = torch.rand(n, m, generator=generator) > 0.4
    elif mask == "float":
        attn_mask = torch.randn(n, m, generator=generator)
    product = AttentionProduct()
    steps: dict[str, Callable[[Tensor], Tensor]] = dict.fromkeys(OPERANDS, lambda x: x.double())
    if quantized:
        for name, (step, zero) in OPERANDS.items():
            product.get_submodule(name).fill(eight_bits(step, zero), name)  # type: ignore[operator]
            steps[name] = lambda x, step=step, zero=zero: oracle.rounded(x, step, zero, -128, 127)
    got = product(
        query[None],
        key[None],
        value[None],
        attn_mask=attn_mask,
        is_causal=mask == "causal",
        scale=scale,
        enable_gqa=heads != kv_heads,
    )[0]
    expected = oracle.attention(
        steps["query"](query),
        steps["key"](key),
        steps["value"](value),
        mask=attn_mask,
        causal=mask == "causal",
        scale=scale,
        round_probability=steps["probability"],
    )
    # a probability half way between two codes may fall to either side in float32: a step of it, once a row
    tolerance = 4 / 255 if quantized else 1e-5
    torch.testing.assert_close(got.double(), expected, rtol=0, atol=tolerance)
    if quantized:
        assert float((got.double() - expected).abs().median()) < 1e-4


@pytest.mark.parametrize("masked", ["none", "causal", "bool", "float"])
def test_without_quantizers_it_is_torchs(masked: str) -> None:
    torch.manual_seed(0)
    query, key, value = torch.randn(2, 4, 5, 8), torch.randn(2, 2, 5, 8), torch.randn(2, 2, 5, 8)
    masks: dict[str, Any] = {
        "none": {},
        "causal": {"is_causal": True},
        "bool": {"attn_mask": torch.rand(2, 1, 5, 5) > 0.5},
        "float": {"attn_mask": torch.randn(5, 5)},
    }
    expected = F.scaled_dot_product_attention(query, key, value, enable_gqa=True, **masks[masked])
    torch.testing.assert_close(AttentionProduct()(query, key, value, enable_gqa=True, **masks[masked]), expected)


def test_dropout_is_torchs() -> None:
    x = torch.ones(1, 1, 64, 64)
    torch.manual_seed(0)
    dropped = AttentionProduct()(x, x, x, dropout_p=0.5)
    assert float(dropped.std()) > 0.01
    assert float(dropped.mean()) == pytest.approx(1.0, abs=0.1)


class Spelled(nn.Module):
    def __init__(self, spelling: str) -> None:
        super().__init__()
        self.spelling = spelling
        self.weight = nn.Parameter(torch.eye(4))
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.linear(x) @ self.weight  # a weight's product is not attention's
        if self.spelling == "torch.matmul":
            return torch.matmul(x, x.transpose(1, 2))
        if self.spelling == "torch.matmul by name":
            return torch.matmul(input=x, other=x.transpose(1, 2))
        if self.spelling == "torch.bmm":
            return torch.bmm(x, mat2=x.transpose(1, 2))
        if self.spelling == "@":
            return x @ x.transpose(1, 2)
        if self.spelling == "method matmul":
            return x.matmul(x.transpose(1, 2))
        if self.spelling == "method bmm":
            return x.bmm(x.transpose(1, 2))
        return F.scaled_dot_product_attention(x, x, x)


SPELLINGS = ["torch.matmul", "torch.matmul by name", "torch.bmm", "@", "method matmul", "method bmm", "sdpa"]


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_spelling_is_found_and_replaced(spelling: str) -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(Spelled(spelling)), torch.randn(2, 3, 4)
    kind = AttentionProduct if spelling == "sdpa" else MatmulProduct
    assert find_products(model, x) == {"0": [kind]}
    expected = model(x)
    slots = attach_products_(model[0], [kind])
    torch.testing.assert_close(model(x), expected)
    operand = next(iter(slots[0].children()))
    operand.fill(eight_bits(0.5, 0), "operand")  # type: ignore[operator]
    assert not torch.allclose(model(x), expected)
    detach_products_(model[0])
    assert model(x).equal(expected)
    assert "forward" not in vars(model[0])


def quantized(spelling: str = "sdpa") -> Spelled:
    torch.manual_seed(0)
    module = Spelled(spelling)
    slots = attach_products_(module, [AttentionProduct if spelling == "sdpa" else MatmulProduct])
    for name, operand in slots[0].named_children():
        if isinstance(operand, SlotChain):
            operand.fill(eight_bits(0.1, 0), name)
    return module


def test_a_deep_copy_has_products_of_its_own() -> None:
    module, x = quantized(), torch.randn(2, 3, 4)
    expected = module(x)
    twin = copy.deepcopy(module)
    assert twin(x).equal(expected)
    assert vars(twin)["forward"].__self__ is twin
    for buffer in twin.get_submodule("products").buffers():
        buffer.fill_(1.0)
    assert not twin(x).equal(expected)
    assert module(x).equal(expected)


def test_a_float_checkpoint_loads() -> None:
    module, x = quantized(), torch.randn(2, 3, 4)
    torch.manual_seed(0)
    expected = module(x)
    module.load_state_dict(Spelled("sdpa").state_dict())
    assert module(x).equal(expected)
    twin = quantized()
    twin.get_submodule("products.0.query.quantize").scale.fill_(7.0)  # type: ignore[operator, union-attr]
    twin.load_state_dict(module.state_dict())
    assert twin(x).equal(expected)


class Failing(nn.Module):
    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error: BaseException | None = error

    def forward(self, x: Tensor) -> Tensor:
        y = torch.matmul(x, x)
        if self.error is not None:
            raise self.error
        return torch.matmul(y, x)


@pytest.mark.parametrize("error", [RuntimeError("broken"), KeyboardInterrupt()])
def test_the_mode_ends_with_the_forward_whatever_happens(error: BaseException) -> None:
    module, x = Failing(error), torch.eye(3)
    slots = attach_products_(module, [MatmulProduct, MatmulProduct])
    with pytest.raises(type(error)):
        module(x)
    assert modes_entered() == 0
    slots[1].left.fill(eight_bits(1.0, 0), "left")
    module.error = None
    assert module(x).equal(x)  # the count of products starts anew
    assert modes_entered() == 0


def test_outside_of_the_forward_products_are_torchs() -> None:
    module, x = quantized(), torch.randn(2, 3, 4)
    module(x)
    assert F.scaled_dot_product_attention(x, x, x).equal(F.scaled_dot_product_attention(x, x, x))
    assert modes_entered() == 0


class Outer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = Spelled("sdpa")

    def forward(self, x: Tensor) -> Tensor:
        return torch.matmul(self.inner(torch.matmul(x, x.mT @ x)), x.transpose(1, 2))


def test_a_product_belongs_to_the_innermost_module() -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(Outer()), torch.randn(2, 3, 4)
    found = find_products(model, x)
    assert found == {"0": [MatmulProduct] * 3, "0.inner": [AttentionProduct]}
    expected = model(x)
    for fqn, kinds in found.items():
        attach_products_(model.get_submodule(fqn), kinds)
    torch.testing.assert_close(model(x), expected)


class Moody(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        y = torch.matmul(x, x)
        return torch.matmul(y, x) if len(x) > 2 else y


def test_a_forward_that_makes_other_products_is_refused() -> None:
    module = Moody()
    attach_products_(module, [MatmulProduct])
    with pytest.raises(MethodError, match=r"product 1 of this forward is a MatmulProduct, but calibration saw"):
        module(torch.eye(3))
    assert attach_products_(module, [MatmulProduct]) is module.products, "a second method fills the first's modules"
    taken = Moody()
    taken.products = 3  # type: ignore[assignment]
    with pytest.raises(MethodError, match="attribute 'products' already"):
        attach_products_(taken, [MatmulProduct])
    twice = nn.Module()
    twice.moody = Moody()
    twice.forward = lambda x: twice.moody(x) + twice.moody(x[:2, :2]).sum()  # type: ignore[method-assign]
    with pytest.raises(MethodError, match=r"'moody' makes other products"):
        find_products(twice, torch.eye(3))


def test_what_torch_does_in_one_call_is_not_seen() -> None:
    attention = nn.MultiheadAttention(4, 2, batch_first=True)

    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = attention

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.attention(x, x, x)[0]
            return torch.einsum("btc,bsc->bts", y, y)

    assert find_products(Wrapped(), torch.randn(2, 3, 4)) == {}
