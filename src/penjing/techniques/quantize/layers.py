"""What the tensors of a quantised model are called, and which of its layers compute in int8, read from that."""

import re

import torch
from torch import nn

from penjing.recipe.schemes import INTEGERS

_STORED = re.compile(r"(?P<weight>.+?)_(?P<how>quantized|(packed_)?int(?P<bits>[234])|packed)(_\d+)?")
"""A weight in steps, numbered from the second call of a module on; "packed" where it is computed with in float."""


def weight_behind(stored: str) -> str:
    """Name the weight that a stored tensor stands for; any other tensor stands for itself.

    >>> weight_behind("blocks.0.weight_packed_int4"), weight_behind("blocks.0.bias")
    ('blocks.0.weight', 'blocks.0.bias')
    """
    found = _STORED.fullmatch(stored)
    return found["weight"] if found else stored


def limits_of(stored: str, dtype: torch.dtype) -> tuple[int, int]:
    """Smallest and largest step of a stored weight, by its name and the type that holds it.

    >>> limits_of("head.weight_packed_int4_1", torch.int8), limits_of("head.weight_quantized", torch.int8)
    ((-7, 7), (-127, 127))
    """
    found = _STORED.fullmatch(stored)
    bits = (found and found["bits"]) or "8"
    return INTEGERS[f"{'u' if dtype == torch.uint8 else ''}int{bits}"]


def is_quantized(module: nn.Module) -> bool:
    """Whether a model holds weights that were stored in fewer bits.

    >>> is_quantized(nn.Linear(2, 2))
    False
    """
    return any(_STORED.fullmatch(name) for name, _ in module.named_buffers())


def int8_layers(module: nn.Module) -> tuple[str, ...]:
    """Name the modules of the original that compute with weights in int8; none for a model that was not quantised.

    >>> int8_layers(nn.Sequential(nn.Linear(2, 2)))
    ()
    """
    found = (_STORED.fullmatch(name) for name, _ in module.named_buffers())
    weights = (match["weight"] for match in found if match and not match["how"].startswith("packed"))
    paths = (weight.rpartition(".") for weight in weights)
    return tuple(dict.fromkeys(path for path, _, leaf in paths if leaf == "weight"))
