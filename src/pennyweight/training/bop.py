"""`Bop`: an optimiser that flips signs instead of moving latent weights; Adam for everything else."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from pennyweight.errors import RecipeError


class Bop(Optimizer):
    """Binary weights flip where a running mean of their gradient persistently asks for it; other groups take Adam.

    m <- (1 - lr) m + lr g;  w <- -sign(w) where |m| > threshold and sign(m) = sign(w).
    The learning rate of a flipping group is the weight of a step's gradient in that mean: the smaller, the longer a
    gradient has to persist. Weights hold no more than a sign; where latent weights are given, their size is ignored.

    Args:
        params: parameters or groups of them; a group with `"flips": False` is optimised by Adam.
        lr: of flipping groups in (0, 1]; of Adam's, its learning rate.
        threshold: at least 0.
        betas: of Adam.
        eps: of Adam, above 0.
        weight_decay: of Adam's groups, added to the gradient times the weight, at least 0.

    Source: arXiv 1906.02107, algorithm 1.
    Deviations: a mean of exactly 0 asks for nothing.

    Example:
        >>> weight = torch.nn.Parameter(torch.tensor([1.0, 1.0, -1.0]))
        >>> weight.grad = torch.tensor([0.5, -0.5, 0.5])
        >>> Bop([weight], lr=0.1, threshold=0.01).step()
        >>> weight.tolist()  # only the first is pulled to the other side
        [-1.0, 1.0, -1.0]
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-4,
        threshold: float = 1e-8,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        if lr < 0 or threshold < 0 or eps <= 0 or weight_decay < 0 or not all(0 <= beta < 1 for beta in betas):
            raise RecipeError(
                f"Bop: lr={lr}, threshold={threshold}, betas={betas}, eps={eps}, weight_decay={weight_decay}: rates "
                f"and threshold must be at least 0, betas in [0, 1), eps above 0"
            )
        defaults = {"lr": lr, "threshold": threshold, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, {**defaults, "flips": True})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Update all parameters that have a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            update_ = self._flip_ if group["flips"] else self._adam_
            for parameter in group["params"]:
                if parameter.grad is not None:
                    update_(parameter, parameter.grad, group)
        return loss

    def _flip_(self, weight: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[weight]
        if not state:
            state["mean"] = torch.zeros_like(weight)
        mean = state["mean"].lerp_(gradient, group["lr"])
        positive = weight >= 0
        asked = (mean.abs() > group["threshold"]) & (mean != 0) & ((mean > 0) == positive)
        weight.copy_(torch.where(asked, torch.where(positive, -1.0, 1.0).to(weight.dtype), weight))

    def _adam_(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        if group["weight_decay"]:
            gradient = gradient.add(parameter, alpha=group["weight_decay"])
        state = self.state[parameter]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.int64)
            state["mean"], state["square"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        state["step"] += 1
        beta1, beta2 = group["betas"]
        state["mean"].lerp_(gradient, 1.0 - beta1)
        state["square"].mul_(beta2).addcmul_(gradient, gradient, value=1.0 - beta2)
        steps = int(state["step"])
        spread = (state["square"] / (1.0 - beta2**steps)).sqrt_().add_(group["eps"])
        parameter.addcdiv_(state["mean"], spread, value=-group["lr"] / (1.0 - beta1**steps))
