r"""Round weights so that a layer gives what it gave, and not so that each weight stays near.

With x the float input of a layer, x' the input that it gets in the quantised graph, both about their means, and W' its
stored weight, the error is E |W x - W' x'|^2. Two steps make it small:

- the best float weight for the inputs that come, W* = (W E[x x'^T] + r W) (E[x' x'^T] + r I)^{-1}, takes back what the
  layers before have lost, as far as it does so in many directions (r is the mean energy of an input);
- rounding column by column, each error e_j = (w_j - q_j) / U_jj spread over the columns that are still to come,
  w_k <- w_k - e_j U_jk, with U the upper Cholesky factor of the inverse of E[x' x'^T] + d I, d 1 % of that energy.

The second is GPTQ: Frantar, Ashkboos, Hoefler, Alistarh 2023 (arXiv:2210.17323), after Hassibi and Stork 1993 (Optimal
Brain Surgeon). The first is the asymmetric calibration of Li et al. 2025, GPTAQ (arXiv:2504.02692), in closed form. The
means go into the bias, which bias correction sets (Nagel et al. 2019, arXiv:1906.04721).
"""

from itertools import chain

import torch
from torch import Tensor

from penjing.techniques.quantize.moments import Means, Moments

DAMP, RIDGES = 0.01, (0.1, 1.0, 10.0)


def best_rounding(
    weight: Tensor,
    scale: Tensor,
    zero: Tensor,
    limits: tuple[int, int],
    nearest: Tensor,
    fitted: Moments,
    judged: Moments,
) -> Tensor:
    """Integers [outputs, n] for a weight [outputs, n] on the grid (q - zero) * scale: by GPTQ, or else the nearest.

    Fitted to some samples and judged on others: how much r damps, and whether the result is better than `nearest`.
    """
    judged = judged.about(fitted.means)
    target = weight.float().reshape(len(fitted.energy), -1, weight.shape[1])
    starts = chain([target], (_regained(target, fitted, ridge) for ridge in RIDGES))
    start = min(starts, key=lambda real: judged.error(weight, real.reshape(weight.shape)))
    rounded = gptq(start, scale, zero, limits, fitted.energy, closed=target == 0).reshape(weight.shape)
    errors = [judged.error(weight, (steps.double() - zero) * scale) for steps in (nearest, rounded)]
    return rounded if errors[1] < errors[0] else nearest


def _regained(weight: Tensor, seen: Moments, ridge: float) -> Tensor:
    """The float weight [groups, outputs, n] that gives from x' what the given one gives from x.

    W (E[x x'^T] + r I) (E[x' x'^T] + r I)^{-1} = W + W E[(x - x') x'^T] (E[x' x'^T] + r I)^{-1}.
    """
    factor = torch.linalg.cholesky(_raised(seen.energy, ridge))
    return weight + torch.cholesky_solve((weight @ seen.lost).mT, factor).mT


def gptq(
    weight: Tensor, scale: Tensor, zero: Tensor, limits: tuple[int, int], energy: Tensor, *, closed: Tensor
) -> Tensor:
    """Integers for a weight [groups, outputs, n] on the grid (q - zero) * scale; energy: [groups, n, n], in any unit.

    closed: bool of the weight's shape, the weights that stay zero, for which the others pay as for any rounding.

    >>> eye = torch.eye(4)[None]
    >>> gptq(eye, torch.full((4, 4), 0.5), torch.zeros(4, 4), (-127, 127), eye, closed=eye == 0)[0, 0]
    tensor([2., 0., 0., 0.])
    """
    order = energy.diagonal(dim1=1, dim2=2).argsort(1, descending=True)
    columns = order[:, None].expand_as(weight)
    ordered = energy.gather(1, order[:, :, None].expand_as(energy)).gather(2, order[:, None].expand_as(energy))
    factor = torch.linalg.cholesky(_raised(ordered.double(), DAMP))
    factor = torch.linalg.cholesky(torch.cholesky_inverse(factor), upper=True).to(weight.dtype)
    sizes, zeros = (each.to(weight.dtype).reshape(weight.shape).gather(2, columns) for each in (scale, zero))
    rounded = _sweep(weight.gather(2, columns), sizes, zeros, limits, factor, closed.gather(2, columns))
    return torch.empty_like(rounded).scatter_(2, columns, rounded)


def mean_shift(weight: Tensor, real: Tensor, means: Means) -> Tensor:
    """What the outputs [outputs] of a layer are off on average: W E[x] - W' E[x']."""
    wanted, got = (
        (matrix.double().reshape(len(mean), -1, matrix.shape[1]) @ mean.double()[:, :, None]).flatten()
        for matrix, mean in zip((weight, real), means, strict=True)
    )
    return wanted - got


def _raised(matrices: Tensor, share: float) -> Tensor:
    """Add to the diagonal of each matrix [groups, n, n] so much of its mean."""
    found = matrices.clone()
    diagonal = found.diagonal(dim1=1, dim2=2)
    diagonal += share * diagonal.mean(1, keepdim=True).clamp_min(1e-12)
    return found


def _sweep(
    weight: Tensor, scale: Tensor, zero: Tensor, limits: tuple[int, int], factor: Tensor, closed: Tensor
) -> Tensor:
    """Round the columns of [groups, outputs, n] in turn, each paying for those before it, in blocks of 64."""
    weight, steps = weight.clone(), torch.empty_like(weight)
    width = weight.shape[2]
    for start in range(0, width, 64):
        end = min(start + 64, width)
        errors = weight.new_empty(*weight.shape[:2], end - start)
        for j in range(start, end):
            nearest = torch.round(weight[..., j] / scale[..., j]).masked_fill_(closed[..., j], 0)
            steps[..., j] = (nearest + zero[..., j]).clamp_(*limits)
            real = (steps[..., j] - zero[..., j]) * scale[..., j]
            error = (weight[..., j] - real) / factor[:, j, j, None]
            errors[..., j - start] = error
            weight[..., j:end] -= error[..., None] * factor[:, None, j, j:end]
        weight[..., end:] -= errors @ factor[:, start:end, end:]
    return steps
