"""The PruneChannels step: capture, score, select, cut, prove, compensate."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from penjing.errors import CaptureError
from penjing.recipe import PruneChannels, Target
from penjing.structure import Captured, Coupling, GraphModel, Group, capture, couple, cut
from penjing.techniques.prune.attempt import consuming, largest_proven, take_over
from penjing.techniques.prune.bisect import Attempt
from penjing.techniques.prune.budget import Pool, check_patterns, cost_of, matches, pools_of
from penjing.techniques.prune.calibration import affordable
from penjing.techniques.prune.compensate import install, refit
from penjing.techniques.prune.ends import ends_of
from penjing.techniques.prune.evidence import Need, gather
from penjing.techniques.prune.parts import run_in_parts
from penjing.techniques.prune.paying import widths_that_pay
from penjing.techniques.prune.scores import find_score, score_groups
from penjing.techniques.prune.select import Units, Widths, select
from penjing.techniques.prune.widths import widths_of
from penjing.techniques.state import Context, State
from penjing.types import Budget, LogRow, Normalize, Reduce, Scope
from penjing.workload import device_of

DEFAULT_MULTIPLE = 8
_NAMED = 6  # groups named in one row of the log
_RULES: tuple[int | None, ...] = (None, 4, 8, 16, 32)  # for widths on a target: those that pay, and multiples
_AIMS = 3  # choices by prediction, each measured, before what is over the budget is taken and told
_CLOSE = 0.02  # over the budget of a latency, which no measurement tells from it
_NEARLY = 1.1  # of the parameters left, for the sake of the user's own class


def run(state: State, step: PruneChannels, context: Context) -> State:
    """Apply the step to the whole model, or to its parts where it cannot be captured."""
    if not any(ratio for _, ratio in step.ratios):
        return state.log(step.key, "nothing asked for: ratio is 0")
    try:
        captured = capture(state.model, state.example)
    except CaptureError as problem:
        return run_in_parts(state, step, context, _cut, problem)
    return _cut(state, step, context, captured)


def _cut(state: State, step: PruneChannels, context: Context, captured: Captured) -> State:
    """Cut a captured model; with iterations=n in n equal shares, scored anew before each."""
    remaining = {pattern: 1.0 for pattern, _ in step.ratios}
    for i in range(step.iterations):
        coupling = couple(captured if i == 0 else capture(state.model, state.example), eager_safe=step.eager_safe)
        if i == 0:
            check_patterns(step, coupling)
        keep = {
            pattern: min(1.0, (1 - ratio) ** ((i + 1) / step.iterations) / remaining[pattern])
            for pattern, ratio in step.ratios
        }
        state, kept = _cut_once(state, step, coupling, keep, context)
        remaining |= {pattern: remaining[pattern] * share for pattern, share in kept.items()}
        if context.progress is not None:
            context.progress.update(i + 1, step.iterations, step.key)
    return state


@dataclass(frozen=True)
class _Choice:
    """The units that are to go, the pools whose budgets they meet, and what was to be said on the way.

    rule: the number of which the widths are multiples, None for those that pay. lost: the sum of the scores that go.
    """

    coupling: Coupling
    removed: Mapping[str, Units]
    pools: tuple[Pool, ...]
    rows: tuple[LogRow, ...]
    rule: int | None
    lost: float = 0.0

    def met(self, removed: Mapping[str, Units]) -> bool:
        """Whether some of the units are enough for every budget."""
        return all(pool.remaining(removed) <= pool.keep + 1e-6 for pool in self.pools)

    @property
    def parameters(self) -> float:
        """How many parameters the whole model has left."""
        return cost_of(self.coupling, (), Budget.PARAMS)(self.removed)

    def as_small(self, other: "_Choice") -> bool:
        """Whether every budget is met as well as by another choice, and the model is nearly as small.

        A budget of channels counts those that can go: without the second test, a choice that can cut little would do.
        """
        mine, others = ([max(pool.keep, pool.remaining(x.removed)) for pool in x.pools] for x in (self, other))
        met = len(mine) == len(others) and all(a <= b + 1e-6 for a, b in zip(mine, others, strict=True))
        return met and self.parameters <= _NEARLY * other.parameters


def _cut_once(
    state: State, step: PruneChannels, coupling: Coupling, keep: Mapping[str, float], context: Context
) -> tuple[State, Mapping[str, float]]:
    """Cut once; give the share that remains of what each pattern's groups cost."""
    if context.target is not None and (step.round_to == "auto" or Budget(step.of) is Budget.LATENCY):
        choice = _choose_measured(state, step, coupling, keep, context, context.target)
    else:
        multiple = DEFAULT_MULTIPLE if step.round_to == "auto" else int(step.round_to or 1)
        choice = _choose(state, step, coupling, keep, context, multiple)
    if not choice.removed:
        return replace(state, rows=choice.rows), {}

    choices = [choice]

    def gentler() -> tuple[Coupling, Mapping[str, Units]] | None:
        safe = _choose(state, step, couple(coupling.captured, eager_safe=True), keep, context, choice.rule)
        if step.eager_safe or not safe.removed or not safe.as_small(choice):
            return None
        choices.append(safe)
        return safe.coupling, safe.removed

    if context.consume and not step.eager_safe and not _refits(step, context):
        done, failed = consuming(state, coupling, choice.removed, context.prefer)
        return _carry_out(replace(state, rows=choice.rows), step, choice, done, failed, context)
    done, failed = largest_proven(
        state, coupling, choice.removed, context.prefer, eager_safe=step.eager_safe, gentler=gentler
    )
    if step.eager_safe and failed and done is not None and not choice.met(done.removed):
        rest = _choose(state, step, coupling, keep, context, choice.rule, without=failed)
        second, refused = largest_proven(state, coupling, rest.removed, context.prefer, eager_safe=True)
        done, failed = (second, failed | refused) if second is not None and not refused else (done, failed)
    made = next((each for each in choices if done is not None and each.coupling is done.cut.coupling), choice)
    return _carry_out(replace(state, rows=made.rows), step, made, done, failed, context)


def _choose_measured(
    state: State, step: PruneChannels, coupling: Coupling, keep: Mapping[str, float], context: Context, target: Target
) -> _Choice:
    """Choose under each rule for widths, and take what is best by prediction once a measurement has confirmed it.

    A budget of latency is aimed at lower by as much as the prediction was off; the best choice loses the least score.
    Under any other budget it is the fastest of the two that are predicted to be.
    """
    whole = target.measured_ms(GraphModel.of(coupling.captured))

    def share(choice: _Choice) -> float:
        return target.measured_ms(cut(coupling, choice.removed).module) / whole

    rules = _RULES if step.round_to == "auto" else (int(step.round_to or 1),)
    choices = [choice for rule in rules if (choice := _choose(state, step, coupling, keep, context, rule)).removed]
    choices = [choice for choice in choices if choice.met(choice.removed)] or choices
    if not choices:
        return _choose(state, step, coupling, keep, context, rules[0])
    latency = cost_of(coupling, (), Budget.LATENCY, target=target)
    if Budget(step.of) is not Budget.LATENCY:
        fastest = sorted(choices, key=lambda choice: latency(choice.removed))[:2]
        measured, choice = min(((share(each), each) for each in fastest), key=lambda pair: pair[0])
    else:
        choice, measured = min(choices, key=lambda choice: choice.lost), 1.0
        aim = keep
        for _ in range(_AIMS):
            measured = share(choice)
            over = max(measured / wanted for wanted in keep.values())
            if over <= 1 + _CLOSE:
                break
            aim = {pattern: wanted / over for pattern, wanted in aim.items()}
            nearer = _choose(state, step, coupling, aim, context, choice.rule)
            choice = nearer if nearer.removed else choice
    what = (
        f"latency in {target.name}: {measured * whole:.3g} ms measured of {whole:.3g} ms, {measured:.1%} "
        f"({latency(choice.removed) / latency({}):.1%} predicted)"
    )
    asked = tuple(replace(pool, keep=keep[pool.pattern]) for pool in choice.pools)
    return replace(choice, pools=asked, rows=(*choice.rows, *state.log(step.key, what).rows[-1:]))


def _choose(
    state: State,
    step: PruneChannels,
    coupling: Coupling,
    keep: Mapping[str, float],
    context: Context,
    rule: int | None = None,
    without: Collection[str] = (),
) -> _Choice:
    """Choose the units that go, so that every budget is met as well as the widths allow.

    rule: the number of which widths are multiples; None for those that pay on the target.
    """
    groups = tuple(group for group in chosen_groups(coupling, step) if group.name not in without)
    if not groups:
        what = "no group of this model can be cut: " + _why_not(coupling, step)
        return _Choice(coupling, {}, (), state.log(step.key, what, fell_back=True).rows, rule)
    state, groups, widths = _allowed(state, step, coupling, groups, context, rule)
    state, groups = _read(state, step, coupling, groups, context)
    pools = pools_of(coupling, groups, step, keep, context.target)
    scores = _scores(state, step, coupling, pools, context)
    removed: dict[str, Units] = {}
    for pool in pools:
        mine = {group.name: scores[group.name] for group in pool.groups}
        monotone = Budget(step.of) is not Budget.LATENCY
        chosen = select(mine, pool.keep, pool.cost, scope=Scope(step.scope), widths=widths, monotone=monotone)
        removed |= chosen.removed
    if not removed:
        what = "nothing removed: the allowed widths leave every group whole"
        return _Choice(coupling, {}, pools, state.log(step.key, what, fell_back=True).rows, rule)
    lost = sum(float(scores[name][units].sum()) for name, units in removed.items())
    return _Choice(coupling, removed, pools, state.rows, rule, lost)


def _allowed(
    state: State,
    step: PruneChannels,
    coupling: Coupling,
    groups: tuple[Group, ...],
    context: Context,
    multiple: int | None,
) -> tuple[State, tuple[Group, ...], Mapping[str, Widths]]:
    """Find the widths that each group may take, and leave out the groups that have none but their own."""
    if multiple is None:
        latency = cost_of(coupling, groups, Budget.LATENCY, target=context.target)
        limits = widths_of(coupling, groups, Widths(1, step.min_width))
        return state, groups, widths_that_pay(groups, latency, limits)
    widths = widths_of(coupling, groups, Widths(multiple, step.min_width))
    stuck = [group.name for group in groups if 1 < widths[group.name].multiple >= group.size]
    if stuck:
        what = f"left whole, no smaller width is a multiple of {multiple}: {_listed(stuck)}"
        state = state.log(step.key, what, fell_back=True)
    return state, tuple(group for group in groups if group.name not in stuck), widths


def _read(
    state: State, step: PruneChannels, coupling: Coupling, groups: tuple[Group, ...], context: Context
) -> tuple[State, tuple[Group, ...]]:
    """Leave out the groups of which a score that looks at what is read of them would see nothing."""
    name = score_named(step, context)
    if find_score(name, step.p).needs in (Need.WEIGHTS, Need.GRADIENTS):
        return state, groups
    seen = {end.group for end in ends_of(coupling, groups)}
    unseen = [group.name for group in groups if group.name not in seen]
    if unseen:
        what = f"left whole, score={name!r} finds no operator that reads its units: {_listed(unseen)}"
        state = state.log(step.key, what, fell_back=True)
    return state, tuple(group for group in groups if group.name in seen)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")


def _carry_out(
    state: State,
    step: PruneChannels,
    choice: _Choice,
    done: Attempt | None,
    failed: Mapping[str, str],
    context: Context,
) -> tuple[State, Mapping[str, float]]:
    """Take over what was proven, refit what follows, and log both."""
    coupling, pools = choice.coupling, choice.pools
    for name, why in failed.items():
        where = " in the model's own class" if step.eager_safe else ""
        what = f"group {name} was left whole: its cut could not be proven{where} ({why})"
        state = state.log(step.key, what, fell_back=True)
    if done is None:
        return state, {}
    sizes = {name: coupling[name].size for name in done.removed}
    widths = ", ".join(f"{name} {sizes[name]} to {sizes[name] - len(units)}" for name, units in done.removed.items())
    state = state.log(step.key, f"cut {widths}", proof=done.proof.describe())
    remaining = {pool.pattern: pool.remaining(done.removed) for pool in pools}
    for pool in pools:
        kept = remaining[pool.pattern]
        if kept > pool.keep + 1e-6:
            short = "not every cut was proven" if failed else "the allowed widths reach no further"
            of = step.of if len(step.ratios) == 1 else f"{step.of} of {pool.pattern}"
            what = f"{of}: asked to keep {pool.keep:.1%}, kept {kept:.1%}; {short}"
            state = state.log(step.key, what, fell_back=True)
    if done.refused:
        what = (
            "the model is now a rewritten graph, for its own class, cut in place, did not pass the proof "
            f"({done.refused}); "
            "eager_safe=True keeps the class, and leaves whole what that cannot lose"
        )
        state = state.log(step.key, what, fell_back=True)
    state = take_over(state, done)
    return (_compensate(state, step, coupling, done, context) if step.compensate else state), remaining


def chosen_groups(coupling: Coupling, step: PruneChannels) -> tuple[Group, ...]:
    """Give the groups that the step may cut."""
    return tuple(
        group
        for group in coupling.groups
        if group.prunable
        and (group.exact or step.allow_inexact)
        and (step.groups is None or matches(group, step.groups))
        and not matches(group, step.exclude)
    )


def _scores(
    state: State, step: PruneChannels, coupling: Coupling, pools: Sequence[Pool], context: Context
) -> dict[str, NDArray[np.float64]]:
    name = score_named(step, context)
    score, groups = find_score(name, step.p), [group for pool in pools for group in pool.groups]
    evidence = replace(gather(score.needs, name, state.model, coupling, groups, context.workload), seed=context.seed)
    normalize = score.normalize if step.normalize == "auto" else Normalize(step.normalize)
    prices = {k: v for pool in pools for k, v in pool.prices().items()} if normalize is Normalize.COST else {}
    scores = score_groups(groups, score, evidence, Reduce(step.reduce), normalize, prices)
    return {name: values.numpy() for name, values in scores.items()}


def score_named(step: PruneChannels, context: Context) -> str:
    """Resolve "auto": what the refit cannot mend, where there are data to refit on, else the norm of the weights."""
    if step.score != "auto":
        return step.score
    return "reconstruction" if _refits(step, context) else "l2"


def _refits(step: PruneChannels, context: Context) -> bool:
    """Whether there are data to refit the layers behind a cut on, against the original."""
    return step.compensate and context.workload is not None and context.workload.brings("calibration")


def _compensate(state: State, step: PruneChannels, coupling: Coupling, done: Attempt, context: Context) -> State:
    """Refit what follows the cut in the model that it made."""
    workload = context.workload
    if workload is None or not workload.brings("calibration"):
        return state.log(step.key, "not compensated: that takes a workload with calibration data", fell_back=True)
    captured = coupling.captured
    batches = [
        captured.flatten(batch.args, batch.kwargs)
        for batch in affordable(workload.calibration_batches(), captured, device_of(state.model))
    ]
    tensors, refits = refit(
        captured, done.cut.captured, done.cut.surgery, batches, masks=state.masks, seed=context.seed
    )
    install(done.module, tensors)
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
