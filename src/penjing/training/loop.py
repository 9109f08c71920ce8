"""The recovery loop: train on, keep the best, be killable at any instant."""

import itertools
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from penjing.errors import WorkloadError
from penjing.recipe import Training
from penjing.training.averaging import update_average
from penjing.training.checkpoint import (
    Record,
    checkpoint_path,
    copy_of,
    fitting,
    resume,
    save,
    tensors_of,
    write_into,
)
from penjing.training.evaluation import evaluated, with_new_norms
from penjing.training.hooks import Hook, LoopState
from penjing.training.log import Progress, TrainingLog
from penjing.training.numerics import Numerics, choose_numerics, layout
from penjing.training.objective import Objective
from penjing.training.optimizers import build_optimizer, set_lr
from penjing.training.parallel import Team
from penjing.training.randomness import isolated_randomness
from penjing.training.schedules import step_factor
from penjing.training.selection import best_epoch, out_of_patience
from penjing.workload import Batch, Workload, device_of


@dataclass(frozen=True)
class _Course:
    """What a training is made of, besides the state that it changes."""

    workload: Workload
    step: Training
    hooks: Sequence[Hook]
    objective: Objective
    team: Team
    seed: int
    progress: Progress | None

    def loss(self, model: nn.Module, batch: Batch, numerics: Numerics) -> Tensor:
        """Give the scalar to minimise for one batch."""
        with numerics.autocast(self.workload.device):
            return self.objective(model, batch.to(self.workload.device))


def finetune(
    model: nn.Module,
    workload: Workload,
    step: Training,
    *,
    teacher: nn.Module | None = None,
    hooks: Sequence[Hook] = (),
    seed: int = 0,
    resume_dir: str | Path | None = None,
    progress: Progress | None = None,
) -> TrainingLog:
    """Train a model in place and leave it in the state that is best on the search split.

    The state before training counts too, so the metric never gets worse; between equal ones the later wins. Epochs in
    which a hook says that the model is not settled yet do not count, unless none is. What is minimised, the `teacher`'s
    part in it included, is told by `step.terms`; see `Objective`. Whatever ends the training, Ctrl-C included, the
    model holds the best weights seen so far, and modes, memory layout and the random generators are as they were.

    With `resume_dir` every finished epoch is saved there, and the same call goes on after the last one, bit for bit as
    if it had never stopped when the source of batches draws only on the global generators (a DataLoader with its own
    `generator=` starts that one afresh). Under `torchrun` all processes call this alike, and share each batch; see
    `penjing.training.parallel`.

    Raises WorkloadError when there is nothing to learn from, or when the loss is no longer finite.
    """
    name = type(step).__name__
    if teacher is model and step.terms.keys() != {"task"}:
        raise WorkloadError(
            f"{name}: the teacher is the model that is trained; pass copy.deepcopy(model) as one of them"
        )
    per_epoch = workload.train_steps
    if per_epoch == 0:
        raise WorkloadError(f"{name}: the workload has no training batch; give Workload(..., train=...)")
    with isolated_randomness(seed):
        objective = Objective.of(workload, step, teacher, model)
    total = max(1, round(step.epochs * per_epoch)) if step.epochs > 0 else 0
    epochs = math.ceil(total / per_epoch)
    optimizer = build_optimizer(model, step, objective.lessons.projections)
    state = LoopState(model, optimizer, total)
    team = Team.join()
    course = _Course(workload, step, hooks, objective, team, seed, progress if team.leads else None)
    direction = workload.metric.direction
    path: Path | None = None
    if resume_dir is not None:
        named = partial(checkpoint_path, Path(resume_dir), step, seed, total, model, objective.teacher)
        path = team.ask(named)  # that of the leading rank, whose weights all will have

    with _as_they_were(model, objective.teacher, workload.device), isolated_randomness(seed):
        team.align(model)
        for hook in hooks:
            hook.before_training(state)
        resumed_from = None
        if path is not None and team.ask(path.exists):
            record = resume(path, state, objective.lessons.projections, hooks)
            resumed_from = record.rows[-1].epoch
        else:
            record = _begun(state, course)
        try:
            with layout(model, record.numerics.channels_last):
                for epoch in range(len(record.rows), epochs + 1):
                    if out_of_patience(record.rows, direction, step.patience):
                        break
                    start = time.perf_counter()
                    state.epoch = epoch
                    loss = _one_epoch(state, course, record)
                    row = partial(evaluated, state, workload, hooks, start, record.average, loss)
                    record.rows.append(team.ask(row))
                    if best_epoch(record.rows, direction) == epoch:
                        averaged = record.average if record.rows[-1].averaged else None
                        record.best = copy_of(averaged or tensors_of(model))
                    if path is not None and team.leads:
                        save(path, state, record, objective.lessons.projections, hooks)
                    for hook in hooks:
                        hook.after_epoch(state)
        finally:
            optimizer.zero_grad(set_to_none=True)
            write_into(model, fitting(record.best, model))
        best = best_epoch(record.rows, direction)
        norms = None
        if step.reestimate_norms:
            norms = team.ask(partial(with_new_norms, model, workload, record.rows[best].metric))
            team.align(model)

    return TrainingLog(
        rows=tuple(record.rows),
        best_epoch=best,
        stopped_early=len(record.rows) - 1 < epochs,
        metric=workload.metric.name,
        objective=objective.name,
        precision=record.numerics.precision,
        channels_last=record.numerics.channels_last,
        trials=record.trials,
        steps=state.step,
        resumed_from=resumed_from,
        norms=norms,
    )


def _begun(state: LoopState, course: _Course) -> Record:
    """Evaluate the model before training, and choose how its steps are computed."""
    workload, step = course.workload, course.step
    row = course.team.ask(partial(evaluated, state, workload, course.hooks, time.perf_counter()))
    record = Record([row], best=copy_of(tensors_of(state.model)))
    if step.ema is not None:
        record.average = copy_of(record.best)
    if state.total_steps > 0:
        first = next(iter(workload.train_batches()))
        loss = partial(course.loss, state.model.train(), first)
        record.numerics, timed = course.team.ask(partial(choose_numerics, step.precision, state.model, loss))
        record.trials = tuple(str(trial) for trial in timed)
    return record


def _one_epoch(state: LoopState, course: _Course, record: Record) -> float:
    """Train on every batch once, or on those that are left; give the mean loss."""
    workload, step = course.workload, course.step
    state.model.train()
    for hook in course.hooks:
        hook.before_epoch(state)
    record.best = fitting(record.best, state.model)
    losses: list[float] = []
    left = min(workload.train_steps, state.total_steps - state.step)
    for batch in itertools.islice(workload.train_batches(), left):
        state.lr = set_lr(state.optimizer, step_factor(state.step, state.total_steps, step))
        losses.append(_one_step(state, course, batch, record.numerics))
        if record.average is not None and step.ema is not None:
            update_average(record.average, state.model, state.step, step.ema)
        if course.progress is not None:
            epochs = math.ceil(state.total_steps / workload.train_steps)
            latest = f"loss {state.loss:.4g}, {workload.metric.name} {record.rows[-1].metric:.4g}"
            course.progress.update(state.step, state.total_steps, f"epoch {state.epoch}/{epochs}, {latest}")
    course.team.average_norms(state.model)
    course.team.spread((record.average or {}).values())
    if not losses:
        raise WorkloadError(
            f"the training source gave no batch in epoch {state.epoch}; give a source that can be read again"
        )
    return sum(losses) / len(losses)


def _one_step(state: LoopState, course: _Course, batch: Batch, numerics: Numerics) -> float:
    """Forward, backward, clip, step; give the loss."""
    for hook in course.hooks:
        hook.before_step(state)
    state.optimizer.zero_grad(set_to_none=True)
    state.loss = _finite(_backward(state, course, batch, numerics), state)
    for hook in course.hooks:
        hook.after_backward(state)
    if course.step.clip_norm is not None:
        nn.utils.clip_grad_norm_(state.model.parameters(), course.step.clip_norm)
    state.optimizer.step()
    state.step += 1
    for hook in course.hooks:
        hook.after_step(state)
    return state.loss


def _backward(state: LoopState, course: _Course, batch: Batch, numerics: Numerics) -> float:
    """Leave the gradients of a batch, of which each rank computes its share; give the loss."""
    mine, part = course.team.share(batch)
    loss = 0.0
    if mine is not None:
        with course.team.own_randomness(course.seed, state.step):
            computed = course.loss(state.model, mine, numerics)
            computed.backward()
        loss = computed.item()
    return course.team.average_gradients(state.optimizer, loss, part)


def _finite(value: float, state: LoopState) -> float:
    if not math.isfinite(value):
        raise WorkloadError(
            f"the training loss is {value} in epoch {state.epoch}, step {state.step + 1} of {state.total_steps}, at "
            f"learning rate {state.lr:.3g}; lower it (lr={state.lr / 10:.2g}), set clip_norm=1.0 "
            "or precision='fp32'; at the first step, look for NaN in the inputs and the loss"
        )
    return value


@contextmanager
def _as_they_were(model: nn.Module, teacher: nn.Module | None, device: torch.device) -> Iterator[None]:
    """Have both models on the device and the teacher in eval mode inside; put places and modes back afterwards."""
    both = [model] if teacher is None else [model, teacher]
    homes = [device_of(module) for module in both]
    modes = [(part, part.training) for module in both for part in module.modules()]
    try:
        for module in both:
            module.to(device)
        if teacher is not None:
            teacher.eval()
        yield
    finally:
        for module, home in zip(both, homes, strict=True):
            module.to(home)
        for part, training in modes:
            part.training = training
