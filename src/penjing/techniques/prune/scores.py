r"""How much a unit (a channel, a neuron, a head) of a coupled group matters.

A unit u of group g owns one slice of every parameter that carries the group, and is read at every end of the group. A
score turns these into one row of numbers for each, [size]; the rows are reduced to one, because a coupled group lives
and dies as a whole (Fang et al. 2023, "DepGraph: Towards Any Structural Pruning", arXiv:2301.12900, section 3.3), and
normalised, because groups of different scale compete. The lowest go first.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from penjing.errors import RecipeError
from penjing.structure import Group, Member
from penjing.techniques.prune.evidence import Evidence, Need
from penjing.techniques.prune.reconstruction import reconstruction
from penjing.types import Normalize, Reduce


def _as_it_is(total: Tensor) -> Tensor:
    return total


@dataclass(frozen=True)
class Score:
    """One row of SCORES.

    function: (group, evidence) -> [size], or [parts, size] with a row for each tensor or end that speaks of the units.
    needs: what the evidence must hold. normalize: what makes its values comparable between groups. finish: applied to
    the reduced row, as the root of a norm is.
    """

    function: Callable[[Group, Evidence], Tensor]
    needs: Need = Need.WEIGHTS
    normalize: Normalize = Normalize.MEAN
    finish: Callable[[Tensor], Tensor] = _as_it_is

    def __call__(self, group: Group, evidence: Evidence, reduce: Reduce = Reduce.SUM) -> Tensor:
        """Give one number for each unit, float64 [size], before normalisation."""
        parts = self.function(group, evidence).double()
        return self.finish(parts if parts.ndim == 1 else REDUCTIONS[reduce](parts))


REDUCTIONS: dict[Reduce, Callable[[Tensor], Tensor]] = {
    Reduce.SUM: lambda parts: parts.sum(0),
    Reduce.MEAN: lambda parts: parts.mean(0),
    Reduce.MAX: lambda parts: parts.amax(0),
    Reduce.FIRST: lambda parts: parts[0],
}

NORMALIZATIONS: dict[Normalize, Callable[[Tensor], Tensor]] = {
    Normalize.MEAN: lambda s: s / s.mean().clamp_min(1e-300),
    Normalize.MAX: lambda s: s / s.amax().clamp_min(1e-300),
    Normalize.SUM: lambda s: s / s.sum().clamp_min(1e-300),
    Normalize.GAUSSIAN: lambda s: (s - s.mean()) / s.std(correction=0).clamp_min(1e-300),
    Normalize.NONE: _as_it_is,
}


def unit_slices(tensor: Tensor, member: Member) -> Tensor:
    """Give the slices of a tensor by unit: [size, elements of the unit], of complex ones real and imaginary parts."""
    index = torch.from_numpy(member.index).to(tensor.device)
    rows = tensor.detach().movedim(member.dim, 0)
    rows = torch.view_as_real(rows) if rows.is_complex() else rows
    return rows[index.flatten()].reshape(index.shape[0], -1).double().cpu()


def matrices(group: Group, evidence: Evidence) -> list[tuple[Tensor, Member]]:
    """Give the weight matrices that carry a group.

    These are its parameters of two or more dimensions; where it has none, all of its parameters, else its constants.
    """
    found = [(m, evidence.parameters[m.parameter]) for m in group.members if m.parameter in evidence.parameters]
    weights = [(member, tensor) for member, tensor in found if isinstance(tensor, nn.Parameter)]
    large = [(member, tensor) for member, tensor in weights if tensor.ndim >= 2]
    return [(tensor, member) for member, tensor in large or weights or found]


def by_matrix(group: Group, evidence: Evidence, function: Callable[[Tensor], Tensor]) -> Tensor:
    """Apply a function of rows, [units, elements] to [units], to the slices of each matrix: [matrices, size].

    It goes block by block, so that no large matrix is held in float64.
    """
    rows = []
    for tensor, member in matrices(group, evidence):
        units = max(1, _BLOCK * group.size // max(1, tensor.numel()))
        blocks = (replace(member, index=member.index[i : i + units]) for i in range(0, group.size, units))
        rows.append(torch.cat([function(unit_slices(tensor, block)) for block in blocks]))
    return torch.stack(rows)


def norm(p: float) -> Score:
    r"""l_p norm of all weights of a unit, s_u = (sum_i |w_i|^p)^(1/p), over tensors of two or more dimensions.

    p = 1 is the criterion of Li et al. 2017, "Pruning Filters for Efficient ConvNets" (arXiv:1608.08710); with
    reduce="first" it looks at the layer that makes the unit alone, as there. p < 1 counts weights rather than their
    size.
    """

    def parts(group: Group, evidence: Evidence) -> Tensor:
        return by_matrix(group, evidence, lambda slices: slices.abs().pow(p).sum(1))

    return Score(parts, finish=lambda total: total.pow(1 / p))


def batch_norm_scale(group: Group, evidence: Evidence) -> Tensor:
    r"""|gamma| of the norms that a unit passes (Liu et al. 2017, "Network Slimming", arXiv:1708.06519).

    A group that passes no affine norm is scored by its l2 norm.
    """
    scales = [
        unit_slices(tensor, member).abs().sum(1)
        for member in group.members
        if member.parameter.endswith("weight") and (tensor := evidence.parameters[member.parameter]).ndim == 1
    ]
    return torch.stack(scales) if scales else norm(2.0)(group, evidence)


def lamp(group: Group, evidence: Evidence) -> Tensor:
    r"""Share of a unit in the squared norm of the units no smaller than it, s_u = m_u / sum_{v: m_v >= m_u} m_v.

    m_u = ||w_u||^2. Lee et al. 2021, "Layer-adaptive Sparsity for the Magnitude-based Pruning" (arXiv:2010.07611,
    equation 1), for units instead of weights; comparable between groups as it is.

    >>> import numpy as np
    >>> member = Member("w", 0, np.arange(3)[:, None])
    >>> group = Group("g", (member,), 3, exact=True, prunable=True, reason="", ids=np.arange(3))
    >>> lamp(group, Evidence({"w": torch.tensor([[1.0], [2.0], [0.0]])})).tolist()
    [0.2, 1.0, 0.0]
    """
    squares = by_matrix(group, evidence, lambda slices: slices.square().sum(1)).sum(0)
    order = squares.argsort(stable=True)
    rest = squares[order].flip(0).cumsum(0).flip(0)
    return torch.empty_like(squares).scatter_(0, order, squares[order] / rest.clamp_min(1e-300))


def geometric_median(group: Group, evidence: Evidence) -> Tensor:
    r"""Distance to all other units of the group, s_u = sum_v ||w_u - w_v||: what others nearly say is not needed.

    He et al. 2019, "Filter Pruning via Geometric Median for Deep Convolutional Neural Networks Acceleration"
    (arXiv:1811.00250, equation 6). One row for each tensor of two or more dimensions; the paper's filters are the
    first.
    """
    slices = (unit_slices(tensor, member) for tensor, member in matrices(group, evidence))
    return torch.stack([torch.cdist(each, each).sum(1) for each in slices])


def taylor(group: Group, evidence: Evidence) -> Tensor:
    r"""First-order estimate of the change of the loss when a unit goes, s_u = |sum_i g_i w_i|.

    Molchanov et al. 2019, "Importance Estimation for Neural Network Pruning" (arXiv:1906.10771, equation 8), with the
    square replaced by its root so that units are comparable between groups. The sum runs over the tensors that produce
    the unit: removing its producers and removing its consumers is one event, so counting both would count it twice.
    """
    total = torch.zeros(group.size, dtype=torch.float64)
    members = [member for member in group.members if member.parameter in evidence.gradients]
    for member in [member for member in members if member.dim == 0] or members:
        weight, gradient = evidence.parameters[member.parameter], evidence.gradients[member.parameter]
        total += (unit_slices(weight, member) * unit_slices(gradient, member)).sum(1)
    return total.abs()


def taylor_activation(group: Group, evidence: Evidence) -> Tensor:
    r"""First-order estimate from activations, s_u = mean_n |sum a da loss_n| over all that is read of the unit.

    Molchanov et al. 2017, "Pruning Convolutional Neural Networks for Resource Efficient Inference" (arXiv:1611.06440,
    equation 7). A coupled unit counts whole, by the derivative by one factor on all its ends.
    """
    return evidence.sensitivities[group.name].mean


def fisher(group: Group, evidence: Evidence) -> Tensor:
    r"""Second-order estimate of the change of the loss when a unit goes, s_u = 1/2 mean_n (sum a da loss_n)^2.

    The diagonal of the Fisher information, in place of the Hessian's in LeCun, Denker and Solla 1990, "Optimal Brain
    Damage": Theis et al. 2018, "Faster gaze prediction with dense networks and Fisher pruning" (arXiv:1801.05787,
    equation 11); for coupled channels Liu et al. 2021, "Group Fisher Pruning for Practical Network Compression"
    (arXiv:2108.00708, equation 7). An estimate of the loss itself; groups compete by what it comes to for each part of
    the budget that is saved, as there.
    """
    return evidence.sensitivities[group.name].square / 2


def activation(group: Group, evidence: Evidence) -> Tensor:
    r"""Mean absolute value of what is read of a unit, one row for each reader.

    The activation criterion of Molchanov et al. 2017 (arXiv:1611.06440, section 2.2), on unlabelled calibration data.
    """
    return evidence.activities[group.name].mean


def apoz(group: Group, evidence: Evidence) -> Tensor:
    r"""1 - APoZ: share of values read of a unit that are not zero, one row for each reader; made for ReLU networks.

    Hu et al. 2016, "Network Trimming: A Data-Driven Neuron Pruning Approach towards Efficient Deep Architectures"
    (arXiv:1607.03250, equation 1).
    """
    return evidence.activities[group.name].active


def random(group: Group, evidence: Evidence) -> Tensor:
    """Uniform noise: the baseline that any other score has to beat."""
    seed = (evidence.seed * 1_000_003 + sum(group.name.encode())) % 2**31
    return torch.rand(group.size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


SCORES: dict[str, Score] = {
    "l1": norm(1.0),
    "l2": norm(2.0),
    "batch_norm": Score(batch_norm_scale),
    "lamp": Score(lamp, normalize=Normalize.NONE),
    "geometric_median": Score(geometric_median),
    "taylor": Score(taylor, needs=Need.GRADIENTS, normalize=Normalize.NONE),
    "taylor_activation": Score(taylor_activation, needs=Need.SENSITIVITIES, normalize=Normalize.NONE),
    "fisher": Score(fisher, needs=Need.SENSITIVITIES, normalize=Normalize.COST),
    "activation": Score(activation, needs=Need.ACTIVATIONS),
    "apoz": Score(apoz, needs=Need.ACTIVATIONS, normalize=Normalize.NONE),
    "reconstruction": Score(reconstruction, needs=Need.READINGS, normalize=Normalize.NONE),
    "random": Score(random),
}
_BLOCK = 1 << 20  # elements of a matrix that are looked at together
_ALSO = ("lp", "auto")  # "lp" asks for an order, "auto" is settled by the data at hand


def register_score(name: str, score: Score) -> None:
    """Make a score known to PruneChannels under a name; raises ValueError when the name is taken."""
    if name in (*SCORES, *_ALSO):
        raise ValueError(f"a score named {name!r} is registered already; choose another name")
    SCORES[name] = score


def find_score(name: str, p: float | None = None) -> Score:
    """Look a score up by name, "lp" by its order p; an unknown one is a RecipeError that lists the known."""
    if name == "lp" and p is not None:
        return norm(p)
    if name not in SCORES:
        raise RecipeError(f"PruneChannels: score={name!r} is unknown; use one of {', '.join((*SCORES, *_ALSO))}")
    return SCORES[name]


def score_groups(
    groups: Sequence[Group],
    score: Score,
    evidence: Evidence,
    reduce: Reduce,
    normalize: Normalize,
    prices: Mapping[str, float],
) -> dict[str, Tensor]:
    """Score every group: float64 [size] by name, comparable between groups.

    prices: what a unit costs, by group, where the scores are normalised by it.
    """
    raw = {group.name: score(group, evidence, reduce) for group in groups}
    if normalize is Normalize.COST:
        return {name: values / max(prices[name], 1e-300) for name, values in raw.items()}
    return {name: NORMALIZATIONS[normalize](values) for name, values in raw.items()}
