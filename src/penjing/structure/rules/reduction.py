"""Sums, means and other statistics over dimensions."""

from penjing.structure.atoms import Label
from penjing.structure.rules.registry import rule
from penjing.structure.rules.site import Inexact, Ruling, Site


@rule(
    *("mean", "sum", "prod", "var", "std", "var_mean", "std_mean", "amax", "amin", "max", "min", "argmax", "argmin"),
    *("logsumexp", "norm", "linalg_vector_norm", "all", "any", "median", "mode", "aminmax", "nansum", "nanmean"),
)
def reduce(site: Site) -> Ruling:
    """y = statistic of x over `dim`, kept as size one under `keepdim`."""
    x = site.tensors[0]
    labels = site.labels(x)
    if len(site.tensors) > 1:  # max(a, b) and min(a, b) are elementwise
        return Ruling((site.broadcast(site.tensors),))
    dims = site.arguments.get("dim")
    axes = {dims} if isinstance(dims, int) else set(dims or range(len(labels)))
    axes = {axis % len(labels) for axis in axes}
    result: list[Label] = []
    for axis, label in enumerate(labels):
        if axis not in axes:
            result.append(label)
        elif site.arguments.get("keepdim"):
            result.append(None)
    what = site.operator.split("::")[-1].replace("_", " ")
    inexact = tuple(Inexact(labels[axis], what) for axis in sorted(axes))
    return Ruling((tuple(result),) * len(site.output_shapes), inexact=inexact)


@rule("cumsum", "cumprod", "cummax", "cummin", "logcumsumexp")
def cumulate(site: Site) -> Ruling:
    """Running statistic along one dimension."""
    labels = site.labels(site["self"])
    label = labels[site["dim"]]
    what = site.operator.split("::")[-1]
    return Ruling((labels,) * len(site.output_shapes), inexact=(Inexact(label, what),))
