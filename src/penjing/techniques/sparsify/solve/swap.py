r"""Swap refinement: exchange a weight that stays for one that has gone, where the output then loses less.

With S the support of an output, M = H_SS^-1, C = H_:S M, w' the refitted weights and g = (w - w') H, removing i from S
and refitting costs w'_i^2 / M_ii; adding j to what is left then gives back

    (g_j + w'_i C_ji / M_ii)^2 / (H_jj - C_j: H_Sj + C_ji^2 / M_ii)

(block inversion). So what each exchange gains is known exactly, and the best of each output is made while there is one:
the end is a support that no single exchange betters.
"""

import torch
from torch import Tensor

from penjing.techniques.sparsify.solve.objective import losses
from penjing.techniques.sparsify.solve.refit import gathered, refit, supports

MOST = 50
_ROOM = 2**22  # values of the tables of exchanges of the rows that are worked on at once
_LEAST = 1e-6  # of what an output loses: less may be rounding


def swapped(weight: Tensor, hessian: Tensor, mask: Tensor, group: int | None = None, most: int = MOST) -> Tensor:
    """Better a support [outputs, inputs] by at most so many exchanges in each output.

    group: exchange only among so many inputs, one after the other, as N:M patterns want.

    >>> hessian = torch.tensor([[1.0, 0.9], [0.9, 1.0]])
    >>> swapped(torch.tensor([[1.0, 2.0]]), hessian, torch.tensor([[True, False]]))
    tensor([[False,  True]])
    """
    mask = mask.clone()
    lost = losses(weight, refit(weight, hessian, mask), hessian)
    left = (mask.any(1) & ~mask.all(1)).nonzero()[:, 0]
    for _ in range(most):
        gains, leaving, coming = weight.new_zeros(len(left)), torch.zeros_like(left), torch.zeros_like(left)
        for rows, index, real in supports(mask[left], lambda k: k * weight.shape[1], _ROOM):
            found = _best_exchange(weight[left[rows]], hessian, mask[left[rows]], index, real, group)
            gains[rows], leaving[rows], coming[rows] = found
        better = gains > _LEAST * lost[left]
        left, leaving, coming = left[better], leaving[better], coming[better]
        if not len(left):
            break
        mask[left, leaving], mask[left, coming] = False, True
        lost[left] -= gains[better]
    return mask


def _best_exchange(
    weight: Tensor, hessian: Tensor, mask: Tensor, index: Tensor, real: Tensor, group: int | None
) -> tuple[Tensor, Tensor, Tensor]:
    """What the best exchange of each row gains, which input leaves and which comes."""
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(gathered(hessian, index, real)))
    columns = hessian[index] * real[..., None]  # H_S:
    crossed = inverse @ columns  # C transposed
    wanted = weight @ hessian
    kept = (inverse @ (wanted.gather(1, index) * real)[..., None])[..., 0]
    gradient = wanted - (kept[:, None] @ columns)[:, 0]
    diagonal = inverse.diagonal(dim1=1, dim2=2)
    ratio = kept / diagonal
    free = hessian.diagonal() - (crossed * columns).sum(1)
    gain = (gradient[:, None] + ratio[..., None] * crossed).square_()
    gain /= free.clamp_min(1e-12 * hessian.diagonal())[:, None] + crossed.square() / diagonal[..., None]
    gain -= (ratio * kept)[..., None]
    gain.masked_fill_(mask[:, None] | ~real[..., None], -torch.inf)
    if group is not None:
        inputs = torch.arange(len(hessian), device=hessian.device)
        gain.masked_fill_(index[..., None] // group != inputs // group, -torch.inf)
    best, at = gain.flatten(1).max(1)
    return best, index.gather(1, (at // len(hessian))[:, None])[:, 0], at % len(hessian)
