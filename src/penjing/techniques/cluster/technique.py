"""The Cluster step: weigh, find palettes, put the weights on them."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from penjing.errors import RecipeError
from penjing.recipe import Cluster
from penjing.techniques.by_name import by_first_match
from penjing.techniques.cluster.lloyd import lloyd
from penjing.techniques.cluster.palette import Palette
from penjing.techniques.cluster.points import Points, Vector, nearest
from penjing.techniques.cluster.starts import MOST_EXACT, STARTS
from penjing.techniques.sparsify.evidence import derivatives, input_norms
from penjing.techniques.sparsify.parameters import parametrized_names, weight_names
from penjing.techniques.sparsify.torch_masks import take_torch_masks
from penjing.techniques.state import Context, State
from penjing.types import Granularity, Importance, Pooling, Start

LEAST = 1e-3
"""Least importance of a weight, as a share of the mean: what no batch has touched is not without a say."""


def run(state: State, step: Cluster, context: Context) -> State:
    """Put the weights on palettes, which later steps keep as far as they can.

    Raises RecipeError for a pattern that names nothing, weights that are not finite, and an importance whose data the
    workload does not bring.
    """
    state = replace(state, masks={**state.masks, **take_torch_masks(state.model)})
    chosen = _bits(state.model, step)
    importance = _importance(state.model, tuple(chosen), step, context)
    generator = np.random.default_rng(context.seed)
    palettes = {}
    for name, bits in chosen.items():
        weight = state.model.get_parameter(name).detach()
        if not weight.isfinite().all():
            raise RecipeError(
                f"Cluster: {name} has values that are not finite; mend the model, or leave the tensor out"
            )
        count = _count(weight, step)
        if count is None:
            what = f"{name}: rows of {weight[0].numel()} weights are no groups of {step.group_size}; a palette for each"
            state, count = state.log(step.key, what, fell_back=True), len(weight)
        keeps_zeros = bool((weight == 0).any()) and (step.preserve_sparsity or name in state.masks)
        palettes[name] = palette_of(
            weight, 2**bits, count, Start(step.start), importance.get(name), keeps_zeros, generator
        )
        palettes[name] = replace(palettes[name], gradient=Pooling(step.gradient))
        state = state.log(step.key, _describe(name, weight, palettes[name]))
        if step.start is Start.EXACT and weight.unique().numel() > MOST_EXACT:
            what = f"{name} has more than {MOST_EXACT} values: neighbours were merged before the optimum was sought"
            state = state.log(step.key, what, fell_back=True)
        with torch.no_grad():
            state.model.get_parameter(name).copy_(palettes[name].values())
    if not isinstance(step.bits, Mapping):
        for name in parametrized_names(state.model):
            state = state.log(step.key, f"{name} is parametrised and was left alone", fell_back=True)
    state = replace(state, palettes={**state.palettes, **palettes})
    what = "palettes make no runtime here faster; they make the file smaller once it is saved compact"
    return state.log(step.key, what)


def needs(step: Cluster) -> frozenset[str]:
    """What a workload must bring for the importance of weights.

    >>> needs(Cluster()), needs(Cluster(importance="fisher"))
    (frozenset(), frozenset({'train'}))
    """
    data = {Importance.NONE: (), Importance.FISHER: ("train",), Importance.INPUTS: ("calibration",)}
    return frozenset(data[Importance(step.importance)])


def k_means(points: Points, k: int, start: Start, generator: np.random.Generator) -> Vector:
    """Centroids of weighted points, rising: `k`, or one for each point where there are fewer.

    >>> k_means(Points.of(np.array([0.0, 1.0, 8.0])), 4, Start.LINEAR, np.random.default_rng(0))
    array([0., 1., 8.])
    """
    if len(points.values) <= k:
        return points.values
    return lloyd(points, STARTS[start](points, k, generator))


def palette_of(
    weight: Tensor,
    k: int,
    count: int,
    start: Start,
    importance: Tensor | None,
    keeps_zeros: bool,
    generator: np.random.Generator,
) -> Palette:
    """Give a tensor `count` palettes of `k` centroids, each for as many weights as the next in row-major order.

    >>> weight = torch.tensor([[0.0, 1.0, 3.0], [0.0, -1.0, -1.0]])
    >>> palette_of(weight, 2, 2, Start.EXACT, None, True, np.random.default_rng(0)).values()
    tensor([[ 0.,  2.,  2.],
            [ 0., -1., -1.]])
    """
    rows = _rows(weight, count)
    weighing = np.ones_like(rows) if importance is None else _rows(importance, count)
    weighing = np.maximum(weighing, LEAST * weighing.mean()) if weighing.any() else np.ones_like(rows)
    found = [_one(row, each, k, start, keeps_zeros, generator) for row, each in zip(rows, weighing, strict=True)]
    assignment, centroids = (torch.from_numpy(np.stack(parts)) for parts in zip(*found, strict=True))
    return Palette(
        assignment.reshape(weight.shape).to(weight.device), centroids.to(weight.device, weight.dtype), keeps_zeros
    )


def _one(
    values: Vector, weighing: Vector, k: int, start: Start, keeps_zeros: bool, generator: np.random.Generator
) -> tuple[NDArray[np.uint8], Vector]:
    """The indices [n] and centroids [k] of one palette; centroids that are not needed repeat the last."""
    live = values != 0 if keeps_zeros else np.ones(len(values), dtype=bool)
    found = k_means(Points.of(values[live], weighing[live]), k - keeps_zeros, start, generator)
    assignment = np.zeros(len(values), dtype=np.uint8)
    assignment[live] = nearest(values[live], found) + keeps_zeros
    centroids = np.concatenate([np.zeros(int(keeps_zeros)), found])
    return assignment, np.pad(centroids, (0, k - len(centroids)), mode="edge")


def _rows(tensor: Tensor, count: int) -> Vector:
    rows: Vector = tensor.double().cpu().reshape(count, -1).numpy()
    return rows


def _bits(model: nn.Module, step: Cluster) -> dict[str, int]:
    """The tensors that the step is for, and the bits of each."""
    if isinstance(step.bits, Mapping):
        names = [name for name, parameter in model.named_parameters() if parameter.ndim > 1]
        shares = by_first_match(step.bits, names, "Cluster: bits")
    else:
        shares = [(step.bits, list(weight_names(model)))]
    found = {name: bits for bits, chosen in shares for name in chosen}
    if not found:
        raise RecipeError(
            "Cluster: the model has no convolution or linear weight; name tensors with bits={'pattern': 4}"
        )
    return found


def _count(weight: Tensor, step: Cluster) -> int | None:
    """How many palettes a tensor gets; None where its rows are no groups."""
    if step.granularity is Granularity.TENSOR:
        return 1
    if step.granularity is Granularity.AXIS:
        return len(weight)
    return None if weight[0].numel() % step.group_size else weight.numel() // step.group_size


def _importance(model: nn.Module, names: Sequence[str], step: Cluster, context: Context) -> Mapping[str, Tensor]:
    if step.importance is Importance.NONE:
        return {}
    assert context.workload is not None
    if step.importance is Importance.INPUTS:
        return {name: norm.square() for name, norm in input_norms(model, names, context.workload).items()}
    found = derivatives(model, names, context.workload, curvature=False)
    return {name: square for name, (_, square, _) in found.items()}


def _describe(name: str, weight: Tensor, palette: Palette) -> str:
    """What became of a tensor, with ||W - W'|| / ||W||."""
    size, norm = palette.centroids.shape, float(weight.double().norm())
    error = float((weight.double() - palette.values().double()).norm()) / norm if norm else 0.0
    palettes = f"{size[0]} palettes of {size[1]}" if size[0] > 1 else str(size[1])
    return f"{name}: {palettes} centroids, relative error {error:.3g}"
