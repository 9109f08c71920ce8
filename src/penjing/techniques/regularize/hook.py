"""A penalty as a hook of the training loop."""

import torch

from penjing.recipe import Regularize
from penjing.techniques.regularize.penalties import PENALTIES
from penjing.techniques.regularize.terms import Term
from penjing.training import Hook, LoopState
from penjing.types import Penalty


class Penalize(Hook):
    """Add the gradient of `strength` times a penalty to that of the loss, before it is clipped.

    The strength of a growing penalty rises with the steps, lambda_t = strength (t + 1) / T. The penalty is not part of
    the loss that the log tells.
    """

    def __init__(self, step: Regularize, terms: list[Term]) -> None:
        self._step, self._terms = step, terms
        self.before = self.value()

    def value(self) -> float:
        """The penalty of the model as it is now, without its strength."""
        with torch.no_grad():
            return float(PENALTIES[Penalty(self._step.kind)]([term() for term in self._terms]))

    def after_backward(self, state: LoopState) -> None:
        kind = Penalty(self._step.kind)
        share = (state.step + 1) / state.total_steps if kind is Penalty.GROWING else 1.0
        penalty = PENALTIES[kind]([term() for term in self._terms])
        torch.autograd.backward(self._step.strength * share * penalty)

    def describe(self) -> str:
        """Say what the training has made of the penalty."""
        over = f" of {self._step.pattern} units" if self._step.kind not in (Penalty.L1, Penalty.BATCH_NORM) else ""
        return f"penalty {self._step.kind}{over}: {self.before:.4g} -> {self.value():.4g}"
