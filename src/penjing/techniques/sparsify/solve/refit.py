r"""The best weights for a support that is given: least squares for each output by itself.

w'_S = H_SS^-1 (H w)_S, the minimiser of (w - w') H (w - w')^T with w' zero outside S.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

_ROOM = 2**24  # values of one stack of matrices
_ROWS = 2**20  # values of the rows that are worked on at once


def refit(weight: Tensor, hessian: Tensor, mask: Tensor) -> Tensor:
    """Solve for the weights that stay, exactly; weight, mask: [outputs, inputs].

    >>> hessian = torch.tensor([[1.0, 0.5], [0.5, 1.0]])
    >>> refit(torch.tensor([[2.0, 1.0]]), hessian, torch.tensor([[True, False]]))
    tensor([[2.5000, 0.0000]])
    """
    wanted = weight @ hessian
    fitted = torch.zeros_like(weight)
    for rows, index, real in supports(mask):
        factor = torch.linalg.cholesky(gathered(hessian, index, real))
        right = (wanted[rows].gather(1, index) * real)[..., None]
        fitted[rows] = fitted[rows].scatter(1, index, torch.cholesky_solve(right, factor)[..., 0] * real)
    return fitted


def refit_slowly(weight: Tensor, hessian: Tensor, start: Tensor, mask: Tensor, steps: int) -> Tensor:
    """Come nearer to the same by so many steps of conjugate gradients, preconditioned by the diagonal.

    For large layers: a step costs one product of a weight and H, where the exact solution takes outputs * k^3.
    """
    fitted, height = torch.empty_like(weight), max(1, _ROWS // weight.shape[1])
    for first in range(0, len(weight), height):
        rows = slice(first, first + height)
        fitted[rows] = _conjugate(weight[rows], start[rows], mask[rows], hessian, steps)
    return fitted


def _conjugate(weight: Tensor, start: Tensor, mask: Tensor, hessian: Tensor, steps: int) -> Tensor:
    scale = mask / hessian.diagonal()
    found = start * mask
    residual = ((weight - found) @ hessian) * mask
    direction = residual * scale
    energy = (residual * direction).sum(1, keepdim=True)
    for _ in range(steps):
        along = (direction @ hessian) * mask
        length = energy / (direction * along).sum(1, keepdim=True).clamp_min(1e-30)
        found, residual = found + length * direction, residual - length * along
        before, energy = energy, (residual.square() * scale).sum(1, keepdim=True)
        direction = residual * scale + energy / before.clamp_min(1e-30) * direction
    return found


def supports(
    mask: Tensor, room_of: Callable[[int], int] = lambda k: k * k, room: int = _ROOM
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """The supports of rows, those of about equal size together, as many as have room at room_of(size) each.

    Gives rows [some], index [some, k] and real [some, k], which is False where a row has fewer than k inputs and
    `index` is filled up with inputs that are not in its support.
    """
    counts = mask.sum(1)
    order = counts.argsort(descending=True)
    order = order[: int(counts.count_nonzero())]
    while len(order):
        most = int(counts[order[0]])
        rows, order = order.tensor_split([max(1, room // room_of(most))])
        index = mask[rows].to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :most]
        yield rows, index, mask[rows].gather(1, index)


def gathered(hessian: Tensor, index: Tensor, real: Tensor) -> Tensor:
    """H_SS of each row, [rows, k, k], with ones on the diagonal where there is no input."""
    both = real[:, :, None] & real[:, None, :]
    filled = torch.diag_embed((~real).to(hessian.dtype))
    return torch.where(both, hessian[index[:, :, None], index[:, None, :]], filled)
