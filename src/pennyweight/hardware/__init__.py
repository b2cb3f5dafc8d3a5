"""Models of cost and devices: every figure that comes from here is modelled, not measured."""
