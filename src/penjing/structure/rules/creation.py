"""Tensors made from nothing: their sizes follow whatever they meet."""

from penjing.structure.rules.registry import rule
from penjing.structure.rules.shape import sizes_of
from penjing.structure.rules.site import Ruling, Site


@rule("zeros", "ones", "full", "empty", "rand", "randn", "randint", "new_zeros", "new_ones", "new_full", "new_empty")
def create(site: Site) -> Ruling:
    """A tensor of constant value, of any size."""
    sizes = site["size"]
    shape = site.output_shape
    labels = site.new(shape)
    labels = tuple(label if isinstance(size, int) else None for label, size in zip(labels, sizes, strict=True))
    return Ruling((labels,), {"size": sizes_of(site, labels, shape, sizes)})


@rule("normal")
def normal(site: Site) -> Ruling:
    """Random numbers of given sizes, or one for each element of a mean and a deviation."""
    return create(site) if "size" in site.arguments else Ruling((site.broadcast(site.tensors),))


@rule(
    *("arange", "range", "linspace", "logspace", "eye", "scalar_tensor", "tril_indices", "triu_indices", "randperm"),
    *("hann_window", "hamming_window", "bartlett_window", "blackman_window", "kaiser_window"),
    *("fft_fftfreq", "fft_rfftfreq"),
)
def count_up(site: Site) -> Ruling:
    """A tensor whose values are its positions: kept whole."""
    return Ruling(site.fixed())


@rule("tril", "triu", "diagonal", "linalg_diagonal")
def triangle(site: Site) -> Ruling:
    """Two dimensions are compared with each other: they are kept whole."""
    labels = site.labels(site.tensors[0])
    pair = {site.arguments.get(name, last) % len(labels) for name, last in (("dim1", -2), ("dim2", -1))}
    for axis in pair:
        site.freeze(labels[axis], "its positions are compared")
    kept = tuple(None if axis in pair else label for axis, label in enumerate(labels))
    if "diagonal" in site.operator:
        kept = (*(label for axis, label in enumerate(labels) if axis not in pair), None)
    return Ruling((kept,))
