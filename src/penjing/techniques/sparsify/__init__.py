"""Set single weights to zero: which ones (scores), how many (masks), and what torch.nn.utils.prune left behind."""

from penjing.techniques.sparsify.masks import lowest_scores_mask, prune_count
from penjing.techniques.sparsify.outside import sparsity_hook
from penjing.techniques.sparsify.report import TensorSparsity, sparsity
from penjing.techniques.sparsify.scores import SCORES, Score, register_score
from penjing.techniques.sparsify.technique import needs, run
from penjing.techniques.sparsify.torch_masks import copy_pruned, read_torch_masks, take_torch_masks

__all__ = [
    "SCORES",
    "Score",
    "TensorSparsity",
    "copy_pruned",
    "lowest_scores_mask",
    "needs",
    "prune_count",
    "read_torch_masks",
    "register_score",
    "run",
    "sparsity",
    "sparsity_hook",
    "take_torch_masks",
]
