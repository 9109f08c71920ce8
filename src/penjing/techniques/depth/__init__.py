"""Depth: residual blocks and layers that matter least are left out, and the model becomes shallower."""

from penjing.techniques.depth.scores import SCORES, Evidence, Score, find_score, register_score
from penjing.techniques.depth.technique import run

__all__ = ["SCORES", "Evidence", "Score", "find_score", "register_score", "run"]
