"""The stages of post-training quantisation, and the names of the methods of each."""

from collections.abc import Sequence
from dataclasses import dataclass

from penjing.errors import RecipeError
from penjing.techniques.quantize.balance import BALANCES
from penjing.techniques.quantize.observers import OBSERVERS
from penjing.techniques.quantize.refine import ROUNDINGS

JOINT = "lapq"
"""The observer that looks at all ranges together."""


@dataclass(frozen=True)
class Stages:
    """What is tried at each stage, in this order; with several the best of each stage is kept."""

    balances: tuple[str, ...] = ()
    observers: tuple[str, ...] = ("minmax",)
    roundings: tuple[str, ...] = ()
    bias: bool = False

    @property
    def look_at_data(self) -> bool:
        """Whether they do anything to weights that depends on data."""
        return bool(self.roundings or self.bias or set(self.balances) - {"equalize"})


AUTO = Stages(("smooth",), ("minmax", "percentile", "mse", "fisher"), ("gptq",), bias=True)
"""What method="auto" tries; other observers clip more than eight bits need, unless single values lie far out."""


def stages_of(method: str | Sequence[str]) -> Stages | None:
    """Sort names of methods into stages; None for "auto".

    Raises RecipeError for an unknown name, for two roundings, and for "auto" beside others.

    >>> stages_of(("smooth", "mse", "gptq"))
    Stages(balances=('smooth',), observers=('mse',), roundings=('gptq',), bias=False)
    """
    names = (method,) if isinstance(method, str) else tuple(method)
    if names == ("auto",):
        return None
    known = (*BALANCES, *OBSERVERS, JOINT, "nearest", *ROUNDINGS, "bias")
    for name in names:
        if name not in known:
            raise RecipeError(
                f"Quantize: method={name!r} is unknown; use 'auto', or of {', '.join(known)} one or more"
                if name != "auto"
                else f"Quantize: method={method!r}: 'auto' chooses by itself; give it alone, or leave it out"
            )
    roundings = tuple(name for name in names if name in ROUNDINGS)
    if len(roundings) > 1:
        raise RecipeError(f"Quantize: method={method!r} rounds weights in {len(roundings)} ways; choose one")
    return Stages(
        tuple(name for name in names if name in BALANCES),
        tuple(name for name in names if name in OBSERVERS or name == JOINT) or ("minmax",),
        roundings,
        "bias" in names,
    )
