"""Matrix products: contraction of one dimension, the rest passes through."""

from torch import fx

from penjing.structure.atoms import Label
from penjing.structure.rules.registry import rule
from penjing.structure.rules.site import Inexact, Labels, Ruling, Site


@rule("linear")
def linear(site: Site) -> Ruling:
    """y[..., o] = sum_i w[o, i] * x[..., i] + b[o]."""
    x, weight, bias = site["input"], site["weight"], site["bias"]
    outputs, inputs = site.labels(weight)
    if site.shape(weight)[1] > 1:
        site.equate(site.labels(x)[-1], inputs)
    if bias is not None:
        outputs = site.equate(outputs, site.labels(bias)[0])
    return Ruling(((*site.labels(x)[:-1], outputs),))


@rule("matmul", "mm", "bmm", "mv", "dot")
def matmul(site: Site) -> Ruling:
    """y[..., i, j] = sum_k a[..., i, k] * b[..., k, j], batch dimensions broadcast."""
    a, b = site.node.args
    labels, inexact = product(site, a, b)
    return Ruling((labels,), inexact=inexact)


@rule("addmm", "baddbmm")
def addmm(site: Site) -> Ruling:
    """y = c + a @ b."""
    added, a, b = site.node.args[:3]
    labels, inexact = product(site, a, b)
    operands = [(site.labels(added), site.shape(added)), (labels, site.output_shape)]
    return Ruling((site.broadcast_labels(operands),), inexact=inexact)


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


@rule("outer", "ger")
def outer(site: Site) -> Ruling:
    """y[i, j] = a[i] * b[j]."""
    a, b = site.node.args
    return Ruling(((*site.labels(a), *site.labels(b)),))


@rule("addmv")
def addmv(site: Site) -> Ruling:
    """y = c + a @ x."""
    added, a, x = site.node.args[:3]
    labels, inexact = product(site, a, x)
    operands = [(site.labels(added), site.shape(added)), (labels, site.output_shape)]
    return Ruling((site.broadcast_labels(operands),), inexact=inexact)


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
    """Dimensions under one letter are the same; letters that are not in the output are contracted."""
    equation, operands = site["equation"].replace(" ", ""), site["tensors"]
    inputs, arrow, output = equation.partition("->")
    if "." in equation:
        raise ValueError(f"the equation {equation!r} has an ellipsis")
    if not arrow:
        output = "".join(sorted(letter for letter in set(inputs) - {","} if inputs.count(letter) == 1))
    by_letter: dict[str, Label] = {}
    for letters, operand in zip(inputs.split(","), operands, strict=True):
        for letter, label, size in zip(letters, site.labels(operand), site.shape(operand), strict=True):
            if size > 1:
                by_letter[letter] = site.equate(by_letter[letter], label) if letter in by_letter else label
    exact = any(site.vanishes(operand) for operand in operands)
    contracted = [] if exact else [label for letter, label in by_letter.items() if letter not in output]
    inexact = tuple(Inexact(label, "a product of activations") for label in contracted)
    return Ruling((tuple(by_letter.get(letter) for letter in output),), inexact=inexact)
