"""What the tensors of a quantised model are called, and which of its layers compute in int8, read from that."""

import re

from torch import nn

_STORED = re.compile(r"(?P<weight>.+?)_(?P<how>quantized|int4|packed|packed_int4)(_\d+)?")
"""A weight in steps, numbered from the second call of a module on; "packed" where it is computed with in float."""


def weight_behind(stored: str) -> str:
    """Name the weight that a stored tensor stands for; any other tensor stands for itself.

    >>> weight_behind("blocks.0.weight_packed_int4"), weight_behind("blocks.0.bias")
    ('blocks.0.weight', 'blocks.0.bias')
    """
    found = _STORED.fullmatch(stored)
    return found["weight"] if found else stored


def int8_layers(module: nn.Module) -> tuple[str, ...]:
    """Name the modules of the original that compute with weights in int8; none for a model that was not quantised.

    >>> int8_layers(nn.Sequential(nn.Linear(2, 2)))
    ()
    """
    found = (_STORED.fullmatch(name) for name, _ in module.named_buffers())
    weights = (match["weight"] for match in found if match and not match["how"].startswith("packed"))
    paths = (weight.rpartition(".") for weight in weights)
    return tuple(dict.fromkeys(path for path, _, leaf in paths if leaf == "weight"))
