"""What the search split says of a model in training: as it is, with averaged weights, with new statistics of norms."""

import itertools
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import nn

from penjing.errors import WorkloadError
from penjing.training.checkpoint import Tensors, copy_of, tensors_of, write_into
from penjing.training.hooks import Hook, LoopState
from penjing.training.log import EpochRow, NewNorms
from penjing.training.norms import BATCHES, batch_norms, reestimate
from penjing.training.selection import gain
from penjing.types import Split
from penjing.workload import Workload


def evaluated(
    state: LoopState,
    workload: Workload,
    hooks: Sequence[Hook],
    start: float,
    average: Tensors | None = None,
    loss: float | None = None,
) -> EpochRow:
    """Evaluate the model, and an average of its weights beside it; the row is that of the better one."""
    when = f"after epoch {state.epoch} of training"
    metric, averaged = _metric(state.model, workload, when), False
    if average is not None:
        with _holding(state.model, average):
            other = _metric(state.model, workload, when)
        averaged = gain(other, workload.metric.direction) > gain(metric, workload.metric.direction)
        metric = other if averaged else metric
    settled = all(hook.settled(state) for hook in hooks)
    return EpochRow(state.epoch, loss, metric, state.lr, time.perf_counter() - start, settled, averaged)


def with_new_norms(model: nn.Module, workload: Workload, before: float) -> NewNorms | None:
    """Take the statistics of batch norms anew, and keep them unless the metric falls; None where there are none."""
    if not batch_norms(model):
        return None
    old, kept = copy_of(tensors_of(model)), False
    try:
        reestimate(model, itertools.islice(workload.train_batches(), BATCHES))
        metric = _metric(model, workload, "with new statistics of batch norms")
        kept = gain(metric, workload.metric.direction) >= gain(before, workload.metric.direction)
    finally:
        if not kept:
            write_into(model, old)
    return NewNorms(metric, kept)


def _metric(model: nn.Module, workload: Workload, when: str) -> float:
    value = workload.evaluate(model, Split.SEARCH)[0].value
    if not math.isfinite(value):
        raise WorkloadError(
            f"metric {workload.metric.name!r} is {value} {when}; check the metric, or lower the learning rate"
        )
    return value


@contextmanager
def _holding(model: nn.Module, tensors: Tensors) -> Iterator[None]:
    """Have other tensors in a model inside, and its own afterwards."""
    own = copy_of(tensors_of(model))
    write_into(model, tensors)
    try:
        yield
    finally:
        write_into(model, own)
