"""The largest part of a cut that passes where the whole does not, found by halves."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from torch import nn

from penjing.structure import Cut, Folding, Proof
from penjing.techniques.prune.select import Units

PROOFS = 24


@dataclass(frozen=True)
class Attempt:
    """A cut and what its proof said.

    removed: the units that went. module: the smaller model, a rewritten graph where `graph` says so. folding: the
    constants that removed channels leave to the layers behind them. refused: why the user's own class, cut in place,
    did not pass; empty where it did or was not tried.
    """

    removed: Mapping[str, Units]
    cut: Cut
    module: nn.Module
    proof: Proof
    graph: bool
    refused: str = ""
    folding: Folding = field(default_factory=Folding)


Try = Callable[[Mapping[str, Units]], Attempt]


def bisect(
    attempt: Try, removed: Mapping[str, Units], why: str, proofs: int = PROOFS
) -> tuple[Attempt | None, dict[str, str]]:
    """Find a large part of a cut that passes where the whole does not, by halves, in a bounded number of proofs.

    Groups at the same place of repeated layers (`layers.0.mlp`, `layers.1.mlp`) nearly always share their fate: they
    are tried together, and one by one only where the first of them passes alone. What was not tried when the proofs are
    spent is left whole. Give the largest part that passed, and why each of the other groups did not; `why` is what the
    whole failed of.
    """
    best: Attempt | None = None
    refused: dict[str, str] = {}
    left = proofs

    def passes(names: Sequence[str]) -> bool:
        nonlocal best, left, why
        if not left:
            why = f"not tried: {proofs} proofs were spent on other groups"
            return False
        left -= 1
        kept = best.removed if best is not None else {}
        tried = attempt({name: units for name, units in removed.items() if name in kept or name in names})
        best, why = (tried, why) if tried.proof.passed else (best, tried.proof.what)
        return tried.proof.passed

    def search(kinds: Sequence[Sequence[str]], failed: bool) -> bool:
        """Add what passes of some kinds, all of which are known to fail together where `failed`."""
        names = [name for kind in kinds for name in kind]
        if not failed and passes(names):
            return True
        if len(kinds) > 1:
            half = len(kinds) // 2
            search(kinds[half:], failed=search(kinds[:half], failed=False))
        elif len(names) > 1 and passes(names[:1]):
            search([[name] for name in names[1:]], failed=True)
        else:
            refused.update(dict.fromkeys(names, why))
        return False

    search(_alike(removed), failed=True)
    return best, refused


def _alike(names: Mapping[str, Units]) -> list[list[str]]:
    """Group names that differ in numbers only, as the same places in repeated layers do.

    >>> _alike({"layers.0.mlp": None, "head": None, "layers.1.mlp": None})
    [['layers.0.mlp', 'layers.1.mlp'], ['head']]
    """
    kinds: dict[str, list[str]] = {}
    for name in names:
        kinds.setdefault(re.sub(r"\d+", "*", name), []).append(name)
    return list(kinds.values())
