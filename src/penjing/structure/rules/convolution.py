"""Convolutions and their transposes: contraction over channels, everything else kept whole."""

from penjing.structure.atoms import Label
from penjing.structure.rules.registry import rule
from penjing.structure.rules.site import Count, Labels, Ruling, Shape, Site


@rule("conv1d", "conv2d", "conv3d")
def convolution(site: Site) -> Ruling:
    """y[n, o, ...] = sum_i w[o, i, ...] * x[n, i, ...], i over the inputs of o's group."""
    weight = site.labels(site["weight"])
    return _convolve(site, weight[0], weight[1], transposed=False)


@rule("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
def transposed_convolution(site: Site) -> Ruling:
    """y[n, o, ...] = sum_i w[i, o, ...] * x[n, i, ...], i over the inputs of o's group."""
    weight = site.labels(site["weight"])
    return _convolve(site, weight[1], weight[0], transposed=True)


@rule("convolution")
def general_convolution(site: Site) -> Ruling:
    """Either of the above."""
    return transposed_convolution(site) if site["transposed"] else convolution(site)


def _convolve(site: Site, outputs: Label, inputs: Label, *, transposed: bool) -> Ruling:
    x, weight = site["input"], site["weight"]
    labels, shape = site.labels(x), site.shape(x)
    axis = len(shape) - len(site.shape(weight)) + 1  # 1, or 0 without a batch dimension
    for label in (*site.labels(weight)[2:], *labels[axis + 1 :]):
        site.hold(label)
    groups = int(site["groups"])
    if groups == 1:
        if shape[axis] > 1:
            site.equate(labels[axis], inputs)
        channels, group = outputs, None
    else:
        channels, group = _grouped(site, labels[axis], outputs, inputs, shape[axis], groups, transposed)
    if site["bias"] is not None:
        channels = site.equate(channels, site.labels(site["bias"])[0])
    result: Labels = (*labels[:axis], channels, *(None,) * (len(shape) - axis - 1))
    return Ruling((result,), {"groups": Count(group, groups)} if groups > 1 else {})


def _grouped(
    site: Site, x: Label, outputs: Label, inputs: Label, channels: int, groups: int, transposed: bool
) -> tuple[Label, Label]:
    """Channels split into (group, within); whole groups may go, or the same channel of every group."""
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
        site.equate(x_within, w_within)
    return atoms.merge([group, out_within], [groups, within_out]), group
