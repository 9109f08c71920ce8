"""Normalisations: batch norm treats channels alone (exact); the others take statistics over them (inexact)."""

from penjing.structure.atoms import Label
from penjing.structure.rules.registry import rule
from penjing.structure.rules.site import Count, Inexact, Ruling, Site


@rule("batch_norm", "instance_norm")
def batch_norm(site: Site) -> Ruling:
    """y[n, c, ...] = (x[n, c, ...] - mean[c]) / sqrt(var[c] + eps) * weight[c] + bias[c]."""
    labels = list(site.labels(site["input"]))
    for name in ("weight", "bias", "running_mean", "running_var"):
        if site[name] is not None:
            labels[1] = site.equate(labels[1], site.labels(site[name])[0])
    uses_batch = site.arguments.get("training") or site.arguments.get("use_input_stats")
    others = [label for axis, label in enumerate(labels) if axis != 1]
    inexact = tuple(Inexact(label, "batch statistics") for label in others) if uses_batch else ()
    return Ruling((tuple(labels),), inexact=inexact)


@rule("layer_norm", "rms_norm")
def layer_norm(site: Site) -> Ruling:
    """Mean and variance over the last dimensions, named by `normalized_shape`."""
    x, sizes = site["input"], site["normalized_shape"]
    labels = list(site.labels(x))
    shape = site.shape(x)
    axes = range(-len(sizes), 0)
    for name in ("weight", "bias"):
        affine = site.arguments.get(name)
        if affine is not None:
            for axis in axes:
                labels[axis] = site.equate(labels[axis], site.labels(affine)[axis])
    what = site.operator.split("::")[-1].replace("_", " ")
    return Ruling(
        (tuple(labels),),
        {"normalized_shape": [Count(labels[axis], shape[axis]) for axis in axes]},
        tuple(Inexact(labels[axis], what) for axis in axes),
    )


@rule("group_norm")
def group_norm(site: Site) -> Ruling:
    """Mean and variance over the channels of each group and all positions."""
    x, groups = site["input"], int(site["num_groups"])
    labels, channels = list(site.labels(x)), site.shape(x)[1]
    group: Label
    group, within = site.atoms.split(labels[1], [groups, channels // groups])
    labels[1] = site.atoms.merge([group, within], [groups, channels // groups])
    for name in ("weight", "bias"):
        if site[name] is not None:
            labels[1] = site.equate(labels[1], site.labels(site[name])[0])
    inexact = (Inexact(within, "group norm"), *(Inexact(label, "group norm") for label in labels[2:]))
    return Ruling((tuple(labels),), {"num_groups": Count(group, groups)}, inexact)


@rule("_native_batch_norm_legit_no_training")
def native_batch_norm(site: Site) -> Ruling:
    """The decomposed form: outputs the result and two empty tensors."""
    ruling = batch_norm(site)
    return Ruling((*ruling.outputs, *site.fixed()[1:]))


@rule("native_layer_norm")
def native_layer_norm(site: Site) -> Ruling:
    """The decomposed form: outputs the result, the means and the inverse deviations."""
    ruling = layer_norm(site)
    (labels,) = ruling.outputs
    sizes = len(site["normalized_shape"])
    statistics = (*labels[:-sizes], *(None,) * sizes)
    return Ruling((labels, statistics, statistics), ruling.constants, ruling.inexact)


@rule("softmax", "log_softmax", "_softmax", "_log_softmax")
def softmax(site: Site) -> Ruling:
    """exp(x) / sum(exp(x)) over one dimension."""
    labels = site.labels(site["self"])
    return Ruling((labels,), inexact=(Inexact(labels[site["dim"]], "softmax"),))


@rule("_weight_norm")
def weight_norm(site: Site) -> Ruling:
    """w = g * v / |v|, the norm over every dimension but `dim`."""
    labels = list(site.labels(site["v"]))
    axis = site["dim"] % len(labels)
    if site.shape(site["g"])[axis] > 1:
        labels[axis] = site.equate(labels[axis], site.labels(site["g"])[axis])
    inexact = tuple(Inexact(label, "weight norm") for label in labels)
    return Ruling((tuple(labels),), inexact=inexact)
