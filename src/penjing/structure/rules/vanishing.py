"""Which values vanish where a slice was removed, when the slices of the parameters are zero.

A contraction with a parameter is always exact, for the parameter's slice is zero. A contraction of two activations
(attention scores, gates over channels) is exact only when one of them vanishes: relu(0) = 0, but sigmoid(0) = 1/2.
Operators that are not listed are taken not to vanish, so that a cut is called inexact rather than exact by mistake.
"""

from torch import Tensor, fx

from penjing.structure.rules.site import Labels, Site

_PRESERVING = """
    relu relu6 gelu silu mish elu celu selu leaky_relu hardswish hardshrink softshrink tanh sinh asinh sin tan asin
    atan arcsin arcsinh arctan expm1 sqrt square neg negative abs absolute sign sgn floor ceil round trunc fix frac erf
    log1p deg2rad rad2deg real imag conj dropout feature_dropout alpha_dropout clone contiguous detach alias to
    _to_copy type_as lift_fresh_copy lift_fresh positive zeros_like zero prelu view reshape _unsafe_view flatten squeeze
    ravel unflatten unsqueeze permute transpose swapaxes swapdims t numpy_T mT mH adjoint movedim moveaxis cat concat
    concatenate hstack vstack dstack column_stack stack tile flip fliplr flipud pixel_shuffle pixel_unshuffle
    channel_shuffle native_channel_shuffle slice narrow select split split_with_sizes chunk tensor_split hsplit vsplit
    dsplit unbind roll repeat_interleave glu sum nansum mean amax amin max_pool1d max_pool2d max_pool3d avg_pool1d
    avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d
    adaptive_max_pool2d adaptive_max_pool3d upsample_nearest1d upsample_nearest2d upsample_nearest3d
    upsample_bilinear2d upsample_bicubic2d upsample_linear1d upsample_trilinear3d im2col col2im unfold diff _weight_norm
    view_as_real view_as_complex fft_fft fft_ifft fft_rfft fft_irfft fft_fft2 fft_ifft2 fft_rfft2 fft_irfft2
"""
_COPIES = ("lift_fresh_copy", "_to_copy")
_ALL = ("add", "sub", "subtract", "maximum", "minimum")
_ANY = ("mul", "multiply")
_FIRST = ("div", "divide", "true_divide")
_SPREADING = ("expand", "expand_as", "broadcast_to", "repeat")
_READING = ("index", "_unsafe_index", "index_select", "gather", "take_along_dim")
_LAYERS = ("linear", "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
_NORMS = ("batch_norm", "layer_norm", "rms_norm", "group_norm")


def vanishes(site: Site, outputs: Labels) -> bool:
    """Whether the output is zero wherever any of its free dimensions loses an index."""
    name = site.operator.removeprefix("aten::").removesuffix("_")
    name = name if name in _COPIES else name.removesuffix("_copy")
    free = [axis - len(outputs) for axis, label in enumerate(outputs) if site.atoms.has_free(label)]
    if not free:
        return True
    if name.endswith("getitem") and not _is_float(site.node.meta.get("val")):
        return False
    if name in _PRESERVING.split() or name.endswith("getitem"):
        return all(site.vanishes(node) for node in site.node.all_input_nodes if site.outputs_of(node))
    if name in _ALL:
        tensors = site.tensors
        return len(tensors) == 2 and all(_covers(site, node, axis) for node in tensors for axis in free)
    if name in _ANY:
        return all(any(_covers(site, node, axis) for node in site.tensors) for axis in free)
    if name in (*_FIRST, *_SPREADING) or (name == "pow" and _is_positive(site.arguments.get("exponent"))):
        first = site.node.args[0]
        return isinstance(first, fx.Node) and all(_covers(site, first, axis) for axis in free)
    if name in ("pad", "constant_pad_nd", "masked_fill"):
        zero = site["value"] is None or site["value"] == 0
        return zero and all(_covers(site, site["self"], axis) for axis in free)
    if name in _READING:
        first, *others = site.tensors
        places = (label for node in others for label in site.labels(node))
        return site.vanishes(first) and not any(map(site.atoms.has_free, places))
    if name in _LAYERS:
        channels = -1 if name == "linear" else len(site.shape(site["weight"])) * -1 + 1
        passed = [axis for axis in free if axis != channels]
        own = [node for node in (site["weight"], site["bias"]) if node is not None]
        made = channels not in free or all(map(site.vanishes, own))
        return made and (not passed or (site["bias"] is None and site.vanishes(site["input"])))
    if name == "addmm":
        added, _, weight = site.node.args[:3]
        assert isinstance(added, fx.Node)
        assert isinstance(weight, fx.Node)
        return free == [-1] and _covers(site, added, -1) and _covers(site, weight, -1)
    if name in _NORMS:
        return _norm_vanishes(site, name, free, len(outputs))
    if name in ("matmul", "mm", "bmm"):
        return _product_vanishes(site, free)
    if name == "scaled_dot_product_attention":
        return site.vanishes(site["value"])
    if name == "embedding":
        return site.vanishes(site["weight"])
    return name in ("zeros", "new_zeros")


def _is_positive(exponent: object) -> bool:
    return isinstance(exponent, int | float) and exponent > 0


def _is_float(value: object) -> bool:
    """Whether an output is no index, as far as is known."""
    return not isinstance(value, Tensor) or value.is_floating_point() or value.is_complex()


def _covers(site: Site, node: fx.Node, axis: int) -> bool:
    """Whether an operand vanishes along an axis of the output, counted from the last."""
    labels = site.labels(node)
    return len(labels) >= -axis and labels[axis] is not None and site.vanishes(node)


def _product_vanishes(site: Site, free: list[int]) -> bool:
    """Rows of a @ b are zero where those of a are, columns where those of b are, batches where either is."""
    a, b = site.node.args[:2]
    assert isinstance(a, fx.Node)
    assert isinstance(b, fx.Node)
    if min(len(site.labels(a)), len(site.labels(b))) < 2:
        return site.vanishes(a) and site.vanishes(b)
    sides = {-2: (a,), -1: (b,)}
    return all(any(_covers(site, node, axis) for node in sides.get(axis, (a, b))) for axis in free)


def _norm_vanishes(site: Site, name: str, free: list[int], rank: int) -> bool:
    """An affine norm gives weight * (...) + bias, which is zero along the dimensions of the weight."""
    if site["weight"] is None:
        return False
    if name in ("batch_norm", "group_norm"):
        return free == [1 - rank]
    return all(axis >= -len(site["normalized_shape"]) for axis in free)
