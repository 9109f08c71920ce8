"""Rows of a report that say what the model costs to run, before and after, at a price that the reader gives."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from penjing.measuring.cost import Cost, cost
from penjing.reporting.data import Figure, Row, Unit

Event = Mapping[str, Any]


@dataclass(frozen=True)
class Pricing:
    """Price of a machine for an hour, samples per second to serve, and the share of its time a machine is busy."""

    price_per_hour: float
    rate: float | None = None
    utilisation: float = 1.0

    def cost(self, samples_per_second: float) -> Cost:
        """Price a throughput; raises PenjingError for values out of range."""
        return cost(samples_per_second, self.price_per_hour, rate=self.rate, utilisation=self.utilisation)


def cost_rows(base: Event, chosen: Event, pricing: Pricing, runtime: str) -> tuple[Row, ...]:
    """Give money per million samples, and machines for the rate, at each batch that the run measured."""
    rows = []
    for n in sorted(base["latencies"], key=int, reverse=True):
        before, after = base["latencies"][n], chosen["latencies"][n]
        ratio = after.get("ratio")
        method = (
            f"{runtime}, samples per second of one caller; {pricing.price_per_hour:g} an hour for a machine that runs "
            f"one copy on {before['threads']} thread(s) and is busy {pricing.utilisation:.0%} of the time"
        )
        rows.append(
            Row(
                name=f"cost of a million samples, batch {n}",
                unit=Unit.MONEY,
                before=_figure(before, int(n), pricing, lambda found: found.per_million),
                after=_figure(after, int(n), pricing, lambda found: found.per_million),
                factor=Figure.of(ratio["value"], ratio["low"], ratio["high"]) if ratio else None,
                method=method,
            )
        )
        if pricing.rate is not None:
            rows.append(
                Row(
                    name=f"machines for {pricing.rate:g} samples/s, batch {n}",
                    unit=Unit.COUNT,
                    before=_figure(before, int(n), pricing, _machines),
                    after=_figure(after, int(n), pricing, _machines),
                    method=method,
                )
            )
    return tuple(rows)


def _figure(latency: Mapping[str, Any], batch: int, pricing: Pricing, part: Callable[[Cost], float]) -> Figure:
    """Price the median and both ends of its interval."""
    value, low, high = (part(pricing.cost(batch / latency[name] * 1e3)) for name in ("median_ms", "low_ms", "high_ms"))
    return Figure.of(value, low, high, "noisy" if latency["noise"] else "")


def _machines(found: Cost) -> float:
    assert found.machines is not None  # asked for with a rate only
    return found.machines
