"""Operators that take part of a dimension by constant positions: slices, splits, shifts."""

import math
import operator
from typing import Any

import numpy as np
import torch
from torch import fx

from penjing.structure.atoms import Label
from penjing.structure.rules.registry import RULES, rule
from penjing.structure.rules.shape import EXPECTS
from penjing.structure.rules.site import Count, Labels, Position, Ruling, Site

_SPLIT = torch.ops.aten.split_with_sizes.default


def getitem(site: Site) -> Ruling:
    """One output of an operator that has several."""
    source, index = site.node.args
    assert isinstance(source, fx.Node)
    assert isinstance(index, int)
    return Ruling((site.outputs_of(source)[index],))


RULES[f"{operator.getitem.__module__}.{operator.getitem.__name__}"] = getitem


@rule("slice", "narrow")
def slice_(site: Site) -> Ruling:
    """x[..., start:end:step, ...]."""
    x = site["self"]
    labels, shape, result = site.labels(x), site.shape(x), site.output_shape
    axis = site["dim"] % len(shape)
    label, size = labels[axis], shape[axis]
    if result == shape or label is None:
        return Ruling((labels,), _unbounded(site, label))
    start, end, step = _bounds(site, size)
    if step is None or start is None or end is None:
        site.freeze(label, "the slice depends on the input")
        return Ruling((_replace(labels, axis, None),))
    if step != 1:
        return _strided(site, labels, axis, size, start, end, step)
    if site.eager_safe:
        _slice_as_written(site, label, start, end)
    taken: Label = label[start:end]
    if end - start <= 1:
        site.freeze(taken, "a single index is taken")
        taken = None
    if site.operator.startswith("aten::narrow"):
        return Ruling(
            (_replace(labels, axis, taken),),
            {"start": Position(label, start), "length": Count(label[start:end], end - start)},
        )
    return Ruling((_replace(labels, axis, taken),), {"start": Position(label, start), "end": Position(label, end)})


def _unbounded(site: Site, label: Label) -> dict[str, Any]:
    """A slice of the whole dimension stays one, whatever the size."""
    end = site.arguments.get("end")
    if label is None or not isinstance(end, int) or site.operator.startswith("aten::narrow"):
        return {}
    return {"end": torch.iinfo(torch.int64).max}


def _bounds(site: Site, size: int) -> tuple[int | None, int | None, int | None]:
    if site.operator.startswith("aten::narrow"):
        given: tuple[Any, ...] = (site["start"], site["length"])
        if not all(isinstance(value, int) for value in given):
            return None, None, None
        start = given[0] % size
        return start, start + given[1], 1
    given = (site["start"], site["end"], site["step"])
    if not all(value is None or isinstance(value, int) for value in given):
        return None, None, None
    return slice(*given).indices(size)


def _strided(site: Site, labels: Labels, axis: int, size: int, start: int, end: int, step: int) -> Ruling:
    """Every step-th index: whole runs of `step` may go, so that the others keep their phase."""
    label = labels[axis]
    assert label is not None
    if size % step or start >= step or end <= size - step + start:
        site.freeze(label, f"every index at a distance of {step} is taken")
        return Ruling((_replace(labels, axis, None),))
    _, phase = site.atoms.split(label, [size // step, step])
    site.freeze(phase, f"every index at a distance of {step} is taken")
    constants = {"end": torch.iinfo(torch.int64).max}
    return Ruling((_replace(labels, axis, label[start:end:step]),), constants)


def _slice_as_written(site: Site, label: Label, start: int, end: int) -> None:
    """Halves and other equal parts lose the same indices, so that a boundary computed from the size stays right."""
    assert label is not None
    size = end - start
    if size and not start % size and not len(label) % size:
        _equal_pieces(site, label, [size] * (len(label) // size))
    else:
        site.freeze(label, EXPECTS.format("to slice it at fixed places"))


def _equal_pieces(site: Site, label: Label, sizes: list[int]) -> None:
    assert label is not None
    if len(set(sizes)) > 1 or sum(sizes) != len(label):
        site.freeze(label, EXPECTS.format("pieces of fixed sizes"))
        return
    for start in range(sizes[0], len(label), sizes[0]):
        site.equate(label[: sizes[0]], label[start : start + sizes[0]])


def _replace(labels: Labels, axis: int, label: Label) -> Labels:
    return (*labels[:axis], label, *labels[axis + 1 :])


@rule("select")
def select(site: Site) -> Ruling:
    """x[..., index, ...]: the index taken must stay."""
    x, index = site["self"], site["index"]
    labels, shape = site.labels(x), site.shape(x)
    axis = site["dim"] % len(shape)
    label = labels[axis]
    result = (*labels[:axis], *labels[axis + 1 :])
    if label is None:
        return Ruling((result,))
    if not isinstance(index, int):
        site.freeze(label, "the index depends on the input")
        return Ruling((result,))
    if site.eager_safe:
        site.freeze(label[: index + 1] if index >= 0 else label[index:], EXPECTS.format("it at a fixed place"))
    index %= shape[axis]
    site.freeze(label[index : index + 1], "a single index is taken")
    return Ruling((result,), {"index": Position(label, index)})


@rule(
    *("split", "split_with_sizes", "chunk", "tensor_split", "unsafe_chunk", "unsafe_split", "unsafe_split_with_sizes"),
    *("hsplit", "vsplit", "dsplit"),
)
def split(site: Site) -> Ruling:
    """Consecutive pieces of one dimension; after a cut they may have different sizes."""
    x = site["self"]
    labels, shapes = site.labels(x), site.output_shapes
    axis = _split_axis(site, len(labels))
    label = labels[axis]
    if label is None:
        return Ruling((labels,) * len(shapes))
    pieces = [shape[axis] for shape in shapes if shape is not None]
    if site.eager_safe:
        _equal_pieces(site, label, pieces)
    outputs: list[Labels] = []
    sizes: list[Count] = []
    start = 0
    for size in pieces:
        piece = label[start : start + size]
        sizes.append(Count(piece, size))
        if size <= 1:
            site.freeze(piece, "a piece has size one")
        outputs.append(_replace(labels, axis, piece if size > 1 else None))
        start += size
    return Ruling(tuple(outputs), {"self": x, "split_sizes": sizes, "dim": axis}, target=_SPLIT)


def _split_axis(site: Site, rank: int) -> int:
    if "dim" in site.arguments:
        return int(site["dim"]) % rank
    return {"aten::vsplit": 0, "aten::dsplit": 2}.get(site.operator, 0 if rank == 1 else 1)


@rule("unbind")
def unbind(site: Site) -> Ruling:
    """One output for each index: none of them may go."""
    labels = site.labels(site["self"])
    axis = site["dim"] % len(labels)
    site.freeze(labels[axis], "each index becomes an output of its own")
    return Ruling(((*labels[:axis], *labels[axis + 1 :]),) * len(site.output_shapes))


@rule("roll")
def roll(site: Site) -> Ruling:
    """Cyclic shift by `shifts`; after a cut, by as many of the last `shifts` indices as stay."""
    x, shifts, dims = site["self"], list(site["shifts"]), list(site["dims"])
    labels, shape = list(site.labels(x)), site.shape(x)
    if not dims or not all(isinstance(shift, int) for shift in shifts):
        return site.keep_whole("the whole tensor is rolled")
    written: list[Any] = []
    for axis, shift in zip(dims, shifts, strict=True):
        label = labels[axis]
        if label is not None and site.eager_safe:
            site.freeze(label, EXPECTS.format("to roll it by a fixed number"))
        split = shape[axis] - shift % shape[axis]
        written.append(shift if label is None else Count(label[split:], shape[axis] - split))
        labels[axis] = None if label is None else np.concatenate([label[split:], label[:split]])
    return Ruling((tuple(labels),), {"shifts": written})


@rule("slice_scatter")
def slice_scatter(site: Site) -> Ruling:
    """x with x[..., start:end, ...] replaced."""
    x, source = site["self"], site["src"]
    labels, axis = list(site.labels(x)), site["dim"] % len(site.shape(x))
    start, end, step = _bounds(site, site.shape(x)[axis])
    if start is None or end is None or step != 1:
        return site.keep_whole("it is written at a distance, or where the inputs say")
    for other, label in enumerate(site.labels(source)):
        if other != axis:
            labels[other] = site.equate(labels[other], label)
        elif labels[axis] is None:
            site.equate(None, label)
        else:
            site.equate(labels[axis][start:end], label)
    constants = {"start": Position(labels[axis], start), "end": Position(labels[axis], end)}
    return Ruling((tuple(labels),), constants)


@rule("select_scatter")
def select_scatter(site: Site) -> Ruling:
    """x with x[..., index, ...] replaced: the index written must stay."""
    x, source, index = site["self"], site["src"], site["index"]
    labels, axis = list(site.labels(x)), site["dim"] % len(site.shape(x))
    if not isinstance(index, int):
        return site.keep_whole("it is written where the inputs say")
    index %= site.shape(x)[axis]
    others = [other for other in range(len(labels)) if other != axis]
    for other, label in zip(others, site.labels(source), strict=True):
        labels[other] = site.equate(labels[other], label)
    if labels[axis] is None:
        return Ruling((tuple(labels),))
    site.freeze(labels[axis][index : index + 1], "a single index is written")
    return Ruling((tuple(labels),), {"index": Position(labels[axis], index)})


@rule("repeat_interleave")
def repeat_interleave(site: Site) -> Ruling:
    """Every index of one dimension repeated in place."""
    if "self" not in site.arguments:
        return site.keep_whole("indices are repeated as often as values say")
    x, times, dim = site["self"], site["repeats"], site["dim"]
    labels, shape = list(site.labels(x)), site.shape(x)
    if dim is None:
        labels, shape, dim = [site.atoms.merge(labels, shape)], (math.prod(shape),), 0
    axis = dim % len(labels)
    if isinstance(times, int):
        labels[axis] = site.atoms.merge([labels[axis], None], [shape[axis], times])
        if isinstance(site["output_size"], int):
            return Ruling((tuple(labels),), {"output_size": Count(labels[axis], shape[axis] * times)})
    else:
        site.freeze(labels[axis], "its indices are repeated as often as values say")
        labels[axis] = None
        for label in site.labels(times) if site.is_tensor(times) else ():
            site.freeze(label, "its values say how often indices are repeated")
    return Ruling((tuple(labels),))


@rule("glu")
def glu(site: Site) -> Ruling:
    """y = a * sigmoid(b), a and b the halves of one dimension."""
    labels = list(site.labels(site["self"]))
    label = labels[site["dim"]]
    if label is not None:
        labels[site["dim"]] = site.equate(label[: len(label) // 2], label[len(label) // 2 :])
    return Ruling((tuple(labels),))
