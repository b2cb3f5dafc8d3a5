"""Our transformers: options, causality, the cache, generation, and that they export."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import pennyweight as pw
from pennyweight.errors import DataError, RecipeError
from pennyweight.models import Decoder, VisionTransformer, create_model, generate
from pennyweight.nn.positions import LearnedPositions, RotaryPositions

LLAMA: dict[str, Any] = {
    "positions": "rotary",
    "norm_kind": "rms",
    "feed_forward": "swiglu",
    "bias": False,
    "tied": True,
    "kv_heads": 2,
}
KINDS = {"gpt": {}, "llama": LLAMA, "mixed": {"positions": "rotary", "kv_heads": 1}}


def decoder(kind: str, **options: Any) -> Decoder:
    small = {"vocab_size": 19, "max_length": 24, "width": 16, "depth": 2, "heads": 4}
    model = Decoder(**{**small, **KINDS[kind], **options}).eval()
    torch.manual_seed(0)
    for parameter in model.parameters():  # wide logits, so that no two tokens are nearly equal
        parameter.data.add_(0.3 * torch.randn_like(parameter))
    return model


def tokens(*shape: int) -> torch.Tensor:
    return torch.randint(0, 19, shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("kind", KINDS)
def test_a_token_sees_only_those_before(kind: str) -> None:
    model, text = decoder(kind), tokens(1, 12)
    changed = text.clone()
    changed[0, 7:] = (changed[0, 7:] + 1) % 19
    before, after = model(text), model(changed)
    torch.testing.assert_close(before[:, :7], after[:, :7])
    assert not torch.allclose(before[:, 7:], after[:, 7:])


@pytest.mark.parametrize("kind", KINDS)
def test_the_cache_gives_the_logits_of_the_whole(kind: str) -> None:
    model, text = decoder(kind), tokens(3, 14)
    whole, cache = model(text), model.new_cache(3)
    parts = [model.extend(text[:, :6], cache)] + [model.extend(text[:, i : i + 1], cache) for i in range(6, 14)]
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_generation_is_greedy(kind: str) -> None:
    model, slow = decoder(kind), tokens(2, 5)
    fast = generate(model, slow, 10)
    for _ in range(10):
        slow = torch.cat([slow, model(slow)[:, -1].argmax(-1, keepdim=True)], dim=1)
    assert fast.equal(slow)
    assert generate(model, slow, 0).equal(slow)


def test_generation_knows_its_bounds() -> None:
    model = decoder("gpt")
    with pytest.raises(DataError, match="20 \\+ 5 tokens do not fit max_length=24"):
        generate(model, tokens(1, 20), 5)
    with pytest.raises(DataError, match="at least one token"):
        generate(model, tokens(1, 0), 5)
    with pytest.raises(DataError, match="25 tokens do not fit max_length=24"):
        model(tokens(1, 25))


def test_rotation_keeps_lengths_and_depends_on_distance_alone() -> None:
    rotary = RotaryPositions(8, 32)
    torch.manual_seed(0)
    query, key = torch.randn(8), torch.randn(8)
    turned = rotary(query.expand(32, 8))
    torch.testing.assert_close(turned.norm(dim=-1), query.norm().expand(32))
    scores = turned @ rotary(key.expand(32, 8)).T
    for distance in (0, 3, 11):
        diagonal = scores.diagonal(distance)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(rotary(query.expand(1, 8), 5)[0], turned[5])
    assert not list(rotary.state_dict())


def test_rotation_by_hand() -> None:
    angle = torch.tensor([3.0, 3.0 * 100.0**-0.5])  # position 3, two pairs, base 100
    x = torch.tensor([1.0, 2.0, 3.0, 4.0])
    pairs = torch.view_as_complex(x.view(2, 2)) * torch.polar(torch.ones(2), angle)
    torch.testing.assert_close(RotaryPositions(4, 8, 100.0)(x[None], 3)[0], torch.view_as_real(pairs).flatten())


def test_tables_made_while_evaluating_serve_training() -> None:
    rotary, x = RotaryPositions(6, 9, 77.0), torch.randn(9, 6, requires_grad=True)
    with torch.inference_mode():
        rotary(x)
    rotary(x).sum().backward()
    assert x.grad is not None


def test_positions_are_bounded() -> None:
    with pytest.raises(DataError, match="5 tokens do not fit max_length=4"):
        LearnedPositions(4, 2)(torch.zeros(2, 2), 3)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_reach_every_parameter_of_a_decoder(kind: str) -> None:
    model = decoder(kind)
    model(tokens(2, 24)).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in model.parameters())


def test_tied_weights_are_one_parameter() -> None:
    model = decoder("llama")
    assert model.head.weight is model.embedding.weight
    names = [name for name, _ in model.named_parameters()]
    assert "head.weight" not in names
    assert "head.weight" in decoder("gpt").state_dict()


def test_seeds_decide_the_weights_and_their_sizes() -> None:
    first, again = (create_model("decoder", seed=3).state_dict() for _ in range(2))
    other = create_model("decoder", seed=4).state_dict()
    assert all(first[key].equal(again[key]) for key in first)
    assert all(not first[key].equal(other[key]) for key in first if first[key].dim() > 1)
    assert first["embedding.weight"].std().item() == pytest.approx(0.1, rel=0.05)
    assert first["positions.weight"].std().item() == pytest.approx(0.1, rel=0.05)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 10, "heads": 4}, "width=10 must be a multiple of heads=4"),
        ({"heads": 4, "kv_heads": 3}, "heads=4 must be a multiple of kv_heads=3"),
        ({"width": 12, "heads": 4, "positions": "rotary"}, "width / heads = 3 must be even"),
        ({"positions": "sine"}, "positions='sine'"),
        ({"norm_kind": "batch"}, "norm='batch'"),
        ({"feed_forward": "relu"}, "feed_forward='relu'"),
        ({"depth": 0}, "depth=0"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_impossible_decoders(options: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        create_model("decoder", **options)


def test_impossible_encoders() -> None:
    with pytest.raises(RecipeError, match="patch_size=3 must divide the image, 8 x 8"):
        VisionTransformer(patch_size=3)
    with pytest.raises(RecipeError, match="depth=0"):
        VisionTransformer(depth=0)


def test_patches_are_tokens() -> None:
    model = VisionTransformer(input_shape=(2, 4, 6), width=8, heads=2, depth=1, hidden=4).eval()
    assert model.positions.weight.shape == (6, 8)
    x = torch.randn(3, 2, 4, 6)
    assert model(x).shape == (3, 10)
    with torch.no_grad():
        model.positions.weight.zero_()
    moved = torch.cat([x[..., 2:], x[..., :2]], dim=-1)  # without positions the order of patches says nothing
    torch.testing.assert_close(model(x), model(moved))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("quantized", ["float", "W8A8", "W4g8"])
def test_a_decoder_exports(kind: str, quantized: str, tmp_path: Path) -> None:
    model, text = decoder(kind), tokens(2, 24)
    if quantized == "W8A8":
        pw.apply_(model, [pw.RoundToNearest(), pw.QuantizeAttention()], data=[text])
    elif quantized == "W4g8":
        pw.apply_(model, pw.RoundToNearest(weights="int4", activations=None, granularity="group:8"))
    artifact = pw.export(model, tmp_path / "decoder.pw", example_input=text)
    loaded = artifact.model()
    assert loaded(text).equal(model(text))
    assert loaded(text[:1, :3]).equal(model(text[:1, :3]))  # other sizes than the example's


@pytest.mark.parametrize("quantized", [False, True])
def test_an_encoder_exports(quantized: bool, tmp_path: Path) -> None:
    model = create_model("vit-tiny", width=16, depth=2, heads=2).eval()
    x = torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    if quantized:
        pw.apply_(model, [pw.RoundToNearest(), pw.QuantizeAttention()], data=[x])
    artifact = pw.export(model, tmp_path / "encoder.pw", example_input=x)
    assert artifact.model()(x).equal(model(x))
    assert any(isinstance(module, nn.LayerNorm) for module in artifact.model().modules())


@pytest.mark.parametrize("method", [None, "both", "head"])
def test_a_tied_weight_is_stored_once_where_both_round_it_alike(method: str | None, tmp_path: Path) -> None:
    model, text = decoder("llama"), tokens(2, 8)
    if method is not None:
        include = ("*",) if method == "both" else ("head",)
        pw.apply_(model, pw.RoundToNearest(activations=None, include=include))
    artifact = pw.export(model, tmp_path / "tied.pw", example_input=text)
    assert artifact.model()(text).equal(model(text))
    stored = [name for name in artifact.tensors if name.startswith("head.")]
    assert bool(stored) == (method == "head")
    assert min(artifact.size_breakdown.values()) >= 0
