"""Structural pruning: whole channels, neurons and heads are removed, and the model stays dense."""

from penjing.techniques.prune.scores import SCORES, Evidence, Score, find_score, register_score
from penjing.techniques.prune.select import Selection, Widths, select
from penjing.techniques.prune.technique import run

__all__ = ["SCORES", "Evidence", "Score", "Selection", "Widths", "find_score", "register_score", "run", "select"]
