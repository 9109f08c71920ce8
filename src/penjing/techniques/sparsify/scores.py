"""How much a single weight matters. The lowest scores go first."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from penjing.errors import RecipeError
from penjing.techniques.sparsify.evidence import Evidence, Need

Function = Callable[[Tensor, Evidence], Tensor]
"""A weight tensor and the evidence in, importance of the same shape out."""


@dataclass(frozen=True)
class Score:
    """A criterion and what it needs beside the weight."""

    function: Function
    needs: Need = Need.WEIGHTS

    def __call__(self, weight: Tensor, evidence: Evidence) -> Tensor:
        return self.function(weight, evidence)


def l1(weight: Tensor, evidence: Evidence) -> Tensor:
    r"""Score by magnitude, s_i = |w_i|.

    Keeping the k largest magnitudes is the exact solution of min ||w - w'||_2 subject to ||w'||_0 <= k (the Euclidean
    projection), and the criterion of Han et al. 2015, "Learning both Weights and Connections" (arXiv:1506.02626).

    >>> l1(torch.tensor([-2.0, 1.0]), Evidence())
    tensor([2., 1.])
    """
    return weight.abs()


def l2(weight: Tensor, evidence: Evidence) -> Tensor:
    """Score by energy, s_i = w_i^2: the order of l1, for means over units that speak of energy.

    >>> l2(torch.tensor([-2.0, 1.0]), Evidence())
    tensor([4., 1.])
    """
    return weight.square()


def random(weight: Tensor, evidence: Evidence) -> Tensor:
    """Score by a uniform draw: the control that every criterion has to beat.

    >>> random(torch.zeros(3), Evidence(torch.Generator().manual_seed(0))).shape
    torch.Size([3])
    """
    return torch.rand(weight.shape, generator=evidence.generator).to(weight.device)


def lamp(weight: Tensor, evidence: Evidence) -> Tensor:
    r"""Score by the share of a weight in the energy of those no smaller, s_i = w_i^2 / sum_{j: w_j^2 >= w_i^2} w_j^2.

    Comparable between tensors, so that one threshold over all spreads the sparsity well. Lee et al. 2021,
    "Layer-adaptive Sparsity for the Magnitude-based Pruning" (arXiv:2010.07611), equation 1.

    >>> lamp(torch.tensor([1.0, 2.0, 0.0]), Evidence())
    tensor([0.2000, 1.0000, 0.0000])
    """
    squares = weight.square().flatten()
    order = squares.argsort(stable=True)
    rest = squares[order].flip(0).cumsum(0).flip(0)
    shares = squares[order] / rest.clamp_min(torch.finfo(squares.dtype).tiny)
    return torch.empty_like(squares).scatter_(0, order, shares).view(weight.shape)


def snip(weight: Tensor, evidence: Evidence) -> Tensor:
    r"""Score by the first-order change of the loss, s_i = |g_i w_i|, over a few training batches.

    Lee et al. 2019, "SNIP: Single-shot Network Pruning based on Connection Sensitivity" (arXiv:1810.02340), equation 4;
    its square is the criterion of Molchanov et al. 2019 (arXiv:1906.10771), with the same order.

    >>> snip(torch.tensor([-2.0, 1.0]), Evidence(gradient=torch.tensor([1.0, -3.0])))
    tensor([2., 3.])
    """
    assert evidence.gradient is not None
    return (weight * evidence.gradient).abs()


def grasp(weight: Tensor, evidence: Evidence) -> Tensor:
    r"""Score by what a weight does for the gradient flow, s_i = w_i (H g)_i: those that hinder it go first.

    Wang, Zhang and Grosse 2020, "Picking Winning Tickets Before Training by Preserving Gradient Flow"
    (arXiv:2002.07376), equation 8, which removes the largest -w_i (H g)_i.

    >>> grasp(torch.tensor([2.0, 1.0]), Evidence(hessian=torch.tensor([-1.0, 3.0])))
    tensor([-2.,  3.])
    """
    assert evidence.hessian is not None
    return weight * evidence.hessian


def fisher(weight: Tensor, evidence: Evidence) -> Tensor:
    r"""Score by the second-order change of the loss, s_i = 1/2 w_i^2 F_ii, with F_ii the mean squared gradient.

    The saliency of LeCun, Denker and Solla 1990, "Optimal Brain Damage", with the diagonal of the empirical Fisher
    information in place of the Hessian's (Theis et al. 2018, arXiv:1801.05787); squares are of batch gradients.

    >>> fisher(torch.tensor([2.0, 1.0]), Evidence(square=torch.tensor([1.0, 8.0])))
    tensor([2., 4.])
    """
    assert evidence.square is not None
    return weight.square() * evidence.square / 2


def wanda(weight: Tensor, evidence: Evidence) -> Tensor:
    r"""Score by magnitude times the norm of the input, s_ij = |w_ij| ||x_j||_2, from unlabelled calibration data.

    Sun et al. 2023, "A Simple and Effective Pruning Approach for Large Language Models" (arXiv:2306.11695), which
    compares the weights of one output: scope="row".

    >>> wanda(torch.tensor([[2.0, -1.0]]), Evidence(inputs=torch.tensor([[1.0, 3.0]])))
    tensor([[2., 3.]])
    """
    assert evidence.inputs is not None
    return weight.abs() * evidence.inputs


def movement(weight: Tensor, evidence: Evidence) -> Tensor:
    r"""Score by how training moves a weight, s_i = -sum_t g_i w_i: those that shrink go first, zeros before all others.

    Sanh, Wolf and Rush 2020, "Movement Pruning: Adaptive Sparsity by Fine-Tuning" (arXiv:2005.07683), equation 2, in
    its hard form; it needs a schedule.

    >>> movement(torch.tensor([1.0, 0.0]), Evidence(movement=torch.tensor([-2.0, 5.0])))
    tensor([-2., -inf])
    """
    assert evidence.movement is not None
    return evidence.movement.masked_fill(weight == 0, -math.inf)


SCORES: dict[str, Score] = {
    "l1": Score(l1),
    "l2": Score(l2),
    "random": Score(random),
    "lamp": Score(lamp),
    "snip": Score(snip, Need.GRADIENTS),
    "grasp": Score(grasp, Need.CURVATURE),
    "fisher": Score(fisher, Need.GRADIENTS),
    "wanda": Score(wanda, Need.INPUTS),
    "movement": Score(movement, Need.MOVEMENT),
}


def register_score(name: str, function: Function, needs: Need | str = Need.WEIGHTS) -> None:
    """Make a score known under a name, so that Sparsify(score=name) finds it; `needs` says which evidence it reads.

    Raises RecipeError if the name is taken.
    """
    if name in SCORES:
        raise RecipeError(f"score {name!r} is already registered; choose another name than {', '.join(SCORES)}")
    SCORES[name] = Score(function, Need(needs))
