"""The PruneChannels step: capture, score, select, cut, prove, compensate."""

import copy
import math
from collections.abc import Mapping
from fnmatch import fnmatch
from itertools import islice

import numpy as np
from torch import Tensor, nn

from penjing.errors import RecipeError
from penjing.profiling import cost as operator_cost
from penjing.recipe import Finetune, PruneChannels
from penjing.structure import Coupling, Cut, Group, Proof, capture, couple, cut, cut_in_place, prove
from penjing.structure.rules import is_shape
from penjing.techniques.prune.compensate import install, refit
from penjing.techniques.prune.scores import Evidence, find_score
from penjing.techniques.prune.select import Cost, Selection, Units, Widths, select
from penjing.techniques.state import Context, State
from penjing.training import Objective
from penjing.types import Budget, Scope
from penjing.workload import Workload, preserved

DEFAULT_MULTIPLE = 8
_GRADIENT_BATCHES = 8


def run(state: State, step: PruneChannels, context: Context) -> State:
    """Apply the step; with iterations=n the cut is made in n equal shares, scored anew before each."""
    keep = (1 - step.ratio) ** (1 / step.iterations)
    for _ in range(step.iterations):
        state = _cut_once(state, step, keep, context)
    return state


def _cut_once(state: State, step: PruneChannels, keep: float, context: Context) -> State:
    coupling = couple(capture(state.model, state.example))
    groups = chosen_groups(coupling, step)
    if not groups:
        return state.log(step.key, "no group of this model can be cut: " + _why_not(coupling, step), fell_back=True)
    scores = _scores(state, step, groups, context)
    multiple = _multiple(step, context)
    selection = select(
        scores,
        keep,
        cost_of(coupling, groups, Budget(step.of)),
        scope=Scope(step.scope),
        widths=Widths(multiple, step.min_width),
    )
    if not selection.removed:
        return state.log(step.key, f"nothing removed: no width that is a multiple of {multiple} fits", fell_back=True)
    return _carry_out(state, step, coupling, selection, keep, context)


def _carry_out(
    state: State, step: PruneChannels, coupling: Coupling, selection: Selection, keep: float, context: Context
) -> State:
    done, module, proof, graph, failed = _proven_cut(state, coupling, selection.removed, context)
    for name in failed:
        state = state.log(step.key, f"group {name} was left whole: its cut could not be proven", fell_back=True)
    if done is None or proof is None:
        return state
    sizes = {group.name: group.size for group in coupling.groups}
    widths = ", ".join(
        f"{n} {sizes[n]} to {sizes[n] - len(u)}" for n, u in selection.removed.items() if n not in failed
    )
    state = state.log(step.key, f"cut {widths}", proof=proof.describe())
    if selection.remaining > keep + 1e-6:
        what = (
            f"{step.of}: asked to keep {keep:.1%}, kept {selection.remaining:.1%}; the allowed widths reach no further"
        )
        state = state.log(step.key, what, fell_back=True)
    if graph and context.prefer == "module":
        what = "the model is now a rewritten graph: its own class, cut in place, did not pass the proof"
        state = state.log(step.key, what, fell_back=True)
    if step.compensate:
        state = _compensate(state, step, coupling, done, module, context)
    surgery = done.surgery if state.surgery is None else state.surgery.then(done.surgery)
    masks = {name: done.surgery.slice(name, mask) for name, mask in state.masks.items()}
    return State(module, state.example, masks, surgery, state.graph or graph, state.rows)


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
    """Sum the gradients of the workload's loss over a few training batches, in eval mode."""
    if workload is None or not workload.brings("train"):
        raise RecipeError(f"PruneChannels: score={score!r} needs a workload with train= and loss=; or use score='l2'")
    objective = Objective.of(workload, Finetune(distill=False), teacher=None)
    with preserved(model):
        model.eval()
        model.zero_grad(set_to_none=True)
        for batch in islice(workload.train_batches(), _GRADIENT_BATCHES):
            objective(model, batch).backward()
        parameters = model.named_parameters(remove_duplicate=False)
        found = {name: tensor.grad.clone() for name, tensor in parameters if tensor.grad is not None}
        model.zero_grad(set_to_none=True)
    return found


def _proven_cut(
    state: State, coupling: Coupling, removed: Mapping[str, Units], context: Context
) -> tuple[Cut | None, nn.Module, Proof | None, bool, tuple[str, ...]]:
    """Cut and prove; where the whole cut fails, keep the groups whose cut passes one by one."""
    result = _try(state, coupling, removed, context)
    if result is not None:
        return *result, ()
    good = {name: units for name, units in removed.items() if _try(state, coupling, {name: units}, context) is not None}
    failed = tuple(name for name in removed if name not in good)
    result = _try(state, coupling, good, context) if good else None
    if result is None:
        return None, state.model, None, state.graph, tuple(removed)
    return *result, failed


def _try(
    state: State, coupling: Coupling, removed: Mapping[str, Units], context: Context
) -> tuple[Cut, nn.Module, Proof, bool] | None:
    """Make one cut: in place where preferred and proven, else the graph if that is proven, else nothing."""
    done = cut(coupling, removed)
    if context.prefer == "module" and not state.graph:
        module = cut_in_place(copy.deepcopy(state.model), done.surgery)
        proof = prove(coupling, module, removed)
        if proof.passed:
            return done, module, proof, False
    proof = prove(coupling, done.module, removed)
    return (done, done.module, proof, True) if proof.passed else None


def _compensate(
    state: State, step: PruneChannels, coupling: Coupling, done: Cut, module: nn.Module, context: Context
) -> State:
    if context.workload is None:
        return state.log(step.key, "not compensated: that takes a workload with calibration data", fell_back=True)
    batch = next(iter(context.workload.calibration_batches()))
    inputs = coupling.captured.flatten(batch.args, batch.kwargs)
    weights, refits = refit(coupling.captured.module, done.captured.module, done.surgery, inputs, seed=context.seed)
    install(module, weights)
    if not refits:
        return state.log(step.key, "not compensated: no layer behind the cut can be refitted", fell_back=True)
    before, after = (float(np.median([getattr(r, side) for r in refits])) for side in ("before", "after"))
    return state.log(
        step.key, f"refitted {len(refits)} layers behind the cut: median output error {before:.3f} to {after:.3f}"
    )


def _why_not(coupling: Coupling, step: PruneChannels) -> str:
    inexact = sum(group.prunable and not group.exact for group in coupling.groups)
    if inexact and not step.allow_inexact:
        return f"{inexact} groups pass a norm or softmax and are inexact (allow_inexact=True cuts them)"
    return "; ".join(sorted({group.reason for group in coupling.groups if group.reason})[:3]) or "all are excluded"
