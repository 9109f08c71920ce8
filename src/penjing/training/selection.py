"""Which epoch is the best, and when to stop looking for a better one."""

from collections.abc import Sequence

from penjing.training.log import EpochRow
from penjing.types import Direction


def gain(metric: float, direction: Direction) -> float:
    """The metric where higher is better, else its negative."""
    return metric if direction is Direction.HIGHER else -metric


def best_epoch(rows: Sequence[EpochRow], direction: Direction) -> int:
    """Find the settled epoch with the best metric, the latest of several; the last one where none is settled.

    >>> rows = [EpochRow(i, None, metric, 0.0, 0.0) for i, metric in enumerate((0.5, 0.7, 0.7, 0.6))]
    >>> best_epoch(rows, Direction.HIGHER), best_epoch(rows, Direction.LOWER)
    (2, 0)
    """
    return max(_settled(rows), key=lambda row: (gain(row.metric, direction), row.epoch)).epoch


def out_of_patience(rows: Sequence[EpochRow], direction: Direction, patience: int | None) -> bool:
    """Whether so many epochs have passed since the first of the best ones.

    >>> rows = [EpochRow(i, None, metric, 0.0, 0.0) for i, metric in enumerate((0.5, 0.7, 0.7))]
    >>> out_of_patience(rows, Direction.HIGHER, 1), out_of_patience(rows, Direction.HIGHER, None)
    (True, False)
    """
    first_best = max(_settled(rows), key=lambda row: (gain(row.metric, direction), -row.epoch)).epoch
    return patience is not None and rows[-1].epoch - first_best >= patience


def _settled(rows: Sequence[EpochRow]) -> Sequence[EpochRow]:
    return [row for row in rows if row.settled] or rows[-1:]
