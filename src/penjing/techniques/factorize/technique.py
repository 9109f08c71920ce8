"""The Factorize step: find layers, see their data, choose ranks, split, and put the chains into the graph."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import torch
from torch import nn

from penjing.errors import RecipeError
from penjing.profiling.cost import cost
from penjing.recipe import Factorize
from penjing.structure import Captured, capture
from penjing.structure.layers import Taker
from penjing.techniques.factorize.chain import Chain, metric
from penjing.techniques.factorize.ranks import choose_ranks, matching
from penjing.techniques.factorize.rewrite import rewrite
from penjing.techniques.factorize.sites import Seen, Site, find_sites, see
from penjing.techniques.lockstep import takers_of
from penjing.techniques.prune.calibration import affordable
from penjing.techniques.state import Context, State
from penjing.types import Budget, Kernels, LowRank
from penjing.workload import device_of


def needs(step: Factorize) -> frozenset[str]:
    """What a workload must bring: calibration data, where the outputs on data count.

    >>> needs(Factorize(0.5)), needs(Factorize(0.5, method="whitened"))
    (frozenset(), frozenset({'calibration'}))
    """
    return frozenset({"calibration"}) if step.method is LowRank.WHITENED else frozenset()


@torch.no_grad()
def run(state: State, step: Factorize, context: Context) -> State:
    """Apply the step. Raises RecipeError for a pattern that names no layer, and for ranks that cannot be."""
    workload = context.workload
    captured = capture(state.model, state.example, None if workload is None else workload.dynamic_shapes)
    found, twice = find_sites(captured, Kernels(step.kernels))
    _check_names([*found, *twice], step)
    sites, shared = _chosen(found, step), _chosen(twice, step)
    if shared:
        names = ", ".join(dict.fromkeys(site.name for site in shared))
        state = state.log(step.key, f"stay whole, for their weight is read more than once: {names}", fell_back=True)
    if not sites:
        return state.log(step.key, "nothing is split: no layer of this model can be", fell_back=True)
    takers = takers_of(captured, {site.node.name: site.layer for site in sites if site.layer})
    seen = _seen(state, sites, step, captured, takers, context)
    ranks = choose_ranks(
        sites,
        step,
        lambda site: site.form.spectrum(site.weight, metric(site, seen.get(site.name))),
        cost(captured).macs if step.of == Budget.MACS else parameters(state.model),
    )
    whole = ", ".join(site.name for site in sites if site.name not in ranks)
    if whole:
        why = "by the budget" if step.ratio is not None else f"for their parts would save no {step.of}"
        state = state.log(step.key, f"stay whole, {why}: {whole}", fell_back=step.ratio is None)
    if not ranks:
        return state
    chains = [Chain.of(site, ranks[site.name], seen.get(site.name)) for site in sites if site.name in ranks]
    return _carry_out(state, step, captured, chains, takers)


def parameters(model: nn.Module) -> int:
    """How many parameters a model has, tied ones once."""
    return sum(parameter.numel() for parameter in model.parameters())


def _chosen(sites: Sequence[Site], step: Factorize) -> tuple[Site, ...]:
    """The sites that the step may split."""
    asked = [pattern for pattern, _ in step.ranks] or ["*"]
    return tuple(
        site
        for site in sites
        if matching(site, asked)
        and (step.layers is None or matching(site, step.layers))
        and not matching(site, step.exclude)
    )


def _check_names(sites: Sequence[Site], step: Factorize) -> None:
    """Raise RecipeError for a pattern that matches no layer."""
    patterns = {"rank": dict(step.ranks) if isinstance(step.rank, Mapping) else (), "layers": step.layers or ()}
    for name, given in (patterns | {"exclude": step.exclude}).items():
        for pattern in given:
            if not any(matching(site, (pattern,)) for site in sites):
                known = ", ".join(site.name for site in sites) or "none"
                raise RecipeError(
                    f"Factorize: {name} names {pattern!r}, which is no layer that can be split; those are {known}"
                )


def _seen(
    state: State,
    sites: Sequence[Site],
    step: Factorize,
    captured: Captured,
    takers: Collection[str],
    context: Context,
) -> dict[str, Seen]:
    """What each layer reads, by its name; nothing where no data are looked at."""
    workload = context.workload
    if step.method is LowRank.SVD or workload is None or not workload.brings("calibration"):
        return {}
    size = captured.example.batch_size
    batches = [
        captured.flatten(batch.args, batch.kwargs)
        for batch in affordable(workload.calibration_batches(), captured, device_of(state.model))
        if captured.fixed_batch is None or batch.size == size
    ]
    if not batches:
        raise RecipeError(
            f"Factorize: no calibration batch has {size} samples, and the model is captured for no other size "
            f"({captured.fixed_batch}); give batches of {size}, or method='svd'"
        )
    return see(captured, sites, takers, batches, context.seed)


def _carry_out(
    state: State, step: Factorize, captured: Captured, chains: Sequence[Chain], takers: Mapping[str, Taker]
) -> State:
    for chain in chains:
        state = state.log(step.key, chain.told())
    shifts = {
        taker.name: taker.sign * shift
        for chain in chains
        if (taker := takers.get(chain.site.node.name)) is not None and (shift := chain.shift) is not None
    }
    model = rewrite(captured, chains, shifts)
    gone = [name for name in state.masks if name in {str(chain.site.source.target) for chain in chains}]
    if gone:
        state = state.log(step.key, f"the zeros of {', '.join(gone)} are gone with these weights", fell_back=True)
    before, after = parameters(state.model), parameters(model)
    what = f"split {len(chains)} layers: {after:,} of {before:,} parameters are left ({after / before:.1%})"
    state = state.log(step.key, f"{what}; the model is a rewritten graph")
    masks = {name: mask for name, mask in state.masks.items() if name not in gone}
    return replace(state, model=model, masks=masks, graph=True)
