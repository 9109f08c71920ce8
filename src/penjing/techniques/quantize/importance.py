r"""How much the model's outputs depend on each place of a layer's output, so that errors count where they are seen.

With random signs s and the outputs y of the model, the place r of the layer output z has the weight

    w_r = |d (s^T y) / d z_r|^2,   E w_r = |d y / d z_r|_F^2,

that is, the sum of squares by which a small error there moves the outputs. Padding, masked tokens and what a norm
scales down get the weight that they deserve. The trace estimator is Hutchinson's (1990); weighting reconstruction by
squared gradients is BRECQ's (Li et al. 2021, arXiv:2102.05426).
"""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
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
    means = {name: torch.cat(weights).double().mean() for name, weights in found.items() if weights}
    return {name: [_scaled(weight, means[name]) for weight in weights] for name, weights in found.items()}


@dataclass(frozen=True)
class Places:
    """Some places of a layer's output for one piece of data: their numbers [rows], and what each counts [rows]."""

    numbers: Tensor
    weights: Tensor


def draw_places(
    module: fx.GraphModule, rows: Mapping[str, int], pieces: Sequence[Inputs], seed: int = 0
) -> dict[str, list[Places]]:
    """Draw places of each layer's output, so many from each piece, and say what each counts.

    Those whose outputs y_r are large count less, w_r / (1 + |y_r|^2 / median |y|^2): what follows is mostly normalised,
    so that errors count as shares of what they disturb.
    """
    tables = {name: torch.full((3, len(pieces), count), -1.0, dtype=torch.float64) for name, count in rows.items()}
    totals = {name: torch.zeros(2, dtype=torch.float64) for name in rows}
    filled = Counter[str]()
    nodes = {node.name: node for node in module.graph.nodes}
    for name, value, squares in _squared_gradients(module, rows, pieces, seed):
        channel = output_channel(nodes[name], squares.ndim)
        weights = squares.sum(channel).flatten()
        numbers = _some(len(weights), rows[name], seed + filled[name])
        outputs = value.movedim(channel, -1)
        sizes = outputs[torch.unravel_index(numbers, outputs.shape[:-1])].float().square().sum(-1)
        for column, drawn in zip(tables[name], (numbers, weights[numbers], sizes), strict=True):
            column[filled[name], : len(numbers)] = drawn
        totals[name] += torch.tensor([weights.double().sum(), len(weights)])
        filled[name] += 1
    return {name: _evened(table, totals[name]) for name, table in tables.items()}


def _evened(table: Tensor, total: Tensor) -> list[Places]:
    numbers, weights, sizes = table
    counts = _scaled(weights, total[0] / total[1]) / (1 + sizes / sizes[numbers >= 0].median().clamp_min(1e-30))
    return [
        Places(number[number >= 0].long(), count[number >= 0].float())
        for number, count in zip(numbers, counts, strict=True)
    ]


def _some(count: int, most: int, seed: int) -> Tensor:
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed))[:most].sort().values


def weigh(
    module: fx.GraphModule, histograms: Mapping[str, Histogram], batches: Sequence[Inputs], seed: int = 0
) -> dict[str, Histogram]:
    """Give the histograms of outputs of nodes with the weights of their bins."""
    totals = {name: torch.zeros(len(each.counts), dtype=torch.float64) for name, each in histograms.items()}
    for name, value, squares in _squared_gradients(module, histograms, batches, seed):
        histogram, bins = histograms[name], len(totals[name])
        width = max((histogram.high - histogram.low) / bins, 1e-300)
        place = ((value.float() - histogram.low) / width).long().clamp_(0, bins - 1)
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
        for name, value, gradient in _gradients(module, names, inputs, signs):
            yield name, value, torch.ones_like(value) if gradient is None else gradient.float().square()


def _gradients(
    module: fx.GraphModule, names: Collection[str], inputs: Inputs, signs: torch.Generator
) -> list[tuple[str, Tensor, Tensor | None]]:
    """Each named node's value, and the gradient of the outputs with respect to it; what else it takes goes at once."""
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
    return [(name, leaf.detach(), each) for (name, leaf), each in zip(tape.seen.items(), gradients, strict=True)]


def _random_signs(like: Tensor, generator: torch.Generator) -> Tensor:
    return (torch.randint(0, 2, like.shape, generator=generator) * 2 - 1).to(like.device)


def _scaled(weights: Tensor, mean: Tensor) -> Tensor:
    scaled = (weights.double() / mean.clamp_min(1e-300)).float()
    return torch.nan_to_num(scaled, posinf=1.0).clamp_min(FLOOR)


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
