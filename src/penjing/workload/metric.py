"""A metric, what one model scored with it, and the checks that no score passes unseen."""

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penjing.errors import WorkloadError
from penjing.types import Direction

Values = NDArray[Any]


class MetricKind(StrEnum):
    """What is known of the per-sample scores, and so which test applies to them."""

    BINARY = "binary"
    BOUNDED = "bounded"
    UNBOUNDED = "unbounded"
    CORPUS = "corpus"


@dataclass(frozen=True)
class Metric:
    """A figure of merit with per-sample scores.

    kind BINARY: scores [n] in {0, 1}, the metric is their mean; BOUNDED: scores [n] in [low, high], the metric is their
    mean; UNBOUNDED: scores [n] with an infinite end, the metric is their mean; CORPUS: values [n, ...] from which
    `aggregate` makes the metric, in [low, high], for any selection of rows. Metrics are equal when all but their
    functions is equal: the name stands for them.

    >>> import torch
    >>> from penjing.workload import accuracy
    >>> metric = accuracy()
    >>> values = metric.score(torch.tensor([[0.1, 0.9], [0.8, 0.2]]), torch.tensor([1, 1]))
    >>> values, metric.aggregate(values)
    (array([1., 0.]), 0.5)
    """

    name: str
    direction: Direction
    kind: MetricKind
    low: float
    high: float
    score: Callable[[Any, Any], Values] = field(compare=False, repr=False)
    aggregate: Callable[[Values], float] = field(compare=False, repr=False)

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise WorkloadError(f"metric {self.name}: low={self.low!r} must be below high={self.high!r}")

    @property
    def has_known_range(self) -> bool:
        """Whether both ends of the range are finite, so that an absolute drop means something."""
        return bool(np.isfinite(self.low) and np.isfinite(self.high))


@dataclass(frozen=True, eq=False)
class Samples:
    """What one model scored on one split: values [n, ...], one row per sample, in the order of the source.

    groups: cluster id of each row, for the bootstrap, or None where samples are independent.
    """

    metric: Metric
    values: Values
    groups: NDArray[Any] | None = None

    def __len__(self) -> int:
        return len(self.values)

    @property
    def value(self) -> float:
        """The metric over all rows."""
        return float(self.metric.aggregate(self.values))


def check_scores(metric: Metric, values: Any, size: int, where: str) -> Values:
    """Check the scores of one batch: one row per sample, no NaN, and each within the metric's range.

    Raises WorkloadError that names the metric, the value and the batch (`where`).
    """
    at = f"{where}: metric {metric.name}"
    if not isinstance(values, np.ndarray) or values.ndim == 0 or len(values) != size:
        shape = list(np.shape(values))
        raise WorkloadError(f"{at} gave scores of shape {shape} for {size} samples; give one score a sample, [{size}]")
    if metric.kind is not MetricKind.CORPUS and values.ndim != 1:
        raise WorkloadError(
            f"{at} gave scores of shape {list(values.shape)}; give one number a sample, [{size}], such as its mean"
        )
    for name in values.dtype.names or (None,):
        column = values if name is None else values[name]
        if column.dtype.kind in "fc" and np.isnan(column).any():
            row = int(np.argwhere(np.isnan(column))[0][0])
            raise WorkloadError(
                f"{at} is NaN for sample {row}; check the model's outputs and the function that scores them"
            )
    if metric.kind is not MetricKind.CORPUS:
        outside = (values < metric.low) | (values > metric.high) | ~np.isfinite(values)
        if metric.kind is MetricKind.BINARY:
            outside |= (values != 0) & (values != 1)
        if outside.any():
            row = int(outside.argmax())
            raise _out_of_range(at + f", sample {row},", metric, float(values[row]))
    return values


def check_value(samples: Samples, where: str) -> None:
    """Check that the metric over all rows is a number within its range; WorkloadError otherwise."""
    metric, value = samples.metric, samples.value
    slack = 1e-9 * max(1.0, abs(value))
    if not metric.low - slack <= value <= metric.high + slack or not np.isfinite(value):
        raise _out_of_range(f"{where}: metric {metric.name}", metric, value)


def _out_of_range(at: str, metric: Metric, value: float) -> WorkloadError:
    span = "{0, 1}" if metric.kind is MetricKind.BINARY else f"[{metric.low:g}, {metric.high:g}]"
    return WorkloadError(
        f"{at} is {value:g}, outside its range {span}; correct the function or give the right low and high"
    )
