"""Operators that treat every element alike: what meets by broadcasting is the same dimension."""

from torch import fx

from penjing.structure.rules.registry import rule
from penjing.structure.rules.site import Inexact, Ruling, Site

UNARY = """
    relu relu6 gelu silu mish elu celu selu leaky_relu hardtanh hardswish hardsigmoid hardshrink softshrink softplus
    threshold log_sigmoid sigmoid tanh sinh cosh asinh acosh atanh sin cos tan asin acos atan exp exp2 expm1
    log1p sqrt square neg abs sign sgn floor ceil round trunc frac erf erfc erfinv
    polygamma mvlgamma i0 sinc deg2rad rad2deg signbit isnan isinf isfinite isneginf isposinf isreal logical_not
    bitwise_not nan_to_num clamp_min clamp_max frexp angle real imag conj conj_physical _conj _conj_physical _neg_view
    absolute negative fix arccos arccosh arcsin arcsinh arctan arctanh chalf
    dropout feature_dropout alpha_dropout feature_alpha_dropout native_dropout rrelu
    clone contiguous detach alias _to_copy cpu lift_fresh lift pin_memory positive resolve_conj resolve_neg
    _cast_Byte _cast_Char _cast_Double _cast_Float _cast_Half _cast_Int _cast_Long _cast_Short
    _autocast_to_full_precision _autocast_to_reduced_precision
    zeros_like ones_like full_like empty_like rand_like randn_like randint_like bernoulli fill zero poisson
    uniform normal_ log_normal cauchy exponential geometric random
    special_entr special_erfcx special_erf special_erfc special_erfinv special_i0 special_i0e special_i1 special_i1e
    special_ndtr special_log_ndtr special_exp2 special_expm1
    special_expit special_log1p special_round special_sinc special_polygamma special_multigammaln
    special_bessel_j0 special_bessel_j1 special_bessel_y0 special_bessel_y1
    special_modified_bessel_i0 special_modified_bessel_i1 special_modified_bessel_k0 special_modified_bessel_k1
"""

BINARY = """
    add sub mul rsub multiply subtract remainder fmod float_power maximum
    minimum fmax fmin atan2 arctan2 hypot copysign heaviside lerp addcmul addcdiv masked_fill clamp clip copy
    eq ne lt le gt ge not_equal less less_equal greater greater_equal isclose
    logical_and logical_or logical_xor bitwise_and bitwise_or bitwise_xor __and__ __or__ __xor__
    bitwise_left_shift bitwise_right_shift __lshift__ __rshift__ gcd lcm
    xlogy logaddexp logaddexp2 ldexp nextafter igamma igammac polar complex expand_as broadcast_tensors
    _add_relu _prelu_kernel rrelu_with_noise
    special_xlogy special_xlog1py special_zeta special_gammainc special_gammaincc
"""

POLES = """
    div true_divide divide floor_divide rsqrt reciprocal log log2 log10 logit digamma special_digamma special_psi
    special_logit lgamma special_gammaln special_ndtri pow
"""

LOSSES = """
    mse_loss l1_loss smooth_l1_loss huber_loss soft_margin_loss binary_cross_entropy binary_cross_entropy_with_logits
    kl_div
"""

SILENT = """
    _assert_tensor_metadata _assert_scalar _assert_async _functional_assert_async _functional_assert_scalar
    sym_size sym_numel sym_stride sym_storage_offset sym_is_contiguous size numel stride storage_offset dim is_same_size
    sym_constrain_range sym_constrain_range_for_size item _local_scalar_dense
    is_floating_point is_complex is_nonzero is_contiguous
"""


@rule(*UNARY.split(), *BINARY.split())
def elementwise(site: Site) -> Ruling:
    """y[i] = f(a[i], b[i], ...) with broadcasting."""
    labels = site.broadcast(site.tensors)
    return Ruling((labels,) * len(site.output_shapes))


@rule(*POLES.split())
def infinite_at_zero(site: Site) -> Ruling:
    """Elementwise, but infinite or undefined where one argument is zero: no zero may stand for what is removed."""
    labels = site.broadcast(site.tensors)
    name = site.operator.removeprefix("aten::")
    at_zero = site.node.args[1 if "div" in name else 0]
    exponent = site.arguments.get("exponent")
    finite = name.startswith("pow") and not (isinstance(exponent, int | float) and exponent < 0)
    zero = isinstance(at_zero, fx.Node) and site.vanishes(at_zero) and not finite
    removed = site.labels(at_zero) if zero else ()
    inexact = tuple(Inexact(label, f"{name} of zero") for label in removed if site.atoms.has_free(label))
    return Ruling((labels,) * len(site.output_shapes), inexact=inexact)


@rule("where")
def where(site: Site) -> Ruling:
    """y[i] = condition[i] ? a[i] : b[i]; without a and b, the places where the condition holds."""
    if "self" not in site.arguments:
        return site.keep_whole("it lists the places where a condition holds")
    return elementwise(site)


@rule(*LOSSES.split())
def loss(site: Site) -> Ruling:
    """Elementwise, then averaged or added up unless `reduction` is 0."""
    labels = site.broadcast(site.tensors)
    if site["reduction"] == 0:
        return Ruling((labels,))
    return Ruling(((),), inexact=tuple(Inexact(label, "the average of a loss") for label in labels))


@rule("to", "type_as", "log_sigmoid_forward")
def of_the_first(site: Site) -> Ruling:
    """Elementwise in the first tensor; a second one gives its dtype alone."""
    labels = site.labels(site["self"])
    return Ruling(tuple(labels if len(shape or ()) == len(labels) else (None,) for shape in site.output_shapes))


@rule("prelu")
def prelu(site: Site) -> Ruling:
    """y[n, c, ...] = x > 0 ? x : weight[c] * x."""
    labels = list(site.labels(site["self"]))
    weight = site.shape(site["weight"])
    if weight and weight[0] > 1:
        axis = min(1, len(labels) - 1)
        labels[axis] = site.equate(labels[axis], site.labels(site["weight"])[0])
    return Ruling((tuple(labels),))


@rule("isin")
def isin(site: Site) -> Ruling:
    """Whether each element is one of a list, which is kept whole."""
    elements, members = site.arguments.get("elements"), site.arguments.get("test_elements")
    for label in site.labels(members) if site.is_tensor(members) else ():
        site.freeze(label, "elements are compared with a list")
    return Ruling((site.labels(elements),) if site.is_tensor(elements) else site.fixed())


@rule(*SILENT.split())
def no_tensor(site: Site) -> Ruling:
    """Checks and sizes: they carry no labels. Sizes are read only along dimensions that are declared dynamic."""
    return Ruling(site.fixed())
