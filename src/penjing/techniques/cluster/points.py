"""What a palette is found for: numbers on a line, each with its importance."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Points:
    """Distinct values [n], rising, and the summed importance [n] of the weights that have each."""

    values: Vector
    weights: Vector

    @classmethod
    def of(cls, values: Vector, importance: Vector | None = None) -> "Points":
        """Gather equal values; without importance each counts once.

        >>> Points.of(np.array([2.0, 1.0, 2.0]))
        Points(values=array([1., 2.]), weights=array([1., 2.]))
        """
        distinct, place = np.unique(values, return_inverse=True)
        return cls(distinct, np.bincount(place, weights=importance, minlength=len(distinct)).astype(np.float64))

    def merged(self, count: int) -> "Points":
        """At most `count` points: neighbours of about equal importance together, at their mean.

        >>> Points.of(np.arange(6.0)).merged(2)
        Points(values=array([1., 4.]), weights=array([3., 3.]))
        """
        middles = (np.cumsum(self.weights) - self.weights / 2) / self.weights.sum()
        _, place = np.unique(np.floor(middles * count), return_inverse=True)
        weights = np.bincount(place, weights=self.weights).astype(np.float64)
        return Points(np.bincount(place, weights=self.weights * self.values) / weights, weights)


def nearest(values: Vector, centroids: Vector) -> NDArray[np.intp]:
    """Index of the nearest of the rising centroids for each value; halfway, the upper one.

    >>> nearest(np.array([-1.0, 0.4, 0.5, 7.0]), np.array([0.0, 1.0])).tolist()
    [0, 0, 1, 1]
    """
    return np.searchsorted((centroids[1:] + centroids[:-1]) / 2, values, side="right")


def distortion(points: Points, centroids: Vector) -> float:
    """The weighted squared distance to the nearest centroid, sum_i w_i (x_i - c(x_i))^2.

    >>> distortion(Points.of(np.array([0.0, 1.0, 1.0])), np.array([0.0, 3.0]))
    2.0
    """
    error = points.values - centroids[nearest(points.values, centroids)]
    return float(points.weights @ error**2)
