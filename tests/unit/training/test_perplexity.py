"""Perplexity against a slow count, each token once; its interval; language-model batches."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import pennyweight as pw
from pennyweight.data import TextDataset
from pennyweight.errors import DataError, NumericsError
from pennyweight.training.language import next_token_loss, text_source
from pennyweight.training.perplexity import perplexity

VOCABULARY = 7


class Causal(nn.Module):
    """Logits that depend on the sum of all tokens seen, so that every token of the context counts."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(VOCABULARY, VOCABULARY, generator=torch.Generator().manual_seed(0)))

    def forward(self, tokens: Tensor) -> Tensor:
        return self.table[tokens].cumsum(1)


def slow(model: Causal, tokens: Tensor, context: int, stride: int) -> tuple[float, int]:
    """The sum of losses, token by token, from the window a reader of the docstring would choose."""
    total, count = 0.0, 0
    for target in range(1, len(tokens)):
        start = 0
        while start + context < target:  # the first window whose targets reach this token
            start += stride
        logits = model(tokens[None, start:target])[0, -1]
        total -= float(logits.log_softmax(-1)[tokens[target]])
        count += 1
    return total, count


@settings(max_examples=40, deadline=None)
@given(data=st.data(), length=st.integers(2, 30), context=st.integers(1, 12), batch_size=st.integers(1, 5))
@torch.no_grad()
def test_each_token_once_from_the_right_window(data: st.DataObject, length: int, context: int, batch_size: int) -> None:
    stride = data.draw(st.integers(1, context))
    tokens = torch.randint(0, VOCABULARY, (length,), generator=torch.Generator().manual_seed(length))
    model = Causal()
    found = perplexity(model, tokens, context, stride, batch_size=batch_size)
    total, count = slow(model, tokens, context, stride)
    assert found.n == count
    assert found.loss == pytest.approx(total / count, rel=1e-4)
    assert found.value == pytest.approx(math.exp(found.loss))
    assert found.interval.low <= found.value <= found.interval.high


def test_rows_are_texts_of_their_own() -> None:
    texts = torch.randint(0, VOCABULARY, (3, 9), generator=torch.Generator().manual_seed(0))
    model = Causal()
    alone = [perplexity(model, text, 5) for text in texts]
    together = perplexity(model, texts, 5)
    assert together.n == 24
    assert together.loss == pytest.approx(sum(one.loss for one in alone) / 3)


def test_a_uniform_guess_is_the_vocabulary() -> None:
    found = perplexity(lambda tokens: torch.zeros(*tokens.shape, 50), torch.arange(50), 8)
    assert found.value == pytest.approx(50)
    assert found.interval.high - found.interval.low == pytest.approx(0, abs=1e-3)


def test_the_interval_covers() -> None:
    """Of 40 texts from one source about 38 intervals hold the truth; 33 is beyond chance by far."""
    probabilities = torch.tensor([0.5, 0.3, 0.2])
    truth = math.exp(float(-(probabilities * probabilities.log()).sum()))
    generator, hits = torch.Generator().manual_seed(0), 0
    for _ in range(40):
        tokens = probabilities.multinomial(2000, replacement=True, generator=generator)
        found = perplexity(lambda x: probabilities.log().expand(*x.shape, 3), tokens, 20)
        hits += found.interval.low <= truth <= found.interval.high
    assert hits >= 33


def test_modes_are_given_back_and_objects_with_logits_understood() -> None:
    model = nn.Sequential(Causal(), nn.Dropout(0.5)).train()
    tokens = torch.arange(7)
    first, second = perplexity(model, tokens, 4), perplexity(model, tokens, 4)
    assert first == second
    assert model.training

    class Output:
        def __init__(self, logits: Tensor) -> None:
            self.logits = logits

    assert perplexity(lambda x: Output(model[0](x).detach()), tokens, 4).loss == pytest.approx(first.loss)


def test_what_cannot_be_measured() -> None:
    model = Causal()
    for context, stride in ((0, 1), (4, 5), (4, 0)):
        with pytest.raises(DataError, match=f"context={context}, stride={stride}"):
            perplexity(model, torch.arange(7), context, stride)
    with pytest.raises(DataError, match="leave nothing to predict"):
        perplexity(model, torch.tensor([3]), 4)
    with pytest.raises(NumericsError, match="NaN"):
        perplexity(lambda x: torch.full((*x.shape, 7), math.nan), torch.arange(7), 4)
    assert perplexity(model, torch.tensor([3, 1]), 4).interval.high == math.inf  # one block says nothing of spread


def text(count: int = 400) -> TextDataset:
    """A cycle of ten tokens: after a while nothing is left to guess."""
    tokens = torch.arange(count) % 10
    return TextDataset(tokens=tokens, vocabulary=tuple("abcdefghij"), name="cycle", split="train")


def test_the_source_is_pure_and_shares_batches_among_ranks() -> None:
    source = text_source(text(), 6)
    whole = source(8, 4, 0, 1)
    assert whole.inputs.shape == whole.targets.shape == (4, 6)
    assert whole.targets[:, :-1].equal(whole.inputs[:, 1:])
    halves = [source(8, 4, rank, 2) for rank in (0, 1)]
    assert halves[0].inputs.equal(whole.inputs[0::2])
    assert halves[1].inputs.equal(whole.inputs[1::2])
    starts = torch.cat([source(i * 64, 64, 0, 1).indices for i in range(30)])
    assert int(starts.min()) < 5
    assert int(starts.max()) > 388
    assert len(starts.unique()) > 380
    with pytest.raises(DataError, match="too few for windows of context=400"):
        text_source(text(), 400)


def test_a_decoder_learns_a_cycle() -> None:
    model = pw.create_model("decoder", vocab_size=10, max_length=16, width=16, depth=1, heads=2)
    regime = pw.Regime.cosine(steps=60, lr=1e-2, batch_size=16, optimizer="adam")
    pw.train(model, text_source(text(), 16), regime, objective=next_token_loss, progress=False)
    assert perplexity(model, text(), 16).value < 1.2
