"""What a model costs, before and after, from a journal of invented figures and a price."""

import pytest

from penjing.errors import PenjingError
from penjing.reporting import Pricing, Unit
from penjing.reporting.pricing import cost_rows
from penjing.reporting.words import change, shown

BEFORE = {"median_ms": 8.0, "low_ms": 7.2, "high_ms": 9.0, "threads": 1, "noise": None}
AFTER = {
    "median_ms": 2.0,
    "low_ms": 1.8,
    "high_ms": 2.25,
    "threads": 1,
    "noise": "a spread of 12 %",
    "ratio": {"value": 4.0, "low": 3.9, "high": 4.1},
}


def test_money_and_machines_by_hand() -> None:
    # 8 samples in 8 ms are 1000 a second, 3.6 million an hour.
    pricing = Pricing(3.6, rate=2500.0)
    money, machines = cost_rows({"latencies": {"8": BEFORE}}, {"latencies": {"8": AFTER}}, pricing, "onnxruntime")
    assert (money.name, money.unit) == ("cost of a million samples, batch 8", Unit.MONEY)
    assert (money.before.value, money.before.low, money.before.high) == pytest.approx((1.0, 0.9, 1.125))
    assert money.after.value == pytest.approx(0.25)
    assert money.after.note == "noisy"
    assert change(money) == "4.00× cheaper"
    assert shown(money.before, money.unit) == "1.00"
    assert "3.6 an hour for a machine that runs one copy on 1 thread(s) and is busy 100% of the time" in money.method
    assert machines.name == "machines for 2500 samples/s, batch 8"
    assert (machines.before.value, machines.before.low, machines.before.high) == (3, 3, 3)
    assert machines.after.value == 1
    assert change(machines) == "3.00× fewer"


def test_an_idle_half_doubles_the_money_and_without_a_rate_there_are_no_machines() -> None:
    (money,) = cost_rows({"latencies": {"8": BEFORE}}, {"latencies": {"8": AFTER}}, Pricing(3.6, utilisation=0.5), "r")
    assert money.before.value == pytest.approx(2.0)


def test_a_price_that_means_nothing_is_refused() -> None:
    with pytest.raises(PenjingError, match=r"price_per_hour is -1"):
        cost_rows({"latencies": {"8": BEFORE}}, {"latencies": {"8": AFTER}}, Pricing(-1.0), "r")
