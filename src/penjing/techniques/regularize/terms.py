"""What a penalty is of: the values of single weights and gains, or the energies of units."""

from collections.abc import Callable, Iterable, Iterator
from fnmatch import fnmatch
from functools import partial

import torch
from torch import Tensor, nn

from penjing.errors import RecipeError
from penjing.recipe import Regularize
from penjing.recipe.regularize import COUPLED
from penjing.structure import Group, capture, couple
from penjing.techniques.sparsify.parameters import gain_names, weight_names
from penjing.techniques.sparsify.patterns import OfEvery, find_pattern, sum_per_unit
from penjing.types import Penalty
from penjing.workload import ExampleInputs

Term = Callable[[], Tensor]
"""Gives the values or energies of one tensor or group as they are now; gradients pass."""

_VALUES = {Penalty.L1: weight_names, Penalty.BATCH_NORM: gain_names}


def terms_of(step: Regularize, model: nn.Module, example: ExampleInputs) -> list[Term]:
    """Find what is penalised, a term for each tensor or group; values that are not trained have none.

    Raises RecipeError for an unknown pattern, and where nothing is found.
    """
    kind = Penalty(step.kind)
    if kind in _VALUES:
        names = _chosen(step, _VALUES[kind](model), model)
        found: list[Term] = [partial(model.get_parameter, name) for name in names]
    elif step.pattern == COUPLED:
        groups = couple(capture(model, example)).groups
        found = list(_of_groups(step, (g for g in groups if g.prunable and g.exact), model))
    else:
        found = list(_of_units(step, _chosen(step, weight_names(model), model), model))
    if not found:
        limit = "" if step.parameters is None else f" among parameters={step.parameters!r}"
        raise RecipeError(
            f"Regularize: kind='{kind}', pattern={step.pattern!r} finds nothing that trains in {type(model).__name__}"
            f"{limit}; `pj.couple` lists groups, and model.named_parameters() weights"
        )
    if kind is Penalty.GROUP_VARIANCE and all(len(term()) < 2 for term in found):
        raise RecipeError(
            f"Regularize: kind='{kind}', pattern={step.pattern!r} compares units, and none has another beside it; use "
            "'group_lasso'"
        )
    return [_lowest(term, step.amount) for term in found] if step.amount is not None else found


def _of_units(step: Regularize, names: Iterable[str], model: nn.Module) -> Iterator[Term]:
    pattern = find_pattern(step.pattern)
    if isinstance(pattern, OfEvery):
        raise RecipeError(f"Regularize: pattern={step.pattern!r} has no units; use '{COUPLED}', 'filters' or '4x1'")
    for name in names:
        weight = model.get_parameter(name)
        units = pattern(name, weight).to(weight.device)
        yield partial(_energies_of_units, weight, units)


def _of_groups(step: Regularize, groups: Iterable[Group], model: nn.Module) -> Iterator[Term]:
    known = dict(model.named_parameters(remove_duplicate=False))
    for group in groups:
        owned = [member for member in group.members if member.parameter in known]
        if not _chosen(step, (member.parameter for member in owned), model):
            continue
        parts = [
            (known[member.parameter], member.dim, torch.from_numpy(member.index))
            for member in owned
            if _trains(known[member.parameter])
        ]
        yield partial(_energies_of_group, parts)


def _energies_of_units(weight: Tensor, units: Tensor) -> Tensor:
    return sum_per_unit(weight.square(), units)


def _energies_of_group(parts: Iterable[tuple[Tensor, int, Tensor]]) -> Tensor:
    """The energies of what units own of all tensors, each with its index [units, block] along a dimension."""
    total = []
    for weight, dim, index in parts:
        slices = weight.square().movedim(dim, 0)
        total.append(slices[index.to(weight.device)].flatten(1).sum(1))
    return torch.stack(total).sum(0)


def _chosen(step: Regularize, names: Iterable[str], model: nn.Module) -> list[str]:
    """The names that train and that a pattern of the step matches."""
    patterns = ("*",) if step.parameters is None else step.parameters
    return [n for n in names if _trains(model.get_parameter(n)) and any(fnmatch(n, pattern) for pattern in patterns)]


def _trains(parameter: nn.Parameter) -> bool:
    return parameter.requires_grad and parameter.is_floating_point()


def _lowest(term: Term, amount: float) -> Term:
    """The term of the share of its units that has the least energy now; one unit stays at least."""
    energy = term().detach()
    chosen = energy.argsort(stable=True)[: min(round(amount * len(energy)), len(energy) - 1)]
    return lambda: term()[chosen]
