"""A Hugging Face BERT goes through the same door: batches by name, padding, attention in torch's own functions."""

import copy
from typing import Any

import pytest
import torch
from torch import nn

import pennyweight as pw
from pennyweight.nn.products import AttentionProduct, MatmulProduct
from pennyweight.nn.slots.integer import IntegerInput

transformers = pytest.importorskip("transformers", reason="transformers is not installed: pip install pennyweight[hf]")


def bert(attention: str = "sdpa") -> nn.Module:
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=50,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=16,
        attn_implementation=attention,
    )
    model: nn.Module = transformers.BertForSequenceClassification(config)
    return model.eval()


def batch(padding: int = 0) -> dict[str, torch.Tensor]:
    tokens = torch.randint(1, 50, (6, 12), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(tokens)
    mask[:3, 8:] = 0
    return {"input_ids": tokens.masked_fill(mask == 0, padding), "attention_mask": mask}


def scales(model: nn.Module) -> list[torch.Tensor]:
    return [module.scale for module in model.modules() if isinstance(module, IntegerInput)]


@pytest.mark.parametrize(("attention", "kind"), [("sdpa", AttentionProduct), ("eager", MatmulProduct)])
@torch.no_grad()
def test_bert_in_eight_bits(attention: str, kind: type[nn.Module]) -> None:
    model = bert(attention)
    expected = model(**batch()).logits
    records: Any = pw.apply_(model, [pw.RoundToNearest(), pw.QuantizeAttention()], data=[batch()])
    rounded, products = records
    assert len(rounded.changed) == 3 + 2 * 6 + 2  # tables, linear layers of each block, pooler and classifier
    assert products.changed == tuple(f"bert.encoder.layer.{layer}.attention.self" for layer in range(2))
    assert products.metrics["products"] == 4
    assert sum(isinstance(module, kind) for module in model.modules()) == (2 if kind is AttentionProduct else 4)
    got = model(**batch()).logits
    assert not got.equal(expected)
    assert float((got - expected).norm() / expected.norm()) < 0.05
    assert copy.deepcopy(model)(**batch()).logits.equal(got)


@torch.no_grad()
def test_four_bit_groups() -> None:
    model = bert()
    expected = model(**batch()).logits
    applied: Any = pw.apply_(model, pw.RoundToNearest(weights="int4", activations=None, granularity="group:8"))
    assert len(applied.changed) == 17
    assert float((model(**batch()).logits - expected).norm() / expected.norm()) < 0.5


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_what_stands_in_padding_changes_no_range(attention: str) -> None:
    first, second = bert(attention), bert(attention)
    for model, padding in ((first, 0), (second, 7)):
        pw.apply_(model, [pw.RoundToNearest(), pw.QuantizeAttention()], data=[batch(padding)])
    pairs = list(zip(scales(first), scales(second), strict=True))
    assert len(pairs) == 14 + 8
    for one, two in pairs:
        torch.testing.assert_close(one, two, rtol=1e-5, atol=0)
