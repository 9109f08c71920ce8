"""Run a model, or anything that is called like one, over batches, and score what it gives."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from penjing.errors import WorkloadError
from penjing.workload import tree
from penjing.workload.batch import Batch
from penjing.workload.metric import Metric, Samples, Values, check_scores, check_value
from penjing.workload.modes import device_of, preserved, preserved_randomness
from penjing.workload.outputs import check_finite

Run = Callable[[Batch, str], Any]


@contextmanager
def ready(predict: Callable[..., Any], device: torch.device | None = None) -> Iterator[Run]:
    """Make a model ready to be run, and leave it as it was; gives run(batch, where) -> outputs.

    A module runs in evaluation mode on `device` (None: where it is), with the batches moved there; any other callable
    gets the batches as they are. No gradients are kept. A failing call is a WorkloadError that quotes it (`where` says
    which batch it was).
    """
    module = predict if isinstance(predict, nn.Module) else None
    with preserved_randomness() if module is None else preserved(module), torch.no_grad():
        place: torch.device | None = None
        if module is not None:
            module.eval()
            if device is not None:
                module.to(device)
            place = device or device_of(module)

        def run(batch: Batch, where: str) -> Any:
            try:
                inputs = batch if place is None else batch.to(place)
                return predict(*inputs.args, **inputs.kwargs)
            except Exception as problem:
                shapes = tree.describe((batch.args, dict(batch.kwargs)))
                raise WorkloadError(f"{where}: the model failed on inputs {shapes}: {_quoted(problem)}") from problem

        yield run


def evaluate(
    predict: Callable[..., Any],
    batches: Iterable[Batch],
    metrics: Sequence[Metric],
    select: Callable[[Any], Any],
    where: str,
    device: torch.device | None = None,
    groups: NDArray[Any] | None = None,
) -> tuple[Samples, ...]:
    """Score every batch with every metric in one pass. Raises WorkloadError that names the batch (`where`, number)."""
    rows: list[list[Values]] = []
    with ready(predict, device) as run:
        for i, batch in enumerate(batches):
            rows.append(score(run, batch, metrics, select, f"{where}, batch {i}"))
    return tuple(
        _samples(metric, columns, groups, where)
        for metric, columns in zip(metrics, zip(*rows, strict=True), strict=True)
    )


def score(run: Run, batch: Batch, metrics: Sequence[Metric], select: Callable[[Any], Any], where: str) -> list[Values]:
    """Score one batch with every metric: values [n, ...] each."""
    chosen = _call(f"{where}: select", select, run(batch, where))
    check_finite(chosen, where)
    return [
        check_scores(
            metric, _call(f"{where}: metric {metric.name}", metric.score, chosen, batch.target), batch.size, where
        )
        for metric in metrics
    ]


def _samples(metric: Metric, columns: Sequence[Values], groups: NDArray[Any] | None, where: str) -> Samples:
    try:
        values = np.concatenate(columns)
    except (TypeError, ValueError) as problem:
        raise WorkloadError(
            f"{where}: metric {metric.name} gave rows of unlike shapes, which cannot stand together ({problem}); "
            "pad outputs and targets to one length"
        ) from problem
    samples = Samples(metric, values, groups)
    check_value(samples, where)
    return samples


def _call(what: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function of the user; what goes wrong in it is a WorkloadError that says where it was."""
    try:
        return function(*arguments)
    except WorkloadError as problem:
        raise WorkloadError(f"{what}: {problem}") from problem
    except Exception as problem:
        shapes = ", ".join(tree.describe(argument) for argument in arguments)
        raise WorkloadError(f"{what} failed on {shapes}: {_quoted(problem)}") from problem


def _quoted(problem: Exception) -> str:
    return f"{type(problem).__name__}: {problem}"
