"""Structural pruning: whole channels, neurons and heads are removed, and the model stays dense."""

from penjing.techniques.prune.evidence import Evidence, Need
from penjing.techniques.prune.scores import SCORES, Score, find_score, register_score
from penjing.techniques.prune.select import Selection, Widths, select
from penjing.techniques.prune.technique import run

__all__ = [
    "SCORES",
    "Evidence",
    "Need",
    "Score",
    "Selection",
    "Widths",
    "find_score",
    "register_score",
    "run",
    "select",
]
