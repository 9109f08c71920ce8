"""Where k-means starts: functions (points, k, generator) -> centroids [k], rising, k at most the number of points."""

from collections.abc import Callable

import numpy as np

from penjing.techniques.cluster.exact import optimal
from penjing.techniques.cluster.points import Points, Vector
from penjing.types import Start

MOST_EXACT = 4096
"""Distinct values beyond which `exact` first merges neighbours into this many."""


def linear(points: Points, k: int, generator: np.random.Generator) -> Vector:
    """Equal steps from the smallest value to the largest.

    Keeps the few large weights, which matter most: Han et al. 2016, "Deep Compression: Compressing Deep Neural Networks
    with Pruning, Trained Quantization and Huffman Coding" (arXiv:1510.00149), section 3.2.

    >>> linear(Points.of(np.array([0.0, 1.0, 8.0])), 3, np.random.default_rng(0))
    array([0., 4., 8.])
    """
    return np.linspace(points.values[0], points.values[-1], k)


def density(points: Points, k: int, generator: np.random.Generator) -> Vector:
    """Equal steps on the axis of probability: the quantiles (i + 1/2) / k of the weighted distribution.

    Han et al. 2016 (arXiv:1510.00149), section 3.2.

    >>> density(Points.of(np.arange(10.0)), 2, np.random.default_rng(0))
    array([2., 7.])
    """
    reached = np.cumsum(points.weights) / points.weights.sum()
    return points.values[np.searchsorted(reached, (np.arange(k) + 0.5) / k)]


def random(points: Points, k: int, generator: np.random.Generator) -> Vector:
    """Different values of the tensor, drawn at random: Forgy's start, Han et al. 2016 (arXiv:1510.00149).

    >>> random(Points.of(np.arange(3.0)), 3, np.random.default_rng(0))
    array([0., 1., 2.])
    """
    return np.sort(generator.choice(points.values, k, replace=False))


def kmeans_plus_plus(points: Points, k: int, generator: np.random.Generator) -> Vector:
    """One value after another, drawn with probability ~ w_i D(x_i)^2, D the distance to the nearest drawn so far.

    Arthur and Vassilvitskii 2007, "k-means++: The Advantages of Careful Seeding" (SODA 2007): the expected distortion
    is at most 8 (ln k + 2) times the least.

    >>> kmeans_plus_plus(Points.of(np.array([0.0, 1.0, 8.0])), 3, np.random.default_rng(0))
    array([0., 1., 8.])
    """
    chance, squares, drawn = points.weights, np.full(len(points.values), np.inf), []
    for _ in range(k):
        reached = np.cumsum(chance)
        drawn.append(points.values[np.searchsorted(reached, generator.random() * reached[-1], side="right")])
        squares = np.minimum(squares, (points.values - drawn[-1]) ** 2)
        chance = points.weights * squares
    return np.sort(np.array(drawn))


def exact(points: Points, k: int, generator: np.random.Generator) -> Vector:
    """The best centroids there are; of more than `MOST_EXACT` distinct values, the best of neighbours merged.

    >>> exact(Points.of(np.array([0.0, 1.0, 8.0])), 2, np.random.default_rng(0))
    array([0.5, 8. ])
    """
    return optimal(points if len(points.values) <= MOST_EXACT else points.merged(MOST_EXACT), k)


STARTS: dict[Start, Callable[[Points, int, np.random.Generator], Vector]] = {
    Start.KMEANS_PLUS_PLUS: kmeans_plus_plus,
    Start.DENSITY: density,
    Start.LINEAR: linear,
    Start.RANDOM: random,
    Start.EXACT: exact,
}
