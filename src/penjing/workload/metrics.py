"""Metrics whose per-sample scores can be compared, sample by sample, between two models.

A metric scores a batch into values [n, ...], one row per sample, and aggregates the rows of all batches into one
number. Both are pure functions, so that a test of non-inferiority can pair rows and resample them.
"""

from collections.abc import Callable
from enum import StrEnum
from math import inf
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cross_entropy

from penjing.errors import WorkloadError
from penjing.types import Direction, choose
from penjing.workload.metric import Metric, MetricKind, Values

__all__ = [
    "Average",
    "Metric",
    "MetricKind",
    "accuracy",
    "corpus",
    "f1",
    "mean_absolute_error",
    "mean_of",
    "mean_squared_error",
    "perplexity",
    "r2",
    "top_k",
]


def __dir__() -> list[str]:
    return __all__


class Average(StrEnum):
    """How the F1 of single classes becomes one number."""

    MACRO = "macro"
    MICRO = "micro"
    BINARY = "binary"


def accuracy(threshold: float = 0.0) -> Metric:
    """Share of samples whose class is right: 1[argmax_c outputs[i, c] = target[i]].

    outputs [n, classes] and target [n] of class numbers. With outputs [n] or [n, 1] the classes are 0 and 1, and 1 is
    predicted above `threshold`: 0 for logits, 0.5 for probabilities.
    """

    def score(outputs: Any, target: Any) -> Values:
        predicted, labels = _classes("accuracy", outputs, target, threshold)
        return np.asarray(predicted == labels, dtype=np.float64)

    return Metric("accuracy", Direction.HIGHER, MetricKind.BINARY, 0.0, 1.0, score, _mean)


def top_k(k: int = 5) -> Metric:
    """Share of samples whose class is among the k largest outputs; outputs [n, classes], target [n]."""
    name = f"top-{k} accuracy"
    if k < 1:
        raise WorkloadError(f"top_k: k={k!r} must be at least 1; 5 is usual")

    def score(outputs: Any, target: Any) -> Values:
        logits, labels = _pair(name, outputs, target)
        if logits.ndim != 2 or labels.ndim != 1 or logits.shape[1] < k:
            raise _misfit(name, logits, labels, f"outputs [n, at least {k} classes] and target [n]")
        _check_labels(name, labels, logits.shape[1])
        hits = (logits.topk(k, dim=1).indices == labels.long().unsqueeze(1)).any(dim=1)
        return _float64(hits)

    return Metric(name, Direction.HIGHER, MetricKind.BINARY, 0.0, 1.0, score, _mean)


def mean_of(
    function: Callable[[Any, Any], Any],
    name: str,
    direction: Direction | str = Direction.HIGHER,
    low: float = -inf,
    high: float = inf,
) -> Metric:
    """Mean of function(outputs, target) -> scores [n], each in [low, high].

    >>> mean_of(lambda outputs, target: outputs.abs().amax(1), "peak", "lower", low=0).kind
    <MetricKind.UNBOUNDED: 'unbounded'>
    """
    kind = MetricKind.BOUNDED if np.isfinite(low) and np.isfinite(high) else MetricKind.UNBOUNDED

    def score(outputs: Any, target: Any) -> Values:
        return _float64(function(outputs, target))

    return Metric(name, choose(Direction, direction, "direction", WorkloadError), kind, low, high, score, _mean)


def mean_absolute_error() -> Metric:
    """MAE = mean_ij |outputs[i, j] - target[i, j]|; shapes [n, ...], equal but for dimensions of size 1."""
    return _error("mean absolute error", np.abs)


def mean_squared_error() -> Metric:
    """MSE = mean_ij (outputs[i, j] - target[i, j])^2; shapes [n, ...], equal but for dimensions of size 1."""
    return _error("mean squared error", np.square)


def r2() -> Metric:
    """Coefficient of determination, R2 = 1 - sum_i (t_i - y_i)^2 / sum_i (t_i - mean t)^2, averaged over outputs.

    Values [n, 2, outputs]: the squared error and the target. A constant target gives 1 if met exactly and 0 if not.
    """

    def score(outputs: Any, target: Any) -> Values:
        y, t = _regression("R2", outputs, target)
        return np.stack([(t - y) ** 2, t], axis=1)

    def aggregate(values: Values) -> float:
        residual = values[:, 0].sum(axis=0)
        targets = values[:, 1]
        total = ((targets - targets.mean(axis=0)) ** 2).sum(axis=0)
        share = np.divide(residual, total, out=(residual > 0).astype(np.float64), where=total > 0)
        return float((1 - share).mean())

    return Metric("R2", Direction.HIGHER, MetricKind.CORPUS, -inf, 1.0, score, aggregate)


def f1(average: Average | str = Average.MACRO, threshold: float = 0.0) -> Metric:
    """F1 = 2 TP / (2 TP + FP + FN): of class 1, over all decisions (micro), or averaged over classes (macro).

    Shapes as for `accuracy`. Values [n, 2]: predicted and true class. Classes that occur in neither do not count.
    """
    average = choose(Average, average, "f1: average", WorkloadError)
    name = "F1" if average is Average.BINARY else f"{average} F1"

    def score(outputs: Any, target: Any) -> Values:
        predicted, labels = _classes(name, outputs, target, threshold)
        if average is Average.BINARY and labels.size and max(labels.max(), predicted.max()) > 1:
            raise WorkloadError(f"metric {name}: there are more than two classes; use f1('macro') or f1('micro')")
        return np.stack([predicted, labels], axis=1).astype(np.float64)

    def aggregate(values: Values) -> float:
        predicted, labels = values.astype(np.int64).T
        classes = int(max(predicted.max(), labels.max(), 1)) + 1
        hits = np.bincount(labels[predicted == labels], minlength=classes)
        twice = np.bincount(predicted, minlength=classes) + np.bincount(labels, minlength=classes)
        if average is Average.MICRO:
            return float(2 * hits.sum() / twice.sum())
        if average is Average.BINARY:
            return float(2 * hits[1] / twice[1]) if twice[1] else 0.0
        return float((2 * hits[twice > 0] / twice[twice > 0]).mean())

    return Metric(name, Direction.HIGHER, MetricKind.CORPUS, 0.0, 1.0, score, aggregate)


def perplexity(ignore_index: int = -100, shift: bool = False) -> Metric:
    """Perplexity, exp(sum_i nll_i / sum_i tokens_i), with nll_i the summed negative log-likelihood of sample i.

    outputs [n, tokens, vocabulary], target [n, tokens]; positions whose target is `ignore_index` (padding) do not
    count. shift: position j predicts target j + 1, for labels that repeat the input, as causal language models of
    Hugging Face take them. Values [n, 2]: nll in nats and token count.
    """

    def score(outputs: Any, target: Any) -> Values:
        logits, labels = _pair("perplexity", outputs, target)
        if logits.ndim != 3 or logits.shape[:2] != labels.shape:
            raise _misfit("perplexity", logits, labels, "outputs [n, tokens, vocabulary] and target [n, tokens]")
        if shift:
            logits, labels = logits[:, :-1], labels[:, 1:]
        labels = labels.long()
        _check_labels("perplexity", labels[labels != ignore_index], logits.shape[2])
        # One sample at a time: a float32 copy of the logits of a whole batch may not fit in memory.
        nll = [
            cross_entropy(row.float(), label, ignore_index=ignore_index, reduction="none").double().sum().item()
            for row, label in zip(logits, labels, strict=True)
        ]
        return np.stack([np.array(nll), _float64((labels != ignore_index).sum(1))], axis=1)

    def aggregate(values: Values) -> float:
        nll, tokens = values.sum(axis=0)
        return float(np.exp(nll / tokens)) if tokens else float("nan")

    return Metric("perplexity", Direction.LOWER, MetricKind.CORPUS, 1.0, inf, score, aggregate)


def corpus(
    function: Callable[[NDArray[Any], NDArray[Any]], float],
    name: str,
    direction: Direction | str = Direction.HIGHER,
    low: float = -inf,
    high: float = inf,
) -> Metric:
    """Any metric of all samples at once: function(outputs [n, ...], targets [n, ...]) -> a number in [low, high].

    Rows are kept as NumPy records with the fields "outputs" and "target", so that they can be selected together.
    Targets may be a list of texts or other objects, one a sample.
    """

    def score(outputs: Any, target: Any) -> Values:
        if target is None:
            raise _no_target(name)
        y, t = _array(outputs), _array(target)
        if len(y) != len(t):
            raise WorkloadError(f"metric {name}: {len(y)} outputs for {len(t)} targets; give one target a sample")
        rows = np.empty(len(y), dtype=[("outputs", y.dtype, y.shape[1:]), ("target", t.dtype, t.shape[1:])])
        rows["outputs"], rows["target"] = y, t
        return rows

    def aggregate(values: Values) -> float:
        return float(function(values["outputs"], values["target"]))

    direction = choose(Direction, direction, "direction", WorkloadError)
    return Metric(name, direction, MetricKind.CORPUS, low, high, score, aggregate)


def _mean(values: Values) -> float:
    return float(values.mean())


def _error(name: str, loss: Callable[[NDArray[np.float64]], Any]) -> Metric:
    def score(outputs: Any, target: Any) -> Values:
        y, t = _regression(name, outputs, target)
        return np.asarray(loss(y - t).mean(axis=1))

    return Metric(name, Direction.LOWER, MetricKind.UNBOUNDED, 0.0, inf, score, _mean)


def _no_target(name: str) -> WorkloadError:
    return WorkloadError(
        f"metric {name}: the batch has no target; give batches (inputs, target) or dicts with 'labels', or unpack="
    )


def _misfit(name: str, outputs: Tensor, target: Tensor, wanted: str) -> WorkloadError:
    return WorkloadError(
        f"metric {name}: outputs {list(outputs.shape)} and target {list(target.shape)} ({target.dtype}) do not fit; "
        f"it takes {wanted}. Give select= or unpack=, or another metric"
    )


def _pair(name: str, outputs: Any, target: Any) -> tuple[Tensor, Tensor]:
    if target is None:
        raise _no_target(name)
    try:
        y = torch.as_tensor(outputs)
        t = torch.as_tensor(target, device=y.device)
    except (TypeError, ValueError, RuntimeError) as problem:
        raise WorkloadError(f"metric {name}: outputs and target must be tensors or numbers: {problem}") from problem
    if y.ndim == 0 or t.ndim == 0 or len(y) != len(t):
        raise _misfit(name, y, t, "one output and one target a sample")
    return y, t


def _classes(name: str, outputs: Any, target: Any, threshold: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Predicted and true class numbers, both [n]."""
    y, t = _pair(name, outputs, target)
    if t.ndim == 2 and t.shape[1] == 1:
        t = t.squeeze(1)
    if y.ndim not in (1, 2) or t.ndim != 1:
        raise _misfit(name, y, t, "outputs [n, classes] (or [n] for two classes) and target [n] of class numbers")
    is_single = y.ndim == 1 or y.shape[1] == 1
    _check_labels(name, t, 2 if is_single else y.shape[1])
    predicted = y.reshape(-1) > threshold if is_single else y.argmax(dim=1)
    return _array(predicted).astype(np.int64), _array(t).astype(np.int64)


def _check_labels(name: str, labels: Tensor, classes: int) -> None:
    is_whole = not labels.is_floating_point() or bool((labels == labels.round()).all())
    if not is_whole or (labels.numel() and (labels.min() < 0 or labels.max() >= classes)):
        span = f"{labels.min().item():g} to {labels.max().item():g}"
        raise WorkloadError(
            f"metric {name}: targets run from {span}, but the outputs have {classes} classes; "
            f"targets must be class numbers 0 to {classes - 1}"
        )


def _regression(name: str, outputs: Any, target: Any) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Outputs and targets as float64 [n, outputs]; dimensions of size 1 beyond the batch may differ."""
    y, t = _pair(name, outputs, target)
    if [size for size in y.shape[1:] if size != 1] != [size for size in t.shape[1:] if size != 1]:
        raise _misfit(name, y, t, "outputs and target of the same shape [n, ...]")
    return _float64(y).reshape(len(y), -1), _float64(t).reshape(len(t), -1)


def _array(value: Any) -> NDArray[Any]:
    if isinstance(value, Tensor):
        value = value.detach().cpu()
        array: NDArray[Any] = value.float().numpy() if value.dtype is torch.bfloat16 else value.numpy()
        return array
    try:
        return np.asarray(value)
    except ValueError:  # rows of unlike lengths, such as lists of reference texts
        rows = np.empty(len(value), dtype=object)
        rows[:] = value
        return rows


def _float64(value: Any) -> NDArray[np.float64]:
    return _array(value).astype(np.float64)
