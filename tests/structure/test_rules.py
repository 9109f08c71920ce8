"""Every row of the table of rules against brute force, at random shapes."""

import json
from pathlib import Path

import pytest
from rule_cases import CASES

from penjing.structure.rules import FROZEN, RULES, find_rule, frozen_because
from penjing.structure.rules.elementwise import SILENT
from penjing.testing.rules import RuleCase

_RANDOM = {
    # Their values are random, so that there is nothing to compare; they follow the rule of every elementwise operator.
    *("dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout", "native_dropout", "rrelu", "bernoulli"),
    *("rand_like", "randn_like", "randint_like", "empty_like", "rand", "randn", "randint", "empty", "new_empty"),
    *("poisson", "uniform", "normal", "normal_", "log_normal", "cauchy", "exponential", "geometric", "random"),
    *("rrelu_with_noise", "randperm"),
}
_ELSEWHERE = {
    # Operators that this machine cannot run: names of the same rule on accelerators.
    *("cudnn_batch_norm", "miopen_batch_norm", "mkldnn_max_pool2d", "convolution_overrideable", "pin_memory"),
    *("_scaled_dot_product_flash_attention", "_scaled_dot_product_efficient_attention"),
    *("_scaled_dot_product_cudnn_attention", "_fused_rms_norm"),
    "_grouped_mm",  # asks for widths in steps of sixteen bytes: see test_experts.py
    *("_autocast_to_full_precision", "_autocast_to_reduced_precision"),
}


@pytest.mark.parametrize("case", CASES, ids=lambda case: str(case.operator))
def test_rule_agrees_with_brute_force(case: RuleCase) -> None:
    for seed in range(2):
        case.check(seed)


def test_every_rule_has_a_case() -> None:
    covered = {case.operator._schema.name for case in CASES}
    skipped = {f"aten::{name}" for name in _RANDOM | _ELSEWHERE | {*SILENT.split()}}
    in_models = {"_operator.getitem", "transformers::grouped_mm_fallback", "higher_order::flex_attention"}
    of_others = {name for name in RULES if name.startswith(("penjing_test::", "docs::"))}
    assert not set(RULES) - covered - skipped - in_models - of_others


def test_no_operator_is_both_ruled_and_frozen() -> None:
    assert not RULES.keys() & FROZEN.keys()


def test_operators_of_common_models_are_known() -> None:
    """Every operator that the graphs of seventy architectures hold, before and after decomposition."""
    seen = json.loads((Path(__file__).parent / "operators.json").read_text())
    names = {name if "::" in name else f"aten::{name}" for name in seen}
    assert len(names) >= 150
    assert not {name for name in names if not find_rule(name) and not frozen_because(name)}


def test_a_name_follows_the_rule_of_its_functional_form() -> None:
    assert find_rule("aten::relu_") is RULES["aten::relu"]
    assert find_rule("aten::squeeze_copy") is RULES["aten::squeeze"]
    assert find_rule("aten::index_copy_") is RULES["aten::index_copy"]
    assert find_rule("aten::squeeze_") is None  # it changes the shape of what others still read
    assert frozen_because("aten::masked_scatter_") == frozen_because("aten::masked_scatter")
