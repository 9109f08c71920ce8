"""The Factorize step: find layers, see their data, choose ranks, split, and put the chains into the graph."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from penjing.errors import RecipeError
from penjing.profiling.cost import cost
from penjing.recipe import Factorize
from penjing.structure import Captured, capture
from penjing.techniques.factorize.kernels import composed
from penjing.techniques.factorize.ranks import choose_ranks, matching
from penjing.techniques.factorize.rewrite import rewrite
from penjing.techniques.factorize.sites import Site, find_sites, hessians
from penjing.techniques.prune.calibration import affordable
from penjing.techniques.sparsify.solve import damped, relative_error
from penjing.techniques.state import Context, State
from penjing.types import Budget, Kernels, LowRank
from penjing.workload import device_of, preserved


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
    with preserved(state.model):
        state.model.eval()
        seen = _seen(state, sites, step, captured, context)
    metrics = {site.name: _metric(site, seen) for site in sites}
    sizes = {Budget.PARAMS: parameters(state.model), Budget.MACS: cost(captured).macs}
    ranks = choose_ranks(
        sites, step, lambda site: site.form.spectrum(site.weight, metrics[site.name]), sizes[Budget(step.of)]
    )
    whole = ", ".join(site.name for site in sites if site.name not in ranks)
    if whole:
        why = "by the budget" if step.ratio is not None else f"for their parts would save no {step.of}"
        state = state.log(step.key, f"stay whole, {why}: {whole}", fell_back=step.ratio is None)
    if not ranks:
        return state
    chains = [
        (site, site.form.factor(site.weight, metrics[site.name], ranks[site.name]))
        for site in sites
        if site.name in ranks
    ]
    for site, stages in chains:
        state = state.log(step.key, _told(site, stages, ranks[site.name], seen.get(site.name)))
    return _carry_out(state, step, captured, chains)


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
    state: State, sites: Sequence[Site], step: Factorize, captured: Captured, context: Context
) -> dict[str, Tensor]:
    """H of each layer by its name; empty where no data are looked at."""
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
    return hessians(captured, sites, batches, context.seed)


def _metric(site: Site, seen: Mapping[str, Tensor]) -> Tensor:
    """H, damped; the identity where no data are looked at, or the layer reads nothing but zeros there."""
    hessian = seen.get(site.name)
    if hessian is None or not bool(hessian.any()):
        return torch.eye(site.weight[0].numel(), dtype=torch.float64, device=site.weight.device)
    return damped(hessian.double()).matrix


def _told(site: Site, stages: tuple[Tensor, ...], rank: int, hessian: Tensor | None) -> str:
    """One line on a layer: its rank, its size, and how far off it is."""
    weight, nearest = site.weight.double().flatten(1), composed(stages).flatten(1)
    if hessian is None or not bool(hessian.any()):
        off, what = relative_error(weight, nearest, torch.eye(weight.shape[1]).to(weight)), "weight is"
    else:
        off, what = relative_error(weight, nearest, hessian.double()), "outputs are"
    before, after = site.cost(Budget.PARAMS), site.cost(Budget.PARAMS, rank)
    return f"{site.name}: rank {rank} of {site.largest}, {after:,} of {before:,} weights; its {what} off by {off:.2%}"


def _carry_out(
    state: State, step: Factorize, captured: Captured, chains: Sequence[tuple[Site, tuple[Tensor, ...]]]
) -> State:
    model = rewrite(captured, chains)
    gone = [name for name in state.masks if name in {str(site.source.target) for site, _ in chains}]
    if gone:
        state = state.log(step.key, f"the zeros of {', '.join(gone)} are gone with these weights", fell_back=True)
    before, after = parameters(state.model), parameters(model)
    what = f"split {len(chains)} layers: {after:,} of {before:,} parameters are left ({after / before:.1%})"
    state = state.log(step.key, f"{what}; the model is a rewritten graph")
    masks = {name: mask for name, mask in state.masks.items() if name not in gone}
    return replace(state, model=model, masks=masks, graph=True)
