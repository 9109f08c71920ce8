"""Run a model, or anything that is called like one, over batches, and score what it gives."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from penjing.errors import WorkloadError
from penjing.workload import tree
from penjing.workload.batch import Batch
from penjing.workload.metric import Metric, Samples, Values, check_scores, check_value
from penjing.workload.modes import device_of, preserved, preserved_buffers, preserved_randomness
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


def try_loss(
    model: nn.Module,
    batch: Batch,
    loss: Callable[[Any, Any], Any],
    select: Callable[[Any], Any],
    where: str,
    device: torch.device | None = None,
    training: bool = True,
) -> None:
    """Take the loss of one batch as training will, loss(select(outputs), target), and leave the model as it was.

    training: the mode of the model. Raises WorkloadError for a loss that fails, is no scalar tensor, or is not finite.
    """
    name = getattr(loss, "__qualname__", type(loss).__name__)
    with ready(model, device) as run, preserved_buffers(model):
        model.train(training)
        outputs = run(batch, where)
        chosen, target = _call(f"{where}: select", select, outputs), batch.to(device_of(model)).target
        got = f"select(outputs) = {tree.describe(chosen)} and target = {tree.describe(target)}"
        if tree.describe(outputs) != tree.describe(chosen):
            got += f" (the model gave {tree.describe(outputs)})"
        rule = "it is called as loss(select(outputs), target)"
        try:
            value = loss(chosen, target)
        except Exception as problem:
            raise WorkloadError(
                f"{where}: loss {name} failed on {got}: {_quoted(problem)}; {rule}: write it for these two, "
                "or give training_step=, a function (model, batch) -> loss, for a loss of all outputs"
            ) from problem
    if not isinstance(value, Tensor) or value.ndim > 0:
        raise WorkloadError(
            f"{where}: loss {name} gave {tree.describe(value)} on {got}; it must give a scalar tensor, such as a mean "
            "over the batch"
        )
    if not torch.isfinite(value):
        raise WorkloadError(
            f"{where}: loss {name} is {value.item()} on {got}; {rule}: check the labels, and the range that it expects"
        )


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
