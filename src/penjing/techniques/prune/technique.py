"""The PruneChannels step: capture, score, select, cut, prove, compensate."""

import math
from collections.abc import Mapping
from fnmatch import fnmatch
from itertools import islice

import numpy as np
from torch import Tensor, nn

from penjing.errors import RecipeError
from penjing.profiling import cost as operator_cost
from penjing.recipe import Finetune, PruneChannels
from penjing.structure import Coupling, Group, capture, couple
from penjing.structure.rules import is_shape
from penjing.techniques.prune.attempt import Attempt, largest_proven
from penjing.techniques.prune.compensate import affordable, install, refit
from penjing.techniques.prune.scores import Evidence, find_score
from penjing.techniques.prune.select import Cost, Units, Widths, select, share
from penjing.techniques.prune.widths import widths_of
from penjing.techniques.state import Context, State
from penjing.training import Objective
from penjing.types import Budget, Scope
from penjing.workload import Workload, device_of, preserved

DEFAULT_MULTIPLE = 8
_GRADIENT_BATCHES = 8
_NAMED = 6  # groups named in one row of the log


def run(state: State, step: PruneChannels, context: Context) -> State:
    """Apply the step; with iterations=n the cut is made in n equal shares, scored anew before each."""
    if step.ratio == 0:
        return state.log(step.key, "nothing asked for: ratio is 0")
    keep = (1 - step.ratio) ** (1 / step.iterations)
    for _ in range(step.iterations):
        state = _cut_once(state, step, keep, context)
    return state


def _cut_once(state: State, step: PruneChannels, keep: float, context: Context) -> State:
    coupling = couple(capture(state.model, state.example))
    groups = chosen_groups(coupling, step)
    if not groups:
        return state.log(step.key, "no group of this model can be cut: " + _why_not(coupling, step), fell_back=True)
    multiple = _multiple(step, context)
    widths = widths_of(coupling, groups, Widths(multiple, step.min_width))
    stuck = [group.name for group in groups if 1 < widths[group.name].multiple >= group.size]
    if stuck:
        named = ", ".join(stuck[:_NAMED]) + (f" and {len(stuck) - _NAMED} more" if len(stuck) > _NAMED else "")
        what = f"left whole, no smaller width is a multiple of {multiple}: {named}"
        state = state.log(step.key, what, fell_back=True)
        groups = tuple(group for group in groups if group.name not in stuck)
    cost = cost_of(coupling, groups, Budget(step.of))
    selection = select(_scores(state, step, groups, context), keep, cost, scope=Scope(step.scope), widths=widths)
    if not selection.removed:
        return state.log(step.key, "nothing removed: the allowed widths leave every group whole", fell_back=True)
    return _carry_out(state, step, coupling, selection.removed, cost, keep, context)


def _carry_out(
    state: State,
    step: PruneChannels,
    coupling: Coupling,
    removed: Mapping[str, Units],
    cost: Cost,
    keep: float,
    context: Context,
) -> State:
    done, failed = largest_proven(state, coupling, removed, context.prefer)
    for name, why in failed.items():
        what = f"group {name} was left whole: its cut could not be proven ({why})"
        state = state.log(step.key, what, fell_back=True)
    if done is None:
        return state
    sizes = {name: coupling[name].size for name in done.removed}
    widths = ", ".join(f"{name} {sizes[name]} to {sizes[name] - len(units)}" for name, units in done.removed.items())
    state = state.log(step.key, f"cut {widths}", proof=done.proof.describe())
    remaining = share(cost, done.removed)
    if remaining > keep + 1e-6:
        short = "not every cut was proven" if failed else "the allowed widths reach no further"
        what = f"{step.of}: asked to keep {keep:.1%}, kept {remaining:.1%}; {short}"
        state = state.log(step.key, what, fell_back=True)
    if done.refused:
        what = (
            f"the model is now a rewritten graph: its own class, cut in place, did not pass the proof ({done.refused})"
        )
        state = state.log(step.key, what, fell_back=True)
    surgery = done.cut.surgery
    masks = {name: surgery.slice(name, mask) for name, mask in state.masks.items()}
    if step.compensate:
        state = _compensate(state, step, coupling, done, masks, context)
    whole = surgery if state.surgery is None else state.surgery.then(surgery)
    return State(done.module, state.example, masks, whole, state.graph or done.graph, state.rows)


def chosen_groups(coupling: Coupling, step: PruneChannels) -> tuple[Group, ...]:
    """Give the groups that the step may cut; a pattern that matches nothing is a RecipeError."""

    def matches(group: Group, patterns: tuple[str, ...]) -> bool:
        names = {group.name, *(member.parameter for member in group.members)}
        return any(fnmatch(name, pattern) for pattern in patterns for name in names)

    for field, patterns in (("groups", step.groups or ()), ("exclude", step.exclude)):
        for pattern in patterns:
            if not any(matches(group, (pattern,)) for group in coupling.groups):
                known = ", ".join(group.name for group in coupling.groups[:12])
                raise RecipeError(
                    f"PruneChannels: {field} names {pattern!r}, which matches no group; known: {known} ..."
                )
    return tuple(
        group
        for group in coupling.groups
        if group.prunable
        and (group.exact or step.allow_inexact)
        and (step.groups is None or matches(group, step.groups))
        and not matches(group, step.exclude)
    )


def cost_of(coupling: Coupling, groups: tuple[Group, ...], of: Budget) -> Cost:
    """Give the cost, as a function of the units removed, that a budget counts."""
    if of is Budget.LATENCY:
        raise RecipeError(
            "PruneChannels: of='latency' needs a latency model of the target, which this version does not have yet;"
            " use of='macs' and let optimize choose by measured latency"
        )
    if of is Budget.CHANNELS:
        total = sum(group.size for group in groups)
        return lambda removed: float(total - sum(len(units) for units in removed.values()))

    captured = coupling.captured

    def parameters(removed: Mapping[str, Units]) -> float:
        shapes = coupling.shapes_after(removed)
        return float(sum(math.prod(shape) for node in captured.parameter_nodes if is_shape(shape := shapes[node])))

    def macs(removed: Mapping[str, Units]) -> float:
        return float(operator_cost(captured, coupling.shapes_after(removed)).macs)

    return parameters if of is Budget.PARAMS else macs


def _multiple(step: PruneChannels, context: Context) -> int:
    if isinstance(step.round_to, int):
        return step.round_to
    if step.round_to is None:
        return 1
    return context.target.width_multiple("conv2d") if context.target is not None else DEFAULT_MULTIPLE


def _scores(
    state: State, step: PruneChannels, groups: tuple[Group, ...], context: Context
) -> dict[str, np.typing.NDArray[np.float64]]:
    score = find_score(step.score)
    gradients: Mapping[str, Tensor] = {}
    if score.needs_gradients:
        gradients = _gradients(state.model, context.workload, step.score)
    tensors = {**dict(state.model.named_parameters(remove_duplicate=False)), **dict(state.model.named_buffers())}
    evidence = Evidence(tensors, gradients, context.seed)
    return {group.name: score.function(group, evidence).numpy() for group in groups}


def _gradients(model: nn.Module, workload: Workload | None, score: str) -> dict[str, Tensor]:
    """Sum the gradients of the workload's loss over a few training batches in eval mode, of frozen parameters too."""
    if workload is None or not workload.brings("train"):
        raise RecipeError(f"PruneChannels: score={score!r} needs a workload with train= and loss=; or use score='l2'")
    objective = Objective.of(workload, Finetune(distill=False), teacher=None)
    with preserved(model):
        model.eval()
        model.zero_grad(set_to_none=True)
        for parameter in model.parameters():
            parameter.requires_grad_(parameter.is_floating_point())
        for batch in islice(workload.train_batches(), _GRADIENT_BATCHES):
            objective(model, batch).backward()
        parameters = model.named_parameters(remove_duplicate=False)
        found = {name: tensor.grad.clone() for name, tensor in parameters if tensor.grad is not None}
        model.zero_grad(set_to_none=True)
    return found


def _compensate(
    state: State,
    step: PruneChannels,
    coupling: Coupling,
    done: Attempt,
    masks: Mapping[str, Tensor],
    context: Context,
) -> State:
    workload = context.workload
    if workload is None or not workload.brings("calibration"):
        return state.log(step.key, "not compensated: that takes a workload with calibration data", fell_back=True)
    captured = coupling.captured
    batches = [
        captured.flatten(batch.args, batch.kwargs)
        for batch in affordable(workload.calibration_batches(), captured, device_of(state.model))
    ]
    weights, refits = refit(
        captured.module, done.cut.captured.module, done.cut.surgery, batches, masks=masks, seed=context.seed
    )
    install(done.module, weights)
    if not refits:
        what = "not compensated: no layer behind the cut is nearer to the original on held-out rows once refitted"
        return state.log(step.key, what, fell_back=True)
    before, after = (float(np.median([getattr(r, side) for r in refits])) for side in ("before", "after"))
    what = f"refitted {len(refits)} layers behind the cut: median output error on held-out rows"
    return state.log(step.key, f"{what} {before:.3f} to {after:.3f}")


def _why_not(coupling: Coupling, step: PruneChannels) -> str:
    inexact = sum(group.prunable and not group.exact for group in coupling.groups)
    if inexact and not step.allow_inexact:
        return f"{inexact} groups pass a norm or softmax and are inexact (allow_inexact=True cuts them)"
    return "; ".join(sorted({group.reason for group in coupling.groups if group.reason})[:3]) or "all are excluded"
