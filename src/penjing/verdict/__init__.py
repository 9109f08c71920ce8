"""The verdict: a one-sided non-inferiority test on deployed files, its power, and the ledger of looks."""

from penjing.verdict.judge import judge, judge_in_order
from penjing.verdict.ledger import Ledger
from penjing.verdict.noninferiority import Drop, Limits, drop_limits, value_drop, value_limits
from penjing.verdict.power import Power, power
from penjing.verdict.terms import terms_of
from penjing.verdict.verdict import LimitResult, Verdict

__all__ = [
    "Drop",
    "Ledger",
    "LimitResult",
    "Limits",
    "Power",
    "Verdict",
    "drop_limits",
    "judge",
    "judge_in_order",
    "power",
    "terms_of",
    "value_drop",
    "value_limits",
]
