from math import inf, log

import numpy as np
import pytest
from numpy.typing import NDArray

from penjing.errors import ContractError, WorkloadError
from penjing.types import Direction
from penjing.verdict import Drop, drop_limits, value_limits
from penjing.verdict.noninferiority import effective_pairs
from penjing.verdict.tango import tango_limits
from penjing.workload import Metric, Samples, accuracy, metrics


def mean(low: float = 0.0, high: float = 1.0, direction: Direction = Direction.HIGHER) -> Metric:
    return metrics.mean_of(lambda outputs, target: outputs, "score", direction, low, high)


def drop(metric: Metric, old: NDArray, new: NDArray, groups: NDArray | None = None, relative: bool = False) -> Drop:  # type: ignore[type-arg]
    return drop_limits(Samples(metric, old, groups), Samples(metric, new, groups), 0.05, relative=relative)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def flips(rng: np.random.Generator, n: int, lost: int, gained: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    old, new = np.ones(n), np.ones(n)
    new[:lost], old[lost : lost + gained] = 0, 0
    order = rng.permutation(n)
    return old[order], new[order]


def test_right_or_wrong_scores_take_the_score_limits(rng: np.random.Generator) -> None:
    found = drop(accuracy(), *flips(rng, 1000, lost=30, gained=10))
    assert (found.lower, found.upper) == tango_limits(30, 10, 1000, 0.05)
    assert (found.value, found.n, found.discordant) == (pytest.approx(0.02), 1000, 40)


def test_graded_scores_agree_with_the_score_limits_where_both_apply(rng: np.random.Generator) -> None:
    old, new = flips(rng, 5000, lost=300, gained=250)
    binary, graded = drop(accuracy(), old, new), drop(mean(), old, new)
    assert graded.method == "studentised bootstrap"
    assert graded.lower == pytest.approx(binary.lower, abs=3e-4)
    assert graded.upper == pytest.approx(binary.upper, abs=3e-4)


@pytest.mark.parametrize("relative", [False, True])
@pytest.mark.parametrize("clusters", [None, 50])
@pytest.mark.parametrize("metric", [accuracy(), mean()])
def test_identical_pairs_never_give_zero(metric: Metric, clusters: int | None, relative: bool) -> None:
    scores = np.tile([1.0, 1.0, 0.0, 1.0], 250)
    groups = None if clusters is None else np.arange(1000) % clusters
    found = drop(metric, scores, scores, groups, relative)
    assert (found.value, found.discordant) == (0, 0)
    assert found.upper > 1 / 1000
    assert found.lower < -1 / 1000


def test_rounding_errors_on_every_sample_do_not_hide_that_few_pairs_differ(rng: np.random.Generator) -> None:
    old = rng.uniform(0.2, 0.8, size=2000)
    noise = rng.uniform(-1e-6, 1e-6, size=2000)
    found = drop(mean(), old, old + noise)
    assert (found.discordant, found.method) == (2000, "betting limits")
    assert found.upper > 1 / 2000
    noise[:3] = -0.2
    assert drop(mean(), old, old + noise).method == "betting limits"


def test_lower_is_better_turns_the_drop_around(rng: np.random.Generator) -> None:
    old = rng.uniform(0.2, 0.5, size=1000)
    new = old + rng.normal(0.02, 0.1, size=1000)
    up, down = drop(mean(), old, new), drop(mean(direction=Direction.LOWER), old, new)
    assert up.value == -down.value
    assert down.value == pytest.approx(0.02, abs=0.01)
    assert down.lower < down.value < down.upper


def test_relative_drop_carries_the_uncertainty_of_the_reference(rng: np.random.Generator) -> None:
    """The error of both models is the same sample by sample, up to 10 %: the ratio is known far better than either."""
    metric = mean(0, inf, Direction.LOWER)
    old = rng.exponential(size=400)
    new = 1.1 * old + rng.normal(0, 0.01, size=400)
    found = drop(metric, old, new, relative=True)
    assert found.lower < 0.1 < found.upper
    assert found.upper - found.lower < 0.01
    assert found.method == "studentised bootstrap"


def test_relative_drop_of_a_negative_metric_divides_by_its_size(rng: np.random.Generator) -> None:
    old = -rng.exponential(size=400)
    found = drop(mean(-inf, 0), old, rng.uniform(1.0, 1.2, size=400) * old, relative=True)
    assert found.lower < 0.1 < found.upper
    assert found.upper - found.lower < 0.02


def test_scores_that_all_move_alike_show_nothing_of_those_that_would_not(rng: np.random.Generator) -> None:
    old = rng.exponential(size=400)
    ratio = drop(mean(0, inf, Direction.LOWER), old, 1.1 * old, relative=True)
    assert (ratio.value, ratio.upper, ratio.discordant) == (pytest.approx(0.1), inf, 400)
    shift = drop(mean(), np.full(400, 0.5), np.full(400, 0.4))
    assert shift.method == "betting limits"
    assert shift.lower < 0.1 < shift.upper < 0.13


def test_no_share_of_a_reference_that_may_be_zero(rng: np.random.Generator) -> None:
    old = rng.normal(size=400)
    found = drop(mean(-inf, inf), old, old - 0.1, relative=True)
    assert (found.lower, found.upper) == (-inf, inf)
    assert "may be zero" in (found.reason or "")


def test_unbounded_scores_with_few_differing_pairs_have_no_limits(rng: np.random.Generator) -> None:
    metric = mean(0, inf, Direction.LOWER)
    old = rng.exponential(size=1000)
    new = old.copy()
    new[:5] *= 1.5
    found = drop(metric, old, new, relative=True)
    assert (found.lower, found.upper, found.discordant) == (-inf, inf, 5)
    assert "too few pairs (" in (found.reason or "")


def test_absolute_drop_needs_a_known_range() -> None:
    with pytest.raises(ContractError, match=r"score has no known range .* relative=True"):
        drop(mean(0, inf), np.ones(10), np.ones(10))


def test_both_models_are_scored_on_the_same_samples() -> None:
    with pytest.raises(WorkloadError, match=r"shape \[10\], the candidate \[9\]"):
        drop(mean(), np.ones(10), np.ones(9))


def test_corpus_metric_is_resampled_as_a_whole(rng: np.random.Generator) -> None:
    """F1 on rows that carry prediction and truth; limits close to those of accuracy where F1 is micro-averaged."""
    labels = rng.integers(4, size=1500)

    def predicted(share: float) -> NDArray[np.int64]:
        return np.where(rng.random(1500) < share, (labels + 1) % 4, labels)

    a, b = predicted(0.1), predicted(0.15)
    rows = [np.stack([p, labels], axis=1).astype(float) for p in (a, b)]
    micro = drop(metrics.f1("micro"), *rows)
    plain = drop(accuracy(), (a == labels).astype(float), (b == labels).astype(float))
    assert micro.method == "BCa bootstrap of the whole metric"
    assert micro.value == pytest.approx(plain.value)
    assert micro.lower == pytest.approx(plain.lower, abs=0.003)
    assert micro.upper == pytest.approx(plain.upper, abs=0.003)


def test_corpus_metric_with_few_differing_rows_has_no_limits(rng: np.random.Generator) -> None:
    rows = np.stack([rng.integers(3, size=500), rng.integers(3, size=500)], axis=1).astype(float)
    changed = rows.copy()
    changed[:3, 0] = (changed[:3, 0] + 1) % 3
    for new in (rows, changed):
        found = drop(metrics.f1("macro"), rows, new)
        assert (found.lower, found.upper) == (-inf, inf)
        assert "too few pairs (" in (found.reason or "")


def test_records_that_differ_without_consequence_do_not_count(rng: np.random.Generator) -> None:
    """Outputs that all move a little, answers that do not: the whole metric is the same in every resample."""
    outputs, target = rng.uniform(size=400).round(3) + 0.0005, rng.integers(2, size=400)
    metric = metrics.corpus(lambda y, t: float(np.mean((y > 0.5) == t)), "agreement", low=0, high=1)
    old, new = metric.score(outputs, target), metric.score(outputs + 1e-5, target)
    found = drop(metric, old, new)
    assert (found.value, found.discordant) == (0, 400)
    assert found.reason is not None


def test_perplexity_is_compared_as_a_ratio(rng: np.random.Generator) -> None:
    tokens = rng.integers(50, 100, size=400)
    nll = rng.gamma(4, 0.75, size=400) * tokens
    worse = nll + rng.normal(log(1.03), 0.1, size=400) * tokens
    found = drop(metrics.perplexity(), *(np.stack([x, tokens], axis=1) for x in (nll, worse)), relative=True)
    assert found.lower < 0.03 < found.upper
    assert found.upper - found.lower < 0.03


def test_clusters_count_as_one(rng: np.random.Generator) -> None:
    """Samples repeated ten times in a cluster say no more than once."""
    old, new = flips(rng, 600, lost=60, gained=30)
    once = drop(mean(), old, new)
    repeated = drop(mean(), np.repeat(old, 10), np.repeat(new, 10), groups=np.repeat(np.arange(600), 10))
    assert repeated.value == pytest.approx(once.value)
    assert repeated.upper == pytest.approx(once.upper, abs=2e-3)
    assert repeated.lower == pytest.approx(once.lower, abs=2e-3)


def test_few_clusters_are_not_trusted_to_a_bootstrap(rng: np.random.Generator) -> None:
    old, new = flips(rng, 1000, lost=100, gained=20)
    found = drop(accuracy(), old, new, groups=np.arange(1000) % 4)
    assert found.method == "betting limits"
    assert found.upper > 0.5


def test_value_limits_by_kind(rng: np.random.Generator) -> None:
    right = Samples(accuracy(), np.repeat([1.0, 0.0], [900, 100]))
    assert value_limits(right, 0.05).method == "Wilson's score limits"
    graded = Samples(mean(), rng.beta(8, 2, size=1000))
    lower, upper, method = value_limits(graded, 0.05)
    assert (method, lower < graded.value < upper) == ("studentised bootstrap", True)
    assert upper - lower == pytest.approx(2 * 1.6449 * graded.values.std() / np.sqrt(1000), rel=0.05)
    constant = Samples(mean(), np.full(1000, 0.3))
    lower, upper, method = value_limits(constant, 0.05)
    assert method == "betting limits"
    assert 0.29 < lower < 0.3 < upper < 0.31
    unknown = Samples(mean(0, inf), np.full(1000, 0.3))
    assert value_limits(unknown, 0.05) == (0, inf, "none")
    squares = Samples(metrics.f1("binary"), np.tile([[1.0, 1.0], [0.0, 1.0], [0.0, 0.0]], (200, 1)))
    lower, upper, method = value_limits(squares, 0.05)
    assert (method, lower < squares.value < upper) == ("BCa bootstrap of the whole metric", True)


def test_limits_are_a_function_of_the_seed(rng: np.random.Generator) -> None:
    old = rng.uniform(size=300)
    pair = Samples(mean(), old), Samples(mean(), np.clip(old + rng.normal(0, 0.1, size=300), 0, 1))
    assert drop_limits(*pair, 0.05, seed=3) == drop_limits(*pair, 0.05, seed=3)
    assert drop_limits(*pair, 0.05, seed=3) != drop_limits(*pair, 0.05, seed=4)


def test_effective_pairs() -> None:
    assert effective_pairs(np.zeros(5)) == 0
    assert effective_pairs(np.full(50, -0.2)) == pytest.approx(50)
    assert effective_pairs(np.full(50, 0.2), noise=0.2) == 0
    assert effective_pairs(np.array([])) == 0


def test_the_mean_error_of_few_samples_is_not_taken_for_zero() -> None:
    rng = np.random.default_rng(0)
    errors = np.abs(rng.standard_normal(150))
    metric = metrics.mean_absolute_error()
    nearly = np.abs(errors + 0.01 * rng.standard_normal(150))
    found = drop_limits(Samples(metric, errors), Samples(metric, nearly), 0.05, relative=True)
    assert found.reason is None
    assert -0.01 < found.lower < found.value < found.upper < 0.01


def test_a_reference_that_may_be_zero_has_no_shares() -> None:
    signed = np.random.default_rng(0).standard_normal(400)
    metric = metrics.mean_of(lambda outputs, target: outputs, "bias", "lower")
    found = drop_limits(Samples(metric, signed), Samples(metric, signed + 0.1), 0.05, relative=True)
    assert found.reason is not None
    assert "may be zero" in found.reason
