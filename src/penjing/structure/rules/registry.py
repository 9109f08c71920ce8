"""The one table of rules: operator name -> rule."""

from collections.abc import Callable

from penjing.structure.rules.frozen import FROZEN
from penjing.structure.rules.site import Rule

RULES: dict[str, Rule] = {}


def rule(*operators: str) -> Callable[[Rule], Rule]:
    """Give operators their rule; `relu` alone means `aten::relu`. An in-place variant needs no row of its own."""

    def register(function: Rule) -> Rule:
        for operator in operators:
            RULES[operator if "::" in operator else f"aten::{operator}"] = function
        return function

    return register


def find_rule(operator: str) -> Rule | None:
    """The rule of an operator.

    `aten::relu_` and `aten::squeeze_copy` follow `aten::relu` and `aten::squeeze`, unless they are known to be frozen.
    """
    for name in (operator, operator.removesuffix("_"), operator.removesuffix("_copy")):
        if name in RULES or name in FROZEN:
            return RULES.get(name)
    return None


def register_rule(operator: str, function: Rule) -> None:
    """Teach the analysis a custom operator.

    `operator` is its qualified name, `my_library::my_operator`. Check the rule with `penjing.testing.rules.RuleCase`.

    >>> from penjing.structure.rules import Ruling, register_rule
    >>> register_rule("docs::scale", lambda site: Ruling((site.labels(site["x"]),)))
    >>> find_rule("docs::scale") is not None
    True
    """
    if "::" not in operator:
        raise ValueError(f"operator={operator!r} has no namespace; write it as 'library::operator'")
    RULES[operator] = function
