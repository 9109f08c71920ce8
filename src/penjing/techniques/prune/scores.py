r"""How much a unit (a channel, a neuron, a head) of a coupled group matters.

A unit u of group g owns one slice of every parameter that carries the group. A score turns these slices into one
number; the lowest go first. Scores are sums over the slices, so that a coupled group is judged as a whole (Fang et al.
2023, "DepGraph: Towards Any Structural Pruning", arXiv:2301.12900, section 3.3).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from penjing.errors import RecipeError
from penjing.structure import Group, Member


@dataclass(frozen=True)
class Evidence:
    """What a score may look at: parameters and, where it needs them, their gradients (both by name), and a seed."""

    parameters: Mapping[str, Tensor]
    gradients: Mapping[str, Tensor]
    seed: int = 0


@dataclass(frozen=True)
class Score:
    """One row of SCORES: the function [size] <- (group, evidence), and whether it needs gradients."""

    function: Callable[[Group, Evidence], Tensor]
    needs_gradients: bool = False


def unit_slices(tensor: Tensor, member: Member) -> Tensor:
    """Give the slices of a tensor by unit: [size, elements of the unit]."""
    index = torch.from_numpy(member.index).to(tensor.device)
    rows = tensor.detach().movedim(member.dim, 0)
    return rows[index.flatten()].reshape(index.shape[0], -1).double()


def norm(p: float) -> Callable[[Group, Evidence], Tensor]:
    r"""l_p norm of all weights of a unit, s_u = (sum_i |w_i|^p)^(1/p), over tensors of two or more dimensions.

    p = 1 is the criterion of Li et al. 2017, "Pruning Filters for Efficient ConvNets" (arXiv:1608.08710).
    """

    def score(group: Group, evidence: Evidence) -> Tensor:
        total = torch.zeros(group.size, dtype=torch.float64)
        for member in group.members:
            tensor = evidence.parameters.get(member.parameter)
            if tensor is not None and tensor.ndim >= 2:
                total += unit_slices(tensor, member).abs().pow(p).sum(1).cpu()
        return total.pow(1 / p)

    return score


def batch_norm_scale(group: Group, evidence: Evidence) -> Tensor:
    r"""Sum of |gamma| of the norms that a unit passes (Liu et al. 2017, "Network Slimming", arXiv:1708.06519).

    A group that passes no affine norm is scored by its l2 norm.
    """
    total = torch.zeros(group.size, dtype=torch.float64)
    found = False
    for member in group.members:
        tensor = evidence.parameters.get(member.parameter)
        if tensor is not None and tensor.ndim == 1 and member.parameter.endswith("weight"):
            total += unit_slices(tensor, member).abs().sum(1).cpu()
            found = True
    return total if found else norm(2.0)(group, evidence)


def taylor(group: Group, evidence: Evidence) -> Tensor:
    r"""First-order estimate of the change of the loss when a unit goes, s_u = |sum_i g_i w_i|.

    Molchanov et al. 2019, "Importance Estimation for Neural Network Pruning" (arXiv:1906.10771), equation 8, with the
    square replaced by its root so that units are comparable over groups. The sum runs over the tensors that produce
    the unit: removing its producers and removing its consumers is one event, so counting both would count it twice.
    """
    total = torch.zeros(group.size, dtype=torch.float64)
    for member in group.members:
        weight, gradient = (source.get(member.parameter) for source in (evidence.parameters, evidence.gradients))
        if weight is not None and gradient is not None and member.dim == 0:
            total += (unit_slices(weight, member) * unit_slices(gradient, member)).sum(1).cpu()
    return total.abs()


def random(group: Group, evidence: Evidence) -> Tensor:
    """Uniform noise: the baseline that any other score has to beat."""
    seed = (evidence.seed * 1_000_003 + sum(group.name.encode())) % 2**31
    return torch.rand(group.size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


SCORES: dict[str, Score] = {
    "l1": Score(norm(1.0)),
    "l2": Score(norm(2.0)),
    "batch_norm": Score(batch_norm_scale),
    "taylor": Score(taylor, needs_gradients=True),
    "random": Score(random),
}


def register_score(name: str, score: Score) -> None:
    """Make a score known to PruneChannels under a name; raises ValueError when the name is taken."""
    if name in SCORES:
        raise ValueError(f"a score named {name!r} is registered already; choose another name")
    SCORES[name] = score


def find_score(name: str) -> Score:
    """Look a score up by name; an unknown one is a RecipeError that lists the known."""
    if name not in SCORES:
        raise RecipeError(f"PruneChannels: score={name!r} is unknown; use one of {', '.join(SCORES)}")
    return SCORES[name]
