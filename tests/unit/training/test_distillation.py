"""Distillation: the loss against its formula, a student that follows its teacher without labels, frozen batch norms."""

import copy

import pytest
import torch
from torch import Tensor, nn

import pennyweight as pw
from pennyweight.data.loader import Batch
from pennyweight.errors import RecipeError


def batch(n: int = 16, features: int = 6) -> Batch:
    inputs = torch.randn(n, features, generator=torch.Generator().manual_seed(0))
    zeros = torch.zeros(n, dtype=torch.int64)
    return Batch(inputs=inputs, targets=zeros, indices=zeros)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_the_loss_is_the_scaled_kl_of_softened_answers(temperature: float) -> None:
    torch.manual_seed(0)
    teacher, student, data = nn.Linear(6, 5), nn.Linear(6, 5), batch()
    losses = pw.Distillation(teacher=teacher, temperature=temperature)(student, data)
    p = torch.distributions.Categorical(logits=teacher(data.inputs) / temperature)
    q = torch.distributions.Categorical(logits=student(data.inputs) / temperature)
    torch.testing.assert_close(losses, temperature**2 * torch.distributions.kl_divergence(p, q))
    losses.sum().backward()
    assert teacher.weight.grad is None
    assert student.weight.grad is not None


def test_labels_are_never_looked_at() -> None:
    torch.manual_seed(0)
    teacher, student, data = nn.Linear(6, 5), nn.Linear(6, 5), batch()
    other = Batch(inputs=data.inputs, targets=data.targets + 3, indices=data.indices)
    objective = pw.Distillation(teacher=teacher)
    assert torch.equal(objective(student, data), objective(student, other))


def test_a_quantized_student_learns_and_its_batch_norms_stay() -> None:
    data = pw.load_dataset("digits", "train")
    torch.manual_seed(0)
    teacher = pw.create_model("mlp", hidden=(32,), bn_output=True)
    pw.train(teacher, data, pw.Regime.cosine(steps=100, lr=3e-3, optimizer="adam"), progress=False)
    student = copy.deepcopy(teacher)
    pw.apply_(student, pw.RoundToNearest(weights="int2", activations=None, fold_batchnorm=False))
    statistics = {key: value.clone() for key, value in student.named_buffers() if "running" in key}
    regime = pw.Regime.cosine(steps=60, lr=1e-3, batch_size=64, optimizer="adam")
    result = pw.train(student, data, regime, objective=pw.Distillation(teacher=teacher), progress=False)
    assert sum(result.history[-5:]) < 0.7 * sum(result.history[:5])
    assert statistics
    for key, value in student.named_buffers():
        if key in statistics:
            assert torch.equal(value, statistics[key]), key
    assert not teacher.training or all(p.grad is None for p in teacher.parameters())


def test_a_temperature_of_nothing_is_refused() -> None:
    with pytest.raises(RecipeError, match="must be above 0"):
        pw.Distillation(teacher=nn.Linear(2, 2), temperature=0.0)


def test_models_that_return_objects_work() -> None:
    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(6, 5)

        def forward(self, x: Tensor) -> tuple[Tensor, str]:
            return self.head(x), "more"

    assert pw.Distillation(teacher=Wrapped())(Wrapped(), batch()).shape == (16,)
