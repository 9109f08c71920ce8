"""What the recovery loop minimises: the owner's loss, distillation from the original model, or a mixture of both."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from penjing.errors import WorkloadError
from penjing.recipe import Training
from penjing.workload import Batch, Workload

IGNORED_TARGET = -100  # the label that torch.nn.functional.cross_entropy leaves out


def distillation_kl(student: Tensor, teacher: Tensor, temperature: float = 4.0, dim: int = -1) -> Tensor:
    r"""Divergence of softened class probabilities, T^2 KL(softmax(z_t / T) || softmax(z_s / T)).

    Hinton, Vinyals and Dean 2015, "Distilling the Knowledge in a Neural Network" (arXiv:1503.02531), section 2; T^2
    keeps the gradients at one scale for every temperature. `student` and `teacher` are logits of one shape with the
    classes along `dim`; the result has that shape without `dim`, so that positions can be masked.

    >>> distillation_kl(torch.zeros(2, 3), torch.zeros(2, 3))
    tensor([0., 0.])
    """
    log_s = functional.log_softmax(student.float() / temperature, dim)
    log_t = functional.log_softmax(teacher.float() / temperature, dim)
    return temperature**2 * functional.kl_div(log_s, log_t, reduction="none", log_target=True).sum(dim)


def class_dim(outputs: Tensor, target: Any) -> int | None:
    """Find the dimension of `outputs` that holds classes, given the target; None when they are no class scores.

    Class numbers of shape [N, ...] go with logits [N, ..., C], or [N, C, ...] for dense prediction.

    >>> class_dim(torch.zeros(4, 10), torch.zeros(4, dtype=torch.long))
    -1
    >>> class_dim(torch.zeros(4, 21, 8, 8), torch.zeros(4, 8, 8, dtype=torch.long))
    1
    >>> class_dim(torch.zeros(4, 10), torch.zeros(4, 10)) is None
    True
    """
    if not isinstance(target, Tensor) or target.is_floating_point() or outputs.ndim != target.ndim + 1:
        return None
    if outputs.shape[:-1] == target.shape:
        return -1
    return 1 if outputs.shape[:1] + outputs.shape[2:] == target.shape else None


def distillation(student: Tensor, teacher: Tensor, target: Any, temperature: float) -> Tensor:
    """Scalar distance of a student's outputs from its teacher's.

    Class scores: the mean of `distillation_kl` over all positions whose label is not ignored (-100). Everything else
    (regression, embeddings, independent labels): mean squared error, as in Ba and Caruana 2014, "Do Deep Nets Really
    Need to be Deep?" (arXiv:1312.6184).

    Raises WorkloadError when the two shapes differ.
    """
    if student.shape != teacher.shape:
        raise WorkloadError(
            f"distillation: the model gives outputs of shape {tuple(student.shape)}, its teacher {tuple(teacher.shape)}"
            "; use a teacher with the same outputs, or Finetune(distill=False)"
        )
    dim = class_dim(student, target)
    if dim is None:
        return functional.mse_loss(student.float(), teacher.float())
    divergence = distillation_kl(student, teacher, temperature, dim)
    counted = target != IGNORED_TARGET
    mean: Tensor = (divergence * counted).sum() / counted.sum().clamp(min=1)
    return mean


TASK, LOGITS = "task", "logits"
_NAMES = {TASK: "loss", LOGITS: "distillation"}


@dataclass(frozen=True)
class Objective:
    """loss = sum of weight times term: the owner's loss ("task"), and what is learnt from a teacher.

    Raises WorkloadError when no term is left: no loss, no training step and no teacher.
    """

    workload: Workload
    teacher: nn.Module | None
    terms: Mapping[str, float]
    temperature: float

    @classmethod
    def of(cls, workload: Workload, step: Training, teacher: nn.Module | None) -> "Objective":
        """Keep the terms of a step for which there is a loss or a teacher; their weights add up to what all did."""
        has_task = workload.loss is not None or workload.training_step is not None
        wanted = {name: weight for name, weight in step.terms.items() if weight > 0}
        left = {name: weight for name, weight in wanted.items() if (has_task if name == TASK else teacher is not None)}
        if not left:
            raise WorkloadError(
                f"{type(step).__name__} has nothing to minimise: the workload has no loss and no training_step, and "
                "there is no teacher to distil from; give Workload(loss=...), or distil from a teacher"
            )
        whole = sum(wanted.values()) / sum(left.values())
        terms = {name: weight * whole for name, weight in left.items()}
        return cls(workload, None if terms.keys() == {TASK} else teacher, terms, step.temperature)

    @property
    def name(self) -> str:
        """Say what is minimised, for the log."""
        return " + ".join(
            ("" if weight == 1 else f"{weight:g} ") + _NAMES.get(name, name) for name, weight in self.terms.items()
        )

    def __call__(self, model: nn.Module, batch: Batch) -> Tensor:
        """Give the scalar to minimise for one batch, shape []."""
        task, call = self._task(model, batch)
        losses = {} if task is None else {TASK: task}
        if self.teacher is not None:
            with torch.no_grad():
                expected = self.workload.select(self.teacher(*call.args, **call.kwargs))
            found = self.workload.select(call.outputs)
            losses[LOGITS] = distillation(found, expected, batch.target, self.temperature)
        parts = [weight * losses[name] for name, weight in self.terms.items()]
        loss: Any = sum(parts[1:], start=parts[0])
        if not isinstance(loss, Tensor) or loss.ndim > 0 or not loss.requires_grad:
            got = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
            raise WorkloadError(
                f"the training loss must be a scalar tensor that depends on the weights, got {got}; "
                "return for instance torch.nn.functional.cross_entropy(outputs, target)"
            )
        return loss

    def _task(self, model: nn.Module, batch: Batch) -> "tuple[Tensor | None, _Call]":
        if self.workload.training_step is None:
            outputs = model(*batch.args, **batch.kwargs)
            task = None
            if self.workload.loss is not None and TASK in self.terms:
                task = self.workload.loss(self.workload.select(outputs), batch.target)
            return task, _Call(batch.args, batch.kwargs, outputs)
        with _last_call(model) as calls:
            task = self.workload.training_step(model, batch.raw)
        if not calls and self.teacher is not None:
            raise WorkloadError(
                "distillation needs the model's outputs, but training_step never called model(...); "
                "call it there, or train without a teacher"
            )
        return task, calls[-1] if calls else _Call((), {}, None)


@dataclass(frozen=True)
class _Call:
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    outputs: Any


@contextmanager
def _last_call(model: nn.Module) -> Iterator[list[_Call]]:
    """Collect the latest forward call of a model, so that a teacher can be asked the same question."""
    calls: list[_Call] = []

    def record(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], outputs: Any) -> None:
        calls[:] = [_Call(args, kwargs, outputs)]

    handle = model.register_forward_hook(record, with_kwargs=True)
    try:
        yield calls
    finally:
        handle.remove()
