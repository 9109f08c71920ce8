r"""A support by the alternating direction method of multipliers.

The weights are asked for twice, once to fit and once to be sparse, and are pulled together ever more strongly, in the
metric E = diag(H):

    W = (B H + rho E (Z - U)) (H + rho E)^-1,    Z = keep(W + U),    U = U + W - Z,

for the weight B, with `keep` the projection in that metric. Boza 2024, "Fast and Effective Weight Update for Pruned
Large Language Models" (arXiv:2401.02938), for a given support; with supports that change and rho that rises, Meng et
al. 2024, "ALPS: Improved Optimization for Highly Sparse One-Shot Pruning for Large Language Models" (arXiv:2406.07831).
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from penjing.techniques.sparsify.solve.budgets import Budget

LADDER = tuple(0.1 * 50 ** (i / 19) for i in range(20))
"""Values of rho, from 0.1 to 5."""
STEPS = 6
LARGE_LADDER, LARGE_STEPS = (0.5,), 16
"""For large layers: a single inverse, and a seventh of the products."""
_ROWS = 2**20  # values of the rows that are worked on at once, where outputs have nothing to do with each other


def admm(
    weight: Tensor,
    hessian: Tensor,
    budget: Budget,
    ladder: Sequence[float] = LADDER,
    steps: int = STEPS,
    inverse_of: Callable[[float], Tensor] | None = None,
) -> Tensor:
    """A sparse weight [outputs, inputs] whose support is good; `refit` finds the best weights for it.

    ladder: the values of rho; steps: made at each of them. inverse_of: gives `raised_inverse` for each, where it is
    known already.

    >>> from penjing.techniques.sparsify.solve.budgets import PerLayer
    >>> hessian = torch.tensor([[1.0, 0.9], [0.9, 1.0]])
    >>> admm(torch.tensor([[2.0, 1.0]]), hessian, PerLayer(0.5)) != 0
    tensor([[ True, False]])
    """
    energy = hessian.diagonal()
    sparse, duals = weight, dict[int, Tensor]()
    height = max(1, _ROWS // weight.shape[1]) if budget.by_row else len(weight)
    for before, rho in zip((ladder[0], *ladder), ladder, strict=False):
        inverse = raised_inverse(hessian, rho) if inverse_of is None else inverse_of(rho)
        sparse = weight.clone() if sparse is weight else sparse
        for start in range(0, len(weight), height):
            rows = slice(start, start + height)
            wanted, kept = weight[rows] @ hessian, sparse[rows]
            price = duals.pop(start, wanted.new_zeros(())) * (before / rho)
            for _ in range(steps):
                moved = (wanted + rho * energy * (kept - price)) @ inverse + price
                kept = moved * budget.keep(moved.square() * energy)
                price = moved - kept
            sparse[rows] = kept
            if rho != ladder[-1]:  # large layers have one value, and need no room for these
                duals[start] = price
    return sparse


def raised_inverse(hessian: Tensor, rho: float) -> Tensor:
    """(H + rho E)^-1, E the diagonal of H."""
    raised = hessian.clone()
    raised.diagonal().mul_(1 + rho)
    factor = torch.linalg.cholesky(raised)
    del raised
    return torch.cholesky_inverse(factor)
