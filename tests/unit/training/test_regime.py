"""A regime is a pure function of the step with closed forms, and refuses what makes no sense."""

import dataclasses
import math
from typing import Any

import pytest

from pennyweight.errors import PennyweightError, RecipeError
from pennyweight.training.regime import Regime, Settings


def lrs(regime: Regime) -> list[float]:
    return [regime(step).lr for step in range(regime.steps)]


def test_constant_with_warmup_rises_linearly_and_stays() -> None:
    assert lrs(Regime.constant(steps=6, lr=0.4, warmup_steps=4)) == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.4, 0.4])


def test_cosine_is_its_closed_form() -> None:
    regime = Regime.cosine(steps=50, lr=0.2, final_lr=0.02, warmup_steps=10)
    expected = [0.02 + 0.18 * math.cos(math.pi * (t - 10) / 80) ** 2 for t in range(10, 50)]  # half-angle form
    assert lrs(regime)[10:] == pytest.approx(expected, rel=1e-12)
    assert regime(10).lr == 0.2


def test_cosine_falls_all_the_way() -> None:
    rates = lrs(Regime.cosine(steps=100, lr=1.0))
    assert rates == sorted(rates, reverse=True)
    assert 0.0 < rates[-1] < 1e-3


def test_exponential_falls_by_one_factor() -> None:
    regime = Regime.exponential(steps=25, lr=0.8, final_lr=0.8 / 2**20, warmup_steps=5)
    assert lrs(regime)[5:] == pytest.approx([0.8 / 2**t for t in range(20)], rel=1e-12)
    assert lrs(regime)[:5] == pytest.approx([0.16, 0.32, 0.48, 0.64, 0.8])


def test_milestones_drop_at_the_named_steps() -> None:
    regime = Regime.milestones(steps=6, lr=1.0, milestone_steps=(2, 5), milestone_factor=0.5)
    assert lrs(regime) == [1.0, 1.0, 0.5, 0.5, 0.5, 0.25]


def test_all_settings_reach_the_step() -> None:
    regime = Regime.constant(
        steps=3, lr=0.1, batch_size=7, weight_decay=1e-4, image_size=24, duplicates=3, optimizer="adam"
    )
    assert regime(2) == Settings(lr=0.1, weight_decay=1e-4, batch_size=7, image_size=24, duplicates=3)


def test_a_regime_is_pure_hashable_and_frozen() -> None:
    regime = Regime.cosine(steps=20, lr=0.1)
    first = [regime(step) for step in range(20)]
    assert [regime(step) for step in reversed(range(20))][::-1] == first
    assert hash(regime) == hash(Regime.cosine(steps=20, lr=0.1))
    with pytest.raises(dataclasses.FrozenInstanceError):
        regime.lr = 1.0  # type: ignore[misc]


def test_the_cursor_is_the_sum_of_batch_sizes() -> None:
    class Growing(Regime):
        def __call__(self, step: int) -> Settings:
            return dataclasses.replace(super().__call__(step), batch_size=step + 1)

    assert [Regime.constant(steps=5, lr=0.1, batch_size=8).first_sample(t) for t in range(5)] == [0, 8, 16, 24, 32]
    assert [Growing(steps=5, lr=0.1).first_sample(t) for t in range(5)] == [0, 1, 3, 6, 10]


def test_settings_round_trip_through_plain_values() -> None:
    regime = Regime.milestones(steps=9, lr=0.3, milestone_steps=(3,), betas=(0.5, 0.9), clip_norm=2.0)
    assert Regime(**regime.to_dict()) == regime


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, "steps=0, must be at least 1"),
        ({"lr": -0.1}, "lr=-0.1, must be a finite number, at least 0"),
        ({"lr": math.nan}, "lr=nan"),
        ({"lr": math.inf}, "lr=inf"),
        ({"weight_decay": -1.0}, "weight_decay=-1.0"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"duplicates": 0}, "duplicates=0"),
        ({"image_size": 0}, "image_size=0"),
        ({"warmup_steps": 11}, "warmup_steps=11, must be from 0 to steps=10"),
        ({"momentum": 1.0}, r"momentum=1.0, must be in \[0, 1\)"),
        ({"nesterov": True, "momentum": 0.0}, "nesterov=True"),
        ({"betas": (0.9, 1.0)}, "betas="),
        ({"eps": 0.0}, "eps=0.0"),
        ({"clip_norm": 0.0}, "clip_norm=0.0"),
        ({"final_lr": 0.2}, "final_lr=0.2, must be from 0 to lr=0.1"),
        ({"schedule": "milestones", "milestone_steps": (10,)}, "milestone_steps=.*, must be rising steps from 1 to 9"),
        ({"schedule": "milestones", "milestone_steps": (0,)}, "rising steps from 1 to 9"),
        ({"schedule": "milestones", "milestone_steps": (5, 3)}, "rising steps from 1 to 9"),
        ({"schedule": "milestones", "milestone_steps": (3, 3)}, "rising steps from 1 to 9"),
        ({"schedule": "exponential"}, "final_lr=0.0, must be above 0 for schedule='exponential'"),
        ({"flip_rate": 1.5}, r"flip_rate=1.5, must be in \(0, 1\]"),
        ({"flip_threshold": -1.0}, "flip_threshold=-1.0"),
        ({"schedule": "milestones"}, "given with schedule='milestones' and only with it"),
        ({"milestone_steps": (5,)}, "given with schedule='milestones' and only with it"),
        ({"schedule": "milestones", "milestone_steps": (5,), "milestone_factor": 0.0}, "milestone_factor=0.0"),
    ],
)
def test_values_out_of_range_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        Regime(**({"steps": 10, "lr": 0.1} | settings))
    assert issubclass(RecipeError, PennyweightError)
