"""Attention: where a student looks shall be where its teacher looks."""

from torch import Tensor
from torch.nn import functional

from penjing.errors import WorkloadError


def attention_map(features: Tensor) -> Tensor:
    """Where the features [N, C, *space] are large: sum_c |A_c|^2, flattened and of length 1, shape [N, places].

    Zagoruyko and Komodakis 2017 (arXiv:1612.03928), section 3.1, F_sum^2.

    >>> import torch
    >>> attention_map(torch.tensor([[[[3.0, 0.0], [0.0, 0.0]], [[0.0, 2.0], [0.0, 0.0]]]]))
    tensor([[0.9138, 0.4061, 0.0000, 0.0000]])
    """
    return functional.normalize(features.float().square().sum(1).flatten(1), dim=1)


def attention_transfer(student: Tensor, teacher: Tensor) -> Tensor:
    r"""Squared distance of attention maps, ||Q_S / |Q_S| - Q_T / |Q_T| ||^2, mean over the samples.

    Zagoruyko and Komodakis 2017, "Paying More Attention to Attention" (arXiv:1612.03928), equation 2, squared as in the
    authors' code. Features are [N, C, *space], such as images; their channels may differ in
    number.

    Raises WorkloadError where there is no space of two dimensions, or another one.
    """
    if student.ndim < 4 or student.shape[2:] != teacher.shape[2:]:
        raise WorkloadError(
            f"Distill: 'attention' compares places of features [N, C, height, width], not {tuple(student.shape)} with "
            f"{tuple(teacher.shape)}; name layers of one size with layers={{student: teacher}}, or use 'similarity'"
        )
    return (attention_map(student) - attention_map(teacher)).square().sum(1).mean()


def attention_matrices(student: Tensor, teacher: Tensor) -> Tensor:
    r"""Mean squared error of attention matrices [N, heads, T, T]; the mean over heads where their numbers differ.

    Jiao et al. 2020, "TinyBERT" (arXiv:1909.10351), equation 7, here of the probabilities that the layers give.

    >>> import torch
    >>> attention_matrices(torch.ones(2, 3, 5, 5), torch.zeros(2, 4, 5, 5))
    tensor(1.)
    """
    if student.shape[1] != teacher.shape[1]:
        student, teacher = student.mean(1), teacher.mean(1)
    return functional.mse_loss(student.float(), teacher.float())
