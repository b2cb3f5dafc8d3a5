"""`Regime`: what holds at each optimiser step (learning rate, batch size, ...) as a pure function of the step.

Nothing here knows models, data or the optimiser's state; time is counted in optimiser steps, never in epochs.
"""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Literal

from pennyweight.errors import RecipeError, did_you_mean

Schedule = Literal["constant", "cosine", "exponential", "milestones"]
OptimizerName = Literal["sgd", "adam", "adamw", "shift_adamax", "bop"]

SCHEDULES: tuple[str, ...] = ("constant", "cosine", "exponential", "milestones")
OPTIMIZERS: tuple[str, ...] = ("sgd", "adam", "adamw", "shift_adamax", "bop")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What holds during one optimiser step.

    Args:
        lr: learning rate; a parameter's rule may scale it (`nn.parameter_rules`).
        weight_decay: of the parameters whose rule lets them decay.
        batch_size: distinct samples of the step, over all ranks.
        image_size: pixels a side; None keeps the data's own.
        duplicates: copies of each sample in the step, each augmented by itself.
    """

    lr: float
    weight_decay: float
    batch_size: int
    image_size: int | None
    duplicates: int


@dataclass(frozen=True, kw_only=True)
class Regime:
    """A training run's settings over time: `regime(step) -> Settings`, for step 0 to `steps - 1`.

    A regime keeps no state, so a resumed run asks it the same questions as an uninterrupted one. Subclasses override
    `__call__` to vary batch size, image size or copies over time; everything else follows from it.

    Args:
        steps: optimiser steps of the whole run, at least 1.
        lr: highest learning rate, at least 0.
        schedule: "constant", "cosine" (to `final_lr`), "exponential" (to `final_lr`, by one factor a step) or
            "milestones" (times `milestone_factor` at each of `milestone_steps`).
        final_lr: where cosine and exponential end, 0 to `lr`; above 0 for exponential.
        milestone_steps: rising steps at which the learning rate drops, each from 1 to `steps - 1`.
        milestone_factor: in (0, 1].
        warmup_steps: steps over which the learning rate rises linearly, 0 to `steps`.
        batch_size: distinct samples a step over all ranks, at least 1.
        weight_decay: at least 0.
        optimizer: "sgd", "adam", "adamw", "shift_adamax", or "bop": signs flipped by Bop, all else by Adam.
        momentum: of sgd, in [0, 1).
        nesterov: of sgd.
        betas: decay rates of the adaptive optimisers; None takes each one's own defaults.
        eps: of adam and adamw.
        flip_rate: of bop, the weight of a step's gradient in its running mean, in (0, 1]; it follows the schedule as
            the learning rate does.
        flip_threshold: of bop, how large that mean must be to flip a sign, at least 0.
        duplicates: copies of each sample a step (batch augmentation), at least 1.
        image_size: pixels a side; None keeps the data's own.
        clip_norm: largest global norm of the gradient; None never clips.

    Raises:
        RecipeError: a value out of its range.

    Example:
        >>> regime = Regime.cosine(steps=100, lr=0.1, warmup_steps=10)
        >>> [round(regime(step).lr, 4) for step in (0, 9, 10, 55, 99)]
        [0.01, 0.1, 0.1, 0.05, 0.0]
    """

    steps: int
    lr: float
    schedule: Schedule = "constant"
    final_lr: float = 0.0
    milestone_steps: tuple[int, ...] = ()
    milestone_factor: float = 0.1
    warmup_steps: int = 0
    batch_size: int = 128
    weight_decay: float = 0.0
    optimizer: OptimizerName = "sgd"
    momentum: float = 0.9
    nesterov: bool = False
    betas: tuple[float, float] | None = None
    eps: float = 1e-8
    flip_rate: float = 1e-4
    flip_threshold: float = 1e-8
    duplicates: int = 1
    image_size: int | None = None
    clip_norm: float | None = None

    @classmethod
    def constant(cls, *, steps: int, lr: float, **settings: Any) -> "Regime":
        """The same learning rate from the end of the warm-up on; further settings are the fields of `Regime`."""
        return cls(steps=steps, lr=lr, schedule="constant", **settings)

    @classmethod
    def cosine(cls, *, steps: int, lr: float, final_lr: float = 0.0, **settings: Any) -> "Regime":
        """Half a cosine from `lr` at the end of the warm-up towards `final_lr` at step `steps`."""
        return cls(steps=steps, lr=lr, schedule="cosine", final_lr=final_lr, **settings)

    @classmethod
    def exponential(cls, *, steps: int, lr: float, final_lr: float, **settings: Any) -> "Regime":
        """From `lr` at the end of the warm-up towards `final_lr` at step `steps`, by the same factor each step."""
        return cls(steps=steps, lr=lr, schedule="exponential", final_lr=final_lr, **settings)

    @classmethod
    def milestones(
        cls,
        *,
        steps: int,
        lr: float,
        milestone_steps: tuple[int, ...],
        milestone_factor: float = 0.1,
        **settings: Any,
    ) -> "Regime":
        """`lr` times `milestone_factor` for each milestone reached."""
        return cls(
            steps=steps,
            lr=lr,
            schedule="milestones",
            milestone_steps=milestone_steps,
            milestone_factor=milestone_factor,
            **settings,
        )

    def __call__(self, step: int) -> Settings:
        """What holds at optimiser step `step`."""
        assert 0 <= step < self.steps, f"step {step} of a regime of {self.steps} steps"
        return Settings(
            lr=self._lr(step),
            weight_decay=self.weight_decay,
            batch_size=self.batch_size,
            image_size=self.image_size,
            duplicates=self.duplicates,
        )

    def _lr(self, step: int) -> float:
        if step < self.warmup_steps:
            return self.lr * (step + 1) / self.warmup_steps
        if self.schedule == "cosine":
            progress = (step - self.warmup_steps) / (self.steps - self.warmup_steps)
            return self.final_lr + (self.lr - self.final_lr) * (1.0 + math.cos(math.pi * progress)) / 2.0
        if self.schedule == "exponential":
            progress = (step - self.warmup_steps) / (self.steps - self.warmup_steps)
            return float(self.lr * (self.final_lr / self.lr) ** progress)
        if self.schedule == "milestones":
            passed = sum(step >= milestone for milestone in self.milestone_steps)
            return self.lr * self.milestone_factor**passed
        return self.lr

    def first_sample(self, step: int) -> int:
        """Position in the stream of samples at which `step` starts: the distinct samples of all steps before it."""
        return sum(self(earlier).batch_size for earlier in range(step))

    def to_dict(self) -> dict[str, Any]:
        """All settings as plain values; `Regime(**settings)` is the regime again."""
        return dataclasses.asdict(self)

    def __post_init__(self) -> None:
        self._check_word("schedule", SCHEDULES)
        self._check_word("optimizer", OPTIMIZERS)
        for name in ("steps", "batch_size", "duplicates"):
            self._check(name, getattr(self, name) >= 1, "at least 1")
        for name in ("lr", "weight_decay"):
            self._check(name, 0.0 <= getattr(self, name) < math.inf, "a finite number, at least 0")
        self._check("final_lr", 0.0 <= self.final_lr <= self.lr, f"from 0 to lr={self.lr:g}")
        self._check(
            "final_lr", self.schedule != "exponential" or self.final_lr > 0.0, "above 0 for schedule='exponential'"
        )
        self._check("lr", self.lr > 0.0 or self.optimizer != "bop", "above 0 for optimizer='bop'")
        self._check("flip_rate", 0.0 < self.flip_rate <= 1.0, "in (0, 1]")
        self._check("flip_threshold", 0.0 <= self.flip_threshold < math.inf, "a finite number, at least 0")
        self._check("warmup_steps", 0 <= self.warmup_steps <= self.steps, f"from 0 to steps={self.steps}")
        self._check("momentum", 0.0 <= self.momentum < 1.0, "in [0, 1)")
        self._check("nesterov", not self.nesterov or self.momentum > 0.0, "False where momentum is 0")
        self._check("eps", self.eps > 0.0, "above 0")
        betas_valid = self.betas is None or all(0.0 <= beta < 1.0 for beta in self.betas)
        self._check("betas", betas_valid, "two numbers in [0, 1), or None for the optimizer's own")
        self._check("image_size", self.image_size is None or self.image_size >= 1, "at least 1, or None")
        self._check("clip_norm", self.clip_norm is None or self.clip_norm > 0.0, "above 0, or None")
        self._check("milestone_factor", 0.0 < self.milestone_factor <= 1.0, "in (0, 1]")
        rising = list(self.milestone_steps) == sorted(set(self.milestone_steps))
        within = all(1 <= milestone < self.steps for milestone in self.milestone_steps)
        self._check("milestone_steps", rising and within, f"rising steps from 1 to {self.steps - 1}")
        used = self.schedule == "milestones"
        self._check(
            "milestone_steps",
            bool(self.milestone_steps) == used,
            "given with schedule='milestones' and only with it",
        )

    def _check(self, name: str, valid: bool, allowed: str) -> None:
        if not valid:
            raise RecipeError(f"regime: {name}={getattr(self, name)!r}, must be {allowed}")

    def _check_word(self, name: str, allowed: tuple[str, ...]) -> None:
        word = getattr(self, name)
        if word not in allowed:
            raise RecipeError(f"regime: unknown {name} {word!r}: {did_you_mean(str(word), allowed)}")
