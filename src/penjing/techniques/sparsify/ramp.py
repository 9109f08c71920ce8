"""Sparsity that grows while a Finetune step trains, as a hook of its loop."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from penjing.recipe import Sparsify
from penjing.techniques.sparsify.schedules import find_schedule
from penjing.training import Hook, LoopState

Masks = dict[str, Tensor]
MasksAt = Callable[[float, Mapping[str, Tensor]], Masks]
"""Masks of the model's weights as they are, at a share of what goes in the end; given how far each weight has moved."""

_UPDATES = 100  # of the masks in a ramp, unless the step says how often


class Ramp(Hook):
    """Update the masks along a schedule, and keep what they say at zero; until its end no epoch counts as the best.

    masks_at gives the masks for a share of the final amount. `movement` of a weight is -sum g w over the steps so far,
    positive where training moves it away from zero: Sanh, Wolf and Rush 2020, "Movement Pruning" (arXiv:2005.07683).
    `came_back` counts the weights that a mask had closed and a later one opened.
    """

    def __init__(self, step: Sparsify, masks_at: MasksAt) -> None:
        assert step.schedule is not None
        self.masks: Masks = {}
        self.ended = False
        self.came_back = 0
        self._step, self._masks_at = step, masks_at
        self._schedule, self._final = find_schedule(step.schedule), _sparsity(masks_at(1.0, {}))
        self._movement: Masks = {}

    def progress(self, step: int, total: int) -> float:
        """How much of the ramp is done after so many training steps: at most 1, negative before its beginning."""
        begin = self._step.begin * total
        return min(1.0, (step - begin) / max(1.0, self._step.end * total - begin))

    def settled(self, state: LoopState) -> bool:
        return self.progress(state.step, state.total_steps) >= 1

    def due(self, state: LoopState) -> bool:
        """Whether the masks are updated at this step."""
        every = self._step.frequency or max(1, state.total_steps // _UPDATES)
        return state.step % every == 0

    def before_epoch(self, state: LoopState) -> None:
        self._update(state)  # an interrupted training goes on here

    def before_step(self, state: LoopState) -> None:
        if self.due(state) or self.settled(state):
            self._update(state)

    def after_backward(self, state: LoopState) -> None:
        for name, mask in self.masks.items():
            weight = state.model.get_parameter(name)
            if weight.grad is not None:
                if self._step.score == "movement" and not self.ended:  # nothing asks for it any more
                    self._movement[name] = self._movement.get(name, 0) - weight.grad * weight.detach()
                weight.grad.masked_fill_(~mask, 0)

    def after_step(self, state: LoopState) -> None:
        if self.settled(state):
            self._update(state)
        self.zero(state)

    def memory(self) -> dict[str, Any]:
        return {
            "masks": self.masks,
            "movement": self._movement,
            "ended": self.ended,
            "came_back": self.came_back,
        }

    def recall(self, state: LoopState, memory: dict[str, Any]) -> None:
        self.masks, self._movement = (self.on_device(state, memory[name]) for name in ("masks", "movement"))
        self.ended, self.came_back = memory["ended"], memory["came_back"]

    def new_masks(self, state: LoopState, share: float) -> Masks:
        """Masks for a share of the final amount."""
        return self._masks_at(share, self._movement)

    def take(self, state: LoopState, masks: Masks) -> None:
        """Have new masks in place of the old ones."""
        old = self.masks
        self.came_back += sum(int((mask & ~old[name]).sum()) for name, mask in masks.items() if name in old)
        self.masks = masks

    def zero(self, state: LoopState) -> None:
        """Set to zero what the masks close."""
        with torch.no_grad():
            for name, mask in self.masks.items():
                state.model.get_parameter(name).masked_fill_(~mask, 0)

    @staticmethod
    def on_device(state: LoopState, tensors: Masks) -> Masks:
        """The tensors where the weights of their names are."""
        return {name: tensor.to(state.model.get_parameter(name).device) for name, tensor in tensors.items()}

    def _update(self, state: LoopState) -> None:
        """Take new masks, until those of the end are there."""
        done = self.progress(state.step, state.total_steps)
        if not self.ended:
            self.take(state, self.new_masks(state, self._schedule(done, self._final) if done >= 0 else 0.0))
            self.ended = done >= 1
        self.zero(state)


def _sparsity(masks: Masks) -> float:
    total = sum(mask.numel() for mask in masks.values())
    return sum(int((~mask).sum()) for mask in masks.values()) / max(1, total)
