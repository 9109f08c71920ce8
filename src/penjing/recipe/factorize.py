"""The step that asks for low rank."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from penjing.errors import RecipeError
from penjing.recipe.step import Step, check_at_least, check_fraction, check_share
from penjing.types import Budget, Kernels, LowRank, choose

_QUARTER = 0.25  # which halves a square matrix


@dataclass(frozen=True)
class Factorize(Step):
    """Compute linear layers, convolutions and embeddings as chains of smaller ones, of low rank.

    How much is kept is said in one of three ways. rank: how many directions, or which share in (0, 1] of those that a
    layer can have, a quarter by default; or either by patterns of names, {"encoder*": 0.25, "head": 16}, where the
    first match holds and what none matches stays whole. energy: the share in (0, 1] of the energy of each layer's
    outputs. ratio: the share in [0, 1) of the whole model's parameters, or MACs by `of`, that goes; the ranks are then
    chosen so that the relative errors of the layers have the least sum.

    method: "whitened" keeps what matters most for the outputs on calibration data, "svd" what is largest in the weight;
    "auto" is "whitened" where the workload brings data. kernels: how a convolution larger than 1 x 1 is split:
    "channel" (the kernel to fewer channels, then 1 x 1), "spatial" (k x 1, then 1 x k), "tucker" (1 x 1, kernel,
    1 x 1). round_to: ranks that are not given as numbers are multiples of it. layers, exclude: names or patterns that
    the choice is limited to, or spares. A layer whose parts would cost no less (by `of`) stays whole, as the log says.
    Formulas and sources: `penjing.techniques.factorize`.

    >>> Factorize(0.25, exclude=("head",)).explain()
    "factorize(rank=0.25, exclude=['head'])"
    """

    key: ClassVar[str] = "factorize"

    rank: int | float | Mapping[str, int | float] | None = None
    energy: float | None = None
    ratio: float | None = None
    of: Budget | str = Budget.PARAMS
    method: LowRank | str = LowRank.AUTO
    kernels: Kernels | str = Kernels.CHANNEL
    round_to: int = 8
    layers: tuple[str, ...] | None = None
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        given = [name for name in ("rank", "energy", "ratio") if getattr(self, name) is not None]
        if not given:
            object.__setattr__(self, "rank", _QUARTER)
        if len(given) > 1:
            what = " and ".join(given)
            raise RecipeError(f"Factorize: {what} are given; say how much is kept by one of rank=, energy= and ratio=")
        if isinstance(self.rank, Mapping):
            if not self.rank:
                raise RecipeError("Factorize: rank={} names no layer; write for instance {'*': 0.5}")
            object.__setattr__(self, "rank", dict(self.rank))
        for pattern, rank in self.ranks:
            _check_rank(f"rank[{pattern!r}]" if isinstance(self.rank, dict) else "rank", rank)
        if self.energy is not None:
            check_share("Factorize", "energy", self.energy)
        if self.ratio is not None:
            check_fraction("Factorize", "ratio", self.ratio)
        check_at_least("Factorize", "round_to", self.round_to, 1)
        object.__setattr__(self, "of", choose(Budget, self.of, "Factorize: of", RecipeError))
        if self.of not in (Budget.PARAMS, Budget.MACS):
            raise RecipeError(f"Factorize: of='{self.of}' is nothing that a rank has by itself; use 'params' or 'macs'")
        object.__setattr__(self, "method", choose(LowRank, self.method, "Factorize: method", RecipeError))
        object.__setattr__(self, "kernels", choose(Kernels, self.kernels, "Factorize: kernels", RecipeError))
        for name in ("layers", "exclude"):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, (value,) if isinstance(value, str) else tuple(value))

    @property
    def ranks(self) -> tuple[tuple[str, int | float], ...]:
        """The rank of each pattern of layers, in order; none where energy or ratio says it.

        >>> Factorize({"head": 16, "*": 0.5}).ranks, Factorize(energy=0.9).ranks
        ((('head', 16), ('*', 0.5)), ())
        """
        if isinstance(self.rank, Mapping):
            return tuple(self.rank.items())
        return () if self.rank is None else (("*", self.rank),)


def _check_rank(name: str, rank: int | float) -> None:
    if isinstance(rank, bool) or not isinstance(rank, int | float):
        raise RecipeError(f"Factorize: {name}={rank!r} must be a whole number of directions or a share in (0, 1]")
    if isinstance(rank, int):
        check_at_least("Factorize", name, rank, 1)
    else:
        check_share("Factorize", name, rank)
