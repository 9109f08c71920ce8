"""What a ratio counts, channels, parameters, MACs or latency, as a function of the units that go."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch

import numpy as np

from penjing.errors import RecipeError
from penjing.profiling import cost as operator_cost
from penjing.recipe import PruneChannels, Target
from penjing.structure import Coupling, Group
from penjing.structure.rules import each_shape, is_shape
from penjing.techniques.prune.ends import births_of, touched_by
from penjing.techniques.prune.select import Cost, Units, share
from penjing.types import Budget


@dataclass(frozen=True)
class Pool:
    """Groups that share a budget, what they cost, and the share `keep` of it that may remain at most.

    pattern: what the recipe calls them.
    """

    pattern: str
    groups: tuple[Group, ...]
    cost: Cost
    keep: float

    def remaining(self, removed: Mapping[str, Units]) -> float:
        """The share of the cost that remains once units of these groups are gone."""
        names = {group.name for group in self.groups}
        return share(self.cost, {name: units for name, units in removed.items() if name in names})

    def prices(self) -> dict[str, float]:
        """What a unit of each group costs, as a share of the whole: the mean of half of the group."""
        halves = {group.name: np.arange(max(1, group.size // 2)) for group in self.groups}
        return {name: max(1 - share(self.cost, {name: units}), 0.0) / len(units) for name, units in halves.items()}


def pools_of(
    coupling: Coupling, groups: Sequence[Group], step: PruneChannels, keep: Mapping[str, float], target: Target | None
) -> tuple[Pool, ...]:
    """Share the groups out by the first pattern of the ratios that names them; a group that none names stays whole.

    keep: the share of the cost that may remain, by pattern. One ratio is that of the whole model, ratios by pattern are
    of what their groups touch.
    """
    whole = not isinstance(step.ratio, Mapping)
    left = list(groups)
    pools = []
    for pattern, ratio in step.ratios:
        mine = tuple(group for group in left if matches(group, (pattern,)))
        left = [group for group in left if group not in mine]
        if mine and ratio > 0:
            cost = cost_of(coupling, mine, Budget(step.of), target=target, whole=whole)
            pools.append(Pool(pattern, mine, cost, keep[pattern]))
    return tuple(pools)


def matches(group: Group, patterns: Sequence[str]) -> bool:
    """Whether a pattern names a group, by its own name or that of one of its parameters."""
    names = {group.name, *(member.parameter for member in group.members)}
    return any(fnmatch(name, pattern) for pattern in patterns for name in names)


def check_patterns(step: PruneChannels, coupling: Coupling) -> None:
    """Raise RecipeError for a pattern of the step that matches no group of the model."""
    named = {"groups": step.groups or (), "exclude": step.exclude}
    if isinstance(step.ratio, Mapping):
        named["ratio"] = tuple(step.ratio)
    for field, patterns in named.items():
        for pattern in patterns:
            if not any(matches(group, (pattern,)) for group in coupling.groups):
                known = ", ".join(group.name for group in coupling.groups[:12])
                raise RecipeError(
                    f"PruneChannels: {field} names {pattern!r}, which matches no group; known: {known} ..."
                )


def cost_of(
    coupling: Coupling, groups: Sequence[Group], of: Budget, *, target: Target | None = None, whole: bool = True
) -> Cost:
    """Give the cost, as a function of the units removed, that a budget counts.

    channels: output channels of the layers that produce units of the groups; a head counts its width in each. params,
    macs: of the whole model, or with whole=False of what these groups touch. latency: in ms, as the target says.
    Raises RecipeError for a latency without a target, or of a part of the model.
    """
    captured = coupling.captured

    if of is Budget.LATENCY:
        if target is None:
            raise RecipeError(
                "PruneChannels: of='latency' needs to know the machine: give apply(..., runtime=) the name of a "
                "runtime, or a Target, or use of='macs'"
            )
        if not whole:
            raise RecipeError(
                "PruneChannels: of='latency' has one ratio, since no latency is a sum over groups; "
                "give ratio= a number, or ratios by pattern with of='macs'"
            )
        latency = target.latency_of(captured.module.graph)
        return lambda removed: latency(coupling.shapes_after(removed))

    if of is Budget.CHANNELS:
        born = births_of(coupling, groups)

        def channels(removed: Mapping[str, Units]) -> float:
            shapes = coupling.shapes_after(removed)
            outputs = ((each_shape(shapes[birth.layer])[birth.output], birth.dim) for birth in born)
            return float(sum(shape[dim] for shape, dim in outputs if shape is not None))

        return channels

    touched = None if whole else touched_by(coupling, groups)
    counted = [node for node in captured.parameter_nodes if touched is None or node in touched]

    def parameters(removed: Mapping[str, Units]) -> float:
        shapes = coupling.shapes_after(removed)
        return float(sum(math.prod(shape) for node in counted if is_shape(shape := shapes[node])))

    def macs(removed: Mapping[str, Units]) -> float:
        rows = operator_cost(captured, coupling.shapes_after(removed)).rows
        return float(sum(row.cost.macs for row in rows if touched is None or row.node in touched))

    return parameters if of is Budget.PARAMS else macs
