"""FORMS: the ways to split a layer, and what its parts cost before any of them is computed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod

import torch
from torch import Tensor

from penjing.techniques.factorize.kernels import channel, spatial, spectrum, tucker, tucker_inputs
from penjing.types import Kernels


@dataclass(frozen=True)
class Form:
    """How a kernel [outputs, inputs, *sizes] becomes a chain of stages.

    factor: (weight, hessian, rank) -> stages, the first to run first. spectrum: (weight, hessian) -> what the outputs
    have of energy along each direction that a rank counts, falling. owners: the stage that has each size of the kernel.
    widths: (shape, rank) -> channels between the stages. largest: the largest rank of a shape.
    """

    factor: Callable[[Tensor, Tensor, int], tuple[Tensor, ...]]
    spectrum: Callable[[Tensor, Tensor], Tensor]
    owners: Callable[[int], tuple[int, ...]]
    widths: Callable[[torch.Size, int], tuple[int, ...]]
    largest: Callable[[torch.Size], int]

    def shapes(self, shape: torch.Size, rank: int) -> list[tuple[int, ...]]:
        """The shape of each stage."""
        widths = (shape[1], *self.widths(shape, rank), shape[0])
        owners = self.owners(len(shape) - 2)
        return [
            (
                widths[i + 1],
                widths[i],
                *(size if owner == i else 1 for size, owner in zip(shape[2:], owners, strict=True)),
            )
            for i in range(len(widths) - 1)
        ]

    def places(self, before: Sequence[int], after: Sequence[int], stages: int) -> list[int]:
        """At how many places of a sample each stage gives a value, for the spatial sizes before and after the layer."""
        ends = list(zip(before, after, self.owners(len(after)), strict=True))
        return [prod(end if owner <= i else start for start, end, owner in ends) for i in range(stages)]


def _one(_: torch.Size, rank: int) -> tuple[int, ...]:
    return (rank,)


def _channels(shape: torch.Size) -> int:
    return min(shape[0], prod(shape[1:]))


FORMS: dict[Kernels, Form] = {
    Kernels.CHANNEL: Form(
        channel,
        lambda weight, hessian: spectrum(weight, hessian, weight.ndim - 2),
        lambda sizes: (0,) * sizes,
        _one,
        _channels,
    ),
    Kernels.SPATIAL: Form(
        spatial,
        partial(spectrum, sizes=1),
        lambda sizes: tuple(range(sizes)),
        _one,
        lambda shape: min(shape[0] * shape[3], shape[1] * shape[2]),
    ),
    Kernels.TUCKER: Form(
        tucker,
        lambda weight, hessian: spectrum(weight, hessian, weight.ndim - 2),
        lambda sizes: (1,) * sizes,
        lambda shape, rank: (tucker_inputs(shape, rank), rank),
        _channels,
    ),
}


def form_of(kernels: Kernels, shape: torch.Size) -> Form:
    """The form of a layer: a linear layer and a 1 x 1 convolution have but one, and two sizes are split in two."""
    fits = prod(shape[2:]) > 1 and (kernels is not Kernels.SPATIAL or (len(shape) == 4 and min(shape[2:]) > 1))
    return FORMS[kernels if fits else Kernels.CHANNEL]
