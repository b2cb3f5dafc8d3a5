"""The optimiser a regime asks for, with parameters grouped by their rules; and shift-based AdaMax."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from pennyweight.errors import RecipeError
from pennyweight.nn.parameter_rules import ParameterRule, parameter_rules
from pennyweight.numerics.shift import ap2
from pennyweight.training.bop import Bop
from pennyweight.training.regime import Regime, Settings

SMALLEST_SCALE = 2.0**-27
"""Floor of AdaMax's running maximum, where a gradient was always zero."""


class ShiftAdaMax(Optimizer):
    """AdaMax in which both multiplications of the update are shifts by a power of two.

    m <- b1 m + (1 - b1) g;  v <- max(b2 v, |g|);  w <- w - AP2(lr / (1 - b1^t)) * m * AP2(1 / v).
    AP2(x) is the power of two nearest to x in the logarithm.

    Args:
        params: parameters or groups of them, as for torch's optimisers.
        lr: learning rate, at least 0.
        betas: decay of the mean and of the running maximum, each in [0, 1).
        weight_decay: added to the gradient times the weight, at least 0.

    Source: arXiv 1602.02830, algorithm 4.
    Deviations: none from the paper but a floor of 2^-27 under v where it divides. The paper's code stores AP2(v), which
        never decays, because 0.999 * 2^k rounds back to 2^k; here v is rounded only where it is used.

    Example:
        >>> weight = torch.nn.Parameter(torch.ones(1))
        >>> weight.grad = torch.tensor([0.3])
        >>> ShiftAdaMax([weight], lr=2**-5).step()
        >>> weight  # m = 0.3 / 8, AP2(2^-5 * 8) = 2^-2, AP2(1 / 0.3) = 4
        Parameter containing:
        tensor([0.9625], requires_grad=True)
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 2.0**-10,
        betas: tuple[float, float] = (1.0 - 2.0**-3, 1.0 - 2.0**-10),
        weight_decay: float = 0.0,
    ) -> None:
        if lr < 0.0 or weight_decay < 0.0 or not all(0.0 <= beta < 1.0 for beta in betas):
            raise RecipeError(
                f"ShiftAdaMax: lr={lr}, betas={betas}, weight_decay={weight_decay}: rates must be at least 0, "
                f"betas in [0, 1)"
            )
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Update all parameters that have a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update_(parameter, group)
        return loss

    def _update_(self, parameter: Tensor, group: dict[str, Any]) -> None:
        beta1, beta2 = group["betas"]
        gradient = parameter.grad
        assert gradient is not None
        if group["weight_decay"]:
            gradient = gradient.add(parameter, alpha=group["weight_decay"])
        state = self.state[parameter]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.int64)
            state["mean"] = torch.zeros_like(parameter)
            state["maximum"] = torch.zeros_like(parameter)
        state["step"] += 1
        mean, maximum = state["mean"], state["maximum"]
        mean.lerp_(gradient, 1.0 - beta1)
        torch.maximum(maximum.mul_(beta2), gradient.abs(), out=maximum)
        rate = torch.tensor(group["lr"] / (1.0 - beta1 ** int(state["step"])), dtype=torch.float64)
        shifts = ap2(maximum.clamp_min(SMALLEST_SCALE).reciprocal())
        parameter.sub_(mean * shifts * ap2(rate).item())


def build_optimizer(model: nn.Module, regime: Regime) -> Optimizer:
    """The regime's optimiser over the model's trainable parameters.

    Parameters with the same rule (`nn.parameter_rules`) share a group, which remembers it for `set_settings_`.

    Raises:
        RecipeError: no parameter is trainable, or Bop has no signs to flip.
    """
    groups: dict[ParameterRule, list[nn.Parameter]] = {}
    for parameter, rule in parameter_rules(model).items():
        groups.setdefault(rule, []).append(parameter)
    if not groups:
        raise RecipeError(f"{type(model).__name__} has no trainable parameters: nothing to train")
    params = [{"params": members, "lr_scale": rule.lr_scale, "decays": rule.decays} for rule, members in groups.items()]
    betas: dict[str, Any] = {} if regime.betas is None else {"betas": regime.betas}
    if regime.optimizer == "sgd":
        optimizer: Optimizer = SGD(params, lr=regime.lr, momentum=regime.momentum, nesterov=regime.nesterov)
    elif regime.optimizer == "adam":
        optimizer = Adam(params, lr=regime.lr, eps=regime.eps, **betas)
    elif regime.optimizer == "adamw":
        optimizer = AdamW(params, lr=regime.lr, eps=regime.eps, **betas)
    elif regime.optimizer == "bop":
        optimizer = _bop(params, groups, regime, betas)
    else:
        optimizer = ShiftAdaMax(params, lr=regime.lr, **betas)
    set_settings_(optimizer, regime(0))
    return optimizer


def _bop(
    params: list[dict[str, Any]], groups: dict[ParameterRule, list[nn.Parameter]], regime: Regime, betas: dict[str, Any]
) -> Bop:
    """Bop, in which the flip rate of the signs follows the schedule as the learning rate of all else does."""
    if not any(rule.is_sign for rule in groups):
        raise RecipeError("optimizer='bop' flips the signs of binary weights, and the model has none: apply BNN first")
    for group, rule in zip(params, groups, strict=True):
        group["flips"] = rule.is_sign
        if rule.is_sign:
            group["lr_scale"] = regime.flip_rate / regime.lr
    return Bop(params, lr=regime.lr, threshold=regime.flip_threshold, eps=regime.eps, **betas)


def set_settings_(optimizer: Optimizer, settings: Settings) -> None:
    """Give each group its learning rate and weight decay for the coming step."""
    for group in optimizer.param_groups:
        group["lr"] = settings.lr * group["lr_scale"]
        group["weight_decay"] = settings.weight_decay if group["decays"] else 0.0
