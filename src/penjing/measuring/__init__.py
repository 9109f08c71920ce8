"""Measuring: how long a deployed model takes, what it needs, and how far each figure can be trusted."""

from penjing.measuring.disk import Sizes, sizes
from penjing.measuring.fresh import Memory, measure_fresh, memory
from penjing.measuring.latency import Latency, measure
from penjing.measuring.machine import Machine, machine
from penjing.measuring.paired import Ratio

__all__ = ["Latency", "Machine", "Memory", "Ratio", "Sizes", "machine", "measure", "measure_fresh", "memory", "sizes"]
