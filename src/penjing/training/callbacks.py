"""Hooks in loops that are not ours: one written by hand, transformers' Trainer, Lightning's Trainer.

What a hook needs is called at the same places everywhere; each adapter below does no more than name these places. The
gradients of dead weights still count in a norm that transformers clips, which it does before it calls.
"""

from collections.abc import Sequence
from importlib import import_module
from typing import Any

from torch import nn
from torch.optim import Optimizer

from penjing.errors import WorkloadError
from penjing.training.hooks import Hook, LoopState


class Beside:
    """Hooks beside a loop that one has written oneself: call each method at the place that its name says.

    model: the one for which the hooks were made, not a wrapper of it. total_steps: optimizer steps of the whole
    training; done: those made before, where it goes on.

    >>> import torch, penjing as pj
    >>> model = nn.Linear(4, 4)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> beside = Beside(model, optimizer, 10, hooks=[pj.sparsity_hook(model, pj.Sparsify(0.75, schedule="cubic"))])
    >>> for _ in range(10):
    ...     beside.before_step()
    ...     optimizer.zero_grad()
    ...     model(torch.randn(8, 4)).square().mean().backward()
    ...     beside.after_backward()
    ...     optimizer.step()
    ...     beside.after_step()
    >>> int(model.weight.count_nonzero()), beside.settled
    (4, True)
    """

    def __init__(
        self, model: nn.Module, optimizer: Optimizer, total_steps: int, hooks: Sequence[Hook], done: int = 0
    ) -> None:
        if total_steps < 1:
            raise WorkloadError(f"total_steps={total_steps!r} must be the number of optimizer steps, at least 1")
        self.hooks = tuple(hooks)
        self.state = LoopState(model, optimizer, total_steps, step=done)
        for hook in self.hooks:
            hook.before_training(self.state)
        self._begin_epoch()
        self._is_new = True

    @property
    def settled(self) -> bool:
        """Whether the model is what it is to be, such as sparse enough; keep no checkpoint as the best before that."""
        return all(hook.settled(self.state) for hook in self.hooks)

    def before_epoch(self) -> None:
        """Call before the first batch of an epoch, where there are epochs; the first has begun when this is made."""
        if not self._is_new:
            self._begin_epoch()
        self._is_new = False

    def _begin_epoch(self) -> None:
        self.state.epoch += 1
        for hook in self.hooks:
            hook.before_epoch(self.state)

    def before_step(self) -> None:
        """Call before the forward pass."""
        self.state.lr = self.state.optimizer.param_groups[0]["lr"]
        for hook in self.hooks:
            hook.before_step(self.state)

    def after_backward(self) -> None:
        """Call when all gradients of a step are there, and they are not clipped yet."""
        for hook in self.hooks:
            hook.after_backward(self.state)

    def after_step(self) -> None:
        """Call after the optimizer's step."""
        self.state.step += 1
        for hook in self.hooks:
            hook.after_step(self.state)

    def after_epoch(self) -> None:
        """Call at the end of an epoch, where there are epochs."""
        for hook in self.hooks:
            hook.after_epoch(self.state)


def hf_callback(*hooks: Hook) -> Any:
    """A `transformers.TrainerCallback`: `Trainer(..., callbacks=[hf_callback(hook)])`.

    Raises WorkloadError where transformers is not installed.
    """
    return _mixed(_HuggingFace, _library("transformers").TrainerCallback)(hooks)


def lightning_callback(*hooks: Hook) -> Any:
    """A Lightning `Callback`: `Trainer(callbacks=[lightning_callback(hook)])`.

    The hooks are made for the LightningModule, whose names its parameters have, and there is one optimizer. Raises
    WorkloadError where Lightning is not installed.
    """
    return _mixed(_Lightning, _library("lightning.pytorch", "pytorch_lightning").Callback)(hooks)


def _library(*names: str) -> Any:
    """The first of these modules that is installed; imported only here, so that none of them is required."""
    for name in names:
        try:
            return import_module(name)
        except ImportError:
            continue
    raise WorkloadError(f"{' or '.join(names)} is not installed, whose trainer is to call back; install it with pip")


def _mixed(adapter: type, base: type) -> Any:
    """An adapter that is also what a trainer asks for."""
    return type(f"Penjing{base.__name__}", (adapter, base), {})


class _HuggingFace:
    """The places of transformers' Trainer."""

    def __init__(self, hooks: Sequence[Hook]) -> None:
        self.hooks = hooks

    def on_train_begin(self, args: Any, state: Any, control: Any, *, model: Any, optimizer: Any, **_: Any) -> None:
        self.beside = Beside(model, optimizer, state.max_steps, self.hooks, done=state.global_step)

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.beside.before_epoch()

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.beside.before_step()

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.beside.after_backward()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.beside.after_step()

    def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.beside.after_epoch()


class _Lightning:
    """The places of Lightning's Trainer, which counts optimizer steps where it accumulates gradients of batches."""

    def __init__(self, hooks: Sequence[Hook]) -> None:
        self.hooks = hooks

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        total, done = int(trainer.estimated_stepping_batches), trainer.global_step
        self.beside = Beside(pl_module, trainer.optimizers[0], total, self.hooks, done)
        self._begun = -1

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        self.beside.before_epoch()

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step > self._begun:  # not again for a batch whose gradients are added to those before
            self._begun = trainer.global_step
            self.beside.before_step()

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        self.beside.after_backward()

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step > self.beside.state.step:
            self.beside.after_step()

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self.beside.after_epoch()
