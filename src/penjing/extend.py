"""Extension points: what a user may add without touching Penjing.

`register_rule` teaches the structure room a custom operator, `register_score` adds a criterion to PruneChannels,
`register_weight_score` one to Sparsify, `register_runtime` a place where models run. `Hook` is the base of
what acts while a model trains (`penjing.training.finetune(hooks=)`, `penjing.training.callbacks`).
"""

from penjing.runtimes import register_runtime
from penjing.structure import register_rule
from penjing.techniques.prune import register_score
from penjing.techniques.sparsify import register_score as register_weight_score
from penjing.training import Hook

__all__ = ["Hook", "register_rule", "register_runtime", "register_score", "register_weight_score"]
