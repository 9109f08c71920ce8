"""Matrix products: contraction of one dimension, the rest passes through."""

from collections.abc import Sequence
from itertools import pairwise

from torch import fx

from penjing.structure.atoms import Label
from penjing.structure.rules.registry import rule
from penjing.structure.rules.site import Inexact, Labels, Ruling, Shape, Site


@rule("linear")
def linear(site: Site) -> Ruling:
    """y[..., o] = sum_i w[o, i] * x[..., i] + b[o]."""
    x, weight, bias = site["input"], site["weight"], site["bias"]
    *outputs, inputs = site.labels(weight)  # a weight of one dimension gives no dimension
    if site.shape(weight)[-1] > 1:
        site.equate(site.labels(x)[-1], inputs)
    if bias is not None and outputs:
        outputs[0] = site.equate(outputs[0], site.labels(bias)[0])
    return Ruling(((*site.labels(x)[:-1], *outputs),), inexact=site.contract(inputs, x, weight))


@rule("matmul", "linalg_matmul", "mm", "bmm", "mv", "dot")
def matmul(site: Site) -> Ruling:
    """y[..., i, j] = sum_k a[..., i, k] * b[..., k, j], batch dimensions broadcast."""
    a, b = site.node.args
    labels, inexact = product(site, a, b)
    return Ruling((labels,), inexact=inexact)


@rule("addmm", "baddbmm", "addmv", "_addmm_activation")
def addmm(site: Site) -> Ruling:
    """y = c + a @ b."""
    added, a, b = site.node.args[:3]
    labels, inexact = product(site, a, b)
    return Ruling((_added(site, added, labels, site.output_shape),), inexact=inexact)


def _added(site: Site, added: object, labels: Labels, shape: Shape) -> Labels:
    return site.broadcast_labels([(site.labels(added), site.shape(added)), (labels, shape)])


def product(site: Site, a: object, b: object) -> tuple[Labels, tuple[Inexact, ...]]:
    """The labels of a @ b, and whether its sum is inexact."""
    assert isinstance(a, fx.Node)
    assert isinstance(b, fx.Node)
    left, right = site.labels(a), site.labels(b)
    left_shape, right_shape = site.shape(a), site.shape(b)
    if left_shape[-1] > 1:
        site.equate(left[-1], right[-2] if len(right) > 1 else right[-1])
    batch = site.broadcast_labels([(left[:-2], left_shape[:-2]), (right[:-2], right_shape[:-2])])
    return (*batch, *left[-2:-1], *(right[-1:] if len(right) > 1 else ())), site.contract(left[-1], a, b)


@rule("addbmm")
def addbmm(site: Site) -> Ruling:
    """y = c + sum_n a[n] @ b[n]."""
    a, b = site["batch1"], site["batch2"]
    (batch, *labels), inexact = product(site, a, b)
    return Ruling(
        (_added(site, site["self"], tuple(labels), site.output_shape),), inexact=(*inexact, *site.contract(batch, a, b))
    )


@rule("outer", "ger", "addr")
def outer(site: Site) -> Ruling:
    """y[i, j] = a[i] * b[j], added to c where there is one."""
    *added, a, b = site.tensors
    labels = (*site.labels(a), *site.labels(b))
    return Ruling((_added(site, added[0], labels, site.output_shape) if added else labels,))


@rule("inner")
def inner(site: Site) -> Ruling:
    """y[..., ...'] = sum_k a[..., k] * b[...', k]."""
    a, b = site["self"], site["other"]
    left, right = site.labels(a), site.labels(b)
    if not left or not right:
        return Ruling((site.broadcast([a, b]),))
    site.equate(left[-1], right[-1])
    return Ruling(((*left[:-1], *right[:-1]),), inexact=site.contract(left[-1], a, b))


@rule("vdot", "linalg_vecdot")
def vecdot(site: Site) -> Ruling:
    """y[...] = sum_k conj(a[..., k]) * b[..., k] along `dim`."""
    a, b = site.tensors
    labels = list(site.broadcast([a, b]))
    along = labels.pop(site.arguments.get("dim", -1))
    return Ruling((tuple(labels),), inexact=site.contract(along, a, b))


@rule("tensordot")
def tensordot(site: Site) -> Ruling:
    """Several dimensions contracted at once; what is left of a comes before what is left of b."""
    a, b = site["self"], site["other"]
    left, right = site.labels(a), site.labels(b)
    inexact: tuple[Inexact, ...] = ()
    dims_a, dims_b = (
        [dim % len(labels) for dim in site[name]] for labels, name in ((left, "dims_self"), (right, "dims_other"))
    )
    for i, j in zip(dims_a, dims_b, strict=True):
        if site.shape(a)[i] == site.shape(b)[j]:
            site.equate(left[i], right[j])
        else:  # a contracted dimension of size one is broadcast
            site.freeze(left[i], "it is added up alone")
            site.freeze(right[j], "it is added up alone")
        inexact += site.contract(left[i], a, b)
    return Ruling(((*_without(left, dims_a), *_without(right, dims_b)),), inexact=inexact)


def _without(labels: Labels, axes: Sequence[int]) -> Labels:
    return tuple(label for axis, label in enumerate(labels) if axis not in axes)


@rule("linalg_multi_dot", "chain_matmul")
def multi_dot(site: Site) -> Ruling:
    """y = a @ b @ c @ ...; the first and the last may be vectors."""
    tensors = site.tensors
    inexact: tuple[Inexact, ...] = ()
    for a, b in pairwise(tensors):
        along = site.equate(site.labels(a)[-1], site.labels(b)[0])
        inexact += site.contract(along, a, b)
    first, last = site.labels(tensors[0]), site.labels(tensors[-1])
    return Ruling(((*first[:-1], *last[1:]),), inexact=inexact)


@rule("bilinear")
def bilinear(site: Site) -> Ruling:
    """y[..., o] = sum_ij a[..., i] * w[o, i, j] * b[..., j] + bias[o]."""
    a, b, weight = site["input1"], site["input2"], site["weight"]
    outputs, first, second = site.labels(weight)
    site.equate(site.labels(a)[-1], first)
    site.equate(site.labels(b)[-1], second)
    if site["bias"] is not None:
        outputs = site.equate(outputs, site.labels(site["bias"])[0])
    return Ruling(((*map(site.equate, site.labels(a)[:-1], site.labels(b)[:-1]), outputs),))


@rule("einsum")
def einsum(site: Site) -> Ruling:
    """Dimensions under one letter are the same; letters that are not in the output are contracted.

    An ellipsis stands for dimensions that are broadcast; here they become letters of their own, aligned at the last.
    """
    operands = site["tensors"]
    inputs, output = _spelled_out(site["equation"], [len(site.shape(operand)) for operand in operands])
    by_letter: dict[str, Label] = {}
    for letters, operand in zip(inputs, operands, strict=True):
        for letter, label, size in zip(letters, site.labels(operand), site.shape(operand), strict=True):
            if size > 1:
                by_letter[letter] = site.equate(by_letter[letter], label) if letter in by_letter else label
    exact = any(site.vanishes(operand) for operand in operands)
    contracted = [] if exact else [label for letter, label in by_letter.items() if letter not in output]
    inexact = tuple(Inexact(label, "a product of activations") for label in contracted if label is not None)
    return Ruling((tuple(by_letter.get(letter) for letter in output),), inexact=inexact)


def _spelled_out(equation: str, ranks: Sequence[int]) -> tuple[list[str], str]:
    """The letters of each operand and of the output, with digits for the dimensions under an ellipsis.

    >>> _spelled_out("...ij, jk -> ...ik", [4, 2])
    (['10ij', 'jk'], '10ik')
    >>> _spelled_out("nchw, cd", [4, 2])
    (['nchw', 'cd'], 'dhnw')
    """
    left, arrow, output = equation.replace(" ", "").partition("->")
    inputs, longest = [], 0
    for letters, rank in zip(left.split(","), ranks, strict=True):
        hidden = rank - len(letters.replace("...", ""))
        inputs.append(letters.replace("...", _digits(hidden)))
        longest = max(longest, hidden)
    if arrow:
        return inputs, output.replace("...", _digits(longest))
    once = sorted(letter for letter in set(left) - set(",.") if left.count(letter) == 1)
    return inputs, _digits(longest) + "".join(once)


def _digits(count: int) -> str:
    return "".join(str(i) for i in reversed(range(count)))


@rule("cdist", "_cdist_forward", "_euclidean_dist")
def cdist(site: Site) -> Ruling:
    """y[..., i, j] = |a[..., i, :] - b[..., j, :]|: exact where both vanish, for zero differences add nothing."""
    a, b = site.tensors
    left, right = site.labels(a), site.labels(b)
    along = site.equate(left[-1], right[-1])
    batch = site.broadcast_labels([(left[:-2], site.shape(a)[:-2]), (right[:-2], site.shape(b)[:-2])])
    exact = site.vanishes(a) and site.vanishes(b)
    inexact = () if exact or along is None else (Inexact(along, "a distance"),)
    return Ruling(((*batch, left[-2], right[-2]),), inexact=inexact)


@rule("cosine_similarity", "pairwise_distance", "dist")
def similarity(site: Site) -> Ruling:
    """A distance or an angle of two tensors along one dimension, or along all."""
    a, b = site.tensors
    labels = list(site.broadcast([a, b]))
    what = site.operator.split("::")[-1].replace("_", " ")
    if site.operator == "aten::dist":
        return Ruling(((),), inexact=tuple(Inexact(label, what) for label in labels))
    axis = site.arguments.get("dim", -1) % len(labels)
    inexact = (Inexact(labels[axis], what),)
    labels[axis : axis + 1] = [None] if site.arguments.get("keepdim") else []
    return Ruling((tuple(labels),), inexact=inexact)


@rule("cross", "linalg_cross")
def cross(site: Site) -> Ruling:
    """The product of vectors in three dimensions: these are kept."""
    a, b = site.tensors
    labels, shape = list(site.broadcast([a, b])), site.output_shape
    axis = shape.index(3) if site["dim"] is None else site["dim"]
    site.freeze(labels[axis], "its three entries are combined")
    labels[axis] = None
    return Ruling((tuple(labels),), {"dim": axis})
