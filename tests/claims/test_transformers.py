"""Transformers after training: eight bits throughout, and weights alone in four bits by groups (arXiv 2006.10518).

Settings are fixed here: perplexity is measured on texts drawn from the float model itself, of which it is the true
source, so no other model can do better, and what quantization adds to the loss is its divergence from the float model.
"""

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import pennyweight as pw
from pennyweight.data import TextDataset
from pennyweight.data.text import tokenize
from pennyweight.data.tokenizer import read_tokenizer
from pennyweight.models import Decoder, generate
from pennyweight.models.llama2c import load_llama2c
from pennyweight.training.language import next_token_loss, text_source
from pennyweight.training.perplexity import perplexity

W8A8 = (pw.RoundToNearest(), pw.QuantizeAttention())
W4 = (pw.RoundToNearest(weights="int4", activations=None, granularity="group:128"),)


def quantized(model: nn.Module, methods: tuple[pw.Method, ...], data: Tensor) -> nn.Module:
    twin = copy.deepcopy(model)
    pw.apply_(twin, methods, data=[data])
    return twin


def test_an_encoder_of_digits_keeps_its_answers(tmp_path: Path) -> None:
    train, test = pw.load_dataset("digits"), pw.load_dataset("digits", "test")
    model = pw.create_model("vit-tiny", width=48, depth=2)
    regime = pw.Regime.cosine(steps=300, lr=5e-3, batch_size=64, optimizer="adam")
    pw.train(model, train, regime, progress=False)
    before = pw.evaluate(model, test)
    assert before.accuracy > 0.93
    images = train.normalize(train.images[:256])
    groups = pw.RoundToNearest(weights="int4", activations=None, granularity="group:128", exclude=("patches",))
    for methods, lost in ((W8A8, 0.01), ((groups,), 0.03)):
        twin = quantized(model, methods, images)
        assert before.accuracy - pw.evaluate(twin, test).accuracy <= lost
        artifact = pw.export(twin.eval(), tmp_path / "encoder.pw", example_input=images[:4])
        assert pw.evaluate(artifact.model(), test).predictions.equal(pw.evaluate(twin, test).predictions)


@pytest.mark.slow
def test_a_decoder_of_characters_keeps_its_perplexity(tmp_path: Path) -> None:
    """Trained on this library's own account of itself, the only English that is always at hand."""
    tokens, vocabulary = tokenize(" ".join(kind.__doc__ or "" for kind in (pw.RoundToNearest, pw.BNN)), "characters")
    text = TextDataset(tokens=tokens, vocabulary=vocabulary, name="cards", split="train")
    model = Decoder(vocab_size=len(vocabulary), max_length=48, width=64, depth=2, heads=4, tied=True)
    regime = pw.Regime.cosine(steps=400, lr=3e-3, batch_size=16, optimizer="adam")
    pw.train(model, text_source(text, 48), regime, objective=next_token_loss, progress=False)
    before = perplexity(model, text, 48).value
    assert before < 12
    windows = text_source(text, 48)(0, 32, 0, 1).inputs
    for methods, factor in ((W8A8, 1.02), (W4, 1.25)):
        twin = quantized(model, methods, windows).eval()
        assert perplexity(twin, text, 48).value <= before * factor
        artifact = pw.export(twin, tmp_path / "decoder.pw", example_input=windows[:2])
        assert artifact.model()(windows[:4]).equal(twin(windows[:4]))


@pytest.fixture(scope="module")
def public(data_root: Path) -> tuple[Decoder, Tensor, Tensor]:
    """The public 233k-parameter decoder, texts it wrote for calibration and others for the test."""
    folder = data_root / "nets" / "lm"
    if not folder.is_dir():
        pytest.skip("the small language model is not laid out: nets/lm under PENNYWEIGHT_DATA")
    model = load_llama2c(folder / "aidreams260K.bin")
    assert read_tokenizer(folder / "tok512.bin").vocabulary[1] == "\n<s>\n"
    start = torch.ones((128, 1), dtype=torch.int64)
    calibration = generate(model, start[:32], 127, torch.Generator().manual_seed(1))
    return model, calibration, generate(model, start, 127, torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("methods", "factor", "share"), [(W8A8, 1.01, 0.31), (W4, 1.08, 0.18)], ids=["W8A8", "W4 group-128"]
)
def test_the_public_decoder_keeps_its_perplexity(
    public: tuple[Decoder, Tensor, Tensor],
    methods: tuple[pw.Method, ...],
    factor: float,
    share: float,
    tmp_path: Path,
) -> None:
    model, calibration, texts = public
    before, twin = perplexity(model, texts, 127), quantized(model, methods, calibration)
    after = perplexity(twin, texts, 127)
    print(f"perplexity {before.value:.3f} -> {after.value:.3f}, n={after.n} tokens")
    assert after.value <= before.value * factor
    artifact = pw.export(twin, tmp_path / "decoder.pw", example_input=texts[:2])
    assert artifact.model()(texts[:8]).equal(twin(texts[:8]))
    weights = 4 * sum(parameter.numel() for parameter in model.parameters())
    packed = sum(size for role, size in artifact.size_breakdown.items() if role != "manifest")
    assert packed <= share * weights


@pytest.mark.slow
def test_eight_bit_attention_costs_little_more(public: tuple[Decoder, Tensor, Tensor]) -> None:
    model, calibration, texts = public
    layers = perplexity(quantized(model, W8A8[:1], calibration), texts, 127)
    products = perplexity(quantized(model, W8A8, calibration), texts, 127)
    assert products.loss - layers.loss < 0.005
