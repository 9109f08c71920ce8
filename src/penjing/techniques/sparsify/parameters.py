"""Which tensors are meant: names, or (module, name) pairs as in torch.nn.utils.prune, turned into parameter names."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import fx, nn

from penjing.errors import RecipeError
from penjing.structure import GraphModel

aten = torch.ops.aten

Attributes = tuple[tuple[tuple[type[nn.Module], ...], tuple[str, ...]], ...]
"""Types of modules, and what tensors of theirs are meant."""

WEIGHT_ATTRIBUTES: Attributes = (
    ((nn.modules.conv._ConvNd, nn.Linear), ("weight",)),
    ((nn.Bilinear,), ("weight",)),
    ((nn.MultiheadAttention,), ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")),
)

WEIGHT_OPERATORS = frozenset(
    {
        aten.linear.default,
        aten.conv1d.default,
        aten.conv2d.default,
        aten.conv3d.default,
        aten.conv_transpose1d.default,
        aten.conv_transpose2d.input,
        aten.conv_transpose3d.input,
    }
)


GAIN_ATTRIBUTES: Attributes = (((nn.modules.batchnorm._NormBase,), ("weight",)),)

GAIN_OPERATORS = frozenset({aten.batch_norm.default})


def weight_names(model: nn.Module) -> tuple[str, ...]:
    """Names of every convolution and linear weight, in the order of the model, a shared weight once.

    A captured graph has no layers to ask; there the weights are the second operands of its convolutions and linears.

    >>> weight_names(nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 2)))
    ('0.weight', '3.weight')
    """
    return _names(model, WEIGHT_ATTRIBUTES, WEIGHT_OPERATORS)


def gain_names(model: nn.Module) -> tuple[str, ...]:
    """Names of the gains of every batch norm that has some, as `weight_names` gives those of weights.

    >>> gain_names(nn.Sequential(nn.Linear(1, 2), nn.BatchNorm1d(2), nn.BatchNorm1d(2, affine=False)))
    ('1.weight',)
    """
    return _names(model, GAIN_ATTRIBUTES, GAIN_OPERATORS)


def parametrized_names(model: nn.Module) -> tuple[str, ...]:
    """Names of convolution and linear weights that torch.nn.utils.parametrize computes: there is no tensor to zero."""
    known = dict(model.named_parameters(remove_duplicate=False))
    return tuple(
        name
        for name in _names_in_modules(model, WEIGHT_ATTRIBUTES)
        if name not in known and nn.utils.parametrize.is_parametrized(*_owner(model, name))
    )


def resolve(
    parameters: Iterable[str | tuple[nn.Module, str]] | None, original: nn.Module, model: nn.Module
) -> tuple[str, ...]:
    """Turn what Sparsify(parameters=...) was given into names of parameters of `model`, each tensor once.

    Pairs hold modules of `original`, the user's model; `model` is the working copy, whose names are the same.
    Raises RecipeError for a module that is no part of the original, and for a name that the model does not have.
    """
    if parameters is None:
        return weight_names(model)
    known = dict(model.named_parameters(remove_duplicate=False))
    names = plain_names(parameters, original)
    for i, name in enumerate(names):
        if name not in known:
            raise RecipeError(f"Sparsify: parameters[{i}]: the model has no parameter {name!r}; {_remedy(model, name)}")
    return _each_once(names, known)


def plain_names(parameters: Iterable[str | tuple[nn.Module, str]], original: nn.Module) -> tuple[str, ...]:
    """Replace the pairs of Sparsify(parameters=...), whose modules are those of `original`, by parameter names.

    Raises RecipeError for a module that is no part of the original, and for anything but names and pairs.

    >>> model = nn.Sequential(nn.Linear(2, 2))
    >>> plain_names([(model[0], "weight"), "0.bias"], model)
    ('0.weight', '0.bias')
    """
    path_of = {id(module): path for path, module in original.named_modules()}
    return tuple(
        item if isinstance(item, str) else _name_of_pair(i, item, path_of) for i, item in enumerate(parameters)
    )


def _name_of_pair(i: int, pair: object, path_of: dict[int, str]) -> str:
    if not (isinstance(pair, tuple) and len(pair) == 2 and isinstance(pair[0], nn.Module) and isinstance(pair[1], str)):
        raise RecipeError(f"Sparsify: parameters[{i}] is {pair!r}; give (module, 'weight') or a parameter name")
    module, attribute = pair
    if id(module) not in path_of:
        raise RecipeError(
            f"Sparsify: parameters[{i}]: {module!r} is no part of the model; take modules of the very model that is "
            "optimised, or names such as 'layer1.0.conv1.weight'"
        )
    path = path_of[id(module)]
    return f"{path}.{attribute}" if path else attribute


def _remedy(model: nn.Module, name: str) -> str:
    if name in parametrized_names(model):
        return "it is parametrised; call torch.nn.utils.parametrize.remove_parametrizations first"
    return f"its weights are {', '.join(weight_names(model)) or 'none'}"


def _names(model: nn.Module, attributes: Attributes, operators: frozenset[Any]) -> tuple[str, ...]:
    if isinstance(model, fx.GraphModule | GraphModel):
        names = _names_in_graph(model, operators)
    else:
        names = _names_in_modules(model, attributes)
    return _each_once(names, dict(model.named_parameters(remove_duplicate=False)))


def _each_once(names: Iterable[str], known: Mapping[str, nn.Parameter]) -> tuple[str, ...]:
    """The names that are known, a shared tensor by its first."""
    first: dict[int, str] = {}
    for name in names:
        if name in known:
            first.setdefault(id(known[name]), name)
    return tuple(first.values())


def _names_in_modules(model: nn.Module, attributes: Attributes) -> Iterable[str]:
    for path, module in model.named_modules():
        for types, names in attributes:
            if isinstance(module, types):
                yield from (f"{path}.{name}" if path else name for name in names)


def _names_in_graph(model: fx.GraphModule | GraphModel, operators: frozenset[Any]) -> Iterable[str]:
    for node in model.graph.nodes:
        if node.target in operators and isinstance(weight := node.args[1], fx.Node) and weight.op == "get_attr":
            yield str(weight.target)


def _owner(model: nn.Module, name: str) -> tuple[nn.Module, str]:
    path, _, attribute = name.rpartition(".")
    return model.get_submodule(path), attribute
