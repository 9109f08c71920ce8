"""Static figures of a model: what it computes, stores and holds in memory; nothing is timed here."""

from penjing.profiling.cost import Costs, NodeCost, Uncounted, cost
from penjing.profiling.formulas import FORMULAS, Call, Cost, register_formula
from penjing.profiling.memory import Peak, Storage, peak_memory
from penjing.profiling.profile import Layer, Profile, profile, profile_captured

__all__ = [
    "FORMULAS",
    "Call",
    "Cost",
    "Costs",
    "Layer",
    "NodeCost",
    "Peak",
    "Profile",
    "Storage",
    "Uncounted",
    "cost",
    "peak_memory",
    "profile",
    "profile_captured",
    "register_formula",
]
