"""Distillation: a quantized or smaller net learns the float net's answers instead of labels."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pennyweight.data.loader import Batch
from pennyweight.errors import RecipeError
from pennyweight.nn.calling import output_tensor
from pennyweight.nn.modes import in_mode


@dataclass(frozen=True, kw_only=True)
class Distillation:
    """temperature^2 KL(softmax(teacher / temperature) || softmax(student / temperature)), a sample: for `train`.

    The factor keeps gradients of the same size at any temperature. Batch norms of the student stay in evaluation mode:
    on synthetic images they would drift towards what these images have.

    Args:
        teacher: the float net; never changed.
        temperature: above 0; higher ones look more at unlikely classes.

    Source: arXiv 1503.02531, section 2; arXiv 1912.01274, section 4 for its use on synthetic images.

    Example:
        >>> import copy, pennyweight as pw
        >>> student, data = pw.create_model("mlp"), pw.load_dataset("digits")
        >>> objective = pw.Distillation(teacher=copy.deepcopy(student))
        >>> regime = pw.Regime.cosine(steps=2, lr=1e-3, batch_size=32)
        >>> abs(pw.train(student, data, regime, objective=objective, progress=False).history[0]) < 1e-6
        True
    """

    teacher: nn.Module
    temperature: float = 4.0

    def __post_init__(self) -> None:
        """Check the temperature."""
        if not self.temperature > 0:
            raise RecipeError(f"temperature={self.temperature}: must be above 0")

    def __call__(self, model: nn.Module, batch: Batch) -> Tensor:
        """One loss a sample, (batch,)."""
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
        self.teacher.to(batch.inputs.device)
        with torch.no_grad(), in_mode(self.teacher, training=False):
            wanted = F.log_softmax(output_tensor(self.teacher(batch.inputs)).float() / self.temperature, 1)
        given = F.log_softmax(output_tensor(model(batch.inputs)).float() / self.temperature, 1)
        return self.temperature**2 * F.kl_div(given, wanted, log_target=True, reduction="none").sum(1)
