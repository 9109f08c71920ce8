r"""A latency as a sum over the operators of a model, fitted to whole models that were measured in their runtime.

    latency(graph) = c_0 + sum_k c_k x_k(graph),   c_k >= 0,

with x_k the counts of `features`. The coefficients minimise the relative error over the models measured,
sum_i (latency_i' / latency_i - 1)^2, under c >= 0 (non-negative least squares; Lawson and Hanson 1974, "Solving Least
Squares Problems", doi:10.1137/1.9781611971217), which keeps few of many counts that resemble each other and lets no
operator take negative time. Kernels alone, each timed by itself, would miss what fusion, the caches and the changes of
layout between operators cost (Zhang et al. 2021, nn-Meter, doi:10.1145/3458864.3467882, measure fused kernels for the
same reason); the whole model holds them all.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
_FOLDS = 8


@dataclass(frozen=True)
class Sample:
    """A model that was measured: its counts, and its latency in any unit."""

    counts: Mapping[str, float]
    latency: float


@dataclass(frozen=True)
class LatencyModel:
    """Coefficients by count, and how far off they were on models that they were not fitted to.

    constant: what a call costs whatever the model. median_error, p90_error: of |predicted / measured - 1| over models
    left out in turn. samples: how many models were measured.
    """

    coefficients: Mapping[str, float]
    constant: float
    median_error: float
    p90_error: float
    samples: int

    def predict(self, counts: Mapping[str, float]) -> float:
        """The latency of a model with these counts, in the unit of the samples."""
        return self.constant + sum(self.coefficients.get(name, 0.0) * value for name, value in counts.items())

    def to_data(self) -> dict[str, Any]:
        """Give the model as JSON values."""
        return {
            "coefficients": dict(self.coefficients),
            "constant": self.constant,
            "median_error": self.median_error,
            "p90_error": self.p90_error,
            "samples": self.samples,
        }

    @staticmethod
    def from_data(data: Mapping[str, Any]) -> "LatencyModel":
        """Read what `to_data` gave."""
        return LatencyModel(**data)


def fit(samples: Sequence[Sample]) -> LatencyModel:
    """Fit a latency model, and tell its error by leaving out one part of the samples after the other.

    Raises ValueError for fewer than 4 samples.

    >>> doubles = [Sample({"macs": float(n)}, 0.5 + 2.0 * n) for n in range(1, 9)]
    >>> model = fit(doubles)
    >>> round(model.predict({"macs": 20.0}), 6), model.median_error < 1e-6
    (40.5, True)
    """
    if len(samples) < 4:
        raise ValueError(f"{len(samples)} samples; a latency model takes at least 4")
    names, counts, latencies = _table(samples)
    errors = _left_out(counts, latencies)
    *coefficients, constant = _solve(counts, latencies)
    return LatencyModel(
        coefficients={name: float(c) for name, c in zip(names, coefficients, strict=True) if c > 0},
        constant=float(constant),
        median_error=float(np.median(errors)),
        p90_error=float(np.quantile(errors, 0.9)),
        samples=len(samples),
    )


def left_out(samples: Sequence[Sample]) -> Floats:
    """Relative errors |predicted / measured - 1|, each sample predicted by all but the eighth that it is in."""
    _, counts, latencies = _table(samples)
    return _left_out(counts, latencies)


def _table(samples: Sequence[Sample]) -> tuple[list[str], Floats, Floats]:
    names = sorted({name for sample in samples for name in sample.counts})
    counts = np.array([[*(s.counts.get(name, 0.0) for name in names), 1.0] for s in samples])
    return names, counts, np.array([sample.latency for sample in samples])


def _left_out(counts: Floats, latencies: Floats) -> Floats:
    folds = np.arange(len(latencies)) % min(_FOLDS, len(latencies))
    errors = np.empty(len(latencies))
    for fold in np.unique(folds):
        out = folds == fold
        predicted = counts[out] @ _solve(counts[~out], latencies[~out])
        errors[out] = np.abs(predicted / latencies[out] - 1)
    return errors


def _solve(counts: Floats, latencies: Floats) -> Floats:
    from scipy.optimize import nnls

    relative = counts / latencies[:, None]
    scale = np.maximum(np.abs(relative).max(axis=0), 1e-300)  # the solver's tolerance is absolute
    solution: Floats = nnls(relative / scale, np.ones(len(latencies)), maxiter=50 * counts.shape[1])[0] / scale
    return solution
