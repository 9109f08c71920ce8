"""What to try, and what to do next: pure functions of the workload's figures and of the journal."""

from penjing.planning.candidates import candidates, objective, recovery_epochs, shape_of, trains
from penjing.planning.mixed import MixedPrecision, mixed_precision
from penjing.planning.plan import (
    Action,
    Baseline,
    Event,
    Finish,
    Freeze,
    Judge,
    Lattice,
    Probe,
    Recover,
    finalists,
    plan,
    worthwhile,
)
from penjing.planning.sensitivity import Point, Sensitivity, sensitivity

__all__ = [
    "Action",
    "Baseline",
    "Event",
    "Finish",
    "Freeze",
    "Judge",
    "Lattice",
    "MixedPrecision",
    "Point",
    "Probe",
    "Recover",
    "Sensitivity",
    "candidates",
    "finalists",
    "mixed_precision",
    "objective",
    "plan",
    "recovery_epochs",
    "sensitivity",
    "shape_of",
    "trains",
    "worthwhile",
]
