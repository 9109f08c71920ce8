"""Fourier transforms and complex views: what is transformed is kept, what is only carried along passes."""

from penjing.structure.rules.registry import rule
from penjing.structure.rules.site import Ruling, Site

_ONE = ("fft", "ifft", "rfft", "irfft", "hfft", "ihfft")


@rule(
    *(f"fft_{name}" for name in _ONE),
    *(f"fft_{name}2" for name in _ONE),
    *(f"fft_{name}n" for name in _ONE),
    *("fft_fftshift", "fft_ifftshift", "_fft_r2c", "_fft_c2r", "_fft_c2c"),
)
def transform(site: Site) -> Ruling:
    """Every output of a transform depends on all positions of its dimensions; the others pass through."""
    labels = list(site.labels(site["self"]))
    dims, sizes = site["dim"], site.arguments.get("s")
    if dims is None:
        dims = range(-len(sizes), 0) if sizes else range(len(labels))
    for axis in [dims] if isinstance(dims, int) else dims:
        site.freeze(labels[axis], "a Fourier transform runs over it")
        labels[axis] = None
    return Ruling((tuple(labels),))


@rule("view_as_real")
def view_as_real(site: Site) -> Ruling:
    """Real and imaginary part along a new last dimension."""
    return Ruling(((*site.labels(site["self"]), None),))


@rule("view_as_complex")
def view_as_complex(site: Site) -> Ruling:
    """The last dimension, real and imaginary part, becomes one complex number."""
    *labels, parts = site.labels(site["self"])
    site.freeze(parts, "it is the real and the imaginary part")
    return Ruling((tuple(labels),), contiguous=True)
