"""What the owner allows: how much may be lost, and what must be reached."""

from dataclasses import dataclass, field
from typing import Any

from penjing.errors import ContractError


@dataclass(frozen=True)
class MaxDrop:
    """At most `max_drop` may be lost in a metric, absolute or as a share of the reference's value.

    metric: the name of a metric of the workload, or a metric object. slice: the name of a group of samples.
    """

    metric: Any
    max_drop: float
    relative: bool = False
    slice: str | None = None

    def __post_init__(self) -> None:
        _drop("MaxDrop", self.max_drop)

    def describe(self) -> str:
        """Say the limit in one line."""
        where = f" on {self.slice}" if self.slice else ""
        unit = " of the reference" if self.relative else ""
        return f"{metric_name(self.metric)}{where} drops at most {self.max_drop:g}{unit}"


@dataclass(frozen=True)
class MinValue:
    """A metric must be at least `value` (at most, where lower is better)."""

    metric: Any
    value: float
    slice: str | None = None

    def describe(self) -> str:
        """Say the limit in one line."""
        where = f" on {self.slice}" if self.slice else ""
        return f"{metric_name(self.metric)}{where} no worse than {self.value:g}"


@dataclass(frozen=True)
class Contract:
    """The owner's terms; a candidate must keep all of them.

    max_drop: largest loss of the workload's metric (0.005 is half a point of accuracy; with relative=True a share of
    the reference's value). confidence: 1 - alpha of the one-sided test. limits: further MaxDrop and MinValue.
    minimize: what is made small among the candidates that keep the terms: "latency", "size", "memory" or "macs".

    >>> Contract(max_drop=0.01).alpha
    0.05
    """

    max_drop: float = 0.005
    relative: bool = False
    confidence: float = 0.95
    limits: tuple[MaxDrop | MinValue, ...] = field(default=())
    max_latency_ms: float | None = None
    max_size_bytes: int | None = None
    max_memory_bytes: int | None = None
    minimize: str = "latency"

    def __post_init__(self) -> None:
        _drop("Contract", self.max_drop)
        if not 0.5 <= self.confidence < 1:
            raise ContractError(f"Contract: confidence={self.confidence!r} must lie in [0.5, 1); 0.95 is usual")
        for name in ("max_latency_ms", "max_size_bytes", "max_memory_bytes"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ContractError(f"Contract: {name}={value!r} must be positive, or None for no limit")
        if self.minimize not in MINIMIZE:
            raise ContractError(f"Contract: minimize={self.minimize!r} is unknown; use one of {', '.join(MINIMIZE)}")
        object.__setattr__(self, "limits", tuple(self.limits))
        for limit in self.limits:
            if not isinstance(limit, MaxDrop | MinValue):
                raise ContractError(
                    f"Contract: limits holds {limit!r}; use penjing.MaxDrop(...) or penjing.MinValue(...)"
                )

    @property
    def alpha(self) -> float:
        """Probability that a candidate which loses more than allowed passes: 1 - confidence."""
        return round(1 - self.confidence, 12)

    def describe(self, metric: str | None = None, *, points: bool = False) -> str:
        """Say the terms in one line; points: the metric is a share, so that 0.01 is one point.

        >>> Contract(0.01).describe("accuracy", points=True)
        'accuracy may drop by at most 1 point, at 95 % confidence'
        """
        most = f"{self.max_drop:g}"
        if self.relative or points:
            amount = f"{100 * self.max_drop:g}"
            unit = " % of the reference" if self.relative else " point" if amount == "1" else " points"
            most = amount + unit
        parts = [f"{metric or 'the metric'} may drop by at most {most}, at {100 * self.confidence:g} % confidence"]
        parts += [limit.describe() for limit in self.limits]
        for name, text in (
            ("max_latency_ms", "ms latency"),
            ("max_size_bytes", "bytes"),
            ("max_memory_bytes", "bytes of memory"),
        ):
            if (value := getattr(self, name)) is not None:
                parts.append(f"at most {value:g} {text}")
        return ", ".join(parts)


MINIMIZE = ("latency", "size", "memory", "macs")


def _drop(owner: str, value: float) -> None:
    if not 0 <= value < float("inf"):
        raise ContractError(f"{owner}: max_drop={value!r} must be a number of at least 0; 0.01 allows one point")


def metric_name(metric: Any) -> str:
    """Name of a metric given by name or as an object."""
    return metric if isinstance(metric, str) else str(metric.name)
