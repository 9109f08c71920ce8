"""How many weights go from each tensor."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def erdos_renyi_kernel(shapes: list[torch.Size], amount: float) -> list[float]:
    r"""Shares that go from each tensor so that `amount` goes of all: thin tensors keep more.

    The density of a tensor is epsilon times sum(shape) / prod(shape), at most 1, with the one epsilon that meets the
    amount. Evci et al. 2020, "Rigging the Lottery: Making All Tickets Winners" (arXiv:1911.11134), section 3, after
    Mocanu et al. 2018 (doi:10.1038/s41467-018-04316-3).

    >>> [round(share, 3) for share in erdos_renyi_kernel([torch.Size([64, 64]), torch.Size([8, 64])], 0.5)]
    [0.562, 0.0]
    """
    sizes = [shape.numel() for shape in shapes]
    raw = [sum(shape) / max(1, size) for shape, size in zip(shapes, sizes, strict=True)]
    dense: set[int] = set()
    while True:
        left = [i for i in range(len(shapes)) if i not in dense]
        budget = (1 - amount) * sum(sizes) - sum(sizes[i] for i in dense)
        weight = sum(raw[i] * sizes[i] for i in left)
        epsilon = budget / weight if weight else 0.0
        full = {i for i in left if epsilon * raw[i] > 1}
        if not full:
            return [0.0 if i in dense else 1 - epsilon * raw[i] for i in range(len(shapes))]
        dense |= full


def below_deviation(weight: Tensor, scores: Tensor, amount: float) -> int:
    r"""How many scores lie below `amount` standard deviations of the weights: |w| < s sigma(w).

    The sensitivity of Han et al. 2015, "Learning both Weights and Connections" (arXiv:1506.02626), as in Distiller's
    SensitivityPruner; `scores` are magnitudes.

    >>> weight = torch.tensor([-1.0, 0.1, 0.2, 1.0])
    >>> below_deviation(weight, weight.abs(), 0.5)
    2
    """
    return int((scores < amount * weight.std(correction=0)).sum())


def least_error(
    errors: Sequence[Sequence[float]], densities: Sequence[float], sizes: Sequence[int], amount: float
) -> list[float]:
    """Shares that go from each tensor so that `amount` goes of all and the sum of their errors is least.

    errors: [tensors][densities], what a layer loses when so many of its weights stay, of what it gives; between it is
    linear, 1 at density 0 and 0 at density 1. Where one price for a weight suits all tensors the sum is least (Everett
    1963, doi:10.1287/opre.11.3.399).

    >>> [round(share, 2) for share in least_error([[0.1, 0.6], [0.01, 0.03]], [0.5, 0.25], [100, 100], 0.5)]
    [0.25, 0.75]
    """
    points = torch.linspace(min(0.01, 1 - amount), 1, 400, dtype=torch.float64)  # no layer goes whole unasked
    known = [0.0, *reversed(densities), 1.0]
    curves = torch.stack([torch.from_numpy(np.interp(points, known, [1.0, *reversed(curve), 0.0])) for curve in errors])
    room = torch.tensor(sizes, dtype=torch.float64)
    wanted = (1 - amount) * float(room.sum())

    def at(price: float) -> Tensor:
        return points[(curves + price * room[:, None] * points).argmin(1)]

    cheap, dear = 1e-15, 1e3
    for _ in range(100):
        price = (cheap * dear) ** 0.5
        cheap, dear = (price, dear) if float(at(price) @ room) > wanted else (cheap, price)
    many, few = at(cheap), at(dear)
    apart = float((many - few) @ room)
    part = min(max((wanted - float(few @ room)) / apart, 0.0), 1.0) if apart > 0 else 0.0
    return [1 - density for density in (few + part * (many - few)).tolist()]
