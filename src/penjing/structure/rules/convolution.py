"""Convolutions and their transposes: contraction over channels, everything else kept whole."""

from penjing.structure.atoms import Label
from penjing.structure.rules.registry import rule
from penjing.structure.rules.site import Count, Inexact, Labels, Ruling, Shape, Site


@rule("conv1d", "conv2d", "conv3d", "_convolution_mode")
def convolution(site: Site) -> Ruling:
    """y[n, o, ...] = sum_i w[o, i, ...] * x[n, i, ...], i over the inputs of o's group."""
    weight = site.labels(site["weight"])
    return _convolve(site, weight[0], weight[1], transposed=False)


@rule("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
def transposed_convolution(site: Site) -> Ruling:
    """y[n, o, ...] = sum_i w[i, o, ...] * x[n, i, ...], i over the inputs of o's group."""
    weight = site.labels(site["weight"])
    return _convolve(site, weight[1], weight[0], transposed=True)


@rule("convolution", "_convolution", "convolution_overrideable")
def general_convolution(site: Site) -> Ruling:
    """Either of the above."""
    return transposed_convolution(site) if site["transposed"] else convolution(site)


def _convolve(site: Site, outputs: Label, inputs: Label, *, transposed: bool) -> Ruling:
    x, weight = site["input"], site["weight"]
    labels, shape = site.labels(x), site.shape(x)
    axis = len(shape) - len(site.shape(weight)) + 1  # 1, or 0 without a batch dimension
    for label in site.labels(weight)[2:]:
        site.hold(label)
    for label in labels[axis + 1 :]:
        site.freeze(label, "a convolution slides over it")
    groups, written = _groups(site)
    inexact: tuple[Inexact, ...] = ()
    if groups == 1:
        if shape[axis] > 1:
            inputs = site.equate(labels[axis], inputs)
            inexact = site.contract(inputs, x, weight)
        channels, group = outputs, None
    else:
        channels, group, within = _grouped(site, labels[axis], outputs, inputs, shape[axis], groups, transposed)
        inexact = site.contract(within, x, weight)
        if not written:
            site.freeze(group, "its number of groups is the size of the batch")
    if site["bias"] is not None:
        channels = site.equate(channels, site.labels(site["bias"])[0])
    result: Labels = (*labels[:axis], channels, *(None,) * (len(shape) - axis - 1))
    return Ruling((result,), {"groups": Count(group, groups)} if groups > 1 and written else {}, inexact)


def _groups(site: Site) -> tuple[int, bool]:
    """The number of groups, and whether it is a constant; else it is the size of the batch, a group for each sample."""
    groups = site["groups"]
    if isinstance(groups, int):
        return groups, True
    return int(groups.meta["val"].node.hint), False


def _grouped(
    site: Site, x: Label, outputs: Label, inputs: Label, channels: int, groups: int, transposed: bool
) -> tuple[Label, Label, Label]:
    """Output channels, their groups, and the inputs within a group.

    Channels are split into (group, within); whole groups may go, or the same channel of every group.
    """
    atoms = site.atoms
    output_shape: Shape = site.output_shape
    within_in, within_out = channels // groups, output_shape[-len(site.shape(site["weight"])) + 1] // groups
    x_group, x_within = atoms.split(x, [groups, within_in])
    if transposed:
        w_group, w_within = atoms.split(inputs, [groups, within_in])
        out_within = outputs
    else:
        w_group, out_within = atoms.split(outputs, [groups, within_out])
        w_within = inputs
    group = site.equate(x_group, w_group)
    if within_in > 1:
        w_within = site.equate(x_within, w_within)
    return atoms.merge([group, out_within], [groups, within_out]), group, w_within


@rule("conv_tbc")
def conv_tbc(site: Site) -> Ruling:
    """y[t, b, o] = sum_ki w[k, i, o] * x[t + k, b, i] + bias[o]: time comes first."""
    time, batch, inputs = site.labels(site["self"])
    window, contracted, outputs = site.labels(site["weight"])
    for label in (time, window):
        site.hold(label)
    if site.shape(site["self"])[2] > 1:
        contracted = site.equate(inputs, contracted)
    outputs = site.equate(outputs, site.labels(site["bias"])[0])
    return Ruling(((None, batch, outputs),), inexact=site.contract(contracted, site["self"], site["weight"]))
