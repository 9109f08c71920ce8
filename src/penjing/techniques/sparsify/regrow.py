"""Weights that come back while a model becomes sparse, so that an early mistake is not for good; sparsity stays."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from penjing.recipe import Sparsify
from penjing.techniques.sparsify.masks import lowest_scores_mask
from penjing.techniques.sparsify.patterns import OfEvery, find_pattern, per_unit
from penjing.techniques.sparsify.ramp import Masks, MasksAt, Ramp
from penjing.training import LoopState
from penjing.types import Regrow

REOPEN = 1.1 / 0.9  # b / a of the authors' code, https://github.com/yiwenguo/Dynamic-Network-Surgery


def constant_share(t: float, share: float) -> float:
    """The same share of the live weights at every update, as in SET.

    >>> constant_share(0.5, 0.3)
    0.3
    """
    return share


def cosine_share(t: float, share: float) -> float:
    r"""f(t) = alpha / 2 (1 + cos(pi t / T_end)), from alpha to nothing: Evci et al. 2020 (arXiv:1911.11134), section 3.

    >>> cosine_share(0.0, 0.3), cosine_share(0.5, 0.3), cosine_share(1.0, 0.3)
    (0.3, 0.15, 0.0)
    """
    return share / 2 * (1 + math.cos(math.pi * t))


def exchange(magnitude: Tensor, growth: Tensor, alive: Tensor, allowed: Tensor, share: float) -> Tensor:
    """Drop the share of live units with the least magnitude, and let as many in by the highest growth; all [units].

    allowed: what may live at all. What was dropped may come in again, as in RigL: i is not in theta minus I_drop.

    >>> alive, allowed = torch.tensor([True, True, False, False]), torch.tensor([True, True, True, True])
    >>> exchange(torch.tensor([3.0, 1.0, 0.0, 0.0]), torch.tensor([9.0, 0.1, 0.2, 0.5]), alive, allowed, 0.5)
    tensor([ True, False, False,  True])
    """
    count = round(share * int(alive.sum()))
    (kept,) = lowest_scores_mask([magnitude], [alive], count)
    free = (allowed & ~kept).nonzero().squeeze(1)
    kept[free[growth[free].topk(count).indices]] = True
    return kept


def at_random(weight: Tensor) -> Tensor:
    """A uniform draw for each weight: Mocanu et al. 2018, "SET" (arXiv:1707.04780)."""
    return torch.rand(weight.shape).to(weight.device)


def by_gradient(weight: Tensor) -> Tensor:
    """The magnitude of the loss's gradient, dead weights included: Evci et al. 2020, "RigL" (arXiv:1911.11134)."""
    return torch.zeros_like(weight) if weight.grad is None else weight.grad.abs()


GROWTH: dict[Regrow, tuple[Callable[[Tensor], Tensor], Callable[[float, float], float]]] = {
    Regrow.SET: (at_random, constant_share),
    Regrow.RIGL: (by_gradient, cosine_share),
}
"""What a unit comes back by, and the share that is exchanged, given the progress of the ramp."""


class Exchange(Ramp):
    """A ramp that at each update drops the weakest that live, tensor by tensor, for as many that come back at zero.

    SET: Mocanu et al. 2018, "Scalable Training of Artificial Neural Networks with Adaptive Sparse Connectivity inspired
    by Network Science" (arXiv:1707.04780). RigL: Evci et al. 2020, "Rigging the Lottery: Making All Tickets Winners"
    (arXiv:1911.11134); it is done at the gradients of a step, and this step moves what came back. Under a schedule that
    grows this is the gradual pruning with zero-cost regrowth of Liu et al. 2021, "GraNet" (arXiv:2106.10404).
    """

    def __init__(self, step: Sparsify, masks_at: MasksAt) -> None:
        super().__init__(step, masks_at)
        assert step.regrow is not None
        self._growth, self._share = GROWTH[Regrow(step.regrow)]
        self._allowed = masks_at(0.0, {})

    def after_backward(self, state: LoopState) -> None:
        done = self.progress(state.step, state.total_steps)
        if self.due(state) and 0 < done < 1:
            share = self._share(done, self._step.regrow_share)
            self.take(state, {name: self._exchanged(state, name, share) for name in self.masks})
            self.zero(state)
        super().after_backward(state)

    def take(self, state: LoopState, masks: Masks) -> None:
        for name, mask in masks.items():
            if name in self.masks:
                _forget(state, name, mask & ~self.masks[name])
        super().take(state, masks)

    @torch.no_grad()
    def _exchanged(self, state: LoopState, name: str, share: float) -> Tensor:
        pattern, weight = find_pattern(self._step.pattern), state.model.get_parameter(name)
        assert not isinstance(pattern, OfEvery)
        units = pattern(name, weight).to(weight.device)
        may = self._allowed[name].to(weight.device)  # the model moves before it trains
        alive, allowed = (per_unit(mask.double(), units) > 0 for mask in (self.masks[name], may))
        new = exchange(per_unit(weight.abs(), units), per_unit(self._growth(weight), units), alive, allowed, share)
        return new[units] & may


def _forget(state: LoopState, name: str, came: Tensor) -> None:
    """Momentum and the like of weights that come back start at zero, as they do."""
    weight = state.model.get_parameter(name)
    for value in state.optimizer.state.get(weight, {}).values():
        if isinstance(value, Tensor) and value.shape == weight.shape:
            value.masked_fill_(came, 0)


class Splicing(Ramp):
    """A ramp under which weights that are masked train on, and come back where they have grown again.

    The mask of a weight is 0 for |w| < a, 1 for |w| >= b, and what it was between: Guo, Yao and Chen 2016, "Dynamic
    Network Surgery for Efficient DNNs" (arXiv:1608.04493), equation 3, and Distiller's SplicingPruner. Here a follows
    from the sparsity that the schedule asks for, and b = 1.22 a. The forward pass sees zeros; gradients move what is
    stored behind them.
    """

    def __init__(self, step: Sparsify, masks_at: MasksAt) -> None:
        super().__init__(step, masks_at)
        self._stored: Masks = {}

    def after_backward(self, state: LoopState) -> None:
        if self.ended:
            super().after_backward(state)
        else:
            self._reveal(state)

    def after_step(self, state: LoopState) -> None:
        if not self.ended:
            self._stored = {name: state.model.get_parameter(name).detach().clone() for name in self.masks}
        super().after_step(state)

    def new_masks(self, state: LoopState, share: float) -> Masks:
        self._reveal(state)
        with torch.no_grad():
            for name, mask in self.masks.items():
                weight = state.model.get_parameter(name)
                weight.copy_(torch.where(mask, weight, weight / REOPEN))
        found = super().new_masks(state, share)
        self._reveal(state)
        return found

    def memory(self) -> dict[str, Any]:
        return {**super().memory(), "stored": self._stored}

    def recall(self, state: LoopState, memory: dict[str, Any]) -> None:
        super().recall(state, memory)
        self._stored = self.on_device(state, memory["stored"])

    def _reveal(self, state: LoopState) -> None:
        """Put what is stored where the forward pass saw zeros."""
        with torch.no_grad():
            for name, stored in self._stored.items():
                state.model.get_parameter(name).copy_(stored)


RAMPS: dict[Regrow | None, type[Ramp]] = {
    None: Ramp,
    Regrow.SPLICE: Splicing,
    Regrow.SET: Exchange,
    Regrow.RIGL: Exchange,
}


def ramp_of(step: Sparsify, masks_at: MasksAt) -> Ramp:
    """The hook that carries out a scheduled step."""
    return RAMPS[None if step.regrow is None else Regrow(step.regrow)](step, masks_at)
