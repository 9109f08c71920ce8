"""Tensors made from nothing: their sizes follow whatever they meet."""

from penjing.structure.rules.registry import rule
from penjing.structure.rules.shape import sizes_of
from penjing.structure.rules.site import Ruling, Site


@rule("zeros", "ones", "full", "empty", "rand", "randn", "new_zeros", "new_ones", "new_full", "new_empty")
def create(site: Site) -> Ruling:
    """A tensor of constant value, of any size."""
    sizes = site["size"]
    shape = site.output_shape
    labels = site.new(shape)
    labels = tuple(label if isinstance(size, int) else None for label, size in zip(labels, sizes, strict=True))
    return Ruling((labels,), {"size": sizes_of(site, labels, shape, sizes)})


@rule("arange", "linspace", "eye", "scalar_tensor", "tril_indices", "triu_indices", "hann_window", "bartlett_window")
def count_up(site: Site) -> Ruling:
    """A tensor whose values are its positions: kept whole."""
    return Ruling(site.fixed())


@rule("tril", "triu", "diagonal")
def triangle(site: Site) -> Ruling:
    """The last two dimensions are compared with each other: kept whole."""
    labels = site.labels(site["self"])
    for label in labels[-2:]:
        site.freeze(label, "its positions are compared")
    return Ruling(((*labels[:-2], *(None,) * (len(site.output_shape) - len(labels) + 2)),))
