"""The composition root: a loop over the line, and nothing more."""

from penjing.optimizing.run import Run, optimize

__all__ = ["Run", "optimize"]
