"""Put chains of layers into a captured graph in place of single ones."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from penjing.structure import Captured, GraphModel
from penjing.structure.layers import Layer
from penjing.structure.surgery import copy_graph
from penjing.techniques.factorize.chain import Chain
from penjing.techniques.factorize.sites import Site

STAGES = {2: ("down", "up"), 3: ("down", "core", "up")}
"""The names of the layers of a chain."""


def rewrite(captured: Captured, chains: Sequence[Chain], shifts: Mapping[str, Tensor]) -> GraphModel:
    """Give the model in which each layer is a chain; its weights are "<layer>.down.weight" and so on.

    The last of a chain has the bias of the layer, under its old name. shifts: what is added to other tensors, by name.
    """
    graph = copy_graph(captured.module.graph)
    nodes = {node.name: node for node in graph.nodes}
    tensors: dict[str, Any] = {**captured.subgraphs, **captured.tensors}
    for name, shift in shifts.items():
        moved = tensors[name].detach() + shift.to(tensors[name])
        tensors[name] = nn.Parameter(moved) if isinstance(tensors[name], nn.Parameter) else moved
    for chain in chains:
        site, stages = chain.site, chain.stages
        old = nodes[site.node.name]
        source = nodes[site.source.name]
        like = tensors[str(source.target)]
        if site.layer is None:  # the table has the words, and comes first
            stages = stages[1], stages[0].T
        with graph.inserting_before(old):
            weights = []
            for stage, name in zip(stages, STAGES[len(stages)], strict=True):
                path = f"{_free(f'{site.name}.{name}', tensors)}.weight"
                tensors[path] = nn.Parameter(stage.to(like).contiguous(), requires_grad=like.requires_grad)
                weights.append(graph.get_attr(path))
            last = (
                _looked_up(old, weights) if site.layer is None else _run(Layer.of(old, captured.tensors), site, weights)
            )
        old.replace_all_uses_with(last)
        graph.erase_node(old)
        graph.erase_node(source)
        del tensors[str(source.target)]
    return GraphModel.of(replace(captured, module=fx.GraphModule(tensors, graph, class_name=captured.name)))


def _free(path: str, taken: Mapping[str, Any]) -> str:
    """A path under which a model has nothing yet."""
    while any(name == path or name.startswith(f"{path}.") for name in taken):
        path += "_"
    return path


def _looked_up(old: fx.Node, weights: Sequence[fx.Node]) -> fx.Node:
    """An embedding of few dimensions, and the linear layer that widens it."""
    graph, (table, wide) = old.graph, weights
    rows = graph.call_function(old.target, (table, *old.args[1:]), old.kwargs)  # type: ignore[arg-type]
    return graph.call_function(torch.ops.aten.linear.default, (rows, wide))


def _run(layer: Layer | None, site: Site, weights: Sequence[fx.Node]) -> fx.Node:
    """The calls of a chain. Each stage has the stride, padding and dilation of the sizes of the kernel that it has."""
    assert layer is not None  # as it was when it was found
    value, owners = layer.x, site.form.owners(site.weight.ndim - 2)
    for i, weight in enumerate(weights):
        bias = layer.bias if i == len(weights) - 1 else None
        if owners:
            target: Any = layer.node.target
            given = {"input": value, "weight": weight, "bias": bias, **_settings(layer.settings, owners, i)}
            args = tuple(given[argument.name] for argument in target._schema.arguments)
        else:
            target, args = torch.ops.aten.linear.default, (value, weight, bias)
        value = layer.node.graph.call_function(target, args)
    return value


def _settings(whole: Mapping[str, Any], owners: Sequence[int], stage: int) -> dict[str, Any]:
    def own(name: str, neutral: int) -> list[int]:
        values = list(whole[name]) * (len(owners) // len(whole[name]))
        return [value if owner == stage else neutral for value, owner in zip(values, owners, strict=True)]

    padding = whole["padding"]
    return {
        "stride": own("stride", 1),
        "padding": padding if isinstance(padding, str) else own("padding", 0),
        "dilation": own("dilation", 1),
        "groups": 1,
    }
