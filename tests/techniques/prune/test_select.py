"""Which units go: properties of the selection for any scores, and brute force on small cases."""

from collections.abc import Mapping
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penjing.techniques.prune import Widths, select
from penjing.types import Scope

sizes = st.lists(st.integers(1, 40), min_size=1, max_size=5)


def made(sizes: list[int], seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {f"g{i}": rng.random(size) * rng.choice([0.1, 1, 100]) for i, size in enumerate(sizes)}


def channels(scores: Mapping[str, np.ndarray]) -> "object":
    total = sum(map(len, scores.values()))
    return lambda removed: float(total - sum(map(len, removed.values())))


@settings(deadline=None, max_examples=60)
@given(sizes, st.integers(0, 99), st.floats(0.05, 1), st.sampled_from(list(Scope)), st.sampled_from([1, 2, 4, 8]))
def test_any_selection_keeps_its_promises(
    sizes: list[int], seed: int, keep: float, scope: Scope, multiple: int
) -> None:
    scores = made(sizes, seed)
    selection = select(scores, keep, channels(scores), scope=scope, widths=dict.fromkeys(scores, Widths(multiple)))
    floor = sum(min(len(s), multiple) for s in scores.values()) / sum(map(len, scores.values()))
    assert selection.remaining <= max(keep, floor) + 1e-9, "within the budget, or as far as the widths reach"
    for name, values in scores.items():
        gone = selection.removed.get(name, np.empty(0, int))
        left = len(values) - len(gone)
        assert left >= 1
        assert left == len(values) or left % multiple == 0
        stays = np.delete(values, gone)
        assert not len(gone) or values[gone].max() <= stays.min(), "the lowest go first"


def test_what_a_large_step_leaves_unspent_is_given_back() -> None:
    """Half of a, the lowest, costs 60 of 100; the budget is met by it alone, and what went of b comes back."""
    scores = {"b": np.array([1.0, 2.0, 7.0, 8.0]), "a": np.array([3.0, 4.0, 5.0, 6.0])}

    def cost(removed: Mapping[str, np.ndarray]) -> float:
        return 100.0 - 5 * len(removed.get("b", ())) - 30 * len(removed.get("a", ()))

    pairs = dict.fromkeys(scores, Widths(2))
    selection = select(scores, 0.4, cost, widths=pairs)
    assert {name: units.tolist() for name, units in selection.removed.items()} == {"a": [0, 1]}
    assert selection.remaining == 0.4
    assert select(scores, 0.3, cost, widths=pairs).remaining == 0.3, "nothing comes back that the budget needs"


@settings(deadline=None, max_examples=40)
@given(sizes, st.integers(0, 99), st.floats(0.1, 0.9), st.sampled_from([2, 4, 8]))
def test_no_group_could_be_wider_within_the_budget(sizes: list[int], seed: int, keep: float, multiple: int) -> None:
    scores = made(sizes, seed)
    prices = dict(zip(scores, np.random.default_rng(seed).integers(1, 50, len(scores)).tolist(), strict=True))

    def cost(removed: Mapping[str, np.ndarray]) -> float:
        return float(sum(prices[name] * (len(scores[name]) - len(removed.get(name, ()))) for name in scores))

    selection = select(scores, keep, cost, widths=dict.fromkeys(scores, Widths(multiple)))
    for name, units in selection.removed.items():
        kept = len(scores[name]) - len(units)
        wider = min(len(scores[name]), kept + multiple)
        more = selection.remaining + prices[name] * (wider - kept) / cost({})
        assert selection.remaining > keep - 0.005 or more > keep


def test_global_scope_removes_the_lowest_of_all() -> None:
    scores = {"a": np.array([0.1, 1.1, 1.2, 1.5]), "b": np.array([0.5, 1.3, 1.15, 1.0])}
    selection = select(scores, 5 / 8, channels(scores))
    gone = {(name, int(unit)) for name, units in selection.removed.items() for unit in units}
    everything = [(name, unit) for name, values in scores.items() for unit in range(len(values))]
    best = min(combinations(everything, 3), key=lambda units: sum(scores[name][unit] for name, unit in units))
    assert gone == set(best)


def test_local_scope_takes_the_same_share_everywhere() -> None:
    scores = {"a": np.arange(8.0) + 100, "b": np.arange(16.0)}
    selection = select(scores, 0.5, channels(scores), scope=Scope.LOCAL)
    assert {name: len(units) for name, units in selection.removed.items()} == {"a": 4, "b": 8}


def test_the_budget_may_count_anything() -> None:
    scores = {"wide": np.arange(1.0, 9.0), "deep": np.arange(1.0, 9.0)}

    def quadratic(removed: Mapping[str, np.ndarray]) -> float:
        return float((8 - len(removed["wide"])) * (8 - len(removed["deep"]))) if removed else 64.0

    selection = select(scores, 0.25, quadratic, scope=Scope.LOCAL)
    assert selection.remaining == 0.25
    assert len(selection.removed["wide"]) == 4


def latency(width: int) -> float:
    """A made-up machine: blocks of 16 channels, and a partly filled block costs two whole ones."""
    return float(width // 16 + 2 * (width % 16 > 0))


def test_a_cost_with_cliffs_gets_the_gentlest_cut_that_meets_it() -> None:
    """64 channels cost 4. Any width below 64 but 48 costs as much or more until 32: bisection would miss 48."""
    scores = {"a": np.arange(64.0)}

    def cost(removed: Mapping[str, np.ndarray]) -> float:
        return latency(64 - len(removed.get("a", ())))

    selection = select(scores, 0.8, cost, monotone=False)
    assert len(selection.removed["a"]) == 16
    assert selection.remaining == 0.75
    assert len(select(scores, 0.5, cost, monotone=False).removed["a"]) == 32


def test_a_budget_out_of_reach_gets_the_cheapest_cut_even_if_it_is_not_the_last() -> None:
    scores = {"a": np.arange(20.0)}

    def cost(removed: Mapping[str, np.ndarray]) -> float:
        return {16: 1.0, 20: 3.0}.get(20 - len(removed.get("a", ())), 2.0)

    selection = select(scores, 0.1, cost, monotone=False)
    assert len(selection.removed["a"]) == 4


def test_a_long_line_is_looked_at_in_bounded_time() -> None:
    scores = {"a": np.arange(20_000.0)}
    asked = 0

    def cost(removed: Mapping[str, np.ndarray]) -> float:
        nonlocal asked
        asked += 1
        return 20_000.0 - len(removed.get("a", ()))

    selection = select(scores, 0.5, cost, monotone=False)
    assert asked < 600
    assert selection.remaining == pytest.approx(0.5, abs=0.01)


def test_a_tie_costs_no_more_than_asked_and_is_shared() -> None:
    scores = {"a": np.ones(4), "b": np.ones(8)}
    selection = select(scores, 0.5, channels(scores))
    assert {name: len(units) for name, units in selection.removed.items()} == {"a": 2, "b": 4}


def test_nothing_goes_when_everything_may_stay() -> None:
    scores = {"a": np.arange(4.0)}
    assert select(scores, 1.0, channels(scores)).removed == {}


def test_widths_that_reach_no_further_are_told() -> None:
    scores = {"a": np.arange(16.0)}
    selection = select(scores, 0.1, channels(scores), widths={"a": Widths(8)})
    assert selection.remaining == 0.5


@pytest.mark.parametrize(
    ("multiple", "least", "wanted", "size", "expected"),
    [(8, 1, 12, 16, 16), (8, 1, 11, 16, 8), (8, 1, 0, 16, 8), (8, 1, 3, 6, 6), (1, 5, 2, 16, 5), (8, 9, 2, 32, 16)],
)
def test_rounding(multiple: int, least: int, wanted: int, size: int, expected: int) -> None:
    assert Widths(multiple, least).round(wanted, size) == expected
