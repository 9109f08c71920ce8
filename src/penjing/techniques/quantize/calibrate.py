"""Look at activations: run calibration batches through the float graph and keep a histogram of each stored tensor."""

from collections.abc import Iterable, Mapping, Sequence
from math import ceil, isfinite, log2
from typing import Any

import torch
from torch import Tensor, fx, nn

from penjing.errors import WorkloadError
from penjing.techniques.quantize.graph import copied
from penjing.techniques.quantize.observers import BINS, Histogram
from penjing.techniques.quantize.quick import folded, quick

Inputs = Sequence[Any]
"""Flat inputs of the graph, one calibration batch."""

_COUNTED = 2**18  # values of a batch that are counted; smallest and largest are those of all
_FINE = 8192  # bins on each side of zero: after a doubling there are still more of them than BINS


class _Tap(nn.Module):
    """Counts what it is shown over bins of a width that doubles whenever a value lies outside.

    The bins lie about zero, so that two neighbours are one of the next size, and what was counted stays exact. Hence
    one pass is enough.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self.counts = torch.zeros(2 * _FINE, dtype=torch.float64)
        self.reach = 0.0  # the bins lie in [-reach, reach]
        self.extremes: list[tuple[float, float]] = []

    def forward(self, x: Tensor) -> None:
        x = in_memory_order(x)
        lowest, highest = torch.aminmax(x)
        if not (torch.isfinite(lowest) and torch.isfinite(highest)):
            raise WorkloadError(
                f"Quantize: a calibration batch gives NaN or infinity at {self.name!r}; mend the data or the model"
            )
        self.extremes.append((min(float(lowest), 0.0), max(float(highest), 0.0)))
        largest = max(-self.extremes[-1][0], self.extremes[-1][1])
        if largest == 0.0:
            return
        if self.reach == 0.0:
            self.reach = 2.0 ** ceil(log2(largest))
        while self.reach < largest:
            self.counts = _merged(self.counts)
            self.reach *= 2
        some = x[:: x.numel() // _COUNTED | 1]  # an odd step, so that no row or channel is left out
        self.counts += torch.histc(some.float().cpu(), 2 * _FINE, -self.reach, self.reach).double()

    def histogram(self) -> Histogram:
        low, high = min(low for low, _ in self.extremes), max(high for _, high in self.extremes)
        if high == low:
            return Histogram(torch.zeros(BINS, dtype=torch.float64), low, high, tuple(self.extremes))
        edges = torch.linspace(-self.reach, self.reach, 2 * _FINE + 1, dtype=torch.float64).clamp(low, high)
        below = torch.cat([torch.zeros(1, dtype=torch.float64), self.counts.cumsum(0)])
        wanted = torch.linspace(low, high, BINS + 1, dtype=torch.float64)
        place = (torch.searchsorted(edges, wanted, right=True) - 1).clamp(0, 2 * _FINE - 1)
        width = edges[place + 1] - edges[place]
        share = torch.where(width > 0, (wanted - edges[place]) / width.clamp_min(1e-300), torch.ones_like(width))
        cumulated = below[place] + share * self.counts[place]
        return Histogram(cumulated.diff(), low, high, tuple(self.extremes))


def in_memory_order(x: Tensor) -> Tensor:
    """The values of a tensor, flat, as they lie in memory: no copy where they lie densely.

    >>> in_memory_order(torch.tensor([[0, 1], [2, 3]]).T)
    tensor([0, 1, 2, 3])
    """
    return x.permute(sorted(range(x.ndim), key=x.stride, reverse=True)).flatten()


def _merged(counts: Tensor) -> Tensor:
    """The same counts over bins of twice the width, about the same middle."""
    wider = torch.zeros_like(counts)
    quarter = len(counts) // 4
    wider[quarter : 3 * quarter] = counts.reshape(-1, 2).sum(1)
    return wider


def observe(module: fx.GraphModule, names: Iterable[str], batches: Iterable[Inputs]) -> dict[str, Histogram]:
    """Histogram of the output of each named node over all batches, in one pass.

    Raises WorkloadError where a value is not finite.
    """
    taps = {name: _Tap(name) for name in names}
    _run(_tapped(module, taps), batches)
    return {name: tap.histogram() for name, tap in taps.items()}


def _tapped(module: fx.GraphModule, taps: Mapping[str, nn.Module]) -> fx.GraphModule:
    """Give the same graph, in which each tap is shown the output of its node."""
    tapped = copied(module)
    for node in list(tapped.graph.nodes):
        if node.name in taps:
            tapped.add_submodule(f"tap_{node.name}", taps[node.name])
            with tapped.graph.inserting_after(node):
                tapped.graph.call_module(f"tap_{node.name}", (node,))
    tapped.recompile()
    return tapped


@torch.no_grad()
def _run(module: fx.GraphModule, batches: Iterable[Inputs]) -> None:
    for inputs in batches:
        module(*inputs)


class Reference:
    r"""Outputs of the float graph on inputs that nothing is fitted to, and how near another graph comes to them."""

    @torch.no_grad()
    def __init__(self, module: fx.GraphModule, batches: Sequence[Inputs]) -> None:
        self._batches = batches
        self._outputs = [_floats(module(*inputs)) for inputs in batches]
        self._signal = sum(float(y.double().square().sum()) for outputs in self._outputs for y in outputs)
        if not isfinite(self._signal):
            raise WorkloadError(
                "Quantize: a held-out calibration batch gives NaN or infinity; mend the data or the model"
            )

    @torch.no_grad()
    def decibel(self, candidate: fx.GraphModule) -> float:
        r"""SQNR of the outputs, 10 log10(sum y^2 / sum (y - y')^2), over all float outputs and batches.

        Infinite where nothing differs.
        """
        noise, candidate = 0.0, folded(quick(candidate))
        for inputs, outputs in zip(self._batches, self._outputs, strict=True):
            for y, z in zip(outputs, _floats(candidate(*inputs)), strict=True):
                noise += float((y.double() - z.double()).square().sum())
        return sqnr_db(self._signal, noise)


def sqnr_db(signal: float, noise: float) -> float:
    """Ratio of two energies in decibel.

    >>> sqnr_db(1000.0, 1.0)
    30.0
    """
    if noise == 0:
        return float("inf")
    return float(10 * torch.log10(torch.tensor(signal / noise, dtype=torch.float64))) if signal > 0 else float("-inf")


def _floats(outputs: Iterable[Any]) -> list[Tensor]:
    return [y for y in outputs if isinstance(y, Tensor) and y.is_floating_point()]
