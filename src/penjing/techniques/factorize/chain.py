"""A layer that has been split: its stages, and how far they are from it."""

from dataclasses import dataclass

import torch
from torch import Tensor

from penjing.techniques.factorize.kernels import composed
from penjing.techniques.factorize.sites import Seen, Site
from penjing.techniques.sparsify.solve import damped, relative_error
from penjing.types import Budget


@dataclass(frozen=True)
class Chain:
    """A layer, the stages that take its place, and what it read of the data; None where it saw nothing."""

    site: Site
    rank: int
    stages: tuple[Tensor, ...]
    seen: Seen | None

    @classmethod
    def of(cls, site: Site, rank: int, seen: Seen | None) -> "Chain":
        """Split a layer."""
        return cls(site, rank, site.form.factor(site.weight, metric(site, seen), rank), seen)

    @property
    def gap(self) -> Tensor:
        """What the stages leave out of the weight: [outputs, inputs * sizes]."""
        return (self.site.weight.double() - composed(self.stages)).flatten(1)

    @property
    def shift(self) -> Tensor | None:
        """What a bias takes, [outputs]: what the gap gives for the mean input."""
        return None if self.seen is None else self.gap @ self.seen.mean.double()

    def told(self) -> str:
        """One line: the rank, the size, and how far off the layer is."""
        site, weight = self.site, self.site.weight.double().flatten(1)
        hessian = metric(site, None) if self.seen is None else self.seen.hessian.double()
        off = relative_error(weight, weight - self.gap, hessian)
        what = "weight is" if self.seen is None else "outputs are"
        before, after = site.cost(Budget.PARAMS), site.cost(Budget.PARAMS, self.rank)
        size = f"{after:,} of {before:,} weights"
        return f"{site.name}: rank {self.rank} of {site.largest}, {size}; its {what} off by {off:.2%}"


def metric(site: Site, seen: Seen | None) -> Tensor:
    """H, damped; the identity where a layer has seen nothing."""
    if seen is None:
        return torch.eye(site.weight[0].numel(), dtype=torch.float64, device=site.weight.device)
    return damped(seen.hessian.double()).matrix
