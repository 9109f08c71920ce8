"""Resize: one product with a matrix of weights for each axis, or what torch has for it."""

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from penjing.onnx_import.known import Value, numbers
from penjing.onnx_import.node import Node
from penjing.onnx_import.operators.table import operator

_LINEAR = {1: "linear", 2: "bilinear", 3: "trilinear"}


def _plain(node: Node) -> bool:
    """Whether a Resize is one of those below: no crop, no antialiasing, no aspect policy."""
    return (
        node.get("coordinate_transformation_mode", "half_pixel") not in ("tf_crop_and_resize", "half_pixel_symmetric")
        and not node.get("antialias", 0)
        and node.get("keep_aspect_ratio_policy", "stretch") == "stretch"
    )


@operator("Resize", "Upsample", known=(1, 2, 3), when=_plain)
def resize(node: Node, x: Tensor, *inputs: Value | None) -> Tensor:
    """Another size of some dimensions, by scales or sizes; nearest, linear or cubic (Keys 1981)."""
    old = node.op == "Upsample" or node.opset < 11
    _, scales, sizes = (None, *inputs, None, None)[:3] if old else (*inputs, None, None, None)[:3]
    if old and scales is None:
        factors: list[Any] | None = list(node.get("scales"))
    else:
        factors = numbers(scales) if scales is not None and len(numbers(scales)) else None
    wanted = None if sizes is None or factors is not None else numbers(sizes)
    count = len(factors if factors is not None else wanted or ())
    axes = [axis % x.ndim for axis in node.get("axes", range(count))]
    mode = "asymmetric" if old else node.get("coordinate_transformation_mode", "half_pixel")
    kind = "nearest" if node.get("mode", "nearest") == "nearest" else node.get("mode")
    targets: dict[int, tuple[Any, Any]] = {}
    for i, axis in enumerate(axes):
        size = x.shape[axis]
        if factors is not None:
            target, factor = torch.sym_int(math.floor(size * factors[i])), factors[i]
        else:
            target = wanted[i] if wanted is not None else size
            factor = None  # target / size, which is 1 for a size that stays
        if target != size or factor not in (None, 1):
            targets[axis] = target, factor
    if (quick := _by_torch(node, x, targets, kind, mode, old)) is not None:
        return quick
    for axis, (target, factor) in targets.items():
        scale = target / x.shape[axis] if factor is None else factor
        x = _along(node, x, axis, int(target), float(scale), kind, mode, old)
    return x


def _by_torch(node: Node, x: Tensor, targets: Any, kind: str, mode: str, old: bool) -> Tensor | None:
    """What F.interpolate computes: space alone, by its own conventions, where the factor is new size / old size."""
    rank = x.ndim - 2
    if rank not in _LINEAR or not targets or any(axis < 2 for axis in targets) or not x.is_floating_point():
        return None
    sizes = [targets[axis][0] if axis in targets else x.shape[axis] for axis in range(2, x.ndim)]
    if not all(_is_ratio(factor, target, x.shape[axis]) for axis, (target, factor) in targets.items()):
        return None
    rounding = "floor" if old else node.get("nearest_mode", "round_prefer_floor")
    whole = all(factor is not None and float(factor).is_integer() for _, factor in targets.values())
    halves = (mode, rounding) == ("half_pixel", "round_prefer_floor") and whole
    if kind == "nearest" and ((mode, rounding) == ("asymmetric", "floor") or halves):
        return F.interpolate(x, sizes, mode="nearest")
    several = not any(isinstance(size, int) and size == 1 for size in sizes)
    if kind == "linear" and mode in ("half_pixel", "align_corners", "pytorch_half_pixel") and several:
        return F.interpolate(x, sizes, mode=_LINEAR[rank], align_corners=mode == "align_corners")
    return None


def _is_ratio(factor: Any, target: Any, size: Any) -> bool:
    """Whether a factor is exactly new size / old size, which it is where nothing was rounded."""
    if factor is None or float(factor).is_integer():
        return True
    return isinstance(target, int) and isinstance(size, int) and abs(target - size * factor) < 1e-4


def _along(node: Node, x: Tensor, axis: int, target: int, factor: float, kind: str, mode: str, old: bool) -> Tensor:
    size = int(x.shape[axis])
    place = _places(np.arange(target), size, target, factor, mode)
    if kind == "nearest":
        rounding = "floor" if old else node.get("nearest_mode", "round_prefer_floor")
        index = np.clip(_ROUND[rounding](place), 0, size - 1).astype(np.int64)
        return x.index_select(axis, torch.from_numpy(index).to(x.device))
    cubic = node.get("cubic_coeff_a", -0.75)
    matrix = _weights(place, size, kind, cubic, bool(node.get("exclude_outside", 0)))
    weights = torch.from_numpy(matrix).to(x.dtype).to(x.device)
    return torch.matmul(x.movedim(axis, -1), weights.t()).movedim(-1, axis)


_ROUND: dict[str, Any] = {
    "floor": np.floor,
    "ceil": np.ceil,
    "round_prefer_floor": lambda place: np.ceil(place - 0.5),
    "round_prefer_ceil": lambda place: np.floor(place + 0.5),
}


def _places(index: NDArray[Any], size: int, target: int, factor: float, mode: str) -> NDArray[Any]:
    """Where in the input each output lies."""
    if mode == "asymmetric":
        return index / factor
    if mode == "align_corners":
        length = size * factor  # before it is rounded to `target`
        return index * ((size - 1) / (length - 1)) if length != 1 else np.zeros(target)
    if mode == "pytorch_half_pixel" and target == 1:
        return np.zeros(target)
    return (index + 0.5) / factor - 0.5


def _weights(place: NDArray[Any], size: int, kind: str, a: float, exclude: bool) -> NDArray[Any]:
    """Weights [output, input] of a linear or cubic interpolation; beyond the border lies the border."""
    matrix = np.zeros((len(place), size))
    base = np.floor(place).astype(int)
    taps = range(2) if kind == "linear" else range(-1, 3)
    for tap in taps:
        distance = np.abs(place - (base + tap))
        if kind == "linear":
            weight = np.clip(1 - distance, 0, None)
        else:
            near = (a + 2) * distance**3 - (a + 3) * distance**2 + 1
            far = a * distance**3 - 5 * a * distance**2 + 8 * a * distance - 4 * a
            weight = np.where(distance <= 1, near, np.where(distance < 2, far, 0.0))
        inside = (base + tap >= 0) & (base + tap < size)
        weight = np.where(inside, weight, 0.0) if exclude else weight
        np.add.at(matrix, (np.arange(len(place)), np.clip(base + tap, 0, size - 1)), weight)
    return matrix / matrix.sum(1, keepdims=True) if exclude else matrix
