"""Relations: how the samples of a batch lie to each other, whatever the space of the features is."""

import torch
from torch import Tensor
from torch.nn import functional


def relative_distances(features: Tensor) -> Tensor:
    """Distances between all samples as multiples of their mean, psi_D, shape [N, N].

    >>> relative_distances(torch.tensor([[0.0], [1.0], [3.0]]))
    tensor([[0.0000, 0.5000, 1.5000],
            [0.5000, 0.0000, 1.0000],
            [1.5000, 1.0000, 0.0000]])
    """
    flat = features.float().flatten(1)
    squares = (flat[:, None] - flat[None]).square().sum(-1)
    distances = torch.where(squares > 0, squares, 1.0).sqrt() * (squares > 0)  # the root has no slope at zero
    return distances / distances.sum().clamp(min=1e-12) * (squares > 0).sum()


def angles(features: Tensor) -> Tensor:
    """Cosines of the angles at j between i and k, psi_A, shape [N, N, N] with j first.

    >>> angles(torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]))[0, 1]
    tensor([0., 1., 0.])
    """
    flat = features.float().flatten(1)
    directions = functional.normalize(flat[None] - flat[:, None], dim=-1)
    return directions @ directions.mT


def relational_distances(student: Tensor, teacher: Tensor) -> Tensor:
    r"""Huber distance of relative distances, RKD-D.

    Park, Kim, Lu and Cho 2019, "Relational Knowledge Distillation" (arXiv:1904.05068), equations 5 to 8.
    """
    return functional.smooth_l1_loss(relative_distances(student), relative_distances(teacher))


def relational_angles(student: Tensor, teacher: Tensor) -> Tensor:
    r"""Huber distance of angles, RKD-A.

    Park et al. 2019 (arXiv:1904.05068), equations 9 and 10. Memory grows as N^3 for N samples.
    """
    return functional.smooth_l1_loss(angles(student), angles(teacher))


def similarity(student: Tensor, teacher: Tensor) -> Tensor:
    r"""Distance of the similarities of samples, ||G_S - G_T||_F^2 / N^2, where G = Q Q^T with rows of length 1.

    Tung and Mori 2019, "Similarity-Preserving Knowledge Distillation" (arXiv:1907.09682), equations 1 to 4. Features
    are [N, ...] of any size.
    """
    mine, theirs = (_similarities(features) for features in (student, teacher))
    return (mine - theirs).square().mean()


def _similarities(features: Tensor) -> Tensor:
    flat = features.float().flatten(1)
    return functional.normalize(flat @ flat.mT, dim=1)
