"""Which layers of a quantised model compute in int8, read from the model itself."""

import re

from torch import nn

_STORED = re.compile(r"(?:(.*)\.)?weight_(?:quantized|int4)(_\d+)?")  # numbered from the second call of a module on


def int8_layers(module: nn.Module) -> tuple[str, ...]:
    """Name the modules of the original whose weights are stored in int8; none for a model that was not quantised.

    >>> int8_layers(nn.Sequential(nn.Linear(2, 2)))
    ()
    """
    found = (_STORED.fullmatch(name) for name, _ in module.named_buffers())
    return tuple(dict.fromkeys(match[1] or "" for match in found if match))
