"""Which layers of a quantised model compute in int8, read from the model itself."""

from torch import nn

STORED = ".weight_quantized"


def int8_layers(module: nn.Module) -> tuple[str, ...]:
    """Name the modules of the original whose weights are stored in int8; none for a model that was not quantised.

    >>> int8_layers(nn.Sequential(nn.Linear(2, 2)))
    ()
    """
    return tuple(name.removesuffix(STORED) for name, _ in module.named_buffers() if name.endswith(STORED))
