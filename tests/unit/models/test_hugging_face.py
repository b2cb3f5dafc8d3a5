"""Hugging Face's models by name: made with random weights, quantized by the same code as all others, and refused."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim

import pennyweight as pw
from pennyweight.errors import MissingDependencyError, RecipeError
from pennyweight.models import holds_weights, model_builder, model_identity

transformers = pytest.importorskip("transformers", reason="transformers is not installed: pip install pennyweight[hf]")

BERT = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "vocab_size": 50,
    "max_position_embeddings": 16,
}
VIT = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "patch_size": 4,
}
TOKENS = torch.randint(1, 50, (6, 12), generator=torch.Generator().manual_seed(0))
MASK = (torch.arange(12) < torch.tensor([12, 12, 12, 8, 8, 5])[:, None]).long()
NAMED = {"input_ids": TOKENS * MASK, "attention_mask": MASK}


def bert(**options: Any) -> nn.Module:
    return pw.create_model("hf:bert", num_classes=3, **BERT, **options).eval()


def logits(model: nn.Module, batch: Tensor | dict[str, Tensor]) -> Tensor:
    output: Any = model(batch) if isinstance(batch, Tensor) else model(**batch)
    found: Tensor = output.logits
    return found


@pytest.mark.parametrize("method", [pw.RoundToNearest(), pw.AdaQuant(weights="int8", activations="int8", steps=4)])
@pytest.mark.parametrize("batch", [TOKENS, NAMED], ids=["tokens", "named"])
@torch.no_grad()
def test_eight_bits_by_the_same_code_as_others(method: Any, batch: Any) -> None:
    model = bert()
    expected = logits(model, batch)
    applied: Any = pw.apply_(model, method, data=[batch])
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    assert len(linear) == 2 * 6 + 2  # of each block, pooler and classifier
    assert set(linear) <= set(applied.changed)
    assert not applied.failed
    got = logits(model, batch)
    assert not got.equal(expected)
    assert float((got - expected).norm() / expected.norm()) < 0.03


@torch.no_grad()
def test_images() -> None:
    model = pw.create_model("hf:vit", num_classes=10, input_shape=(1, 8, 8), **VIT).eval()
    images = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    expected = model(images)
    assert type(expected) is Tensor  # and no object around it
    assert expected.shape == (4, 10)
    pw.apply_(model, pw.RoundToNearest(), data=[images])
    assert float((model(images) - expected).norm() / expected.norm()) < 0.03


@torch.no_grad()
def test_as_a_program(tmp_path: Path) -> None:
    """Which has the same names, the same bits, and a flow that can be followed."""
    model = bert()
    batch = Dim("batch")
    program = torch.export.export(model, (), NAMED, dynamic_shapes={name: {0: batch} for name in NAMED})
    torch.export.save(program, tmp_path / "bert.pt2")
    found = pw.create_model(str(tmp_path / "bert.pt2"))
    assert set(found.state_dict()) == set(model.state_dict())
    half = {name: x[:3] for name, x in NAMED.items()}
    torch.testing.assert_close(found(**half), logits(model, half), rtol=0, atol=1e-6)
    applied: Any = pw.apply_(found, pw.RoundToNearest(), data=[NAMED])
    assert "classifier" in applied.changed


def test_weights_come_from_the_seed() -> None:
    one, same, other = (logits(bert(seed=seed), TOKENS) for seed in (0, 0, 1))
    assert one.equal(same)
    assert not one.equal(other)


def test_a_folder_with_weights(tmp_path: Path) -> None:
    model: Any = bert()
    model.save_pretrained(tmp_path / "saved")
    name = f"hf:{tmp_path / 'saved'}"
    found = pw.create_model(name, pretrained=True).eval()
    assert logits(found, TOKENS).equal(logits(model, TOKENS))
    assert holds_weights(name, {"pretrained": True})
    assert not holds_weights(name, {})
    identity = model_identity(name)
    model.save_pretrained(tmp_path / "elsewhere")
    assert model_identity(f"hf:{tmp_path / 'elsewhere'}") == identity  # wherever the folder lies
    bert(seed=1).save_pretrained(tmp_path / "saved")  # type: ignore[operator]
    assert model_identity(name) != identity


@pytest.mark.parametrize(
    ("name", "options", "error"),
    [
        ("hf:", {}, "names nothing: write a model type such as hf:bert"),
        ("hf:bert", {"pretrained": True}, "hf:bert is a type of models, which has no weights: name a model instead"),
        ("hf:bert", {"task": "translation"}, "task='translation'; .*valid: image-classification, text-classification"),
        ("hf:bert", {"task": "image-classification"}, "of type 'bert', which .* no image-classification for"),
        ("hf:vits", {}, r"no image-classification or text-classification for: build it in a Python file"),
        ("hf:bert", {**BERT, "hidden_size": 33}, r"'hf:bert' cannot be made with .*hidden size \(33\)"),
    ],
)
def test_refused(name: str, options: dict[str, Any], error: str) -> None:
    with pytest.raises(RecipeError, match=error):
        pw.create_model(name, **options)


def test_code_that_comes_with_a_model_is_not_run(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(
        '{"model_type": "own", "auto_map": {"AutoConfig": "own.Config"}}', encoding="utf-8"
    )
    (tmp_path / "own.py").write_text(f"open({str(tmp_path / 'mark')!r}, 'w')\n", encoding="utf-8")
    with pytest.raises(RecipeError, match=r"cannot be made with .*contains custom code"):
        pw.create_model(f"hf:{tmp_path}")
    assert not (tmp_path / "mark").exists()


def test_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingDependencyError, match=r"'transformers' is needed .*pennyweight\[hf\]"):
        model_builder("hf:bert")
