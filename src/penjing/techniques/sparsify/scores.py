"""How much a single weight matters. The lowest scores go first."""

from collections.abc import Callable

import torch
from torch import Tensor

from penjing.errors import RecipeError

Score = Callable[[Tensor, torch.Generator], Tensor]
"""A weight tensor and a random generator (on the CPU) in, importance of the same shape out."""


def l1(weight: Tensor, generator: torch.Generator) -> Tensor:
    r"""Score by magnitude, s_i = |w_i|.

    Keeping the k largest magnitudes is the exact solution of min ||w - w'||_2 subject to ||w'||_0 <= k (the Euclidean
    projection), and the criterion of Han et al. 2015, "Learning both Weights and Connections" (arXiv:1506.02626).

    >>> l1(torch.tensor([-2.0, 1.0]), torch.Generator())
    tensor([2., 1.])
    """
    return weight.abs()


def l2(weight: Tensor, generator: torch.Generator) -> Tensor:
    """Score by energy, s_i = w_i^2: the order of l1, for sums and comparisons that speak of energy.

    >>> l2(torch.tensor([-2.0, 1.0]), torch.Generator())
    tensor([4., 1.])
    """
    return weight.square()


def random(weight: Tensor, generator: torch.Generator) -> Tensor:
    """Score by a uniform draw: the control that every criterion has to beat.

    >>> random(torch.zeros(3), torch.Generator().manual_seed(0)).shape
    torch.Size([3])
    """
    return torch.rand(weight.shape, generator=generator).to(weight.device)


SCORES: dict[str, Score] = {"l1": l1, "l2": l2, "random": random}


def register_score(name: str, score: Score) -> None:
    """Make a score known under a name, so that Sparsify(score=name) finds it.

    Raises RecipeError if the name is taken.
    """
    if name in SCORES:
        raise RecipeError(f"score {name!r} is already registered; choose another name than {', '.join(SCORES)}")
    SCORES[name] = score
