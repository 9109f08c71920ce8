"""How many weights go from each tensor."""

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
