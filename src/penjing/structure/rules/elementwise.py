"""Operators that treat every element alike: what meets by broadcasting is the same dimension."""

from penjing.structure.rules.registry import rule
from penjing.structure.rules.site import Ruling, Site

UNARY = """
    relu relu6 gelu silu mish elu celu selu leaky_relu hardtanh hardswish hardsigmoid hardshrink softshrink softplus
    threshold log_sigmoid sigmoid logit tanh sinh cosh asinh acosh atanh sin cos tan asin acos atan exp exp2 expm1 log
    log2 log10 log1p sqrt rsqrt square reciprocal neg abs sign sgn floor ceil round trunc frac erf erfc erfinv lgamma
    digamma i0 isnan isinf isfinite logical_not bitwise_not nan_to_num clamp_min clamp_max
    dropout feature_dropout alpha_dropout feature_alpha_dropout native_dropout rrelu
    clone contiguous detach alias to _to_copy lift_fresh_copy lift_fresh positive
    zeros_like ones_like full_like empty_like rand_like randn_like bernoulli fill zero
"""

BINARY = """
    add sub mul div rsub true_divide divide multiply subtract floor_divide remainder fmod pow float_power maximum
    minimum fmax fmin atan2 hypot copysign heaviside lerp addcmul addcdiv where masked_fill clamp copy
    eq ne lt le gt ge logical_and logical_or logical_xor bitwise_and bitwise_or bitwise_xor __and__ __or__ __xor__
    xlogy logaddexp expand_as
"""


@rule(*UNARY.split(), *BINARY.split())
def elementwise(site: Site) -> Ruling:
    """y[i] = f(a[i], b[i], ...) with broadcasting."""
    labels = site.broadcast(site.tensors)
    return Ruling((labels,) * len(site.output_shapes))


@rule("type_as")
def type_as(site: Site) -> Ruling:
    """The second tensor gives its dtype alone."""
    return Ruling((site.labels(site["self"]),))


@rule("prelu")
def prelu(site: Site) -> Ruling:
    """y[n, c, ...] = x > 0 ? x : weight[c] * x."""
    labels = list(site.labels(site["self"]))
    if site.shape(site["weight"])[0] > 1:
        labels[1] = site.equate(labels[1], site.labels(site["weight"])[0])
    return Ruling((tuple(labels),))


@rule("_assert_tensor_metadata", "sym_size", "sym_numel", "_assert_scalar", "sym_constrain_range_for_size", "item")
def no_tensor(site: Site) -> Ruling:
    """Checks and sizes: they carry no labels. Sizes are read only along dimensions that are declared dynamic."""
    return Ruling(site.fixed())
