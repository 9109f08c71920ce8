"""Pooling, resizing and padding over positions: channels pass through."""

from collections.abc import Sequence
from typing import Any

from penjing.structure.atoms import Label
from penjing.structure.rules.registry import rule
from penjing.structure.rules.site import Count, Ruling, Site

_POOLS = ("max_pool", "avg_pool", "adaptive_max_pool", "adaptive_avg_pool")
_RESIZES = (
    *("upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d", "upsample_linear1d", "upsample_bilinear2d"),
    *("upsample_bicubic2d", "upsample_trilinear3d", "_upsample_nearest_exact1d", "_upsample_nearest_exact2d"),
    *("_upsample_nearest_exact3d", "_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa", "_upsample_lanczos2d_aa"),
)


@rule(
    *(f"{pool}{rank}d" for pool in _POOLS for rank in (1, 2, 3)),
    *("_adaptive_avg_pool2d", "_adaptive_avg_pool3d", "max_pool1d_with_indices", "max_pool2d_with_indices"),
    *("max_pool3d_with_indices", "mkldnn_max_pool2d"),
    *_RESIZES,
)
def over_positions(site: Site) -> Ruling:
    """y[n, c, ...] depends on x[n, c, ...] alone; a position with a window of one passes too."""
    x = site.tensors[0]
    labels = list(site.labels(x))
    positions = next(rank for rank in (1, 2, 3) if f"{rank}d" in site.operator)
    for axis in range(-positions, 0):
        if not _window_of_one(site, axis):
            site.freeze(labels[axis], "its neighbours are combined")
            labels[axis] = None
    return Ruling((tuple(labels),) * len(site.output_shapes))


def _window_of_one(site: Site, axis: int) -> bool:
    """Whether a pool looks at one index at a time along an axis, and at each."""
    kernel = site.arguments.get("kernel_size")
    if kernel is None:
        return False
    sizes = [_along(kernel, axis), _along(site["stride"] or kernel, axis), _along(site["padding"], axis)]
    return sizes == [1, 1, 0]


def _along(sizes: int | Sequence[int], axis: int) -> int:
    """What a list of sizes says of one axis; a single number stands for all."""
    if isinstance(sizes, int):
        return sizes
    return sizes[axis] if len(sizes) > 1 else sizes[0]


@rule("max_unpool2d", "max_unpool3d", "fractional_max_pool2d", "fractional_max_pool3d")
def with_places(site: Site) -> Ruling:
    """Pooling or its inverse, in which a second tensor names a place for each batch index and channel."""
    x, places = site["self"], site.arguments.get("indices") or site["random_samples"]
    positions = 3 if "3d" in site.operator else 2
    labels, other = site.labels(x), site.labels(places)
    for label in (*labels[-positions:], *other[len(labels) - positions :]):
        site.hold(label)
    lead = tuple(map(site.equate, labels[:-positions], other[: len(labels) - positions]))
    return Ruling(((*lead, *(None,) * positions),) * len(site.output_shapes))


@rule("pad", "constant_pad_nd")
def pad(site: Site) -> Ruling:
    """Constants before and after each dimension, as many as stay of them; `pad` counts from the last dimension."""
    amounts, labels, shape = list(site["pad"]), list(site.labels(site["self"])), site.shape(site["self"])
    if site.eager_safe or site.arguments.get("mode", "constant") != "constant" or not _all_whole(amounts):
        return pad_by_content(site)
    written: list[Any] = amounts.copy()
    for i in range(len(amounts) // 2):
        before, after = amounts[2 * i : 2 * i + 2]
        label, size = labels[-1 - i], shape[-1 - i]
        if label is None or not (before or after):
            labels[-1 - i] = None if before or after else label
            continue
        left, right = site.atoms.fresh(before), site.atoms.fresh(after)
        written[2 * i : 2 * i + 2] = Count(left, before), Count(right, after)
        labels[-1 - i] = site.atoms.concatenate([left, label, right], [before, size, after])
    return Ruling((tuple(labels),), {"pad": written})


def _all_whole(amounts: Sequence[Any]) -> bool:
    return all(isinstance(amount, int) and amount >= 0 for amount in amounts)


@rule(
    *("_pad_circular", "_pad_enum"),
    *(f"{mode}_pad{rank}d" for mode in ("reflection", "replication") for rank in (1, 2, 3)),
)
def pad_by_content(site: Site) -> Ruling:
    """What is added depends on the neighbours: the padded dimensions are kept."""
    amounts = site.arguments.get("pad") or site.arguments["padding"]
    labels = list(site.labels(site["self"]))
    for i in range(len(amounts) // 2):
        if amounts[2 * i] or amounts[2 * i + 1]:
            label: Label = labels[-1 - i]
            site.freeze(label, "it is padded")
            labels[-1 - i] = None
    return Ruling((tuple(labels),))


@rule("im2col")
def im2col(site: Site) -> Ruling:
    """[N, C, H, W] -> [N, C * kh * kw, L]: the windows of every position, laid out as columns."""
    x, kernel = site["self"], site["kernel_size"]
    labels, channels = site.labels(x), site.shape(x)[-3]
    for label in labels[-2:]:
        site.hold(label)
    merged = site.atoms.merge([labels[-3], None, None], [channels, *kernel])
    return Ruling(((*labels[:-3], merged, None),))


@rule("col2im")
def col2im(site: Site) -> Ruling:
    """[N, C * kh * kw, L] -> [N, C, H, W]: overlapping windows added up."""
    labels, kernel = site.labels(site["self"]), site["kernel_size"]
    channels, *window = site.atoms.split(labels[-2], [site.output_shape[-3], *kernel])
    for label in (*window, labels[-1]):
        site.freeze(label, "it becomes a position")
    return Ruling(((*labels[:-2], channels, None, None),))


@rule("grid_sampler", "grid_sampler_2d", "grid_sampler_3d")
def grid_sampler(site: Site) -> Ruling:
    """y[n, c, ...] = x[n, c, at(grid[n, ...])]."""
    labels, grid = site.labels(site["input"]), site.labels(site["grid"])
    for label in (*labels[2:], *grid[1:]):
        site.freeze(label, "it is a position")
    return Ruling(((site.equate(labels[0], grid[0]), labels[1], *(None,) * (len(labels) - 2)),))


@rule("affine_grid_generator")
def affine_grid(site: Site) -> Ruling:
    """A grid of positions for each matrix [N, 2, 3]: the batch passes, the rest is kept."""
    batch, *rest = site.labels(site["theta"])
    for label in rest:
        site.freeze(label, "it is a matrix of positions")
    site.freeze(batch, "its size is a constant of the grid")
    return Ruling(site.fixed())
