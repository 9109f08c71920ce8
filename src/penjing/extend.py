"""Extension points: what a user may add without touching Penjing.

`register_rule` teaches the structure room a custom operator, `register_score` adds a criterion to PruneChannels,
`register_weight_score` one to Sparsify, `register_runtime` a place where models run.
"""

from penjing.runtimes import register_runtime
from penjing.structure import register_rule
from penjing.techniques.prune import register_score
from penjing.techniques.sparsify import register_score as register_weight_score

__all__ = ["register_rule", "register_runtime", "register_score", "register_weight_score"]
