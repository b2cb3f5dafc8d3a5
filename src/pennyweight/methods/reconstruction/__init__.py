"""Layer-wise and block-wise reconstruction: units, their samples, the solvers that fit them, and the method above."""
