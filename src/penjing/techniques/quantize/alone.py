"""What each layer loses when it alone is stored in fewer bits, and which layers hand values to each other.

The error of the outputs is measured, not modelled: the graph runs with one layer in the scheme and the rest in float.
Errors of several layers are taken to add up as energies do, which holds as long as they are small and independent.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from torch import Tensor, fx

from penjing.recipe import Scheme
from penjing.recipe.schemes import FLOAT
from penjing.structure import capture
from penjing.techniques.quantize.calibrate import Reference, observe
from penjing.techniques.quantize.data import calibration
from penjing.techniques.quantize.graph import LAYERS, layer_name
from penjing.techniques.quantize.insert import insert
from penjing.techniques.quantize.observers import OBSERVERS
from penjing.techniques.quantize.plan import Plan, choose_formats, make_plan
from penjing.techniques.quantize.technique import prepare
from penjing.techniques.state import Context
from penjing.workload import Workload

_OBSERVER = "mse"


@dataclass(frozen=True)
class Handover:
    """A tensor that goes from one layer to another in int8 where both are, and its number of values in the example."""

    source: str
    reader: str
    values: int


@dataclass(frozen=True)
class Alone:
    """Noise of the outputs over their signal, |y - y'|^2 / |y|^2, with one layer in one scheme.

    noise: name of a layer -> name of a scheme -> ratio. handovers: between the layers named, in the model's order.
    """

    noise: Mapping[str, Mapping[str, float]]
    handovers: tuple[Handover, ...]


def noise_alone(workload: Workload, schemes: Mapping[str, Scheme | str]) -> Alone:
    """Measure the noise that each layer makes by itself in each scheme, on inputs that no range was fitted to.

    schemes: by the names that the result is to have. Raises what a Quantize step of these schemes raises.
    """
    captured = capture(workload.model, workload.example, workload.dynamic_shapes)
    module = captured.module
    plans: dict[tuple[str, str], Plan] = {}
    between: frozenset[str] = frozenset()
    for name, scheme in schemes.items():
        plan, _ = prepare(module, scheme)
        between |= plan.operators
        static = {layer_name(module, node) for node in module.graph.nodes if node.name in plan.layers}
        for layer in sorted(static):
            plans[layer, name] = make_plan(module.graph, choose_formats(module, FLOAT, {layer: scheme}))
    data = calibration(Context(workload, workload.model), captured, needed=True)
    assert data is not None
    reference = Reference(module, data.glanced)
    stored = {owner for plan in plans.values() for owner in plan.stored.values()}
    ranges = {node: OBSERVERS[_OBSERVER](seen) for node, seen in observe(module, stored, data.seen).items()}
    noise: dict[str, dict[str, float]] = {}
    for (layer, name), plan in plans.items():
        decibel = reference.decibel(insert(module, plan, ranges))
        noise.setdefault(layer, {})[name] = 10 ** (-decibel / 10)
    order = [layer_name(module, node) for node in module.graph.nodes if node.target in LAYERS]
    return Alone({layer: noise[layer] for layer in dict.fromkeys(order) if layer in noise}, _handovers(module, between))


def _handovers(module: fx.GraphModule, between: Collection[str]) -> tuple[Handover, ...]:
    """Where a layer reads what another one made, through operators that can run in int8."""
    makers: dict[fx.Node, frozenset[str]] = {}
    found = []
    for node in module.graph.nodes:
        before = frozenset().union(*(makers.get(source, frozenset()) for source in node.all_input_nodes))
        if node.target not in LAYERS:
            makers[node] = before if node.name in between else frozenset()
            continue
        makers[node] = frozenset({layer_name(module, node)})
        value = node.args[0].meta.get("val")
        if isinstance(value, Tensor):
            reader = layer_name(module, node)
            found += [Handover(source, reader, int(value.numel())) for source in sorted(before)]
    return tuple(found)
