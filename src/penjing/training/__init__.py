"""Recovery: one visible training loop, its hooks, and distillation from the original model."""

from penjing.training.callbacks import Beside, hf_callback, lightning_callback
from penjing.training.hooks import Hook, KeepMasks, LoopState
from penjing.training.log import EpochRow, Progress, TrainingLog
from penjing.training.loop import finetune
from penjing.training.losses import distillation, distillation_kl
from penjing.training.objective import Objective
from penjing.training.parallel import Team
from penjing.training.randomness import isolated_randomness

__all__ = [
    "Beside",
    "EpochRow",
    "Hook",
    "KeepMasks",
    "LoopState",
    "Objective",
    "Progress",
    "Team",
    "TrainingLog",
    "distillation",
    "distillation_kl",
    "finetune",
    "hf_callback",
    "isolated_randomness",
    "lightning_callback",
]
