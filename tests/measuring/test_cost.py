"""Cost follows from throughput and price alone, and refuses values that mean nothing."""

import math
from typing import Any

import pytest

from penjing.errors import PenjingError
from penjing.measuring.cost import Cost, cost


def test_money_and_machines_by_hand() -> None:
    # 1000 samples a second are 3.6 million an hour.
    got = cost(1000.0, 3.6, rate=1000.5)
    assert got.per_million == pytest.approx(1.0)
    assert got.machines == 2


def test_an_idle_half_doubles_the_money_and_a_second_copy_halves_it() -> None:
    base = cost(100.0, 0.17).per_million
    assert cost(100.0, 0.17, utilisation=0.5).per_million == pytest.approx(2 * base)
    assert cost(100.0, 0.17, copies=2).per_million == pytest.approx(base / 2)


def test_a_rate_that_just_fits_takes_no_further_machine() -> None:
    assert cost(250.0, 0.0, rate=500.0).machines == 2


def test_without_a_rate_machines_are_not_told() -> None:
    assert cost(250.0, 1.0).machines is None


def test_data_comes_back() -> None:
    got = cost(250.0, 1.0, rate=3.0)
    assert Cost.from_data(got.to_data()) == got


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("samples_per_second", 0.0),
        ("samples_per_second", math.nan),
        ("price_per_hour", -0.01),
        ("price_per_hour", math.inf),
        ("rate", 0.0),
        ("rate", -5.0),
        ("utilisation", 0.0),
        ("utilisation", 1.5),
        ("copies", 0),
    ],
)
def test_values_out_of_range_are_named(name: str, value: float) -> None:
    arguments: dict[str, Any] = {"samples_per_second": 100.0, "price_per_hour": 1.0, name: value}
    with pytest.raises(PenjingError, match=rf"{name} is {value}; give"):
        cost(**arguments)


def test_cost_in_words() -> None:
    assert str(cost(1000.0, 3.6)) == "1 per million samples at 1000 samples/s and machine"
    assert str(cost(250.0, 0.9, rate=600.0)) == "1 per million samples at 250 samples/s and machine, machines needed: 3"
