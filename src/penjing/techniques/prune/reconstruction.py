r"""Which units can the others stand in for? A score that removes them one by one, with a refit after each.

A reader makes y = W^T x of what it reads. When the indices R of a unit go and the weights of all that stay are refitted
by least squares, what is lost of y is

    loss = tr((M_RR)^-1 W_R W_R^T),    M = (Cov(x) + lambda I)^-1,

and what stays has M' = M - M_:R (M_RR)^-1 M_R: and W' = W - M_:R (M_RR)^-1 W_R: the step of the Optimal Brain Surgeon
(Hassibi and Stork 1993, "Second order derivatives for network pruning: Optimal Brain Surgeon") for a layer's own output
and for whole units (Kurtic, Frantar and Alistarh 2023, "ZipLM: Inference-Aware Structured Pruning of Language Models",
arXiv:2302.04089, section 3.1). Each time the unit goes whose loss, summed over its readers and relative to what each of
them gives, is least; its score is all that was lost up to then. Groups so compete by the error that their readers are
left with, after the refit that compensate=True makes.

The windows of a convolution count as samples: what its weights at several places of the kernel have in common is seen,
what neighbouring places of the input have in common is not.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from penjing.structure import Group
from penjing.techniques.prune.activity import Reading
from penjing.techniques.prune.evidence import Evidence

RIDGE = 1e-3  # of the mean variance
_AT_ONCE = 16  # a step over all indices is made for a share of 1/16 of the units that are left
_CANDIDATES = 4  # units looked at one by one in each step, for each that goes; 64 at least
_FEW = 64


@dataclass(frozen=True)
class Part:
    """A reader on the way: M and W W^T [n, n] of the refitted weights, the unit of each index, and 1 / tr(y y^T).

    owners: [units, block], the indices of each unit.
    """

    inverse: Tensor
    response: Tensor
    owners: Tensor
    scale: float

    def losses(self, units: Tensor) -> Tensor:
        """What each of the units would cost, alone."""
        at = self.owners[units]
        inverse, response = (m[at[:, :, None], at[:, None, :]] for m in (self.inverse, self.response))
        losses: Tensor = self.scale * torch.linalg.solve(inverse, response).diagonal(dim1=1, dim2=2).sum(1)
        return losses

    def without(self, units: Tensor) -> "Part":
        """The reader with units gone and the others refitted."""
        gone = self.owners[units].flatten()
        shift = torch.linalg.solve(self.inverse[gone][:, gone], self.inverse[gone]).T  # M_:R (M_RR)^-1
        crossed = shift @ self.response[gone]
        within = shift @ self.response[gone][:, gone] @ shift.T
        return Part(
            self.inverse - shift @ self.inverse[gone],
            self.response - crossed - crossed.T + within,
            self.owners,
            self.scale,
        )

    def of(self, units: Tensor) -> "Part":
        """The reader seen through some units alone, numbered anew."""
        at = self.owners[units]
        flat = at.flatten()
        owners = torch.arange(len(flat)).reshape(at.shape)
        return Part(self.inverse[flat][:, flat], self.response[flat][:, flat], owners, self.scale)


def reconstruction(group: Group, evidence: Evidence) -> Tensor:
    """What the readers of a group have lost of their output when a unit goes, units removed one by one; float64 [size].

    Needs calibration data. Comparable between groups as it is.
    """
    parts, fixed = [], torch.zeros(group.size, dtype=torch.float64)
    for reading in evidence.readings[group.name]:
        if reading.covariance.ndim == 1:
            fixed += _alone(reading, group.size)
        else:
            parts.append(_part(reading, group.size))
    return backward(parts, fixed)


def backward(parts: Sequence[Part], fixed: Tensor) -> Tensor:
    """Remove units one by one, the least loss first; give what was lost when each went, float64 [size].

    fixed: [size], losses that do not depend on what else has gone.

    Two equal inputs and one of its own: either of the two can stand in for the other.

    >>> x = torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    >>> reading = Reading(torch.arange(3), x, torch.eye(3))
    >>> backward([_part(reading, 3)], torch.zeros(3).double()).sort().values.round(decimals=2)
    tensor([0.0000, 0.3300, 1.0000], dtype=torch.float64)
    """
    scores = torch.zeros_like(fixed)
    left = torch.arange(len(fixed))
    lost = 0.0
    while len(left):
        losses = fixed[left] + sum(part.losses(left) for part in parts)
        count = max(1, len(left) // _AT_ONCE)
        near = left[losses.argsort(stable=True)[: max(_FEW, _CANDIDATES * count)]]
        gone, lost = _one_by_one([part.of(near) for part in parts], fixed[near], count, lost, scores, near)
        parts = [part.without(gone) for part in parts]
        left = left[~torch.isin(left, gone)]
    return scores


def _one_by_one(
    parts: Sequence[Part], fixed: Tensor, count: int, lost: float, scores: Tensor, names: Tensor
) -> tuple[Tensor, float]:
    """Remove `count` of a few units one after the other; what one leaves behind is known to the next."""
    left = torch.arange(len(names))
    for _ in range(count):
        losses = fixed[left] + sum(part.losses(left) for part in parts)
        least = left[losses.argmin()]
        lost += max(float(losses.min()), 0.0)
        scores[names[least]] = lost
        left = left[left != least]
        if len(left):
            parts = [part.without(least[None]) for part in parts]
    gone = torch.ones(len(names), dtype=torch.bool)
    gone[left] = False
    return names[gone], lost


def _part(reading: Reading, size: int) -> Part:
    covariance, response = reading.covariance.double(), reading.response.double()
    whole = float((covariance * response).sum())
    damping = RIDGE * float(covariance.diagonal().mean()) or 1.0
    inverse = torch.linalg.inv(covariance + damping * torch.eye(len(covariance), dtype=torch.float64))
    owned = reading.units.argsort(stable=True)[(reading.units < 0).sum() :]
    return Part(inverse, response, owned.reshape(size, -1), 1 / whole if whole > 0 else 0.0)


def _alone(reading: Reading, size: int) -> Tensor:
    """Losses by variance alone, where a dimension is too wide for a covariance."""
    losses = reading.covariance.double() * reading.response.double()
    owned = reading.units >= 0
    found = torch.zeros(size, dtype=torch.float64).index_add_(0, reading.units[owned], losses[owned])
    return found / losses.sum().clamp_min(1e-300)
