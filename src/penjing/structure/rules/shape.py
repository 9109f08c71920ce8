"""Operators that only rearrange dimensions: views split and merge labels, transposes permute them."""

from collections.abc import Sequence
from typing import Any

import torch

from penjing.structure.atoms import Label, blocks
from penjing.structure.rules.registry import rule
from penjing.structure.rules.site import Count, Labels, Ruling, Site

EXPECTS = "the class's own code expects {} (eager_safe)"


def sizes_of(
    site: Site, labels: Sequence[Label], shape: Sequence[int], written: Sequence[Any], *, inferred: bool = False
) -> list[Any]:
    """A list of sizes as it stands in the graph, with each number that measures a label replaced by its count.

    A size that the graph computes (batch * heads) becomes -1 where the operator can infer one; a second is kept whole.
    """
    sizes: list[Any] = []
    for label, size, given in zip(labels, shape, written, strict=True):
        if label is None or (isinstance(given, int) and given == -1):
            sizes.append(given)
        elif isinstance(given, int):
            sizes.append(Count(label, size))
        elif inferred and -1 not in written and -1 not in sizes:
            sizes.append(-1)
        else:
            site.freeze(label, "its size is computed from the sizes of the inputs")
            sizes.append(given)
    return sizes


def reshaped(site: Site) -> list[Label]:
    """The labels of `self` in the shape of the output, row-major.

    Code that is not rewritten reads the number of heads off a tensor and knows their width: where a dimension becomes
    several, `eager_safe` keeps the innermost whole.
    """
    before, after = site.shape(site["self"]), site.output_shape
    labels = site.atoms.reshape(site.labels(site["self"]), before, after)
    if site.eager_safe:
        for _, targets in blocks(before, after):
            axes = [axis for axis in targets if after[axis] > 1]
            if len(axes) > 1:
                site.freeze(labels[axes[-1]], EXPECTS.format("whole heads"))
    return labels


@rule("view", "reshape", "_unsafe_view")
def view(site: Site) -> Ruling:
    """Row-major reinterpretation of the sizes."""
    if "dtype" in site.arguments:
        return reinterpret(site)
    labels = reshaped(site)
    name = "shape" if "shape" in site.arguments else "size"
    return Ruling((tuple(labels),), {name: sizes_of(site, labels, site.output_shape, site[name], inferred=True)})


def reinterpret(site: Site) -> Ruling:
    """The same bytes as another type: the last dimension is kept unless both are equally wide."""
    labels = site.labels(site["self"])
    if site.output_shape == site.shape(site["self"]):
        return Ruling((labels,))
    site.freeze(labels[-1], "its bytes are read as another type")
    return Ruling(((*labels[:-1], None),))


@rule("squeeze")
def squeeze(site: Site) -> Ruling:
    """Dimensions of size one dropped: after a cut those that were, not one that has become so."""
    x, shape, named = site["self"], site.shape(site["self"]), site.arguments.get("dim")
    axes = range(len(shape)) if named is None else [axis % len(shape) for axis in _dims(named)] if shape else []
    dropped = [axis for axis in axes if shape[axis] == 1]
    return Ruling((tuple(reshaped(site)),), {"self": x, "dim": dropped}, target=torch.ops.aten.squeeze.dims)


@rule("flatten", "ravel", "atleast_1d", "atleast_2d", "atleast_3d")
def flatten(site: Site) -> Ruling:
    """A view that needs no sizes."""
    return Ruling((tuple(reshaped(site)),))


@rule("reshape_as", "view_as")
def view_as(site: Site) -> Ruling:
    """A view with the sizes of another tensor, whose dimensions it shares from then on."""
    other = site.labels(site["other"])
    return Ruling((tuple(map(site.equate, reshaped(site), other)),))


@rule("unflatten")
def unflatten(site: Site) -> Ruling:
    """One dimension split into `sizes`."""
    shape, sizes = site.output_shape, site["sizes"]
    axis = site["dim"] % len(site.shape(site["self"]))
    labels = reshaped(site)
    split = slice(axis, axis + len(sizes))
    return Ruling((tuple(labels),), {"sizes": sizes_of(site, labels[split], shape[split], sizes, inferred=True)})


@rule("unsqueeze")
def unsqueeze(site: Site) -> Ruling:
    """A new dimension of size one."""
    labels = list(site.labels(site["self"]))
    labels.insert(site["dim"] % (len(labels) + 1), None)
    return Ruling((tuple(labels),))


@rule("permute")
def permute(site: Site) -> Ruling:
    """y's dimension i is x's dimension dims[i]."""
    labels = site.labels(site["self"])
    return Ruling((tuple(labels[axis] for axis in site["dims"]),))


_MATRICES = ("mT", "mH", "adjoint")


@rule("transpose", "swapaxes", "swapdims", "t", "numpy_T", "matrix_H", *_MATRICES)
def transpose(site: Site) -> Ruling:
    """Two dimensions exchanged."""
    labels = list(site.labels(site["self"]))
    if len(site.node.args) < 3:
        kept = len(labels) - 2 if site.operator.removeprefix("aten::") in _MATRICES else 0
        return Ruling(((*labels[:kept], *labels[kept:][::-1]),))
    first, second = site.node.args[1:3]
    assert isinstance(first, int)
    assert isinstance(second, int)
    labels[first], labels[second] = labels[second], labels[first]
    return Ruling((tuple(labels),))


@rule("movedim", "moveaxis")
def movedim(site: Site) -> Ruling:
    """Dimensions moved to new places, the others keeping their order."""
    labels = site.labels(site["self"])
    rank = len(labels)
    source, destination = (_dims(dim) for dim in site.node.args[1:3])
    placed = {at % rank: axis % rank for at, axis in zip(destination, source, strict=True)}
    rest = iter(axis for axis in range(rank) if axis not in placed.values())
    return Ruling((tuple(labels[placed[at] if at in placed else next(rest)] for at in range(rank)),))


def _dims(dims: Any) -> list[int]:
    return [dims] if isinstance(dims, int) else list(dims)


@rule("expand", "broadcast_to")
def expand(site: Site) -> Ruling:
    """A dimension of size one repeated without copying: the repeated dimension can have any size."""
    labels, shape, wanted = site.labels(site["self"]), site.shape(site["self"]), site.output_shape
    sizes = site["size"]
    lead = len(wanted) - len(shape)
    result: list[Label] = []
    for axis, size in enumerate(wanted):
        if axis >= lead and shape[axis - lead] == size:
            result.append(labels[axis - lead])
        else:
            result.append(site.new((size,))[0] if isinstance(sizes[axis], int) else None)
    return Ruling((tuple(result),), {"size": sizes_of(site, result, wanted, sizes)})


@rule("cat", "concat", "concatenate")
def cat(site: Site) -> Ruling:
    """Tensors laid end to end along one dimension."""
    tensors = [tensor for tensor in site["tensors"] if site.shape(tensor) != (0,)]
    axis = site["dim"] % len(site.output_shape)
    result = list(_alike(site, [site.labels(tensor) for tensor in tensors], skip=axis))
    ends = [site.labels(tensor)[axis] for tensor in tensors]
    result[axis] = site.atoms.concatenate(ends, [site.shape(tensor)[axis] for tensor in tensors])
    return Ruling((tuple(result),))


@rule("stack")
def stack(site: Site) -> Ruling:
    """Tensors laid along a new dimension."""
    result = list(_alike(site, [site.labels(tensor) for tensor in site["tensors"]]))
    result.insert(site["dim"] % len(site.output_shape), None)
    return Ruling((tuple(result),))


def _alike(site: Site, operands: Sequence[Labels], skip: int | None = None) -> Labels:
    """Equate the dimensions of tensors of equal rank, one of them excepted."""
    result = list(operands[0])
    for axis in range(len(result)):
        if axis != skip:
            for other in operands[1:]:
                result[axis] = site.equate(result[axis], other[axis])
    return tuple(result)


@rule("hstack", "vstack", "row_stack", "dstack", "column_stack")
def joined(site: Site) -> Ruling:
    """`cat` along the first, second or third dimension, after dimensions of size one are added where they lack."""
    rank = len(site.output_shape)
    name = site.operator.removeprefix("aten::")
    axis = {"hstack": 0 if rank == 1 else 1, "column_stack": 1, "dstack": 2}.get(name, 0)
    operands, sizes = [], []
    for tensor in site["tensors"]:
        labels, shape = site.labels(tensor), site.shape(tensor)
        front = () if name == "column_stack" or (name == "hstack") else (None,) * (len(shape) == 1)
        labels = (*front, *labels, *(None,) * (rank - len(front) - len(labels)))
        shape = (*(1,) * len(front), *shape, *(1,) * (rank - len(front) - len(shape)))
        operands.append(labels)
        sizes.append(shape[axis])
    result = list(_alike(site, operands, skip=axis))
    result[axis] = site.atoms.concatenate([labels[axis] for labels in operands], sizes)
    return Ruling((tuple(result),))


@rule("repeat", "tile")
def repeat(site: Site) -> Ruling:
    """Dimensions laid end to end with themselves; one of size one can be repeated to any size."""
    repeats = list(site.node.args[1])  # type: ignore[arg-type]
    labels, shape = site.labels(site["self"]), site.shape(site["self"])
    rank = max(len(repeats), len(shape))
    repeats = [1] * (rank - len(repeats)) + repeats
    labels = (None,) * (rank - len(labels)) + labels
    shape = (1,) * (rank - len(shape)) + shape
    result: list[Label] = []
    for label, size, times in zip(labels, shape, repeats, strict=True):
        if not isinstance(times, int):
            site.freeze(label, "it is repeated a number of times that depends on the input")
            result.append(None)
        elif size == 1:
            result.append(site.new((times,))[0])
        else:
            result.append(site.atoms.concatenate([label] * times, [size] * times))
    times_after = [
        Count(label, times) if size == 1 and isinstance(times, int) else times
        for label, size, times in zip(result, shape, repeats, strict=True)
    ]
    return Ruling((tuple(result),), {"dims" if site.operator == "aten::tile" else "repeats": times_after})


@rule("flip", "fliplr", "flipud")
def flip(site: Site) -> Ruling:
    """Dimensions read backwards."""
    labels = list(site.labels(site["self"]))
    dims = {"aten::fliplr": [1], "aten::flipud": [0]}.get(site.operator) or site["dims"]
    for axis in dims:
        label = labels[axis]
        labels[axis] = None if label is None else label[::-1]
    return Ruling((tuple(labels),))


@rule("pixel_shuffle", "pixel_unshuffle")
def pixel_shuffle(site: Site) -> Ruling:
    """[..., C*r*r, H, W] <-> [..., C, H*r, W*r]: the factor r*r of the channels becomes positions."""
    x = site["self"]
    labels, shape = site.labels(x), site.shape(x)
    axis = len(shape) - 3
    for label in labels[-2:]:
        site.hold(label)
    if site.operator == "aten::pixel_shuffle":
        factor = site["upscale_factor"]
        channels, *within = site.atoms.split(labels[axis], [shape[axis] // factor**2, factor, factor])
        for label in within:
            site.freeze(label, "it becomes a position")
    else:
        factor = site["downscale_factor"]
        channels = site.atoms.merge([labels[axis], None, None], [shape[axis], factor, factor])
    return Ruling(((*labels[:axis], channels, None, None),))


@rule("channel_shuffle", "native_channel_shuffle")
def channel_shuffle(site: Site) -> Ruling:
    """[N, G*C, ...] -> [N, C*G, ...]: channels of the groups in turn."""
    x, groups = site["self"], site["groups"]
    labels, sizes = site.labels(x), [groups, site.shape(x)[1] // groups]
    group, within = site.atoms.split(labels[1], sizes)
    merged = site.atoms.merge([within, group], sizes[::-1])
    return Ruling(((labels[0], merged, *labels[2:]),), {"groups": Count(group, groups)})
