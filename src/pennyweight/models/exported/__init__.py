"""Programs of torch.export, read as plain data: a .pt2 file becomes a model of torch's own layers, and runs no code."""

from pennyweight.models.exported.builder import program_builder

__all__ = ["program_builder"]
