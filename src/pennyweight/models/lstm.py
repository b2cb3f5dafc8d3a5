"""A word LSTM language model: embedding, layers of LSTM, linear decoder, dropout between them."""

import math
from typing import Any, no_type_check

import torch
from torch import Tensor, nn

from pennyweight.errors import RecipeError
from pennyweight.numerics.random import Key


class LSTMLanguageModel(nn.Module):
    """Tokens to the logits of the token that follows each; state starts at zero in every window, or is handed on.

    Args:
        vocab_size: tokens there are.
        width: of a token's vector.
        hidden_size: of a layer of LSTM; with tied weights the width.
        num_layers: of LSTM.
        dropout: of vectors, between layers and before the decoder while training, in [0, 1).
        tied: the decoder's weight is the embedding's (arXiv 1608.05859).
        seed: of the initial weights, uniform in +-1 / sqrt(hidden_size), tables in +-0.1; biases 0, forget gates 1.

    Raises:
        RecipeError: a size below 1, a dropout outside [0, 1), or tied weights of two widths.

    Source: arXiv 1409.2329, whose regularised LSTM drops out as here.
    Deviations: the forget gates' bias starts at 1; `carry` of the state is up to the caller.
    """

    def __init__(
        self,
        *,
        vocab_size: int = 10_000,
        width: int = 200,
        hidden_size: int = 200,
        num_layers: int = 2,
        dropout: float = 0.0,
        tied: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if min(vocab_size, width, hidden_size, num_layers) < 1:
            raise RecipeError(
                f"lstm: vocab_size={vocab_size}, width={width}, hidden_size={hidden_size} and num_layers={num_layers} "
                f"must be at least 1"
            )
        if not 0 <= dropout < 1:
            raise RecipeError(f"lstm: dropout={dropout} is no probability in [0, 1)")
        if tied and width != hidden_size:
            raise RecipeError(f"lstm: tied weights need width={width} to equal hidden_size={hidden_size}")
        self.embedding = nn.Embedding(vocab_size, width)
        self.lstm = nn.LSTM(
            width, hidden_size, num_layers, batch_first=True, dropout=dropout if num_layers > 1 else 0.0
        )
        self.dropout = nn.Dropout(dropout)
        self.decoder = nn.Linear(hidden_size, vocab_size)
        self._initialize(seed)
        if tied:
            self.decoder.weight = self.embedding.weight

    @no_type_check  # torch.fx traces it with a proxy in the tensor's place
    def forward(self, tokens: Tensor) -> Tensor:
        """(batch, tokens) int64 -> (batch, tokens, vocab_size), the state being zero before the first token."""
        outputs, _ = self.lstm(self.dropout(self.embedding(tokens)))
        return self.decoder(self.dropout(outputs))

    def extend(self, tokens: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """The logits, and the state to hand to the next window of the same text.

        Args:
            tokens: (batch, tokens) int64.
            state: what the call before returned; None for zeros. Detach it where gradients shall not reach further.
        """
        outputs, state = self.lstm(self.dropout(self.embedding(tokens)), state)
        return self.decoder(self.dropout(outputs)), state

    @torch.no_grad()
    def _initialize(self, seed: int) -> None:
        generator = torch.Generator()
        for name, parameter in self.named_parameters():
            low, high = Key(seed).fold("initialize", name).words
            generator.manual_seed(high << 32 | low)
            bound = 0.1 if name == "embedding.weight" else 1 / math.sqrt(self.lstm.hidden_size)
            if "bias" in name:
                parameter.zero_()
            else:
                nn.init.uniform_(parameter, -bound, bound, generator=generator)
            if "bias_hh" in name:
                parameter[self.lstm.hidden_size : 2 * self.lstm.hidden_size] = 1.0
