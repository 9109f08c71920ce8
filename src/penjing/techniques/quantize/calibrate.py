"""Look at activations: run calibration batches through the float graph and keep a histogram of each stored tensor."""

import copy
from collections.abc import Iterable, Mapping, Sequence
from math import isfinite
from typing import Any

import torch
from torch import Tensor, fx, nn

from penjing.errors import WorkloadError
from penjing.techniques.quantize.observers import BINS, Histogram

Inputs = Sequence[Any]
"""Flat inputs of the graph, one calibration batch."""


class _Range(nn.Module):
    """Smallest and largest value seen, widened to hold zero."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name, self.low, self.high = name, 0.0, 0.0

    def forward(self, x: Tensor) -> None:
        low, high = torch.aminmax(x)
        if not (torch.isfinite(low) and torch.isfinite(high)):
            raise WorkloadError(
                f"Quantize: a calibration batch gives NaN or infinity at {self.name!r}; mend the data or the model"
            )
        self.low, self.high = min(self.low, float(low)), max(self.high, float(high))


class _Counts(nn.Module):
    """Histogram of what is seen, over a range that is known."""

    def __init__(self, seen: _Range) -> None:
        super().__init__()
        self.low, self.high = seen.low, seen.high
        self.counts = torch.zeros(BINS, dtype=torch.float64)

    def forward(self, x: Tensor) -> None:
        if self.high > self.low:
            self.counts += torch.histc(x.float().cpu(), BINS, self.low, self.high).double()


def observe(module: fx.GraphModule, names: Iterable[str], batches: Sequence[Inputs]) -> dict[str, Histogram]:
    """Histogram of the output of each named node over all batches; two passes, the first for the ranges.

    Raises WorkloadError where a value is not finite.
    """
    ranges = {name: _Range(name) for name in names}
    _run(_tapped(module, ranges), batches)
    counts = {name: _Counts(seen) for name, seen in ranges.items()}
    _run(_tapped(module, counts), batches)
    return {name: Histogram(tap.counts, tap.low, tap.high) for name, tap in counts.items()}


def _tapped(module: fx.GraphModule, taps: Mapping[str, nn.Module]) -> fx.GraphModule:
    """Give the same graph, in which each tap is shown the output of its node."""
    tapped = fx.GraphModule(module, copy.deepcopy(module.graph))
    for node in list(tapped.graph.nodes):
        if node.name in taps:
            tapped.add_submodule(f"tap_{node.name}", taps[node.name])
            with tapped.graph.inserting_after(node):
                tapped.graph.call_module(f"tap_{node.name}", (node,))
    tapped.recompile()
    return tapped


@torch.no_grad()
def _run(module: fx.GraphModule, batches: Sequence[Inputs]) -> None:
    for inputs in batches:
        module(*inputs)


@torch.no_grad()
def signal_to_noise_db(reference: fx.GraphModule, candidate: fx.GraphModule, batches: Sequence[Inputs]) -> float:
    r"""SQNR of the outputs in decibel, 10 log10(sum y^2 / sum (y - y')^2), over all float outputs and batches.

    Infinite where nothing differs.
    """
    signal = noise = 0.0
    for inputs in batches:
        for y, z in zip(_floats(reference(*inputs)), _floats(candidate(*inputs)), strict=True):
            signal += float(y.double().square().sum())
            noise += float((y.double() - z.double()).square().sum())
    if not isfinite(signal):
        raise WorkloadError("Quantize: a held-out calibration batch gives NaN or infinity; mend the data or the model")
    return sqnr_db(signal, noise)


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
