"""What one operator costs: one formula per operator over shapes, and one table that joins them.

    @formula("linear")
    def linear(call: Call) -> Cost: ...

A MAC is one multiplication with its addition: half of what torch.utils.flop_counter calls the FLOPs of a convolution
or matrix product. Everything else that computes is counted apart, as `elementwise`: one operation for each element that
is written, or read by a reduction. Biases and causal masks change neither. Operators that only move data or name it are
free: they are declared in MOVES. Formulas see shapes alone, never an argument that only repeats a shape (such as the
groups of a convolution), so that they hold for shapes after a cut as well.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, TypeAlias

import torch
from torch import fx

from penjing.structure.rules import Shape, Shapes, is_shape, operator_name
from penjing.structure.rules.site import bind


@dataclass(frozen=True, slots=True)
class Cost:
    """Multiply-accumulates, and operations on single elements, of one call.

    >>> Cost(macs=2) + Cost(3, 4)
    Cost(macs=5, elementwise=4)
    """

    macs: int = 0
    elementwise: int = 0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.macs + other.macs, self.elementwise + other.elementwise)


class UnknownShapeError(Exception):
    """A shape that depends on the values of tensors."""


class Call:
    """One call of an operator: its arguments by schema name, and the shapes of its tensors."""

    def __init__(self, node: fx.Node, shapes: Mapping[str, Shapes]) -> None:
        self.arguments = bind(node)
        self.operator = operator_name(node.target)
        self._node = node
        self._shapes = shapes

    def __getitem__(self, argument: str) -> Any:
        return self.arguments[argument]

    def shape(self, tensor: str | fx.Node) -> Shape:
        """Shape of a tensor, given as a node or by the name of its argument."""
        node = self.arguments[tensor] if isinstance(tensor, str) else tensor
        shape = self._shapes.get(node.name)
        if not is_shape(shape):
            raise UnknownShapeError(node.name)
        return shape

    @property
    def first(self) -> Shape:
        """Shape of the first tensor argument."""
        for node in self._node.all_input_nodes:
            if is_shape(self._shapes.get(node.name)):
                return self.shape(node)
        raise UnknownShapeError(self._node.name)

    @property
    def output(self) -> Shape:
        """Shape of the output, or of the first of several."""
        shapes = self._shapes.get(self._node.name)
        shape = shapes[0] if shapes and not is_shape(shapes) else shapes
        if not is_shape(shape):
            raise UnknownShapeError(self._node.name)
        return shape


WRITES = """
    relu relu6 gelu silu mish elu celu selu leaky_relu prelu rrelu hardtanh hardswish hardsigmoid hardshrink softshrink
    softplus threshold log_sigmoid glu square rsub true_divide divide multiply subtract floor_divide where clamp
    softmax log_softmax _softmax cumsum cumprod cummax cummin logcumsumexp std_mean var_mean
    batch_norm _native_batch_norm_legit_no_training native_batch_norm instance_norm layer_norm native_layer_norm
    group_norm native_group_norm rms_norm _fused_rms_norm _weight_norm
    _weight_norm_interface grid_sampler grid_sampler_2d grid_sampler_3d affine_grid_generator
    upsample_nearest1d upsample_nearest2d upsample_nearest3d _upsample_nearest_exact1d _upsample_nearest_exact2d
    upsample_linear1d upsample_bilinear2d upsample_trilinear3d upsample_bicubic2d _upsample_bilinear2d_aa
    scatter_add index_add scatter_reduce index_reduce outer ger cosine_similarity cross linalg_cross col2im
    fake_quantize_per_tensor_affine fake_quantize_per_channel_affine quantize_per_tensor dequantize
"""
READS = """
    mean sum prod var std amax amin max min argmax argmin logsumexp norm linalg_vector_norm all any median nanmedian
    mode aminmax nansum nanmean count_nonzero sort argsort topk kthvalue trace searchsorted bucketize
    adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d _adaptive_avg_pool2d
    adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d
"""
MOVES = """
    view reshape _unsafe_view view_copy _reshape_alias flatten unflatten squeeze unsqueeze ravel reshape_as view_as
    permute permute_copy transpose swapaxes swapdims t numpy_T mT mH adjoint movedim moveaxis expand expand_as
    expand_copy broadcast_to broadcast_tensors as_strided unfold im2col slice narrow select select_copy split
    split_with_sizes split_copy chunk tensor_split unsafe_chunk unsafe_split hsplit vsplit unbind cat concat
    concatenate stack hstack vstack repeat tile repeat_interleave flip fliplr flipud roll rot90 pixel_shuffle
    pixel_unshuffle channel_shuffle native_channel_shuffle pad constant_pad_nd
    reflection_pad1d reflection_pad2d reflection_pad3d replication_pad1d replication_pad2d replication_pad3d
    diagonal diag diag_embed tril triu real imag view_as_real view_as_complex
    embedding index index_select gather take take_along_dim masked_select index_put scatter slice_scatter
    select_scatter copy fill zero masked_scatter index_copy index_fill one_hot meshgrid cartesian_prod
    clone contiguous detach alias to _to_copy type_as lift_fresh lift_fresh_copy positive conj resolve_conj resolve_neg
    requires_grad dropout native_dropout feature_dropout alpha_dropout feature_alpha_dropout
    zeros ones full empty rand randn randint randperm arange linspace eye scalar_tensor tril_indices triu_indices
    zeros_like ones_like full_like empty_like rand_like randn_like new_zeros new_ones new_full new_empty
    hann_window hamming_window bartlett_window blackman_window bernoulli
    item is_nonzero size numel _assert_tensor_metadata _assert_async _assert_scalar
    sym_constrain_range sym_constrain_range_for_size
"""
FREE = {f"aten::{name}" for name in MOVES.split()}
SIZES = ("_operator.", "math.", "torch.sym_", "aten::sym_")  # arithmetic of sizes, and taking a tensor out of a tuple


Formula: TypeAlias = Callable[[Call], Cost]
FORMULAS: dict[str, Formula] = {}


def formula(*operators: str) -> Callable[[Formula], Formula]:
    """Give operators their formula; `relu` alone means `aten::relu`. An in-place variant needs no row of its own."""

    def register(function: Formula) -> Formula:
        for operator in operators:
            register_formula(operator if "::" in operator else f"aten::{operator}", function)
        return function

    return register


def register_formula(operator: str, function: Formula) -> None:
    """Say what a custom operator costs, by its qualified name.

    >>> register_formula("docs::scale", lambda call: Cost(elementwise=prod(call.output)))
    >>> "docs::scale" in FORMULAS
    True
    """
    if "::" not in operator:
        raise ValueError(f"operator={operator!r} has no namespace; write it as 'library::operator'")
    FORMULAS[operator] = function


def find_formula(target: Any) -> Formula | None:
    """The formula of a call target, or None. What torch itself tags as pointwise needs no row."""
    name = operator_name(target)
    if name in FREE or name.removesuffix("_") in FREE or name.startswith(SIZES):
        return free
    found = FORMULAS.get(name) or FORMULAS.get(name.removesuffix("_"))
    if found is None and torch.Tag.pointwise in getattr(target, "tags", ()):
        return elementwise
    return found


@formula("conv1d", "conv2d", "conv3d")
def convolution(call: Call) -> Cost:
    """Each output element reads one filter: |output| * (inputs per group) * kernel; weight [O, I/g, *kernel]."""
    return Cost(prod(call.output) * prod(call.shape("weight")[1:]))


@formula("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
def transposed_convolution(call: Call) -> Cost:
    """Each input element writes one filter: |input| * (outputs per group) * kernel; weight [I, O/g, *kernel]."""
    return Cost(prod(call.shape("input")) * prod(call.shape("weight")[1:]))


@formula("convolution", "_convolution")
def any_convolution(call: Call) -> Cost:
    """The general operator, transposed or not."""
    return transposed_convolution(call) if call["transposed"] else convolution(call)


@formula("linear")
def linear(call: Call) -> Cost:
    """Output [..., O] = input [..., I] weight [O, I]^T."""
    return Cost(prod(call.output) * call.shape("weight")[-1])


@formula("matmul", "mm", "bmm", "mv", "dot", "vdot", "inner")
def matmul(call: Call) -> Cost:
    """The contracted size is the last of the first operand."""
    return Cost(prod(call.output) * call.first[-1])


@formula("addmm", "baddbmm", "addmv", "addbmm")
def added_matmul(call: Call) -> Cost:
    """Bias + a b; addbmm also sums over the batch of a [b, n, k]."""
    name = {"aten::addmm": "mat1", "aten::addmv": "mat"}.get(call.operator.removesuffix("_"), "batch1")
    batch = call.shape(name)[0] if call.operator.startswith("aten::addbmm") else 1
    return Cost(batch * prod(call.output) * call.shape(name)[-1])


@formula("einsum")
def einsum(call: Call) -> Cost:
    """Operands are contracted from left to right, each pair over the product of all sizes that it names."""
    left, arrow, right = call["equation"].replace(" ", "").partition("->")
    terms = [_letters(term, call.shape(t)) for term, t in zip(left.split(","), call["tensors"], strict=True)]
    if len(terms) == 1:
        return Cost(elementwise=prod(call.first))
    result = set(right) if arrow else {letter for letter in left if left.count(letter) == 1}
    macs, pending = 0, dict(terms[0])
    for i, term in enumerate(terms[1:], 1):
        pending |= {letter: max(size, pending.get(letter, 1)) for letter, size in term.items()}
        macs += prod(pending.values())
        wanted = result.union(*terms[i + 1 :])
        pending = {letter: size for letter, size in pending.items() if letter in wanted or "." in letter}
    return Cost(macs)


def _letters(term: str, shape: Shape) -> dict[str, int]:
    """Name each dimension of an operand; those of an ellipsis are numbered from the right."""
    if "..." not in term:
        return dict(zip(term, shape, strict=True))
    head, tail = term.split("...")
    extra = len(shape) - len(head) - len(tail)
    names = [*head, *(f"...{extra - i}" for i in range(extra)), *tail]
    return dict(zip(names, shape, strict=True))


@formula("bilinear")
def bilinear(call: Call) -> Cost:
    """y_o = x1^T W_o x2 with weight [O, I1, I2], x1 contracted first: |output| * (I1 I2 + I2)."""
    _, i1, i2 = call.shape("weight")
    return Cost(prod(call.output) * (i1 * i2 + i2))


@formula("cdist")
def pairwise_distances(call: Call) -> Cost:
    """Each of the distances between rows reads one row."""
    return Cost(prod(call.output) * call.first[-1])


@formula("scaled_dot_product_attention")
def attention(call: Call) -> Cost:
    """Q K^T and P V for query [..., L, E], key [..., S, E], value [..., S, V]: |heads| L S (E + V), and a softmax."""
    *heads, length, width = call.shape("query")
    scores = prod(heads) * length * call.shape("key")[-2]
    return Cost(scores * (width + call.shape("value")[-1]), elementwise=scores)


@formula("lstm", "gru", "rnn_tanh", "rnn_relu")
def recurrent(call: Call) -> Cost:
    """Each token passes every matrix of every layer and direction once; one elementwise operation per gate."""
    tokens = prod(call.shape("data" if "data" in call.arguments else "input")[:-1])
    return _cells(tokens, [call.shape(weight) for weight in call["params"]])


@formula("lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell")
def recurrent_cell(call: Call) -> Cost:
    """One step of one layer."""
    return _cells(prod(call.shape("input")[:-1]), [call.shape("w_ih"), call.shape("w_hh")])


def _cells(tokens: int, weights: list[Shape]) -> Cost:
    matrices = [shape for shape in weights if len(shape) == 2]
    return Cost(tokens * sum(prod(shape) for shape in matrices), tokens * sum(shape[0] for shape in matrices))


@formula(
    "max_pool1d", "max_pool2d", "max_pool3d", "avg_pool1d", "avg_pool2d", "avg_pool3d",
    "max_pool1d_with_indices", "max_pool2d_with_indices", "max_pool3d_with_indices",
)  # fmt: skip
def pooling(call: Call) -> Cost:
    """Each output element reads one window."""
    dims = int(call.operator.split("pool")[1][0])
    kernel = call["kernel_size"]
    sizes = [kernel] if isinstance(kernel, int) else list(kernel)
    return Cost(elementwise=prod(call.output) * (sizes[0] ** dims if len(sizes) == 1 else prod(sizes)))


@formula("embedding_bag", "_embedding_bag")
def embedding_bag(call: Call) -> Cost:
    """Each index adds one row of the table."""
    return Cost(elementwise=prod(call.shape("indices")) * call.shape("weight")[-1])


@formula(*WRITES.split())
def elementwise(call: Call) -> Cost:
    """One operation for each element written."""
    return Cost(elementwise=prod(call.output))


@formula(*READS.split())
def reduction(call: Call) -> Cost:
    """One operation for each element read."""
    return Cost(elementwise=prod(call.first))


def free(call: Call) -> Cost:
    """Moves or names data, computes nothing."""
    return Cost()
