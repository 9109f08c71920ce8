r"""How much the model's outputs depend on each place of a layer's output, so that errors count where they are seen.

With random signs s and the outputs y of the model, the place r of the layer output z has the weight

    w_r = |d (s^T y) / d z_r|^2,   E w_r = |d y / d z_r|_F^2,

that is, the sum of squares by which a small error there moves the outputs. Padding, masked tokens and what a norm
scales down get the weight that they deserve. The trace estimator is Hutchinson's (1990); weighting reconstruction by
squared gradients is BRECQ's (Li et al. 2021, arXiv:2102.05426).
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx

from penjing.techniques.quantize.calibrate import Inputs
from penjing.techniques.quantize.graph import output_channel
from penjing.techniques.quantize.observers import Histogram

FLOOR = 0.01
"""Of the mean weight: what every place counts at least."""


def place_weights(
    module: fx.GraphModule, layers: Collection[str], batches: Sequence[Inputs], seed: int = 0
) -> dict[str, list[Tensor]]:
    """Weights of the places of each layer's output, for each batch [places], with mean 1 over all of them.

    Places are ordered as the output is, without its channels. A layer that no gradient reaches gets ones.
    """
    found: dict[str, list[Tensor]] = {name: [] for name in layers}
    nodes = {node.name: node for node in module.graph.nodes}
    for name, _, squares in _squared_gradients(module, layers, batches, seed):
        found[name].append(squares.sum(output_channel(nodes[name], squares.ndim)).flatten())
    return {name: _scaled(weights) for name, weights in found.items()}


def weigh(
    module: fx.GraphModule, histograms: Mapping[str, Histogram], batches: Sequence[Inputs], seed: int = 0
) -> dict[str, Histogram]:
    """Give the histograms of outputs of nodes with the weights of their bins."""
    totals = {name: torch.zeros(len(each.counts), dtype=torch.float64) for name, each in histograms.items()}
    for name, value, squares in _squared_gradients(module, histograms, batches, seed):
        histogram, bins = histograms[name], len(totals[name])
        width = max((histogram.high - histogram.low) / bins, 1e-300)
        place = ((value.detach().float() - histogram.low) / width).long().clamp_(0, bins - 1)
        totals[name] += torch.bincount(place.flatten().cpu(), squares.flatten().double().cpu(), bins)
    return {
        name: replace(histogram, weights=totals[name] if totals[name].any() else None)
        for name, histogram in histograms.items()
    }


def _squared_gradients(
    module: fx.GraphModule, names: Collection[str], batches: Sequence[Inputs], seed: int
) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Each named node's value in each batch, with the square of the outputs' gradient; ones where none comes back."""
    signs = torch.Generator().manual_seed(seed)
    for inputs in batches if names else ():
        tape = _Tape(module, names)
        with torch.enable_grad():
            outputs = [y for y in tape.run(*inputs) if isinstance(y, Tensor) and y.requires_grad]
            target = sum((y.double() * _random_signs(y, signs)).sum() for y in outputs)
            leaves = list(tape.seen.values())
            gradients = (
                torch.autograd.grad(target, leaves, allow_unused=True)
                if isinstance(target, Tensor)
                else (None,) * len(leaves)
            )
        for (name, leaf), gradient in zip(tape.seen.items(), gradients, strict=True):
            yield name, leaf, torch.ones_like(leaf) if gradient is None else gradient.detach().float().square()


def _random_signs(like: Tensor, generator: torch.Generator) -> Tensor:
    return (torch.randint(0, 2, like.shape, generator=generator) * 2 - 1).to(like.device)


def _scaled(weights: list[Tensor]) -> list[Tensor]:
    if not weights:
        return weights
    mean = torch.cat(weights).double().mean().clamp_min(1e-300)
    scaled = [(weight.double() / mean).float() for weight in weights]
    return [torch.nan_to_num(weight, posinf=1.0).clamp_min(FLOOR) for weight in scaled]


class _Tape(fx.Interpreter):
    """A run of a graph that keeps the outputs of some nodes, with what they depend on."""

    def __init__(self, module: fx.GraphModule, names: Collection[str]) -> None:
        super().__init__(module)
        self._names = names
        self.seen: dict[str, Tensor] = {}

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if n.name in self._names:
            if not value.requires_grad:
                value = value.detach().requires_grad_()
            self.seen[n.name] = value
        return value
