"""k-means in one dimension by alternation."""

import numpy as np

from penjing.techniques.cluster.points import Points, Vector

ROUNDS = 300


def lloyd(points: Points, centroids: Vector, rounds: int = ROUNDS) -> Vector:
    """Move each rising centroid [k] to the weighted mean of the values nearest to it, until none moves.

    Lloyd 1982, "Least squares quantization in PCM" (IEEE Transactions on Information Theory 28). On a line the nearest
    values lie side by side, so that sums over them are differences of running sums: a round costs O(k log n). No round
    raises the distortion. A centroid that no value is nearest to stays where it is.

    >>> lloyd(Points.of(np.array([0.0, 1.0, 8.0])), np.array([0.0, 1.0]))
    array([0.5, 8. ])
    """
    mass = np.concatenate([[0.0], np.cumsum(points.weights)])
    moment = np.concatenate([[0.0], np.cumsum(points.weights * points.values)])
    for _ in range(rounds):
        inner = np.searchsorted(points.values, (centroids[1:] + centroids[:-1]) / 2)
        edges = np.concatenate([[0], inner, [len(points.values)]])
        held = np.diff(edges) > 0
        moved = centroids.copy()
        moved[held] = np.diff(moment[edges])[held] / np.diff(mass[edges])[held]
        if np.array_equal(moved, centroids):
            break
        centroids = moved
    return centroids
