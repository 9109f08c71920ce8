"""Normalisations: batch norm treats channels alone (exact); the others take statistics over them (inexact)."""

from penjing.structure.atoms import Label
from penjing.structure.rules.registry import rule
from penjing.structure.rules.site import Count, Inexact, Labels, Ruling, Site


@rule("batch_norm", "instance_norm")
def batch_norm(site: Site) -> Ruling:
    """y[n, c, ...] = (x[n, c, ...] - mean[c]) / sqrt(var[c] + eps) * weight[c] + bias[c]."""
    labels = list(site.labels(site["input"]))
    for name in ("weight", "bias", "running_mean", "running_var"):
        if site.arguments.get(name) is not None:
            labels[1] = site.equate(labels[1], site.labels(site[name])[0])
    uses_batch = any(site.arguments.get(name) for name in ("training", "use_input_stats"))
    uses_batch = uses_batch or site.arguments.get("running_mean") is None or "with_update" in site.operator
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
    labels, group, inexact = _in_groups(site, int(site["num_groups"]))
    return Ruling((labels,), {"num_groups": Count(group, int(site["num_groups"]))}, inexact)


@rule("native_group_norm")
def native_group_norm(site: Site) -> Ruling:
    """The decomposed form: the result, the means and the inverse deviations of each group."""
    groups, shape = int(site["group"]), site.shape(site["input"])
    labels, group, inexact = _in_groups(site, groups)
    for label in (labels[0], *labels[2:]):
        site.freeze(label, "the number of positions is a constant")
    statistics = (None, group)
    return Ruling(
        (labels, statistics, statistics), {"C": Count(labels[1], shape[1]), "group": Count(group, groups)}, inexact
    )


def _in_groups(site: Site, groups: int) -> tuple[Labels, Label, tuple[Inexact, ...]]:
    """Labels of the result, of the groups, and what the statistics run over."""
    x = site["input"]
    labels, channels = list(site.labels(x)), site.shape(x)[1]
    group, within = site.atoms.split(labels[1], [groups, channels // groups])
    labels[1] = site.atoms.merge([group, within], [groups, channels // groups])
    for name in ("weight", "bias"):
        if site[name] is not None:
            labels[1] = site.equate(labels[1], site.labels(site[name])[0])
    inexact = (Inexact(within, "group norm"), *(Inexact(label, "group norm") for label in labels[2:]))
    return tuple(labels), group, inexact


@rule(
    *(
        "native_batch_norm",
        "_native_batch_norm_legit",
        "_native_batch_norm_legit_no_training",
        "_batch_norm_impl_index",
    ),
    *("_native_batch_norm_legit_functional", "_batch_norm_with_update", "_batch_norm_with_update_functional"),
    *("_batch_norm_no_update", "cudnn_batch_norm", "miopen_batch_norm"),
)
def native_batch_norm(site: Site) -> Ruling:
    """The decomposed forms: the result, then statistics of each channel or empty tensors."""
    ruling = batch_norm(site)
    (labels,) = ruling.outputs
    channels = site.shape(site["input"])[1]
    rest = [(labels[1],) if shape == (channels,) else site.fixed([shape])[0] for shape in site.output_shapes[1:]]
    return Ruling((labels, *rest), inexact=ruling.inexact)


@rule("native_layer_norm", "_fused_rms_norm")
def native_layer_norm(site: Site) -> Ruling:
    """The decomposed form: outputs the result, the means and the inverse deviations."""
    ruling = layer_norm(site)
    (labels,) = ruling.outputs
    sizes = len(site["normalized_shape"])
    statistics = (*labels[:-sizes], *(None,) * sizes)
    return Ruling((labels, *(statistics,) * (len(site.output_shapes) - 1)), ruling.constants, ruling.inexact)


@rule("softmax", "log_softmax", "_softmax", "_log_softmax", "_safe_softmax", "special_softmax", "special_log_softmax")
def softmax(site: Site) -> Ruling:
    """exp(x) / sum(exp(x)) over one dimension."""
    labels = site.labels(site["self"])
    return Ruling((labels,), inexact=(Inexact(labels[site["dim"]], "softmax"),))


@rule("_weight_norm", "_weight_norm_interface")
def weight_norm(site: Site) -> Ruling:
    """w = g * v / |v|, the norm over every dimension but `dim`."""
    labels, g = list(site.labels(site["v"])), site["g"]
    kept = range(len(labels)) if site["dim"] == -1 else [site["dim"] % len(labels)]
    for axis in kept:
        if site.shape(g) and site.shape(g)[axis] > 1:
            labels[axis] = site.equate(labels[axis], site.labels(g)[axis])
    inexact = tuple(Inexact(label, "weight norm") for label in labels)
    norms = tuple(label if axis in kept else None for axis, label in enumerate(labels))
    return Ruling((tuple(labels), norms)[: len(site.output_shapes)], inexact=inexact)


@rule("norm_except_dim")
def norm_except_dim(site: Site) -> Ruling:
    """|v| over every dimension but `dim`, which are kept with size one."""
    labels = site.labels(site["v"])
    axis = site["dim"] % len(labels)
    result = tuple(label if i == axis and site["dim"] != -1 else None for i, label in enumerate(labels))
    inexact = tuple(Inexact(label, "weight norm") for i, label in enumerate(labels) if i != axis)
    return Ruling((result[: len(site.output_shape)],), inexact=inexact)
