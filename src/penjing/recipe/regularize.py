"""What Finetune may add to its loss, as data."""

from dataclasses import dataclass

from penjing.errors import RecipeError
from penjing.types import Penalty, choose

COUPLED = "coupled"


@dataclass(frozen=True)
class Regularize:
    """A penalty on weights, `strength` times its value; formulas and sources: `penjing.techniques.regularize`.

    kind: "l1", of every convolution and linear weight; "batch_norm", the l1 norm of the gains of batch norms;
    "group_lasso" and "group_variance", of the norms of units; "growing", the squares of the `amount` of units with the
    lowest norms, whose strength grows from zero over the training so that a step behind it can remove them.

    pattern: what a unit is: "coupled" takes all that a channel, neuron or head owns in the groups of `pj.couple` that a
    cut may take; "filters", "rows", "channels", "columns", "kernels" and blocks such as "4x1" as in Sparsify.
    parameters: names or patterns of weights, or of weights that groups own, that it is limited to.

    >>> Regularize("group_lasso", 1e-3, pattern="filters").kind
    <Penalty.GROUP_LASSO: 'group_lasso'>
    """

    kind: Penalty | str
    strength: float = 1e-4
    pattern: str = COUPLED
    amount: float | None = None
    parameters: tuple[str, ...] | str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "kind", choose(Penalty, self.kind, "Regularize: kind", RecipeError))
        if self.strength <= 0:
            raise RecipeError(f"Regularize: strength={self.strength!r} must be positive")
        if (self.kind is Penalty.GROWING) != (self.amount is not None):
            raise RecipeError(
                f"Regularize: kind='{self.kind}', amount={self.amount!r}: kind='growing' and the share that is to go "
                "belong together"
            )
        if self.amount is not None and not 0 < self.amount < 1:
            raise RecipeError(f"Regularize: amount={self.amount!r} must be a share in (0, 1)")
        if self.kind in (Penalty.L1, Penalty.BATCH_NORM) and self.pattern != COUPLED:
            raise RecipeError(f"Regularize: kind='{self.kind}' is of single values; leave pattern={self.pattern!r} out")
        if self.parameters is not None:
            names = (self.parameters,) if isinstance(self.parameters, str) else tuple(self.parameters)
            object.__setattr__(self, "parameters", names)
