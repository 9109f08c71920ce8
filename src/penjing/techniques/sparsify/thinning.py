"""A model that becomes smaller while it trains: when a ramp has ended, what it emptied is cut out.

Distiller calls it thinning. The cut is that of the Lossless step, proven, in the user's own class; momentum and the
like are sliced as their weights are, and the training goes on.
"""

from dataclasses import replace
from typing import Any

import torch

from penjing.recipe import Lossless
from penjing.structure import Surgery, cut_in_place, remap_optimizer, share
from penjing.techniques.prune import lossless
from penjing.techniques.sparsify.ramp import Ramp
from penjing.techniques.state import Context, State
from penjing.training import Hook, KeepMasks, LoopState
from penjing.training.checkpoint import write_into
from penjing.types import LogRow

_STEP = Lossless(inactive=False)


class Thin(Hook):
    """Cut out the units that ramps have emptied, before the first epoch after the last of them has ended.

    `surgery` is what was cut, None while nothing was; `rows` say what, how it was proven, or why nothing was. `tried`:
    whether the time has come.
    """

    def __init__(self, state: State, context: Context, keep: KeepMasks, ramps: list[Ramp]) -> None:
        self.surgery: Surgery | None = None
        self.rows: tuple[LogRow, ...] = ()
        self.tried = False
        self._state, self._context, self._keep, self._ramps = state, context, keep, ramps

    def before_epoch(self, state: LoopState) -> None:
        if self.tried or not all(ramp.ended for ramp in self._ramps):
            return
        self.tried = True
        masks = {**self._keep.masks, **{name: mask for ramp in self._ramps for name, mask in ramp.masks.items()}}
        whole = replace(self._state, model=share(state.model), masks=masks, surgery=None, rows=())
        smaller = lossless.run(whole, _STEP, self._context)
        self.rows = smaller.rows
        if smaller.surgery is None:
            return
        if smaller.graph:
            why = "its own class cannot be cut while it trains; Lossless() behind the training cuts its graph"
            self.rows = (LogRow(_STEP.key, f"nothing was removed during the training: {why}", fell_back=True),)
            return
        self._cut(state, smaller.surgery)
        for ramp in self._ramps:
            ramp.masks = {name: smaller.surgery.slice(name, mask) for name, mask in ramp.masks.items()}
        write_into(state.model, smaller.model.state_dict())

    def memory(self) -> dict[str, Any]:
        rows = [(row.step, row.what, row.fell_back, row.proof) for row in self.rows]
        return {"surgery": None if self.surgery is None else self.surgery.to_json(), "rows": rows, "tried": self.tried}

    def recall(self, state: LoopState, memory: dict[str, Any]) -> None:
        self.rows, self.tried = tuple(LogRow(*row) for row in memory["rows"]), memory["tried"]
        if memory["surgery"] is not None:
            self._cut(state, Surgery.from_json(memory["surgery"]))

    def _cut(self, state: LoopState, surgery: Surgery) -> None:
        """Cut the model that trains, and have optimizer and masks follow."""
        before = share(state.model)
        cut_in_place(state.model, surgery)
        old = dict(before.named_parameters())
        for name, parameter in state.model.named_parameters():  # slices forget the layout that the steps run in
            if parameter.ndim == 4 and not old[name].is_contiguous():
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
        remap_optimizer(state.optimizer, before, state.model, surgery)
        self._keep.masks = {name: surgery.slice(name, mask) for name, mask in self._keep.masks.items()}
        self._keep.before_training(state)
        self.surgery = surgery


def thinned(state: State, thin: Thin) -> State:
    """The state after a training in which units were cut out, or could not be."""
    if not thin.tried:
        what = "no epoch was left behind the ramp: nothing was cut out; let it end earlier, or put Lossless() behind"
        return state.log(_STEP.key, what, fell_back=True)
    state = replace(state, rows=(*state.rows, *thin.rows))
    if thin.surgery is None:
        return state
    for parameter in state.model.parameters():
        parameter.data = parameter.data.contiguous()
    masks = {name: thin.surgery.slice(name, mask) for name, mask in state.masks.items()}
    surgery = thin.surgery if state.surgery is None else state.surgery.then(thin.surgery)
    return replace(state, masks=masks, surgery=surgery)
