"""What single outputs of a layer read, in the float and in the quantised graph: sums over sampled places."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from penjing.structure.rules import bind
from penjing.techniques.quantize.graph import CONVOLUTIONS
from penjing.techniques.quantize.importance import Places

FITTED = 0.75
"""Share of the sampled places that a rounding is fitted to; it is judged on the rest."""
_ROOM = 2**22  # values of all samples of a layer's inputs
_LEAST, _MOST = 512, 4096
_TOGETHER = 2**18  # values of samples whose products are summed at once

Means = tuple[Tensor, Tensor]
"""Weighted means [groups, n] of a layer's inputs in the float and in the quantised graph."""


@dataclass(frozen=True)
class Moments:
    """Weighted sums over samples of what single outputs of a layer read: x in the float graph, x' in the quantised one.

    weight: the sum of the weights. means: of x and x' [groups, n]. energy, lost: sums [groups, n, n] of x' x'^T and
    (x - x') x'^T about the means.
    """

    weight: Tensor
    means: Means
    energy: Tensor
    lost: Tensor

    @classmethod
    def of(cls, inputs: Tensor, seen: Tensor, places: Tensor) -> "Moments":
        """Sum over rows [groups, rows, n] that count so much [rows]."""
        share = (places / places.sum()).float()
        means = share @ inputs, share @ seen
        x, centred = inputs - means[0][:, None], seen - means[1][:, None]
        weighted = places.float()[:, None] * centred
        return cls(places.sum(), means, weighted.mT @ centred, (x - centred).mT @ weighted)

    def __add__(self, other: "Moments") -> "Moments":
        """Sums over both samples, about the means of both: Chan, Golub, LeVeque 1983, equation (2.1)."""
        weight = self.weight + other.weight
        share = other.weight / weight
        steps = [theirs - mine for mine, theirs in zip(self.means, other.means, strict=True)]
        between = steps[1] * (self.weight * share)
        x, seen = (mine + share * step for mine, step in zip(self.means, steps, strict=True))
        return Moments(
            weight,
            (x, seen),
            self.energy + other.energy + _outer(between, steps[1]),
            self.lost + other.lost + _outer(steps[0] - steps[1], between),
        )

    def about(self, means: Means) -> "Moments":
        """The same sums about other means."""
        x, seen = (mine - theirs for mine, theirs in zip(self.means, means, strict=True))
        between = self.weight * seen
        return Moments(self.weight, means, self.energy + _outer(between, seen), self.lost + _outer(x - seen, between))

    def error(self, weight: Tensor, real: Tensor) -> float:
        """Weighted square of W x - W' x', less what does not depend on W', for weights [outputs, n].

        With E = W - W' it is the sum of E x' x'^T E^T + 2 W (x - x') x'^T E^T.
        """
        groups, n, _ = self.energy.shape
        wanted, apart = (each.float().reshape(groups, -1, n) for each in (weight, weight - real))
        return float(((apart @ self.energy + 2 * wanted @ self.lost) * apart).sum())


def _outer(a: Tensor, b: Tensor) -> Tensor:
    return a[:, :, None] * b[:, None]


def rows_of_a_piece(layer: fx.Node, pieces: int) -> int:
    """How many places of each piece are enough to mend a layer."""
    most = _MOST
    if layer.target in CONVOLUTIONS:
        call = bind(layer)
        width = call["weight"].meta["val"][0].numel() * int(call["groups"])
        most = min(_MOST, max(_LEAST, _ROOM // width) + pieces)
    return max(1, most // pieces)


def moments(
    layer: fx.Node, pairs: Iterable[tuple[Tensor, Tensor]], places: Sequence[Places]
) -> tuple[Moments, Moments]:
    """Sum over what the outputs of a layer read at some places: at the first of them, and at the rest.

    pairs: its input in the float and in the quantised graph, for each piece. All places count on both sides where there
    are fewer than two.
    """
    read = _windows(layer) if layer.target in CONVOLUTIONS else _rows
    count = sum(len(each.numbers) for each in places)
    first = round(FITTED * count)
    fitted, judged = _Sum(), _Sum()
    for (x, seen), each in zip(pairs, places, strict=True):
        split = len(each.numbers[:first])
        first -= split
        for found, part in ((fitted, slice(split)), (judged, slice(split, None))):
            if len(numbers := each.numbers[part]):
                found.add(read(x, numbers), read(seen, numbers), each.weights[part].to(x))
    both = fitted.total(), judged.total()
    return tuple(each or other for each, other in (both, both[::-1]))  # type: ignore[return-value]


class _Sum:
    """Moments of rows that come a few at a time."""

    def __init__(self) -> None:
        self._waiting: list[tuple[Tensor, Tensor, Tensor]] = []
        self._found: Moments | None = None

    def add(self, inputs: Tensor, seen: Tensor, places: Tensor) -> None:
        """Add rows [groups, rows, n] that count so much [rows]."""
        self._waiting.append((inputs, seen, places))
        if sum(x.numel() for x, _, _ in self._waiting) >= _TOGETHER:
            self.total()

    def total(self) -> Moments | None:
        """The sum over all rows, None if there are none."""
        if self._waiting:
            inputs, seen, places = zip(*self._waiting, strict=True)
            self._waiting = []
            more = Moments.of(torch.cat(inputs, 1), torch.cat(seen, 1), torch.cat(places))
            self._found = more if self._found is None else self._found + more
        return self._found


Read = Callable[[Tensor, Tensor], Tensor]
"""From an input of a layer and the numbers of places of its output: what these are computed from [groups, rows, n]."""


def _rows(x: Tensor, chosen: Tensor) -> Tensor:
    return x.reshape(-1, x.shape[-1])[chosen][None]


def _windows(layer: fx.Node) -> Read:
    """How the windows are read that a convolution computes its outputs from."""
    call = bind(layer)
    sizes = [int(n) for n in call["weight"].meta["val"].shape[2:]]
    spatial, groups = len(sizes), int(call["groups"])
    stride, dilation = (_each(call[name], spatial) for name in ("stride", "dilation"))
    padding = _ends(call["padding"], sizes, dilation)

    def read(x: Tensor, chosen: Tensor) -> Tensor:
        sides = [
            (size + sum(ends) - d * (k - 1) - 1) // step + 1
            for size, ends, d, k, step in zip(x.shape[2:], padding, dilation, sizes, stride, strict=True)
        ]
        sample, *at = torch.unravel_index(chosen, (len(x), *sides))
        inside = torch.ones([])
        where = []
        for dim in range(spatial):
            place = at[dim][:, None] * stride[dim] + torch.arange(sizes[dim]) * dilation[dim] - padding[dim][0]
            place = place.reshape(-1, *(sizes[dim] if dim == i else 1 for i in range(spatial)))
            inside = inside * ((place >= 0) & (place < x.shape[2 + dim]))
            where.append(place.clamp(0, x.shape[2 + dim] - 1))
        at_all: tuple[Any, ...] = (sample.reshape(-1, *[1] * spatial), slice(None), *where)
        windows = x[at_all] * inside[..., None].to(x.device)
        return windows.reshape(len(chosen), -1, groups, x.shape[1] // groups).permute(2, 0, 3, 1).flatten(2)

    return read


def _ends(padding: Any, sizes: Sequence[int], dilation: Sequence[int]) -> list[tuple[int, int]]:
    """How many zeros a convolution adds at each end of each spatial dimension."""
    if padding == "same":
        totals = [d * (k - 1) for k, d in zip(sizes, dilation, strict=True)]
        return [(total // 2, total - total // 2) for total in totals]
    return [(p, p) for p in _each(0 if padding == "valid" else padding, len(sizes))]


def _each(value: int | Sequence[int], count: int) -> list[int]:
    values = [value] if isinstance(value, int) else list(value)
    return values * count if len(values) == 1 else values
