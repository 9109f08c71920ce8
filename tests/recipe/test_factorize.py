"""What a Factorize step takes, and what it refuses."""

from typing import Any

import pytest

import penjing as pj
from penjing.errors import RecipeError
from penjing.types import Budget, Kernels, LowRank


@pytest.mark.parametrize(
    "step",
    [
        pj.Factorize(16),
        pj.Factorize(1.0, method="svd", round_to=4),
        pj.Factorize({"head": 16, "*": 0.5}, exclude=("stem",)),
        pj.Factorize(energy=0.95, kernels="spatial", layers="body*"),
        pj.Factorize(ratio=0.5, of="macs"),
    ],
)
def test_yaml_round_trip(step: pj.Factorize) -> None:
    (found,) = pj.Recipe.from_yaml(pj.Recipe([step]).to_yaml())
    assert found == step
    assert [type(rank) for _, rank in found.ranks] == [type(rank) for _, rank in step.ranks]  # type: ignore[attr-defined]


def test_words_become_members_of_their_vocabulary() -> None:
    step = pj.Factorize(ratio=0.5, of="macs", method="svd", kernels="tucker", layers="body*")
    assert (step.of, step.method, step.kernels) == (Budget.MACS, LowRank.SVD, Kernels.TUCKER)
    assert step.layers == ("body*",)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"rank": 4, "energy": 0.9}, "rank and energy are given; say how much is kept by one of rank=, energy= and"),
        ({"rank": 0.0}, r"rank=0.0 must lie in \(0, 1\]"),
        ({"rank": 1.5}, r"rank=1.5 must lie in \(0, 1\]"),
        ({"rank": 0}, "rank=0 must be at least 1"),
        ({"rank": True}, "rank=True must be a whole number of directions or a share"),
        ({"rank": {"head": -0.5}}, r"rank\['head'\]=-0.5 must lie in \(0, 1\]"),
        ({"rank": {}}, r"rank=\{\} names no layer"),
        ({"energy": 0}, r"energy=0 must lie in \(0, 1\]"),
        ({"ratio": 1.0}, r"ratio=1.0 must lie in \[0, 1\)"),
        ({"rank": 4, "round_to": 0}, "round_to=0 must be at least 1"),
        ({"rank": 4, "of": "latency"}, "of='latency' is nothing that a rank has by itself; use 'params' or 'macs'"),
        ({"rank": 4, "method": "cp"}, "method='cp' is unknown; use one of 'auto', 'svd', 'whitened'"),
        ({"rank": 4, "kernels": "cp"}, "kernels='cp' is unknown; use one of 'channel', 'spatial', 'tucker'"),
    ],
)
def test_what_makes_no_sense_is_an_error(given: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        pj.Factorize(**given)
