"""Filters that are left out at random while a model trains, as dropout leaves out neurons: Distiller's DropFilter."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from penjing.errors import RecipeError


def filter_mask(filters: int, share: float) -> Tensor:
    """What each filter's output is multiplied by, [filters]: 0 with probability `share`, else 1 / (1 - share).

    The dropout of `torch.nn.Dropout2d` (Tompson et al. 2015, "Efficient Object Localization Using Convolutional
    Networks", arXiv:1411.4280), but alike for all samples of a batch.

    >>> torch.unique(filter_mask(1000, 0.5)).tolist()
    [0.0, 2.0]
    """
    return (torch.rand(filters) >= share).float() / (1 - share)


@contextmanager
def dropping_filters(model: nn.Module, share: float) -> Iterator[None]:
    """Drop a share of the filters of each convolution in each forward pass in training mode, while it is active.

    Raises RecipeError for a model without convolutions of its own class, such as a rewritten graph.
    """
    layers = [module for module in model.modules() if isinstance(module, nn.modules.conv._ConvNd)] if share else []
    if share and not layers:
        raise RecipeError(
            f"Finetune: drop_filters={share!r}: {type(model).__name__} has no convolution layer whose filters could be "
            "left out; leave it out"
        )

    def drop(module: nn.Module, _: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
        assert isinstance(module, nn.modules.conv._ConvNd)
        if not module.training:
            return None
        mask = filter_mask(module.out_channels, share).to(output)
        return output * mask.view(-1, *[1] * len(module.kernel_size))

    handles = [layer.register_forward_hook(drop) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
