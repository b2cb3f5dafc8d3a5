"""`perplexity`: how surprised a language model is by a text, with an interval from blocks of it."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pennyweight.data.dataset import TextDataset
from pennyweight.errors import DataError, NumericsError
from pennyweight.nn.calling import output_tensor
from pennyweight.nn.modes import in_mode
from pennyweight.numerics.measure import Interval

_MOST_BLOCKS = 32  # neighbouring windows resemble each other; larger blocks are nearly independent


@dataclass(frozen=True, kw_only=True)
class Perplexity:
    """How well a language model predicts a text.

    Args:
        value: exp(loss); 1 is certainty, the vocabulary's size is a guess.
        loss: mean negative log-likelihood of a predicted token, in nats.
        interval: of the value at 95 % confidence, for texts like this one.
        n: predicted tokens.
        blocks: stretches of text the interval is computed from.
        correct: (n,) bool on the CPU: which of them had the highest logit.
    """

    value: float
    loss: float
    interval: Interval
    n: int
    blocks: int
    correct: Tensor = field(repr=False, compare=False)


@dataclass(frozen=True)
class _Window:
    inputs: Tensor  # (tokens,)
    targets: Tensor  # (tokens,)
    scored: int  # the last so many targets, which no window before has predicted


def perplexity(
    model: nn.Module | Callable[[Tensor], Any],
    tokens: Tensor | TextDataset,
    context: int,
    stride: int | None = None,
    *,
    batch_size: int = 16,
) -> Perplexity:
    """Predict each token of a text from those before it, at most `context` of them.

    The text is read in windows of `context` tokens, one every `stride` tokens; each token is scored once, in the
    first window that predicts it, so it has at least context - stride tokens before it.

    Args:
        model: from (batch, tokens) int64 to logits (batch, tokens, vocabulary), or an object that holds them.
        tokens: (N,) one text, or (texts, N) texts of their own, the first token of each being given.
        context: tokens the model sees at once, >= 1.
        stride: tokens between windows, 1..context; None for context, which is fastest.
        batch_size: windows at a time.

    Raises:
        DataError: no token can be predicted, or a number is out of range.
        NumericsError: an output is NaN.

    Example:
        >>> import pennyweight as pw
        >>> model = pw.create_model("decoder", vocab_size=10, max_length=8)
        >>> perplexity(model, torch.arange(10).repeat(4), context=8).n
        39
    """
    stride = context if stride is None else stride
    if context < 1 or not 1 <= stride <= context or batch_size < 1:
        raise DataError(f"context={context}, stride={stride}, batch_size={batch_size}: need 1 <= stride <= context")
    flat = tokens.tokens if isinstance(tokens, TextDataset) else tokens
    texts = flat if flat.dim() == 2 else flat[None]
    if texts.dim() != 2 or texts.shape[1] < 2 or not len(texts):
        raise DataError(f"tokens of shape {tuple(flat.shape)} leave nothing to predict: a text needs two tokens")
    windows = [window for text in texts for window in _windows(text, context, stride)]
    if isinstance(model, nn.Module):
        device = next((parameter.device for parameter in model.parameters()), flat.device)
        with in_mode(model, training=False):
            sums, correct = _losses(model, windows, batch_size, device)
    else:
        sums, correct = _losses(model, windows, batch_size, flat.device)
    return _result(sums, correct, torch.tensor([window.scored for window in windows], dtype=torch.float64))


def _windows(text: Tensor, context: int, stride: int) -> Iterator[_Window]:
    predicted = 0  # targets are text[1:]; how many of them have been scored
    for start in range(0, len(text) - 1, stride):
        stop = min(start + context, len(text) - 1)
        yield _Window(text[start:stop], text[start + 1 : stop + 1], stop - predicted)
        predicted = stop
        if stop == len(text) - 1:
            return


@torch.no_grad()
def _losses(
    model: Callable[[Tensor], Any], windows: list[_Window], batch_size: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """The sum of the scored tokens' losses for each window, float64, and which of them were the likeliest."""
    sums: list[float] = []
    correct: list[Tensor] = []
    start = 0
    while start < len(windows):
        length = len(windows[start].inputs)
        stop = start + 1
        while stop < min(len(windows), start + batch_size) and len(windows[stop].inputs) == length:
            stop += 1
        together = windows[start:stop]
        inputs = torch.stack([window.inputs for window in together]).to(device)
        targets = torch.stack([window.targets for window in together]).to(device)
        logits = output_tensor(model(inputs)).float()
        losses = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").reshape(targets.shape)
        if losses.isnan().any():
            raise NumericsError(f"the model's output for window {start} is NaN: look for NaN in its weights")
        sums += [float(row[-window.scored :].double().sum()) for row, window in zip(losses, together, strict=True)]
        right = logits.argmax(-1) == targets
        correct += [row[-window.scored :] for row, window in zip(right, together, strict=True)]
        start = stop
    return torch.tensor(sums, dtype=torch.float64), torch.cat(correct).cpu()


def _result(sums: Tensor, correct: Tensor, counts: Tensor) -> Perplexity:
    """Mean and interval of a ratio of sums over blocks of neighbouring windows."""
    blocks = min(_MOST_BLOCKS, len(sums))
    edges = torch.linspace(0, len(sums), blocks + 1).round().long().diff().tolist()
    block_sums = torch.stack([part.sum() for part in sums.split(edges)])
    block_counts = torch.stack([part.sum() for part in counts.split(edges)])
    n = int(counts.sum())
    loss = float(sums.sum()) / n
    half = math.inf
    if blocks > 1:
        from scipy import stats

        residuals = block_sums - loss * block_counts
        error = math.sqrt(blocks / (blocks - 1) * float(residuals.square().sum())) / n
        half = float(stats.t.ppf(0.975, blocks - 1)) * error
    low, high = math.exp(loss - half), _exp(loss + half)
    return Perplexity(
        value=_exp(loss),
        loss=loss,
        interval=Interval(_exp(loss), low, high, 0.95, blocks),
        n=n,
        blocks=blocks,
        correct=correct,
    )


def _exp(loss: float) -> float:
    """exp, infinite where a float64 ends."""
    return math.exp(loss) if loss < 709 else math.inf
