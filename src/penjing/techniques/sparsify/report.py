"""How many weights of a model are zero."""

from collections.abc import Iterable
from dataclasses import dataclass

from torch import nn

from penjing.techniques.sparsify.parameters import weight_names


@dataclass(frozen=True, slots=True)
class TensorSparsity:
    """Zeros of one tensor; `name` is the parameter's, or "total"."""

    name: str
    zeros: int
    size: int

    @property
    def share(self) -> float:
        """Zeros divided by size, 0 for an empty tensor."""
        return self.zeros / self.size if self.size else 0.0

    def describe(self) -> str:
        """Say it in one line."""
        return f"{self.name}: {self.share:.1%} of {self.size} weights are zero"


def sparsity(model: nn.Module, names: Iterable[str] | None = None) -> tuple[TensorSparsity, ...]:
    """Count the zeros of each named parameter, and of all of them in a last row, "total".

    names: parameter names; None takes every convolution and linear weight.

    >>> layer = nn.Linear(2, 2)
    >>> _ = nn.init.eye_(layer.weight)
    >>> [row.describe() for row in sparsity(layer)]
    ['weight: 50.0% of 4 weights are zero', 'total: 50.0% of 4 weights are zero']
    """
    known = dict(model.named_parameters(remove_duplicate=False))
    chosen = weight_names(model) if names is None else tuple(names)
    rows = [
        TensorSparsity(name, known[name].numel() - int(known[name].count_nonzero()), known[name].numel())
        for name in chosen
        if name in known
    ]
    return (*rows, TensorSparsity("total", sum(r.zeros for r in rows), sum(r.size for r in rows)))
