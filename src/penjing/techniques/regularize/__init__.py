"""Penalties on weights and units that a training adds to its loss."""

from penjing.techniques.regularize.hook import Penalize
from penjing.techniques.regularize.penalties import PENALTIES

__all__ = ["PENALTIES", "Penalize"]
