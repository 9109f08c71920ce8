r"""Round weights so that a layer gives what it gave, and not so that each weight stays near.

With x the float input of a layer, x' the input that it gets in the quantised graph, both about their means, and W' its
stored weight, the error is E |W x - W' x'|^2. Two steps make it small:

- the best float weight for the inputs that come, W* = (W E[x x'^T] + r W) (E[x' x'^T] + r I)^{-1}, takes back what the
  layers before have lost, as far as it does so in many directions (r is the mean energy of an input);
- rounding column by column, each error e_j = (w_j - q_j) / U_jj spread over the columns that are still to come,
  w_k <- w_k - e_j U_jk, with U the upper Cholesky factor of the inverse of E[x' x'^T] + d I, d 1 % of that energy.

The second is GPTQ: Frantar, Ashkboos, Hoefler, Alistarh 2023 (arXiv:2210.17323), after Hassibi and Stork 1993 (Optimal
Brain Surgeon). The first is the asymmetric calibration of Li et al. 2025, GPTAQ (arXiv:2504.02692), in closed form. The
means go into the bias, which bias correction sets (Nagel et al. 2019, arXiv:1906.04721).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from penjing.structure.rules import bind
from penjing.techniques.quantize.graph import CONVOLUTIONS

DAMP, RIDGES = 0.01, (0.1, 1.0, 10.0)
_ROOM = 2**22  # values of a sample of inputs that are held at once
_LEAST, _MOST = 512, 4096


Means = tuple[Tensor, Tensor]
"""Weighted means [groups, n] of a layer's inputs in the float and in the quantised graph."""


@dataclass(frozen=True)
class Moments:
    """Weighted means [groups, n, n] of x' x'^T and x x'^T about the means, each sample counting what its place does."""

    energy: Tensor
    crossed: Tensor


@dataclass(frozen=True)
class Drawn:
    """Samples of what single outputs of a layer read, [groups, rows, n], in the float and in the quantised graph.

    places: what each row counts [rows].
    """

    inputs: Tensor
    seen: Tensor
    places: Tensor

    def split(self, share: float) -> tuple["Drawn", "Drawn"]:
        """The first rows and the rest; all rows twice where there are fewer than two."""
        rows = len(self.places)
        first = round(share * rows)
        if not 0 < first < rows:
            return self, self
        return tuple(
            Drawn(self.inputs[:, part], self.seen[:, part], self.places[part])
            for part in (slice(first), slice(first, None))
        )  # type: ignore[return-value]

    def evened(self, weight: Tensor) -> "Drawn":
        """The same rows, of which those whose outputs are large count less: w_r / (1 + |y_r|^2 / median |y|^2).

        What follows is mostly normalised, so that errors count as shares of what they disturb.
        """
        outputs = self.inputs.float() @ weight.float().reshape(len(self.inputs), -1, weight.shape[1]).mT
        size = outputs.square().sum((0, 2))
        return replace(self, places=self.places / (1 + size / size.median().clamp_min(1e-30)))

    def means(self) -> Means:
        """Average over the rows."""
        share = self._shares()
        return share @ self.inputs, share @ self.seen

    def moments(self) -> Moments:
        """Average products over the rows, about their means."""
        x, y = (each - mean[:, None] for each, mean in zip((self.inputs, self.seen), self.means(), strict=True))
        weighted = self._shares()[:, None] * y
        return Moments(*((each.mT @ weighted).double() for each in (y, x)))

    def error(self, weight: Tensor, real: Tensor, about: Means) -> float:
        """Weighted square of W (x - E x) - W' (x' - E x'), for weights [outputs, n] in float and as stored."""
        groups = len(self.inputs)
        wanted, got = (
            (rows.float() - mean[:, None]) @ matrix.float().reshape(groups, -1, matrix.shape[1]).mT
            for rows, mean, matrix in zip((self.inputs, self.seen), about, (weight, real), strict=True)
        )
        return float(((wanted - got).square().sum((0, 2)) * self.places).sum())

    def _shares(self) -> Tensor:
        return (self.places / self.places.sum()).float()


def best_rounding(
    weight: Tensor,
    scale: Tensor,
    zero: Tensor,
    limits: tuple[int, int],
    nearest: Tensor,
    drawn: Drawn,
) -> Tensor:
    """Integers [outputs, n] for a weight [outputs, n] on the grid (q - zero) * scale: by GPTQ, or else the nearest.

    Fitted to the first three quarters of the samples and judged on the rest: how much r damps, and whether the result
    is better than `nearest`.
    """
    fitted, judged = drawn.split(0.75)
    seen, means = fitted.moments(), fitted.means()
    target = weight.double().reshape(len(seen.energy), -1, weight.shape[1])
    starts = [target, *(_regained(target, seen, ridge) for ridge in RIDGES)]
    start = min(starts, key=lambda real: judged.error(weight, real.reshape(weight.shape), means))
    rounded = gptq(start, scale, zero, limits, seen.energy, closed=target == 0).reshape(weight.shape)
    errors = [judged.error(weight, (steps.double() - zero) * scale, means) for steps in (nearest, rounded)]
    return rounded if errors[1] < errors[0] else nearest


def _regained(weight: Tensor, seen: Moments, ridge: float) -> Tensor:
    """The float weight [groups, outputs, n] that gives from x' what the given one gives from x."""
    damp = ridge * seen.energy.diagonal(dim1=1, dim2=2).mean(1).clamp_min(1e-12)
    found: Tensor = torch.linalg.solve(_raised(seen.energy, damp), weight @ _raised(seen.crossed, damp), left=False)
    return found


def gptq(
    weight: Tensor, scale: Tensor, zero: Tensor, limits: tuple[int, int], energy: Tensor, *, closed: Tensor
) -> Tensor:
    """Integers for a weight [groups, outputs, n] on the grid (q - zero) * scale; energy: [groups, n, n].

    closed: bool of the weight's shape, the weights that stay zero, for which the others pay as for any rounding.

    >>> eye = torch.eye(4)[None]
    >>> gptq(eye, torch.full((4, 4), 0.5), torch.zeros(4, 4), (-127, 127), eye, closed=eye == 0)[0, 0]
    tensor([2., 0., 0., 0.], dtype=torch.float64)
    """
    weight, energy = weight.double(), energy.double()
    damped = _raised(energy, DAMP * energy.diagonal(dim1=1, dim2=2).mean(1).clamp_min(1e-12))
    order = energy.diagonal(dim1=1, dim2=2).argsort(1, descending=True)
    columns = order[:, None].expand_as(weight)
    ordered = damped.gather(1, order[:, :, None].expand_as(damped)).gather(2, order[:, None].expand_as(damped))
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(ordered))
    factor = torch.linalg.cholesky(inverse, upper=True)
    sizes, zeros = (each.double().reshape(weight.shape).gather(2, columns) for each in (scale, zero))
    rounded = _sweep(weight.gather(2, columns), sizes, zeros, limits, factor, closed.gather(2, columns))
    return torch.empty_like(rounded).scatter_(2, columns, rounded)


def mean_shift(weight: Tensor, real: Tensor, means: Means) -> Tensor:
    """What the outputs [outputs] of a layer are off on average: W E[x] - W' E[x']."""
    wanted, got = (
        (matrix.double().reshape(len(mean), -1, matrix.shape[1]) @ mean.double()[:, :, None]).flatten()
        for matrix, mean in zip((weight, real), means, strict=True)
    )
    return wanted - got


def _raised(matrices: Tensor, by: Tensor) -> Tensor:
    """Add by[g] to the diagonal of each matrix g."""
    return matrices + torch.diag_embed(by[:, None].expand(-1, matrices.shape[1]))


def _sweep(
    weight: Tensor, scale: Tensor, zero: Tensor, limits: tuple[int, int], factor: Tensor, closed: Tensor
) -> Tensor:
    """Round the columns of [groups, outputs, n] in turn, each paying for those before it, in blocks of 64."""
    weight, steps = weight.clone(), torch.empty_like(weight)
    width = weight.shape[2]
    for start in range(0, width, 64):
        end = min(start + 64, width)
        errors = weight.new_empty(*weight.shape[:2], end - start)
        for j in range(start, end):
            nearest = torch.round(weight[..., j] / scale[..., j]).masked_fill_(closed[..., j], 0)
            steps[..., j] = (nearest + zero[..., j]).clamp_(*limits)
            real = (steps[..., j] - zero[..., j]) * scale[..., j]
            error = (weight[..., j] - real) / factor[:, j, j, None]
            errors[..., j - start] = error
            weight[..., j:end] -= error[..., None] * factor[:, None, j, j:end]
        weight[..., end:] -= errors @ factor[:, start:end, end:]
    return steps


Read = Callable[[Tensor, Tensor], Tensor]
"""From an input of a layer and the numbers of places of its output: what each of these is computed from, in rows."""


def _rows(x: Tensor, chosen: Tensor) -> Tensor:
    return x.reshape(-1, x.shape[-1])[chosen]


def samples(
    layer: fx.Node, inputs: Sequence[Tensor], seen: Sequence[Tensor], weights: Sequence[Tensor], seed: int = 0
) -> Drawn:
    """Draw what single outputs of a layer are computed from, at the same places of both inputs.

    inputs, seen: batches of the layer's input in the float and in the quantised graph. weights: of the places of each.
    """
    width, groups, most = inputs[0].shape[-1], 1, _MOST
    read: Read = _rows
    if layer.target in CONVOLUTIONS:
        width, read = _windows(layer, inputs[0])
        groups, most = int(bind(layer)["groups"]), min(_MOST, max(_LEAST, _ROOM // width) + len(weights))
    each = max(1, most // len(weights))
    drawn: list[list[Tensor]] = [[], []]
    places: list[Tensor] = []
    for index, (*pair, weight) in enumerate(zip(inputs, seen, weights, strict=True)):
        chosen = _some(len(weight), each, seed + index)
        places.append(weight[chosen])
        for rows, x in zip(drawn, pair, strict=True):
            rows.append(read(x, chosen))
    float_rows, seen_rows = (
        torch.cat(rows).reshape(-1, groups, width // groups).transpose(0, 1).contiguous() for rows in drawn
    )
    return Drawn(float_rows, seen_rows, torch.cat(places))


def _some(count: int, most: int, seed: int) -> Tensor:
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed))[:most].sort().values


def _windows(layer: fx.Node, example: Tensor) -> tuple[int, Read]:
    """How many values all groups of a convolution read for one place, and how they are read."""
    call = bind(layer)
    sizes = [int(n) for n in call["weight"].meta["val"].shape[2:]]
    spatial = len(sizes)
    stride, dilation = (_each(call[name], spatial) for name in ("stride", "dilation"))
    padding = _ends(call["padding"], sizes, dilation)

    def read(x: Tensor, chosen: Tensor) -> Tensor:
        windows = nn.functional.pad(x, [n for ends in reversed(padding) for n in ends])
        for dim in range(spatial):
            windows = windows.unfold(2 + dim, dilation[dim] * (sizes[dim] - 1) + 1, stride[dim])
        strided: tuple[Any, ...] = (..., *(slice(None, None, d) for d in dilation))
        windows = windows[strided]
        n, *at = torch.unravel_index(chosen, (windows.shape[0], *windows.shape[2 : 2 + spatial]))
        where: tuple[Any, ...] = (n, slice(None), *at)
        return windows[where]

    return example.shape[1] * torch.Size(sizes).numel(), read


def _ends(padding: Any, sizes: Sequence[int], dilation: Sequence[int]) -> list[tuple[int, int]]:
    """How many zeros a convolution adds at each end of each spatial dimension."""
    if padding == "same":
        totals = [d * (k - 1) for k, d in zip(sizes, dilation, strict=True)]
        return [(total // 2, total - total // 2) for total in totals]
    return [(p, p) for p in _each(0 if padding == "valid" else padding, len(sizes))]


def _each(value: int | Sequence[int], count: int) -> list[int]:
    values = [value] if isinstance(value, int) else list(value)
    return values * count if len(values) == 1 else values
