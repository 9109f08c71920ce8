"""Operators that take part of a dimension: slices, splits, lookups."""

import operator
from typing import Any

import torch
from torch import fx

from penjing.structure.atoms import Label
from penjing.structure.rules.registry import RULES, rule
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
    taken: Label = label[start:end]
    if end - start <= 1:
        site.freeze(taken, "a single index is taken")
        taken = None
    if site.operator == "aten::narrow":
        return Ruling(
            (_replace(labels, axis, taken),),
            {"start": Position(label, start), "length": Count(label[start:end], end - start)},
        )
    return Ruling((_replace(labels, axis, taken),), {"start": Position(label, start), "end": Position(label, end)})


def _unbounded(site: Site, label: Label) -> dict[str, Any]:
    """A slice of the whole dimension stays one, whatever the size."""
    end = site.arguments.get("end")
    if label is None or not isinstance(end, int) or site.operator == "aten::narrow":
        return {}
    return {"end": torch.iinfo(torch.int64).max}


def _bounds(site: Site, size: int) -> tuple[int | None, int | None, int | None]:
    if site.operator == "aten::narrow":
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


def _replace(labels: Labels, axis: int, label: Label) -> Labels:
    return (*labels[:axis], label, *labels[axis + 1 :])


@rule("select", "select_copy")
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
    index %= shape[axis]
    site.freeze(label[index : index + 1], "a single index is taken")
    return Ruling((result,), {"index": Position(label, index)})


@rule("split", "split_with_sizes", "chunk", "tensor_split", "unsafe_chunk", "unsafe_split", "split_copy")
def split(site: Site) -> Ruling:
    """Consecutive pieces of one dimension; after a cut they may have different sizes."""
    x = site["self"]
    labels, shapes = site.labels(x), site.output_shapes
    axis = site["dim"] % len(labels)
    label = labels[axis]
    outputs: list[Labels] = []
    sizes: list[Count] = []
    start = 0
    for shape in shapes:
        assert shape is not None
        piece = None if label is None else label[start : start + shape[axis]]
        sizes.append(Count(piece, shape[axis]))
        if shape[axis] <= 1:
            site.freeze(piece, "a piece has size one")
            piece = None
        outputs.append(_replace(labels, axis, piece))
        start += shape[axis]
    constants = {"self": x, "split_sizes": sizes, "dim": axis}
    return Ruling(tuple(outputs), constants, target=_SPLIT) if label is not None else Ruling(tuple(outputs))


@rule("unbind")
def unbind(site: Site) -> Ruling:
    """One output for each index: none of them may go."""
    labels = site.labels(site["self"])
    axis = site["dim"] % len(labels)
    site.freeze(labels[axis], "each index becomes an output of its own")
    return Ruling(((*labels[:axis], *labels[axis + 1 :]),) * len(site.output_shapes))


@rule("roll")
def roll(site: Site) -> Ruling:
    """Cyclic shift: the shifted dimensions are kept."""
    labels = list(site.labels(site["self"]))
    dims = site["dims"] or range(len(labels))
    for axis in dims:
        site.freeze(labels[axis], "it is rolled")
        labels[axis] = None
    return Ruling((tuple(labels),))


@rule("embedding")
def embedding(site: Site) -> Ruling:
    """y[..., c] = weight[index[...], c]; every row of the table may be asked for."""
    rows, columns = site.labels(site["weight"])
    site.freeze(rows, "rows are looked up by index")
    return Ruling(((*site.labels(site["indices"]), columns),))


@rule("index_select")
def index_select(site: Site) -> Ruling:
    """y[..., i, ...] = x[..., index[i], ...]."""
    labels = list(site.labels(site["self"]))
    axis = site["dim"] % len(labels)
    site.freeze(labels[axis], "indices are looked up")
    labels[axis] = site.labels(site["index"])[0] if site.labels(site["index"]) else None
    return Ruling((tuple(labels),))


@rule("index")
def index(site: Site) -> Ruling:
    """x[i, :, j, ...] with tensors of indices: the indexed dimensions are kept, the others pass through."""
    x, indices = site["self"], list(site["indices"])
    labels, rank = site.labels(x), len(site.shape(x))
    indices += [None] * (rank - len(indices))
    at = [axis for axis, value in enumerate(indices) if value is not None]
    for axis in at:
        site.freeze(labels[axis], "indices are looked up")
    looked_up = site.broadcast([indices[axis] for axis in at])
    if len(looked_up) + rank - len(at) != len(site.output_shape):  # a boolean mask: its size depends on the input
        for label in (*labels, *looked_up):
            site.freeze(label, "a mask selects from it")
        return Ruling(site.fixed())
    contiguous = at == list(range(at[0], at[-1] + 1))
    before = [labels[axis] for axis in range(at[0])] if contiguous else []
    after = [labels[axis] for axis in range(len(before), rank) if axis not in at]
    return Ruling(((*before, *looked_up, *after),))


@rule("slice_scatter")
def slice_scatter(site: Site) -> Ruling:
    """x with x[..., start:end, ...] replaced."""
    x, source = site["self"], site["src"]
    labels, axis = list(site.labels(x)), site["dim"] % len(site.shape(x))
    size = site.shape(x)[axis]
    start, end, step = _bounds(site, size)
    if start is None or end is None or step != 1:
        raise ValueError("the slice depends on the input or has a step")
    for other, label in enumerate(site.labels(source)):
        if other != axis:
            labels[other] = site.equate(labels[other], label)
        elif labels[axis] is None:
            site.equate(None, label)
        else:
            site.equate(labels[axis][start:end], label)
    constants = {"start": Position(labels[axis], start), "end": Position(labels[axis], end)}
    return Ruling((tuple(labels),), constants)


@rule("gather")
def gather(site: Site) -> Ruling:
    """y[..., i, ...] = x[..., index[..., i, ...], ...] along one dimension."""
    x, index_ = site["self"], site["index"]
    axis = site["dim"] % len(site.shape(x))
    result = list(site.labels(index_))
    for other, label in enumerate(site.labels(x)):
        if other == axis or site.shape(x)[other] != site.shape(index_)[other]:
            site.freeze(label, "indices are looked up")
        else:
            result[other] = site.equate(label, result[other])
    return Ruling((tuple(result),))


@rule("topk", "sort", "argsort", "kthvalue", "msort", "diff", "unfold")
def along(site: Site) -> Ruling:
    """Operators that compare the indices of one dimension with each other: it is kept, the others pass through."""
    labels = list(site.labels(site["self"]))
    axis = site.arguments.get("dim", site.arguments.get("dimension", 0 if site.operator == "aten::msort" else -1))
    site.freeze(labels[axis], "its indices are compared with each other")
    labels[axis] = None
    outputs = []
    for shape in site.output_shapes:
        rank = len(shape or ())
        kept = labels if rank >= len(labels) else [label for i, label in enumerate(labels) if i != axis % len(labels)]
        outputs.append((*kept, *(None,) * (rank - len(kept))))
    return Ruling(tuple(outputs))


@rule("repeat_interleave")
def repeat_interleave(site: Site) -> Ruling:
    """Every index of one dimension repeated in place."""
    x, times = site["self"], site["repeats"]
    if site["dim"] is None or not isinstance(times, int):
        raise ValueError("the number of repeats depends on the input")
    labels = list(site.labels(x))
    axis = site["dim"] % len(labels)
    labels[axis] = site.atoms.merge([labels[axis], None], [site.shape(x)[axis], times])
    return Ruling((tuple(labels),))


@rule("glu")
def glu(site: Site) -> Ruling:
    """y = a * sigmoid(b), a and b the halves of one dimension."""
    labels = list(site.labels(site["self"]))
    label = labels[site["dim"]]
    if label is not None:
        labels[site["dim"]] = site.equate(label[: len(label) // 2], label[len(label) // 2 :])
    return Ruling((tuple(labels),))


@rule(
    *(
        "index_put",
        "scatter",
        "scatter_add",
        "scatter_reduce",
        "index_add",
        "index_copy",
        "index_fill",
        "select_scatter",
    ),
    *("masked_select", "nonzero", "masked_scatter", "take_along_dim", "histc", "bincount", "searchsorted", "bucketize"),
    *("as_strided", "as_strided_copy", "meshgrid", "one_hot", "unique_consecutive", "_unique2", "multinomial"),
)
def whole(site: Site) -> Ruling:
    """Operators that write or read at places named by values: everything they touch is kept."""
    for node in site.tensors:
        for label in site.labels(node):
            site.freeze(label, "it is read or written by position")
    return Ruling(site.fixed())
