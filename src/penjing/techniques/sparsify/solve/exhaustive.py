"""The optimum of a small layer, by looking at every support."""

import torch
from torch import Tensor

from penjing.errors import ShapeError
from penjing.techniques.sparsify.solve.budgets import Competing, PerLayer
from penjing.techniques.sparsify.solve.refit import gathered, refit, supports

WIDEST = 16


def exhaustive(weight: Tensor, hessian: Tensor, budget: Competing) -> Tensor:
    """The best weight [outputs, inputs] there is, for at most 16 inputs; ShapeError for more.

    Each output chooses among all 2^inputs supports; under a budget for the layer, dynamic programming over the outputs
    shares it exactly.

    >>> from penjing.techniques.sparsify.solve.budgets import PerRow
    >>> exhaustive(torch.tensor([[2.0, 1.0]]), torch.tensor([[1.0, 0.5], [0.5, 1.0]]), PerRow(0.5))
    tensor([[2.5000, 0.0000]])
    """
    width = weight.shape[1]
    if width > WIDEST:
        raise ShapeError(f"exhaustive: {width} inputs have too many supports; {WIDEST} are the most, or use 'auto'")
    masks = ((torch.arange(2**width)[:, None] >> torch.arange(width)) % 2 == 1).to(weight.device)
    lost = losses_of_supports(weight, hessian, masks)
    if isinstance(budget, PerLayer):
        return refit(weight, hessian, masks[_shared(lost, masks.sum(1), budget.groups(weight)[1])])
    (groups, count), size = budget.groups(masks), len(masks)
    allowed = (groups.sum(1) <= count).view(size, -1).all(1)
    return refit(weight, hessian, masks[torch.where(allowed, lost, torch.inf).argmin(1)])


def losses_of_supports(weight: Tensor, hessian: Tensor, masks: Tensor) -> Tensor:
    """What each output loses with each support, refitted: [outputs, supports]; masks: [supports, inputs].

    >>> masks = torch.tensor([[False, False], [True, False]])
    >>> losses_of_supports(torch.tensor([[2.0, 1.0]]), torch.eye(2), masks)
    tensor([[5., 1.]])
    """
    wanted = weight @ hessian
    lost = (weight * wanted).sum(1, keepdim=True).repeat(1, len(masks))
    for rows, index, real in supports(masks):
        right = wanted.T[index] * real[..., None]
        solved = torch.cholesky_solve(right, torch.linalg.cholesky(gathered(hessian, index, real)))
        lost[:, rows] -= (right * solved).sum(1).T
    return lost


def _shared(lost: Tensor, counts: Tensor, kept: int) -> Tensor:
    """The support of each output, with at most so many weights together."""
    most = int(counts.max())
    each = [lost.masked_fill(counts != k, torch.inf).min(1) for k in range(most + 1)]
    curves = torch.stack([found.values for found in each], 1)
    best, choices = lost.new_full((kept + 1,), torch.inf), []
    best[0] = 0.0
    for curve in curves:
        options = torch.stack([torch.cat([best.new_full((k,), torch.inf), best])[: kept + 1] + curve[k]
                               for k in range(most + 1)])  # fmt: skip
        best, choice = options.min(0)
        choices.append(choice)
    left, found = int(best.argmin()), []
    for output in reversed(range(len(lost))):
        k = int(choices[output][left])
        found.append(each[k].indices[output])
        left -= k
    return torch.stack(found[::-1])
