"""k-means in one dimension by dynamic programming: the optimum itself.

D[c, j] = min over i < j of D[c - 1, i] + V(i, j), where V(i, j) is the weighted squared deviation of the sorted points
i .. j - 1 from their mean. The best i rises with j, so that halving the range of j finds all of a row in O(n log n).

Wang and Song 2011, "Ckmeans.1d.dp: Optimal k-means Clustering in One Dimension by Dynamic Programming" (The R Journal
3/2); Grønlund et al. 2017, "Fast Exact k-Means, k-Medians and Bregman Divergence Clustering in 1D" (arXiv:1701.07204).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from penjing.techniques.cluster.points import Points, Vector

Places = NDArray[np.intp]


def optimal(points: Points, k: int) -> Vector:
    """Give the centroids [k] of the least distortion, rising; k is at most the number of points.

    >>> optimal(Points.of(np.array([0.0, 1.0, 8.0, 9.0, 20.0])), 3)
    array([ 0.5,  8.5, 20. ])
    """
    deviation = _Deviation.of(points)
    n = len(points.values)
    cost = np.concatenate([[0.0], deviation(np.zeros(n, dtype=np.intp), np.arange(1, n + 1))])
    cuts: list[Places] = []
    for clusters in range(1, k):
        cost, cut = _one_more(cost, clusters, deviation)
        cuts.append(cut)
    edges = [n]
    for cut in reversed(cuts):
        edges.append(int(cut[edges[-1]]))
    starts = np.array([0, *reversed(edges[1:])])
    total = np.add.reduceat(points.weights, starts)
    return np.asarray(np.add.reduceat(points.weights * points.values, starts) / total)


@dataclass(frozen=True)
class _Deviation:
    """V(i, j) from running sums of w, w x and w x^2; x counts from the mean, so that little cancels."""

    mass: Vector
    moment: Vector
    square: Vector

    @classmethod
    def of(cls, points: Points) -> "_Deviation":
        x = points.values - np.average(points.values, weights=points.weights)
        return cls(*(np.concatenate([[0.0], np.cumsum(points.weights * x**power)]) for power in range(3)))

    def __call__(self, i: Places, j: Places) -> Vector:
        mass, moment, square = (sums[j] - sums[i] for sums in (self.mass, self.moment, self.square))
        return square - moment**2 / mass


def _one_more(cost: Vector, clusters: int, deviation: _Deviation) -> tuple[Vector, Places]:
    """From the least costs [n + 1] of the first j points in so many clusters, those in one more, and its first point.

    j is solved at every 2^b-th place, then in the middle between those, and so on: the neighbours bound the search.
    """
    n = len(cost) - 1
    least, cut = np.full(n + 1, np.inf), np.zeros(n + 1, dtype=np.intp)
    stride = 1 << (n - clusters).bit_length()
    while stride := stride // 2:
        j = np.arange(clusters + stride, n + 1, 2 * stride)
        low = np.where(j - stride > clusters, cut[j - stride], clusters)
        high = np.where(j + stride <= n, cut[np.minimum(j + stride, n)], n)
        counts = np.minimum(high, j - 1) - low + 1
        first = np.cumsum(counts) - counts
        owner = np.repeat(np.arange(len(j)), counts)
        i = np.arange(counts.sum()) - first[owner] + low[owner]
        tried = cost[i] + deviation(i, j[owner])
        least[j] = np.minimum.reduceat(tried, first)
        reached = np.flatnonzero(tried == least[j][owner])
        cut[j] = i[reached[np.unique(owner[reached], return_index=True)[1]]]
    return least, cut
