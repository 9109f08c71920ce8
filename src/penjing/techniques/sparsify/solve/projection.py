"""Without data, min ||W - W'||_2^2 subject to ||W'||_0 <= k: the k largest magnitudes are the optimum."""

from torch import Tensor

from penjing.techniques.sparsify.solve.budgets import Budget


def magnitude(weight: Tensor, hessian: Tensor, budget: Budget) -> Tensor:
    """The Euclidean projection: the squares of what goes are lost, and least where these are the smallest.

    Exact under every budget. The Hessian is not looked at.

    >>> import torch
    >>> from penjing.techniques.sparsify.solve.budgets import PerLayer
    >>> magnitude(torch.tensor([[3.0, 1.0], [-4.0, 2.0]]), torch.eye(2), PerLayer(0.5))
    tensor([[ 3.,  0.],
            [-4.,  0.]])
    """
    return weight * budget.keep(weight.square())


def wanda(weight: Tensor, hessian: Tensor, budget: Budget) -> Tensor:
    r"""Keep the largest |w_ij| ||x_j||, ||x_j||^2 = H_jj: the projection in the metric of the diagonal of H.

    Sun et al. 2023, "A Simple and Effective Pruning Approach for Large Language Models" (arXiv:2306.11695), which takes
    the same share of each output.
    """
    return weight * budget.keep(weight.square() * hessian.diagonal())
