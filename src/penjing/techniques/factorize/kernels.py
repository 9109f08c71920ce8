r"""Convolutions as chains of smaller ones: the first reads few combinations of the inputs, the rest is fitted to that.

A kernel W [outputs, inputs, *sizes] is split behind some of its sizes. The first convolution B [r, inputs, *first] is
that of the nearest matrix [outputs * last, inputs * first] of rank r, where the inputs at the `last` offsets count as
samples of one another. What follows, A [outputs, r, *last], solves a least squares problem on the features z = B x:

    min_A tr((W - A F) H (W - A F)^T):    A = W H F^T (F H F^T)^-1,    F[(s, l), (i, f, l')] = B[s, i, f] [l = l'].
"""

from math import ceil, prod

import torch
from torch import Tensor

from penjing.techniques.factorize.whitened import whitened, whitened_svd


def channel(weight: Tensor, hessian: Tensor, rank: int) -> tuple[Tensor, ...]:
    """The whole kernel to r channels, then a 1 x 1 convolution: exact, for it is a product of matrices.

    Zhang et al. 2015, "Accelerating Very Deep Convolutional Networks for Classification and Detection"
    (arXiv:1505.06798). A linear layer is a kernel without sizes.
    """
    found = whitened_svd(weight.flatten(1), hessian, rank)
    return found.down.reshape(rank, *weight.shape[1:]), found.up.reshape(-1, rank, *[1] * (weight.ndim - 2))


def spatial(weight: Tensor, hessian: Tensor, rank: int) -> tuple[Tensor, ...]:
    """A k x 1 convolution to r channels, then one of 1 x k.

    Jaderberg, Vedaldi and Zisserman 2014, "Speeding up Convolutional Neural Networks with Low Rank Expansions"
    (arXiv:1405.3866), scheme 2; Tai et al. 2016 (arXiv:1511.06067) for the closed form.
    """
    down = _first(weight, hessian, rank, sizes=1)
    up, _ = _refit(weight, hessian, down)
    return down[..., None], up.reshape(len(weight), rank, 1, -1)


def tucker(weight: Tensor, hessian: Tensor, rank: int) -> tuple[Tensor, ...]:
    """1 x 1 to fewer inputs, the kernel to r channels, 1 x 1 to the outputs: a Tucker decomposition of both modes.

    Kim et al. 2016, "Compression of Deep Convolutional Neural Networks for Fast and Low Power Mobile Applications"
    (arXiv:1511.06530). Inputs keep the same share of their number as outputs keep of the largest rank.
    """
    inputs = tucker_inputs(weight.shape, rank)
    down = _first(weight, hessian, inputs, sizes=0)
    core, features = _refit(weight, hessian, down)
    ones = [1] * (weight.ndim - 2)
    narrow = core.reshape(len(weight), inputs, *weight.shape[2:])
    return down.reshape(inputs, -1, *ones), *channel(narrow, features, rank)


def tucker_inputs(shape: torch.Size, rank: int) -> int:
    """How many combinations of inputs `tucker` keeps."""
    return ceil(shape[1] * rank / min(shape[0], prod(shape[1:])))


def spectrum(weight: Tensor, hessian: Tensor, sizes: int) -> Tensor:
    """The energy of each direction of what is split behind so many sizes of the kernel, falling."""
    return whitened(*_unfolded(weight, hessian, sizes))[0]


def composed(stages: tuple[Tensor, ...]) -> Tensor:
    """The one kernel [outputs, inputs, *sizes] that a chain of convolutions computes, of which one has each size.

    >>> composed((torch.ones(1, 4, 3, 1), torch.ones(2, 1, 1, 3))).shape
    torch.Size([2, 4, 3, 3])
    """
    whole, *rest = stages
    n = whole.ndim - 2
    for stage in rest:
        product = torch.tensordot(stage, whole, ([1], [0]))  # [outputs, *its sizes, inputs, *sizes so far]
        pairs = [dim for i in range(n) for dim in (1 + i, 2 + n + i)]
        sizes = [mine * theirs for mine, theirs in zip(stage.shape[2:], whole.shape[2:], strict=True)]
        whole = product.permute(0, 1 + n, *pairs).reshape(len(stage), whole.shape[1], *sizes)
    return whole


def _unfolded(weight: Tensor, hessian: Tensor, sizes: int) -> tuple[Tensor, Tensor]:
    """A kernel as a matrix [outputs * last, inputs * first], and H summed over what it meets at each last offset."""
    rows = prod(weight.shape[1 : 2 + sizes])
    matrix = weight.reshape(len(weight), rows, -1).movedim(2, 1).reshape(-1, rows)
    return matrix, hessian.reshape(rows, len(hessian) // rows, rows, -1).diagonal(dim1=1, dim2=3).sum(-1)


def _first(weight: Tensor, hessian: Tensor, rank: int, *, sizes: int) -> Tensor:
    """B [rank, inputs, *first], split behind so many sizes of the kernel."""
    return whitened_svd(*_unfolded(weight, hessian, sizes), rank).down.reshape(rank, *weight.shape[1 : 2 + sizes])


def _refit(weight: Tensor, hessian: Tensor, down: Tensor) -> tuple[Tensor, Tensor]:
    """A [outputs, rank * last], and F H F^T, the H of what it reads."""
    matrix, hessian = weight.double().flatten(1), hessian.double()
    last = matrix.shape[1] // down[0].numel()
    features = torch.kron(down.flatten(1).contiguous(), torch.eye(last, dtype=down.dtype, device=down.device))
    seen = features @ hessian
    gram = seen @ features.T
    return matrix @ seen.T @ torch.linalg.pinv(gram, hermitian=True), gram
