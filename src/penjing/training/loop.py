"""The recovery loop: train on, keep the best, be killable at any instant."""

import itertools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from penjing.errors import WorkloadError
from penjing.recipe import Finetune
from penjing.storage import get_random_state, set_random_state
from penjing.training.checkpoint import (
    Snapshot,
    checkpoint_path,
    copy_of,
    fitting,
    restore_moments,
    tensors_of,
    write_into,
)
from penjing.training.hooks import Hook, LoopState
from penjing.training.log import EpochRow, Progress, TrainingLog
from penjing.training.losses import Objective
from penjing.training.numerics import Numerics, choose_numerics, layout
from penjing.training.optimizers import build_optimizer, peak_lr
from penjing.training.randomness import isolated_randomness
from penjing.training.schedules import step_factor
from penjing.types import Direction, Split
from penjing.workload import Batch, Workload, device_of


def finetune(
    model: nn.Module,
    workload: Workload,
    step: Finetune,
    *,
    teacher: nn.Module | None = None,
    hooks: Sequence[Hook] = (),
    seed: int = 0,
    resume_dir: str | Path | None = None,
    progress: Progress | None = None,
) -> TrainingLog:
    """Train a model in place and leave it in the state that is best on the search split.

    The state before training counts too, so the metric never gets worse; between equal ones the later wins. Epochs in
    which a hook says that the model is not settled yet do not count, unless none is. With a
    `teacher` (the original model) and `step.distill`, its outputs are learnt as well; see `Objective`. Whatever ends
    the training, Ctrl-C included, the model holds the best weights seen so far, and modes, memory layout and the random
    generators are as they were.

    With `resume_dir` every finished epoch is saved there, and the same call goes on after the last one, bit for bit as
    if it had never stopped when the source of batches draws only on the global generators (a DataLoader with its own
    `generator=` starts that one afresh).

    Raises WorkloadError when there is nothing to learn from, or when the loss is no longer finite.
    """
    objective = Objective.of(workload, step, teacher)
    if objective.teacher is model:
        raise WorkloadError(
            "Finetune: the teacher is the model that is trained; pass copy.deepcopy(model) as one of them"
        )
    per_epoch = workload.train_steps
    if per_epoch == 0:
        raise WorkloadError("Finetune: the workload has no training batch; give Workload(..., train=...)")
    total = max(1, round(step.epochs * per_epoch)) if step.epochs > 0 else 0
    epochs = math.ceil(total / per_epoch)
    optimizer = build_optimizer(model, step)
    state = LoopState(model, optimizer, total)
    direction, device = workload.metric.direction, workload.device
    path = None
    if resume_dir is not None:
        path = checkpoint_path(Path(resume_dir), step, seed, total, model, objective.teacher)

    def loss_of(batch: Batch, numerics: Numerics) -> Tensor:
        with numerics.autocast(device):
            return objective(model, batch.to(device))

    with _as_they_were(model, objective.teacher, device), isolated_randomness(seed):
        for hook in hooks:
            hook.before_training(state)
        saved = Snapshot.load(path) if path is not None and path.exists() else None
        if saved is not None:
            rows, best, numerics, trials = list(saved.rows), saved.best, saved.numerics, saved.trials
            state.step = saved.step
            for hook, memory in zip(hooks, saved.hooks, strict=False):
                hook.recall(state, memory)
            write_into(model, saved.model)
            restore_moments(optimizer, saved.moments)
            set_random_state(saved.random)
        else:
            rows, best = [_evaluated(state, workload, hooks, None, time.perf_counter())], copy_of(model)
            numerics, trials = Numerics(), ()
            if total > 0:
                first = next(iter(workload.train_batches()))
                numerics, timed = choose_numerics(step.precision, model.train(), partial(loss_of, first))
                trials = tuple(str(trial) for trial in timed)

        try:
            with layout(model, numerics.channels_last):
                for epoch in range(len(rows), epochs + 1):
                    if _out_of_patience(rows, direction, step.patience):
                        break
                    start = time.perf_counter()
                    state.epoch = epoch
                    model.train()
                    for hook in hooks:
                        hook.before_epoch(state)
                    best = fitting(best, model)
                    losses: list[float] = []
                    for batch in itertools.islice(workload.train_batches(), min(per_epoch, total - state.step)):
                        _set_lr(state, peak_lr(step) * step_factor(state.step, total, step.warmup))
                        losses.append(_one_step(state, partial(loss_of, batch, numerics), step.clip_norm, hooks))
                        if progress is not None:
                            latest = f"loss {state.loss:.4g}, {workload.metric.name} {rows[-1].metric:.4g}"
                            progress.update(state.step, total, f"epoch {epoch}/{epochs}, {latest}")
                    if not losses:
                        raise WorkloadError(
                            f"the training source gave no batch in epoch {epoch}; give a source that can be read again"
                        )
                    rows.append(_evaluated(state, workload, hooks, sum(losses) / len(losses), start))
                    if best_epoch(rows, direction) == epoch:
                        best = copy_of(model)
                    if path is not None:
                        moments, random = optimizer.state_dict()["state"], get_random_state()
                        now, memories = tensors_of(model), tuple(hook.memory() for hook in hooks)
                        so_far = (state.step, tuple(rows), numerics, trials, now, best, moments, random, memories)
                        Snapshot(*so_far).save(path)
                    for hook in hooks:
                        hook.after_epoch(state)
        finally:
            optimizer.zero_grad(set_to_none=True)
            write_into(model, fitting(best, model))

    return TrainingLog(
        rows=tuple(rows),
        best_epoch=best_epoch(rows, direction),
        stopped_early=len(rows) - 1 < epochs,
        metric=workload.metric.name,
        objective=objective.name,
        precision=numerics.precision,
        channels_last=numerics.channels_last,
        trials=trials,
        steps=state.step,
        resumed_from=saved.rows[-1].epoch if saved else None,
    )


def _one_step(
    state: LoopState, loss_of_batch: Callable[[], Tensor], clip_norm: float | None, hooks: Sequence[Hook]
) -> float:
    """Forward, backward, clip, step; give the loss."""
    for hook in hooks:
        hook.before_step(state)
    loss = loss_of_batch()
    state.loss = _finite(loss, state)
    state.optimizer.zero_grad(set_to_none=True)
    loss.backward()
    for hook in hooks:
        hook.after_backward(state)
    if clip_norm is not None:
        nn.utils.clip_grad_norm_(state.model.parameters(), clip_norm)
    state.optimizer.step()
    state.step += 1
    for hook in hooks:
        hook.after_step(state)
    return state.loss


def best_epoch(rows: Sequence[EpochRow], direction: Direction) -> int:
    """Find the settled epoch with the best metric, the latest of several; the last one where none is settled.

    >>> rows = [EpochRow(i, None, metric, 0.0, 0.0) for i, metric in enumerate((0.5, 0.7, 0.7, 0.6))]
    >>> best_epoch(rows, Direction.HIGHER), best_epoch(rows, Direction.LOWER)
    (2, 0)
    """
    settled = [row for row in rows if row.settled] or rows[-1:]
    return max(settled, key=lambda row: (_gain(row, direction), row.epoch)).epoch


def _gain(row: EpochRow, direction: Direction) -> float:
    return row.metric if direction is Direction.HIGHER else -row.metric


def _out_of_patience(rows: Sequence[EpochRow], direction: Direction, patience: int | None) -> bool:
    settled = [row for row in rows if row.settled] or rows[-1:]
    first_best = max(settled, key=lambda row: (_gain(row, direction), -row.epoch)).epoch
    return patience is not None and rows[-1].epoch - first_best >= patience


def _evaluated(
    state: LoopState, workload: Workload, hooks: Sequence[Hook], loss: float | None, start: float
) -> EpochRow:
    value = workload.evaluate(state.model, Split.SEARCH)[0].value
    if not math.isfinite(value):
        raise WorkloadError(
            f"metric {workload.metric.name!r} is {value} after epoch {state.epoch} of training; "
            "check the metric, or lower the learning rate"
        )
    settled = all(hook.settled(state) for hook in hooks)
    return EpochRow(state.epoch, loss, value, state.lr, time.perf_counter() - start, settled)


def _set_lr(state: LoopState, lr: float) -> None:
    state.lr = lr
    for group in state.optimizer.param_groups:
        group["lr"] = lr


def _finite(loss: Tensor, state: LoopState) -> float:
    value = loss.item()
    if not math.isfinite(value):
        raise WorkloadError(
            f"the training loss is {value} in epoch {state.epoch}, step {state.step + 1} of {state.total_steps}, at "
            f"learning rate {state.lr:.3g}; lower it (Finetune(lr={state.lr / 10:.2g})), set clip_norm=1.0 "
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
