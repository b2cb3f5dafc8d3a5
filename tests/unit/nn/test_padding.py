"""Which values count where tokens are padding."""

import pytest
import torch
from torch import Tensor, nn

import pennyweight as pw
from pennyweight.methods.calibration import heavy_tailed, observe_inputs
from pennyweight.nn.padding import real_tokens, token_mask

MASK = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 0]])


@pytest.mark.parametrize(
    ("shape", "count"),
    [((2, 5, 3), 7 * 3), ((10, 3), 7 * 3), ((2, 4, 5, 3), 7 * 12), ((2, 4, 3, 5), 7 * 12), ((2, 3, 5), 7 * 3)],
)
def test_real_tokens_are_kept(shape: tuple[int, ...], count: int) -> None:
    x = torch.zeros(shape)
    dim = 0 if len(shape) == 2 else next(d for d in range(1, len(shape)) if shape[d] == 5)
    flags = MASK.flatten() if dim == 0 else MASK
    view = x if dim == 0 else x.movedim(dim, 1)
    view[flags.bool()] = 1.0
    kept = real_tokens(x, MASK.bool())
    assert kept.numel() == count
    assert bool((kept == 1).all())


def test_other_shapes_and_no_mask_pass() -> None:
    x = torch.rand(2, 8)
    assert real_tokens(x, MASK.bool()) is x
    y = torch.rand(2, 7, 3)
    assert real_tokens(y, MASK.bool()) is y
    assert real_tokens(y, None) is y
    assert token_mask(x) is None
    assert token_mask({"input_ids": x}) is None
    assert token_mask({"attention_mask": torch.ones(2, 1, 5, 5)}) is None


class Tagger(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(3, 4)
        self.linear = nn.Linear(4, 2)
        with torch.no_grad():
            self.embedding.weight[0] = 100.0  # what padding looks like

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.linear(self.embedding(input_ids))


def test_padding_does_not_widen_the_range() -> None:
    batch = {"input_ids": torch.tensor([[1, 2, 1, 0, 0], [2, 1, 2, 1, 0]]), "attention_mask": MASK}
    seen = observe_inputs(Tagger(), ["linear"], [batch], 8)["linear"]
    assert seen.numel() == 7 * 4
    assert seen.max() < 50
    model = Tagger()
    pw.apply_(model, pw.RoundToNearest(activation_range="minmax"), data=[batch])
    assert float(model.linear.slots.input.quantizer.scale) < 0.1  # type: ignore[operator, union-attr, arg-type]


def test_heavy_tails_are_named() -> None:
    torch.manual_seed(0)
    normal = torch.randn(4000)
    spiked = normal.clone()
    spiked[7] = 200.0
    metrics = heavy_tailed({"a": normal, "b": spiked})
    assert float(metrics["a.input_kurtosis"]) == pytest.approx(3.0, abs=0.4)
    assert metrics["heavy_tailed_inputs"] == "b"
    assert "heavy_tailed_inputs" not in heavy_tailed({"a": normal})
    assert heavy_tailed({"c": torch.ones(5)}) == {"c.input_kurtosis": 0.0}
