"""The methods by name, and the best of them."""

from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from types import MappingProxyType

import torch
from torch import Tensor

from penjing.techniques.sparsify.solve.admm import LARGE_LADDER, LARGE_STEPS, admm, raised_inverse
from penjing.techniques.sparsify.solve.budgets import Blocks, Budget, NofM
from penjing.techniques.sparsify.solve.exhaustive import exhaustive
from penjing.techniques.sparsify.solve.objective import losses, relative_error
from penjing.techniques.sparsify.solve.obs import obs
from penjing.techniques.sparsify.solve.projection import magnitude, wanda
from penjing.techniques.sparsify.solve.refit import refit, refit_slowly
from penjing.techniques.sparsify.solve.sparsegpt import sparsegpt
from penjing.techniques.sparsify.solve.swap import swapped

Method = Callable[[Tensor, Tensor, Budget], Tensor]
"""A weight [outputs, inputs], a positive definite Hessian [inputs, inputs] and a budget in, the pruned weight out."""

FEW, MOST_LOOKS = 12, 2**20
"""Inputs up to which all supports are looked at, and how many supports of all outputs together."""
LARGE = 1e10  # multiplications of a product of weight and Hessian, from which on a layer is a large one
OBS_MOST, SWAP_MOST = 3e9, 3e9  # multiplications that removing one by one, and a round of exchanges, may take
_CONJUGATE = 6
_QUICK_STEPS, _QUICK_CONJUGATE = 8, 4


def refined(weight: Tensor, hessian: Tensor, budget: Budget) -> Tensor:
    """ADMM, then least squares on its support, and exchanges between: each where the size of the layer allows it."""
    if weight.numel() * weight.shape[1] > LARGE:
        sparse = admm(weight, hessian, budget, LARGE_LADDER, LARGE_STEPS)
        return refit_slowly(weight, hessian, sparse, sparse != 0, _CONJUGATE)
    return _exchanged(weight, hessian, budget, admm(weight, hessian, budget))


def best(weight: Tensor, hessian: Tensor, budget: Budget) -> Tensor:
    """The optimum where there are few inputs; ADMM for large layers; between, the best of what several methods give.

    Each is followed by exchanges. Outputs choose by themselves where the budget is theirs.
    """
    if isinstance(budget, Blocks) or weight.numel() * weight.shape[1] ** 2 > OBS_MOST:
        return refined(weight, hessian, budget)
    if weight.shape[1] <= FEW and len(weight) * 2 ** weight.shape[1] <= MOST_LOOKS:
        return exhaustive(weight, hessian, budget)
    found = [_exchanged(weight, hessian, budget, method(weight, hessian, budget)) for method in (admm, obs, sparsegpt)]
    lost = torch.stack([losses(weight, pruned, hessian) for pruned in found])
    if not budget.by_row:
        lost = lost.sum(1, keepdim=True).expand_as(lost)
    return torch.stack(found)[lost.argmin(0), torch.arange(len(weight), device=weight.device)]


def _exchanged(weight: Tensor, hessian: Tensor, budget: Budget, pruned: Tensor) -> Tensor:
    """Refit a pruned weight, after the exchanges that pay where they are affordable; blocks keep their support."""
    mask = pruned != 0
    rounds = float(mask.sum(1).double().square().sum()) * weight.shape[1]
    if not isinstance(budget, Blocks) and rounds <= SWAP_MOST:
        mask = swapped(weight, hessian, mask, budget.unit if isinstance(budget, NofM) else None)
    return refit(weight, hessian, mask)


def quickly(weight: Tensor, hessian: Tensor, budgets: Sequence[Budget]) -> list[float]:
    """About what a layer loses at least under each budget, of what it gives: the error of a few steps of ADMM."""
    inverse_of, found = cache(partial(raised_inverse, hessian)), []
    for budget in budgets:
        sparse = admm(weight, hessian, budget, LARGE_LADDER, _QUICK_STEPS, inverse_of)
        real = refit_slowly(weight, hessian, sparse, sparse != 0, _QUICK_CONJUGATE)
        found.append(relative_error(weight, real, hessian))
    return found


METHODS: Mapping[str, Method] = MappingProxyType(
    {"auto": best, "admm": refined, "obs": obs, "sparsegpt": sparsegpt, "wanda": wanda, "magnitude": magnitude}
)
