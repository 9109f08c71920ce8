r"""The k-sparse problem of one layer, and how wrong an answer is.

min_W' ||X W^T - X W'^T||_F^2 = tr((W - W') H (W - W')^T) subject to ||W'||_0 <= k, with H = X^T X, for a weight
[outputs, inputs] and inputs X [samples, inputs]. It is one problem for each output, which share H and perhaps k. With
H = I it is the Euclidean projection; otherwise it is NP-hard (Natarajan 1995, doi:10.1137/S0097539792240406).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from penjing.errors import ShapeError, WorkloadError

SHARE = 0.01
_STRONGEST = 1.0


@dataclass(frozen=True)
class Damped:
    """H + added I, positive definite; `share` is what was added, of the mean of the diagonal of H.

    stronger: whether the share that was asked for did not suffice.
    """

    matrix: Tensor
    added: float
    share: float
    stronger: bool


def damped(hessian: Tensor, share: float = SHARE) -> Damped:
    """Make a matrix X^T X positive definite: add a share of its mean diagonal, ten times as much while that fails.

    Raises ShapeError for a matrix that is not square, and WorkloadError for one that holds NaN or infinity, is zero, or
    is indefinite by more than its mean diagonal: such is not a sum of squares.

    >>> found = damped(torch.tensor([[2.0, 2.0], [2.0, 2.0]]), share=0.5)
    >>> found.matrix, found.added
    (tensor([[3., 2.],
            [2., 3.]]), 1.0)
    """
    if hessian.ndim != 2 or len(hessian) != hessian.shape[1]:
        raise ShapeError(f"damped: the Hessian has shape {tuple(hessian.shape)}; give X^T X, [inputs, inputs]")
    if not bool(hessian.isfinite().all()):
        raise WorkloadError("damped: the Hessian holds NaN or infinity; look at the calibration data")
    mean = float(hessian.diagonal().mean())
    if mean <= 0:
        raise WorkloadError("damped: the Hessian is zero: the layer sees nothing but zeros in the calibration data")
    asked = share
    while share <= _STRONGEST:
        matrix = hessian.clone()
        matrix.diagonal().add_(share * mean)
        if not int(torch.linalg.cholesky_ex(matrix)[1]):
            return Damped(matrix, share * mean, share, share > asked)
        share = max(10 * share, 1e-6)
    raise WorkloadError(
        f"damped: the Hessian is not positive definite with {share / 10:g} of its mean diagonal added; give X^T X"
    )


def losses(weight: Tensor, pruned: Tensor, hessian: Tensor) -> Tensor:
    """What each output loses, (w - w') H (w - w')^T: [outputs].

    >>> losses(torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0, 2.0]]), torch.eye(2))
    tensor([1.])
    """
    gap = weight - pruned
    return ((gap @ hessian) * gap).sum(1)


def relative_error(weight: Tensor, pruned: Tensor, hessian: Tensor) -> float:
    """What all outputs lose, of what they give: ||X W - X W'||^2 / ||X W||^2; 0 where nothing is lost.

    >>> round(relative_error(torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0, 2.0]]), torch.eye(2)), 6)
    0.2
    """
    whole = losses(weight, torch.zeros_like(weight), hessian).sum()
    lost = losses(weight, pruned, hessian).sum()
    return 0.0 if lost == 0 else float(lost / whole)
