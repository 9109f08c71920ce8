"""The account of a quantisation: what stays in float, and why."""

from collections import Counter
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, fx

from penjing.techniques.quantize.fold import BATCH_NORM
from penjing.techniques.quantize.graph import LAYERS, layer_name, varying, weight_readers
from penjing.techniques.quantize.pack import runs_dynamic
from penjing.techniques.quantize.plan import LIGHT, Plan, moves
from penjing.techniques.quantize.slots import weight_slots


def packed_account(module: fx.GraphModule, plan: Plan) -> Iterator[str]:
    """Say which modules store their weights in fewer bits than they compute in, or quantise inputs as they come."""
    names: dict[str, dict[str, None]] = {}
    for slot in weight_slots(module):
        if slot.weight.name not in plan.formats.packed or slot.reader.name in plan.layers:
            continue
        scheme = plan.formats.packed[slot.weight.name]
        how = "with inputs quantised at each call" if runs_dynamic(slot, scheme) else "that are computed with in float"
        names.setdefault(f"weights in {scheme.weight.type} {how}", {})[slot.module or "the model"] = None
    for what, modules in names.items():
        yield f"{what}: {', '.join(modules)}"


def float_account(module: fx.GraphModule, plan: Plan) -> Iterator[tuple[str, bool]]:
    """Say what of a planned graph stays in float, and whether that was not asked for.

    One sentence for each module with weights, then one for all operators without any. A module that runs in int8 at one
    of its calls and in float at another is told too.
    """
    layers = {node.name: layer_name(module, node) for node in module.graph.nodes if node.target in LAYERS}
    in_int8 = {name for node, name in layers.items() if node in plan.layers}
    for kept in dict.fromkeys(plan.formats.kept.values()):
        what = f"one call of {kept.module}" if kept.module in in_int8 else kept.module
        yield f"{what} stays in float: {kept.reason}", not kept.asked

    readers = weight_readers(module)
    packed = {slot.module for slot in weight_slots(module) if slot.weight.name in plan.formats.packed}
    for name, nodes in readers.items():
        if name in packed:
            continue
        others = [node for node in nodes if node.name not in layers]
        if not others or name in layers.values():
            continue
        if all(node.target is BATCH_NORM for node in others):
            reason = "it is a batch norm that no convolution or linear right before it takes in"
        elif all(node.target in LIGHT for node in others):
            reason = f"{_names(others)} joins in only between int8 operators"
        else:
            reason = f"there is no int8 form of {_names(node for node in others if node.target not in LIGHT)}"
        yield f"{name} stays in float: {reason}", True

    told = {node.name for nodes in readers.values() for node in nodes} | layers.keys() | plan.operators
    rest = (node for node in varying(module.graph) if node.name not in told and _computes(node))
    counts = Counter(map(_operator, rest))
    if counts and plan.layers:
        shown = ", ".join(name if n == 1 else f"{name} ({n} times)" for name, n in sorted(counts.items()))
        yield f"operators without weights that stay in float: {shown}", True


def _computes(node: fx.Node) -> bool:
    """Whether a node computes floats from floats, rather than to move or make them."""
    is_operator = isinstance(node.target, torch._ops.OpOverload) and not moves(node)
    return is_operator and _holds_floats(node) and any(map(_holds_floats, node.all_input_nodes))


def _holds_floats(node: fx.Node) -> bool:
    value = node.meta.get("val")
    values = value if isinstance(value, tuple | list) else (value,)
    return any(isinstance(item, Tensor) and item.is_floating_point() for item in values)


def _names(nodes: Iterable[fx.Node]) -> str:
    return ", ".join(dict.fromkeys(map(_operator, nodes)))


def _operator(node: fx.Node) -> str:
    """Name an operator as torch does, without its overload: "layer_norm"."""
    if isinstance(node.target, torch._ops.OpOverload):
        return str(node.target._schema.name.partition("::")[2])
    return getattr(node.target, "__name__", str(node.target))
