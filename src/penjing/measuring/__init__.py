"""Measuring: how long a deployed model takes, what it needs, and how far each figure can be trusted."""

from penjing.measuring.cold import ColdStart, cold_start
from penjing.measuring.cost import Cost, cost
from penjing.measuring.disk import Sizes, sizes
from penjing.measuring.energy import Energy, energy
from penjing.measuring.fresh import Memory, measure_fresh, memory
from penjing.measuring.latency import Latency, measure
from penjing.measuring.machine import Machine, machine
from penjing.measuring.paired import Ratio
from penjing.measuring.serving import ServedLatency, serve
from penjing.measuring.throughput import Throughput, throughput
from penjing.measuring.tune import Tuned, tune, with_options

__all__ = [
    "ColdStart",
    "Cost",
    "Energy",
    "Latency",
    "Machine",
    "Memory",
    "Ratio",
    "ServedLatency",
    "Sizes",
    "Throughput",
    "Tuned",
    "cold_start",
    "cost",
    "energy",
    "machine",
    "measure",
    "measure_fresh",
    "memory",
    "serve",
    "sizes",
    "throughput",
    "tune",
    "with_options",
]
