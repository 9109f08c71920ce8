"""The exact choice of one option for each part of a model, under limits: a multiple-choice knapsack.

    minimise  sum_i value_i(o_i) + sum_(i, j) value_ij(o_i, o_j)   over one option o_i for each part i,
    subject to the same sums of each resource being at most its limit.

What a pair adds is what two neighbours cost together and not apart, such as a change of number format between them. It
is solved as a mixed-integer linear program by HiGHS, to proven optimality: Kellerer, Pferschy and Pisinger 2004,
"Knapsack Problems", chapter 11 (doi:10.1007/978-3-540-24777-7).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING

import numpy as np

from penjing.errors import PenjingError

if TYPE_CHECKING:
    from scipy.sparse import csr_array


@dataclass(frozen=True)
class Option:
    """One way to treat a part: what it is worth (less is better), and what it takes of each resource."""

    name: str
    value: float
    takes: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Pair:
    """What two parts add to the value, by the names of their options; never negative."""

    first: str
    second: str
    adds: Mapping[tuple[str, str], float]


Menus = Mapping[str, Sequence[Option]]


def allocate(menus: Menus, limits: Mapping[str, float], pairs: Sequence[Pair] = ()) -> dict[str, str] | None:
    """Choose an option for each part: {name of a part: name of its option}; None where nothing keeps the limits.

    >>> menus = {"a": [Option("float", 2.0), Option("int8", 1.0, {"noise": 0.1})],
    ...          "b": [Option("float", 9.0), Option("int8", 3.0, {"noise": 0.2})]}
    >>> allocate(menus, {"noise": 0.2})
    {'a': 'float', 'b': 'int8'}
    """
    from scipy.optimize import Bounds, LinearConstraint, milp  # a heavy import that most commands do without

    chosen = [(part, option) for part, options in menus.items() for option in options]
    place = {(part, option.name): i for i, (part, option) in enumerate(chosen)}
    joint = [
        (place[pair.first, one], place[pair.second, other], value)
        for pair in pairs
        for (one, other), value in pair.adds.items()
        if value
    ]
    singles, total = len(chosen), len(chosen) + len(joint)
    values = np.array([option.value for _, option in chosen] + [value for _, _, value in joint])
    ends = [0, *accumulate(len(options) for options in menus.values())]
    one_each = _rows([[(i, 1.0) for i in range(a, b)] for a, b in pairwise(ends)], total)
    constraints = [LinearConstraint(one_each, 1, 1)]
    if limits:
        used = [[(i, option.takes.get(name, 0.0)) for i, (_, option) in enumerate(chosen)] for name in limits]
        # Scaled to 1, for the solver's tolerance is absolute and resources may be of any size.
        scales = [max((value for _, value in row), default=0.0) or 1.0 for row in used]
        scaled = [[(i, value / scale) for i, value in row] for row, scale in zip(used, scales, strict=True)]
        most = np.array(list(limits.values())) / np.array(scales)
        constraints.append(LinearConstraint(_rows(scaled, total), -np.inf, most))
    if joint:  # a pair's own variable is 1 where both of its options are taken
        both = [[(one, 1.0), (other, 1.0), (singles + k, -1.0)] for k, (one, other, _) in enumerate(joint)]
        constraints.append(LinearConstraint(_rows(both, total), -np.inf, 1))
    whole = np.repeat([1, 0], [singles, len(joint)])
    scale = np.abs(values).max(initial=0.0) or 1.0
    found = milp(
        values / scale, integrality=whole, bounds=Bounds(0, 1), constraints=constraints, options={"mip_rel_gap": 0}
    )
    if found.status == _INFEASIBLE:
        return None
    if found.x is None:
        raise PenjingError(f"the allocation over {len(menus)} parts was not solved: {found.message}")
    return {part: option.name for (part, option), x in zip(chosen, found.x, strict=False) if x > 0.5}


def total(menus: Menus, choice: Mapping[str, str], pairs: Sequence[Pair] = ()) -> float:
    """Sum the values of a choice.

    >>> total({"a": [Option("float", 2.0), Option("int8", 1.0)]}, {"a": "int8"})
    1.0
    """
    alone = sum(option.value for part, options in menus.items() for option in options if option.name == choice[part])
    return alone + sum(pair.adds.get((choice[pair.first], choice[pair.second]), 0.0) for pair in pairs)


_INFEASIBLE = 2  # a status of scipy.optimize.milp


def _rows(entries: Sequence[Sequence[tuple[int, float]]], width: int) -> "csr_array":
    """A sparse matrix from the entries of its rows."""
    from scipy.sparse import csr_array

    rows = [i for i, row in enumerate(entries) for _ in row]
    columns = [column for row in entries for column, _ in row]
    values = [value for row in entries for _, value in row]
    return csr_array((values, (rows, columns)), shape=(len(entries), width))
