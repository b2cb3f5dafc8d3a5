"""Floor 0: models of what hardware costs; every figure is modelled, its assumptions in the docstring beside it."""

from pennyweight.hardware.accumulator_cost import AccumulatorCost, float_accumulator_cost, integer_accumulator_cost

__all__ = ["AccumulatorCost", "float_accumulator_cost", "integer_accumulator_cost"]
