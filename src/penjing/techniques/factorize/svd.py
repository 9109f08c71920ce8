r"""The nearest matrix of rank r, as a product of two.

    min ||W - A B||_F  over A [outputs, r], B [r, inputs]:    A B = U_r U_r^T W,

with U_r the left singular vectors of W that have the r largest singular values: Eckart and Young 1936, "The
approximation of one matrix by another of lower rank" (doi:10.1007/BF02288367). As two layers: Denton et al. 2014,
"Exploiting Linear Structure Within Convolutional Networks for Efficient Evaluation" (arXiv:1404.0736).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from penjing.errors import ShapeError


@dataclass(frozen=True)
class Factors:
    """W = up @ down, in float64: down [rank, inputs] runs first, then up [outputs, rank]."""

    down: Tensor
    up: Tensor


def truncated_svd(weight: Tensor, rank: int) -> Factors:
    """Give the nearest matrix of a rank. Raises ShapeError for a rank that a matrix of this shape cannot have.

    >>> found = truncated_svd(torch.diag(torch.tensor([3.0, 2.0, 1.0])), 2)
    >>> (found.up @ found.down).round(decimals=6).abs().diagonal().tolist()
    [3.0, 2.0, 0.0]
    """
    return within(left_singular(weight.double())[1], weight, rank)


def left_singular(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """The squares of the singular values of a matrix, falling, and its left singular vectors as columns."""
    vectors, values, _ = torch.linalg.svd(matrix, full_matrices=False)
    return values.square(), vectors


def within(basis: Tensor, weight: Tensor, rank: int) -> Factors:
    """Project a weight into the first columns of an orthonormal basis; its scale is shared by both factors.

    Each direction has the same norm on both sides, which training and quantisation take best.
    """
    if not 1 <= rank <= basis.shape[1]:
        raise ShapeError(
            f"rank={rank} is none that a weight of {tuple(weight.shape)} can have; use 1 to {basis.shape[1]}"
        )
    up = basis[:, :rank]
    down = up.T @ weight.double()
    scale = down.norm(dim=1).sqrt().clamp_min(torch.finfo(down.dtype).eps)
    return Factors(down / scale[:, None], up * scale)
