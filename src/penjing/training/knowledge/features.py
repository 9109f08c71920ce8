"""Features: what a layer of the student gives shall be what a layer of the teacher gives."""

from torch import Tensor, nn
from torch.nn import functional

from penjing.errors import WorkloadError


def feature_distance(student: Tensor, teacher: Tensor) -> Tensor:
    r"""Mean squared error of features, E[(r(h_S) - h_T)^2], where r is a learned `Projection` or the identity.

    Hints: Romero et al. 2015, "FitNets: Hints for Thin Deep Nets" (arXiv:1412.6550), equation 3. Hidden states of a
    transformer: Jiao et al. 2020, "TinyBERT" (arXiv:1909.10351), equation 8. Both tensors have one shape.

    >>> import torch
    >>> feature_distance(torch.ones(2, 3), torch.zeros(2, 3))
    tensor(1.)
    """
    return functional.mse_loss(student.float(), teacher.float())


class Projection(nn.Module):
    """A learned linear map along the dimension in which the features of two layers differ; dropped after training.

    Along the channels of images it is a convolution of 1x1.

    >>> import torch
    >>> Projection(dim=1, inputs=4, outputs=6)(torch.zeros(2, 4, 5, 5)).shape
    torch.Size([2, 6, 5, 5])
    """

    def __init__(self, dim: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.dim = dim
        self.map = nn.Linear(inputs, outputs, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        mapped: Tensor = self.map(features.movedim(self.dim, -1))
        return mapped.movedim(-1, self.dim)


def projection(student: Tensor, teacher: Tensor, where: str) -> nn.Module:
    """What makes the student's features comparable: nothing where shapes agree, a map where one dimension differs.

    Raises WorkloadError, naming the layers (`where`), where more than one does.

    >>> import torch
    >>> projection(torch.zeros(2, 4), torch.zeros(2, 6), "fc")
    Projection(
      (map): Linear(in_features=4, out_features=6, bias=False)
    )
    """
    shapes = student.shape[1:], teacher.shape[1:]
    other = [i for i, (a, b) in enumerate(zip(*shapes, strict=False), 1) if a != b]
    if student.ndim != teacher.ndim or len(other) > 1:
        raise WorkloadError(
            f"Distill: {where} give features of shapes {tuple(shapes[0])} and {tuple(shapes[1])} for a sample, which "
            "differ in more than the channels; name other layers with layers={student: teacher}"
        )
    return Projection(other[0], student.shape[other[0]], teacher.shape[other[0]]) if other else nn.Identity()
