"""What others may do while a model trains: hooks, and where in the loop they are called."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from penjing.errors import RecipeError, ShapeError


@dataclass
class LoopState:
    """What a hook sees: epoch counts from 1, step is the number of finished steps, loss is that of the latest step."""

    model: nn.Module
    optimizer: Optimizer
    total_steps: int
    epoch: int = 0
    step: int = 0
    lr: float = 0.0
    loss: float = float("nan")


class Hook:
    """Base of all hooks: every method does nothing, override those you need.

    An exception raised in a hook ends the training; the model is left with the best weights seen so far.
    """

    def settled(self, state: LoopState) -> bool:
        """Whether the model is what it is to be: epochs before that are never the best one."""
        return True

    def before_training(self, state: LoopState) -> None:
        """Run once, before the model is first evaluated, on a resumed run too."""

    def before_epoch(self, state: LoopState) -> None:
        """Run before the first batch of an epoch; it may cut the model in place, if the optimizer is remapped."""

    def before_step(self, state: LoopState) -> None:
        """Run before the forward pass; the learning rate is set."""

    def after_backward(self, state: LoopState) -> None:
        """Run when the gradients are there, before they are clipped."""

    def after_step(self, state: LoopState) -> None:
        """Run after the optimizer has moved the weights."""

    def after_epoch(self, state: LoopState) -> None:
        """Run when the epoch is evaluated, logged and saved."""

    def memory(self) -> dict[str, Any]:
        """What is saved with each epoch, so that an interrupted training goes on: tensors and plain values by name."""
        return {}

    def recall(self, state: LoopState, memory: dict[str, Any]) -> None:
        """Take up what `memory` gave, after `before_training` and before weights and moments are read back.

        Tensors come on the CPU.
        """


class KeepMasks(Hook):
    """Keep pruned weights at zero while the others train.

    masks: parameter name -> mask of the weights that live (nonzero = lives), of the parameter's shape. Gradients of
    dead weights are zeroed before the step, so that they do not count in the clipped norm, and the weights after it, so
    that momentum and decay cannot revive them.

    Raises RecipeError for a name that the model does not have, ShapeError for a mask of another shape.
    """

    def __init__(self, masks: Mapping[str, Tensor]) -> None:
        self.masks = dict(masks)
        self._dead: list[tuple[nn.Parameter, Tensor]] = []

    def before_training(self, state: LoopState) -> None:
        parameters = dict(state.model.named_parameters(remove_duplicate=False))
        self._dead = []
        for name, mask in self.masks.items():
            if name not in parameters:
                some = ", ".join(list(parameters)[:8])
                raise RecipeError(f"KeepMasks: the model has no parameter {name!r}; name one of {some}, ...")
            parameter = parameters[name]
            if mask.shape != parameter.shape:
                raise ShapeError(
                    f"KeepMasks: the mask of {name!r} has shape {tuple(mask.shape)}, the parameter "
                    f"{tuple(parameter.shape)}; compute the mask on the model that is trained"
                )
            self._dead.append((parameter, (mask == 0).to(parameter.device)))
        self._zero_weights()

    def after_backward(self, state: LoopState) -> None:
        for parameter, dead in self._dead:
            if parameter.grad is not None:
                parameter.grad.masked_fill_(dead, 0)

    def after_step(self, state: LoopState) -> None:
        self._zero_weights()

    def _zero_weights(self) -> None:
        with torch.no_grad():
            for parameter, dead in self._dead:
                parameter.masked_fill_(dead, 0)
