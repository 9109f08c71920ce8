"""An optimizer follows its model through a cut: momentum and variances are sliced as their parameters are."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import LBFGS, Optimizer

from penjing.errors import RecipeError, ShapeError
from penjing.structure.surgery import Indices, Surgery


def remap_optimizer(
    optimizer: Optimizer, original: nn.Module, smaller: nn.Module, surgery: Surgery | None
) -> Optimizer:
    """Move an optimizer from the original's parameters to those of the cut model; training goes on where it was.

    Parameters are matched by name, so that both routes of a cut will do. State of a parameter's shape (momentum,
    exp_avg, exp_avg_sq ...), and state that is factored along its dimensions, loses what the parameter lost; all else
    (step counts, learning rates, flags, the order of the groups) stays. Parameters that the cut model no longer has,
    because no forward uses them, leave their groups. The optimizer is changed and returned: schedulers and gradient
    scalers that hold it stay valid. An error leaves it as it was.

    Raises RecipeError for LBFGS, whose history is of all parameters at once, and ShapeError where optimizer, models and
    surgery do not belong together.

    >>> import torch, penjing as pj
    >>> model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 2))
    >>> optimizer = torch.optim.Adam(model.parameters())
    >>> model(torch.zeros(2, 4)).sum().backward()
    >>> optimizer.step()
    >>> outcome = pj.apply(model, pj.PruneChannels(0.5), torch.zeros(2, 4))
    >>> optimizer = remap_optimizer(optimizer, model, outcome.model, outcome.surgery)
    >>> optimizer.state[outcome.model[0].weight]["exp_avg"].shape
    torch.Size([8, 4])
    """
    if isinstance(optimizer, LBFGS):
        raise RecipeError(
            "remap_optimizer: LBFGS keeps the history of all parameters as one vector, which no cut can follow; make a "
            "new LBFGS for the cut model"
        )
    surgery = Surgery({}) if surgery is None else surgery
    names: dict[int, list[str]] = defaultdict(list)
    for name, parameter in original.named_parameters(remove_duplicate=False):
        names[id(parameter)].append(name)
    successors = dict(smaller.named_parameters(remove_duplicate=False))
    params: list[list[nn.Parameter]] = []
    state: dict[Tensor, dict[str, Any]] = defaultdict(dict)
    for group in optimizer.param_groups:
        params.append([])
        for parameter in group["params"]:
            if id(parameter) not in names:
                raise ShapeError(
                    f"the optimizer holds a parameter of shape {tuple(parameter.shape)} that is not one of "
                    f"{type(original).__name__}; pass the model that the optimizer was made for"
                )
            name = _name(names[id(parameter)], surgery)
            successor = successors.get(name)
            if successor is None:
                continue
            _check(name, surgery.slice(name, parameter.detach()), successor)
            params[-1].append(successor)
            if parameter in optimizer.state:
                state[successor] = _sliced(name, parameter, optimizer.state[parameter], surgery)
    for group, successors_of_group in zip(optimizer.param_groups, params, strict=True):
        group["params"] = successors_of_group
    optimizer.state = state  # type: ignore[assignment]
    return optimizer


def _check(name: str, expected: Tensor, found: Tensor) -> None:
    if expected.shape != found.shape:
        raise ShapeError(
            f"{name} has shape {tuple(found.shape)} in the cut model, but the surgery leaves {tuple(expected.shape)}; "
            "pass the surgery of this very cut"
        )


def _name(names: Sequence[str], surgery: Surgery) -> str:
    """The name under which a surgery knows a parameter, of which a tied one has several."""
    return next((name for name in names if name in surgery.kept), names[0])


def _sliced(name: str, parameter: Tensor, state: Mapping[str, Any], surgery: Surgery) -> dict[str, Any]:
    dims = surgery.kept.get(name, {})
    return {
        key: _slice(f"the optimizer's {key} of {name}", parameter, value, dims) if isinstance(value, Tensor) else value
        for key, value in state.items()
    }


def _slice(what: str, parameter: Tensor, value: Tensor, dims: Mapping[int, Indices]) -> Tensor:
    if not dims or not value.ndim:
        return value
    fits = zip(value.shape, parameter.shape, strict=False)
    if value.ndim != parameter.ndim or any(size not in (1, whole) for size, whole in fits):
        raise ShapeError(
            f"{what} has shape {tuple(value.shape)} for a parameter of shape {tuple(parameter.shape)}: it is not known "
            "what of it the cut removes; make a new optimizer for the cut model"
        )
    for dim, kept in dims.items():
        if value.shape[dim] == parameter.shape[dim]:
            value = value.index_select(dim, torch.from_numpy(kept).to(value.device))
    return value
