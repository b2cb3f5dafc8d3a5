"""Attention by loops over heads, queries and keys in float64; quantization of its operands by scalar rounding."""

import math

import torch
from torch import Tensor


def rounded(x: Tensor, scale: float, zero_point: int, low: int, high: int) -> Tensor:
    flat = [
        (min(high, max(low, round(float(value) / scale) + zero_point)) - zero_point) * scale for value in x.flatten()
    ]
    return torch.tensor(flat, dtype=torch.float64).reshape(x.shape)


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    mask: Tensor | None = None,
    causal: bool = False,
    scale: float | None = None,
    round_probability: object = None,
) -> Tensor:
    """One sample: (heads, n, d), (kv_heads, m, d), (kv_heads, m, e) -> (heads, n, e); operands rounded by the caller.

    A boolean mask is true where a query may look; a float one is added to the scores.
    """
    heads, n, d = query.shape
    kv_heads, m, e = value.shape
    out = torch.zeros(heads, n, e, dtype=torch.float64)
    probabilities = torch.zeros(heads, n, m, dtype=torch.float64)
    for h in range(heads):
        g = h * kv_heads // heads
        for i in range(n):
            scores = []
            for j in range(m):
                dot = sum(float(query[h, i, k]) * float(key[g, j, k]) for k in range(d))
                score = dot * (1 / math.sqrt(d) if scale is None else scale)
                if causal and j > i:
                    score = -math.inf
                if mask is not None:
                    allowed = mask[i, j]
                    if mask.dtype == torch.bool:
                        score = score if bool(allowed) else -math.inf
                    else:
                        score += float(allowed)
                scores.append(score)
            top = max(scores)
            if top == -math.inf:
                continue
            weights = [math.exp(score - top) for score in scores]
            for j in range(m):
                probabilities[h, i, j] = weights[j] / sum(weights)
    if callable(round_probability):
        probabilities = round_probability(probabilities)
    for h in range(heads):
        g = h * kv_heads // heads
        for i in range(n):
            for j in range(m):
                for k in range(e):
                    out[h, i, k] += probabilities[h, i, j] * float(value[g, j, k])
    return out
