r"""A certified lower bound on what any answer loses.

Let D > 0 be diagonal, R = H - D positive semidefinite, b = H w, and w' any answer with the mask z. For every p,
d_j w'_j^2 >= 2 d_j p_j w'_j - d_j p_j^2 z_j, since d_j (w'_j - p_j z_j)^2 >= 0 and w'_j = w'_j z_j. So

    (w - w') H (w - w')^T >= w b - 2 (b - D p) w' + w' R w' - sum_j d_j p_j^2 z_j.

With p = D^-1 (b - R u) for any u, the terms in w' are w' R w' - 2 u R w' >= -u R u, and thus, for every u,

    (w - w') H (w - w')^T >= w b - u R u - max_S sum_{j in S} (b - R u)_j^2 / d_j,

with S over the supports that the budget allows; the sum over outputs bounds all of them together. u = w gives the sum
of d_j w_j^2 over what goes. This is the dual of the perspective relaxation (Frangioni and Gentile 2006,
doi:10.1007/s10107-005-0594-3; Pilanci, Wainwright and El Ghaoui 2015, doi:10.1007/s10107-015-0894-1),
min_u u R u - 2 b u + min_z sum_j d_j u_j^2 / z_j, 0 <= z <= 1, which proximal steps on u solve.
"""

import torch
from torch import Tensor

from penjing.techniques.sparsify.solve.budgets import Competing

_FALL, _ROUNDS, _NEWTON = 0.3, 10, 3
_HALVINGS = 40
_MARGIN = 1e-9  # of the diagonal, against rounding


def lower_bound(weight: Tensor, hessian: Tensor, budget: Competing, steps: int = 300) -> float:
    """What every answer loses at least, for a weight [outputs, inputs] and a positive definite Hessian.

    It holds after any number of steps (accelerated: Beck and Teboulle 2009, doi:10.1137/080716542), and rises with it.

    >>> from penjing.techniques.sparsify.solve.budgets import PerRow
    >>> round(lower_bound(torch.tensor([[2.0, 1.0]]), torch.eye(2), PerRow(0.5)), 6)
    1.0
    """
    scale = hessian.diagonal().double().sqrt()
    weight, hessian = weight.double() * scale, hessian.double() / scale / scale[:, None]
    diagonal = splitting(hessian)
    rest = hessian - diagonal.diag()
    wanted = weight @ hessian
    length = 0.5 / float(torch.linalg.eigvalsh(rest)[-1].clamp_min(1e-12))
    whole, best = float((weight * wanted).sum()), 0.0
    point, ahead, momentum = weight, weight, 1.0
    for _ in range(steps):
        seen = point @ rest
        worth = (wanted - seen).square() / diagonal
        best = max(best, whole - float((seen * point).sum() + (worth * budget.keep(worth)).sum()))
        last, before = point, momentum
        point = _nearest(ahead - 2 * length * (ahead @ rest - wanted), length * diagonal, budget)
        momentum = (1 + (1 + 4 * momentum**2) ** 0.5) / 2
        ahead = point + (before - 1) / momentum * (point - last)
    return best


def splitting(hessian: Tensor) -> Tensor:
    """A diagonal D > 0, as large as H carries: H - D is positive semidefinite; float64 [inputs].

    Newton steps on sum_j D_jj (H^-1)_jj / m + log det (H - D) + log det D with m falling (no term exceeds 1),
    and in the end the largest multiple of it.

    >>> splitting(torch.tensor([[2.0, 1.0], [1.0, 2.0]])).round(decimals=3)
    tensor([1., 1.], dtype=torch.float64)
    """
    hessian = hessian.double()
    worth = torch.cholesky_inverse(torch.linalg.cholesky(hessian)).diagonal()
    diagonal = _largest(hessian, 1 / worth) / 2
    weight = float((worth * diagonal).mean())
    for _ in range(_ROUNDS):
        for _ in range(_NEWTON):
            inverse = torch.cholesky_inverse(torch.linalg.cholesky(hessian - diagonal.diag()))
            slope = worth / weight - inverse.diagonal() + 1 / diagonal
            way = torch.linalg.solve(inverse.square() + diagonal.pow(-2).diag(), slope)
            size = float((way * slope).sum().clamp_min(0).sqrt())
            diagonal = diagonal + way / (1 + size)
        weight *= _FALL
    return _largest(hessian, diagonal) * (1 - _MARGIN)


def _largest(hessian: Tensor, diagonal: Tensor) -> Tensor:
    """The largest multiple of a diagonal that is not above H."""
    root = diagonal.sqrt()
    largest: Tensor = diagonal * torch.linalg.eigvalsh(hessian / root / root[:, None])[0]
    return largest


def _nearest(point: Tensor, cost: Tensor, budget: Competing) -> Tensor:
    """argmin_u |u - point|^2 / 2 + min_z sum_j cost_j u_j^2 / z_j: u = point z / (z + 2 cost), z found by bisection."""
    points, count = budget.groups(point)
    costs, _ = budget.groups(cost.expand_as(point))
    pull = points.abs() * costs.sqrt()
    low, high = pull.new_zeros(len(pull), 1), (pull / (2 * costs)).amax(1, keepdim=True)
    for _ in range(_HALVINGS):
        level = (low + high) / 2
        more = (pull / level.clamp_min(1e-300) - 2 * costs).clamp(0, 1).sum(1, keepdim=True) > count
        low, high = torch.where(more, level, low), torch.where(more, high, level)
    z = (pull / high.clamp_min(1e-300) - 2 * costs).clamp(0, 1)
    return (points * z / (z + 2 * costs)).view(point.shape)
