r"""SparseGPT: one sweep over the inputs, in which those still to come pay for each weight that goes.

Of a block of inputs those weights go whose w_ij^2 / U_jj^2 is least, U the upper Cholesky factor of H^-1; then, input
by input, w_ik <- w_ik - (w_ij / U_jj) U_jk for k > j where w_ij goes. Frantar and Alistarh 2023, "SparseGPT: Massive
Language Models Can Be Accurately Pruned in One-Shot" (arXiv:2301.00774), algorithm 1.
"""

import torch
from torch import Tensor

from penjing.techniques.sparsify.solve.budgets import Budget, NofM

BLOCK = 128


def sparsegpt(weight: Tensor, hessian: Tensor, budget: Budget) -> Tensor:
    """Prune a weight [outputs, inputs] for a positive definite Hessian [inputs, inputs].

    >>> from penjing.techniques.sparsify.solve.budgets import PerLayer
    >>> sparsegpt(torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 0.5], [0.5, 1.0]]), PerLayer(0.5))
    tensor([[0.0000, 2.5000]])
    """
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(hessian))
    factor = torch.linalg.cholesky(inverse, upper=True)
    rest, pruned = weight.clone(), torch.zeros_like(weight)
    width = weight.shape[1]
    step = max(budget.unit, BLOCK - BLOCK % budget.unit)
    for start in range(0, width, step):
        end = min(start + step, width)
        block, within = rest[:, start:end], factor[start:end, start:end]
        at_once = budget.unit if isinstance(budget, NofM) else end - start
        errors = torch.empty_like(block)
        for j in range(end - start):
            if j % at_once == 0:
                part = slice(j, j + at_once)
                kept = budget.keep((block[:, part] / within.diagonal()[part]).square())
            stays = kept[:, j % at_once]
            pruned[:, start + j] = block[:, j] * stays
            errors[:, j] = block[:, j] * ~stays / within[j, j]
            block[:, j + 1 :] -= errors[:, j, None] * within[j, j + 1 :]
        rest[:, end:] -= errors @ factor[start:end, end:]
    return pruned
