"""What a measured throughput costs: money per million inferences, and machines for a rate of requests."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from penjing.errors import PenjingError


@dataclass(frozen=True)
class Cost:
    """Money for a million samples, in the currency of the price, and machines for a rate (None without a rate)."""

    per_million: float
    per_machine: float
    machines: int | None

    def to_data(self) -> dict[str, Any]:
        """Give the cost as JSON values; per_machine is samples per second."""
        return asdict(self)

    @staticmethod
    def from_data(data: Mapping[str, Any]) -> "Cost":
        """Read what `to_data` gave."""
        return Cost(**data)

    def __str__(self) -> str:
        text = f"{self.per_million:.3g} per million samples at {self.per_machine:.4g} samples/s and machine"
        return text + ("" if self.machines is None else f", machines needed: {self.machines}")


def cost(
    samples_per_second: float,
    price_per_hour: float,
    *,
    rate: float | None = None,
    utilisation: float = 1.0,
    copies: int = 1,
) -> Cost:
    """Price a throughput measured for one copy of the model.

        per machine = samples_per_second * copies * utilisation
        per million = price_per_hour / 3600 / per machine * 1e6
        machines    = ceil(rate / per machine)

    copies: how many run side by side on a machine, taken not to slow each other. utilisation: the share of its time
    a machine is kept busy, in (0, 1]. rate: samples per second to serve. Raises PenjingError for values out of range.

    >>> cost(500.0, 0.18, rate=1200.0, utilisation=0.5, copies=2)
    Cost(per_million=0.1, per_machine=500.0, machines=3)
    """
    _positive("samples_per_second", samples_per_second)
    _positive("copies", copies)
    _positive("utilisation", utilisation)
    if utilisation > 1.0:
        raise PenjingError(f"utilisation is {utilisation}; give the share of time a machine is busy, at most 1")
    if not (math.isfinite(price_per_hour) and price_per_hour >= 0.0):
        raise PenjingError(f"price_per_hour is {price_per_hour}; give the price of a machine for an hour, 0 or more")
    if rate is not None:
        _positive("rate", rate)
    per_machine = samples_per_second * copies * utilisation
    per_million = price_per_hour * 1e6 / 3600 / per_machine
    return Cost(per_million, per_machine, None if rate is None else math.ceil(rate / per_machine))


def _positive(name: str, value: float) -> None:
    if not (math.isfinite(value) and value > 0):
        raise PenjingError(f"{name} is {value}; give a finite number above 0")
