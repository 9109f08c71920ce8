"""One or more RuleCases for every row of the table of rules, by family."""

import torch

from penjing.testing.rules import Draw, RuleCase, Whole

aten = torch.ops.aten


def unary(name: str, positive: bool = False, exact: bool = True) -> RuleCase:
    def arguments(draw: Draw) -> tuple[object, ...]:
        return ((draw.positive if positive else draw.tensor)(draw.size(), draw.size()),)

    return RuleCase(getattr(aten, name).default, arguments, groups=2, exact=exact)


def binary(operator: object, *extra: object, exact: bool = True, **keywords: object) -> RuleCase:
    def arguments(draw: Draw) -> tuple[object, ...]:
        a, b = draw.size(), draw.size()
        return (draw.positive(3, a, b), draw.positive(a, 1), *extra, dict(keywords))

    return RuleCase(operator, arguments, groups=3, exact=exact)


UNARY = """
    relu relu6 gelu silu mish elu celu selu leaky_relu hardtanh hardswish hardsigmoid hardshrink softshrink
    softplus log_sigmoid sigmoid tanh sinh cosh asinh atanh sin cos tan asin acos atan exp exp2 expm1 sqrt
    square neg abs sign sgn floor ceil round trunc frac erf erfc erfinv i0 isnan isinf isfinite logical_not
    nan_to_num clone contiguous alias positive zeros_like ones_like detach zero lift_fresh_copy lift_fresh
    sinc deg2rad rad2deg signbit isneginf isposinf isreal angle real conj conj_physical _conj_physical _neg_view
    absolute negative fix arcsin arcsinh arctan arctanh log_sigmoid_forward cpu lift resolve_conj resolve_neg
    _cast_Byte _cast_Char _cast_Double _cast_Float _cast_Half _cast_Int _cast_Long _cast_Short
    special_erfcx special_erf special_erfc special_erfinv special_i0 special_i0e special_i1 special_i1e special_ndtr
    special_log_ndtr special_exp2 special_expm1 special_expit special_round special_sinc special_bessel_j0
    special_bessel_j1 special_modified_bessel_i0 special_modified_bessel_i1 alias_copy
"""
POSITIVE = """
    acosh log1p arccos arccosh special_entr special_log1p special_bessel_y0 special_bessel_y1
    special_modified_bessel_k0 special_modified_bessel_k1
"""
INFINITE = """
    logit log log2 log10 rsqrt reciprocal lgamma digamma special_ndtri special_digamma special_psi special_gammaln
    special_logit
"""
DIVISIONS = "div.Tensor true_divide.Tensor divide.Tensor floor_divide.default"
BINARY = """
    add.Tensor sub.Tensor mul.Tensor rsub.Tensor multiply.Tensor subtract.Tensor remainder.Tensor fmod.Tensor
    pow.Tensor_Tensor float_power.Tensor_Tensor maximum.default minimum.default fmax.default fmin.default
    atan2.default hypot.default copysign.Tensor heaviside.default eq.Tensor ne.Tensor lt.Tensor le.Tensor
    gt.Tensor ge.Tensor logical_and.default logical_or.default logical_xor.default xlogy.Tensor logaddexp.default
    logaddexp2.default ldexp.Tensor nextafter.default arctan2.default igamma.default igammac.default
    polar.default complex.default not_equal.Tensor less.Tensor less_equal.Tensor greater.Tensor
    greater_equal.Tensor isclose.default _prelu_kernel.default special_xlogy.default special_xlog1py.default
    special_zeta.default special_gammainc.default special_gammaincc.default _add_relu.Tensor
"""


def overload(name: str) -> object:
    packet, which = name.split(".")
    return getattr(getattr(aten, packet), which)


def bools(draw: Draw, *shape: int) -> torch.Tensor:
    return draw.tensor(*shape) > 0


def places(draw: Draw, positions: int) -> torch.Tensor:
    """The indices that a pooling of size two gives."""
    pool = aten.max_pool2d_with_indices if positions == 2 else aten.max_pool3d_with_indices
    return pool(draw.tensor(2, 3, *[4] * positions), [2] * positions)[1]


CASES: list[RuleCase] = [
    *(unary(name) for name in UNARY.split()),
    *(unary(name, positive=True) for name in POSITIVE.split()),
    *(unary(name, positive=True, exact=False) for name in INFINITE.split()),
    *(binary(overload(name)) for name in BINARY.split()),
    *(binary(overload(name), exact=False) for name in DIVISIONS.split()),
    RuleCase(aten.div.Scalar, lambda d: (d.tensor(3, 4), 2.0), groups=2),
    RuleCase(aten.div.Tensor, lambda d: (d.tensor(3, 4), Whole(d.positive(3, 1))), groups=1),
    RuleCase(aten.pow.Tensor_Scalar, lambda d: (d.tensor(3, 4), 2), groups=2),
    RuleCase(aten.pow.Tensor_Scalar, lambda d: (d.tensor(3, 4), -2), groups=2, exact=False),
    RuleCase(aten.clamp.default, lambda d: (d.tensor(3, d.size()), -0.5, 0.5), groups=2),
    RuleCase(aten.clamp_min.default, lambda d: (d.tensor(3, d.size()), 0.1), groups=2),
    RuleCase(aten.clamp_max.default, lambda d: (d.tensor(3, d.size()), 0.1), groups=2),
    RuleCase(aten.threshold.default, lambda d: (d.tensor(3, d.size()), 0.1, 0.0), groups=2),
    RuleCase(aten.full_like.default, lambda d: (d.tensor(3, d.size()), 2.0), groups=2),
    RuleCase(aten.fill.Scalar, lambda d: (d.tensor(3, d.size()), 2.0), groups=2),
    RuleCase(aten.to.dtype, lambda d: (d.tensor(3, d.size()), torch.float64), groups=2),
    RuleCase(aten._to_copy.default, lambda d: (d.tensor(3, d.size()), {"dtype": torch.float32}), groups=2),
    RuleCase(aten.type_as.default, lambda d: (d.tensor(3, 4), Whole(d.tensor(2).float())), groups=2),
    RuleCase(aten.lerp.Scalar, lambda d: (d.tensor(3, 4), d.tensor(3, 4), 0.3), groups=2),
    RuleCase(aten.addcmul.default, lambda d: (d.tensor(3, 4), d.tensor(4), d.tensor(3, 1)), groups=2),
    RuleCase(aten.addcdiv.default, lambda d: (d.tensor(3, 4), d.tensor(4), d.positive(3, 4)), groups=2),
    RuleCase(aten.where.self, lambda d: (bools(d, 3, 4), d.tensor(4), d.tensor(3, 1)), groups=2),
    RuleCase(aten.masked_fill.Scalar, lambda d: (d.tensor(3, 4), bools(d, 4), 0.5), groups=2),
    RuleCase(aten.copy.default, lambda d: (d.tensor(3, 4), d.tensor(4)), groups=2),
    RuleCase(aten.expand_as.default, lambda d: (d.tensor(1, 4), d.tensor(3, 4)), groups=2),
    *(
        RuleCase(getattr(aten, f"bitwise_{name}").Tensor, lambda d: (d.integers(9, 3, 4), d.integers(9, 4)), groups=0)
        for name in ("and", "or", "xor")
    ),
    *(
        RuleCase(getattr(aten, f"__{name}__").Tensor, lambda d: (d.integers(9, 3, 4), d.integers(9, 4)), groups=0)
        for name in ("and", "or", "xor")
    ),
    RuleCase(aten.bitwise_not.default, lambda d: (d.integers(9, 3, 4),), groups=0),
    RuleCase(aten.prelu.default, lambda d: (d.tensor(2, 5, 3), d.tensor(5)), groups=3),
    # convolutions: output channels, input channels; the batch of a labelled input is one more
    RuleCase(aten.conv1d.default, lambda d: (d.tensor(2, 4, 6), d.tensor(d.size(), 4, 3), None), groups=3),
    RuleCase(aten.conv2d.default, lambda d: (d.tensor(2, 6, 5, 5), d.tensor(4, 6, 3, 3), d.tensor(4)), groups=3),
    RuleCase(aten.conv2d.default, lambda d: (d.tensor(6, 5, 5), d.tensor(4, 6, 3, 3), d.tensor(4)), groups=2),
    RuleCase(
        aten.conv2d.default,
        lambda d: (Whole(d.tensor(2, 6, 5, 5)), d.tensor(4, 6, 3, 3), d.tensor(4), [1, 1], [1, 1]),
        groups=1,
    ),
    RuleCase(  # groups, inputs within a group, outputs within a group, batch
        aten.conv2d.default,
        lambda d: (d.tensor(2, 6, 4, 4), d.tensor(9, 2, 3, 3), d.tensor(9), [1, 1], [0, 0], [1, 1], 3),
        groups=4,
    ),
    RuleCase(  # depthwise: one group is one channel
        aten.conv2d.default,
        lambda d: (d.tensor(2, 6, 4, 4), d.tensor(6, 1, 3, 3), None, [1, 1], [0, 0], [1, 1], 6),
        groups=2,
    ),
    RuleCase(aten.conv3d.default, lambda d: (d.tensor(2, 3, 3, 3, 3), d.tensor(4, 3, 2, 2, 2)), groups=3),
    RuleCase(aten.conv_transpose1d.default, lambda d: (d.tensor(2, 3, 4), d.tensor(3, 5, 2), d.tensor(5)), groups=3),
    RuleCase(
        aten.conv_transpose2d.input, lambda d: (d.tensor(2, 3, 4, 4), d.tensor(3, 5, 2, 2), d.tensor(5)), groups=3
    ),
    RuleCase(
        aten.conv_transpose2d.input,
        lambda d: (d.tensor(2, 6, 4, 4), d.tensor(6, 2, 2, 2), d.tensor(6), [1, 1], [0, 0], [0, 0], 3),
        groups=4,
    ),
    RuleCase(aten.conv_transpose3d.input, lambda d: (d.tensor(2, 3, 2, 2, 2), d.tensor(3, 4, 2, 2, 2)), groups=3),
    *(
        RuleCase(
            aten.convolution.default,
            lambda d, t=t: (d.tensor(2, 6, 4, 4), d.tensor(6, 2, 3, 3), None, [1, 1], [0, 0], [1, 1], t, [0, 0], 3),
            groups=4,
        )
        for t in (False, True)
    ),
    # products
    RuleCase(aten.linear.default, lambda d: (d.tensor(2, 5, 4), d.tensor(3, 4), d.tensor(3)), groups=4),
    RuleCase(aten.matmul.default, lambda d: (d.tensor(2, 3, 4), d.tensor(4, 5)), groups=4),
    RuleCase(aten.matmul.default, lambda d: (d.tensor(2, 3, 4), d.tensor(4)), groups=3),
    RuleCase(aten.matmul.default, lambda d: (d.tensor(4), d.tensor(2, 4, 3)), groups=3),
    RuleCase(aten.mm.default, lambda d: (d.tensor(3, 4), d.tensor(4, 2)), groups=3),
    RuleCase(aten.bmm.default, lambda d: (d.tensor(2, 3, 4), d.tensor(2, 4, 5)), groups=4),
    RuleCase(aten.mv.default, lambda d: (d.tensor(3, 4), d.tensor(4)), groups=2),
    RuleCase(aten.dot.default, lambda d: (d.tensor(4), d.tensor(4)), groups=1),
    RuleCase(aten.addmm.default, lambda d: (d.tensor(2), d.tensor(3, 4), d.tensor(4, 2)), groups=3),
    RuleCase(aten.baddbmm.default, lambda d: (d.tensor(2, 1, 5), d.tensor(2, 3, 4), d.tensor(2, 4, 5)), groups=4),
    # norms
    RuleCase(
        aten.batch_norm.default,
        lambda d: (d.tensor(2, 5, 3), d.tensor(5), d.tensor(5), d.tensor(5), d.positive(5), False, 0.1, 1e-5, False),
        groups=3,
    ),
    RuleCase(
        aten.instance_norm.default,
        lambda d: (
            Whole(d.tensor(1, 5, 3)).tensor.requires_grad_(False),
            d.tensor(5),
            d.tensor(5),
            None,
            None,
            True,
            0.1,
            1e-5,
            False,
        ),
        groups=2,
        exact=False,
    ),
    RuleCase(aten.layer_norm.default, lambda d: (d.tensor(2, 5), [5], d.tensor(5), d.tensor(5)), groups=2, exact=False),
    RuleCase(aten.rms_norm.default, lambda d: (d.tensor(2, 5), [5], d.tensor(5)), groups=2, exact=False),
    RuleCase(
        aten.group_norm.default, lambda d: (d.tensor(2, 6, 3), 3, d.tensor(6), d.tensor(6)), groups=4, exact=False
    ),
    RuleCase(aten.softmax.int, lambda d: (d.tensor(2, 5), -1), groups=2, exact=False),
    RuleCase(aten.log_softmax.int, lambda d: (d.tensor(2, 5), -1), groups=2, exact=False),
    RuleCase(aten._softmax.default, lambda d: (d.tensor(2, 5), -1, False), groups=2, exact=False),
    RuleCase(aten._log_softmax.default, lambda d: (d.tensor(2, 5), -1, False), groups=2, exact=False),
    RuleCase(aten._weight_norm.default, lambda d: (d.tensor(4, 5), d.positive(4, 1)), groups=2, exact=False),
    # views
    RuleCase(aten.view.default, lambda d: (d.tensor(2, 12), [2, 3, 4]), groups=3),
    RuleCase(aten.view.default, lambda d: (d.tensor(2, 3, 4), [2, -1]), groups=3),
    RuleCase(aten.view.default, lambda d: (d.tensor(4, 6), [2, 2, 2, 3]), groups=4),
    RuleCase(aten.reshape.default, lambda d: (d.tensor(3, 4, 2), [12, 2]), groups=3),
    RuleCase(aten._unsafe_view.default, lambda d: (d.tensor(3, 4), [12]), groups=2),
    RuleCase(aten.view_copy.default, lambda d: (d.tensor(3, 4), [12]), groups=2),
    RuleCase(aten.flatten.using_ints, lambda d: (d.tensor(2, 3, 4), 1), groups=3),
    RuleCase(aten.ravel.default, lambda d: (d.tensor(3, 4),), groups=2),
    RuleCase(aten.squeeze.dim, lambda d: (d.tensor(3, 1, 4), 1), groups=2),
    RuleCase(aten.squeeze.dim, lambda d: (d.tensor(2, 1, 4), 0), groups=2),
    RuleCase(aten.squeeze.dims, lambda d: (d.tensor(2, 1, 4), [0, 1]), groups=2),
    RuleCase(aten.squeeze.default, lambda d: (d.tensor(2, 1, 3, 1),), groups=2),
    RuleCase(aten.reshape_as.default, lambda d: (d.tensor(3, 4), Whole(d.tensor(4, 3))), groups=0),
    RuleCase(aten.view_as.default, lambda d: (d.tensor(3, 4), Whole(d.tensor(12))), groups=0),
    RuleCase(aten.unflatten.int, lambda d: (d.tensor(2, 12, 3), 1, [3, 4]), groups=4),
    RuleCase(aten.unflatten.int, lambda d: (d.tensor(2, 12), -1, [3, -1]), groups=3),
    RuleCase(aten.unsqueeze.default, lambda d: (d.tensor(3, 4), -2), groups=2),
    RuleCase(aten.permute.default, lambda d: (d.tensor(2, 3, 4), [2, 0, 1]), groups=3),
    RuleCase(aten.permute_copy.default, lambda d: (d.tensor(2, 3, 4), [2, 0, 1]), groups=3),
    RuleCase(aten.transpose.int, lambda d: (d.tensor(2, 3, 4), 0, -1), groups=3),
    RuleCase(aten.swapaxes.default, lambda d: (d.tensor(2, 3, 4), 0, -1), groups=3),
    RuleCase(aten.swapdims.default, lambda d: (d.tensor(2, 3, 4), 0, 1), groups=3),
    RuleCase(aten.t.default, lambda d: (d.tensor(2, 3),), groups=2),
    RuleCase(aten.numpy_T.default, lambda d: (d.tensor(2, 3),), groups=2),
    RuleCase(aten.mT.default, lambda d: (d.tensor(2, 3, 4),), groups=3),
    RuleCase(aten.movedim.int, lambda d: (d.tensor(2, 3, 4), 0, -1), groups=3),
    RuleCase(aten.movedim.intlist, lambda d: (d.tensor(2, 3, 4, 5), [0, 1], [-1, 0]), groups=4),
    RuleCase(aten.moveaxis.int, lambda d: (d.tensor(2, 3, 4), 2, 0), groups=3),
    RuleCase(aten.expand.default, lambda d: (d.tensor(3, 1), [-1, 4]), groups=1),
    RuleCase(aten.expand_copy.default, lambda d: (d.tensor(4), [3, 4]), groups=1),
    RuleCase(aten.broadcast_to.default, lambda d: (d.tensor(3, 1), [3, 4]), groups=1),
    RuleCase(aten.cat.default, lambda d: ([d.tensor(2, d.size()), d.tensor(2, d.size())], 1), groups=3),
    RuleCase(aten.concat.default, lambda d: ([d.tensor(2, d.size()), d.tensor(2, d.size())], -1), groups=3),
    RuleCase(aten.concatenate.default, lambda d: ([d.tensor(d.size(), 2), d.tensor(d.size(), 2)],), groups=3),
    RuleCase(aten.stack.default, lambda d: ([d.tensor(3, 4), d.tensor(3, 4)], 1), groups=2),
    RuleCase(aten.repeat.default, lambda d: (d.tensor(3, 4), [2, 1, 3]), groups=2),
    RuleCase(aten.tile.default, lambda d: (d.tensor(2, 3, 4), [2, 1]), groups=3),
    RuleCase(aten.flip.default, lambda d: (d.tensor(3, 4), [-1]), groups=2),
    RuleCase(aten.fliplr.default, lambda d: (d.tensor(3, 4),), groups=2),
    RuleCase(aten.flipud.default, lambda d: (d.tensor(3, 4),), groups=2),
    RuleCase(aten.pixel_shuffle.default, lambda d: (d.tensor(2, 12, 2, 3), 2), groups=2),
    RuleCase(aten.pixel_unshuffle.default, lambda d: (d.tensor(2, 3, 4, 4), 2), groups=2),
    RuleCase(aten.channel_shuffle.default, lambda d: (d.tensor(2, 6, 3, 3), 2), groups=5),
    # parts
    RuleCase(aten.slice.Tensor, lambda d: (d.tensor(3, 8), 1, 2, 6), groups=3),
    RuleCase(aten.slice.Tensor, lambda d: (d.tensor(3, 8), -1, -5, 9223372036854775807), groups=3),
    RuleCase(aten.slice.Tensor, lambda d: (d.tensor(8, 3), 0, 1, 9223372036854775807, 2), groups=2),
    RuleCase(aten.slice.Tensor, lambda d: (d.tensor(4, 3), 0, 0, 4), groups=2),
    RuleCase(aten.narrow.default, lambda d: (d.tensor(3, 8), 1, 2, 4), groups=3),
    RuleCase(aten.select.int, lambda d: (d.tensor(5, 8), 1, 3), groups=2),
    RuleCase(aten.select.int, lambda d: (d.tensor(5, 8), 0, -2), groups=2),
    RuleCase(aten.select_copy.int, lambda d: (d.tensor(5, 8), 0, -2), groups=2),
    RuleCase(aten.split.Tensor, lambda d: (d.tensor(3, 8), 3, 1), groups=4),
    RuleCase(aten.unsafe_split.Tensor, lambda d: (d.tensor(3, 8), 3, 1), groups=4),
    RuleCase(aten.split_copy.Tensor, lambda d: (d.tensor(3, 8), 3, 1), groups=4),
    RuleCase(aten.split_with_sizes.default, lambda d: (d.tensor(3, 8), [2, 6], 1), groups=3),
    RuleCase(aten.chunk.default, lambda d: (d.tensor(3, 8), 2, -1), groups=3),
    RuleCase(aten.unsafe_chunk.default, lambda d: (d.tensor(3, 8), 2, -1), groups=3),
    RuleCase(aten.tensor_split.sections, lambda d: (d.tensor(3, 7), 3, 1), groups=4),
    RuleCase(aten.unbind.int, lambda d: (d.tensor(3, 4), 0), groups=1),
    RuleCase(aten.embedding.default, lambda d: (d.tensor(7, 4), Whole(d.integers(7, 2, 3))), groups=1),
    RuleCase(aten.index_select.default, lambda d: (d.tensor(5, 4), 0, Whole(d.integers(5, 3))), groups=1),
    RuleCase(aten.index.Tensor, lambda d: (d.tensor(5, 4, 3), [None, Whole(d.integers(4, 2))]), groups=2),
    RuleCase(
        aten.index.Tensor,
        lambda d: (d.tensor(5, 4, 3), [Whole(d.integers(5, 2)), None, Whole(d.integers(3, 2))]),
        groups=1,
    ),
    # statistics
    *(
        RuleCase(getattr(aten, n).dim, lambda d: (d.tensor(3, 4, 2), [1]), groups=3, exact=False)
        for n in ("mean", "var", "std")
    ),
    RuleCase(aten.nanmean.default, lambda d: (d.tensor(3, 4, 2), [1], True), groups=3, exact=False),
    RuleCase(aten.prod.dim_int, lambda d: (d.tensor(3, 4), 1), groups=2, exact=False),
    *(
        RuleCase(getattr(aten, n).dim, lambda d: (d.tensor(3, 4), [1]), groups=2, exact=False)
        for n in ("var_mean", "std_mean")
    ),
    *(
        RuleCase(getattr(aten, n).default, lambda d: (d.tensor(3, 4), [-1], True), groups=2, exact=False)
        for n in ("amax", "amin", "logsumexp")
    ),
    *(
        RuleCase(getattr(aten, n).dim, lambda d: (d.tensor(3, 4), 1), groups=2, exact=False)
        for n in ("max", "min", "median", "all")
    ),
    RuleCase(aten.max.other, lambda d: (d.tensor(3, 4), d.tensor(4)), groups=2),
    *(RuleCase(getattr(aten, n).default, lambda d: (d.tensor(3, 4), 1), groups=2, exact=False) for n in ("mode",)),
    RuleCase(aten.aminmax.default, lambda d: (d.tensor(3, 4), {"dim": 1}), groups=2, exact=False),
    *(
        RuleCase(getattr(aten, n).default, lambda d: (d.tensor(3, 4), 1), groups=2, exact=False)
        for n in ("cumprod", "cummax", "cummin", "logcumsumexp")
    ),
    # positions
    RuleCase(aten.max_pool1d.default, lambda d: (d.tensor(2, 3, 6), [2]), groups=2),
    RuleCase(aten.max_pool2d.default, lambda d: (d.tensor(2, 3, 4, 4), [2, 2]), groups=2),
    RuleCase(aten.max_pool3d.default, lambda d: (d.tensor(2, 3, 2, 2, 2), [2, 2, 2]), groups=2),
    RuleCase(aten.max_pool2d_with_indices.default, lambda d: (d.tensor(2, 3, 4, 4), [2, 2]), groups=2),
    RuleCase(aten.max_pool3d_with_indices.default, lambda d: (d.tensor(2, 3, 2, 2, 2), [2, 2, 2]), groups=2),
    RuleCase(aten.avg_pool2d.default, lambda d: (d.tensor(2, 3, 4, 5), [2, 1]), groups=3),
    RuleCase(aten.max_pool2d.default, lambda d: (d.tensor(2, 3, 4, 5), [1, 2], [1, 2]), groups=3),
    RuleCase(aten.avg_pool1d.default, lambda d: (d.tensor(2, 3, 6), [2]), groups=2),
    RuleCase(aten.avg_pool2d.default, lambda d: (d.tensor(2, 3, 4, 4), [2, 2]), groups=2),
    RuleCase(aten.avg_pool3d.default, lambda d: (d.tensor(2, 3, 2, 2, 2), [2, 2, 2]), groups=2),
    *(
        RuleCase(
            getattr(aten, f"adaptive_avg_pool{r}d").default,
            lambda d, r=r: (d.tensor(2, 3, *[4] * r), [2] * r),
            groups=2,
        )
        for r in (1, 2, 3)
    ),
    *(
        RuleCase(
            getattr(aten, f"adaptive_max_pool{r}d").default,
            lambda d, r=r: (d.tensor(2, 3, *[4] * r), [2] * r),
            groups=2,
        )
        for r in (1, 2, 3)
    ),
    *(
        RuleCase(
            getattr(aten, f"_adaptive_avg_pool{r}d").default,
            lambda d, r=r: (d.tensor(2, 3, *[4] * r), [2] * r),
            groups=2,
        )
        for r in (2, 3)
    ),
    *(
        RuleCase(getattr(aten, f"{n}{r}d").vec, lambda d, r=r: (d.tensor(2, 3, *[3] * r), [6] * r, None), groups=2)
        for n in ("upsample_nearest", "_upsample_nearest_exact")
        for r in (1, 2)
    ),
    RuleCase(aten.upsample_nearest3d.vec, lambda d: (d.tensor(2, 3, 2, 2, 2), [4, 4, 4], None), groups=2),
    *(
        RuleCase(getattr(aten, n).vec, lambda d, r=r: (d.tensor(2, 3, *[3] * r), [6] * r, False, None), groups=2)
        for n, r in (
            ("upsample_linear1d", 1),
            ("upsample_bilinear2d", 2),
            ("upsample_bicubic2d", 2),
            ("upsample_trilinear3d", 3),
            ("_upsample_bilinear2d_aa", 2),
            ("_upsample_bicubic2d_aa", 2),
        )
    ),
    RuleCase(aten.pad.default, lambda d: (d.tensor(2, 3, 4, 4), [1, 1, 0, 2]), groups=4),
    RuleCase(aten.pad.default, lambda d: (d.tensor(2, 3, 4), [1, 1], "reflect"), groups=2),
    RuleCase(aten.pad.default, lambda d: (d.tensor(2, 3, 4), [-1, 0]), groups=2),
    RuleCase(aten.constant_pad_nd.default, lambda d: (d.tensor(2, 3, 4), [1, 2], 0.5), groups=3),
    *(
        RuleCase(
            getattr(aten, f"{n}_pad{r}d").default, lambda d, r=r: (d.tensor(2, 3, *[3] * r), [1] * (2 * r)), groups=2
        )
        for n in ("reflection", "replication")
        for r in (1, 2, 3)
    ),
    # made from nothing
    RuleCase(aten.zeros.default, lambda d: ([3, 4],), groups=0),
    RuleCase(aten.ones.default, lambda d: ([3, 4],), groups=0),
    RuleCase(aten.full.default, lambda d: ([3, 4], 2.0), groups=0),
    RuleCase(aten.new_zeros.default, lambda d: (d.tensor(2), [3, 4]), groups=1),
    RuleCase(aten.new_ones.default, lambda d: (d.tensor(2), [3, 4]), groups=1),
    RuleCase(aten.new_full.default, lambda d: (d.tensor(2), [3, 4], 1.0), groups=1),
    RuleCase(aten.arange.default, lambda d: (4,), groups=0),
    RuleCase(aten.linspace.default, lambda d: (0, 1, 4), groups=0),
    RuleCase(aten.eye.default, lambda d: (4,), groups=0),
    RuleCase(aten.scalar_tensor.default, lambda d: (4.0,), groups=0),
    RuleCase(aten.tril_indices.default, lambda d: (3, 3), groups=0),
    RuleCase(aten.triu_indices.default, lambda d: (3, 3), groups=0),
    RuleCase(aten.hann_window.default, lambda d: (4,), groups=0),
    RuleCase(aten.bartlett_window.default, lambda d: (4,), groups=0),
    RuleCase(aten.tril.default, lambda d: (d.tensor(2, 3, 3),), groups=1),
    RuleCase(aten.triu.default, lambda d: (d.tensor(2, 3, 3),), groups=1),
    RuleCase(aten.diagonal.default, lambda d: (d.tensor(2, 3, 3), {"dim1": -2, "dim2": -1}), groups=1),
    # attention and recurrence
    RuleCase(
        aten.scaled_dot_product_attention.default,
        lambda d: (d.tensor(2, 3, 5, 4), d.tensor(2, 3, 6, 4), d.tensor(2, 3, 6, 7), d.tensor(3, 5, 6)),
        groups=4,
    ),
    RuleCase(
        aten.scaled_dot_product_attention.default,
        lambda d: (
            d.tensor(2, 6, 5, 4),
            d.tensor(2, 3, 5, 4),
            d.tensor(2, 3, 5, 4),
            None,
            0.0,
            True,
            {"enable_gqa": True},
        ),
        groups=4,
    ),
    *(
        RuleCase(
            op,
            lambda d, g=g, s=s: (
                Whole(d.tensor(2, 4, 3)),
                [d.tensor(1, 2, 5)] * s if s > 1 else d.tensor(1, 2, 5),
                [d.tensor(5 * g, 3), d.tensor(5 * g, 5), d.tensor(5 * g), d.tensor(5 * g)],
                True,
                1,
                0.0,
                False,
                False,
                True,
            ),
            groups=1,
        )
        for op, g, s in (
            (aten.lstm.input, 4, 2),
            (aten.gru.input, 3, 1),
            (aten.rnn_tanh.input, 1, 1),
            (aten.rnn_relu.input, 1, 1),
        )
    ),
    RuleCase(  # hidden units, and the width of their projection
        aten.lstm.input,
        lambda d: (
            Whole(d.tensor(2, 4, 3)),
            [d.tensor(2, 2, 4), d.tensor(2, 2, 5)],
            [d.tensor(*shape) for width in (3, 4) for shape in ((20, width), (20, 4), (20,), (20,), (4, 5))],
            True,
            2,
            0.0,
            False,
            False,
            True,
        ),
        groups=2,
    ),
    RuleCase(aten.outer.default, lambda d: (d.tensor(3), d.tensor(4)), groups=2),
    RuleCase(aten.ger.default, lambda d: (d.tensor(3), d.tensor(4)), groups=2),
    RuleCase(aten.addmv.default, lambda d: (d.tensor(3), d.tensor(3, 4), d.tensor(4)), groups=2),
    RuleCase(
        aten.bilinear.default, lambda d: (d.tensor(2, 3), d.tensor(2, 4), d.tensor(5, 3, 4), d.tensor(5)), groups=4
    ),
    RuleCase(aten.einsum.default, lambda d: ("bij,bjk->bik", [d.tensor(2, 3, 4), d.tensor(2, 4, 5)]), groups=4),
    RuleCase(aten.einsum.default, lambda d: ("nchw, cd", [d.tensor(2, 3, 2, 2), d.tensor(3, 4)]), groups=5),
    RuleCase(aten.slice_scatter.default, lambda d: (d.tensor(3, 8), d.tensor(3, 4), 1, 2, 6), groups=3),
    RuleCase(aten.gather.default, lambda d: (d.tensor(3, 4), 1, Whole(d.integers(4, 3, 2))), groups=0),
    RuleCase(aten.gather.default, lambda d: (d.tensor(3, 4), 1, d.integers(4, 3, 2)), groups=1),
    RuleCase(aten.topk.default, lambda d: (d.tensor(3, 6), 2), groups=1),
    RuleCase(aten.sort.default, lambda d: (d.tensor(3, 6), 1), groups=1),
    RuleCase(aten.argsort.default, lambda d: (d.tensor(3, 6), 1), groups=1),
    RuleCase(aten.kthvalue.default, lambda d: (d.tensor(3, 6), 2, 1), groups=1),
    RuleCase(aten.msort.default, lambda d: (d.tensor(3, 6),), groups=1),
    RuleCase(aten.diff.default, lambda d: (d.tensor(3, 6),), groups=1),
    RuleCase(aten.unfold.default, lambda d: (d.tensor(3, 6), 1, 2, 2), groups=1),
    RuleCase(aten.repeat_interleave.self_int, lambda d: (d.tensor(3, 4), 2, 1), groups=2),
    RuleCase(aten.glu.default, lambda d: (d.tensor(3, 8), -1), groups=2),
    RuleCase(aten.im2col.default, lambda d: (d.tensor(2, 3, 4, 4), [2, 2], [1, 1], [0, 0], [1, 1]), groups=2),
    RuleCase(aten.col2im.default, lambda d: (d.tensor(2, 12, 9), [4, 4], [2, 2], [1, 1], [0, 0], [1, 1]), groups=2),
    RuleCase(aten.grid_sampler.default, lambda d: (d.tensor(2, 3, 4, 4), d.tensor(2, 5, 5, 2), 0, 0, False), groups=2),
    RuleCase(
        aten._native_batch_norm_legit_no_training.default,
        lambda d: (d.tensor(2, 5, 3), d.tensor(5), d.tensor(5), d.tensor(5), d.positive(5), 0.1, 1e-5),
        groups=3,
    ),
    RuleCase(
        aten.native_layer_norm.default,
        lambda d: (d.tensor(2, 5), [5], d.tensor(5), d.tensor(5), 1e-5),
        groups=2,
        exact=False,
    ),
    *(
        RuleCase(
            op,
            lambda d, g=g, s=s: (
                d.tensor(3, 4),
                [d.tensor(3, 5)] * s if s > 1 else d.tensor(3, 5),
                d.tensor(5 * g, 4),
                d.tensor(5 * g, 5),
                d.tensor(5 * g),
                d.tensor(5 * g),
            ),
            groups=3,
        )
        for op, g, s in (
            (aten.lstm_cell.default, 4, 2),
            (aten.gru_cell.default, 3, 1),
            (aten.rnn_tanh_cell.default, 1, 1),
            (aten.rnn_relu_cell.default, 1, 1),
        )
    ),
    RuleCase(aten.clip.default, lambda d: (d.tensor(3, d.size()), -0.5, 0.5), groups=2),
    RuleCase(aten.mvlgamma.default, lambda d: (d.positive(3, d.size()) + 2, 2), groups=2),
    RuleCase(aten.special_multigammaln.default, lambda d: (d.positive(3, d.size()) + 2, 2), groups=2),
    RuleCase(aten.polygamma.default, lambda d: (1, d.positive(3, d.size())), groups=2),
    RuleCase(aten.special_polygamma.default, lambda d: (1, d.positive(3, d.size())), groups=2),
    RuleCase(aten.frexp.Tensor, lambda d: (d.tensor(3, d.size()),), groups=2),
    RuleCase(aten.imag.default, lambda d: (torch.complex(d.tensor(3, 4), d.tensor(3, 4)),), groups=2),
    RuleCase(aten._conj.default, lambda d: (torch.complex(d.tensor(3, 4), d.tensor(3, 4)),), groups=2),
    RuleCase(aten.chalf.default, lambda d: (d.tensor(3, 4),), groups=2),
    RuleCase(aten.to.other, lambda d: (d.tensor(3, 4), Whole(d.tensor(2).float())), groups=2),
    RuleCase(aten.broadcast_tensors.default, lambda d: ([d.tensor(3, 1), d.tensor(4)],), groups=2),
    *(
        RuleCase(getattr(aten, name).Tensor, lambda d: (d.integers(9, 3, 4), d.integers(3, 4)), groups=0)
        for name in ("bitwise_left_shift", "bitwise_right_shift", "__lshift__", "__rshift__")
    ),
    *(
        RuleCase(getattr(aten, name).default, lambda d: (d.integers(9, 3, 4), d.integers(9, 4)), groups=0)
        for name in ("gcd", "lcm")
    ),
    RuleCase(aten.isin.Tensor_Tensor, lambda d: (d.tensor(3, 4), d.tensor(5)), groups=2),
    *(
        RuleCase(getattr(aten, name).default, lambda d: (d.positive(3, 4), d.positive(3, 4), 0), groups=2)
        for name in ("mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss", "soft_margin_loss", "kl_div")
    ),
    RuleCase(aten.binary_cross_entropy.default, lambda d: (d.positive(3, 4), d.positive(3, 4), None, 0), groups=2),
    RuleCase(
        aten.binary_cross_entropy_with_logits.default,
        lambda d: (d.positive(3, 4), d.positive(3, 4), None, None, 0),
        groups=2,
    ),
    RuleCase(aten.mse_loss.default, lambda d: (d.tensor(3, 4), d.tensor(3, 4)), groups=2, exact=False),
    RuleCase(aten.prelu.default, lambda d: (d.tensor(5, 3), d.tensor(1)), groups=2),
    # products
    RuleCase(aten.linear.default, lambda d: (d.tensor(2, 4), d.tensor(4)), groups=2),
    RuleCase(aten.linalg_matmul.default, lambda d: (d.tensor(2, 3, 4), d.tensor(4, 5)), groups=4),
    RuleCase(aten._addmm_activation.default, lambda d: (d.tensor(2), d.tensor(3, 4), d.tensor(4, 2)), groups=3),
    RuleCase(aten.addbmm.default, lambda d: (d.tensor(3, 5), d.tensor(2, 3, 4), d.tensor(2, 4, 5)), groups=4),
    RuleCase(aten.addr.default, lambda d: (d.tensor(3, 4), d.tensor(3), d.tensor(4)), groups=2),
    RuleCase(aten.inner.default, lambda d: (d.tensor(2, 3, 4), d.tensor(5, 4)), groups=4),
    RuleCase(aten.vdot.default, lambda d: (d.tensor(4), d.tensor(4)), groups=1),
    RuleCase(aten.linalg_vecdot.default, lambda d: (d.tensor(3, 4, 2), d.tensor(4, 2), {"dim": 1}), groups=3),
    RuleCase(aten.tensordot.default, lambda d: (d.tensor(2, 3, 4), d.tensor(4, 5, 2), [2, 0], [0, 2]), groups=4),
    RuleCase(aten.linalg_multi_dot.default, lambda d: ([d.tensor(2), d.tensor(2, 3), d.tensor(3, 4)],), groups=3),
    RuleCase(aten.chain_matmul.default, lambda d: ([d.tensor(5, 2), d.tensor(2, 3), d.tensor(3, 4)],), groups=4),
    RuleCase(aten.einsum.default, lambda d: ("...ij,jk->...ik", [d.tensor(2, 3, 4), d.tensor(4, 5)]), groups=4),
    RuleCase(aten.einsum.default, lambda d: ("...i,...i", [d.tensor(2, 3, 4), d.tensor(3, 4)]), groups=3),
    RuleCase(aten.einsum.default, lambda d: ("ii->i", [d.tensor(4, 4)]), groups=1),
    RuleCase(aten.cdist.default, lambda d: (d.tensor(2, 3, 4), d.tensor(2, 5, 4)), groups=4),
    RuleCase(aten._cdist_forward.default, lambda d: (d.tensor(2, 3, 4), d.tensor(2, 5, 4), 1.0, None), groups=4),
    RuleCase(aten._euclidean_dist.default, lambda d: (d.tensor(3, 4), d.tensor(5, 4)), groups=3),
    RuleCase(aten.cosine_similarity.default, lambda d: (d.tensor(3, 4, 2), d.tensor(3, 4, 2)), groups=3, exact=False),
    RuleCase(
        aten.pairwise_distance.default,
        lambda d: (d.tensor(3, 4), d.tensor(3, 4), 2.0, 1e-6, True),
        groups=2,
        exact=False,
    ),
    RuleCase(aten.dist.default, lambda d: (d.tensor(3, 4), d.tensor(3, 4)), groups=2, exact=False),
    RuleCase(aten.linalg_cross.default, lambda d: (d.tensor(5, 3, 2), d.tensor(5, 3, 2), {"dim": 1}), groups=2),
    RuleCase(aten.cross.default, lambda d: (d.tensor(5, 3, 2), d.tensor(5, 3, 2)), groups=2),
    RuleCase(
        aten._convolution.default,
        lambda d: (
            d.tensor(2, 6, 4, 4),
            d.tensor(4, 6, 3, 3),
            d.tensor(4),
            [1, 1],
            [0, 0],
            [1, 1],
            False,
            [0, 0],
            1,
            False,
            False,
            False,
            False,
        ),
        groups=3,
    ),
    RuleCase(
        aten._convolution_mode.default,
        lambda d: (d.tensor(2, 4, 6), d.tensor(5, 4, 3), None, [1], "same", [1], 1),
        groups=3,
    ),
    RuleCase(aten.conv_tbc.default, lambda d: (d.tensor(6, 2, 4), d.tensor(3, 4, 5), d.tensor(5), 1), groups=3),
    # norms
    RuleCase(
        aten.native_group_norm.default,
        lambda d: (d.tensor(2, 6, 3), d.tensor(6), d.tensor(6), 2, 6, 3, 3, 1e-5),
        groups=2,
        exact=False,
    ),
    *(
        RuleCase(
            op,
            lambda d, e=e: (d.tensor(2, 5, 3), d.tensor(5), d.tensor(5), d.tensor(5), d.positive(5), *e),
            groups=3,
        )
        for op, e in (
            (aten.native_batch_norm.default, (False, 0.1, 1e-5)),
            (aten._native_batch_norm_legit.default, (False, 0.1, 1e-5)),
            (aten._native_batch_norm_legit_functional.default, (False, 0.1, 1e-5)),
            (aten._batch_norm_no_update.default, (0.1, 1e-5)),
            (aten._batch_norm_impl_index.default, (False, 0.1, 1e-5, False)),
        )
    ),
    *(
        RuleCase(
            op,
            lambda d: (d.tensor(2, 5, 3), d.tensor(5), d.tensor(5), d.tensor(5), d.positive(5), 0.1, 1e-5),
            groups=3,
            exact=False,
        )
        for op in (aten._batch_norm_with_update.default, aten._batch_norm_with_update_functional.default)
    ),
    *(
        RuleCase(op, lambda d, e=e: (d.tensor(2, 5), -1, *e), groups=2, exact=False)
        for op, e in (
            (aten._safe_softmax.default, ()),
            (aten.special_softmax.default, ()),
            (aten.special_log_softmax.default, ()),
        )
    ),
    RuleCase(aten._weight_norm_interface.default, lambda d: (d.tensor(4, 5), d.positive(4, 1)), groups=2, exact=False),
    RuleCase(aten.norm_except_dim.default, lambda d: (d.tensor(4, 5), 2, 0), groups=2, exact=False),
    # views
    RuleCase(aten.view.dtype, lambda d: (d.tensor(3, 4), torch.int32), groups=1),
    *(RuleCase(getattr(aten, f"atleast_{r}d").default, lambda d: (d.tensor(3, 4),), groups=2) for r in (1, 2, 3)),
    RuleCase(aten.matrix_H.default, lambda d: (d.tensor(2, 3),), groups=2),
    RuleCase(aten.mH.default, lambda d: (d.tensor(2, 3, 4),), groups=3),
    RuleCase(aten.adjoint.default, lambda d: (d.tensor(2, 3, 4),), groups=3),
    RuleCase(aten.hstack.default, lambda d: ([d.tensor(d.size()), d.tensor(d.size())],), groups=2),
    RuleCase(aten.hstack.default, lambda d: ([d.tensor(2, d.size()), d.tensor(2, d.size())],), groups=3),
    RuleCase(aten.vstack.default, lambda d: ([d.tensor(4), d.tensor(3, 4)],), groups=2),
    RuleCase(aten.row_stack.default, lambda d: ([d.tensor(4), d.tensor(4)],), groups=1),
    RuleCase(aten.dstack.default, lambda d: ([d.tensor(4), d.tensor(1, 4), d.tensor(1, 4, 2)],), groups=2),
    RuleCase(aten.column_stack.default, lambda d: ([d.tensor(4), d.tensor(4, 3)],), groups=2),
    RuleCase(aten.repeat.default, lambda d: (d.tensor(3, 1), [1, 4]), groups=1),
    RuleCase(aten.native_channel_shuffle.default, lambda d: (d.tensor(2, 6, 3, 3), 2), groups=5),
    # parts
    RuleCase(aten.hsplit.int, lambda d: (d.tensor(3, 8), 2), groups=3),
    RuleCase(aten.vsplit.int, lambda d: (d.tensor(8, 3), 2), groups=3),
    RuleCase(aten.dsplit.int, lambda d: (d.tensor(2, 3, 8), 2), groups=4),
    RuleCase(aten.unsafe_split_with_sizes.default, lambda d: (d.tensor(3, 8), [2, 6], 1), groups=3),
    RuleCase(aten.narrow_copy.default, lambda d: (d.tensor(3, 8), 1, 2, 4), groups=3),
    RuleCase(aten.slice_copy.Tensor, lambda d: (d.tensor(3, 8), 1, 2, 6), groups=3),
    RuleCase(aten.roll.default, lambda d: (d.tensor(3, 7), [-2, 5], [1, 0]), groups=2),
    RuleCase(aten.roll.default, lambda d: (d.tensor(3, 4), [1]), groups=0),
    RuleCase(aten.select_scatter.default, lambda d: (d.tensor(3, 8), d.tensor(3), 1, 5), groups=2),
    RuleCase(aten.repeat_interleave.self_int, lambda d: (d.tensor(3, 4), 2), groups=2),
    RuleCase(aten.repeat_interleave.self_int, lambda d: (d.tensor(3, 4), 2, 1, {"output_size": 8}), groups=2),
    RuleCase(aten.repeat_interleave.self_Tensor, lambda d: (d.tensor(3, 4), Whole(d.integers(3, 4)), 1), groups=1),
    # places named by values
    RuleCase(aten._unsafe_index.Tensor, lambda d: (d.tensor(5, 4), [Whole(d.integers(5, 2))]), groups=1),
    RuleCase(
        aten.index.Tensor, lambda d: (d.tensor(5, 4), [Whole(torch.tensor([True, False] * 2 + [True]))]), groups=1
    ),
    RuleCase(aten.index_put.default, lambda d: (d.tensor(3, 4), [Whole(d.integers(3, 2))], d.tensor(2, 4)), groups=1),
    RuleCase(
        aten.index_put.default, lambda d: (d.tensor(3, 4), [None, Whole(d.integers(4, 2))], d.tensor(3, 1)), groups=1
    ),
    RuleCase(aten.index_put.default, lambda d: (d.tensor(3, 4), [bools(d, 3, 4)], d.tensor(1)), groups=2),
    RuleCase(aten.index_put.default, lambda d: (d.tensor(3, 4), [Whole(bools(d, 3))], d.tensor(1)), groups=1),
    RuleCase(
        aten._unsafe_index_put.default, lambda d: (d.tensor(3, 4), [Whole(d.integers(3, 2))], d.tensor(2, 4)), groups=1
    ),
    RuleCase(aten.index_add.default, lambda d: (d.tensor(3, 4), 0, Whole(d.integers(3, 5)), d.tensor(5, 4)), groups=1),
    RuleCase(
        aten.index_copy.default, lambda d: (d.tensor(3, 4), 0, Whole(torch.tensor([2, 0])), d.tensor(2, 4)), groups=1
    ),
    RuleCase(
        aten.index_reduce.default,
        lambda d: (d.tensor(3, 4), 0, Whole(d.integers(3, 5)), d.tensor(5, 4), "amax"),
        groups=1,
    ),
    RuleCase(aten.index_fill.int_Scalar, lambda d: (d.tensor(3, 4), 0, Whole(d.integers(3, 2)), 1.0), groups=1),
    RuleCase(aten.scatter.src, lambda d: (d.tensor(3, 4), 1, d.integers(4, 3, 4), d.tensor(3, 4)), groups=1),
    RuleCase(aten.scatter.value, lambda d: (d.tensor(3, 4), 1, d.integers(4, 3, 2), 1.0), groups=1),
    RuleCase(aten.scatter.src, lambda d: (d.tensor(3, 4), 1, Whole(d.integers(4, 2, 4)), d.tensor(3, 4)), groups=0),
    RuleCase(aten.scatter_add.default, lambda d: (d.tensor(3, 4), 0, d.integers(3, 5, 4), d.tensor(5, 4)), groups=1),
    RuleCase(
        aten.scatter_reduce.two, lambda d: (d.tensor(3, 4), 0, d.integers(3, 5, 4), d.tensor(5, 4), "sum"), groups=1
    ),
    RuleCase(aten.take_along_dim.default, lambda d: (d.tensor(3, 4), Whole(d.integers(4, 1, 2)), 1), groups=1),
    RuleCase(aten.one_hot.default, lambda d: (Whole(d.integers(4, 3)), 4), groups=0),
    RuleCase(aten.bucketize.Tensor, lambda d: (d.tensor(3, 4), d.tensor(5).sort()[0]), groups=2),
    RuleCase(aten.searchsorted.Tensor, lambda d: (d.tensor(3, 5).sort()[0], d.tensor(3, 4)), groups=2),
    RuleCase(aten.diff.default, lambda d: (d.tensor(3, 6), 1, 1, d.tensor(3, 1)), groups=0),
    *(
        RuleCase(
            op,
            lambda d, e=e: (d.tensor(7, 4), Whole(d.integers(7, 6)), Whole(torch.tensor([0, 2])), False, *e),
            groups=1,
        )
        for op in (aten.embedding_bag.default, aten._embedding_bag.default, aten._embedding_bag_forward_only.default)
        for e in ((), (2,))
    ),
    # statistics
    RuleCase(aten.sum.dim_IntList, lambda d: (d.tensor(3, 4, 2), [1], True), groups=3),
    RuleCase(aten.nansum.default, lambda d: (d.tensor(3, 4, 2), [1], True), groups=3),
    RuleCase(aten.any.dim, lambda d: (d.tensor(3, 4), 1), groups=2),
    RuleCase(aten.count_nonzero.dim_IntList, lambda d: (d.tensor(3, 4), [1]), groups=2),
    RuleCase(aten.cumsum.default, lambda d: (d.tensor(3, 4), 1), groups=2),
    RuleCase(aten.norm.ScalarOpt_dim, lambda d: (d.tensor(3, 4), 2, [1]), groups=2),
    RuleCase(aten.linalg_vector_norm.default, lambda d: (d.tensor(3, 4), 2, [1]), groups=2),
    RuleCase(aten.linalg_vector_norm.default, lambda d: (d.tensor(3, 4), 0, [1]), groups=2, exact=False),
    RuleCase(aten.frobenius_norm.dim, lambda d: (d.tensor(3, 4), [1]), groups=2),
    RuleCase(aten.linalg_norm.default, lambda d: (d.tensor(3, 4), None, [1]), groups=2, exact=False),
    RuleCase(aten.linalg_matrix_norm.default, lambda d: (d.tensor(2, 3, 4), 1), groups=3, exact=False),
    RuleCase(aten.special_logsumexp.default, lambda d: (d.tensor(3, 4), [1]), groups=2, exact=False),
    RuleCase(aten.nanmedian.dim, lambda d: (d.tensor(3, 4), 1), groups=2, exact=False),
    *(RuleCase(getattr(aten, n).default, lambda d: (d.tensor(3, 4), 1), groups=1) for n in ("argmax", "argmin")),
    # positions
    RuleCase(aten.max_unpool2d.default, lambda d: (d.tensor(2, 3, 2, 2), places(d, 2), [4, 4]), groups=2),
    RuleCase(
        aten.max_unpool3d.default,
        lambda d: (d.tensor(2, 3, 2, 2, 2), places(d, 3), [4, 4, 4], [2, 2, 2], [0, 0, 0]),
        groups=2,
    ),
    *(
        RuleCase(
            getattr(aten, f"fractional_max_pool{r}d").default,
            lambda d, r=r: (d.tensor(2, 3, *[4] * r), [2] * r, [2] * r, d.positive(2, 3, r)),
            groups=2,
        )
        for r in (2, 3)
    ),
    RuleCase(aten._upsample_nearest_exact3d.vec, lambda d: (d.tensor(2, 3, 2, 2, 2), [4, 4, 4], None), groups=2),
    RuleCase(aten._upsample_lanczos2d_aa.vec, lambda d: (d.tensor(2, 3, 4, 4), [6, 6], False, None), groups=2),
    RuleCase(aten.max_pool1d_with_indices.default, lambda d: (d.tensor(2, 3, 6), [2]), groups=2),
    RuleCase(aten._pad_circular.default, lambda d: (d.tensor(2, 3, 4), [1, 1]), groups=2),
    RuleCase(aten._pad_enum.default, lambda d: (d.tensor(2, 3, 4), [1, 1], 1), groups=2),
    RuleCase(
        aten.grid_sampler_2d.default, lambda d: (d.tensor(2, 3, 4, 4), d.tensor(2, 5, 5, 2), 0, 0, False), groups=2
    ),
    RuleCase(
        aten.grid_sampler_3d.default,
        lambda d: (d.tensor(2, 3, 2, 2, 2), d.tensor(2, 3, 3, 3, 3), 0, 0, False),
        groups=2,
    ),
    RuleCase(aten.affine_grid_generator.default, lambda d: (d.tensor(2, 2, 3), [2, 3, 4, 4], False), groups=0),
    # transforms
    *(
        RuleCase(getattr(aten, f"fft_{n}").default, lambda d, e=e: (d.tensor(3, 4, 5), *e), groups=g)
        for n, e, g in (
            ("fft", (None, 1), 2),
            ("ifft", (None, 1), 2),
            ("rfft", (None, 1), 2),
            ("irfft", (None, 1), 2),
            ("hfft", (None, 1), 2),
            ("ihfft", (None, 1), 2),
            ("fft2", (), 1),
            ("ifft2", (), 1),
            ("rfft2", (), 1),
            ("irfft2", (), 1),
            ("hfft2", (), 1),
            ("ihfft2", (), 1),
            ("fftn", (None, [0, 2]), 1),
            ("ifftn", (None, [0, 2]), 1),
            ("rfftn", ([4],), 2),
            ("irfftn", (None, [0, 2]), 1),
            ("hfftn", (None, [0, 2]), 1),
            ("ihfftn", (None, [0, 2]), 1),
            ("fftshift", ([1],), 2),
            ("ifftshift", (), 0),
        )
    ),
    RuleCase(aten._fft_r2c.default, lambda d: (d.tensor(3, 4), [1], 0, True), groups=1),
    RuleCase(aten._fft_c2c.default, lambda d: (d.tensor(3, 4).to(torch.complex128), [1], 0, True), groups=1),
    RuleCase(aten._fft_c2r.default, lambda d: (d.tensor(3, 4).to(torch.complex128), [1], 0, 6), groups=1),
    RuleCase(aten.view_as_complex.default, lambda d: (d.tensor(3, 4, 2),), groups=2),
    RuleCase(aten.view_as_real.default, lambda d: (d.tensor(3, 4).to(torch.complex128),), groups=2),
    # made from nothing
    *(
        RuleCase(getattr(aten, f"{n}_window").default, lambda d: (4,), groups=0)
        for n in ("hamming", "blackman", "kaiser")
    ),
    RuleCase(aten.logspace.default, lambda d: (0, 1, 4), groups=0),
    RuleCase(aten.range.default, lambda d: (0, 4), groups=0),
    RuleCase(aten.fft_fftfreq.default, lambda d: (4,), groups=0),
    RuleCase(aten.fft_rfftfreq.default, lambda d: (4,), groups=0),
    RuleCase(aten.linalg_diagonal.default, lambda d: (d.tensor(2, 3, 3),), groups=1),
    RuleCase(aten.diagonal.default, lambda d: (d.tensor(3, 3, 2),), groups=1),
    # the parts of fused attention
    *(
        RuleCase(op, lambda d, v=v: (d.tensor(2, 3, 5, 4), d.tensor(2, 3, 6, 4), d.tensor(2, 3, 6, v)), groups=g)
        for op, v, g in (
            (aten._scaled_dot_product_attention_math.default, 7, 4),
            (aten._scaled_dot_product_flash_attention_for_cpu.default, 4, 3),
        )
    ),
]
