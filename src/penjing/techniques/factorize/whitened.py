r"""The matrix of rank r whose outputs are nearest on data.

    min ||(W - A B) X||_F^2 = min tr((W - A B) H (W - A B)^T),    H = X X^T = L L^T:    A B = U_r U_r^T W,

with U_r the first left singular vectors of W L: the problem is that of Eckart and Young for W L, and what comes back
through L^-1 is W, projected. U_r are also the first eigenvectors of W H W^T, the principal components of the outputs,
as in reduced-rank regression (Davies and Tso 1982, "Procedures for reduced-rank regression",
doi:10.2307/2347983). For networks: Chen et al. 2021, "DRONE: Data-aware Low-rank Compression for Large NLP Models";
Yuan et al. 2023, "ASVD" (arXiv:2312.05821), with a diagonal L; Wang et al. 2024, "SVD-LLM" (arXiv:2403.07378), with
Cholesky's. Where a bias follows, H is about the mean of X, and the bias takes (W - A B) E[x]: Zhang et al. 2015,
"Accelerating Very Deep Convolutional Networks for Classification and Detection" (arXiv:1505.06798), section 3.1.
"""

import torch
from torch import Tensor

from penjing.techniques.factorize.svd import Factors, left_singular, within


def whitened_svd(weight: Tensor, hessian: Tensor, rank: int) -> Factors:
    """Give the best factors of a weight [outputs, inputs] for a positive definite H [inputs, inputs].

    Raises ShapeError for a rank that a matrix of this shape cannot have.

    >>> found = whitened_svd(torch.diag(torch.tensor([3.0, 2.0])), torch.diag(torch.tensor([0.1, 9.0])), 1)
    >>> (found.up @ found.down).round(decimals=6).diagonal().tolist()
    [0.0, 2.0]
    """
    return within(whitened(weight, hessian)[1], weight, rank)


def whitened(weight: Tensor, hessian: Tensor) -> tuple[Tensor, Tensor]:
    """The energy of the outputs in each of their principal directions, falling, and these directions as columns."""
    return left_singular(weight.double() @ torch.linalg.cholesky(hessian.double()))
