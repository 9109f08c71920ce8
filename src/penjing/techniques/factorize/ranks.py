"""How many directions each layer keeps."""

from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from math import ceil

from torch import Tensor

from penjing.errors import RecipeError
from penjing.recipe import Factorize
from penjing.techniques.allocation import Option, allocate
from penjing.techniques.factorize.sites import Site

Spectra = Callable[[Site], Tensor]
"""What the outputs of a layer have of energy along each of its directions, falling."""


def choose_ranks(sites: Sequence[Site], step: Factorize, spectrum: Spectra, total: int) -> dict[str, int]:
    """Choose the rank of each layer by its name; those that stay whole are left out.

    total: what the whole model costs, by `step.of`. Raises RecipeError for a rank that no layer of a pattern can have,
    and for a ratio that cannot be kept.
    """
    if step.energy is not None:
        found = {site.name: _rounded(_holding(spectrum(site), step.energy), site, step) for site in sites}
    elif step.ratio is not None:
        found = _allocated(sites, step, spectrum, total)
    else:
        found = _asked(sites, step)
    return {site.name: found[site.name] for site in sites if site.name in found and _pays(site, found[site.name], step)}


def matching(site: Site, patterns: Sequence[str]) -> str | None:
    """The first pattern that matches the name of a layer."""
    return next((pattern for pattern in patterns if fnmatchcase(site.name, pattern)), None)


def _asked(sites: Sequence[Site], step: Factorize) -> dict[str, int]:
    """The ranks that the step says, by pattern; a layer that cannot have as many stays whole."""
    ranks = dict(step.ranks)
    found = {}
    for pattern, rank in ranks.items():
        mine = [site for site in sites if matching(site, tuple(ranks)) == pattern]
        largest = max((site.largest for site in mine), default=0)
        if isinstance(rank, int) and mine and rank > largest:
            names = ", ".join(site.name for site in mine)
            raise RecipeError(
                f"Factorize: rank[{pattern!r}]={rank} is more than any of {names} can have; use {largest} or less"
            )
        for site in mine:
            if isinstance(rank, float):
                found[site.name] = _rounded(rank * site.largest, site, step)
            elif rank <= site.largest:
                found[site.name] = rank
    return found


def _holding(energies: Tensor, share: float) -> int:
    """The least rank that holds a share of the energy.

    >>> import torch
    >>> _holding(torch.tensor([6.0, 3.0, 1.0]), 0.9)
    2
    """
    reached = energies.cumsum(0) >= share * energies.sum() * (1 - 1e-9)
    return int(reached.long().argmax()) + 1


def _allocated(sites: Sequence[Site], step: Factorize, spectrum: Spectra, total: int) -> dict[str, int]:
    """The ranks with the least sum of relative errors of the outputs whose layers keep the budget: exact."""
    assert step.ratio is not None
    whole = {site.name: site.cost(step.of) for site in sites}
    menus = {site.name: _menu(site, step, spectrum(site)) for site in sites}
    budget = (1 - step.ratio) * total - (total - sum(whole.values()))
    chosen = allocate(menus, {step.of: budget})
    if chosen is None:
        least = total - sum(whole.values()) + sum(min(o.takes[step.of] for o in menu) for menu in menus.values())
        raise RecipeError(
            f"Factorize: ratio={step.ratio!r} cannot be kept: at the lowest ranks {least / total:.0%} of the model's "
            f"{step.of} are left; use {1 - least / total:.2f} or less, or a smaller round_to"
        )
    return {name: int(option) for name, option in chosen.items() if option != _WHOLE}


_WHOLE = "whole"
_TINY = 1e-300


def _menu(site: Site, step: Factorize, energies: Tensor) -> list[Option]:
    total = energies.sum()
    lost = ((total - energies.cumsum(0)) / total.clamp_min(_TINY)).tolist()  # nothing, where there is nothing to lose
    ranks = range(min(step.round_to, site.largest), site.largest + 1, step.round_to)
    return [Option(_WHOLE, 0.0, {step.of: site.cost(step.of)})] + [
        Option(str(rank), lost[rank - 1], {step.of: site.cost(step.of, rank)})
        for rank in ranks
        if _pays(site, rank, step)
    ]


def _rounded(rank: float, site: Site, step: Factorize) -> int:
    return min(step.round_to * ceil(rank / step.round_to), site.largest)


def _pays(site: Site, rank: int, step: Factorize) -> bool:
    return site.cost(step.of, rank) < site.cost(step.of)
