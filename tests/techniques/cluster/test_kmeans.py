"""k-means on a line: the optimum against all partitions, Lloyd against the optimum, every start against both."""

import itertools

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.cluster.vq import kmeans2

from penjing.techniques.cluster import starts
from penjing.techniques.cluster.exact import optimal
from penjing.techniques.cluster.lloyd import lloyd
from penjing.techniques.cluster.points import Points, Vector, distortion, nearest
from penjing.techniques.cluster.starts import STARTS
from penjing.techniques.cluster.technique import k_means
from penjing.types import Start


def drawn(n: int, seed: int, weighted: bool = True) -> Points:
    rng = np.random.default_rng(seed)
    return Points.of(rng.standard_normal(n), rng.exponential(size=n) + 0.01 if weighted else None)


def of_all_partitions(points: Points, k: int) -> float:
    """The least distortion, by trying every way to cut the line."""

    def within(i: int, j: int) -> float:
        x, w = points.values[i:j], points.weights[i:j]
        return float(w @ (x - np.average(x, weights=w)) ** 2)

    n = len(points.values)
    cuts = itertools.combinations(range(1, n), k - 1)
    return min(sum(itertools.starmap(within, itertools.pairwise((0, *cut, n)))) for cut in cuts)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("k", [1, 2, 3, 5, 9, 10])
def test_the_optimum_is_that_of_all_partitions(k: int, seed: int) -> None:
    points = drawn(10, seed)
    found = optimal(points, k)
    assert len(found) == k
    assert (np.diff(found) > 0).all()
    assert distortion(points, found) == pytest.approx(of_all_partitions(points, k), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_values_far_from_zero_lose_nothing(offset: float) -> None:
    points = drawn(300, 0)
    moved = Points(points.values + offset, points.weights)
    assert optimal(moved, 7) == pytest.approx(optimal(points, 7) + offset, abs=1e-9)


@pytest.mark.parametrize("start", Start)
@pytest.mark.parametrize("k", [2, 7, 16])
def test_no_start_beats_the_optimum_and_lloyd_only_helps(start: Start, k: int) -> None:
    points = drawn(400, k)
    best = distortion(points, optimal(points, k))
    first = STARTS[start](points, k, np.random.default_rng(1))
    assert len(first) == k
    assert (np.diff(first) >= 0).all()
    found = lloyd(points, first)
    assert best * (1 - 1e-9) <= distortion(points, found) <= distortion(points, first) * (1 + 1e-9)
    assert distortion(points, found) < 4 * best


def test_lloyd_is_that_of_scipy() -> None:
    points = drawn(500, 3, weighted=False)
    start = np.linspace(-2, 2, 8)
    theirs, labels = kmeans2(points.values[:, None], start[:, None], iter=500, minit="matrix")
    ours = lloyd(points, start, rounds=500)
    assert ours == pytest.approx(theirs[:, 0], abs=1e-9)
    assert nearest(points.values, ours).tolist() == labels.tolist()


def test_lloyd_leaves_the_optimum_where_it_is() -> None:
    points = drawn(200, 5)
    best = optimal(points, 6)
    assert lloyd(points, best) == pytest.approx(best, abs=1e-9)


def test_a_centroid_without_values_stays() -> None:
    points = Points.of(np.array([0.0, 1.0, 9.0]))
    assert lloyd(points, np.array([0.5, 4.9, 9.0])).tolist() == [0.5, 4.9, 9.0]


def test_importance_draws_the_centroids() -> None:
    points = Points.of(np.array([0.0, 1.0, 2.0, 3.0]), np.array([1.0, 1.0, 1.0, 1e6]))
    assert k_means(points, 2, Start.EXACT, np.random.default_rng(0)) == pytest.approx([0.5, 3.0], abs=1e-5)


def test_more_centroids_than_values_are_the_values() -> None:
    values: NDArray[np.float64] = np.array([3.0, 1.0, 3.0])
    for start in Start:
        assert k_means(Points.of(values), 8, start, np.random.default_rng(0)).tolist() == [1.0, 3.0]


def test_density_has_as_many_weights_to_each_centroid() -> None:
    points = drawn(1600, 2, weighted=False)
    found = starts.density(points, 8, np.random.default_rng(0))
    assert found == pytest.approx(np.quantile(points.values, (np.arange(8) + 0.5) / 8), abs=0.01)


def test_merged_neighbours_hardly_change_the_optimum(monkeypatch: pytest.MonkeyPatch) -> None:
    points = drawn(3000, 8)
    monkeypatch.setattr(starts, "MOST_EXACT", 500)
    near: Vector = lloyd(points, starts.exact(points, 16, np.random.default_rng(0)))
    assert distortion(points, near) < 1.01 * distortion(points, optimal(points, 16))
    merged = points.merged(500)
    assert len(merged.values) <= 500
    assert merged.weights.sum() == pytest.approx(points.weights.sum())
    assert merged.weights @ merged.values == pytest.approx(points.weights @ points.values)
