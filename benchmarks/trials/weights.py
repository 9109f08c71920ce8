"""Random weights that hide nothing: no tensor is constant, no layer's contribution vanishes.

Fresh models start with zero biases, norms that do nothing, heads and layer scales that are zero or tiny: an output that
is the same constant for any input equals any reference, and a mistake behind it stays unseen.
"""

import torch
from torch import Tensor, nn

TINY = 1e-2


@torch.no_grad()
def randomise(model: nn.Module, seed: int = 0) -> None:
    """Draw every degenerate tensor of a model anew: constant ones, tiny ones, and running statistics.

    Vectors called weight (scales of norms and of layers) lie in [0.5, 1.5], other vectors in N(0, 0.1^2), matrices and
    kernels in N(0, 1 / fan_in). Running means are N(0, 0.1^2), running variances lie in [0.5, 1.5]. Buffers that are no
    running statistic are part of the architecture (masks, tables of positions) and stay.

    >>> layer = nn.BatchNorm1d(3)
    >>> randomise(layer)
    >>> bool((layer.running_var > 0).all()), len(set(layer.weight.tolist()))
    (True, 3)
    """
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if parameter.is_floating_point() and is_degenerate(parameter):
            parameter.copy_(_draw(name, parameter, generator))
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            buffer.copy_(0.1 * torch.randn(buffer.shape, generator=generator))
        elif name.endswith("running_var"):
            buffer.copy_(0.5 + torch.rand(buffer.shape, generator=generator))


def is_degenerate(tensor: Tensor) -> bool:
    """Whether a tensor is constant or nearly nothing."""
    tensor = tensor.detach()
    return tensor.numel() > 0 and (bool((tensor == tensor.flatten()[0]).all()) or float(tensor.abs().max()) < TINY)


def _draw(name: str, tensor: Tensor, generator: torch.Generator) -> Tensor:
    wide = [size for size in tensor.shape if size > 1]
    if len(wide) > 1:
        fan_in = tensor[0].numel()
        return torch.randn(tensor.shape, generator=generator) / fan_in**0.5
    scales = ("bias" not in name and float(tensor.flatten()[0]) != 0) or "gamma" in name or name.endswith("weight")
    if scales:
        return 0.5 + torch.rand(tensor.shape, generator=generator)
    return 0.1 * torch.randn(tensor.shape, generator=generator)
