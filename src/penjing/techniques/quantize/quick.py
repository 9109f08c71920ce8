"""The simulation for looking at rather than for export: the same numbers, with fewer passes over memory."""

from typing import Any

import torch
from torch import Tensor, fx

from penjing.techniques.quantize.graph import copied, put
from penjing.techniques.quantize.insert import DEQUANTIZE, QUANTIZE


def quick(module: fx.GraphModule) -> fx.GraphModule:
    """Give the graph with each pair of QuantizeLinear and DequantizeLinear as one operator; tensors are shared."""
    fast = copied(module)
    for node in list(fast.graph.nodes):
        stored = node.args[0] if node.target is DEQUANTIZE else None
        if isinstance(stored, fx.Node) and stored.target is QUANTIZE and stored.args[1:3] == node.args[1:3]:
            with fast.graph.inserting_before(node):
                both = fast.graph.call_function(there_and_back, (stored.args[0], *node.args[1:3]))
            node.replace_all_uses_with(both)
            fast.graph.erase_node(node)
    fast.graph.eliminate_dead_code()
    fast.recompile()
    return fast


@torch.no_grad()
def folded(module: fx.GraphModule) -> fx.GraphModule:
    """Give the graph with what depends on no input computed once, so that it is not computed for each piece of data."""
    fast = copied(module)
    machine = fx.Interpreter(fast)
    known: dict[fx.Node, Any] = {}
    for node in list(fast.graph.nodes):
        if node.op in ("get_attr", "call_function") and all(x in known for x in node.all_input_nodes):
            args, kwargs = fx.node.map_arg((node.args, node.kwargs), known.__getitem__)
            known[node] = getattr(machine, node.op)(node.target, args, kwargs)
    for node, value in known.items():
        if node.op == "call_function" and isinstance(value, Tensor) and not known.keys() >= node.users.keys():
            with fast.graph.inserting_before(node):
                node.replace_all_uses_with(put(fast, f"constants.{node.name}", value))
    fast.graph.eliminate_dead_code()
    fast.recompile()
    return fast


def there_and_back(x: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    """Round a tensor to the steps of one scale.

    >>> there_and_back(torch.tensor([0.6, 9.0]), torch.tensor(0.5), torch.tensor(253, dtype=torch.uint8))
    tensor([0.5000, 1.0000])
    """
    limits, zero = torch.iinfo(zero_point.dtype), int(zero_point)
    return torch.div(x, scale).round_().clamp_(limits.min - zero, limits.max - zero).mul_(scale)
