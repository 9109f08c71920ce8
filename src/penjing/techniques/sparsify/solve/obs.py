r"""Optimal Brain Surgeon, exact and greedy: what costs least goes, the rest of its row is refitted, and so on.

With P the inverse of H over the weights that an output still has, removing j costs w_j^2 / P_jj; the others become
w - (w_j / P_jj) P_:j, and P becomes P - P_:j P_j: / P_jj. Hassibi and Stork 1993, "Second order derivatives for network
pruning: Optimal Brain Surgeon"; for the rows of a layer, with an inverse for each, Frantar and Alistarh 2022, "Optimal
Brain Compression" (arXiv:2208.11580), algorithm 1.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from penjing.errors import RecipeError
from penjing.techniques.sparsify.solve.budgets import Blocks, Budget, NofM, PerLayer
from penjing.techniques.sparsify.solve.refit import refit

_ROOM = 2**23  # values of the inverses of the rows that are worked on at once
_SHRINK = 0.8  # the inverses are made smaller when so much of their width is left


@dataclass(frozen=True)
class Removals:
    """In which order the weights of each output go, and what each costs after those before it: [outputs, removals]."""

    order: Tensor
    costs: Tensor


def obs(weight: Tensor, hessian: Tensor, budget: Budget) -> Tensor:
    """Prune a weight [outputs, inputs] for a positive definite Hessian [inputs, inputs].

    Under a budget for the layer the outputs share it by what they lose (algorithm 2 of the second paper). Raises
    RecipeError for blocks.

    >>> from penjing.techniques.sparsify.solve.budgets import PerLayer
    >>> obs(torch.tensor([[2.0, 1.0]]), torch.tensor([[1.0, 0.5], [0.5, 1.0]]), PerLayer(0.5))
    tensor([[2.5000, 0.0000]])
    """
    if isinstance(budget, Blocks):
        raise RecipeError(f"obs: removes single weights, not blocks of {budget.rows}x{budget.unit}; use method='admm'")
    width = weight.shape[1]
    if isinstance(budget, PerLayer):
        removals = removed_one_by_one(weight, hessian, width)
        return refit(weight, hessian, _shared(removals, budget))
    kept = int(budget.keep(weight)[0].sum())
    removals = removed_one_by_one(weight, hessian, width - kept, budget if isinstance(budget, NofM) else None)
    return refit(weight, hessian, torch.ones_like(weight, dtype=torch.bool).scatter_(1, removals.order, False))


def removed_one_by_one(weight: Tensor, hessian: Tensor, count: int, within: NofM | None = None) -> Removals:
    """Remove `count` weights of each output, one at a time; within: leave what an N:M pattern has to keep.

    >>> removed_one_by_one(torch.tensor([[3.0, 1.0]]), torch.eye(2), 2)
    Removals(order=tensor([[1, 0]]), costs=tensor([[1., 9.]]))
    """
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(hessian))
    parts = [_remove(rows, inverse, count, within) for rows in weight.split(max(1, _ROOM // inverse.numel()))]
    order, costs = (torch.cat(each) for each in zip(*parts, strict=True))
    return Removals(order, costs)


def _remove(weight: Tensor, inverse: Tensor, count: int, within: NofM | None) -> tuple[Tensor, Tensor]:
    (rows, width), device = weight.shape, weight.device
    at, names = torch.arange(rows, device=device), torch.arange(width, device=device).expand(rows, -1)
    weight, inverses = weight.clone(), inverse.expand(rows, -1, -1).clone()
    alive = torch.ones_like(weight, dtype=torch.bool)
    group = 1 if within is None else within.unit
    spare = torch.full((rows, -(-width // group)), group - (0 if within is None else within.count), device=device)
    order, costs = torch.zeros(rows, count, dtype=torch.long, device=device), weight.new_zeros(rows, count)
    for step in range(count):
        may_go = alive & (spare.gather(1, names // group) > 0)
        cost = torch.where(may_go, weight.square() / inverses.diagonal(dim1=1, dim2=2), torch.inf)
        costs[:, step], j = cost.min(1)
        order[:, step] = names[at, j]
        spare[at, order[:, step] // group] -= 1
        column = inverses[at, :, j]
        pivot = column[at, j, None]
        weight -= weight[at, j, None] / pivot * column
        inverses.baddbmm_(column[:, :, None], (column / -pivot)[:, None])
        alive[at, j] = False
        if 0 < (left := width - step - 1) < _SHRINK * weight.shape[1]:
            index = alive.nonzero()[:, 1].view(rows, left)
            weight, names, alive = weight.gather(1, index), names.gather(1, index), alive.gather(1, index)
            inverses = inverses.gather(1, index[:, :, None].expand(-1, -1, inverses.shape[2]))
            inverses = inverses.gather(2, index[:, None].expand(-1, left, -1))
    return order, costs


def _shared(removals: Removals, budget: PerLayer) -> Tensor:
    """What stays when the outputs remove in turns, each time that with the cheapest next weight."""
    kept = round(budget.density * removals.order.numel())
    heads = removals.costs.cummax(1).values  # what comes after a dear removal waits for it
    turn = heads.flatten().argsort(stable=True)
    stays = torch.zeros_like(turn, dtype=torch.bool).index_fill_(0, turn[len(turn) - kept :], True)
    return torch.zeros_like(stays).view(heads.shape).scatter_(1, removals.order, stays.view(heads.shape))
