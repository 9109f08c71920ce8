"""The Sparsify step: score, mask, zero."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from penjing.errors import RecipeError
from penjing.recipe import Sparsify
from penjing.techniques.by_name import by_first_match
from penjing.techniques.sparsify.allocation import below_deviation, erdos_renyi_kernel
from penjing.techniques.sparsify.evidence import Evidence, Need, gather
from penjing.techniques.sparsify.masks import lowest_scores_mask
from penjing.techniques.sparsify.parameters import parametrized_names, resolve
from penjing.techniques.sparsify.patterns import UNSTRUCTURED, OfEvery, find_pattern, per_unit
from penjing.techniques.sparsify.ramp import Masks, MasksAt
from penjing.techniques.sparsify.report import sparsity
from penjing.techniques.sparsify.schedules import find_schedule
from penjing.techniques.sparsify.scores import SCORES
from penjing.techniques.sparsify.solve_layers import check_solvable, solve_layers
from penjing.techniques.sparsify.torch_masks import take_torch_masks
from penjing.techniques.state import Context, State
from penjing.types import Regrow, Solver, Spread

AMOUNT = 0.5
_DRAWN = "random"  # a draw for each unit, whatever the weights; of single ones torch removes the highest draws


def run(state: State, step: Sparsify, context: Context) -> State:
    """Zero the weights with the lowest scores and remember the masks; with a schedule, the training that follows does.

    Masks of earlier steps and of torch.nn.utils.prune stay; `amount` counts the weights, or units, that are still
    alive, as in torch. Raises RecipeError for an unknown pattern, score, schedule or parameter, a pattern that does not
    divide a weight, and a score whose data the workload does not bring.
    """
    _check(step)
    state = replace(state, masks={**state.masks, **take_torch_masks(state.model)})
    if step.method != Solver.MAGNITUDE:
        return _solved(state, step, context)
    new = masks_at(state, step, context)(1.0, {})
    if step.schedule is not None:  # what is wrong with it has been told before any training
        what = f"{step.pattern} zeros grow by the {step.schedule} schedule in the training that follows"
        return replace(state, ramps=(*state.ramps, step)).log(step.key, what)
    with torch.no_grad():
        for name, mask in new.items():
            state.model.get_parameter(name).masked_fill_(~mask, 0)
    state = told(replace(state, masks={**state.masks, **new}), step, new)
    if step.parameters is None:
        for name in parametrized_names(state.model):
            state = state.log(step.key, f"{name} is parametrised and was left alone", fell_back=True)
    return state


def needs(step: Sparsify) -> frozenset[str]:
    """What a workload must bring: calibration data, where layers are solved on them.

    >>> needs(Sparsify(0.5)), needs(Sparsify(0.5, method="auto"))
    (frozenset(), frozenset({'calibration'}))
    """
    return frozenset() if step.method == Solver.MAGNITUDE else frozenset({"calibration"})


def _solved(state: State, step: Sparsify, context: Context) -> State:
    """Solve what can be solved; the rest goes by score."""
    names = _named(state, step, context)
    pattern = find_pattern(step.pattern)
    for name in names:  # what the pattern does not divide is told before any work
        weight = state.model.get_parameter(name).detach()
        if isinstance(pattern, OfEvery):
            pattern.mask(name, weight.abs(), torch.ones_like(weight, dtype=torch.bool))
        else:
            pattern(name, weight)
    state, rest = solve_layers(state, step, context, _shares(step, names))
    for name, share in rest.items():
        amount = None if isinstance(pattern, OfEvery) else share
        by_score = replace(step, method=Solver.MAGNITUDE, scope=Spread.LOCAL, amount=amount, parameters=(name,))
        what = f"{name} is read by no linear layer or convolution of its own; its weights go by magnitude"
        state = run(state, by_score, context).log(step.key, what, fell_back=True)
    return told(state, step, [name for name in names if name not in rest])


def told(state: State, step: Sparsify, names: Iterable[str]) -> State:
    """Log how sparse the named weights are, and what that brings."""
    for row in sparsity(state.model, tuple(names)):
        state = state.log(step.key, row.describe())
    return state.log(step.key, _worth(step))


def masks_at(state: State, step: Sparsify, context: Context) -> MasksAt:
    """Masks of the state's model as it is when they are asked for, at a share of what goes in the end."""
    pattern, masks, names = find_pattern(step.pattern), dict(state.masks), _named(state, step, context)
    score = SCORES[step.score]

    def at(share: float, movement: Mapping[str, Tensor]) -> Masks:
        weights = {name: state.model.get_parameter(name) for name in names}
        alive = {
            name: masks.get(name, torch.ones_like(weight, dtype=torch.bool)).to(weight.device)
            for name, weight in weights.items()
        }
        evidence = gather(score.needs, step.score, state.model, names, context.workload, context.seed, movement)
        with torch.no_grad():
            if isinstance(pattern, OfEvery):
                scored = zip(weights.items(), evidence, strict=True)
                return {name: pattern.mask(name, score(weight, seen), alive[name]) for (name, weight), seen in scored}
            units = {name: pattern(name, weight).to(weight.device) for name, weight in weights.items()}
            tensors = _score_units(step, weights, units, evidence)
            living = {name: _living(alive[name], units[name]) for name in names}
            new: Masks = {}
            for amount, chosen in _shares(step, names):
                part = round(amount * share) if isinstance(amount, int) else amount * share
                kept = _spread(Spread(step.scope), part, weights, tensors, living, units, chosen)
                new |= {name: mask[units[name]] & alive[name] for name, mask in kept.items()}
        return new

    return at


def _named(state: State, step: Sparsify, context: Context) -> tuple[str, ...]:
    names = resolve(step.parameters, context.original, state.model)
    if not names:
        raise RecipeError("Sparsify: the model has no convolution or linear weight; name tensors with parameters=[...]")
    return names


def _worth(step: Sparsify) -> str:
    """What the zeros bring, said in the log of each step."""
    pattern = step.pattern
    if step.cut:
        return f"{pattern} of zeros that are left are those that no cut could take"
    if pattern in ("filters", "rows", "channels"):
        return f"whole {pattern} of zeros make nothing faster as they are; Lossless() removes those that a cut can take"
    return f"{pattern} zeros make no runtime here faster; they make the file smaller once it is saved compact"


def _score_units(
    step: Sparsify, weights: Mapping[str, Tensor], units: Mapping[str, Tensor], evidence: Sequence[Evidence]
) -> dict[str, Tensor]:
    """One score for each unit of each tensor: the mean over its weights."""
    score = SCORES[step.score]
    found = {}
    for (name, weight), seen in zip(weights.items(), evidence, strict=True):
        if step.score == _DRAWN and step.pattern == UNSTRUCTURED:
            found[name] = -score(weight, seen).flatten()
        elif step.score == _DRAWN:
            found[name] = score(weight.new_empty(int(units[name].max()) + 1), seen)
        else:
            found[name] = per_unit(score(weight, seen), units[name])
    return found


def _living(alive: Tensor, units: Tensor) -> Tensor:
    """Which units have a weight that is alive."""
    return per_unit(alive.double(), units) > 0


def _shares(step: Sparsify, names: Sequence[str]) -> list[tuple[float | int, list[str]]]:
    """Amounts, and the tensors that share each: by the first pattern that names a tensor, else all together."""
    if not isinstance(step.amount, Mapping):
        return [(AMOUNT if step.amount is None else step.amount, list(names))]
    return by_first_match(step.amount, names, "Sparsify: amount")


def _spread(
    spread: Spread,
    amount: float | int,
    weights: Mapping[str, Tensor],
    scores: Mapping[str, Tensor],
    alive: Mapping[str, Tensor],
    units: Mapping[str, Tensor],
    names: Sequence[str],
) -> dict[str, Tensor]:
    """Which units of each named tensor stay."""

    def lowest(amount: float | int, name: str) -> Tensor:
        return lowest_scores_mask([scores[name]], [alive[name]], amount)[0]

    if spread is Spread.GLOBAL:
        kept = lowest_scores_mask([scores[name] for name in names], [alive[name] for name in names], amount)
        return dict(zip(names, kept, strict=True))
    if spread is Spread.ERK:
        shares = erdos_renyi_kernel([weights[name].shape for name in names], float(amount))
        return {name: lowest(share, name) for name, share in zip(names, shares, strict=True)}
    if spread is Spread.DEVIATION:
        return {name: lowest(below_deviation(weights[name], scores[name][alive[name]], amount), name) for name in names}
    if spread is Spread.THRESHOLD:
        return {name: alive[name] & (scores[name] >= amount) for name in names}
    if spread is Spread.ROW:
        return {name: _by_row(scores[name], alive[name], units[name], amount) for name in names}
    return {name: lowest(amount, name) for name in names}


def _by_row(scores: Tensor, alive: Tensor, units: Tensor, amount: float | int) -> Tensor:
    """The same share of each output's units."""
    kept = alive.clone()
    for row in units:
        mine = row.unique()
        kept[mine] = lowest_scores_mask([scores[mine]], [alive[mine]], amount)[0]
    return kept


def _check(step: Sparsify) -> None:
    pattern = find_pattern(step.pattern)
    if step.score not in SCORES:
        raise RecipeError(f"Sparsify: score={step.score!r} is unknown; use one of {', '.join(SCORES)}")
    if isinstance(pattern, OfEvery) and step.amount not in (None, pattern.amount):
        raise RecipeError(
            f"Sparsify: pattern={step.pattern!r} removes {pattern.amount:g}, not amount={step.amount!r}; leave it out"
        )
    if step.method != Solver.MAGNITUDE:
        check_solvable(step)
    if step.scope is Spread.DEVIATION and step.score != "l1":
        raise RecipeError(
            f"Sparsify: scope='deviation' compares magnitudes with their deviation, not score={step.score!r}; use 'l1'"
        )
    if step.scope is Spread.ROW and step.pattern in ("filters", "rows", "channels", "columns"):
        raise RecipeError(f"Sparsify: scope='row' takes units within an output, not pattern={step.pattern!r}")
    if step.schedule is not None:
        find_schedule(step.schedule)
        if isinstance(pattern, OfEvery):
            raise RecipeError(
                f"Sparsify: pattern={step.pattern!r} knows no degrees that schedule={step.schedule!r} could pass; "
                "leave it out, or let a schedule of another pattern come first"
            )
        if SCORES[step.score].needs not in (Need.WEIGHTS, Need.MOVEMENT):
            raise RecipeError(
                f"Sparsify: score={step.score!r} is not gathered while a model trains; with a schedule use 'movement' "
                "or one that looks at weights alone, such as 'l1'"
            )
        if step.regrow is Regrow.SPLICE and (SCORES[step.score].needs is Need.MOVEMENT or step.score == _DRAWN):
            raise RecipeError(
                f"Sparsify: regrow='splice' compares weights with two thresholds, not score={step.score!r}; use one "
                "that looks at weights, such as 'l1'"
            )
    elif SCORES[step.score].needs is Need.MOVEMENT:
        raise RecipeError("Sparsify: score='movement' is seen in training alone; give schedule=, such as 'cubic'")
