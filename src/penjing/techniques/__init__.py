"""What makes a model smaller: one registry, one loop, one folder for each technique."""

from penjing.techniques.apply import TECHNIQUES, Technique, apply, check
from penjing.techniques.outcome import Outcome, read_outcome, restore
from penjing.techniques.sparsify import sparsity_hook
from penjing.techniques.state import Context, State

__all__ = [
    "TECHNIQUES",
    "Context",
    "Outcome",
    "State",
    "Technique",
    "apply",
    "check",
    "read_outcome",
    "restore",
    "sparsity_hook",
]
