"""What unlabelled calibration data show of the units of groups, where they are read."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from penjing.structure import Captured, Group
from penjing.structure.layers import Layer
from penjing.techniques.prune.ends import End
from penjing.techniques.prune.watch import Watch, by_unit
from penjing.workload import Batch

WIDEST = 4096  # indices of a dimension of which a whole covariance is kept
_ROWS = 4_096


@dataclass(frozen=True)
class Activity:
    """What is read of each unit of a group at its ends, over all samples and positions; both are [ends, size].

    mean: of the absolute value. active: share of values that are not zero.
    """

    mean: Tensor
    active: Tensor


def activities(
    captured: Captured, groups: Sequence[Group], ends: Sequence[End], batches: Iterable[Batch]
) -> dict[str, Activity]:
    """Run the graph on calibration data and average what is read of each unit, end by end."""
    sizes = {group.name: group.size for group in groups}
    totals = [torch.zeros(3, sizes[end.group], dtype=torch.float64) for end in ends]  # |value|, not zero, count
    with torch.no_grad():
        for batch in batches:
            reader = Watch(captured, ends)
            reader(*batch.args, **batch.kwargs)
            for i, value in reader.read.items():
                rows = value.detach().movedim(ends[i].dim, 0).flatten(1)
                columns = [rows.abs().double().sum(1), (rows != 0).sum(1), torch.full(rows.shape[:1], rows.shape[1])]
                for total, column in zip(totals[i], columns, strict=True):
                    total += by_unit(column.double().cpu(), ends[i], len(total))
    found: dict[str, list[Tensor]] = {name: [] for name in sizes}
    for end, total in zip(ends, totals, strict=True):
        found[end.group].append(total[:2] / total[2].clamp_min(1))
    return {name: Activity(*torch.stack(each, 1).unbind()) for name, each in found.items()}


@dataclass(frozen=True)
class Reading:
    """What one operator reads of a group along a dimension of n indices, and what it makes of that.

    units: [n], the unit of each index, -1 where it belongs to none. covariance: of the values read, over samples and
    positions, float32 [n, n]. response: W W^T for y = W^T x, [n, n]; the identity where the reader is no layer. Of a
    dimension of more than WIDEST indices both are diagonals, [n].
    """

    units: Tensor
    covariance: Tensor
    response: Tensor


def readings(
    captured: Captured, groups: Sequence[Group], ends: Sequence[End], batches: Sequence[Batch]
) -> dict[str, tuple[Reading, ...]]:
    """Run the graph on calibration data and find the covariance of what each reader sees of a group."""
    moments: dict[int, list[Tensor]] = {}
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for batch in batches:
            watch = Watch(captured, ends)
            watch(*batch.args, **batch.kwargs)
            for i, value in watch.read.items():
                rows = value.movedim(ends[i].dim, -1).flatten(0, -2)
                count = -(-max(_ROWS, 4 * rows.shape[1]) // len(batches))
                rows = rows[torch.randperm(len(rows), generator=generator)[:count].to(rows.device)].float()
                square = rows.T @ rows if rows.shape[1] <= WIDEST else rows.square().sum(0)
                new = [rows.new_tensor(len(rows)), rows.sum(0), square]
                moments[i] = [old + more for old, more in zip(moments[i], new, strict=True)] if i in moments else new
    found: dict[str, list[Reading]] = {group.name: [] for group in groups}
    layers = {node.name: Layer.of(node, captured.tensors) for node in captured.module.graph.nodes}
    for i, (size, total, square) in moments.items():
        mean = total / size
        covariance = square / size - (torch.outer(mean, mean) if square.ndim == 2 else mean.square())
        response = _response(layers[ends[i].reader], ends[i], captured.tensors, covariance)
        found[ends[i].group].append(Reading(torch.from_numpy(ends[i].units), covariance.cpu(), response.cpu()))
    return {name: tuple(each) for name, each in found.items()}


def _response(layer: Layer | None, end: End, tensors: Mapping[str, Tensor], covariance: Tensor) -> Tensor:
    """W W^T of a layer that reads the end with every output at once; the identity for any other reader."""
    if layer is not None and layer.x.name == end.source:
        weight = tensors[str(layer.weight.target)].detach().movedim(layer.contracted, 0).flatten(1).float()
        if len(weight) == len(covariance):
            return weight @ weight.T if covariance.ndim == 2 else weight.square().sum(1)
    return torch.eye(len(covariance)) if covariance.ndim == 2 else torch.ones(len(covariance))
