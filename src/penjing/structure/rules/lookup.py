"""Operators that read or write at places named by values: the dimension of the places is kept, the others pass."""

import math

import torch
from torch import fx

from penjing.structure.rules.registry import rule
from penjing.structure.rules.site import Labels, Ruling, Shape, Site

_READ = "indices are looked up"
_WRITTEN = "it is written at places that values name"
_SORTED = "it is a sorted sequence"


@rule("embedding")
def embedding(site: Site) -> Ruling:
    """y[..., c] = weight[index[...], c]; every row of the table may be asked for."""
    rows, columns = site.labels(site["weight"])
    site.freeze(rows, "rows are looked up by index")
    return Ruling(((*site.labels(site["indices"]), columns),))


@rule("embedding_bag", "_embedding_bag", "_embedding_bag_forward_only")
def embedding_bag(site: Site) -> Ruling:
    """y[b, c] = sum, mean or maximum of weight[index, c] over the indices of bag b."""
    rows, columns = site.labels(site["weight"])
    site.freeze(rows, "rows are looked up by index")
    for name in ("indices", "offsets", "per_sample_weights"):
        for label in site.labels(site[name]) if site.is_tensor(site[name]) else ():
            site.freeze(label, "it says what belongs to a bag")
    *others, last = site.fixed()[1:]
    if len(last) == 2:  # the row that gave each maximum
        last = (None, columns)
    return Ruling(((None, columns), *others, last))


@rule("index_select")
def index_select(site: Site) -> Ruling:
    """y[..., i, ...] = x[..., index[i], ...]."""
    labels = list(site.labels(site["self"]))
    if not labels:
        return Ruling(site.fixed())
    axis = site["dim"] % len(labels)
    site.freeze(labels[axis], _READ)
    labels[axis] = site.labels(site["index"])[0] if site.labels(site["index"]) else None
    return Ruling((tuple(labels),))


@rule("index", "_unsafe_index")
def index(site: Site) -> Ruling:
    """x[i, :, j, ...] with tensors of indices: the indexed dimensions are kept, the others pass through.

    A mask alone makes one dimension, as long as it says, of those that it covers.
    """
    if any(map(_is_mask, site["indices"])):
        (axis, mask), *others = [(axis, value) for axis, value in enumerate(site["indices"]) if value is not None]
        if others:
            return site.keep_whole("a mask selects from it")
        labels = site.labels(site["self"])
        end = axis + len(site.labels(mask))
        for label in (*labels[axis:end], *site.labels(mask)):
            site.freeze(label, "a mask selects from it")
        return Ruling(((*labels[:axis], None, *labels[end:]),))
    labels, _ = _picked(site, _READ)
    return Ruling((labels,))


@rule("index_put", "_unsafe_index_put")
def index_put(site: Site) -> Ruling:
    """x with x[i, :, j, ...] = values. A mask with a single value is elementwise; other masks keep everything."""
    x, values, indices = site["self"], site["values"], site["indices"]
    labels = list(site.labels(x))
    if any(map(_is_mask, indices)):
        (axis, mask), *others = [(axis, value) for axis, value in enumerate(indices) if value is not None]
        if others or math.prod(site.shape(values)) > 1:
            return site.keep_whole("a mask selects what is written")
        for i, label in enumerate(site.labels(mask)):
            labels[axis + i] = site.equate(labels[axis + i], label)
        return Ruling((tuple(labels),))
    site.broadcast_labels([_picked(site, _WRITTEN), (site.labels(values), site.shape(values))])
    return Ruling(
        (tuple(None if i < len(indices) and indices[i] is not None else label for i, label in enumerate(labels)),)
    )


def _is_mask(node: fx.Node | None) -> bool:
    value = None if node is None else node.meta.get("val")
    return value is not None and value.dtype in (torch.bool, torch.uint8)


def _picked(site: Site, why: str) -> tuple[Labels, Shape]:
    """Labels and shape of x[indices]; the indexed dimensions are frozen."""
    x, indices = site["self"], site["indices"]
    labels, shape = site.labels(x), site.shape(x)
    at = [axis for axis, value in enumerate(indices) if value is not None]
    for axis in at:
        site.freeze(labels[axis], why)
    named = [indices[axis] for axis in at]
    sizes = tuple(torch.broadcast_shapes(*(site.shape(node) for node in named)))
    lead = at[0] if at == list(range(at[0], at[-1] + 1)) else 0  # separated indices come first
    rest = [axis for axis in range(lead, len(labels)) if axis not in at]
    picked = (*labels[:lead], *site.broadcast(named), *(labels[axis] for axis in rest))
    return picked, (*shape[:lead], *sizes, *(shape[axis] for axis in rest))


@rule("index_add", "index_copy", "index_reduce")
def index_add(site: Site) -> Ruling:
    """x[..., index[i], ...] op= source[..., i, ...] along one dimension."""
    x, source = site["self"], site["source"]
    labels, others = list(site.labels(x)), list(site.labels(source))
    if not labels:
        return site.keep_whole(_WRITTEN)
    axis = site["dim"] % len(labels)
    for label in (labels[axis], others[axis], *site.labels(site["index"])):
        site.freeze(label, _WRITTEN)
    result = [None if i == axis else site.equate(labels[i], others[i]) for i in range(len(labels))]
    return Ruling((tuple(result),))


@rule("index_fill")
def index_fill(site: Site) -> Ruling:
    """x with x[..., index, ...] = value."""
    labels = list(site.labels(site["self"]))
    if labels:
        site.freeze(labels[site["dim"]], _WRITTEN)
        labels[site["dim"]] = None
    return Ruling((tuple(labels),))


@rule("gather")
def gather(site: Site) -> Ruling:
    """y[..., i, ...] = x[..., index[..., i, ...], ...] along one dimension."""
    x, index_ = site["self"], site["index"]
    result = list(site.labels(index_))
    for other, label in enumerate(site.labels(x)):
        if other == site["dim"] % len(result) or site.shape(x)[other] != site.shape(index_)[other]:
            site.freeze(label, _READ)
        else:
            result[other] = site.equate(label, result[other])
    return Ruling((tuple(result),))


@rule("take_along_dim")
def take_along_dim(site: Site) -> Ruling:
    """`gather` whose other dimensions are broadcast."""
    x, indices, dim = site["self"], site["indices"], site["dim"]
    if dim is None:
        return site.keep_whole(_READ)
    labels, shape, axis = list(site.labels(x)), list(site.shape(x)), dim % len(site.shape(x))
    site.freeze(labels[axis], _READ)
    labels[axis], shape[axis] = None, 1
    return Ruling(
        (site.broadcast_labels([(tuple(labels), tuple(shape)), (site.labels(indices), site.shape(indices))]),)
    )


@rule("scatter", "scatter_add", "scatter_reduce")
def scatter(site: Site) -> Ruling:
    """x with x[..., index[..., i, ...], ...] op= source[..., i, ...] along one dimension."""
    x, index_, source = site["self"], site["index"], site.arguments.get("src")
    operands = [node for node in (x, index_, source) if isinstance(node, fx.Node)]
    labels = list(site.labels(x))
    if not labels:
        return site.keep_whole(_WRITTEN)
    axis = site["dim"] % len(labels)
    for i in range(len(labels)):
        met = [site.labels(node)[i] for node in operands if site.labels(node)]
        if i == axis or len({site.shape(node)[i] for node in operands if site.labels(node)}) > 1:
            for label in met:
                site.freeze(label, _WRITTEN)
            labels[i] = None
        else:
            for label in met[1:]:
                labels[i] = site.equate(labels[i], label)
    return Ruling((tuple(labels),))


@rule("one_hot")
def one_hot(site: Site) -> Ruling:
    """A new last dimension, in which each value has its place."""
    return Ruling(((*site.labels(site["self"]), None),))


@rule("bucketize", "searchsorted")
def search(site: Site) -> Ruling:
    """The place of each value in a sorted sequence, which is kept; leading dimensions of both are the same."""
    if not site.is_tensor(site["self"]):
        return site.keep_whole(_SORTED)
    labels = list(site.labels(site["self"]))
    for node in site.tensors:
        if node is not site["self"]:
            *lead, last = site.labels(node)
            site.freeze(last, _SORTED)
            for i, label in enumerate(lead):
                labels[i] = site.equate(labels[i], label)
    return Ruling((tuple(labels),))


@rule("topk", "sort", "argsort", "kthvalue", "msort", "diff", "unfold")
def along(site: Site) -> Ruling:
    """Operators that compare the indices of one dimension with each other: it is kept, the others pass through."""
    if len(site.tensors) > 1:
        return site.keep_whole("its differences begin and end with other tensors")
    labels = list(site.labels(site["self"]))
    axis = site.arguments.get("dim", site.arguments.get("dimension", 0 if site.operator == "aten::msort" else -1))
    if not labels:
        return Ruling(site.fixed())
    site.freeze(labels[axis], "its indices are compared with each other")
    labels[axis] = None
    outputs = []
    for shape in site.output_shapes:
        rank = len(shape or ())
        kept = labels if rank >= len(labels) else [label for i, label in enumerate(labels) if i != axis % len(labels)]
        outputs.append((*kept, *(None,) * (rank - len(kept))))
    return Ruling(tuple(outputs))
