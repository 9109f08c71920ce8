"""The k-sparse problem of a layer, min ||X W - X W'||^2 subject to ||W'||_0 <= k: methods, one a file, and bounds."""

from penjing.techniques.sparsify.solve.bound import lower_bound
from penjing.techniques.sparsify.solve.budgets import Blocks, Budget, NofM, PerLayer, PerRow
from penjing.techniques.sparsify.solve.exhaustive import exhaustive
from penjing.techniques.sparsify.solve.methods import METHODS, Method
from penjing.techniques.sparsify.solve.objective import SHARE, Damped, damped, losses, relative_error

__all__ = [
    "METHODS",
    "SHARE",
    "Blocks",
    "Budget",
    "Damped",
    "Method",
    "NofM",
    "PerLayer",
    "PerRow",
    "damped",
    "exhaustive",
    "losses",
    "lower_bound",
    "relative_error",
]
