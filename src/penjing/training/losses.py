"""Distance of a student's outputs from its teacher's."""

from typing import Any

from torch import Tensor
from torch.nn import functional

from penjing.errors import WorkloadError

IGNORED_TARGET = -100  # the label that torch.nn.functional.cross_entropy leaves out


def distillation_kl(student: Tensor, teacher: Tensor, temperature: float = 4.0, dim: int = -1) -> Tensor:
    r"""Divergence of softened class probabilities, T^2 KL(softmax(z_t / T) || softmax(z_s / T)).

    Hinton, Vinyals and Dean 2015, "Distilling the Knowledge in a Neural Network" (arXiv:1503.02531), section 2; T^2
    keeps the gradients at one scale for every temperature. `student` and `teacher` are logits of one shape with the
    classes along `dim`; the result has that shape without `dim`, so that positions can be masked.

    >>> import torch
    >>> distillation_kl(torch.zeros(2, 3), torch.zeros(2, 3))
    tensor([0., 0.])
    """
    log_s = functional.log_softmax(student.float() / temperature, dim)
    log_t = functional.log_softmax(teacher.float() / temperature, dim)
    return temperature**2 * functional.kl_div(log_s, log_t, reduction="none", log_target=True).sum(dim)


def class_dim(outputs: Tensor, target: Any) -> int | None:
    """Find the dimension of `outputs` that holds classes, given the target; None when they are no class scores.

    Class numbers of shape [N, ...] go with logits [N, ..., C], or [N, C, ...] for dense prediction.

    >>> import torch
    >>> class_dim(torch.zeros(4, 10), torch.zeros(4, dtype=torch.long))
    -1
    >>> class_dim(torch.zeros(4, 21, 8, 8), torch.zeros(4, 8, 8, dtype=torch.long))
    1
    >>> class_dim(torch.zeros(4, 10), torch.zeros(4, 10)) is None
    True
    """
    if not isinstance(target, Tensor) or target.is_floating_point() or outputs.ndim != target.ndim + 1:
        return None
    if outputs.shape[:-1] == target.shape:
        return -1
    return 1 if outputs.shape[:1] + outputs.shape[2:] == target.shape else None


def distillation(student: Tensor, teacher: Tensor, target: Any, temperature: float) -> Tensor:
    """Scalar distance of a student's outputs from its teacher's.

    Class scores: the mean of `distillation_kl` over all positions whose label is not ignored (-100). Everything else
    (regression, embeddings, independent labels): mean squared error, as in Ba and Caruana 2014, "Do Deep Nets Really
    Need to be Deep?" (arXiv:1312.6184).

    Raises WorkloadError when the two shapes differ.
    """
    if student.shape != teacher.shape:
        raise WorkloadError(
            f"distillation: the model gives outputs of shape {tuple(student.shape)}, its teacher {tuple(teacher.shape)}"
            "; use a teacher with the same outputs, or Finetune(distill=False)"
        )
    dim = class_dim(student, target)
    if dim is None:
        return functional.mse_loss(student.float(), teacher.float())
    divergence = distillation_kl(student, teacher, temperature, dim)
    counted = target != IGNORED_TARGET
    mean: Tensor = (divergence * counted).sum() / counted.sum().clamp(min=1)
    return mean
