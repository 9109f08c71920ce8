"""Operators of other libraries, and products over groups of rows (mixtures of experts)."""

from penjing.structure.atoms import Label
from penjing.structure.rules.registry import rule
from penjing.structure.rules.site import Labels, Ruling, Site


@rule("_grouped_mm", "transformers::grouped_mm_fallback")
def grouped_product(site: Site) -> Ruling:
    """y[rows of e] = x[rows of e] @ w[e]: each expert owns the consecutive rows up to offs[e].

    The model's width and the experts' hidden width pass as in any product. Rows and experts are kept: which rows
    belong to which expert is decided by values. With two matrices of two dimensions the groups cut the contracted
    dimension, and with a first of three the columns of the second.
    """
    if site.arguments.get("bias") is not None:
        return site.keep_whole("each expert adds a bias of its own")
    x, weight = site.tensors[:2]
    left, right = site.labels(x), site.labels(weight)
    grouped: list[Label] = []
    result: Labels
    if len(left) == len(right) == 2:
        grouped += [left[1], right[0]]
        result = (None, left[0], right[1])
    else:
        site.equate(left[-1], right[-2])
        if len(left) == 2:
            grouped += [left[0], right[0]]
            result = (None, right[2])
        elif len(right) == 2:
            grouped += [left[0], right[1]]
            result = (left[1], None)
        else:
            result = (site.equate(left[0], right[0]), left[1], right[2])
    for label in grouped:
        site.freeze(label, "rows are assigned to experts by value")
    return Ruling((result,), inexact=site.contract(left[-1], x, weight))
