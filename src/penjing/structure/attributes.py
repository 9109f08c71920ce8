"""The sizes that standard modules hold beside their parameters, set after a cut: one row for each class."""

import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

Kept = Mapping[str, Mapping[int, NDArray[np.int64]]]


def _convolution(module: Any, kept: Kept) -> None:
    module.groups = _groups_left(module.groups, module.out_channels, kept.get("weight", {}).get(0))
    module.out_channels, module.in_channels = module.weight.shape[0], module.weight.shape[1] * module.groups


def _transposed(module: Any, kept: Kept) -> None:
    module.groups = _groups_left(module.groups, module.in_channels, kept.get("weight", {}).get(0))
    module.in_channels, module.out_channels = module.weight.shape[0], module.weight.shape[1] * module.groups


def _group_norm(module: Any, kept: Kept) -> None:
    module.num_groups = _groups_left(module.num_groups, module.num_channels, kept.get("weight", {}).get(0))
    module.num_channels = module.weight.shape[0]


def _groups_left(groups: int, channels: int, kept: NDArray[np.int64] | None) -> int:
    """A group is left when any of its channels is."""
    return groups if kept is None else len(np.unique(kept // (channels // groups)))


def _linear(module: Any, kept: Kept) -> None:
    module.out_features, module.in_features = module.weight.shape


def _batch_norm(module: Any, kept: Kept) -> None:
    tensors = (module.weight, module.running_mean)
    module.num_features = next(len(tensor) for tensor in tensors if tensor is not None)


def _layer_norm(module: Any, kept: Kept) -> None:
    module.normalized_shape = tuple(module.weight.shape)


def _embedding(module: Any, kept: Kept) -> None:
    module.num_embeddings, module.embedding_dim = module.weight.shape


def _recurrent(module: Any, kept: Kept) -> None:
    gates = {"LSTM": 4, "GRU": 3}.get(module.mode, 1)
    module.hidden_size, module.input_size = module.weight_hh_l0.shape[0] // gates, module.weight_ih_l0.shape[1]
    if module.proj_size:
        module.proj_size = module.weight_hr_l0.shape[0]
    module._init_flat_weights()


def _cell(module: Any, kept: Kept) -> None:
    module.hidden_size, module.input_size = module.weight_hh.shape[1], module.weight_ih.shape[1]


def _prelu(module: Any, kept: Kept) -> None:
    module.num_parameters = len(module.weight)


_COMPUTES = (BasePruningMethod, WeightNorm, SpectralNorm)
_SETTERS: dict[type[nn.Module], Callable[[Any, Kept], None]] = {
    _ConvTransposeNd: _transposed,
    _ConvNd: _convolution,
    nn.Linear: _linear,
    _NormBase: _batch_norm,
    nn.LayerNorm: _layer_norm,
    nn.RMSNorm: _layer_norm,
    nn.GroupNorm: _group_norm,
    nn.Embedding: _embedding,
    nn.RNNBase: _recurrent,
    nn.RNNCellBase: _cell,
    nn.PReLU: _prelu,
}


def set_attributes(module: nn.Module, kept: Kept) -> None:
    """Make a module's attributes agree with its parameters; `kept` holds the kept indices of its own tensors."""
    for kind, setter in _SETTERS.items():
        if isinstance(module, kind):
            _recompute(module)
            setter(module, kept)
            return


def owner_of(name: str) -> tuple[str, str]:
    """The module that a tensor belongs to, and what it is there: parts of a computed weight count as the weight.

    >>> owner_of("conv.parametrizations.weight.original0"), owner_of("conv.weight_orig"), owner_of("scale")
    (('conv', 'weight'), ('conv', 'weight'), ('', 'scale'))
    """
    name = re.sub(r"(^|\.)parametrizations\.(\w+)\.original[01]?$", r"\1\2", name)
    path, _, key = name.rpartition(".")
    return path, re.sub(r"^(weight|bias)(_orig|_g)$", r"\1", key)


def _recompute(module: nn.Module) -> None:
    """Weights that torch computes before each forward are plain attributes: they are made anew at their new size."""
    for hook in module._forward_pre_hooks.values():
        if isinstance(hook, _COMPUTES):
            with torch.no_grad():
                hook(module, ())
