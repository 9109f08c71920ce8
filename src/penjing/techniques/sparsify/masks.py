"""Which weights stay: the mask of the weights that are left when those with the lowest scores go.

Counts, order and ties follow torch.nn.utils.prune, so that its users get the same masks bit for bit.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from penjing.errors import RecipeError


def prune_count(amount: float | int, size: int) -> int:
    """Number of weights that go out of `size`: round(amount * size) for a share, the amount itself for a whole number.

    Raises RecipeError if more weights should go than there are.

    >>> prune_count(0.2, 864), prune_count(10, 864)
    (173, 10)
    """
    count = amount if isinstance(amount, int) else round(amount * size)
    if count > size:
        raise RecipeError(f"Sparsify: amount={amount!r} is more than the {size} weights that are left; ask for less")
    return count


def lowest_scores_mask(scores: Sequence[Tensor], alive: Sequence[Tensor], amount: float | int) -> list[Tensor]:
    """Extend masks so that the lowest scores of all tensors together go.

    scores, alive: tensors of any shapes, pairwise equal; alive is boolean, False where a weight is gone already.
    `amount` counts the weights that are still alive, as torch's PruningContainer does. Ties fall as torch.topk lets
    them fall on the concatenated scores.

    >>> lowest_scores_mask([torch.tensor([3.0, 1.0, 2.0])], [torch.tensor([True, True, True])], 2)
    [tensor([ True, False, False])]
    """
    mask = torch.cat([a.reshape(-1) for a in alive])
    flat = torch.cat([s.reshape(-1) for s in scores])
    living = mask.nonzero().squeeze(1)
    count = prune_count(amount, living.numel())
    if count:
        mask[living[torch.topk(flat[living], count, largest=False).indices]] = False
    parts = torch.split(mask, [a.numel() for a in alive])
    return [part.view(a.shape) for part, a in zip(parts, alive, strict=True)]
