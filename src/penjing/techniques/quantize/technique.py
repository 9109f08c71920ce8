"""The Quantize step: capture, fold, plan, calibrate, insert; the simulation in torch is the graph that is exported."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import fx

from penjing.errors import RecipeError, WorkloadError
from penjing.recipe import Quantize
from penjing.structure import Captured, GraphModel, capture
from penjing.techniques.quantize.account import float_account
from penjing.techniques.quantize.calibrate import Inputs, observe, signal_to_noise_db
from penjing.techniques.quantize.correct import correct_biases
from penjing.techniques.quantize.fold import fold_batch_norms
from penjing.techniques.quantize.graph import flatten_linears, functionalize, pool_globally
from penjing.techniques.quantize.insert import insert
from penjing.techniques.quantize.layers import int8_layers
from penjing.techniques.quantize.observers import OBSERVERS
from penjing.techniques.quantize.pads import merge_pads
from penjing.techniques.quantize.plan import Plan, choose_layers, make_plan
from penjing.techniques.state import Context, State
from penjing.workload import Batch, Workload

CALIBRATION_SAMPLES = 512
HELD_OUT = 0.25
AUTO = ("minmax", "percentile", "mse")
"""What method="auto" tries; the others clip more than eight bits need, unless single values lie far out."""


def run(state: State, step: Quantize, context: Context) -> State:
    """Quantise the model to int8 with ranges seen on calibration data; no label is looked at.

    method="auto" tries three observers and keeps the one whose outputs are nearest to the float model's, on a quarter
    of the calibration data that gave no range; then it corrects the biases, and keeps that if it is nearer. Raises
    RecipeError for an unknown method or override, for a model without a layer that can run in int8, and where there is
    no data.
    """
    if step.method != "auto" and step.method not in OBSERVERS:
        raise RecipeError(f"Quantize: method={step.method!r} is unknown; use 'auto' or one of {', '.join(OBSERVERS)}")
    seen, held_out = _split(_calibration(context.workload))
    captured = capture(
        state.model, state.example, None if context.workload is None else context.workload.dynamic_shapes
    )
    plan, folds = prepare(captured.module, step.overrides)
    seen_inputs, held_out_inputs = (_flat(captured, batches, context.device) for batches in (seen, held_out))

    histograms = observe(captured.module, set(plan.stored.values()), seen_inputs)
    tried: dict[str, tuple[float, fx.GraphModule]] = {}
    for method in AUTO if step.method == "auto" else (step.method,):
        ranges = {name: OBSERVERS[method](histogram) for name, histogram in histograms.items()}
        candidate = insert(captured.module, plan, ranges)
        tried[method] = signal_to_noise_db(captured.module, candidate, held_out_inputs), candidate
    best = max(tried, key=lambda method: tried[method][0])
    decibel, chosen = tried[best]
    correction = None
    if step.method == "auto":
        corrected = correct_biases(captured.module, chosen, plan.layers, seen_inputs)
        correction = signal_to_noise_db(captured.module, corrected, held_out_inputs)
        chosen = corrected if correction > decibel else chosen

    state = replace(state, model=GraphModel.of(replace(captured, module=chosen)), graph=True)
    state = state.log(
        step.key,
        f"{len(plan.layers)} layers run in int8, with {folds} batch norms folded and "
        f"{len(plan.operators)} operators between them; ranges from {sum(b.size for b in seen)} samples",
    )
    for method, (decibel, _) in tried.items():
        state = state.log(
            step.key,
            f"ranges by {method}{' (kept)' if method == best else ''}: outputs {decibel:.1f} dB above their error "
            f"on {sum(b.size for b in held_out)} held-out samples",
        )
    if correction is not None:
        kept = "kept" if correction > tried[best][0] else "left out"
        state = state.log(step.key, f"bias correction ({kept}): outputs {correction:.1f} dB above their error there")
    names = (name or "the model" for name in int8_layers(state.model))
    state = state.log(step.key, f"what runs in int8: {', '.join(names)}")
    for sentence, fell_back in float_account(captured.module, plan):
        state = state.log(step.key, sentence, fell_back=fell_back)
    return state


def prepare(module: fx.GraphModule, overrides: Mapping[str, str]) -> tuple[Plan, int]:
    """Bring a captured graph, in place, into the form that int8 kernels want; give the plan and the number of folds.

    What the graph computes stays the same, up to rounding in float.
    """
    functionalize(module)
    merge_pads(module)
    folds = fold_batch_norms(module)
    pool_globally(module)
    layers, kept = choose_layers(module, overrides)
    if not layers:
        why = (
            "; ".join(f"{row.module} stays in float: {row.reason}" for row in kept.values())
            or "it has no convolution and no linear"
        )
        raise RecipeError(f"Quantize: nothing of the model can run in int8: {why}")
    flatten_linears(module, layers)
    return make_plan(module.graph, layers, kept), folds


def _calibration(workload: Workload | None) -> list[Batch]:
    if workload is None:
        raise RecipeError(
            "Quantize needs calibration data; pass a Workload with calibration= (no labels needed) or train="
        )
    batches: list[Batch] = []
    for batch in workload.calibration_batches():
        room = CALIBRATION_SAMPLES - sum(b.size for b in batches)
        if room <= 0:
            break
        batches.append(batch.take(range(room)) if batch.size > room else batch)
    if not batches:
        raise WorkloadError("Quantize: the calibration data are empty; give at least one batch")
    return batches


def _split(batches: Sequence[Batch]) -> tuple[list[Batch], list[Batch]]:
    """Set the last quarter aside: of the batches, or of the samples of a single batch."""
    if len(batches) == 1 and batches[0].size > 1:
        size = batches[0].size
        first = max(1, round(size * (1 - HELD_OUT)))
        first = min(first, size - 1)
        return [batches[0].take(range(first))], [batches[0].take(range(first, size))]
    first = max(1, min(len(batches) - 1, round(len(batches) * (1 - HELD_OUT))))
    return list(batches[:first]), list(batches[first:] or batches)


def _flat(captured: Captured, batches: Sequence[Batch], device: torch.device | None) -> list[Inputs]:
    moved = [batch.to(device) if device is not None else batch for batch in batches]
    return [captured.flatten(batch.args, batch.kwargs) for batch in moved]
