"""Packed artifacts: export, load, and the runtime that executes them on packed words."""

from pennyweight.artifact.exporter import export
from pennyweight.artifact.loaded import Artifact, LayerRow, load

__all__ = ["Artifact", "LayerRow", "export", "load"]
