"""Which units go, by the score and the widths that a step asks for, or that pay on the machine it asks."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from penjing.errors import PenjingError
from penjing.recipe import PruneChannels, Target
from penjing.structure import Coupling, GraphModel, Group, cut
from penjing.techniques.prune.budget import Pool, cost_of, matches, pools_of
from penjing.techniques.prune.ends import ends_of
from penjing.techniques.prune.evidence import Need, gather
from penjing.techniques.prune.paying import widths_that_pay
from penjing.techniques.prune.scores import find_score, score_groups
from penjing.techniques.prune.select import Units, Widths, select
from penjing.techniques.prune.widths import widths_of
from penjing.techniques.state import Context, State
from penjing.types import Budget, LogRow, Normalize, Reduce, Scope

DEFAULT_MULTIPLE = 8
_NAMED = 6  # groups named in one row of the log
_RULES: tuple[int | None, ...] = (None, 4, 8, 16, 32)  # for widths on a target: those that pay, and multiples
_AIMS = 3  # choices by prediction, each measured, before what is over the budget is taken and told
_CLOSE = 0.02  # over the budget of a latency, which no measurement tells from it
_NEARLY = 1.1  # of the parameters left, for the sake of the user's own class


@dataclass(frozen=True)
class Choice:
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

    def as_small(self, other: "Choice") -> bool:
        """Whether every budget is met as well as by another choice, and the model is nearly as small.

        A budget of channels counts those that can go: without the second test, a choice that can cut little would do.
        """
        mine, others = ([max(pool.keep, pool.remaining(x.removed)) for pool in x.pools] for x in (self, other))
        met = len(mine) == len(others) and all(a <= b + 1e-6 for a, b in zip(mine, others, strict=True))
        return met and self.parameters <= _NEARLY * other.parameters


def choose_measured(
    state: State, step: PruneChannels, coupling: Coupling, keep: Mapping[str, float], context: Context, target: Target
) -> Choice:
    """Choose under each rule for widths, and take what is best by prediction once a measurement has confirmed it.

    A budget of latency is aimed at lower by as much as the prediction was off; the best choice loses the least score.
    Under any other budget it is the fastest of the two that are predicted to be.
    """
    rules = _RULES if step.round_to == "auto" else (int(step.round_to or 1),)
    choices = [choice for rule in rules if (choice := choose(state, step, coupling, keep, context, rule)).removed]
    choices = [choice for choice in choices if choice.met(choice.removed)] or choices
    if not choices:
        return choose(state, step, coupling, keep, context, rules[0])
    latency = cost_of(coupling, (), Budget.LATENCY, target=target)

    def nearer(choice: Choice, over: float) -> Choice:
        aim = {pool.pattern: pool.keep / over for pool in choice.pools}
        return choose(state, step, coupling, aim, context, choice.rule)

    try:
        whole = target.measured_ms(GraphModel.of(coupling.captured))
        if Budget(step.of) is Budget.LATENCY:
            best = min(choices, key=lambda choice: choice.lost)
            choice, ms = _aimed(best, min(keep.values()) * whole, target, nearer)
        else:
            fastest = sorted(choices, key=lambda choice: latency(choice.removed))[:2]
            choice, ms = min(((each, _measured(each, target)) for each in fastest), key=lambda pair: pair[1])
    except PenjingError as problem:  # what is wrong with a cut its proof will say, which comes next
        choice = min(choices, key=lambda choice: latency(choice.removed))
        row = state.log(step.key, f"chosen by predicted latency alone, for {problem}", fell_back=True).rows[-1]
        return replace(choice, rows=(*choice.rows, row))
    what = (
        f"latency in {target.name}: {ms:.3g} ms measured of {whole:.3g} ms, {ms / whole:.1%} "
        f"({latency(choice.removed) / latency({}):.1%} predicted)"
    )
    asked = tuple(replace(pool, keep=keep[pool.pattern]) for pool in choice.pools)
    return replace(choice, pools=asked, rows=(*choice.rows, *state.log(step.key, what).rows[-1:]))


def _measured(choice: Choice, target: Target) -> float:
    return target.measured_ms(cut(choice.coupling, choice.removed).module)


def _aimed(
    choice: Choice, budget_ms: float, target: Target, nearer: Callable[[Choice, float], Choice]
) -> tuple[Choice, float]:
    """Measure a choice, and choose again while it is over the budget; the last one measured, and its time."""
    for _ in range(_AIMS - 1):
        ms = _measured(choice, target)
        over = ms / budget_ms
        if over <= 1 + _CLOSE or not (again := nearer(choice, over)).removed:
            return choice, ms
        choice = again
    return choice, _measured(choice, target)


def choose(
    state: State,
    step: PruneChannels,
    coupling: Coupling,
    keep: Mapping[str, float],
    context: Context,
    rule: int | None = None,
    without: Collection[str] = (),
) -> Choice:
    """Choose the units that go, so that every budget is met as well as the widths allow.

    rule: the number of which widths are multiples; None for those that pay on the target.
    """
    groups = tuple(group for group in chosen_groups(coupling, step) if group.name not in without)
    if not groups:
        what = "no group of this model can be cut: " + _why_not(coupling, step)
        return Choice(coupling, {}, (), state.log(step.key, what, fell_back=True).rows, rule)
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
        return Choice(coupling, {}, pools, state.log(step.key, what, fell_back=True).rows, rule)
    lost = sum(float(scores[name][units].sum()) for name, units in removed.items())
    return Choice(coupling, removed, pools, state.rows, rule, lost)


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
    return "reconstruction" if refits(step, context) else "l2"


def refits(step: PruneChannels, context: Context) -> bool:
    """Whether there are data to refit the layers behind a cut on, against the original."""
    return step.compensate and context.workload is not None and context.workload.brings("calibration")


def _why_not(coupling: Coupling, step: PruneChannels) -> str:
    inexact = sum(group.prunable and not group.exact for group in coupling.groups)
    if inexact and not step.allow_inexact:
        return f"{inexact} groups pass a norm or softmax and are inexact (allow_inexact=True cuts them)"
    return "; ".join(sorted({group.reason for group in coupling.groups if group.reason})[:3]) or "all are excluded"
