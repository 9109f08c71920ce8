"""Sums, means and other statistics over dimensions."""

import operator
from collections.abc import Sequence

from penjing.structure.atoms import Label
from penjing.structure.rules.registry import rule
from penjing.structure.rules.site import Inexact, Ruling, Site

_SUMS = ("sum", "nansum", "count_nonzero", "any", "linalg_vector_norm", "norm", "frobenius_norm")
_FINDERS = ("argmax", "argmin")
_WITH_PLACES = ("max", "min", "median", "nanmedian", "mode", "cummax", "cummin")


@rule(
    *("mean", "sum", "prod", "var", "std", "var_mean", "std_mean", "amax", "amin", "max", "min", "argmax", "argmin"),
    *("logsumexp", "special_logsumexp", "norm", "linalg_vector_norm", "linalg_norm", "linalg_matrix_norm"),
    *("frobenius_norm", "all", "any", "median", "nanmedian", "mode", "aminmax", "nansum", "nanmean", "count_nonzero"),
)
def reduce(site: Site) -> Ruling:
    """y = statistic of x over `dim`, kept as size one under `keepdim`. A sum of what vanishes is exact."""
    if len(site.tensors) > 1:  # max(a, b) and min(a, b) are elementwise
        return Ruling((site.broadcast(site.tensors),))
    (x,) = site.tensors
    labels = site.labels(x)
    axes = _axes(site.arguments.get("dim"), len(labels))
    name = site.operator.removeprefix("aten::")
    if name in _FINDERS or _places_are_read(site):
        for axis in axes:
            site.freeze(labels[axis], "the place of a value in it is read")
    result: list[Label] = []
    for axis, label in enumerate(labels):
        if axis not in axes:
            result.append(label)
        elif site.arguments.get("keepdim"):
            result.append(None)
    exact = name in _SUMS and site.vanishes(x) and _counts_nothing_for_zero(site)
    inexact = () if exact else tuple(Inexact(labels[axis], name.replace("_", " ")) for axis in sorted(axes))
    return Ruling((tuple(result),) * len(site.output_shapes), inexact=inexact)


def _axes(dims: int | Sequence[int] | None, rank: int) -> set[int]:
    named = {dims} if isinstance(dims, int) else set(dims or range(rank))
    return {axis % rank for axis in named} if rank else set()


def _counts_nothing_for_zero(site: Site) -> bool:
    """A norm of positive order does; other names of _SUMS always do."""
    order = site.arguments.get("ord", site.arguments.get("p", 2))
    return order is None or (isinstance(order, int | float) and order > 0)


def _places_are_read(site: Site) -> bool:
    """Whether the second output of `max(x, dim)` and its like, the indices, is used."""
    return site.operator.removeprefix("aten::") in _WITH_PLACES and any(
        user.target is operator.getitem and user.args[1] == 1 and user.users for user in site.node.users
    )


@rule("cumsum", "cumprod", "cummax", "cummin", "logcumsumexp")
def cumulate(site: Site) -> Ruling:
    """Running statistic along one dimension; a running sum of what vanishes is exact."""
    labels = list(site.labels(site["self"]))
    label = labels[site["dim"]] if labels else None
    what = site.operator.split("::")[-1]
    if _places_are_read(site):
        site.freeze(label, "the place of a value in it is read")
    exact = what == "cumsum" and site.vanishes(site["self"])
    inexact = () if exact else (Inexact(label, what),)
    return Ruling((tuple(labels),) * len(site.output_shapes), inexact=inexact)
