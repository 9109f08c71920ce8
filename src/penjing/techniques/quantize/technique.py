"""The Quantize step: capture, fold, plan, calibrate, fit; the simulation in torch is the graph that is exported."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from types import MappingProxyType

from torch import fx

from penjing.errors import RecipeError
from penjing.recipe import Quantize, Scheme
from penjing.recipe.schemes import FLOAT, scheme_of
from penjing.structure import GraphModel, capture
from penjing.techniques.quantize.account import float_account, packed_account
from penjing.techniques.quantize.balance import equalize
from penjing.techniques.quantize.data import Calibration, calibration
from penjing.techniques.quantize.fitting import Fitting
from penjing.techniques.quantize.fold import fold_batch_norms
from penjing.techniques.quantize.graph import as_linears, flatten_linears, functionalize, pool_globally
from penjing.techniques.quantize.insert import insert
from penjing.techniques.quantize.layers import int8_layers
from penjing.techniques.quantize.pads import merge_pads
from penjing.techniques.quantize.plan import OPEN_SUMS, Plan, choose_formats, make_plan
from penjing.techniques.quantize.products import open_attention
from penjing.techniques.quantize.stages import stages_of
from penjing.techniques.sparsify.torch_masks import take_torch_masks
from penjing.techniques.state import Context, State


def run(state: State, step: Quantize, context: Context) -> State:
    """Quantise the model to the formats of the step; no label is looked at, and weights that are zero stay zero.

    Ranges and roundings come from calibration data. What a stage is worth is seen on inputs that nothing is fitted to:
    those of the search split, or a quarter of the calibration data. Raises RecipeError for an unknown method or
    override, for a model of which nothing can be quantised, and where data are needed and there are none.
    """
    stages = stages_of(step.method)
    state = replace(state, masks={**state.masks, **take_torch_masks(state.model)})
    captured = capture(
        state.model, state.example, None if context.workload is None else context.workload.dynamic_shapes
    )
    plan, folds = prepare(captured.module, step.scheme, step.overrides, products=step.products, runtime=context.runtime)
    data = calibration(context, captured, needed=bool(needs(step)))
    if data is None:
        module, pairs = captured.module, 0
        if stages is not None and "equalize" in stages.balances:
            module, pairs = equalize(module, plan, ())
        chosen = insert(module, make_plan(module.graph, plan.formats), {})
        tried = [f"there are no data to look at: weights to the nearest, {pairs} pairs of layers equalised"]
    else:
        fitting = Fitting(captured.module, plan, data)
        chosen, tried = fitting.choose(stages), fitting.rows

    state = replace(state, model=GraphModel.of(replace(captured, module=chosen)), graph=True)
    for sentence, fell_back in _what_runs(captured.module, plan, folds, data):
        state = state.log(step.key, sentence, fell_back=fell_back)
    if step.products and not plan.formats.products:
        state = state.log(step.key, "products=True: the model has no product of two activations", fell_back=True)
    for sentence in tried:
        state = state.log(step.key, sentence)
    if plan.layers:
        names = (name or "the model" for name in int8_layers(state.model))
        state = state.log(step.key, f"what runs in int8: {', '.join(names)}")
    for sentence, fell_back in float_account(captured.module, plan):
        state = state.log(step.key, sentence, fell_back=fell_back)
    return state


def needs(step: Quantize) -> frozenset[str]:
    """What a workload must bring: data to calibrate on, where ranges or weights depend on them.

    >>> needs(Quantize("w8")), needs(Quantize("w8", method="gptq"))
    (frozenset(), frozenset({'calibration'}))
    """
    stages = stages_of(step.method)
    schemes = [value for value in (step.scheme, *step.overrides.values()) if value != FLOAT]
    static = any(scheme_of(value, "Quantize: scheme").is_static for value in schemes)
    return frozenset({"calibration"} if static or (stages is not None and stages.look_at_data) else ())


def _what_runs(module: fx.GraphModule, plan: Plan, folds: int, data: Calibration | None) -> Iterator[tuple[str, bool]]:
    if plan.layers:
        assert data is not None
        between = len(plan.operators - plan.formats.products)
        yield (
            f"{len(plan.layers)} layers run in int8, with {folds} batch norms folded and {between} "
            f"operators between them; ranges from {data.seen.samples} samples",
            False,
        )
    if plan.formats.products:
        yield f"{len(plan.formats.products)} products of two activations run in int8", False
    for sentence in packed_account(module, plan):
        yield sentence, False
    for warning in () if data is None else data.warnings:
        yield warning, True


def prepare(
    module: fx.GraphModule,
    scheme: Scheme | str = "int8",
    overrides: Mapping[str, Scheme | str] = MappingProxyType({}),
    *,
    products: bool = False,
    runtime: str | None = None,
) -> tuple[Plan, int]:
    """Bring a captured graph, in place, into the form that integer kernels want; give the plan and the number of folds.

    runtime: the one that it is for.

    What the graph computes stays the same, up to rounding in float.
    """
    functionalize(module)
    merge_pads(module)
    as_linears(module)
    folds = fold_batch_norms(module)
    pool_globally(module)
    if products:
        open_attention(module)
    formats = choose_formats(module, scheme, overrides, products=products, open_sums=runtime in OPEN_SUMS)
    if not (formats.static or formats.packed):
        why = (
            "; ".join(f"{row.module} stays in float: {row.reason}" for row in formats.kept.values())
            or "no operator of it has weights of two or more dimensions"
        )
        raise RecipeError(f"Quantize: nothing of the model can be quantised: {why}")
    flatten_linears(module, frozenset(formats.static))
    return make_plan(module.graph, formats), folds
