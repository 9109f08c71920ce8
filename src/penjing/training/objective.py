"""What the recovery loop minimises: the owner's loss, what is learnt from a teacher, or a mixture of both."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from penjing.errors import WorkloadError
from penjing.recipe import Distill, Training
from penjing.training.knowledge import LAYER_LOSSES, Lessons
from penjing.training.knowledge.layers import listening
from penjing.training.losses import distillation
from penjing.workload import Batch, Workload

TASK, LOGITS = "task", "logits"
_NAMES = {TASK: "loss", LOGITS: "distillation"}


@dataclass(frozen=True)
class Objective:
    """loss = sum of weight times term: the owner's loss ("task"), and what is learnt from a teacher.

    lessons: what is learnt from layers; their projections are trained as well.

    Raises WorkloadError when no term is left: no loss, no training step and no teacher.
    """

    workload: Workload
    teacher: nn.Module | None
    terms: Mapping[str, float]
    temperature: float
    lessons: Lessons

    @classmethod
    def of(
        cls, workload: Workload, step: Training, teacher: nn.Module | None, student: nn.Module | None = None
    ) -> "Objective":
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
        lessons = Lessons({}, nn.ModuleList())
        layered = {name: weight for name, weight in terms.items() if name in LAYER_LOSSES}
        if layered and isinstance(step, Distill) and student is not None and teacher is not None:
            lessons = Lessons.of(layered, step.layers, student, teacher, workload)
        return cls(workload, None if terms.keys() == {TASK} else teacher, terms, step.temperature, lessons)

    @property
    def name(self) -> str:
        """Say what is minimised, for the log."""
        return " + ".join(
            ("" if weight == 1 else f"{weight:g} ") + _NAMES.get(name, name) for name, weight in self.terms.items()
        )

    def __call__(self, model: nn.Module, batch: Batch) -> Tensor:
        """Give the scalar to minimise for one batch, shape []."""
        with listening(model, self.lessons.names("student")) as seen:
            task, call = self._task(model, batch)
        losses = {} if task is None else {TASK: task}
        if self.teacher is not None:
            with torch.no_grad(), listening(self.teacher, self.lessons.names("teacher")) as expected:
                outputs = self.teacher(*call.args, **call.kwargs)
            losses |= self.lessons.losses(seen, expected)
            if LOGITS in self.terms:
                pair = self.workload.select(call.outputs), self.workload.select(outputs)
                losses[LOGITS] = distillation(*pair, batch.target, self.temperature)
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
