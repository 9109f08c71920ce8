"""What a training leaves behind: one row per epoch, and how it was run."""

from dataclasses import asdict, dataclass
from typing import Any, Protocol


class Progress(Protocol):
    """Anything that shows how far the work is, such as a progress bar."""

    def update(self, done: int, total: int, text: str) -> None:
        """Show that `done` of `total` steps are finished."""
        ...


@dataclass(frozen=True, slots=True)
class EpochRow:
    """One epoch: mean training loss, metric on the search split, largest rate of its last step, seconds it took.

    Epoch 0 is the model before training; it has no loss. settled: whether the model was what it is to be, such as
    sparse enough; else it cannot be the best. averaged: whether the metric is that of the average of the weights, which
    was better than theirs.
    """

    epoch: int
    loss: float | None
    metric: float
    lr: float
    seconds: float
    settled: bool = True
    averaged: bool = False


@dataclass(frozen=True, slots=True)
class NewNorms:
    """The metric with running statistics taken anew at the end, and whether they were kept."""

    metric: float
    kept: bool

    def __str__(self) -> str:
        return f"new statistics of batch norms: {self.metric:.4g}, {'kept' if self.kept else 'put back'}"


@dataclass(frozen=True)
class TrainingLog:
    """How a recovery went. The model was left in the state of `best`, which may be that before training (epoch 0).

    objective: what was minimised. precision: "fp32" or "bf16". trials: the candidates that were timed, with their step
    times in words. steps: optimizer steps made. resumed_from: the epoch after which an earlier run was taken up. norms:
    what new statistics of batch norms brought, None where none were taken.

    >>> rows = (EpochRow(0, None, 0.5, 0.0, 0.1), EpochRow(1, 0.7, 0.9, 0.01, 2.0))
    >>> print(TrainingLog(rows, 1, False, "accuracy", "loss", "fp32", False, (), 10).summary())
    accuracy 0.5 -> 0.9 (epoch 1 of 1, 2.1 s; loss; fp32)
    """

    rows: tuple[EpochRow, ...]
    best_epoch: int
    stopped_early: bool
    metric: str
    objective: str
    precision: str
    channels_last: bool
    trials: tuple[str, ...]
    steps: int
    resumed_from: int | None = None
    norms: NewNorms | None = None

    @property
    def best(self) -> EpochRow:
        """Give the row of the best epoch."""
        return self.rows[self.best_epoch]

    def summary(self) -> str:
        """Say in one line what was gained and how."""
        seconds = sum(row.seconds for row in self.rows)
        stopped = ", stopped early" if self.stopped_early else ""
        how = f"{self.precision}, channels last" if self.channels_last else self.precision
        averaged = ", averaged weights" if self.best.averaged else ""
        norms = f"; {self.norms}" if self.norms is not None else ""
        timed = f"; timed {'; '.join(self.trials)}" if len(self.trials) > 1 else ""
        return (
            f"{self.metric} {self.rows[0].metric:.4g} -> {self.best.metric:.4g} (epoch {self.best_epoch} of "
            f"{len(self.rows) - 1}{stopped}{averaged}, {seconds:.3g} s; {self.objective}; {how}{norms}{timed})"
        )

    def to_data(self) -> dict[str, Any]:
        """Give plain values for JSON."""
        return asdict(self)
