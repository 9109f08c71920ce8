"""The recipes that a first search tries: a lattice of cuts, each recovered and quantised, within the time there is.

The lattice is small on purpose: what decides among its points is not a model of cost but the latency of the exported
file, measured before any time goes into recovery.
"""

from collections.abc import Sequence
from dataclasses import replace

from penjing.recipe import Contract, DropBlocks, Finetune, PruneChannels, Quantize, Recipe, Step, Training

RATIOS = (0.5, 0.7, 0.3, 0.85)
MULTIPLES = (16, 8)
DROPPED = (0.25, 0.5)
"""Shares of the blocks that candidates leave out, where the model has some."""
RECOVERY_SHARE = 0.6
MAX_EPOCHS = 40.0


def candidates(
    *, budget_s: float, epoch_s: float | None, calibration: bool, prunable: bool, blocks: int = 0, score: str = "l2"
) -> tuple[Recipe, ...]:
    """List the recipes to try, most promising first.

    blocks: how many residual blocks can be left out: where a layer costs time whatever its width, fewer layers bring
    more than narrower ones; they are chosen on calibration data. epoch_s: measured seconds of one training epoch of the
    original, None without training data (then nothing is pruned, since nothing could recover). The share RECOVERY_SHARE
    of the budget is meant for two recoveries.
    """
    plain: list[Recipe] = []
    if calibration:
        plain.append(Recipe([Quantize()]))
    if not prunable or epoch_s is None:
        return tuple(plain)
    epochs = recovery_epochs(budget_s, epoch_s)
    cuts = [(ratio, multiple) for ratio in RATIOS for multiple in MULTIPLES]
    recover = Finetune(epochs=epochs)
    last: Sequence[Step] = (Quantize(),) if calibration else ()
    lattice = [Recipe([PruneChannels(r, of="macs", score=score, round_to=m), recover, *last]) for r, m in cuts]
    if calibration:
        for count in dict.fromkeys(count for share in DROPPED if (count := round(share * blocks))):
            narrower = [PruneChannels(r, of="macs", score=score, round_to=MULTIPLES[0]) for r in RATIOS[:2]]
            lattice += [Recipe([DropBlocks(count), *cut, recover, *last]) for cut in ((), *zip(narrower, strict=True))]
        lattice += [Recipe([PruneChannels(r, of="macs", score=score, round_to=8), recover]) for r in RATIOS]
    return (*plain, *lattice)


def recovery_epochs(budget_s: float, epoch_s: float) -> float:
    """Epochs of one recovery such that two of them take RECOVERY_SHARE of the budget, between 1/4 and MAX_EPOCHS.

    A pruned model trains faster than the original, whose epoch is what was measured: the estimate is on the safe side.

    >>> recovery_epochs(budget_s=1800, epoch_s=60)
    9.0
    """
    epochs = RECOVERY_SHARE * budget_s / 2 / max(epoch_s, 1e-3)
    return min(MAX_EPOCHS, float(int(epochs))) if epochs >= 1 else max(0.25, round(epochs, 2))


def trains(recipe: Recipe) -> bool:
    """Whether a recipe trains."""
    return any(isinstance(step, Training) for step in recipe)


def shape_of(recipe: Recipe) -> Recipe:
    """Give a recipe that leads to the same shapes and formats at once: no training, no refit, no search for ranges."""
    return Recipe([_at_once(step) for step in recipe if not isinstance(step, Training)])


def _at_once(step: Step) -> Step:
    if isinstance(step, PruneChannels):
        return replace(step, compensate=False)
    return replace(step, method="minmax") if isinstance(step, Quantize) else step


def objective(contract: Contract) -> str:
    """Name the field of a probe or candidate record that the contract wants small.

    Latency is relative to the original's, measured in turns with it: on a machine with other work to do, figures taken
    minutes apart do not compare, paired ratios do.
    """
    return {"latency": "relative_latency", "size": "size_bytes", "memory": "memory_bytes", "macs": "macs"}[
        contract.minimize
    ]
