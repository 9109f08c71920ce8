"""One rule for each operator: how labels pass through it, and which of its constants are sizes.

    @rule("linear")
    def linear(site: Site) -> Ruling: ...

An operator without a rule freezes what it touches, and is reported.
"""

from penjing.structure.rules import (  # noqa: F401 - each fills the table
    attention,
    convolution,
    creation,
    elementwise,
    indexing,
    linear,
    normalization,
    pooling,
    recurrent,
    reduction,
    shape,
)
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
    "is_shape",
    "operator_name",
    "owner_of",
    "register_rule",
]
