"""Operators that move elements and compute nothing: shapes, pieces, copies, padding."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from penjing.onnx_import.known import Known, Value, numbers, product
from penjing.onnx_import.node import Node
from penjing.onnx_import.operators.table import operator

_PAD_MODES = {"constant": "constant", "reflect": "reflect", "edge": "replicate", "wrap": "circular"}


@operator("Shape")
def shape(node: Node, x: Tensor) -> Known:
    """The sizes of a tensor, as numbers."""
    return Known.of(tuple(x.shape)[slice(node.get("start", 0), node.get("end"))])


@operator("Size")
def size(node: Node, x: Tensor) -> Known:
    """How many elements a tensor has."""
    return Known.of(product(x.shape))


@operator("Reshape", known=(1,))
def reshape(node: Node, x: Tensor, sizes: Value | None = None) -> Tensor:
    """Another shape; 0 keeps a size, unless allowzero=1, and -1 is what is left."""
    wanted = list(node.get("shape")) if sizes is None else numbers(sizes)
    if not node.get("allowzero", 0):
        wanted = [x.shape[i] if isinstance(want, int) and want == 0 else want for i, want in enumerate(wanted)]
    return x.reshape(wanted)


@operator("Flatten")
def flatten(node: Node, x: Tensor) -> Tensor:
    """Two dimensions: those before an axis and those from it on."""
    axis = node.get("axis", 1)
    axis = axis + x.ndim if axis < 0 else axis
    if axis == 1 and x.ndim > 1:
        return x.flatten(1)
    return x.reshape(product(x.shape[:axis]), product(x.shape[axis:]))


@operator("Transpose")
def transpose(node: Node, x: Tensor) -> Tensor:
    """Another order of the dimensions; all the other way round where none is given."""
    return x.permute(node.get("perm", tuple(reversed(range(x.ndim)))))


@operator("Squeeze", known=(1,))
def squeeze(node: Node, x: Tensor, axes: Value | None = None) -> Tensor:
    """Drop dimensions of size 1."""
    given = node.get("axes") if axes is None else numbers(axes)
    if given is None:
        return x.squeeze()
    return x.squeeze([axis % x.ndim for axis in given])


@operator("Unsqueeze", known=(1,))
def unsqueeze(node: Node, x: Tensor, axes: Value | None = None) -> Tensor:
    """Insert dimensions of size 1."""
    given = node.get("axes") if axes is None else numbers(axes)
    rank = x.ndim + len(given)
    for axis in sorted(axis % rank for axis in given):
        x = x.unsqueeze(axis)
    return x


@operator("Expand", known=(1,))
def expand(node: Node, x: Tensor, sizes: Value) -> Tensor:
    """Broadcast both ways with a shape."""
    wanted = numbers(sizes)
    missing = max(len(wanted) - x.ndim, 0)
    wanted = [*x.shape[: x.ndim - len(wanted)], *wanted] if x.ndim > len(wanted) else wanted
    kept = [-1 if isinstance(want, int) and want == 1 and i >= missing else want for i, want in enumerate(wanted)]
    return x.expand(kept)


@operator("Concat")
def concat(node: Node, *parts: Tensor) -> Tensor:
    """Put tensors side by side along an axis."""
    return torch.cat(parts, node.get("axis", 1))


@operator("Split", known=(1,))
def split(node: Node, x: Tensor, sizes: Value | None = None) -> Any:
    """Pieces along an axis: of given sizes, or as many as there are outputs, the last one smaller."""
    axis = node.get("axis", 0)
    given = node.get("split") if sizes is None else numbers(sizes)
    if given is not None:
        return torch.split(x, list(given), axis)
    count = len(node.outputs)
    whole = x.shape[axis]
    each = -(-whole // count)
    return torch.split(x, [each] * (count - 1) + [whole - each * (count - 1)], axis)


@operator("Slice", known=(1, 2, 3, 4))
def slice_(node: Node, x: Tensor, *inputs: Value | None) -> Tensor:
    """x[start:end:step] along axes; a negative step goes backwards."""
    given = [None if value is None else numbers(value) for value in inputs]
    if not given:
        given = [list(node.get("starts")), list(node.get("ends")), node.get("axes")]
    starts, ends, axes, steps = (*given, None, None)[:4]
    assert starts is not None
    assert ends is not None
    for i, (start, end) in enumerate(zip(starts, ends, strict=True)):
        axis = (i if axes is None else axes[i]) % x.ndim
        x = _slice(x, axis, start, end, 1 if steps is None else steps[i])
    return x


def _slice(x: Tensor, axis: int, start: Any, end: Any, step: int) -> Tensor:
    index: list[Any] = [slice(None)] * x.ndim
    if step > 0:
        whole = isinstance(start, int) and start == 0 and isinstance(end, int) and end >= 2**31 - 1 and step == 1
        if whole:
            return x
        index[axis] = slice(start, None if isinstance(end, int) and end >= 2**31 - 1 else end, step)
        return x[tuple(index)]
    length = x.shape[axis]
    places = range(*slice(start, None if end <= -(2**31) + 1 else end, step).indices(int(length)))
    return x.index_select(axis, torch.tensor(list(places), dtype=torch.int64, device=x.device))


@operator("Tile", known=(1,))
def tile(node: Node, x: Tensor, repeats: Value) -> Tensor:
    """Copies along each dimension."""
    return x.repeat(numbers(repeats))


@operator("Pad", known=(1, 2, 3))
def pad(
    node: Node, x: Tensor, pads: Value | None = None, value: Value | None = None, axes: Value | None = None
) -> Tensor:
    """Add, or with negative sizes remove, elements at the borders."""
    sizes = list(node.get("pads")) if pads is None else numbers(pads)
    fill = node.get("value", 0.0) if value is None else numbers(value)[0]
    dims = range(x.ndim) if axes is None else [axis % x.ndim for axis in numbers(axes)]
    begins, ends = [0] * x.ndim, [0] * x.ndim
    for i, dim in enumerate(dims):
        begins[dim], ends[dim] = sizes[i], sizes[i + len(sizes) // 2]
    mode = _PAD_MODES[node.get("mode", "constant")]
    if mode != "constant":
        return _pad_by_copies(x, begins, ends, mode)
    first = next((i for i in range(x.ndim) if begins[i] != 0 or ends[i] != 0), None)
    if first is None:
        return x
    flat = [size for i in reversed(range(first, x.ndim)) for size in (begins[i], ends[i])]
    if x.dtype is torch.bool:
        return F.pad(x.to(torch.uint8), flat, value=int(fill)).to(torch.bool)
    return F.pad(x, flat, value=fill)


def _pad_by_copies(x: Tensor, begins: list[Any], ends: list[Any], mode: str) -> Tensor:
    dims = [i for i in range(x.ndim) if begins[i] != 0 or ends[i] != 0]
    spatial = dims and x.ndim in (3, 4, 5) and dims[0] >= 2 and x.is_floating_point()
    if not dims:
        return x
    if spatial and all(isinstance(size, int) and size >= 0 for size in (*begins, *ends)):
        return F.pad(x, [size for i in reversed(range(2, x.ndim)) for size in (begins[i], ends[i])], mode=mode)
    for i in dims:  # torch pads space alone: any other dimension by choosing its indices
        length = int(x.shape[i])
        place = torch.arange(-int(begins[i]), length + int(ends[i]), device=x.device)
        if mode == "replicate":
            place = place.clamp(0, length - 1)
        elif mode == "circular":
            place = place % length
        else:
            period = max(2 * (length - 1), 1)
            place = (place % period - (length - 1)).abs()
            place = length - 1 - place
        x = x.index_select(i, place)
    return x


@operator("DepthToSpace")
def depth_to_space(node: Node, x: Tensor) -> Tensor:
    """Blocks of channels become blocks of space."""
    b = node.get("blocksize")
    if node.get("mode", "DCR") == "CRD":
        return F.pixel_shuffle(x, b)
    n, c, h, w = x.shape
    y = x.reshape(n, b, b, c // (b * b), h, w).permute(0, 3, 4, 1, 5, 2)
    return y.reshape(n, c // (b * b), h * b, w * b)


@operator("SpaceToDepth")
def space_to_depth(node: Node, x: Tensor) -> Tensor:
    """Blocks of space become blocks of channels."""
    b = node.get("blocksize")
    n, c, h, w = x.shape
    if node.get("mode", "DCR") == "CRD":
        return F.pixel_unshuffle(x, b)
    y = x.reshape(n, c, h // b, b, w // b, b).permute(0, 3, 5, 1, 2, 4)
    return y.reshape(n, c * b * b, h // b, w // b)


@operator("Trilu", known=(1,))
def trilu(node: Node, x: Tensor, k: Value | None = None) -> Tensor:
    """The upper or lower triangle from a diagonal on."""
    diagonal = 0 if k is None else numbers(k)[0]
    return torch.triu(x, diagonal) if node.get("upper", 1) else torch.tril(x, diagonal)
