"""A palette: the few values that the weights of a tensor take, and which weight takes which."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from penjing.types import Pooling


@dataclass(frozen=True)
class Palette:
    """Weights as indices into centroids: W = C[p, A].

    assignment: A, uint8, of the weight's shape. centroids: C [palettes, k], of the weight's dtype; in row-major order
    each palette serves as many weights as the next. zero: whether the first centroid of each is zero, and stays.
    gradient: what a centroid takes of the gradients of its weights when they train.

    >>> Palette(torch.tensor([[0, 1], [1, 1]], dtype=torch.uint8), torch.tensor([[0.5, 2.0]])).values()
    tensor([[0.5000, 2.0000],
            [2.0000, 2.0000]])
    """

    assignment: Tensor
    centroids: Tensor
    zero: bool = False
    gradient: Pooling = Pooling.MEAN

    def values(self) -> Tensor:
        """The weights."""
        return self._spread(self.centroids)

    def fitted(self, weight: Tensor) -> "Palette":
        """The palette nearest to a weight with the same assignment: each centroid is the mean of what takes it."""
        sums, counts = self._sums(weight)
        means = torch.where(counts > 0, sums / counts.clamp(min=1), self.centroids.double())
        if self.zero:
            means[:, 0] = 0
        return replace(self, centroids=means.to(weight.dtype))

    def pooled(self, gradient: Tensor) -> Tensor:
        """Give each weight what its centroid takes, so that all of a centroid move alike; none to a fixed zero.

        The sum is the derivative by the centroid. The mean is the gradient projected onto what the palette can reach,
        so that a learning rate made for weights fits.
        """
        sums, counts = self._sums(gradient)
        taken = sums / counts.clamp(min=1) if self.gradient is Pooling.MEAN else sums
        if self.zero:
            taken[:, 0] = 0
        return self._spread(taken.to(gradient.dtype))

    def holds(self, weight: Tensor) -> bool:
        """Whether a weight lies on the palette."""
        return weight.shape == self.assignment.shape and torch.equal(self.to(weight.device).values(), weight)

    def to(self, device: torch.device) -> "Palette":
        """The same palette on a device."""
        return replace(self, assignment=self.assignment.to(device), centroids=self.centroids.to(device))

    @property
    def _rows(self) -> Tensor:
        return self.assignment.reshape(len(self.centroids), -1).long()

    def _spread(self, each: Tensor) -> Tensor:
        return each.gather(1, self._rows).reshape(self.assignment.shape)

    def _sums(self, tensor: Tensor) -> tuple[Tensor, Tensor]:
        """Sums over the weights of each centroid, and their number, [palettes, k] in float64."""
        rows, empty = self._rows, torch.zeros_like(self.centroids, dtype=torch.float64)
        given = tensor.reshape(rows.shape).double()
        return empty.scatter_add(1, rows, given), empty.scatter_add(1, rows, torch.ones_like(given))
