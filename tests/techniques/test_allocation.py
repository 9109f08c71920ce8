from collections.abc import Mapping, Sequence
from itertools import pairwise, product

import numpy as np
import pytest

from penjing.techniques.allocation import Menus, Option, Pair, allocate, total


def brute_force(menus: Menus, limits: Mapping[str, float], pairs: Sequence[Pair]) -> float:
    values = [np.inf]
    for options in product(*menus.values()):
        used = {name: sum(option.takes.get(name, 0.0) for option in options) for name in limits}
        if all(used[name] <= limits[name] + 1e-12 for name in limits):
            names = {part: option.name for part, option in zip(menus, options, strict=True)}
            values.append(total(menus, names, pairs))
    return min(values)


def taken(menus: Menus, choice: Mapping[str, str], name: str) -> float:
    return sum(o.takes.get(name, 0.0) for part, options in menus.items() for o in options if o.name == choice[part])


@pytest.mark.parametrize("seed", range(20))
def test_the_choice_is_that_of_brute_force(seed: int) -> None:
    rng = np.random.default_rng(seed)
    unit = 10.0 ** rng.integers(-9, 9)
    menus = {
        f"layer{i}": [
            Option(f"o{k}", rng.random(), {"noise": unit * rng.random(), "bytes": 1e6 * rng.random()})
            for k in range(rng.integers(1, 4))
        ]
        for i in range(6)
    }
    pairs = [
        Pair(a, b, {(x.name, y.name): rng.random() for x in menus[a] for y in menus[b] if x.name != y.name})
        for a, b in pairwise(menus)
    ]
    limits = {"noise": 2.5 * unit, "bytes": 3e6}
    best, choice = brute_force(menus, limits, pairs), allocate(menus, limits, pairs)
    if choice is None:
        assert best == np.inf
    else:
        assert total(menus, choice, pairs) == pytest.approx(best, rel=1e-6)
        assert all(taken(menus, choice, name) <= limits[name] * (1 + 1e-6) for name in limits)


def test_without_limits_each_part_takes_its_best() -> None:
    menus = {"a": [Option("x", 3.0), Option("y", 1.0)], "b": [Option("x", 0.0), Option("y", 1.0)]}
    assert allocate(menus, {}) == {"a": "y", "b": "x"}


def test_neighbours_stay_together_where_parting_costs_more_than_it_brings() -> None:
    menus = {name: [Option("float", value), Option("int8", 2.0)] for name, value in (("a", 1.5), ("b", 9.0))}
    parting = Pair("a", "b", {("float", "int8"): 1.0, ("int8", "float"): 1.0})
    assert allocate(menus, {}) == {"a": "float", "b": "int8"}
    assert allocate(menus, {}, [parting]) == {"a": "int8", "b": "int8"}


def test_limits_that_nothing_keeps_give_none() -> None:
    assert allocate({"a": [Option("int8", 1.0, {"noise": 2.0})]}, {"noise": 1.0}) is None
