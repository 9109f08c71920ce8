"""One rule for each operator: how labels pass through it, and which of its constants are sizes.

    @rule("linear")
    def linear(site: Site) -> Ruling: ...

Operators that are better left alone are listed in `frozen` with their reasons. Any other operator without a rule
freezes what it touches, and is reported as unknown.
"""

from penjing.structure.rules import (  # noqa: F401 - each fills the table
    attention,
    convolution,
    creation,
    custom,
    elementwise,
    indexing,
    linear,
    lookup,
    normalization,
    pooling,
    recurrent,
    reduction,
    shape,
    spectral,
)
from penjing.structure.rules.frozen import FROZEN, frozen_because
from penjing.structure.rules.registry import RULES, find_rule, register_rule
from penjing.structure.rules.site import (
    Count,
    Inexact,
    Labels,
    Position,
    Rule,
    Ruling,
    Shape,
    Shapes,
    Site,
    bind,
    each_shape,
    is_shape,
    operator_name,
    owner_of,
)

__all__ = [
    "FROZEN",
    "RULES",
    "Count",
    "Inexact",
    "Labels",
    "Position",
    "Rule",
    "Ruling",
    "Shape",
    "Shapes",
    "Site",
    "bind",
    "each_shape",
    "find_rule",
    "frozen_because",
    "is_shape",
    "operator_name",
    "owner_of",
    "register_rule",
]
