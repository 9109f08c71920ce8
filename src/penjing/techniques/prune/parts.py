"""Prune a model that cannot be captured as a whole, such as a detector: each of its parts as a model in its own right.

What goes into a part and comes out of it stays as it is, and the part keeps its class, so that the code around it
never notices. Budgets are those of each part.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from fnmatch import fnmatch
from glob import escape

from torch import nn

from penjing.errors import CaptureError, RecipeError
from penjing.recipe import PruneChannels
from penjing.structure import Captured, Part, capture_submodules, couple
from penjing.techniques.prune.attempt import stumbles
from penjing.techniques.prune.evidence import Need
from penjing.techniques.prune.scores import find_score
from penjing.techniques.state import Context, State

Cut = Callable[[State, PruneChannels, Context, Captured], State]


def run_in_parts(state: State, step: PruneChannels, context: Context, cut: Cut, problem: CaptureError) -> State:
    """Apply the step to every part that can be captured, in place; `problem` says why the whole cannot.

    Raises RecipeError for what takes the whole graph: ratios by pattern, a latency, and scores that look at data.
    """
    named = type(state.model).__name__
    score = "l2" if step.score == "auto" else step.score
    if find_score(score, step.p).needs is not Need.WEIGHTS:
        raise RecipeError(
            f"PruneChannels: score={score!r} takes the graph of the whole model, and only parts of {named} can be "
            f"captured; use score='l2' ({problem})"
        )
    if isinstance(step.ratio, Mapping):
        raise RecipeError(
            f"PruneChannels: ratio={step.ratio!r}: only parts of {named} can be captured; give one ratio, which is "
            "that of each part, and choose with groups= and exclude="
        )
    parts = capture_submodules(state.model, state.example, problem)
    names = {part.path: _names(part) for part in parts}
    _check_patterns(step, names)
    wanted = {part.path: _within(part, names[part.path], step) for part in parts}
    what = f"{named} is no graph as a whole; cut in parts, each in its own class: {', '.join(wanted)} ({problem})"
    state = state.log(step.key, what, fell_back=True)
    for part in parts:
        inner = wanted[part.path]
        if inner is not None:
            state = _cut_part(state, part, replace(inner, score=score), context, cut)
    return state


def _cut_part(state: State, part: Part, step: PruneChannels, context: Context, cut: Cut) -> State:
    """Cut one part; where the model as a whole does not run with it, the part goes back."""
    before = state.model.get_submodule(part.path)
    masks = {name.removeprefix(f"{part.path}."): mask for name, mask in state.masks.items() if _below(name, part.path)}
    inner = replace(context, workload=None, prefer="module", consume=False)
    done = cut(State(before, part.captured.example, masks), step, inner, part.captured)
    rows = tuple(replace(row, what=f"{part.path}: {row.what}") for row in done.rows)
    if done.surgery is None:
        return replace(state, rows=(*state.rows, *rows))
    _exchange(state.model, before, done.model)
    problem = stumbles(state.model, state.example, training=False)
    if problem:
        _exchange(state.model, done.model, before)
        what = f"{part.path} was left whole, for the model does not run with it cut: {problem}"
        return state.log(step.key, what, fell_back=True)
    surgery = done.surgery.below(part.path)
    kept = {name: mask for name, mask in state.masks.items() if not _below(name, part.path)}
    return replace(
        state,
        masks={**kept, **{f"{part.path}.{name}": mask for name, mask in done.masks.items()}},
        surgery=surgery if state.surgery is None else state.surgery.then(surgery),
        rows=(*state.rows, *rows),
    )


def _within(part: Part, names: tuple[str, ...], step: PruneChannels) -> PruneChannels | None:
    """The step as the part sees it: patterns become the names that they mean there; None where they mean none."""

    def meant(patterns: Iterable[str]) -> tuple[str, ...]:
        return tuple(
            escape(name) for name in names if any(fnmatch(f"{part.path}.{name}", pattern) for pattern in patterns)
        )

    shared = tuple(escape(name) for name in names if name in part.shared)
    groups = None if step.groups is None else meant(step.groups)
    if not names or groups == ():
        return None
    exclude = (*meant(step.exclude), *shared)
    return replace(step, groups=groups, exclude=exclude, eager_safe=True, compensate=False)


def _names(part: Part) -> tuple[str, ...]:
    """The names by which patterns may call the groups of a part."""
    groups = couple(part.captured, eager_safe=True).groups
    return tuple(dict.fromkeys(name for g in groups for name in (g.name, *(m.parameter for m in g.members))))


def _check_patterns(step: PruneChannels, names: Mapping[str, Iterable[str]]) -> None:
    whole = [f"{path}.{name}" for path, within in names.items() for name in within]
    for pattern in (*(step.groups or ()), *step.exclude):
        if not any(fnmatch(name, pattern) for name in whole):
            known = ", ".join(whole[:12])
            raise RecipeError(f"PruneChannels: {pattern!r} matches no group of any part; known: {known} ...")


def _below(name: str, path: str) -> bool:
    return name.startswith(f"{path}.")


def _exchange(model: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Put one module in the place of another, wherever that is held."""
    for module in model.modules():
        for name, child in module._modules.items():
            if child is old:
                module._modules[name] = new
