"""Where in the model an operator of its captured program stands."""

import re

import torch
from torch import fx


def layer(node: fx.Node) -> str:
    """Name the module whose forward called the operator: "encoder.0.attention (Attention)"; "" where it is unknown."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    if not stack:
        return ""
    path, kind = stack[-1]
    # The program is captured behind a wrapper that holds the model as `model`.
    name = re.sub(r"^(L\['self'\]\.)?model\.?", "", str(path))
    return f"{name or 'the model itself'} ({str(getattr(kind, '__name__', kind)).rsplit('.', 1)[-1]})"


def layer_of(exported: torch.export.ExportedProgram, message: str) -> str:
    """Find the first operator that a message names and say in which layer it stands; "" if there is none.

    >>> class Root(torch.nn.Module):
    ...     def forward(self, x):
    ...         return x.erfinv()
    >>> exported = torch.export.export(torch.nn.Sequential(Root()), (torch.zeros(2),))
    >>> layer_of(exported, "no kernel for aten.erfinv.default")
    ", called in layer '0 (Root)'"
    """
    return _layer_in(exported.graph, message) or _layer_in(exported.run_decompositions().graph, message)


def _layer_in(graph: fx.Graph, message: str) -> str:
    for node in graph.nodes:
        if not isinstance(node.target, torch._ops.OpOverload):
            continue
        name = node.target._schema.name.replace("::", ".")
        if re.search(rf"\b{re.escape(name)}\b", message.replace("::", ".")) and layer(node):
            return f", called in layer {layer(node)!r}"
    return ""
