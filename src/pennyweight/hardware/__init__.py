"""Models of cost and devices: every figure that comes from here is modelled, not measured."""

from pennyweight.hardware.accumulator_cost import AccumulatorCost, float_accumulator_cost, integer_accumulator_cost

__all__ = ["AccumulatorCost", "float_accumulator_cost", "integer_accumulator_cost"]
